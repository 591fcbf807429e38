"""The list of principals, and the page of one: its habits as pictures, how unusual it was, and how its peers differ."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from markupsafe import Markup

from serving.alerts.query import AlertQuery, whole
from serving.api.principals import FreshHistory
from serving.console import charts
from serving.console.render import page, page_links, principal_url
from serving.console.when import SPANS, TimeRange, range_of
from serving.forensics.principal_habits import PeerComparison, PrincipalHabits, VerbCount, compared, habits_of
from serving.forensics.queries import QueryError, moment_of
from serving.forensics.service import ForensicsService
from serving.history.queries import Order, Surprise
from serving.http.problems import ProblemError
from serving.runtime import Service
from serving.storage.views import saved_views

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 50
_ALERTS = 10
_COLUMNS, _ROWS = 8, 10
KINDS = (
    ("human", "people"),
    ("serviceaccount", "service accounts"),
    ("node", "nodes"),
    ("component", "components of the control plane"),
    ("controller", "controllers"),
    ("anonymous", "anonymous"),
)
_SPANS = (("1", "1 day"), ("7", "7 days"), ("28", "28 days"), ("all", "all"))

_ANY_TIME = TimeRange()
Span = Annotated[Literal["1", "7", "28", "all"], Query()]
Step = Annotated[Literal["", "hours", "days"], Query()]


@router.get("/console/principals")
def principals(
    request: Request,
    q: Annotated[str, Query(max_length=256)] = "",
    kind: Annotated[
        Literal["", "human", "serviceaccount", "node", "component", "controller", "anonymous"], Query()
    ] = "",
    order: Order = "last",
    times: Annotated[TimeRange, Depends(range_of)] = _ANY_TIME,
    cursor: Annotated[str | None, Query(max_length=9, pattern="^[0-9]*$")] = None,
) -> Response:
    """Principals, those that acted last first."""
    records: FreshHistory = request.app.state.records
    found = records.reader().principals(
        search=q.strip(),
        kind=kind or None,
        since=times.since,
        until=times.until,
        order=order,
        limit=_ON_A_PAGE,
        cursor=cursor,
    )
    query = {"q": q.strip(), "kind": kind, "order": order if order != "last" else ""}
    query = {name: value for name, value in query.items() if value} | times.parameters()
    service: Service = request.app.state.service
    with service.ready().store.reading() as connection:
        views = saved_views(connection, "principals")
    return page(
        request,
        "principals.html",
        found=found,
        q=q.strip(),
        kind=kind,
        order=order,
        kinds=KINDS,
        views=views,
        view_query=urlencode(query),
        times=times,
        time_spans=SPANS,
        status=422 if times.wrong else 200,
        filtered=bool(q.strip() or kind or times.parameters()),
        bar=charts.bar,
        **page_links("/console/principals", query, cursor, found.cursor),
    )


@router.get("/console/principals/{principal:path}")
def principal(request: Request, principal: str, days: Span = "7", step: Step = "") -> Response:
    """One principal."""
    service: Service = request.app.state.service
    records: FreshHistory = request.app.state.records
    engine = service.ready()
    report = engine.principal_report(principal)
    reader = records.reader()
    surprise = reader.surprise(principal)
    days_of = surprise.days if surprise is not None else []
    step = step or ("days" if len(days_of) > 2 else "hours")
    since = "" if days == "all" else f"{days}d"
    habits, peers, trouble = _asked(request, principal, reader.peers(principal), since)
    if report is None and surprise is None and habits is None:
        raise ProblemError(
            404,
            "This principal is not in the model's training, did nothing since, and no event of it is kept. Look for it under "
            "Principals.",
        )
    search = {"ask": "events", "principal": principal, "since": since or "520w"}
    return page(
        request,
        "principal.html",
        name=principal,
        report=report,
        surprise=surprise,
        nearest=max(days_of[-7:], key=lambda one: one.nearest, default=None),
        picture=_picture(surprise, step),
        step=step,
        habits=habits,
        peers=peers,
        trouble=trouble,
        week=charts.heat_map("week", habits.week) if habits is not None else "",
        matrix=Matrix(habits.deeds) if habits is not None else None,
        alerts=whole(engine.store, AlertQuery(principal=principal), limit=_ALERTS + 1).alerts,
        most_alerts=_ALERTS,
        days=days,
        spans=_SPANS,
        own=principal_url(principal),
        same=shlex.join(["kubehabit", "principal", principal, *(["--since", since] if since else [])]),
        search="/console/search?" + urlencode(search),
        bar=charts.bar,
        object_of=object_of,
    )


def object_of(value: str) -> tuple[str, str, str]:
    """Resource, namespace and name of an object as habits write it: `secrets payments/db`, `nodes/node-1`."""
    what, space, rest = value.partition(" ")
    if not space:
        what, _, rest = value.rpartition("/")
        return what.partition("/")[0], "", rest
    namespace, _, name = rest.partition("/")
    return what.partition("/")[0], namespace, name


def _asked(
    request: Request, principal: str, others: list[str], text: str
) -> tuple[PrincipalHabits | None, PeerComparison | None, str]:
    """What the event store knows; or why it does not tell, as a sentence."""
    desk: ForensicsService = request.app.state.desk
    since = moment_of(text) if text else None
    try:
        with desk.open() as questions:
            habits = habits_of(questions, principal, since)
            return habits, compared(questions, principal, others, since), ""
    except (ProblemError, QueryError) as error:
        return None, None, str(error)


def _picture(surprise: Surprise | None, step: str) -> Markup | None:
    """How near it came to its threshold, over time; None if there is nothing to draw."""
    hourly = step == "hours"
    moments = [] if surprise is None or not surprise.days else surprise.hours if hourly else surprise.days
    if not moments:
        return None
    bars = [charts.ChartBar(one.at, one.nearest, one.typical, one.flagged, one.actions) for one in moments]
    return charts.surprise_bars(
        "surprise",
        bars,
        title="Nearest to an alert, " + ("hour by hour" if hourly else "day by day"),
        step=timedelta(hours=1) if hourly else timedelta(days=1),
        until=moments[-1].at,
    )


class Matrix:
    """What is done with what: verbs by kinds of objects.

    Attributes:
        verbs: heads of the columns, the most frequent first.
        rows: kind of objects, and for each verb a count and its shade.
        left_out: verbs and kinds that are too rare to be shown.
    """

    def __init__(self, actions: list[VerbCount]) -> None:
        counts: Counter[tuple[str, str]] = Counter({(one.verb, one.resource): one.count for one in actions})
        self.verbs, more_verbs = _frequent(((one.verb, one.count) for one in actions), _COLUMNS)
        resources, more_resources = _frequent(((one.resource, one.count) for one in actions), _ROWS)
        most = max(counts.values(), default=0)
        self.rows = [
            (
                kind,
                [
                    (number, charts.level(number, most))
                    for verb in self.verbs
                    for number in (counts[verb, kind],)
                ],
            )
            for kind in resources
        ]
        self.left_out = more_verbs + more_resources


def _frequent(values: Iterable[tuple[str, int]], most: int) -> tuple[list[str], int]:
    total: Counter[str] = Counter()
    for name, count in values:
        total[name] += count
    ordered = sorted(total, key=lambda name: (-total[name], name))
    return ordered[:most], max(len(ordered) - most, 0)
