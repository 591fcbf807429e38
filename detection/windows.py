"""The last actions of each principal, from which the window of every new action is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

from data.actions.fields import FIELDS, gap_codes
from data.actions.vocabulary import SPECIALS
from data.arrays import runs

Ints = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.int16]

_GAP = len(FIELDS) - 1
_NEVER = np.iinfo(np.int64).min
_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Contexts:
    """The context of K principals as plain arrays: can be evicted while they are quiet.

    Attributes:
        tokens: int16 [K, W-1, F], their last actions, oldest first, padded with 0 at the end.
        lengths: int16 [K], actions there are.
        last: int64 [K], time of the last, microseconds since 1970 UTC.
    """

    names: list[str]
    tokens: Tokens
    lengths: npt.NDArray[np.int16]
    last: Ints


@dataclass(frozen=True, slots=True)
class Cut:
    """The windows of N new actions, as places in the actions they are made of: neighbours share most of theirs.

    Attributes:
        block: int16 [A, F], actions of all principals concerned, each principal's one after the other.
        first: int64 [N], row of `block` with which each window begins.
        lengths: int64 [N], actions in each; they follow each other in `block`, the newest last.
        whose: int64 [A], index of an action among the N by the principal that owns each row of `block`.
        window: the longest there may be.
        pauses: int64 [N], microseconds since the previous action of each one's principal; 0 for its first. Empty where not asked.
    """

    block: Tokens
    first: Ints
    lengths: Ints
    whose: Ints
    window: int
    pauses: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def tokens(self, rows: Ints | slice = slice(None)) -> Ints:
        """Some of the windows spelled out, int64 [n, W, F], padded with 0 at the end."""
        first, lengths = self.first[rows], self.lengths[rows]
        steps = np.arange(self.window)
        at = np.minimum(first[:, None] + steps, len(self.block) - 1)
        out: Ints = self.block[at].astype(np.int64)
        out[steps >= lengths[:, None]] = 0
        return out

    def keys(self, ids: Ints, groups: Ints) -> list[bytes]:
        """Cache key of each window: its tokens, principal and peer group, which determine its reconstruction error."""
        if not len(self.lengths):
            return []
        steps = np.arange(self.window)
        at = np.minimum(self.first[:, None] + steps, len(self.block) - 1)
        width = self.window * self.block.shape[1]
        keyed = np.empty((len(at), width + 4), np.int16)
        tokens = self.block[at]
        tokens[steps >= self.lengths[:, None]] = 0
        keyed[:, :width] = tokens.reshape(len(at), width)
        keyed[:, width:] = np.stack([ids, groups], axis=1).astype(np.int32).view(np.int16)
        return cast(list[bytes], keyed.view(np.dtype((np.void, keyed.strides[0]))).ravel().tolist())


class Windows:
    """Keeps the context of each principal, W-1 actions, in one array.

    Args:
        window: W, actions in a window with the newest.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._place: dict[str, int] = {}
        self._free: list[int] = []
        self._tokens = np.zeros((0, window - 1, len(FIELDS)), np.int16)
        self._lengths = np.zeros(0, np.int16)
        self._last = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, name: str) -> bool:
        return name in self._place

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self._tokens.nbytes + self._lengths.nbytes + self._last.nbytes

    def seed(self, name: str, tokens: Tokens, last: int) -> None:
        """Give a principal its context: int16 [n, F], and the time of the last of them."""
        kept = tokens[max(0, len(tokens) - self.window + 1) :]
        place = self._places([name])[0]
        self._tokens[place] = 0
        self._tokens[place, : len(kept)] = kept
        self._lengths[place], self._last[place] = len(kept), last

    def cut(self, names: Sequence[str], tokens: npt.NDArray[np.int32], time: Ints) -> Cut:
        """Add new actions and return the window that ends with each. Fills in the gap column of the tokens, int32 [N, F]."""
        count, context = len(names), self.window - 1
        if not count:
            nothing = np.empty(0, np.int64)
            return Cut(np.empty((0, tokens.shape[1]), np.int16), nothing, nothing, nothing, self.window)
        places = self._places(names)
        if count == 1:
            return self._cut_one(int(places[0]), tokens, int(time[0]))
        order = places.argsort(kind="stable")
        ordered = places[order]
        begins, added = runs(ordered)
        who = ordered[begins]
        had = self._lengths[who].astype(np.int64)
        ends = np.cumsum(had + added)
        starts = ends - had - added  # in the block

        times = time[order]
        gaps = np.zeros(count, np.int64)
        np.maximum(times[1:] - times[:-1], 0, out=gaps[1:])
        last = self._last[who]
        gaps[begins] = np.where(last == _NEVER, -1, np.maximum(times[begins] - last, 0))
        tokens[order, _GAP] = gap_codes(gaps) + len(SPECIALS)

        block = np.empty((ends[-1], tokens.shape[1]), np.int16)
        here = np.arange(len(block))
        owner = np.repeat(np.arange(len(who)), had + added)
        step = here - starts[owner]
        old = step < had[owner]
        block[old] = self._tokens[who[owner[old]], step[old]]
        block[~old] = tokens[order]

        newest = np.empty(count, np.int64)
        newest[order] = here[~old]
        pauses = np.empty(count, np.int64)
        pauses[order] = np.maximum(gaps, 0)
        start = np.empty(count, np.int64)
        start[order] = np.repeat(starts, added)
        first = np.maximum(newest - context, start)

        keeps = np.minimum(had + added, context)
        steps = np.arange(context)
        self._tokens[who] = block[np.minimum((ends - keeps)[:, None] + steps, len(block) - 1)]
        self._lengths[who] = keeps
        self._last[who] = times[begins + added - 1]
        return Cut(block, first, newest - first + 1, order[begins[owner]], self.window, pauses)

    def _cut_one(self, place: int, tokens: npt.NDArray[np.int32], time: int) -> Cut:
        """As `cut` for a single action, in a third of the time."""
        had, last = int(self._lengths[place]), int(self._last[place])
        gap = -1 if last == _NEVER else max(time - last, 0)
        tokens[0, _GAP] = gap_codes(np.array([gap]))[0] + len(SPECIALS)
        block = np.empty((had + 1, tokens.shape[1]), np.int16)
        block[:had] = self._tokens[place, :had]
        block[had] = tokens[0]
        first = max(had + 1 - self.window, 0)
        keeps = min(had + 1, self.window - 1)
        self._tokens[place, :keeps] = block[had + 1 - keeps :]
        self._lengths[place], self._last[place] = keeps, time
        one = np.array([first, had + 1 - first])
        pauses = np.array([max(gap, 0)])
        return Cut(block, one[:1], one[1:], np.zeros(had + 1, np.int64), self.window, pauses)

    def append(self, names: Sequence[str], tokens: npt.NDArray[np.int32], time: Ints) -> tuple[Ints, Ints]:
        """As `cut`, with the windows spelled out: int64 [N, W, F] padded with 0 at the end, and lengths int64 [N]."""
        cut = self.cut(names, tokens, time)
        return cut.tokens(), cut.lengths

    def contexts(self, names: Sequence[str] | None = None) -> Contexts:
        """The context of some principals, or of all; names that are not known are left out."""
        known = [name for name in (self._place if names is None else names) if name in self._place]
        places = np.array([self._place[name] for name in known], np.int64)
        tokens, lengths = self._tokens[places], self._lengths[places]
        tokens[np.arange(self.window - 1) >= lengths[:, None]] = 0
        return Contexts(known, tokens, lengths, self._last[places])

    def pop(self, names: Sequence[str]) -> Contexts:
        """Remove some principals and return their context."""
        taken = self.contexts(names)
        self._free += [self._place.pop(name) for name in taken.names]
        return taken

    def restore(self, contexts: Contexts) -> None:
        """Give principals the context that `contexts` or `pop` returned; what they had since is replaced."""
        places = self._places(contexts.names)
        self._tokens[places] = contexts.tokens
        self._lengths[places], self._last[places] = contexts.lengths, contexts.last

    def _places(self, names: Sequence[str]) -> Ints:
        """Row of each principal, int64 [N]; newcomers get one."""
        known = self._place
        for name in names:
            if name not in known:
                place = known[name] = self._free.pop() if self._free else len(known)
                if place >= len(self._last):
                    self._grow(place + 1)
                self._lengths[place], self._last[place] = 0, _NEVER
        return np.array([known[name] for name in names], np.int64)

    def _grow(self, least: int) -> None:
        size = max(least, int(_GROWTH * len(self._last)), 64) - len(self._last)
        shape = (size, self.window - 1, self._tokens.shape[2])
        self._tokens = np.concatenate([self._tokens, np.zeros(shape, np.int16)])
        self._lengths = np.concatenate([self._lengths, np.zeros(size, np.int16)])
        self._last = np.concatenate([self._last, np.zeros(size, np.int64)])
