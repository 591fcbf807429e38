"""Folds the stages of one request into one action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

import numpy as np

from data.actions.recent_hashes import Hashes, Remembered, digests_of
from data.events.audit_event import AuditEvent

_AUDIT_ID, _URI, _STAGE = attrgetter("auditID"), attrgetter("requestURI"), attrgetter("stage")
_USERNAME, _VERB = attrgetter("user.username"), attrgetter("verb")
_RECEIVED = attrgetter("requestReceivedTimestamp")


class StageFolder:
    """Picks the event of each request that becomes its action; the other stages and repeats are folded into it.

    A request is identified by `requestReceivedTimestamp`, which only the server sets, with the audit ID, the caller, the verb and
    the URI: a client can choose its own Audit-ID. A hash of eight bytes is kept of these for the last `capacity` requests; two of
    them collide in less than one of 10^13. With a `key` the hashes can be saved for another process; without, they take half the
    time.
    """

    def __init__(self, capacity: int = 200_000, key: bytes | None = None) -> None:
        self.key = key
        self._capacity = capacity
        self._seen = Remembered(capacity)

    def first(self, events: Sequence[AuditEvent], times: Sequence[str]) -> list[bool]:
        """Whether each event, in arrival order with the time of its request, is the first with an outcome: the action."""
        parts = (map(part, events) for part in (_URI, _USERNAME, _VERB))
        requests = zip(map(_AUDIT_ID, events), times, *parts, strict=True)
        if self.key is None:
            hashes = np.array([*map(hash, requests)], np.int64).view(np.uint64)
        else:
            keys = ("\0".join(request).encode("utf-8", "surrogatepass") for request in requests)
            hashes = digests_of(keys, self.key)
        # The first stage has no outcome; another follows.
        has_outcome = [stage != "RequestReceived" for stage in map(_STAGE, events)]
        answers = self._seen.first(hashes, has_outcome)
        self._seen.add(hashes[np.array(has_outcome, bool)])
        return answers

    def checkpoint(self) -> Callable[[], None]:
        """Returns what forgets all requests that are new from now on; see `Remembered.checkpoint`."""
        return self._seen.checkpoint()

    def copy(self) -> StageFolder:
        """Independent copy."""
        made = StageFolder(self._capacity, self.key)
        made._seen = self._seen.copy()
        return made

    def to_arrays(self) -> list[Hashes]:
        """Remembered hashes, oldest first; of use only with a key."""
        return self._seen.to_arrays()

    @classmethod
    def from_arrays(cls, key: bytes, saved: Sequence[Hashes]) -> StageFolder:
        """Inverse of `to_arrays`."""
        folder = cls(key=key)
        folder._seen = Remembered.from_arrays(folder._capacity, saved)
        return folder


def event_times(events: Sequence[AuditEvent]) -> list[str]:
    """When each request was received; the time of its stage where the log lacks that."""
    times = list(map(_RECEIVED, events))
    if all(times):
        return times
    return [time or event.stageTimestamp for time, event in zip(times, events, strict=True)]
