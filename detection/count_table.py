"""Counts of 64-bit keys in flat arrays: a hash table that looks up, counts and grows by whole batches.

A dictionary of Python integers takes about 100 bytes an entry, this about 28, and a batch of thousands of keys costs a few array
operations. Open addressing with double hashing (Knuth, TAOCP volume 3, 6.4): the longest search of a batch counts, and where
searches went on place by place, it was a hundred places long. Keys are taken to be well mixed hashes.
"""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt

from data.arrays import runs

Keys = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Owners = npt.NDArray[np.int32]
Entries = tuple[Keys, Ints, Owners]

#: Owner of an entry that belongs to no one in particular.
NOBODY = -1

_LEAST = 1024
#: Share of places taken from which on the table grows: beyond it, searches become long.
_FULL = 0.7
_GROWTH = 1.5
_MOST = np.iinfo(np.uint32).max
_HALF = np.uint64(32)
_EMPTY, _LEAST_KEY = np.uint64(0), np.uint64(1)
#: New in every process: who knows how keys are made must not be able to crowd one place and make all searches long.
_SALT = np.uint64(secrets.randbits(64) | 1)
#: Takes 32 bits to all others in turn, with any odd number added (Knuth, TAOCP volume 2, 3.2.1.2): a search sees every place.
_ONWARDS = np.uint32(1664525)


class CountTable:
    """Key -> count, up to 2^32 - 1 and no further, with an owner for each entry.

    The least key marks an empty place; a hash of that value is taken for its neighbour. What is removed keeps its place with a
    count of 0 until the table is rebuilt: what comes and goes again and again finds it, and searches get no longer.
    """

    __slots__ = ("_counts", "_keys", "_owners", "_removed", "_size")

    def __init__(self, entries: int = 0) -> None:
        """Make room for so many entries."""
        self._allocate(entries)

    def _allocate(self, entries: int) -> None:
        places = max(_LEAST, int(entries / _FULL) + 1)
        self._keys = np.zeros(places, np.uint64)
        self._counts = np.zeros(places, np.uint32)
        self._owners = np.full(places, NOBODY, np.int32)
        self._size = self._removed = 0

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self._keys.nbytes + self._counts.nbytes + self._owners.nbytes

    def get(self, keys: Keys) -> Ints:
        """Count of each key, 0 for one that is not there. int64 [n]."""
        return self._find(np.maximum(keys, _LEAST_KEY))[1]

    def add(self, keys: Keys, owners: Owners | None = None) -> Ints:
        """Count each key once more, in order; a key may occur several times. New entries get the owners given.

        Returns:
            The count of each before, those of earlier places in `keys` included. int64 [n].
        """
        if not len(keys):
            return np.empty(0, np.int64)
        keys = np.maximum(keys, _LEAST_KEY)
        order = keys.argsort(kind="stable")
        ordered = keys[order]
        begins, times = runs(ordered)
        distinct = ordered[begins]
        at, counts = self._find(distinct)
        found = counts > 0
        before = np.empty(len(keys), np.int64)
        before[order] = np.repeat(counts - begins, times) + np.arange(len(keys))
        self._counts[at[found]] = np.minimum(counts[found] + times[found], _MOST)
        if not found.all():
            new = ~found
            whose = None if owners is None else owners[order[begins[new]]]
            self._insert(distinct[new], times[new], whose)
        return before

    def subtract(self, keys: Keys) -> None:
        """Undo `add`: count each key once less, and remove the entries that come to nothing."""
        if not len(keys):
            return
        ordered = np.sort(np.maximum(keys, _LEAST_KEY))
        begins, times = runs(ordered)
        at, counts = self._find(ordered[begins])
        found = counts > 0
        at, left = at[found], counts[found] - times[found]
        self._counts[at] = np.maximum(left, 0)
        self._remove(at[left <= 0])

    def merge(
        self, keys: Keys, counts: npt.NDArray[np.integer], owners: Owners | None, *, greater: bool = False
    ) -> None:
        """Add entries, each key once; counts of a key that is there already add up, or the greater of both stays.

        Args:
            owners: int32 [n], of the entries that are new; None for nobody.
        """
        keys, counts = np.maximum(keys, _LEAST_KEY), counts.astype(np.int64)
        at, before = self._find(keys)
        found = before > 0
        combine = np.maximum if greater else np.add
        self._counts[at[found]] = np.minimum(combine(before[found], counts[found]), _MOST)
        new = ~found
        self._insert(keys[new], counts[new], None if owners is None else owners[new])

    def entries(self) -> Entries:
        """Keys, counts and owners of all entries, in the order of their keys."""
        places = self._taken_places()
        return self._at(places[np.argsort(self._keys[places])])

    def _at(self, places: Ints) -> Entries:
        return self._keys[places], self._counts[places].astype(np.int64), self._owners[places]

    def changed(self, copy: CountTable) -> Entries:
        """Keys, counts and owners of the entries that changed since a copy was taken, and perhaps of some that did not.

        Places are compared, not keys: it takes a tenth of the time. If the table was rebuilt since, all are returned.
        """
        if len(copy._keys) == len(self._keys):
            differs = (self._keys != copy._keys) | (self._counts != copy._counts)
            places = np.flatnonzero(differs & (self._counts > 0))
        else:
            places = self._taken_places()
        return self._at(places)

    def take(self, keys: Keys) -> Entries:
        """Remove the entries of some keys, each given once, and return those that were there."""
        at, counts = self._find(np.maximum(keys, _LEAST_KEY))
        at = at[counts > 0]
        taken = self._at(at)
        self._remove(at)
        return taken

    def pop(self, owned: npt.NDArray[np.bool_]) -> Entries:
        """Remove the entries of the owners marked in `owned`, bool [owners]; costs a look at the owner of every entry."""
        # The last one is for nobody, whose number counts from the end.
        gone = np.flatnonzero(np.append(owned, False)[self._owners])
        taken = self._at(gone)
        self._remove(gone)
        return taken

    def _remove(self, places: Ints) -> None:
        self._counts[places], self._owners[places] = 0, NOBODY
        self._size -= len(places)
        self._removed += len(places)

    def forget_rare(self, entries: int) -> None:
        """Drop what was counted least until at most so many entries are left: what happened once says least."""
        places = self._taken_places()
        if len(places) <= entries:
            return
        often = np.argsort(self._counts[places], kind="stable")[len(places) - entries :]
        self._keep(places[often])

    def copy(self) -> CountTable:
        """Independent copy."""
        other = CountTable.__new__(CountTable)
        other._keys, other._counts = self._keys.copy(), self._counts.copy()
        other._owners, other._size, other._removed = self._owners.copy(), self._size, self._removed
        return other

    def _taken_places(self) -> Ints:
        """Places that hold an entry."""
        return np.flatnonzero(self._counts)

    def _keep(self, places: Ints) -> None:
        """Rebuild the table from some of its places."""
        keys, counts, owners = self._keys[places], self._counts[places], self._owners[places]
        self._allocate(int(len(keys) * _GROWTH))
        self._insert(keys, counts, owners)

    def _find(self, keys: Keys) -> tuple[Ints, Ints]:
        """Place of each key and its count; of one that is not there, 0 and the place that it would have."""
        salted, places = keys * _SALT, np.uint64(len(self._keys))
        spread = salted >> _HALF
        at = ((spread * places) >> _HALF).astype(np.int64)  # scaled to the size of the table
        held = self._keys[at]
        open_ = ((held != keys) & (held != _EMPTY)).nonzero()[0]
        wanted, spread, step = (
            keys[open_],
            spread[open_].astype(np.uint32),
            salted[open_].astype(np.uint32) | 1,
        )
        while len(open_):
            spread = spread * _ONWARDS + step
            at[open_] = here = ((spread * places) >> _HALF).astype(np.int64)
            held[open_] = there = self._keys[here]
            on = ((there != wanted) & (there != _EMPTY)).nonzero()[0]
            open_, wanted, spread, step = open_[on], wanted[on], spread[on], step[on]
        return at, np.where(held == keys, self._counts[at], 0).astype(np.int64)

    def _insert(self, keys: Keys, counts: npt.NDArray[np.integer], owners: Owners | None) -> None:
        """Add entries that are not there, each once."""
        if not len(keys):
            return
        if self._size + self._removed + len(keys) > _FULL * len(self._keys):
            old = self._taken_places()
            held = self._keys[old], self._counts[old], self._owners[old]
            self._allocate(int(_GROWTH * (self._size + len(keys))))
            self._insert(*held)
        self._size += len(keys)
        rest = np.arange(len(keys))
        while len(rest):
            at, _ = self._find(keys[rest])
            self._removed -= int((self._keys[at] == keys[rest]).sum())
            self._keys[at] = keys[rest]  # of several that end at one place, the last gets it
            won = self._keys[at] == keys[rest]
            places, rows = at[won], rest[won]
            self._counts[places] = np.minimum(counts[rows], _MOST)
            self._owners[places] = NOBODY if owners is None else owners[rows]
            rest = rest[~won]
