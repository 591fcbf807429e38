"""What evidence of an incident holds besides its events: the part of each event, how the incident spread, what was touched.

Nothing is decided here: incident and alerts are presented as the API gives them, and counted over the events that prove them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from serving.forensics import clock
from serving.forensics.queries import moment_of
from serving.forensics.records import EventRecord, what_of
from serving.incidents.graph import outcome_of

#: Of a request: by a suspect credential; by the cluster, as a consequence; only cited by a join.
Part = Literal["suspect", "consequence", "join"]

_ROLES: dict[Part, str] = {"suspect": "session", "consequence": "consequence", "join": "join"}
_SENSITIVITY = ("routine", "low", "medium", "high")
_COUNTED = ("flagged", "contributor")


class RequestPlace(msgspec.Struct, rename="camel", frozen=True):
    """One request's part in an incident; a suspect's role is flagged, contributor, before or session (around those)."""

    part: Part
    role: str


class SpreadStep(msgspec.Struct, rename={"audit_id": "auditID"}, frozen=True):
    """How one principal could act as another, or why an alert is in the incident."""

    time: str
    what: str
    confidence: str
    why: str
    source: str = ""
    target: str = ""
    audit_id: str = ""


class TouchedObject(msgspec.Struct, rename="camel"):
    """Requests for one object or resource with the same outcome."""

    object: str
    did: str
    count: int = 0
    flagged: bool = False
    sensitivity: str = ""
    first: str = ""
    last: str = ""
    by: list[str] = []


class BlastRadius(msgspec.Struct, rename="camel"):
    """Everything touched from the origins of suspicious requests, and the principals that can be impersonated since.

    Attributes:
        principals: with unusual behaviour.
        reached: others as whom they can act now; nothing unusual was seen of them.
        namespaces: in which something was done; tried: in which everything was refused.
        counts: requests by outcome: read, wrote, deleted, entered, tried.
        aside: requests of the same credentials from other places, most likely their owners', and not counted.
        consequences: requests of the cluster in response.
    """

    principals: list[str]
    reached: list[str]
    namespaces: list[str]
    tried: list[str]
    counts: dict[str, int]
    aside: int
    consequences: int
    objects: list[TouchedObject]


def alerts_named(incident: dict[str, Any]) -> list[str]:
    """IDs of an incident's alerts."""
    return [alert["id"] for alert in incident["alerts"]]


def span_of(incident: dict[str, Any]) -> tuple[int, int]:
    """First and last time in an incident, microseconds since 1970 UTC."""
    times = [incident["firstSeen"], incident["lastSeen"], *(tie["time"] for tie in incident["ties"])]
    for kind in ("sessions", "consequences"):
        times += [one[end] for one in incident[kind] for end in ("firstSeen", "lastSeen")]
        times += [action["time"] for one in incident[kind] for action in one.get("actions", ())]
    moments = [moment_of(text) for text in times]
    return min(moments), max(moments)


def places_of(incident: dict[str, Any], alerts: Sequence[dict[str, Any]]) -> dict[str, RequestPlace]:
    """Every audit ID of an incident -> its place; suspect takes precedence over the other parts."""
    roles: dict[str, str] = {}
    for session in incident["sessions"]:
        roles |= {action["auditID"]: action["role"] for action in session["actions"]}
    roles |= {action["auditID"]: action["role"] for action in incident["timeline"]}
    roles |= {audit_id: "flagged" for alert in alerts for audit_id in alert["auditIDs"]}
    edges = [*incident["ties"], *incident["graph"]["edges"]]
    cited = (name for edge in edges for name in edge.get("auditIDs", ()) or (edge.get("auditID"),) if name)
    parts: tuple[tuple[Part, Iterable[str]], ...] = (
        ("join", cited),
        ("consequence", incident["consequenceAuditIDs"]),
        ("suspect", incident["auditIDs"]),
    )
    places: dict[str, RequestPlace] = {}
    for part, names in parts:
        places |= {
            name: RequestPlace(part, roles.get(name, "session") if part == "suspect" else _ROLES[part])
            for name in names
        }
    return places


def spread_of(incident: dict[str, Any]) -> list[SpreadStep]:
    """Every join of an incident: between principals, from the log, in order of time; then of alerts, from the trail."""
    ties = [
        SpreadStep(
            time=clock.written(moment_of(tie["time"])),
            what=tie["kind"] + (f" through {tie['via']}" if tie["via"] else ""),
            confidence=tie["confidence"],
            why=tie["why"],
            source=tie["source"],
            target=tie["target"],
            audit_id=tie["auditID"],
        )
        for tie in incident["ties"]
    ]
    joins = [
        SpreadStep(
            time=clock.written(moment_of(entry["time"])),
            what=f"alert {', '.join(entry['alerts'])} joined"
            if entry["action"] == "joined"
            else f"{entry['action']} {entry['incident'] or ''}".strip(),
            confidence=entry["confidence"] or "decided",
            why=entry["note"]
            or f"decided by {entry['by'] or entry['caller'] or entry['address'] or 'someone'}",
        )
        for entry in incident["trail"]
        if entry["action"] in ("joined", "merged", "split-from")
    ]
    return sorted(ties, key=lambda one: one.time) + joins


def blast_radius(
    incident: dict[str, Any],
    alerts: Sequence[dict[str, Any]],
    records: Sequence[EventRecord],
    places: dict[str, RequestPlace],
) -> BlastRadius:
    """What was touched, counted over the events of an incident, in order of time, and their places."""
    rated = {
        action["auditID"]: action["sensitivity"] for alert in alerts for action in alert.get("actions", ())
    }
    objects: dict[tuple[str, str], TouchedObject] = {}
    worst: dict[tuple[str, str], int] = defaultdict(int)
    counts: dict[str, int] = defaultdict(int)
    entered: dict[str, bool] = defaultdict(bool)
    # exec, logs and watches also have an event at their start; the last one has the outcome.
    requests = {record.audit_id: record for record in records}
    suspects = [
        (record, places[name].role in _COUNTED)
        for name, record in requests.items()
        if name in places and places[name].part == "suspect"
    ]
    origins = {_origin(record) for record, counted in suspects if counted}
    shown = [(record, counted) for record, counted in suspects if _origin(record) in origins]
    for record, counted in shown:
        did = outcome_of(record.verb, record.subresource, record.code)
        counts[did] += 1
        if record.namespace:
            entered[record.namespace] |= did != "tried"
        key = (what_of(record._asdict()), did)
        held = objects.setdefault(key, TouchedObject(*key, first=clock.written(record.time)))
        held.count += 1
        held.last = clock.written(record.time)
        held.flagged = held.flagged or counted
        worst[key] = max(worst[key], rated.get(record.audit_id, 0))
        held.sensitivity = _SENSITIVITY[worst[key]] if worst[key] else ""
        if record.principal not in held.by:
            held.by.append(record.principal)
    order = sorted(objects, key=lambda key: (not objects[key].flagged, -worst[key], objects[key].first))
    return BlastRadius(
        principals=list(incident["principals"]),
        reached=[
            node["name"]
            for node in incident["graph"]["nodes"]
            if node["kind"] == "principal" and node["role"] == "reached"
        ],
        namespaces=sorted(name for name, done in entered.items() if done),
        tried=sorted(name for name, done in entered.items() if not done),
        counts=dict(counts),
        aside=len(suspects) - len(shown),
        consequences=sum(record in places and places[record].part == "consequence" for record in requests),
        objects=[objects[key] for key in order],
    )


def _origin(record: EventRecord) -> tuple[str, str, str]:
    return record.principal, record.source_ips, record.user_agent
