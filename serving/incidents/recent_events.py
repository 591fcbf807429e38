"""The last actions of all principals, packed, so that an alert can show what came before a flagged action."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from data.events.audit_event import AuditEvent, ObjectRef, Status, User

if TYPE_CHECKING:
    from detection.detector import Scores

_NAMES = (
    *("auditID", "verb", "requestURI", "impersonatedUser", "sourceIPs", "userAgent", "objectRef"),
    *("responseStatus", "user.username"),
)
_ACTED = attrgetter(*_NAMES)
_Acted = tuple[str, str, str, User | None, tuple[str, ...], str, ObjectRef | None, Status | None, str]
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Acted).decode


class RecentEvent(NamedTuple):
    """What is kept of a request, by the names of audit.k8s.io; `time` is microseconds since 1970 UTC.

    `username` is that of `user`.
    """

    auditID: str
    verb: str
    requestURI: str
    impersonatedUser: User | None
    sourceIPs: tuple[str, ...]
    userAgent: str
    objectRef: ObjectRef | None
    responseStatus: Status | None
    username: str
    time: int

    @classmethod
    def from_event(cls, event: AuditEvent, time: int) -> RecentEvent:
        """What is kept of an event."""
        return cls._make((*_ACTED(event), time))


@dataclass(frozen=True, slots=True)
class _EventBatch:
    principal: Sequence[str]
    time: npt.NDArray[np.int64]
    first: int
    last: int
    packed: (
        bytes  # one behind the other: thousands of small objects would leave holes in the heap when they go
    )
    ends: npt.NDArray[np.int64]  # of each in `packed`

    def event(self, row: int) -> RecentEvent:
        """One of the actions."""
        begin = int(self.ends[row - 1]) if row else 0
        acted = _unpack(memoryview(self.packed)[begin : int(self.ends[row])])
        return RecentEvent._make((*acted, int(self.time[row])))


class RecentEvents:
    """The last actions, in the order of arrival.

    Args:
        capacity: number of actions, up to one batch more; about 400 bytes each.
    """

    def __init__(self, capacity: int = 20_000) -> None:
        self._capacity = capacity
        self._parts: deque[_EventBatch] = deque()
        self._held = 0

    def append(self, events: Sequence[AuditEvent], scores: Scores) -> None:
        """Add the actions of one call of the detector."""
        count = len(scores.event)
        if not count:
            return
        acted = events if count == len(events) else [events[index] for index in scores.event.tolist()]
        packed = list(map(_pack, map(_ACTED, acted)))
        time, ends = scores.time.astype(np.int64), np.cumsum([*map(len, packed)])
        part = _EventBatch(scores.principal, time, int(time.min()), int(time.max()), b"".join(packed), ends)
        self._parts.append(part)
        self._held += count
        while self._held - len(self._parts[0].principal) >= self._capacity:
            self._held -= len(self._parts.popleft().principal)

    def of_principal(self, principal: str, since: int, until: int) -> list[RecentEvent]:
        """Actions of a principal in a span of time (microseconds, both ends included), oldest first."""
        found = [
            part.event(row)
            for part in self._parts
            if part.last >= since and part.first <= until
            for row in _places(part.principal, principal)
            if since <= part.time[row] <= until
        ]
        return sorted(found, key=lambda one: one.time)


def _places(names: Sequence[str], name: str) -> Iterator[int]:
    """Where a name stands among many."""
    at = -1
    with suppress(ValueError):
        while True:
            at = names.index(name, at + 1)
            yield at
