"""Columns of actions while they are judged: what is known of each so far, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.attributes import HASHED
from data.actions.recent_hashes import Hashes
from detection.calibration import ActionEvidence, ActionFeatures
from detection.novelty import MATURE, PriorCounts
from detection.probation import HeldRows

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Rows = slice | Ints


@dataclass(frozen=True, slots=True)
class ActionColumns:
    """N actions, as far as judging them needs it.

    Attributes:
        names, kinds: who acted.
        name_hashes, group_hashes: uint64 [N], stable hashes of the principal and of its peer group.
        attributes: uint64 [N, attributes].
        tokens: int [N, F].
        time: int64 [N], microseconds.
        sensitivity: int8 [N].
        nll: float32 [N, F].
        members: int64 [N], principals of the peer group that training knew; 0 where that is not to count.
        excepted: int64 [N], index of the exception that allows each; -1 for none.
        strange: bool [N], whether the hour is strange to the principal (`detection.own_week`).
    """

    names: Sequence[str]
    kinds: Sequence[str]
    name_hashes: Hashes
    group_hashes: Hashes
    attributes: Hashes
    tokens: npt.NDArray[np.integer[Any]]
    time: Ints
    sensitivity: npt.NDArray[np.int8]
    nll: npt.NDArray[np.float32]
    members: Ints
    excepted: Ints
    strange: Flags

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> ActionColumns:
        """Some of the actions."""
        return ActionColumns(*(getattr(self, one.name)[rows] for one in fields(self)))

    def select(self, rows: Ints) -> ActionColumns:
        """Some of the actions, by their rows."""
        names, kinds = ([column[row] for row in rows.tolist()] for column in (self.names, self.kinds))
        return ActionColumns(names, kinds, *(getattr(self, one.name)[rows] for one in fields(self)[2:]))

    def counted(self, rows: Rows) -> tuple[Hashes, Hashes, Hashes]:
        """Some of the actions, as habits count them."""
        return self.attributes[rows, :HASHED], self.name_hashes[rows], self.group_hashes[rows]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Columns over N judged actions.

    Attributes:
        known: what was known before each; of what is on probation, what counts as known.
        levels: int8 [N, attributes], novelty levels.
        novelty, error, novelty_evidence, error_evidence: as of `detection.calibration.ActionEvidence`.
        evidence, threshold: float64 [N], decades.
        flagged: bool [N].
        repeat: bool [N], flagged for nothing but what is on probation.
        first: int64 [N], when what a repeat repeats was flagged, microseconds; 0 for others.
        deed: float64 [N], rarity of what is new apart from client and place, decades.
        allowed: float64 [N], evidence of what an exception kept from being flagged; 0 for others.
    """

    known: PriorCounts
    levels: npt.NDArray[np.int8]
    novelty: Floats
    error: Floats
    novelty_evidence: Floats
    error_evidence: Floats
    evidence: Floats
    threshold: Floats
    flagged: Flags
    repeat: Flags
    first: Ints
    deed: Floats
    allowed: Floats

    @classmethod
    def empty(cls, known: PriorCounts) -> Judgement:
        """Of actions that are not judged yet; `known` is kept and not copied."""
        columns: dict[str, npt.NDArray[Any]] = {
            one.name: np.zeros(len(known.actions)) for one in fields(cls)[2:]
        }
        columns |= {name: np.zeros(len(known.actions), bool) for name in ("flagged", "repeat")}
        columns["first"] = np.zeros(len(known.actions), np.int64)
        return cls(known=known, levels=np.zeros(known.own.shape, np.int8), **columns)

    def __getitem__(self, rows: slice) -> Judgement:
        """That of some of the actions."""
        return Judgement(*(getattr(self, one.name)[rows] for one in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[Judgement]) -> Judgement:
        """One after the other; at least one part."""
        if len(parts) == 1:
            return parts[0]
        known = [[getattr(part.known, one.name) for part in parts] for one in fields(PriorCounts)]
        rest = [[getattr(part, one.name) for part in parts] for one in fields(cls)[1:]]
        return cls(PriorCounts(*map(np.concatenate, known)), *map(np.concatenate, rest))


class ActionChunk:
    """Consecutive actions while they are judged, and what is known of each so far.

    Attributes:
        part: the actions.
        count: number of actions that are judged here; the rest is left to the next chunk.
        computed_again: number of rows that were computed again so far.
        limits: float64 [N, horizons], evidence at which each is flagged.
        known: what the habits knew before each.
        own: int64 [N, attributes], the same of its principal, and of what is on probation what counts as known.
        held: bool [N, attributes], what the habits do not count.
        view: what probation says of each.
        counted: bool [N], whether the habits of its principal count it now.
        new: bool [N, attributes], what is new to its principal and counted by others when they do it.
        shared: bool [N, attributes], what the habits of peers and everybody count now.
        machinery, for_others: bool [N], as of `detection.calibration.ActionFeatures`.
        adds: bool [N], whether it adds evidence.
        changes: bool [N], whether probation or an exception decides about it.
        judged: what comes of it.
    """

    def __init__(self, part: ActionColumns, limits: Floats) -> None:
        size, width = part.attributes.shape
        self.part, self.count, self.limits, self.computed_again = part, size, limits, 0
        own, peers, anyone, self.own = (np.zeros((size, width), np.int64) for _ in range(4))
        self.known = PriorCounts(own, peers, anyone, np.zeros(size, np.int64))
        self.held = np.zeros((size, width), bool)
        self.view = HeldRows.nothing(size, width)
        self.new, self.shared, self.counted = *np.zeros((2, size, width), bool), np.zeros(size, bool)
        self.machinery, self.for_others = np.zeros(size, bool), np.zeros(size, bool)
        self.adds, self.changes = np.zeros(size, bool), np.zeros(size, bool)
        self.judged = Judgement.empty(PriorCounts(self.own, peers, anyone, self.known.actions))

    def held_of(self, rows: Rows) -> Flags | None:
        """What the habits do not count of some of the actions, bool [rows, attributes]; None for nothing."""
        held: Flags = self.held[rows, :HASHED]
        return held if held.any() else None

    def view_again(self, rows: Rows, view: HeldRows | None) -> None:
        """Note what probation says of some of the actions; None for nothing."""
        self.view.put(rows, view)
        self.held[rows] = False if view is None else view.held | view.crowded[:, None]

    def put_own(self, rows: Rows, own: Ints, actions: Ints) -> None:
        """Note what the principals of some of the actions did before."""
        known = self.known.own
        known[rows, :HASHED], self.known.actions[rows] = own, actions
        known[rows, HASHED:] = ~(self.part.strange[rows] & (actions >= MATURE))[:, None]
        self.counted[rows] = True
        self.new[rows, :HASHED] = new = own == 0
        for counts in (self.known.peers, self.known.anyone):  # of what is not new, nobody asks
            counts[rows, :HASHED] *= new
        self.own[rows] = np.where(self.view.held[rows], self.view.times[rows], known[rows])

    def put_shared(self, rows: Rows, places: Flags, peers: Ints, anyone: Ints) -> Flags:
        """Note what others did before some of the actions; returns of which that changed, bool [rows].

        Args:
            rows: of the actions.
            places: bool [rows, HASHED], what is noted.
            peers, anyone: int64 [rows, HASHED].
        """
        known, differs = self.known, np.zeros(len(peers), bool)
        for held, now in ((known.peers, peers), (known.anyone, anyone)):
            before = held[rows, :HASHED]
            differs |= (places & (before != now)).any(axis=1)
            held[rows, :HASHED] = np.where(places, now, before)
        self.shared[rows, :HASHED] |= places & ~self.held[rows, :HASHED]
        return differs

    def put_evidence(self, rows: Rows, features: ActionFeatures, weighed: ActionEvidence) -> None:
        """Note what some of the actions amount to."""
        judged = self.judged
        judged.levels[rows] = features.levels
        for one in fields(weighed):
            getattr(judged, one.name)[rows] = getattr(weighed, one.name)
        self.machinery[rows], self.for_others[rows] = features.machinery, features.for_others
        self.adds[rows] = adds = (weighed.novelty_evidence > 0) | (weighed.error_evidence > 0)
        view, excepted = self.view[rows], self.part.excepted[rows] >= 0
        decides = adds & (excepted | view.fresh | view.open) | view.due
        self.changes[rows] = decides & ~view.crowded

    def next_change(self, begin: int) -> int | None:
        """The first row from `begin` on at which probation or an exception decides."""
        found = self.changes[begin : self.count].nonzero()[0]
        return begin + int(found[0]) if len(found) else None
