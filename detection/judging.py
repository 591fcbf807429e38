"""Judges actions in their order: novelty, evidence that adds up, flags, and what of it becomes a habit.

All rows are computed at once. Where an action is flagged, or changes what is on probation (`detection.probation`), those rows
after it are computed again whose counts may have changed: the later actions of its principal, and the actions that are new to
their principal in anything, since only these look at what others did, or add to it. So a batch is judged as its actions one by
one would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from data.actions.attributes import HASHED
from data.actions.vocabulary import Vocabulary
from detection.calibration import ActionFeatures, Calibration, stand_out
from detection.evidence import Accumulator
from detection.judged_actions import ActionChunk, ActionColumns, Flags, Ints, Judgement, Rows
from detection.novelty import HabitTable, PriorCounts, counted_levels, roots
from detection.probation import Probation, Repeat, deed_hash
from detection.youth import ClusterYouth, short_history

#: Least number of rows that are computed at once, and how many rows are computed again at most for each row.
_STEP, _GROWTH = 16, 8
_ALL = slice(None)


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
            chunk = ActionChunk(part, self._calibration.thresholds(part.kinds))
            undo.callback(self._uncount, chunk)
            self._judge(chunk, undo)
            parts.append(chunk.judged[: chunk.count])
            begin += chunk.count
            size = _GROWTH * size if chunk.count == len(part) else max(_STEP, chunk.count)
        return Judgement.concatenate(parts)

    def _judge(self, chunk: ActionChunk, undo: ExitStack) -> None:
        """Judge actions in order; where too much would have to be computed again, those that are left over by `chunk.count`."""
        self._compute(chunk)
        begin = 0
        while True:
            upto, news, would = self._advance(chunk, begin, undo)
            if news is None:
                self._remember(chunk, begin, upto)
                return
            mine = self._set_aside(chunk, upto)
            lost = self._probation.lost
            changed = self._settle(chunk, begin, upto, news, would, undo)
            if self._probation.lost != lost:  # what is gone is of others, who are judged by it
                mine = self._set_aside(chunk, upto, every=True)
            if upto < chunk.count:
                self._compute_again(chunk, upto, mine, changed)
            if upto == chunk.count:
                return
            begin = upto

    def _compute(self, chunk: ActionChunk) -> None:
        """Count all actions, and say what they amount to."""
        self._count(chunk, _ALL, chunk.part)
        self._share(chunk, _ALL, chunk.new)
        self._weigh(chunk, _ALL, chunk.part)

    def _compute_again(self, chunk: ActionChunk, begin: int, mine: Ints, changed: Sequence[int]) -> None:
        """As `_compute`, for those actions from `begin` on of which something may be other than it was.

        So that the time for an action is bounded however many of them are flagged, the chunk ends where they are too many.

        Args:
            mine: rows of the principal whose action decided, which are not counted now.
            changed: hashes of attributes that the habits of others count more or less often now.
        """
        part, rest = chunk.part, slice(begin, chunk.count)
        if len(mine):
            self._count(chunk, mine, part.select(mine))
        rows, columns = chunk.new[rest].nonzero()
        hashes = np.concatenate([np.array(changed, np.uint64), part.attributes[mine].ravel()])
        affected = np.isin(part.attributes[rest][rows, columns], hashes)
        places = np.zeros((chunk.count - begin, part.attributes.shape[1]), bool)
        places[rows[affected], columns[affected]] = True
        others = begin + np.unique(rows[affected])
        most = max(_GROWTH * (len(part) + begin) - chunk.computed_again, 0)
        again = np.union1d(mine, others)
        if len(again) > most:
            chunk.count = int(again[most])
            self._uncount(chunk, slice(chunk.count, None))
            mine, others = mine[mine < chunk.count], others[others < chunk.count]
        chunk.computed_again += len(mine) + len(others)
        rows = mine
        if len(others):
            places = places[others - begin]
            self._unshare(chunk, others, places)
            rows = np.union1d(mine, others[self._share(chunk, others, places)])
        if len(rows):
            self._weigh(chunk, rows, part.select(rows))

    def _count(self, chunk: ActionChunk, rows: Rows, part: ActionColumns) -> None:
        """Count some of the actions for their principals."""
        about = part.names, part.attributes, part.time, part.sensitivity, part.excepted >= 0
        chunk.view_again(rows, self._probation.view(*about))
        own = self._habits.observe_own(part.attributes[:, :HASHED], part.name_hashes, chunk.held_of(rows))
        chunk.put_own(rows, *own)

    def _share(self, chunk: ActionChunk, rows: Rows, places: Flags) -> Flags:
        """Count attributes of some of the actions with peers and everybody; returns where their counts changed, bool [rows]."""
        attributes, _, groups = chunk.part.counted(rows)
        places = places[:, :HASHED]
        counts = self._habits.observe_shared(attributes, groups, places, chunk.held_of(rows))
        return chunk.put_shared(rows, places, *counts)

    def _weigh(self, chunk: ActionChunk, rows: Rows, part: ActionColumns) -> None:
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

    def _advance(self, chunk: ActionChunk, begin: int, undo: ExitStack) -> tuple[int, _News | None, float]:
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

    def _set_aside(self, chunk: ActionChunk, begin: int, *, every: bool = False) -> Ints:
        """Take the actions from `begin` on of the principal that acted before it out of the habits; returns their rows.

        Args:
            every: those of all principals.
        """
        rest = slice(begin, chunk.count)
        if every or self._youth is not None:
            rows = np.arange(begin, chunk.count)
        else:
            who = chunk.part.name_hashes
            rows = begin + (who[rest] == who[begin - 1]).nonzero()[0]
        self._uncount(chunk, rows)
        return rows

    def _uncount(self, chunk: ActionChunk, rows: Rows = _ALL) -> None:
        """Take some of the actions out of the habits; what is not in them is passed over."""
        self._unshare(chunk, rows, chunk.shared[rows])
        rows = np.arange(len(chunk.part))[rows]
        rows = rows[chunk.counted[rows]]
        if len(rows):
            attributes, names, _ = chunk.part.counted(rows)
            self._habits.unobserve_own(attributes, names, chunk.held_of(rows))
            chunk.counted[rows] = False

    def _unshare(self, chunk: ActionChunk, rows: Rows, places: Flags) -> None:
        """Take attributes of some of the actions out of the habits of peers and everybody."""
        counted = chunk.shared[rows] & places
        if counted.any():
            attributes, _, groups = chunk.part.counted(rows)
            self._habits.unobserve_shared(attributes, groups, counted[:, :HASHED])
            chunk.shared[rows] &= ~counted

    def _would_be(self, chunk: ActionChunk, row: int) -> float:
        """Evidence over threshold that an action would have but for its exception."""
        name, time = chunk.part.names[row], int(chunk.part.time[row])
        new, wrong = chunk.judged.novelty_evidence[row], chunk.judged.error_evidence[row]
        actions = int(chunk.known.actions[row])
        sums = self._accumulator.peek(name, time, float(new), float(wrong), actions)
        evidence, threshold = stand_out(sums, chunk.limits[row : row + 1])
        return float(evidence[0] / threshold[0])

    @staticmethod
    def _news(chunk: ActionChunk, row: int) -> _News:
        one = slice(row, row + 1)
        counted = counted_levels(
            *(chunk.judged.levels[one], chunk.known.actions[one], chunk.machinery[one], chunk.for_others[one])
        )
        new, root = counted[0] > 0, roots(counted)[0] > 0
        again = chunk.view.held[row] & (chunk.view.times[row] == 0)
        return _News(root, again, bool((new & ~again).any() or not new.any()))

    def _settle(
        self, chunk: ActionChunk, begin: int, upto: int, news: _News, would: float, undo: ExitStack
    ) -> list[int]:
        """Decide what becomes of the last of the actions that were added up, and remember those that added evidence.

        Returns:
            Hashes of the attributes that peers and everybody may have done more or less often now.
        """
        row, led = upto - 1, list[int]()
        if chunk.adds[row] and chunk.part.excepted[row] >= 0:
            self._settle_excepted(chunk, begin, row, news, would)
        else:
            led = self._settle_judged(chunk, begin, row, news, undo)
        self._probation.settle(chunk.part.names[row], int(chunk.part.time[row]))
        return [*chunk.part.attributes[row].tolist(), *led]

    def _settle_judged(
        self, chunk: ActionChunk, begin: int, row: int, news: _News, undo: ExitStack
    ) -> list[int]:
        """As `_settle`, for an action that no exception allows; returns what is no habit any more of what led up to it."""
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
        led: list[int] = []
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
        return led

    def _settle_excepted(self, chunk: ActionChunk, begin: int, row: int, news: _News, would: float) -> None:
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
    def _new_by(chunk: ActionChunk, row: int, news: _News) -> Flags:
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

    def _remember(self, chunk: ActionChunk, begin: int, upto: int) -> None:
        """Remember those actions that added evidence."""
        part = chunk.part
        for row in (begin + chunk.adds[begin:upto].nonzero()[0]).tolist():
            held = chunk.held[row]
            if held.all():  # it changes nothing
                continue
            new = (chunk.known.own[row] == 0) & ~held
            self._probation.remember(part.names[row], int(part.time[row]), part.attributes[row][new].tolist())
