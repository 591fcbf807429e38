"""The page where the event store is asked: the forensic questions in plain words, any events, and evidence to keep."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator, Field, model_validator

from data.errors import KubehabitError
from serving.api.forensics import as_file, caller_of
from serving.api.parameters import EventQuery, span_of
from serving.console.forms import evidence_form, read_form
from serving.console.render import count, page, page_links
from serving.console.when import in_words, zone_of
from serving.forensics import clock
from serving.forensics.evidence.export import Subject
from serving.forensics.queries import EventQueries, QueryError, moment_of
from serving.forensics.records import EventRecord, what_of
from serving.forensics.service import ForensicsService
from serving.http.problems import ProblemError
from serving.runtime import Service
from serving.schemas import clean
from serving.storage.views import saved_views

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 50
_SINCE = "7d"
_MAX_NOTE = 2000
_REFUSED = (401, 403)
_GIVEN = (
    *("resource", "namespace", "name", "principal", "credential", "verb", "address", "user_agent"),
    *("code", "alert", "since", "until", "exact", "newest"),
)

#: Each question by its short name: in plain words, and what it answers.
QUESTIONS = {
    "touched": (
        "Who touched something?",
        "Every principal that read or wrote it, or tried to. A principal that listed all Secrets has seen each of them.",
    ),
    "credential": (
        "What did a token do?",
        "Everything that was done with one credential, or by one principal, after a given time.",
    ),
    "newcomers": (
        "Who is new here?",
        "Principals that came to a namespace and were never seen in it before, as far back as the store goes.",
    ),
    "events": ("Find events", "Any events that were received. All filters must match."),
}


def _words(given: Any) -> Any:
    """Verbs between commas or spaces."""
    return [word for text in given for word in text.replace(",", " ").split()]


class SearchQuery(EventQuery):
    """What the page asks: the filters of events as its forms send them, empty where they are not filled in."""

    ask: Literal["", "touched", "newcomers", "credential", "events"] = ""
    verb: Annotated[list[str], BeforeValidator(_words), Field(default_factory=list)]
    user_agent: Annotated[str | None, Field(alias="agent", max_length=512)] = None
    exact: Literal["", "1"] = ""
    newest: Literal["", "1"] = ""

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, given: dict[str, Any]) -> dict[str, Any]:
        stripped = {name: text.strip() if isinstance(text, str) else text for name, text in given.items()}
        return {name: value for name, value in stripped.items() if value}

    def given(self) -> dict[str, str]:
        """What is filled in, as the forms send it."""
        return {
            ("agent" if name == "user_agent" else name): " ".join(value) if name == "verb" else value or ""
            for name in _GIVEN
            for value in (getattr(self, name),)
        }

    def shown(self, zone: tzinfo) -> SearchQuery:
        """This query over the last days unless it says since when, its times so written that they mean the same in UTC."""
        times = {
            "since": in_words(self.since or _SINCE, zone),
            "until": in_words(self.until or "", zone) or None,
        }
        return self.model_copy(update=times)

    @property
    def times(self) -> list[str]:
        """The options of a command that say from when to when."""
        return ["--since", self.since or _SINCE, *(["--until", self.until] if self.until else [])]


@dataclass(slots=True)
class Asked:
    """A question and its answer.

    Attributes:
        ask: which question.
        rows: what is shown, in the form that the template has for it.
        sentence: the answer in a sentence.
        same: the command that asks the same.
        cursor: where the next page begins.
        wrong: why there is no answer.
        begins: how far back the store goes.
        young: that the store is too young for the answer to mean much, if it is.
        subject: what evidence of the answer would be about.
    """

    ask: str
    rows: list[Any] = field(default_factory=list)
    sentence: str = ""
    same: str = ""
    cursor: str | None = None
    wrong: str = ""
    begins: str = ""
    young: str = ""
    subject: dict[str, str] = field(default_factory=dict)


@router.get("/console/search")
def search(request: Request, query: Annotated[SearchQuery, Query()]) -> Response:
    """The questions, and the answer to one."""
    given = query.given()
    asked = Asked(query.ask)
    status = 200
    zone = zone_of(request.scope)
    if query.ask:
        try:
            _ANSWERS[query.ask](request, asked, query.shown(zone))
        except (KubehabitError, ProblemError) as error:
            asked.wrong = str(error)
            status = error.status if isinstance(error, ProblemError) else 400
    service: Service = request.app.state.service
    with service.ready().store.reading() as connection:
        views = saved_views(connection, "search")
    here = {"ask": query.ask} | {key: value for key, value in given.items() if value}
    return page(
        request,
        "search.html",
        status=status,
        asked=asked,
        questions=QUESTIONS,
        given=given,
        since=query.since or _SINCE,
        views=views,
        view_query=urlencode(here) if query.ask else "",
        **page_links("/console/search", here, query.cursor, asked.cursor),
    )


def _answer(request: Request, asked: Asked, question: Callable[[EventQueries], Any]) -> Any:
    desk: ForensicsService = request.app.state.desk

    def ask(questions: EventQueries) -> Any:
        earliest = questions.extent().earliest
        asked.begins = "" if earliest is None else clock.written(earliest)
        return question(questions)

    return desk.ask(ask)


def _touched(request: Request, asked: Asked, query: SearchQuery) -> None:
    """Who touched an object."""
    if not query.resource:
        raise QueryError("Say which kind of object: secret, pod, deployment or whatever kubectl takes.")
    names = ("resource", "namespace", "name", "since", "until")
    wanted = EventQuery.model_validate({name: getattr(query, name) for name in names}).filter()
    what = f"{query.namespace}/{query.name or ''}" if query.namespace else query.name
    words = [query.resource, *([what] if what else []), *query.times, *(["--exact"] if query.exact else [])]
    asked.same = shlex.join(["kubehabit", "who", "touched", *words])
    asked.rows = _answer(request, asked, lambda events: events.touched(wanted, listings=not query.exact))
    people = len({one.principal for one in asked.rows})
    kind = f"{wanted.resource} in {query.namespace}" if query.namespace else wanted.resource
    thing = f"{wanted.resource} {what}" if query.name else kind
    asked.sentence = f"{count(people, 'principal') if people else 'Nobody'} touched {thing}."


def _newcomers(request: Request, asked: Asked, query: SearchQuery) -> None:
    """Who is new in a namespace."""
    namespace = query.namespace
    if not namespace:
        raise QueryError("Say in which namespace.")
    since, until = span_of(query.since, query.until)
    assert since is not None
    asked.same = shlex.join(["kubehabit", "who", "is", "new", "in", namespace, *query.times])
    asked.rows = _answer(request, asked, lambda events: events.newcomers(namespace, since, until))
    if asked.begins and moment_of(asked.begins) > since:
        asked.young = (
            "The store is younger than this time: everybody who acts in the namespace is seen in it for the first time. "
            "Ask for a time that begins later than the store."
        )
    who = count(len(asked.rows), "principal")
    were = "was" if len(asked.rows) == 1 else "were"
    asked.sentence = (
        f"{who} came to {namespace} and {were} not seen in it before, since the store began."
        if asked.rows
        else f"Nobody came to {namespace} who had not been there before."
    )


def _credential(request: Request, asked: Asked, query: SearchQuery) -> None:
    """All that a credential, or a principal, did."""
    if not query.credential and not query.principal:
        raise QueryError("Name the credential, or the principal if the API server does not name credentials.")
    _list(request, asked, query)


def _list(request: Request, asked: Asked, query: SearchQuery) -> None:
    """Events that match all filters."""
    newest = bool(query.newest)
    same = query.model_copy(update={"order": "newest" if newest else "oldest"})
    asked.same = shlex.join(["kubehabit", "events", *same.options()])
    wanted = query.filter()
    page_of: dict[str, Any] = {"limit": _ON_A_PAGE, "cursor": query.cursor, "newest": newest, "texts": False}
    found = _answer(request, asked, lambda events: events.events(wanted, **page_of))
    asked.rows = [_row(record) for record in found.records]
    asked.cursor = found.cursor
    asked.sentence = "" if asked.rows else "There is no such event."
    if query.principal and asked.rows:
        asked.subject = {"principal": query.principal}


_ANSWERS = {"touched": _touched, "newcomers": _newcomers, "credential": _credential, "events": _list}


def _row(record: EventRecord) -> dict[str, Any]:
    """An event as the table shows it."""
    return {
        "time": clock.written(record.time),
        "resource": record.resource,
        "namespace": record.namespace,
        "name": record.name,
        "principal": record.principal,
        "impersonated": record.impersonated,
        "verb": record.verb,
        "what": what_of(record._asdict()),
        "code": record.code,
        "stage": record.stage,
        "refused": record.code in _REFUSED or record.decision == "forbid",
        "failed": record.code >= 400,
        "address": record.source_ips.partition(",")[0],
        "agent": record.user_agent.partition(" ")[0],
        "audit_id": record.audit_id,
        "credential": record.credential,
        "alert": record.alert,
    }


@router.post("/console/search/evidence")
async def evidence(request: Request) -> Response:
    """Export what was found as evidence: a file with proof, a page to be read and printed, or a table."""
    form = await read_form(request)
    audit_ids = tuple(dict.fromkeys(clean(one, 128) for one in form.all("audit_id")))
    by_principal = form.get("what") == "all"
    try:
        zone = zone_of(request.scope)
        times = (in_words(form.get(name), zone) or None for name in ("since", "until"))
        since, until = span_of(*times)
    except QueryError as error:
        raise ProblemError(400, str(error)) from error
    if not by_principal and not audit_ids:
        raise ProblemError(422, "Tick the events that are to be kept as evidence, then export again.")
    note = clean(form.get("note"), _MAX_NOTE)
    if by_principal:
        subject = Subject(principal=form.get("principal"), since=since, until=until, note=note)
    else:
        subject = Subject(audit_ids=audit_ids, note=note)
    desk: ForensicsService = request.app.state.desk
    by = caller_of(request, clean(form.get("by"), 256))
    made = await asyncio.to_thread(desk.evidence, subject, by=by)
    return as_file(made, evidence_form(form), "evidence", shown=False)
