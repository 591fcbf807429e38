"""Answers about what happened: from a running service, from its files, or from a log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from data.errors import KubehabitError, UnknownPrincipalError
from kubehabit.client.event_document import EventPageDocument
from kubehabit.client.event_files import FileAnswers, answers_of_files
from kubehabit.client.remote import AnswerError, Remote
from serving.api.parameters import EventQuery
from serving.forensics import clock
from serving.forensics.archive import ArchivedStore
from serving.forensics.queries import EventFilter, EventPage, Life, Newcomer, Touch, resource_of
from serving.settings import load_settings


def answers_of(
    url: str | None,
    local: bool,
    config: Path | None,
    store: Path | None = None,
    history: Path | None = None,
    archive: str | None = None,
) -> EventAnswers:
    """The files on this machine or the archive, if any of the options that name them is given, else a running service."""
    if archive is not None and store is not None:
        raise KubehabitError("Name a folder (--store) or an archive (--archive), not both.")
    if not local and config is None and store is None and history is None and archive is None:
        return ServiceAnswers(Remote.at(url))
    place = store if archive is None else ArchivedStore(archive)
    return answers_of_files(load_settings(config), place, history)


def life_of(
    answers: EventAnswers, name: str, since: int | None, until: int | None
) -> tuple[Life, dict[str, Any]]:
    """What a principal did, and its `past`.

    Raises:
        KubehabitError: nothing in that time; the sentence names principals that are spelled alike.
    """
    found = answers.life(name, since, until)
    past = {} if found is None else answers.past(name, since, until)
    if found is None or past["habits"] is None:
        alike = answers.names_like(name)
        hint = f" Did you mean {', '.join(alike)}?" if alike else " Search names with: kubehabit principals."
        raise KubehabitError(
            f"There is no event of {name!r} in that time. A service account is system:serviceaccount:NAMESPACE:NAME.{hint}"
        )
    return found, past


def object_of(kind: str, what: str | None) -> EventFilter:
    """What is meant by `secret payments/db` (that one), `secret payments/` (all of the namespace), `node n1` or `secret`."""
    namespace, slash, name = (what or "").partition("/")
    if not slash:
        namespace, name = "", namespace
    return EventFilter(resource=resource_of(kind), namespace=namespace or None, name=name or None)


class ServiceAnswers:
    """A running service, asked what `serving.forensics.queries.EventQueries` answers from files."""

    def __init__(self, service: Remote) -> None:
        self._service = service

    def earliest(self) -> int | None:
        """When its store begins, microseconds since 1970 UTC."""
        first = self.events(EventFilter(), limit=1, texts=False).records
        return first[0].time if first else None

    def events(
        self,
        wanted: EventFilter,
        *,
        limit: int = 100,
        cursor: str | None = None,
        newest: bool = False,
        texts: bool = True,
    ) -> EventPage:
        """`GET /v1/events`."""
        order = "newest" if newest else "oldest"
        query = EventQuery.from_filter(wanted, order=order, original=texts, limit=limit, cursor=cursor)
        answer = self._service.get_bytes("events", **query.parameters())
        try:
            page = msgspec.json.decode(answer, type=EventPageDocument)
        except msgspec.MsgspecError as error:
            raise KubehabitError(
                f"The service's answer cannot be understood: {error}. Is it another version?"
            ) from error
        return EventPage([event.record() for event in page.events], page.cursor)

    def touched(self, wanted: EventFilter, *, listings: bool = True) -> list[Touch]:
        """`GET /v1/events/touched`."""
        query = EventQuery.from_filter(wanted).parameters()
        answer = self._service.get("events", "touched", **query, listings=None if listings else "false")
        return msgspec.convert(answer["touched"], list[Touch])

    def newcomers(self, namespace: str, since: int, until: int | None = None) -> list[Newcomer]:
        """`GET /v1/events/newcomers`."""
        answer = self._service.get("events", "newcomers", namespace=namespace, **span(since, until))
        return msgspec.convert(answer["newcomers"], list[Newcomer])

    def life(self, principal: str, since: int | None = None, until: int | None = None) -> Life | None:
        """`GET /v1/events/principals/{principal}`."""
        answer = self._known("events", "principals", principal, **span(since, until))
        return None if answer is None else msgspec.convert(answer, Life)

    def past(self, principal: str, since: int | None, until: int | None) -> dict[str, Any]:
        """`GET /v1/habits`, `/v1/surprise` and `/v1/peers` of a principal; None for what is not known."""
        given = span(since, until)
        return {
            "habits": self._known("habits", principal, **given),
            "surprise": self._known("surprise", principal),
            "peers": self._known("peers", principal, **given),
        }

    def names_like(self, _principal: str) -> list[str]:
        """None: `kubehabit principals` searches by name."""
        return []

    def _known(self, *path: str, **query: str | None) -> Any:
        """An answer, or None where the service has nothing of this principal."""
        try:
            return self._service.get(*path, **query)
        except AnswerError as error:
            if error.kind == UnknownPrincipalError.problem_type:
                return None
            raise


def span(since: int | None, until: int | None) -> dict[str, str]:
    """A span of time as parameters of the API."""
    given = {"since": since, "until": until}
    return {name: clock.written(moment) for name, moment in given.items() if moment is not None}


#: Both answer alike.
EventAnswers = ServiceAnswers | FileAnswers
