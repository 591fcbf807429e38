"""The first page: what is open, what was raised, whether events arrive, and whether the model is fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response

from serving.alerts.overview import TechniqueCount
from serving.api.overview import build_overview
from serving.api.principals import FreshHistory
from serving.console import charts
from serving.console.pages.alerts import AlertPageQuery
from serving.console.render import page
from serving.console.when import zone_of
from serving.incidents.query import IncidentQuery
from serving.runtime import Service

router = APIRouter(include_in_schema=False)

_SPANS = (("1", "24 hours"), ("7", "7 days"), ("28", "28 days"))
_WORST = 5

#: Tactics in the order in which an attack goes through them.
_TACTICS = (
    *("Initial Access", "Execution", "Persistence", "Privilege Escalation", "Defense Evasion"),
    *("Credential Access", "Discovery", "Lateral Movement", "Collection", "Command and Control", "Impact"),
)


def _days(days: Annotated[Literal["1", "7", "28"], Query()] = "7") -> str:
    return days


@router.get("/console/")
def overview(
    request: Request,
    old: Annotated[AlertPageQuery, Query()],
    days: Annotated[str, Depends(_days)],
) -> Response:
    """The overview; an address with filters of alerts, which stood here before, leads to their list."""
    if request.query_params.keys() - {"days"}:
        filters = urlencode(old.parameters())
        return Response(status_code=303, headers={"Location": f"/console/alerts?{filters}"})
    service: Service = request.app.state.service
    records: FreshHistory = request.app.state.records
    found = build_overview(service, records, int(days))
    worst = service.ready().incidents.page(IncidentQuery(state="open", order="severity"), limit=_WORST)
    span = next(words for value, words in _SPANS if value == days)
    step = timedelta(seconds=found.alerts.step_seconds)
    return page(
        request,
        "overview.html",
        overview=found,
        worst=worst.incidents,
        picture=charts.severity_bars(
            "alerts-over-time",
            found.alerts.over_time,
            title=f"Alerts in {span}, " + ("hour by hour" if step < timedelta(days=1) else "day by day"),
            step=step,
            zone=zone_of(request.scope),
        ),
        tactics=by_tactic(found.alerts.techniques),
        covered=sum(1 for one in found.alerts.techniques if one.alerts),
        bar=charts.bar,
        days=days,
        spans=_SPANS,
        span=span,
    )


def by_tactic(techniques: Sequence[TechniqueCount]) -> list[tuple[str, list[TechniqueCount]]]:
    """Techniques under their tactics, in the order of an attack; tactics of other names come last."""
    groups: dict[str, list[TechniqueCount]] = defaultdict(list)
    for one in techniques:
        groups[one.tactic].append(one)
    order = {name: place for place, name in enumerate(_TACTICS)}
    ordered = sorted(groups, key=lambda name: (order.get(name, len(order)), name))
    return [(name, sorted(groups[name], key=lambda one: (-one.alerts, one.id))) for name in ordered]
