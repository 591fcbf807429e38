"""Remembers the last 64-bit hashes in bounded memory, eight bytes each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

#: Hashes in a set before they are packed into an array, a tenth of the size.
_LIVE = 1 << 14
_GENERATIONS = 4


def digests_of(texts: Iterable[bytes], key: bytes) -> Hashes:
    """Keyed hash of each text, uint64 [N]: without the key nobody can construct a text with the hash of another."""
    joined = b"".join([blake2b(text, digest_size=8, key=key).digest() for text in texts])
    return np.frombuffer(joined, "<u8").astype(np.uint64)


class Remembered:
    """Remembers the last hashes: `capacity` at the least, a third more at the most."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._live: set[int] = set()
        self._packed: list[Hashes] = []  # each sorted and never changed; oldest first
        self._since: list[set[int]] | None = None  # new hashes since `checkpoint`

    def first(self, hashes: Hashes, counted: Sequence[bool] | None = None) -> list[bool]:
        """Whether each hash of uint64 [N] is new; those not `counted` are not, and make no other one old. See `add`."""
        known = np.zeros(len(hashes), bool) if counted is None else ~np.asarray(counted, bool)
        for packed in self._packed:
            at = np.searchsorted(packed, hashes)
            known |= packed[np.minimum(at, len(packed) - 1)] == hashes
        live, here, answers = self._live, set[int](), []
        for value, before in zip(hashes.tolist(), known.tolist(), strict=True):
            is_new = not (before or value in live or value in here)
            answers.append(is_new)
            if is_new:
                here.add(value)
        if self._since is not None:
            self._since.append(here)
        return answers

    def checkpoint(self) -> Callable[[], None]:
        """Returns what forgets all hashes that are new from now on; to be called before the next checkpoint, if at all."""
        live, packed = self._live, list(self._packed)
        since = self._since = []

        def undo() -> None:
            live.difference_update(*since)
            self._live, self._packed = live, packed

        return undo

    def add(self, hashes: Hashes) -> None:
        """Remember hashes."""
        self._live.update(hashes.tolist())
        if len(self._live) >= min(_LIVE, self._capacity):
            self._pack()

    def _pack(self) -> None:
        fresh, self._live = _sorted(self._live), set()
        if self._packed and len(self._packed[-1]) + len(fresh) <= self._capacity // _GENERATIONS:
            self._packed[-1] = np.sort(np.concatenate([self._packed[-1], fresh]), kind="stable")
        else:
            self._packed.append(fresh)
        while sum(map(len, self._packed[1:])) >= self._capacity:
            del self._packed[0]

    def copy(self) -> Remembered:
        """Independent copy."""
        return Remembered.from_arrays(self._capacity, self.to_arrays())

    def to_arrays(self) -> list[Hashes]:
        """What is remembered, oldest first; each array sorted. They are not changed afterwards."""
        return [*self._packed, _sorted(self._live)]

    @classmethod
    def from_arrays(cls, capacity: int, saved: Sequence[Hashes]) -> Remembered:
        """Inverse of `to_arrays`."""
        made = cls(capacity)
        *packed, live = saved
        made._packed = [np.sort(array) for array in packed if len(array)]
        made._live = set(live.tolist())
        return made


def _sorted(hashes: set[int]) -> Hashes:
    return np.sort(np.fromiter(hashes, np.uint64, len(hashes)))
