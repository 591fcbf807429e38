"""Whom the commands ask what happened: the files on this machine, or a running service; both answer alike."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from data.errors import KubehabitError, UnknownPrincipalError
from serving.forensics import clock
from serving.forensics.queries import EventFilter, EventPage, Life, Newcomer, Touch, moment_of
from serving.forensics.records import EventRecord
from serving.parameters import EventQuery
from serving.remote import Remote


class Answers(Protocol):
    """The questions that both can be asked; see `serving.forensics.queries.EventQueries`."""

    def earliest(self) -> int | None:
        """When the store begins, microseconds since 1970 UTC."""

    def events(
        self,
        wanted: EventFilter,
        *,
        limit: int = ...,
        cursor: str | None = ...,
        newest: bool = ...,
        texts: bool = ...,
    ) -> EventPage:
        """Events that fit."""

    def touched(self, wanted: EventFilter, *, listings: bool = ...) -> list[Touch]:
        """Who touched what is meant."""

    def newcomers(self, namespace: str, since: int, until: int | None = ...) -> list[Newcomer]:
        """Who is new in a namespace."""

    def life(self, principal: str, since: int | None = ..., until: int | None = ...) -> Life | None:
        """What a principal did."""


class _Object(msgspec.Struct, rename={"api_group": "apiGroup"}):
    resource: str
    subresource: str
    namespace: str
    name: str
    api_group: str


class _Event(
    msgspec.Struct,
    rename={
        "audit_id": "auditID",
        "impersonated_user": "impersonatedUser",
        "object_ref": "objectRef",
        "request_uri": "requestURI",
        "source_ips": "sourceIPs",
        "user_agent": "userAgent",
        "credential_id": "credentialID",
        "issued_credential_id": "issuedCredentialID",
        "alert_id": "alertID",
    },
):
    """An event as `GET /v1/events` gives it."""

    number: int
    audit_id: str
    time: str
    received: str
    principal: str
    username: str
    verb: str
    request_uri: str
    code: int
    decision: str
    source_ips: list[str]
    user_agent: str
    stage: str
    redactions: int
    impersonated_user: str | None = None
    object_ref: _Object | None = None
    credential_id: str | None = None
    issued_credential_id: str | None = None
    alert_id: str | None = None
    cluster: str | None = None
    original: msgspec.Raw = msgspec.Raw(b"")

    def record(self) -> EventRecord:
        """The record that it is of, as far as the API tells it: no UID, and nothing to verify it by."""
        about = self.object_ref or _Object("", "", "", "", "")
        return EventRecord(
            number=self.number,
            time=moment_of(self.time),
            received=moment_of(self.received),
            cluster=self.cluster or "",
            principal=self.principal,
            username=self.username,
            uid="",
            impersonated=self.impersonated_user or "",
            verb=self.verb,
            api_group=about.api_group,
            resource=about.resource,
            subresource=about.subresource,
            namespace=about.namespace,
            name=about.name,
            path=self.request_uri,
            code=self.code,
            decision=self.decision,
            source_ips=",".join(self.source_ips),
            user_agent=self.user_agent,
            audit_id=self.audit_id,
            stage=self.stage,
            credential=self.credential_id or "",
            issued=self.issued_credential_id or "",
            alert=self.alert_id or "",
            redactions=self.redactions,
            original="",
            event=bytes(self.original).decode(),
        )


class _Events(msgspec.Struct):
    events: list[_Event]
    cursor: str | None = None


class RemoteAnswers:
    """A running service.

    Args:
        service: where it is.
    """

    def __init__(self, service: Remote) -> None:
        self._service = service

    def earliest(self) -> int | None:
        """When its store begins."""
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
        query = EventQuery.from_filter(
            wanted, order="newest" if newest else "oldest", original=texts, limit=limit, cursor=cursor
        )
        answer = self._service.get_bytes("events", **query.parameters())
        try:
            page = msgspec.json.decode(answer, type=_Events)
        except msgspec.MsgspecError as error:
            raise KubehabitError(
                f"The service's answer cannot be understood: {error}. Is it another version?"
            ) from error
        return EventPage([event.record() for event in page.events], page.cursor)

    def touched(self, wanted: EventFilter, *, listings: bool = True) -> list[Touch]:
        """`GET /v1/events/touched`."""
        answer = self._service.get(
            "events",
            "touched",
            resource=wanted.resource,
            namespace=wanted.namespace,
            name=wanted.name,
            since=_written(wanted.since),
            until=_written(wanted.until),
            listings=None if listings else "false",
        )
        return msgspec.convert(answer["touched"], list[Touch])

    def newcomers(self, namespace: str, since: int, until: int | None = None) -> list[Newcomer]:
        """`GET /v1/events/newcomers`."""
        answer = self._service.get(
            "events", "newcomers", namespace=namespace, since=_written(since), until=_written(until)
        )
        return msgspec.convert(answer["newcomers"], list[Newcomer])

    def life(self, principal: str, since: int | None = None, until: int | None = None) -> Life | None:
        """`GET /v1/events/principals/{principal}`."""
        answer = self._known("events", "principals", principal, since=_written(since), until=_written(until))
        return None if answer is None else msgspec.convert(answer, Life)

    def past(self, principal: str, since: int | None, until: int | None) -> dict[str, Any]:
        """`habits`, `surprise` over time and `peers` of a principal, as the API gives them; None for what is not known."""
        span = {"since": _written(since), "until": _written(until)}
        return {
            "habits": self._known("habits", principal, **span),
            "surprise": self._known("surprise", principal),
            "peers": self._known("peers", principal, **span),
        }

    def _known(self, *path: str, **query: str | None) -> Any:
        """An answer, or None where there is nothing of this principal."""
        try:
            return self._service.get(*path, **query)
        except UnknownPrincipalError:
            return None


def _written(moment: int | None) -> str | None:
    return None if moment is None else clock.written(moment)
