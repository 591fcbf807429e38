"""A detector whose verdicts are known in advance, and events to feed it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import compress
from typing import Any

import numpy as np

from data.actions.fields import FIELDS
from data.actions.stage_folding import StageFolder, event_times
from data.events.audit_event import AuditEvent
from data.events.decode import decode_body
from data.principals.identity import identify
from data.timestamps import parse_times
from detection.detector import Explanation, FieldReason, HabitReason, Scores

START = datetime(2026, 11, 23, 14, 0, tzinfo=UTC)


def raw_event(
    number: int = 0,
    *,
    user: str = "alice@corp",
    verb: str = "get",
    resource: str = "pods",
    namespace: str = "team-a",
    name: str = "web-0",
    subresource: str = "",
    code: int = 200,
    seconds: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    """An event as the API server writes it; `number` makes audit ID and time."""
    moment = (
        (START + timedelta(seconds=number if seconds is None else seconds)).isoformat().replace("+00:00", "Z")
    )
    path = f"/api/v1/namespaces/{namespace}/{resource}/{name}"
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": f"id-{number}",
        "stage": "ResponseComplete",
        "requestURI": path,
        "verb": verb,
        "user": {"username": user, "groups": ["team-a", "system:authenticated"]},
        "sourceIPs": ["203.0.113.7", "127.0.0.1"],
        "userAgent": "kubectl/v1.29.3 (linux/amd64) kubernetes/6813625",
        "objectRef": {"resource": resource, "namespace": namespace, "name": name, "subresource": subresource},
        "responseStatus": {"code": code},
        "requestReceivedTimestamp": moment,
        "stageTimestamp": moment,
    } | more


def secret_event(number: int = 0, **more: Any) -> dict[str, Any]:
    """An event that the fake detector flags."""
    return raw_event(
        number, **({"verb": "list", "resource": "secrets", "namespace": "payments", "name": ""} | more)
    )


def ndjson(events: Sequence[dict[str, Any]]) -> bytes:
    """One event a line."""
    return b"\n".join(json.dumps(event).encode() for event in events)


def decoded(events: Sequence[dict[str, Any]]) -> list[AuditEvent]:
    """Events as the engine gets them."""
    result = decode_body(json.dumps(list(events)).encode())
    assert not result.dead
    return result.events


def habit(attribute: str = "verb_resource_namespace", **more: Any) -> HabitReason:
    """A novelty nobody shares."""
    values: dict[str, Any] = {
        "value": "list secrets payments",
        "times_before": 0,
        "actions_before": 1197,
        "peers_with": 0,
        "peers": 2,
        "anyone_with": 0,
    }
    return HabitReason(**({"attribute": attribute} | values | more))


#: Addresses that no principal has used before.
STRANGE = "198.51.100."


class FakeDetector:
    """Flags whatever touches Secrets; evidence is 5, or the number in the namespace's name.

    What touches ConfigMaps, grants rights or makes Pods is mildly unusual: it adds up without being flagged.
    """

    _MILD = frozenset(("configmaps", "rolebindings", "pods", "serviceaccounts", "deployments"))

    def __init__(self) -> None:
        self.folder = StageFolder()
        self.calls: list[int] = []

    def score(self, events: Sequence[AuditEvent]) -> Scores:
        self.calls.append(len(events))
        rows = [*compress(range(len(events)), self.folder.first(events, event_times(events)))]
        folded = sorted(set(range(len(events))) - set(rows))
        who = [identify(events[row].user.username, events[row].user.groups) for row in rows]
        flagged = [
            events[row].objectRef is not None and events[row].objectRef.resource == "secrets" for row in rows
        ]
        count = len(rows)
        nll = np.zeros((count, len(FIELDS)), np.float32)
        nll[:, 2], nll[:, 1], nll[:, 0] = 7.5, 2.0, 1.0
        times = (
            parse_times([events[row].requestReceivedTimestamp or events[row].stageTimestamp for row in rows])
            if rows
            else np.empty(0, np.int64)
        )
        evidence = np.full(count, 5.0)
        for index, row in enumerate(rows):
            ref = events[row].objectRef
            if ref is not None and ref.namespace.startswith("e-"):
                evidence[index] = float(ref.namespace[2:])
        explanations = {
            index: Explanation(
                fields=[FieldReason("namespace", "payments", 7.5, [("team-a", 0.93), ("web", 0.05)])],
                habits=[habit(), *self._place(events[row])],
                values={},
                sensitivity="reads secrets",
            )
            for index, row in enumerate(rows)
            if flagged[index]
        }
        mild = [not hit and self._adds_up(events[row]) for hit, row in zip(flagged, rows, strict=True)]
        news = {
            index: [habit(), *self._place(events[row])]
            if hit
            else [habit("object"), *self._place(events[row])]
            for index, (row, hit) in enumerate(zip(rows, flagged, strict=True))
            if hit or mild[index]
        }
        return Scores(
            novelty_evidence=np.where(flagged, 5.0, np.where(mild, 2.0, 0.0)),
            error_evidence=np.where(flagged, 5.0, np.where(mild, 1.0, 0.0)),
            novelties=news,
            event=np.array(rows, np.int64),
            principal=[one.name for one in who],
            kind=[one.kind for one in who],
            group=[one.groups[0] for one in who],
            time=times.view("M8[us]"),
            nll=nll,
            surprise=nll.sum(axis=1),
            novelty=np.zeros(count),
            error=np.zeros(count),
            evidence=evidence,
            threshold=np.full(count, 4.0),
            flagged=np.array(flagged, bool),
            sensitivity=np.full(count, 3, np.int8),
            severity=["high" if hit else "none" for hit in flagged],
            folded=np.array(folded, np.int64),
            dropped=np.empty(0, np.int64),
            explanations=explanations,
        )

    def _adds_up(self, event: AuditEvent) -> bool:
        ref = event.objectRef
        return (
            ref is not None
            and ref.resource in self._MILD
            and event.verb in ("create", "patch", "update")
            and not event.user.username.startswith(("system:serviceaccount:kube-system:", "system:node:"))
        ) or (ref is not None and ref.resource == "configmaps")

    @staticmethod
    def _place(event: AuditEvent) -> list[HabitReason]:
        address = event.sourceIPs[0] if event.sourceIPs else ""
        return [habit("place", value=address)] if address.startswith(STRANGE) else []
