"""Makes one action of the stages of one request."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import numpy as np

from data.audit_event import AuditEvent
from data.remembered import Hashes, Remembered, digests_of

_AUDIT_ID, _URI, _STAGE = attrgetter("auditID"), attrgetter("requestURI"), attrgetter("stage")
_USERNAME, _VERB = attrgetter("user.username"), attrgetter("verb")
_RECEIVED = attrgetter("requestReceivedTimestamp")


class StageFolder:
    """Makes one action of the stages of one request, and recognises repeats.

    A request is identified by what the server alone sets (`requestReceivedTimestamp`) together with the audit ID, the
    caller, the verb and the URI: a client can choose its own Audit-ID, so that alone proves nothing. Kept of each is a keyed hash
    of these, eight bytes: with a full memory, two requests are taken for one in less than one of 10^13.

    Args:
        capacity: requests remembered at the least; a third more at the most.
        key: makes hashes that mean the same in another process, for a memory that is to be saved; without one they are those of
            this process alone, which takes half the time.
    """

    def __init__(self, capacity: int = 200_000, key: bytes | None = None) -> None:
        self.key = key
        self._capacity = capacity
        self._seen = Remembered(capacity)

    def first(self, events: Sequence[AuditEvent], times: Sequence[str]) -> list[bool]:
        """Of each event, whether it is the first that tells of its request and so becomes the action.

        Args:
            events: events in arrival order.
            times: when the request of each was received.
        """
        requests = zip(
            map(_AUDIT_ID, events),
            times,
            map(_URI, events),
            map(_USERNAME, events),
            map(_VERB, events),
            strict=True,
        )
        if self.key is None:
            hashes = np.array([*map(hash, requests)], np.int64).view(np.uint64)
        else:
            told_of = ("\0".join(request).encode("utf-8", "surrogatepass") for request in requests)
            hashes = digests_of(told_of, self.key)
        # The first stage says nothing of the outcome; another follows.
        told = [stage != "RequestReceived" for stage in map(_STAGE, events)]
        answers = self._seen.first(hashes, told)
        self._seen.add(hashes[np.array(told, bool)])
        return answers

    def copy(self) -> StageFolder:
        """Independent copy."""
        made = StageFolder(self._capacity, self.key)
        made._seen = self._seen.copy()
        return made

    def is_first(self, event: AuditEvent) -> bool:
        """As `first`, for one event."""
        return self.first([event], event_times([event]))[0]

    def to_arrays(self) -> list[Hashes]:
        """What is remembered, oldest first; it means something only with a key."""
        return self._seen.to_arrays()

    @classmethod
    def from_arrays(cls, key: bytes, saved: Sequence[Hashes]) -> StageFolder:
        """Inverse of `to_arrays`."""
        folder = cls(key=key)
        folder._seen = Remembered.from_arrays(folder._capacity, saved)
        return folder


def event_times(events: Sequence[AuditEvent]) -> list[str]:
    """When each request was received; where the log does not say, when its stage was."""
    times = list(map(_RECEIVED, events))
    if all(times):
        return times
    return [time or event.stageTimestamp for time, event in zip(times, events, strict=True)]
