"""The page where the event store is asked: the forensic questions in plain words, any events, and evidence to keep."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from data.errors import KubehabitError
from serving.alerts import clean
from serving.console.forms import read_form
from serving.console.render import page
from serving.forensics import clock
from serving.forensics.evidence.export import Subject
from serving.forensics.evidence.page import render
from serving.forensics.queries import EventFilter, EventQueries, QueryError, moment_of, resource_of
from serving.forensics.records import EventRecord, what_of
from serving.forensics.routes import caller_of, codes_of
from serving.forensics.service import ForensicsService
from serving.problems import ProblemError

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 50
_SINCE = "7d"
_MAX_NOTE = 2000
_REFUSED = (401, 403)
QUESTIONS = {
    "touched": (
        "Who touched something?",
        "Everybody who read, wrote or tried to, refused attempts too. Who listed all Secrets has seen each of them.",
    ),
    "credential": (
        "What did a token do?",
        "Everything that was done with one credential, or by one principal, after a moment.",
    ),
    "newcomers": (
        "Who is new here?",
        "Principals that came to a namespace and were never seen in it before, as far back as the store goes.",
    ),
    "events": ("Find events", "Any events that were received. All that is filled in must hold."),
}
"""Each question by its short name: in plain words, and what it answers."""

Ask = Annotated[Literal["", "touched", "newcomers", "credential", "events"], Query()]
Text = Annotated[str, Query(max_length=512)]


@dataclass(slots=True)
class Asked:
    """A question and its answer.

    Attributes:
        ask: which question.
        rows: what is shown, in the form that the template has for it.
        sentence: the answer in a sentence.
        same: the command that asks the same.
        cursor: where the next page goes on.
        wrong: why there is no answer.
        begins: how far back the store goes.
        subject: what evidence of the answer would be of.
    """

    ask: str
    rows: list[Any] = field(default_factory=list)
    sentence: str = ""
    same: str = ""
    cursor: str | None = None
    wrong: str = ""
    begins: str = ""
    subject: dict[str, str] = field(default_factory=dict)


@router.get("/console/search")
def search(
    request: Request,
    ask: Ask = "",
    resource: Text = "",
    namespace: Text = "",
    name: Text = "",
    principal: Text = "",
    credential: Text = "",
    verb: Text = "",
    address: Text = "",
    agent: Text = "",
    code: Text = "",
    alert: Text = "",
    since: Text = "",
    until: Text = "",
    exact: Literal["", "1"] = "",
    newest: Literal["", "1"] = "",
    cursor: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """The questions, and the answer to one."""
    given = {
        key: value.strip()
        for key, value in {
            "resource": resource,
            "namespace": namespace,
            "name": name,
            "principal": principal,
            "credential": credential,
            "verb": verb,
            "address": address,
            "agent": agent,
            "code": code,
            "alert": alert,
            "since": since,
            "until": until,
            "exact": exact,
            "newest": newest,
        }.items()
    }
    asked = Asked(ask)
    status = 200
    if ask:
        try:
            _ANSWERS[ask](request, asked, given, cursor)
        except (KubehabitError, ProblemError) as error:
            asked.wrong = str(error)
            status = error.status if isinstance(error, ProblemError) else 400
    query = {"ask": ask} | {key: value for key, value in given.items() if value}
    return page(
        request,
        "search.html",
        status=status,
        asked=asked,
        questions=QUESTIONS,
        given=given,
        since=given["since"] or _SINCE,
        first_page=not cursor,
        here="/console/search?" + urlencode(query),
        next_page="/console/search?" + urlencode(query | {"cursor": asked.cursor}) if asked.cursor else "",
    )


def _answer(request: Request, asked: Asked, question: Any) -> Any:
    desk: ForensicsService = request.app.state.desk

    def ask(questions: EventQueries) -> Any:
        earliest = questions.extent().earliest
        asked.begins = "" if earliest is None else _short(clock.written(earliest))
        return question(questions)

    return desk.ask(ask)


def _span(given: Mapping[str, str], default: str = _SINCE) -> tuple[int | None, int | None]:
    since = given["since"] or default
    return moment_of(since) if since else None, moment_of(given["until"]) if given["until"] else None


def _times(given: Mapping[str, str], default: str = _SINCE) -> list[str]:
    """The options that say from when to when."""
    since = given["since"] or default
    return (["--since", since] if since else []) + (["--until", given["until"]] if given["until"] else [])


def _touched(request: Request, asked: Asked, given: Mapping[str, str], _cursor: str) -> None:
    """Who touched an object."""
    if not given["resource"]:
        raise QueryError("Say which kind of object: secret, pod, deployment or whatever kubectl takes.")
    since, until = _span(given)
    wanted = EventFilter(
        since=since,
        until=until,
        resource=resource_of(given["resource"]),
        namespace=given["namespace"] or None,
        name=given["name"] or None,
    )
    what = given["name"] if not given["namespace"] else f"{given['namespace']}/{given['name']}"
    asked.same = shlex.join(
        ["kubehabit", "who", "touched", given["resource"], *([what] if what else []), *_times(given)]
        + (["--exact"] if given["exact"] else [])
    )
    asked.rows = _answer(
        request, asked, lambda questions: questions.touched(wanted, listings=not given["exact"])
    )
    people = len({one.principal for one in asked.rows})
    kind = f"{wanted.resource} in {given['namespace']}" if given["namespace"] else wanted.resource
    thing = f"{wanted.resource} {what}" if given["name"] else kind
    asked.sentence = (
        f"{people:,} {_plural('principal', people)} touched {thing}."
        if people
        else f"Nobody touched {thing}."
    )


def _newcomers(request: Request, asked: Asked, given: Mapping[str, str], _cursor: str) -> None:
    """Who is new in a namespace."""
    if not given["namespace"]:
        raise QueryError("Say in which namespace.")
    since, until = _span(given)
    assert since is not None
    asked.same = shlex.join(["kubehabit", "who", "is", "new", "in", given["namespace"], *_times(given)])
    asked.rows = _answer(
        request, asked, lambda questions: questions.newcomers(given["namespace"], since, until)
    )
    count = len(asked.rows)
    asked.sentence = (
        f"{count:,} {_plural('principal', count)} came to {given['namespace']} and {_plural('was', count, 'were')} never seen "
        "in it before."
        if count
        else f"Nobody came to {given['namespace']} who had not been there before."
    )


def _credential(request: Request, asked: Asked, given: Mapping[str, str], cursor: str) -> None:
    """All that a credential, or a principal, did."""
    if not given["credential"] and not given["principal"]:
        raise QueryError("Name the credential, or the principal if the API server does not name credentials.")
    _list(request, asked, given, cursor)


def _list(request: Request, asked: Asked, given: Mapping[str, str], cursor: str) -> None:
    """Events that fit all that is given."""
    since, until = _span(given)
    wanted = EventFilter(
        since=since,
        until=until,
        principal=given["principal"] or None,
        credential=given["credential"] or None,
        verbs=tuple(given["verb"].replace(",", " ").split()),
        resource=resource_of(given["resource"]) if given["resource"] else None,
        namespace=given["namespace"] or None,
        name=given["name"] or None,
        address=given["address"] or None,
        user_agent=given["agent"] or None,
        codes=codes_of(given["code"] or None),
        alert=given["alert"] or None,
    )
    options: list[str] = []
    for option, text in (
        ("principal", given["principal"]),
        ("credential", given["credential"]),
        *(("verb", verb) for verb in wanted.verbs),
        ("resource", given["resource"]),
        ("namespace", given["namespace"]),
        ("name", given["name"]),
        ("address", given["address"]),
        ("user-agent", given["agent"]),
        ("code", given["code"]),
        ("alert", given["alert"]),
    ):
        options += [f"--{option}", text] if text else []
    asked.same = shlex.join(
        ["kubehabit", "events", *options, *_times(given)] + (["--newest"] if given["newest"] else [])
    )
    found = _answer(
        request,
        asked,
        lambda questions: questions.events(
            wanted, limit=_ON_A_PAGE, cursor=cursor or None, newest=bool(given["newest"]), texts=False
        ),
    )
    asked.rows = [_row(record) for record in found.records]
    asked.cursor = found.cursor
    asked.sentence = "" if asked.rows else "There is no such event."
    if given["principal"] and asked.rows:
        asked.subject = {"principal": given["principal"]}


_ANSWERS = {"touched": _touched, "newcomers": _newcomers, "credential": _credential, "events": _list}


def _row(record: EventRecord) -> dict[str, Any]:
    """An event as the table shows it."""
    return {
        "time": clock.written(record.time)[:23].replace("T", " "),
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


def _short(time: str) -> str:
    return time[:19].replace("T", " ")


def _plural(word: str, count: int, many: str | None = None) -> str:
    return word if count == 1 else many or word + "s"


@router.post("/console/search/evidence")
async def evidence(request: Request) -> Response:
    """Export what was found as evidence: a file with proof, or a page to be read and printed."""
    from starlette.concurrency import run_in_threadpool

    form = await read_form(request)
    audit_ids = tuple(dict.fromkeys(clean(one, 128) for one in form.all("audit_id")))
    by_principal = form.get("what") == "all"
    try:
        since, until = (moment_of(form.get(name)) if form.get(name) else None for name in ("since", "until"))
    except QueryError as error:
        raise ProblemError(400, str(error)) from error
    if not by_principal and not audit_ids:
        raise ProblemError(422, "Tick the events that are to be kept as evidence, then export again.")
    subject = Subject(
        audit_ids=() if by_principal else audit_ids,
        principal=form.get("principal") if by_principal else None,
        since=since if by_principal else None,
        until=until if by_principal else None,
        note=clean(form.get("note"), _MAX_NOTE),
    )
    desk: ForensicsService = request.app.state.desk
    by = caller_of(request, clean(form.get("by"), 256))
    made = await run_in_threadpool(desk.evidence, subject, by=by)
    if form.get("form") == "html":
        headers = {
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
            "Content-Disposition": 'attachment; filename="evidence.html"',
        }
        return Response(render(made), media_type="text/html; charset=utf-8", headers=headers)
    headers = {"Content-Disposition": 'attachment; filename="evidence.json"'}
    return Response(made, media_type="application/json", headers=headers)
