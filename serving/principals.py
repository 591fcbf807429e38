"""What is known of each principal: who it is from training, what it did since the service started; bounded in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

from pydantic import ConfigDict, Field

from data.principals import identify
from serving.alerts import Model, clean

_RECENT = 20
_MAX_PEERS = 20
_MAX_SEEN = 50_000
"""Principals whose doings are kept; beyond that those that were idle longest are forgotten here, not by the detector."""


class RecentAction(Model):
    """One scored action."""

    time: datetime
    surprise: Annotated[float, Field(description="reconstruction error, in nats, summed over the fields")]
    evidence: Annotated[float, Field(description="decades; see /v1/score")]
    severity: Annotated[str, Field(description="'none' if it was not flagged")]


class PrincipalReport(Model):
    """One principal: who it is, whom it is compared with, and what it did of late."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "principal": "system:serviceaccount:web:ci-deployer",
                "kind": "serviceaccount",
                "peerGroup": "account:ci-deployer",
                "inTraining": True,
                "peerCount": 2,
                "peers": [
                    "system:serviceaccount:payments:ci-deployer",
                    "system:serviceaccount:shop:ci-deployer",
                ],
                "since": "2026-11-23T08:00:00Z",
                "actions": 412,
                "flagged": 1,
                "lastSeen": "2026-11-23T14:31:12.575126Z",
                "recent": [
                    {
                        "time": "2026-11-23T14:31:12.575126Z",
                        "surprise": 31.4,
                        "evidence": 6.2,
                        "severity": "high",
                    }
                ],
                "alerts": ["7d0c6a1f52b8e934"],
            }
        }
    )

    principal: str
    kind: str
    peer_group: str
    in_training: Annotated[bool, Field(description="whether the model was trained on it")]
    peer_count: Annotated[int, Field(description="other principals of its peer group in training")]
    peers: Annotated[list[str], Field(description="some of them, at most 20", default_factory=list)]
    since: Annotated[datetime, Field(description="when the counting below began")]
    actions: Annotated[int, Field(description="scored since then")] = 0
    flagged: Annotated[int, Field(description="unusual ones among them")] = 0
    last_seen: Annotated[
        datetime | None, Field(description="time of its last action, in training if none since")
    ]
    recent: Annotated[
        list[RecentAction], Field(description="the last 20 actions, newest first", default_factory=list)
    ]
    alerts: Annotated[
        list[str], Field(description="IDs of its latest alerts, at most 20", default_factory=list)
    ]


@dataclass(slots=True)
class _Seen:
    kind: str
    group: str
    actions: int = 0
    flagged: int = 0
    recent: deque[tuple[int, float, float, str]] = field(default_factory=lambda: deque(maxlen=_RECENT))


@dataclass(frozen=True, slots=True)
class Trained:
    """What training knew.

    Attributes:
        group_of: principal -> peer group.
        sizes: peer group -> number of members.
        last: principal -> time of its last action, microseconds since 1970.
    """

    group_of: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    last: Mapping[str, int] = field(default_factory=dict)


class Principals:
    """Keeps count of what was scored; safe to ask while it counts."""

    def __init__(self, trained: Trained | None = None) -> None:
        self._trained = trained or Trained()
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._since = datetime.now(UTC)
        self._lock = threading.Lock()

    def record(self, rows: Iterable[tuple[str, str, str, int, float, float, str]]) -> None:
        """Count actions: (principal, kind, group, time in microseconds, surprise, evidence, severity) of each."""
        seen = self._seen
        with self._lock:
            for name, kind, group, moment, surprise, evidence, severity in rows:
                entry = seen.get(name)
                if entry is None:
                    entry = seen[name] = _Seen(kind, group)
                    if len(seen) > _MAX_SEEN:
                        seen.popitem(last=False)
                else:
                    seen.move_to_end(name)
                entry.actions += 1
                entry.flagged += severity != "none"
                entry.recent.append((moment, surprise, evidence, severity))

    def report(self, name: str) -> PrincipalReport | None:
        """What is known of a principal, without its alerts; None if nothing is."""
        trained = self._trained
        with self._lock:
            entry = self._seen.get(name)
            recent = [] if entry is None else list(entry.recent)[::-1]
            counts = (0, 0) if entry is None else (entry.actions, entry.flagged)
        known = name in trained.group_of
        if entry is None and not known:
            return None
        group = entry.group if entry is not None else trained.group_of[name]
        last = max((row[0] for row in recent), default=trained.last.get(name))
        others = (other for other, its in trained.group_of.items() if its == group and other != name)
        peers = [clean(other) for other, _ in zip(others, range(_MAX_PEERS), strict=False)]
        return PrincipalReport(
            principal=clean(name),
            kind=entry.kind if entry is not None else identify(name, ()).kind,
            peer_group=clean(group),
            in_training=known,
            peer_count=max(trained.sizes.get(group, 0) - (1 if known else 0), 0),
            peers=peers,
            since=self._since,
            actions=counts[0],
            flagged=counts[1],
            last_seen=None if last is None else _moment(last),
            recent=[
                RecentAction(
                    time=_moment(moment),
                    surprise=round(surprise, 3),
                    evidence=round(evidence, 3),
                    severity=severity,
                )
                for moment, surprise, evidence, severity in recent
            ],
            alerts=[],
        )


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)
