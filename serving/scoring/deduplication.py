"""Recognises events that were sent before, by their whole content: a webhook that got no answer sends its batch again.

The audit ID alone is not enough: a client can choose its own, and could hide an action behind a used one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import msgspec

from data.actions.recent_hashes import Hashes, Remembered, digests_of
from data.events.audit_event import API_VERSIONS, AuditEvent

KEY_BYTES = 16
_encode = msgspec.msgpack.Encoder().encode


def event_digests(events: Sequence[AuditEvent], key: bytes) -> Hashes:
    """Keyed hash of all that was decoded of each event, uint64 [N]; the same for its copies from a webhook and from a log.

    An item of a webhook's list has no API version of its own, a line of a log has: events without one are given it.
    """
    for event in events:
        if not event.apiVersion:
            event.apiVersion = API_VERSIONS[0]
    return digests_of(map(_encode, events), key)


class EventDeduplicator:
    """Remembers the last events, eight bytes each: a keyed digest of all that was decoded of an event.

    With two million remembered, one event in 10^13 is mistaken for another.

    Args:
        capacity: events remembered at the least; a third more at the most.
        key: of a memory to continue; a new secret one by default.
    """

    def __init__(self, capacity: int, key: bytes | None = None) -> None:
        self.key = key or secrets.token_bytes(KEY_BYTES)
        self._seen = Remembered(capacity)

    def checkpoint(self) -> Callable[[], None]:
        """Returns what forgets all events that are new from now on; to be called before the next checkpoint, if at all."""
        return self._seen.checkpoint()

    def first(self, events: Sequence[AuditEvent]) -> list[bool]:
        """Whether each event is seen for the first time; all are remembered."""
        if not events:
            return []
        digests = event_digests(events, self.key)
        answers = self._seen.first(digests)
        self._seen.add(digests)
        return answers

    def to_arrays(self) -> list[Hashes]:
        """What is remembered, oldest first; each array sorted. They are not changed afterwards."""
        return self._seen.to_arrays()

    @classmethod
    def from_arrays(cls, capacity: int, key: bytes, saved: Sequence[Hashes]) -> EventDeduplicator:
        """Continue a memory: inverse of `to_arrays`."""
        continued = cls(capacity, key)
        continued._seen = Remembered.from_arrays(capacity, saved)
        return continued
