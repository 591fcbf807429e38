"""Judges actions in their order: novelty, evidence that adds up, flags, and what of it becomes a habit.

All rows are computed at once. Where an action is flagged, or changes what is on probation (`detection.probation`), those rows
after it are computed again whose counts may be others by then: the later actions of its principal, and all that are new to their
principal in anything, since only such rows look at what others did or add to it. So a batch is judged as its actions one by one
would be, at the cost of few rows more.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.recent_hashes import Hashes
from data.actions.vocabulary import Vocabulary
from detection.calibration import ActionEvidence, ActionFeatures, Calibration, stand_out
from detection.evidence import Accumulator
from detection.novelty import HabitTable, PriorCounts, counted_levels, roots
from detection.probation import HeldRows, Probation, Repeat, deed_hash
from detection.youth import ClusterYouth, short_history

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Rows = slice | Ints

#: Least number of rows that are computed at once, and how many rows are computed again at most for each row.
_STEP, _GROWTH = 16, 8
_ALL = slice(None)


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
        return self.attributes[rows], self.name_hashes[rows], self.group_hashes[rows]


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


@dataclass(frozen=True, slots=True)
class _News:
    """What is new about one action.

    Attributes:
        root: bool [attributes], news of its principal that follows from nothing broader.
        again: bool [attributes], what is on probation and new again.
        more: whether it is new in anything that is not on probation, or in nothing.
    """

    root: Flags
    again: Flags
    more: bool


class _Chunk:
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
        counted, shared: bool [N], whether the habits count it now: of its principal, and with its peers and everybody.
        novel: bool [N], whether it is new to its principal in anything; others are not counted with peers and everybody.
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
        self.counted, self.shared, self.novel = (np.zeros(size, bool) for _ in range(3))
        self.machinery, self.for_others = np.zeros(size, bool), np.zeros(size, bool)
        self.adds, self.changes = np.zeros(size, bool), np.zeros(size, bool)
        self.judged = Judgement.empty(PriorCounts(self.own, peers, anyone, self.known.actions))

    def held_of(self, rows: Rows) -> Flags | None:
        """What the habits do not count of some of the actions, bool [rows, attributes]; None for nothing."""
        held: Flags = self.held[rows]
        return held if held.any() else None

    def view_again(self, rows: Rows, view: HeldRows | None) -> None:
        """Note what probation says of some of the actions; None for nothing."""
        self.view.put(rows, view)
        self.held[rows] = False if view is None else view.held | view.crowded[:, None]

    def put_own(self, rows: Rows, own: Ints, actions: Ints) -> None:
        """Note what the principals of some of the actions did before."""
        self.known.own[rows], self.known.actions[rows] = own, actions
        self.counted[rows] = True
        self.novel[rows] = (own == 0).any(axis=1)
        self.own[rows] = np.where(self.view.held[rows], self.view.times[rows], own)

    def put_shared(self, rows: Rows, peers: Ints, anyone: Ints) -> Flags:
        """Note what others did before some of the actions; returns of which that is something else than before, bool [rows]."""
        known = self.known
        differs: Flags = ((known.peers[rows] != peers) | (known.anyone[rows] != anyone)).any(axis=1)
        known.peers[rows], known.anyone[rows] = peers, anyone
        self.shared[rows] = True
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


class ActionJudge:
    """Judges actions against habits, and brings these up to date.

    Args:
        calibration, vocabulary: of the bundle.
        habits, accumulator, probation: the state that it reads and changes.
        learning: the model is a starter: first actions count for nothing until there are peers to be compared with.
    """

    def __init__(
        self,
        calibration: Calibration,
        vocabulary: Vocabulary,
        habits: HabitTable,
        accumulator: Accumulator,
        probation: Probation,
        *,
        learning: bool = False,
    ) -> None:
        self._calibration = calibration
        self._vocabulary = vocabulary
        self._habits = habits
        self._accumulator = accumulator
        self._probation = probation
        self._youth = ClusterYouth(habits) if learning else None

    def judge(self, actions: ActionColumns, undo: ExitStack) -> Judgement:
        """Judge actions in order; `undo` gets what takes the habits back (not the sums and the probation)."""
        parts: list[Judgement] = []
        begin, size = 0, len(actions)
        while begin < len(actions) or not parts:
            part = actions[begin : begin + size]
            chunk = _Chunk(part, self._calibration.thresholds(part.kinds))
            undo.callback(self._uncount, chunk)
            self._judge(chunk, undo)
            parts.append(chunk.judged[: chunk.count])
            begin += chunk.count
            size = _GROWTH * size if chunk.count == len(part) else max(_STEP, chunk.count)
        return Judgement.concatenate(parts)

    def _judge(self, chunk: _Chunk, undo: ExitStack) -> None:
        """Judge actions in order; where too much would have to be computed again, those that are left over by `chunk.count`."""
        self._compute(chunk)
        begin = 0
        while True:
            upto, news, would = self._advance(chunk, begin, undo)
            if news is None:
                self._remember(chunk, begin, upto)
                return
            again = self._set_aside(chunk, upto)
            lost = self._probation.lost
            self._settle(chunk, begin, upto, news, would, undo)
            if self._probation.lost != lost:  # what is gone is of others, who are judged by it
                again = self._set_aside(chunk, upto, every=True)
            if upto == chunk.count:
                return
            if len(again[1]):
                self._compute(chunk, again)
            begin = upto

    def _compute(self, chunk: _Chunk, again: tuple[Ints, Ints] | None = None) -> None:
        """Count actions, and say what they amount to.

        Args:
            chunk: that they are of.
            again: for a part of them, rows that are counted for their principals, and rows that are counted with peers and
                everybody, as far as they are new in anything; the former are among the latter.
        """
        mine, novel = again or (_ALL, _ALL)
        part = chunk.part if again is None else chunk.part.select(again[0])
        about = part.names, part.attributes, part.time, part.sensitivity, part.excepted >= 0
        chunk.view_again(mine, self._probation.view(*about))
        own = self._habits.observe_own(part.attributes, part.name_hashes, chunk.held_of(mine))
        chunk.put_own(mine, *own)
        attributes, _, groups = chunk.part.counted(novel)
        counts = chunk.known.own[novel], chunk.held_of(novel)
        differs = chunk.put_shared(novel, *self._habits.observe_shared(attributes, groups, *counts))
        if again is None:
            self._weigh(chunk, _ALL, part)
            return
        rows = np.union1d(again[0], again[1][differs])
        chunk.computed_again += len(again[1])
        if len(rows):
            self._weigh(chunk, rows, chunk.part.select(rows))

    def _weigh(self, chunk: _Chunk, rows: Rows, part: ActionColumns) -> None:
        """Say what some of the actions amount to, by what was known before them."""
        known, view = chunk.known, chunk.view
        actions = known.actions[rows]
        features = ActionFeatures.from_counts(
            PriorCounts(chunk.own[rows], known.peers[rows], known.anyone[rows], actions),
            *(part.tokens, self._vocabulary, part.names, part.kinds, part.sensitivity, part.members),
        )
        weighed = self._calibration.weigh(part.nll, features)
        new, wrong = weighed.novelty_evidence, weighed.error_evidence
        nothing = view.normal[rows] | (view.crowded[rows] & (part.excepted >= 0))
        new[nothing] = wrong[nothing] = 0.0
        if self._youth is not None:
            new -= short_history(actions)
            new[new <= self._calibration.gate] = 0.0
            young = self._youth.young(part.kinds, actions)
            new[young] = wrong[young] = 0.0
        chunk.put_evidence(rows, features, weighed)

    def _advance(self, chunk: _Chunk, begin: int, undo: ExitStack) -> tuple[int, _News | None, float]:
        """Add up the evidence of actions up to and including the first after which those that follow have to be judged otherwise.

        Returns:
            The row after it; what is new about it, None where there is none; and how far it would have stood out but for an
            exception, evidence over threshold.
        """
        part, judged, stop, upto = chunk.part, chunk.judged, chunk.next_change(begin), chunk.count
        new, wrong = judged.novelty_evidence, judged.error_evidence
        news, would, kept = None, 0.0, (0.0, 0.0)
        if stop is not None:
            upto = stop + 1
            news, kept = self._news(chunk, stop), (float(new[stop]), float(wrong[stop]))
            if chunk.adds[stop] and part.excepted[stop] >= 0:
                would = self._would_be(chunk, stop)
            # What is on probation was counted when it was new for the first time.
            if not news.more or part.excepted[stop] >= 0:
                new[stop] = wrong[stop] = 0.0
        rows = slice(begin, upto)
        sums, hit = self._accumulator.add_until_flagged(
            *(part.names[rows], part.time[rows], new[rows], wrong[rows], chunk.limits[rows]),
            *(chunk.known.actions[rows], chunk.view.crowded[rows]),
        )
        if hit is not None and begin + hit != stop:
            if stop is not None:
                new[stop], wrong[stop] = kept
            upto = begin + hit + 1
            news, would = self._news(chunk, upto - 1), 0.0
        rows = slice(begin, upto)
        if self._youth is not None:
            undo.callback(self._youth.count(part.kinds[rows], chunk.known.actions[rows]))
        evidence, threshold = stand_out(sums[: upto - begin], chunk.limits[rows])
        judged.evidence[rows], judged.threshold[rows] = evidence, threshold
        judged.flagged[rows] = evidence >= threshold
        return upto, news, would

    def _set_aside(self, chunk: _Chunk, begin: int, *, every: bool = False) -> tuple[Ints, Ints]:
        """Take out of the habits what has to be counted again from `begin` on; returns the rows that `_compute` needs.

        So that the time for an action is bounded however many of them are flagged, the chunk ends where they are too many.

        Args:
            every: all have to be.
        """
        rest = slice(begin, chunk.count)
        if every or self._youth is not None:
            mine = np.ones(chunk.count - begin, bool)
        else:
            mine = chunk.part.name_hashes[rest] == chunk.part.name_hashes[begin - 1]
        novel = begin + (chunk.novel[rest] | mine).nonzero()[0]
        most = _GROWTH * (len(chunk.part) + begin) - chunk.computed_again
        if len(novel) > most:
            chunk.count = int(novel[most])
            self._uncount(chunk, slice(chunk.count, None))
            novel, mine = novel[:most], mine[: chunk.count - begin]
        rows = begin + mine.nonzero()[0]
        self._uncount(chunk, rows)
        self._unshare(chunk, novel)
        return rows, novel

    def _uncount(self, chunk: _Chunk, rows: Rows = _ALL) -> None:
        """Take some of the actions out of the habits; those that are not in it are passed over."""
        self._unshare(chunk, rows)
        rows = np.arange(len(chunk.part))[rows]
        rows = rows[chunk.counted[rows]]
        if len(rows):
            attributes, names, _ = chunk.part.counted(rows)
            self._habits.unobserve_own(attributes, names, chunk.held_of(rows))
            chunk.counted[rows] = False

    def _unshare(self, chunk: _Chunk, rows: Rows) -> None:
        """As `_uncount`, but for what the actions add to the habits of peers and everybody."""
        rows = np.arange(len(chunk.part))[rows]
        rows = rows[chunk.shared[rows]]
        if len(rows):
            attributes, _, groups = chunk.part.counted(rows)
            self._habits.unobserve_shared(attributes, groups, chunk.known.own[rows], chunk.held_of(rows))
            chunk.shared[rows] = False

    def _would_be(self, chunk: _Chunk, row: int) -> float:
        """Evidence over threshold that an action would have but for its exception."""
        name, time = chunk.part.names[row], int(chunk.part.time[row])
        new, wrong = chunk.judged.novelty_evidence[row], chunk.judged.error_evidence[row]
        actions = int(chunk.known.actions[row])
        sums = self._accumulator.peek(name, time, float(new), float(wrong), actions)
        evidence, threshold = stand_out(sums, chunk.limits[row : row + 1])
        return float(evidence[0] / threshold[0])

    @staticmethod
    def _news(chunk: _Chunk, row: int) -> _News:
        one = slice(row, row + 1)
        counted = counted_levels(
            *(chunk.judged.levels[one], chunk.known.actions[one], chunk.machinery[one], chunk.for_others[one])
        )
        new, root = counted[0] > 0, roots(counted)[0] > 0
        again = chunk.view.held[row] & (chunk.view.times[row] == 0)
        return _News(root, again, bool((new & ~again).any() or not new.any()))

    def _settle(
        self, chunk: _Chunk, begin: int, upto: int, news: _News, would: float, undo: ExitStack
    ) -> None:
        """Decide what becomes of the last of the actions that were added up, and remember those that added evidence."""
        row = upto - 1
        if chunk.adds[row] and chunk.part.excepted[row] >= 0:
            self._settle_excepted(chunk, begin, row, news, would)
        else:
            self._settle_judged(chunk, begin, row, news, undo)
        self._probation.settle(chunk.part.names[row], int(chunk.part.time[row]))

    def _settle_judged(self, chunk: _Chunk, begin: int, row: int, news: _News, undo: ExitStack) -> None:
        part, judged, view, adds = chunk.part, chunk.judged, chunk.view, bool(chunk.adds[row])
        name, time, hashes = part.names[row], int(part.time[row]), part.attributes[row]
        who = int(part.name_hashes[row]), int(part.group_hashes[row])
        by_itself = bool(judged.flagged[row])
        if adds and (again := hashes[news.root & news.again].tolist()):
            self._mark_repeat(judged, row, self._probation.repeated(name, again), by_itself and news.more)
        flagged = bool(judged.flagged[row])
        stays_out = flagged or (adds and bool(view.open[row]))
        if stays_out:
            self._uncount(chunk, np.array([row]))
        self._remember(chunk, begin, row if stays_out else row + 1)
        if stays_out:
            mark = None
            if flagged:
                ratio = float(judged.evidence[row] / judged.threshold[row])
                mark = deed_hash(hashes), ratio, int(judged.first[row]) or time
            reasons = news.root if by_itself else news.root & news.again
            new = self._new_by(chunk, row, news)
            led = self._probation.hold(
                name, who[1], time, hashes[new].tolist(), hashes[reasons].tolist(), mark
            )
            if led:
                undo.callback(self._habits.withdraw(*who, np.array(led, np.uint64)))
        elif adds and news.again.any():
            self._probation.report(name, time, hashes[news.again].tolist())
        if view.due[row]:
            done = self._probation.another_day(name, time, hashes.tolist())
            if done:
                times = np.array(list(done.values()), np.int64)
                undo.callback(self._habits.grant(*who, np.array(list(done), np.uint64), times))

    def _settle_excepted(self, chunk: _Chunk, begin: int, row: int, news: _News, would: float) -> None:
        """As `_settle_judged` for an action that an exception allows: it is no habit, and not flagged."""
        part = chunk.part
        self._uncount(chunk, np.array([row]))
        self._remember(chunk, begin, row)
        name, time, hashes = part.names[row], int(part.time[row]), part.attributes[row]
        again = hashes[news.root & news.again].tolist()
        if again and (repeat := self._probation.repeated(name, again)) is not None:
            would = max(would, repeat.ratio)
        flagged = would >= 1.0
        reasons = hashes[news.root].tolist() if flagged else []
        new = hashes[self._new_by(chunk, row, news)].tolist()
        self._probation.allow(name, int(part.group_hashes[row]), time, new, reasons, would)
        if flagged:
            chunk.judged.allowed[row] = would * float(chunk.judged.threshold[row])

    @staticmethod
    def _new_by(chunk: _Chunk, row: int, news: _News) -> Flags:
        """Which attributes of an action are new, or new again, bool [attributes]."""
        new: Flags = (chunk.known.own[row] == 0) & (~chunk.held[row] | news.again)
        return new

    @staticmethod
    def _mark_repeat(judged: Judgement, row: int, repeat: Repeat | None, more: bool) -> None:
        """Note that an action repeats one that was flagged, unless what else is new about it was enough to flag it."""
        if repeat is None:
            return
        if not judged.flagged[row]:
            threshold = float(judged.threshold[row])
            judged.evidence[row] = max(float(judged.evidence[row]), repeat.ratio * threshold, threshold)
            judged.flagged[row] = True
        if not more and not repeat.own:
            judged.repeat[row], judged.first[row] = True, repeat.cause

    def _remember(self, chunk: _Chunk, begin: int, upto: int) -> None:
        """Remember those actions that added evidence."""
        part = chunk.part
        for row in (begin + chunk.adds[begin:upto].nonzero()[0]).tolist():
            held = chunk.held[row]
            if held.all():  # it changes nothing
                continue
            new = (chunk.known.own[row] == 0) & ~held
            self._probation.remember(part.names[row], int(part.time[row]), part.attributes[row][new].tolist())
