"""Recognises events that were sent before, by all they say: a webhook that got no answer sends its batch again.

The audit ID alone would not do: a client can choose its own, and would hide what it does behind one that was used.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from hashlib import blake2b

import msgspec
import numpy as np
import numpy.typing as npt

from data.events import AuditEvent

KEY_BYTES = 16
_DIGEST_BYTES = 8
_LIVE = 1 << 16
"""Digests in a set before they are packed into an array, a tenth of the size."""

_GENERATIONS = 4
_encode = msgspec.msgpack.Encoder().encode

Digests = npt.NDArray[np.uint64]


class Repeats:
    """Remembers the last events, eight bytes each: a digest of all that was decoded of an event.

    The digest is keyed with what nobody outside knows. Of two million remembered, one event in 10^13 is taken for another.

    Args:
        capacity: events remembered at the least; a third more at the most.
        key: of a memory that is to be continued.
    """

    def __init__(self, capacity: int, key: bytes | None = None) -> None:
        self.key = key or secrets.token_bytes(KEY_BYTES)
        self._capacity = capacity
        self._live: set[int] = set()
        self._packed: list[Digests] = []  # each sorted; oldest first

    def first(self, events: Sequence[AuditEvent]) -> list[bool]:
        """Of each event, whether it is here for the first time. All are remembered."""
        if not events:
            return []
        key = self.key
        joined = b"".join(
            [blake2b(_encode(event), digest_size=_DIGEST_BYTES, key=key).digest() for event in events]
        )
        digests = np.frombuffer(joined, np.dtype("<u8")).astype(np.uint64)
        known = np.zeros(len(digests), bool)
        for packed in self._packed:
            at = np.searchsorted(packed, digests)
            known |= packed[np.minimum(at, len(packed) - 1)] == digests
        live, answers = self._live, []
        for digest, before in zip(digests.tolist(), known.tolist(), strict=True):
            answers.append(not (before or digest in live))
            live.add(digest)
        if len(live) >= min(_LIVE, self._capacity):
            self._pack()
        return answers

    def _pack(self) -> None:
        fresh = np.sort(np.fromiter(self._live, np.uint64, len(self._live)))
        self._live = set()
        if self._packed and len(self._packed[-1]) + len(fresh) <= self._capacity // _GENERATIONS:
            self._packed[-1] = np.sort(np.concatenate([self._packed[-1], fresh]), kind="stable")
        else:
            self._packed.append(fresh)
        while sum(map(len, self._packed[1:])) >= self._capacity:
            del self._packed[0]

    def to_arrays(self) -> list[Digests]:
        """What is remembered, oldest first; each array sorted. They are not changed afterwards."""
        return [*self._packed, np.sort(np.fromiter(self._live, np.uint64, len(self._live)))]

    @classmethod
    def from_arrays(cls, capacity: int, key: bytes, saved: Sequence[Digests]) -> Repeats:
        """Continue a memory: inverse of `to_arrays`."""
        repeats = cls(capacity, key)
        *packed, live = saved
        repeats._packed = [array for array in packed if len(array)]
        repeats._live = set(live.tolist())
        return repeats
