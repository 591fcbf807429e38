"""Judges actions in their order: novelty, evidence that adds up, flags, and what of it becomes a habit.

All rows are computed at once while nothing is flagged, which is nearly always. Where an action is flagged, or changes what is on
probation (`detection.probation`), the rows after it are computed again on what is known by then: a batch is judged as its
actions one by one would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.recent_hashes import Hashes
from data.actions.vocabulary import Vocabulary
from detection.calibration import ActionEvidence, ActionFeatures, Calibration
from detection.evidence import Accumulator
from detection.novelty import HabitTable, PriorCounts, counted_levels, roots
from detection.probation import HeldRows, Probation, Repeat, deed_hash
from detection.youth import ClusterYouth, short_history

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

#: Least number of rows that are computed at once, and how many times as many as there were up to the last change.
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

    def counted(self, rows: slice = _ALL) -> tuple[Hashes, Hashes, Hashes]:
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
    def concatenate(cls, parts: Sequence[Judgement]) -> Judgement:
        """One after the other; at least one part."""
        if len(parts) == 1:
            return parts[0]
        known = [[getattr(part.known, one.name) for part in parts] for one in fields(PriorCounts)]
        rest = [[getattr(part, one.name) for part in parts] for one in fields(cls)[1:]]
        return cls(PriorCounts(*map(np.concatenate, known)), *map(np.concatenate, rest))


def _left_out(view: HeldRows | None) -> Flags | None:
    """Attributes of each action that habits do not count, bool [N, attributes]; None for none."""
    if view is None:
        return None
    held: Flags = view.held | view.crowded[:, None]
    return held if held.any() else None


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
            judged = self._judge(part, undo)
            parts.append(judged)
            done = len(judged.flagged)
            begin += done
            # A flag by itself costs one more pass; where one follows the other, the passes are short.
            size = _GROWTH * size if done == len(part) else max(_STEP, _GROWTH * done)
        return Judgement.concatenate(parts)

    def _judge(self, part: ActionColumns, undo: ExitStack) -> Judgement:
        """Judge actions up to and including the first after which those that follow have to be judged otherwise."""
        about = part.names, part.attributes, part.time, part.sensitivity, part.excepted >= 0
        view = self._probation.view(*about)
        held = _left_out(view)
        counted = part.counted()
        known = seen = self._habits.observe(*counted, held)
        with ExitStack() as observed:
            observed.callback(self._habits.unobserve, *counted, known, held)
            if view is not None and held is not None:
                seen = replace(known, own=np.where(view.held, view.times, known.own))
            features = ActionFeatures.from_counts(
                *(seen, part.tokens, self._vocabulary, part.names, part.kinds, part.sensitivity, part.members)
            )
            weighed = self._calibration.weigh(part.nll, features)
            new, wrong = weighed.novelty_evidence, weighed.error_evidence
            if view is not None:
                nothing = view.normal | (view.crowded & (part.excepted >= 0))
                new[nothing] = wrong[nothing] = 0.0
            if self._youth is not None:
                new -= short_history(seen.actions)
                new[new <= self._calibration.gate] = 0.0
                young = self._youth.young(part.kinds, seen.actions)
                new[young] = wrong[young] = 0.0
            adds = (new > 0) | (wrong > 0)
            upto, stop, news = len(part), None, None
            changes = self._changes(part, view, adds)
            would = 0.0
            if len(changes):
                stop = int(changes[0])
                upto = stop + 1
                news = self._news(features, view, stop)
                if adds[stop] and part.excepted[stop] >= 0:
                    would = self._would_be(part, stop, new, wrong, int(seen.actions[stop]))
                # What is on probation was counted when it was new for the first time.
                if not news.more or part.excepted[stop] >= 0:
                    new[stop] = wrong[stop] = 0.0
            limits = self._calibration.thresholds(part.kinds[:upto])
            crowded = None if view is None else view.crowded[:upto]
            sums, hit = self._accumulator.add_until_flagged(
                *(part.names[:upto], part.time[:upto], new[:upto], wrong[:upto], limits, seen.actions[:upto]),
                crowded,
            )
            if hit is not None:
                upto = hit + 1
            if self._youth is not None:
                observed.callback(self._youth.count(part.kinds[:upto], seen.actions[:upto]))
            judged = self._columns(part, seen, features, weighed, sums, upto)
            if hit is None and stop is None:
                self._remember(part, known, held, adds, upto)
            else:
                if hit is not None and hit != stop:
                    news = self._news(features, view, hit)
                assert news is not None
                if adds[upto - 1] and part.excepted[upto - 1] >= 0:
                    self._settle_excepted(part, known, held, news, adds, judged, would, observed)
                else:
                    self._settle(part, known, held, view, news, adds, judged, observed)
                self._probation.settle(part.names[upto - 1], int(part.time[upto - 1]))
            undo.callback(observed.pop_all().close)
        return judged

    @staticmethod
    def _changes(part: ActionColumns, view: HeldRows | None, adds: Flags) -> Ints:
        """Rows at which probation or an exception decides."""
        found = adds & (part.excepted >= 0)
        if view is not None:
            found = (found | (adds & (view.fresh | view.open)) | view.due) & ~view.crowded
        return found.nonzero()[0]

    def _would_be(self, part: ActionColumns, row: int, new: Floats, wrong: Floats, actions: int) -> float:
        """Evidence over threshold that an action would have but for its exception."""
        name, time = part.names[row], int(part.time[row])
        sums = self._accumulator.peek(name, time, float(new[row]), float(wrong[row]), actions)
        evidence, threshold = self._calibration.verdict(sums, part.kinds[row : row + 1])
        return float(evidence[0] / threshold[0])

    def _columns(
        self,
        part: ActionColumns,
        seen: PriorCounts,
        features: ActionFeatures,
        weighed: ActionEvidence,
        sums: Floats,
        count: int,
    ) -> Judgement:
        rows = slice(0, count)
        evidence, threshold = self._calibration.verdict(sums[rows], part.kinds[rows])
        return Judgement(
            seen[rows],
            features.levels[rows],
            weighed.novelty[rows],
            weighed.error[rows],
            weighed.novelty_evidence[rows],
            weighed.error_evidence[rows],
            evidence,
            threshold,
            evidence >= threshold,
            np.zeros(count, bool),
            np.zeros(count, np.int64),
            weighed.deed[rows],
            np.zeros(count),
        )

    def _news(self, features: ActionFeatures, view: HeldRows | None, row: int) -> _News:
        one = slice(row, row + 1)
        counted = counted_levels(
            features.levels[one], features.actions[one], features.machinery[one], features.for_others[one]
        )
        new, root = counted[0] > 0, roots(counted)[0] > 0
        again = np.zeros_like(new) if view is None else view.held[row] & (view.times[row] == 0)
        return _News(root, again, bool((new & ~again).any() or not new.any()))

    def _settle(
        self,
        part: ActionColumns,
        known: PriorCounts,
        held: Flags | None,
        view: HeldRows | None,
        news: _News,
        adds: Flags,
        judged: Judgement,
        undo: ExitStack,
    ) -> None:
        """Count the judged actions, and decide what becomes of the last one."""
        count = len(judged.flagged)
        row = count - 1
        name, time, hashes = part.names[row], int(part.time[row]), part.attributes[row]
        who = int(part.name_hashes[row]), int(part.group_hashes[row])
        by_itself = bool(judged.flagged[row])
        if adds[row] and (again := hashes[news.root & news.again].tolist()):
            self._mark_repeat(judged, row, self._probation.repeated(name, again), by_itself and news.more)
        flagged = bool(judged.flagged[row])
        stays_out = flagged or bool(adds[row] and view is not None and view.open[row])
        self._count(part, known, held, adds, count - stays_out, undo)
        if stays_out:
            new = known.own[row] == 0
            if held is not None:
                new &= ~held[row] | news.again
            mark = None
            if flagged:
                ratio = float(judged.evidence[row] / judged.threshold[row])
                mark = deed_hash(hashes), ratio, int(judged.first[row]) or time
            reasons = news.root if by_itself else news.root & news.again
            led = self._probation.hold(
                name, who[1], time, hashes[new].tolist(), hashes[reasons].tolist(), mark
            )
            if led:
                undo.callback(self._habits.withdraw(*who, np.array(led, np.uint64)))
        elif adds[row] and news.again.any():
            self._probation.report(name, time, hashes[news.again].tolist())
        if view is not None and view.due[row]:
            done = self._probation.another_day(name, time, hashes.tolist())
            if done:
                times = np.array(list(done.values()), np.int64)
                undo.callback(self._habits.grant(*who, np.array(list(done), np.uint64), times))

    def _settle_excepted(
        self,
        part: ActionColumns,
        known: PriorCounts,
        held: Flags | None,
        news: _News,
        adds: Flags,
        judged: Judgement,
        would: float,
        undo: ExitStack,
    ) -> None:
        """As `_settle` for an action that an exception allows: it is no habit, and not flagged."""
        row = len(judged.flagged) - 1
        self._count(part, known, held, adds, row, undo)
        name, time, hashes = part.names[row], int(part.time[row]), part.attributes[row]
        again = hashes[news.root & news.again].tolist()
        if again and (repeat := self._probation.repeated(name, again)) is not None:
            would = max(would, repeat.ratio)
        flagged = would >= 1.0
        new = known.own[row] == 0
        if held is not None:
            new &= ~held[row] | news.again
        reasons = hashes[news.root].tolist() if flagged else []
        self._probation.allow(name, int(part.group_hashes[row]), time, hashes[new].tolist(), reasons, would)
        if flagged:
            judged.allowed[row] = would * float(judged.threshold[row])

    def _count(
        self,
        part: ActionColumns,
        known: PriorCounts,
        held: Flags | None,
        adds: Flags,
        count: int,
        undo: ExitStack,
    ) -> None:
        """Keep the first actions of a part counted, and no others; remember those that added evidence."""
        undo.pop_all()
        rest, first = slice(count, None), slice(0, count)
        if count < len(part):
            self._habits.unobserve(*part.counted(rest), known[rest], None if held is None else held[rest])
        undo.callback(
            self._habits.unobserve, *part.counted(first), known[first], None if held is None else held[first]
        )
        self._remember(part, known, held, adds, count)

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

    def _remember(
        self, part: ActionColumns, known: PriorCounts, held: Flags | None, adds: Flags, count: int
    ) -> None:
        for row in adds[:count].nonzero()[0].tolist():
            new = known.own[row] == 0
            if held is not None:
                if held[row].all():  # it changes nothing
                    continue
                new = new & ~held[row]
            self._probation.remember(part.names[row], int(part.time[row]), part.attributes[row][new].tolist())
