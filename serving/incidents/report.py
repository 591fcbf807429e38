"""The report of an incident: where it began, how it spread, what followed, how sure that is.

`serving.incidents.incidents` decides what belongs to an incident; this only lays it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from serving.alerts.explain.explainer import Explainer
from serving.incidents.graph import Edge, Graph, build_graph, consequences_of
from serving.incidents.links import leads_to
from serving.incidents.sessions import SUSPICIOUS, IncidentSession, possible_sources, sessions_of
from serving.schemas import (
    SEVERITIES,
    Alert,
    ApiModel,
    Check,
    Confidence,
    IncidentLink,
    ServedModel,
    Severity,
    Surrounding,
    Technique,
)
from serving.storage.incidents import Brief, IncidentRow
from serving.storage.tables import as_moment

_TIMELINE = 500
_MAX_CHECKS = 24
_MAX_TECHNIQUES = 6

Short = TypeVar("Short", Alert, Alert | Brief)


TrailAction = (
    Literal["opened", "joined", "merged", "merged-into", "split", "split-from", "closed", "noted"]
    | Literal["acknowledged", "assigned", "reopened", "corrected"]
)


class TrailEntry(ApiModel):
    """What was done with an incident: by whom, when, and why. By `kubehabit` where alerts joined automatically."""

    time: datetime
    action: TrailAction
    by: str
    caller: Annotated[str, Field(description="the token or certificate that asked for it, by name")] = ""
    address: Annotated[str, Field(description="the caller's address, as the service saw it")] = ""
    note: str = ""
    alerts: list[str] = []
    incident: Annotated[str | None, Field(description="the other incident, for merged and split")] = None
    confidence: Confidence | None = None


class Joined(ApiModel):
    """An alert of the incident, in brief."""

    id: str
    principal: str
    severity: Severity
    began: datetime
    last_seen: datetime
    sentence: str
    action_count: int


_JOINED = set(Joined.model_fields)


class Source(ApiModel):
    """Where it began, as far as the log shows."""

    principal: str
    who: Annotated[str, Field(description="display name of the principal")]
    time: Annotated[datetime, Field(description="of the first suspicious action")]
    audit_id: str
    description: Annotated[str, Field(alias="did")]
    address: str
    client: str
    credential: str
    confidence: Confidence
    why: str


class IncidentSummary(ApiModel):
    """An incident in a list."""

    id: str
    state: Literal["open", "closed", "merged"]
    merged_into: str | None = None
    assignee: Annotated[str | None, Field(description="who works on it")] = None
    acknowledged: Annotated[datetime | None, Field(description="when a person last took note of it")] = None
    outcome: Annotated[
        Literal["malicious", "normal", "unclear"] | None, Field(description="with which it was closed")
    ] = None
    severity: Severity | None = None
    first_seen: datetime | None = None
    last_seen: datetime | None = None
    sentence: str = ""
    principals: list[str] = []
    alert_count: int = 0
    action_count: int = 0


class Incident(IncidentSummary):
    """An incident in full."""

    last_again: Annotated[
        datetime | None, Field(description="when something in it was last done again, if after `lastSeen`")
    ] = None
    severity_reasons: Annotated[list[str], Field(description="why it has this severity")] = []
    source: Source | None = None
    addresses: list[str] = []
    clients: list[str] = []
    alerts: list[Joined] = []
    sessions: Annotated[
        list[IncidentSession], Field(description="in order of time; each begins with what led up to it")
    ] = []
    timeline: Annotated[
        list[Surrounding], Field(description="the suspicious actions, in order of time; the first 500")
    ] = []
    consequences: Annotated[
        list[Edge], Field(description="what the cluster did automatically because of it")
    ] = []
    links: Annotated[
        list[IncidentLink],
        Field(alias="ties", description="how the principals may have come to act as one another"),
    ] = []
    graph: Graph = Graph()
    techniques: list[Technique] = []
    checks: list[Check] = []
    terms: dict[str, str] = {}
    audit_ids: Annotated[
        list[str],
        Field(
            description="the evidence: suspicious actions first, then everything else that its principals did in between"
        ),
    ] = []
    consequence_audit_ids: Annotated[
        list[str], Field(description="requests of the cluster's own components that follow from it")
    ] = []
    trail: list[TrailEntry] = []
    models: list[ServedModel] = []


def summarize(row: IncidentRow, alerts: Sequence[Alert | Brief], explainer: Explainer) -> IncidentSummary:
    """An incident in brief; alerts by time."""
    summary = IncidentSummary.model_validate(
        {
            "id": row.id,
            "state": row.state,
            "merged_into": row.merged_into,
            "assignee": row.assignee,
            "acknowledged": None if row.acknowledged is None else as_moment(row.acknowledged),
            "outcome": row.outcome,
        }
    )
    if not alerts:
        return summary
    worst = _worst(alerts)
    summary.severity = worst.severity
    summary.first_seen = min(_began(alert) for alert in alerts)
    summary.last_seen = max(alert.last_seen for alert in alerts)
    summary.principals = list(dict.fromkeys(alert.principal for alert in sorted(alerts, key=_began)))
    summary.alert_count = len(alerts)
    summary.action_count = sum(alert.action_count for alert in alerts)
    summary.sentence = _sentence(alerts, worst, explainer)
    return summary


def build_report(
    row: IncidentRow,
    alerts: Sequence[Alert],
    actions: Sequence[Surrounding],
    links: Sequence[IncidentLink],
    flagged: Sequence[str],
    trail: Sequence[TrailEntry],
    explainer: Explainer,
) -> Incident:
    """An incident in full.

    Args:
        row: its own row.
        alerts: its alerts by time.
        actions: their context by time.
        links: found through them.
        flagged: audit IDs of all flagged actions.
        trail: oldest first.
        explainer: puts it into words.
    """
    report = Incident(**summarize(row, alerts, explainer).model_dump())
    report.trail = list(trail)
    if not alerts:
        return report
    kinds = {alert.principal: alert.kind for alert in alerts}
    last = max(alert.last_seen for alert in alerts)
    again = [one.last_again for one in alerts if one.last_again is not None and one.last_again > last]
    report.last_again = max(again, default=None)
    own = [one for one in actions if one.role != "consequence"]
    follow = [one for one in actions if one.role == "consequence"]
    counted = [one for one in own if one.role in SUSPICIOUS]
    report.sessions = sessions_of(own, alerts, explainer)
    report.timeline = counted[:_TIMELINE]
    report.links = list(links)
    report.source = _source(report.sessions, alerts, links, kinds, explainer)
    report.addresses = list(dict.fromkeys(one.address for one in counted if one.address))
    report.clients = list(dict.fromkeys(one.user_agent for one in counted if one.user_agent))
    shown = (alert.model_dump(include=_JOINED) | {"began": _began(alert)} for alert in alerts)
    report.alerts = [Joined(**values) for values in shown]
    report.consequences = consequences_of(follow)
    first = report.source.principal if report.source is not None else ""
    report.graph = build_graph(first, counted, links, report.consequences, kinds)
    report.severity_reasons = _severity_reasons(alerts, report, explainer)
    _what_to_do(report, alerts)
    rest = [one.audit_id for one in own if one.role not in SUSPICIOUS]
    report.audit_ids = list(dict.fromkeys([*(one.audit_id for one in counted), *flagged, *rest]))
    report.consequence_audit_ids = list(dict.fromkeys(one.audit_id for one in follow))
    report.models = list({(one.model.name, one.model.version): one.model for one in alerts}.values())
    return report


def _began(alert: Alert | Brief) -> datetime:
    return alert.began or alert.first_seen


def _worst(alerts: Sequence[Short]) -> Short:
    return max(alerts, key=lambda alert: (SEVERITIES.index(alert.severity), alert.evidence))


def _sentence(alerts: Sequence[Alert | Brief], worst: Alert | Brief, explainer: Explainer) -> str:
    names = list(dict.fromkeys(alert.principal for alert in alerts))
    if len(names) == 1:
        return worst.sentence
    kinds = {alert.principal: alert.kind for alert in alerts}
    who = [explainer.who(name, kinds[name]) for name in names if name != worst.principal]
    noun = "other credential" if len(who) == 1 else "other credentials"
    shown = ", ".join(who[:3]) + (" and more" if len(who) > 3 else "")
    return f"{worst.sentence} {len(who)} {noun} had a part in it: {shown}."


def _source(
    sessions: Sequence[IncidentSession],
    alerts: Sequence[Alert],
    links: Sequence[IncidentLink],
    kinds: dict[str, str],
    explainer: Explainer,
) -> Source | None:
    """The first session that stands out by itself and that nothing else in the incident led to."""
    if not sessions:
        return None

    def reached(session: IncidentSession) -> bool:
        # A cause comes before what it brings about.
        led = (link for link in links if link.kind != "same-origin" and link.time <= session.first_seen)
        return any(leads_to(link.target, session.principal) and link.source in kinds for link in led)

    def leads(link: IncidentLink) -> bool:
        others = (name for name in kinds if name != link.source)
        return link.confidence != "possible" and any(leads_to(link.target, name) for name in others)

    firm = possible_sources(sessions, alerts) or sessions
    first = next((session for session in firm if not reached(session)), firm[0])
    counted = next(one for one in first.actions if one.role in SUSPICIOUS)
    where = [what for what, new in (("an address", first.new_address), ("a client", first.new_client)) if new]
    confidence: Confidence = "likely"
    if where:
        why = f"it came from {' and '.join(where)} that this credential never came from before"
    elif any(link.source == first.principal and leads(link) for link in links):
        why = "from it the log leads to the others, and nothing in the log leads to it"
    else:
        confidence = "possible"
        why = "it is the first that counted; address and client are the usual ones, so it may be the owner"
    kind = kinds.get(first.principal, "")
    return Source(
        principal=first.principal,
        who=explainer.who(first.principal, kind),
        time=counted.time,
        audit_id=counted.audit_id,
        description=counted.description,
        address=first.address,
        client=first.client,
        credential=explainer.credential(first.principal, kind),
        confidence=confidence,
        why=why,
    )


def _severity_reasons(alerts: Sequence[Alert], report: Incident, explainer: Explainer) -> list[str]:
    worst = _worst(alerts)
    reasons = explainer.severity_reasons(worst)
    if others := len(report.principals) - 1:
        credentials = "credential was" if others == 1 else "credentials were"
        reasons.append(f"it spread: {others} more {credentials} involved")
    if any(session.new_address for session in report.sessions):
        reasons.append("a credential was used from an address that it never came from before")
    return reasons


def _what_to_do(report: Incident, alerts: Sequence[Alert]) -> None:
    """Checks and techniques of all alerts, those of the most severe first; each once."""
    ordered = sorted(alerts, key=lambda alert: SEVERITIES.index(alert.severity), reverse=True)

    def once(items: Iterable[Check]) -> list[Check]:
        return list({(item.text, item.command): item for item in items}.values())

    report.checks = once(check for alert in ordered for check in alert.checks)[:_MAX_CHECKS]
    techniques = {technique.id: technique for alert in ordered for technique in alert.techniques}
    report.techniques = list(techniques.values())[:_MAX_TECHNIQUES]
    report.terms = {term: meaning for alert in ordered for term, meaning in alert.terms.items()}
