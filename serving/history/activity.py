"""Tracks the activity of each principal: what training knew of it, and what it did since counting began; bounded in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from data.principals.identity import Identity
from serving.schemas import SEVERITIES, ApiModel, clean
from serving.storage.tables import as_moment

_RECENT = 20
_GRADES = {name: grade for grade, name in enumerate(SEVERITIES)}
_MAX_PEERS = 20
#: Principals whose actions are kept; of more, those idle longest are dropped here, not by the detector.
MOST_SEEN = 50_000


class RecentAction(ApiModel):
    """One scored action."""

    time: datetime
    surprise: Annotated[float, Field(description="reconstruction error, in nats, summed over the fields")]
    evidence: Annotated[float, Field(description="decades; see /v1/score")]
    severity: Annotated[str, Field(description="'none' if it was not flagged")]


class PrincipalReport(ApiModel):
    """One principal: its peers, and what it did recently."""

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
    known_actions: Annotated[
        int | None,
        Field(
            description="actions that its habits are made of; null if it has not acted since the service started"
        ),
    ] = None
    ready: Annotated[
        bool | None, Field(description="whether these are enough to judge it by its own habits (100)")
    ] = None
    last_seen: Annotated[
        datetime | None, Field(description="time of its last action, in training if none since")
    ]
    recent: Annotated[list[RecentAction], Field(description="the last 20 actions, newest first")] = []
    alerts: Annotated[list[str], Field(description="IDs of its latest alerts, at most 20")] = []


@dataclass(frozen=True, slots=True)
class Trained:
    """What training knew.

    Attributes:
        group_of: principal -> peer group.
        sizes: peer group -> number of members.
        last: principal -> time of its last action, microseconds since 1970.
        identity: the model's rules, which say of which kind a principal is.
    """

    group_of: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    last: Mapping[str, int] = field(default_factory=dict)
    identity: Identity = field(default_factory=Identity)

    def kind(self, name: str) -> str:
        """Kind of a principal."""
        return self.identity.principal(name, ()).kind


#: What is kept of one principal, to be packed: its name, kind and group, and its rows of the arrays as bytes.
Saved = Sequence[Any]


class Principals:
    """Counts what was scored; safe to read meanwhile. The last actions of all principals are in flat arrays, 340 bytes each.

    Attributes:
        since: when counting began.
        trained: what the model that is served was trained on.
    """

    def __init__(self, trained: Trained | None = None, most: int = MOST_SEEN) -> None:
        self._most = most
        self.since = datetime.now(UTC)
        self._lookup_cold: Callable[[str], Saved | None] = lambda _: None
        self.trained = trained or Trained()
        self._place: OrderedDict[str, int] = OrderedDict()  # those idle longest first
        self._free: list[int] = []
        self._who: list[tuple[str, str]] = []  # kind and group
        self._counts = np.zeros((0, 2), np.int64)  # actions, flagged
        self._times = np.zeros((0, _RECENT), np.int64)
        self._values = np.zeros((0, _RECENT, 2), np.float32)  # surprise, evidence
        self._grades = np.zeros((0, _RECENT), np.int8)
        self._lock = threading.Lock()

    def attach(self, lookup_cold: Callable[[str], Saved | None]) -> None:
        """Report principals that were removed too: `lookup_cold` returns what `pop` returned of one, on any thread."""
        self._lookup_cold = lookup_cold

    def record(
        self,
        names: Sequence[str],
        kinds: Sequence[str],
        groups: Sequence[str],
        times: npt.NDArray[np.int64],
        surprise: npt.NDArray[np.floating[Any]],
        evidence: npt.NDArray[np.floating[Any]],
        severity: Sequence[str],
    ) -> None:
        """Count actions, columns of one length; times are microseconds since 1970 UTC, severity is "none" if not flagged."""
        if not names:
            return
        rows_of: defaultdict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(names):
            rows_of[name].append(row)
        with self._lock:
            first_rows = ((name, rows[0]) for name, rows in rows_of.items())
            places = np.array([self._locate(name, kinds[row], groups[row]) for name, row in first_rows])
            # Where each action goes in the ring of its principal; of more than fit, the last.
            kept = [rows[-_RECENT:] for rows in rows_of.values()]
            rows = np.concatenate([np.array(part) for part in kept])
            sizes = np.array([len(part) for part in kept])
            all_ = np.array([len(part) for part in rows_of.values()])
            place = np.repeat(places, sizes)
            first = np.repeat(self._counts[places, 0] + all_ - sizes - (np.cumsum(sizes) - sizes), sizes)
            slot = (first + np.arange(len(rows))) % _RECENT
            self._times[place, slot] = times[rows]
            self._values[place, slot, 0], self._values[place, slot, 1] = surprise[rows], evidence[rows]
            self._grades[place, slot] = [_GRADES[severity[row]] for row in rows.tolist()]
            self._counts[places, 0] += all_
            flagged = [row for row, grade in enumerate(severity) if grade != "none"]
            if flagged:
                np.add.at(self._counts[:, 1], [self._place[names[row]] for row in flagged], 1)

    def _locate(self, name: str, kind: str, group: str) -> int:
        """Place of a principal that is active now."""
        place = self._place.get(name)
        if place is not None:
            self._place.move_to_end(name)
            return place
        if len(self._place) >= self._most:
            place = self._place.popitem(last=False)[1]
        elif self._free:
            place = self._free.pop()
        else:
            place = len(self._who)
            self._who.append((kind, group))
            if place >= len(self._counts):
                more = max(64, place // 2)
                self._counts, self._times, self._values, self._grades = (
                    np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)])
                    for array in (self._counts, self._times, self._values, self._grades)
                )
        self._who[place], self._counts[place] = (kind, group), 0
        self._place[name] = place
        return place

    def _recent(self, place: int) -> list[RecentAction]:
        """The last actions of a principal, newest first."""
        actions = int(self._counts[place, 0])
        slots = [number % _RECENT for number in reversed(range(max(actions - _RECENT, 0), actions))]
        return [
            RecentAction(
                time=as_moment(int(self._times[place, slot])),
                surprise=round(float(self._values[place, slot, 0]), 3),
                evidence=round(float(self._values[place, slot, 1]), 3),
                severity=SEVERITIES[self._grades[place, slot]],
            )
            for slot in slots
        ]

    def snapshot(self) -> list[Saved]:
        """Everything, those idle longest first; inverse of `restore`."""
        with self._lock:
            return [self._saved(name, place) for name, place in self._place.items()]

    def pop(self, names: Iterable[str]) -> dict[str, Saved]:
        """Remove some principals and return what is known of those that did something."""
        taken: dict[str, Saved] = {}
        with self._lock:
            for name in names:
                place = self._place.pop(name, None)
                if place is not None:
                    taken[name] = self._saved(name, place)
                    self._free.append(place)
        return taken

    def restore(self, saved: Iterable[Saved], since: datetime | None = None) -> None:
        """Restore what `snapshot` or `pop` returned, and when counting began."""
        with self._lock:
            self.since = since or self.since
            for name, kind, group, counts, times, values, grades in saved:
                place = self._locate(name, kind, group)
                self._counts[place] = np.frombuffer(counts, np.int64)
                self._times[place] = np.frombuffer(times, np.int64)
                self._values[place] = np.frombuffer(values, np.float32).reshape(_RECENT, 2)
                self._grades[place] = np.frombuffer(grades, np.int8)

    def _saved(self, name: str, place: int) -> Saved:
        arrays = (self._counts, self._times, self._values, self._grades)
        return name, *self._who[place], *(array[place].tobytes() for array in arrays)

    def report(self, name: str) -> PrincipalReport | None:
        """What is known of a principal, without its alerts; None if nothing is."""
        trained = self.trained
        with self._lock:
            is_here = name in self._place
        if not is_here and (found := self._lookup_cold(name)) is not None:
            kept = Principals(trained)
            kept.restore([found], self.since)
            return kept.report(name)
        with self._lock:
            place = self._place.get(name)
            recent = [] if place is None else self._recent(place)
            actions, flagged = (0, 0) if place is None else self._counts[place].tolist()
            kind, group = (None, trained.group_of.get(name)) if place is None else self._who[place]
        if group is None:
            return None
        known = name in trained.group_of
        in_training = trained.last.get(name)
        trained_last = None if in_training is None else as_moment(in_training)
        last = max((action.time for action in recent), default=trained_last)
        others = (other for other, its in trained.group_of.items() if its == group and other != name)
        peers = [clean(other) for other in islice(others, _MAX_PEERS)]
        return PrincipalReport(
            principal=clean(name),
            kind=kind or trained.kind(name),
            peer_group=clean(group),
            in_training=known,
            peer_count=max(trained.sizes.get(group, 0) - known, 0),
            peers=peers,
            since=self.since,
            actions=actions,
            flagged=flagged,
            last_seen=last,
            recent=recent,
        )
