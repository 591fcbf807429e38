"""Replays of runs, each alone in the log without the others: what a detector sees of one attack when no other one helps it.

The log without any labelled event is scored once. Where a run begins, the detector is forked (`Detector.fork`): it is shown the
run with its victim's own actions of that time around it, the verdicts are read, and all of it is undone. So hundreds of
independent replays cost little more than one pass. What other principals do during a run is not shown to its fork.

From a fork of the same moment start the rows of the harder questions, all with the same events at other times:

- **again**: what was seen, once more after two hours, a day and a week, nobody having said anything about the first time;
- **pace**: one request per 5, 30 and 180 minutes;
- **taught**: once in the training log already, as far as the habits go: they know of it what training leaves in
  (`training.suspects`);
- **rehearsal**: two hours before, what of the run is below high sensitivity, and a look at the pods where it will be.

In between the owner goes on with its own next actions of the log, as many as it takes in life, so that neither its windows nor
its habits stand still.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
from msgspec.structs import replace
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from data.actions.sensitivity import LEVELS
from data.arrays import Flags
from data.events.audit_event import AuditEvent, ObjectRef
from data.work_progress import WorkProgress
from detection.detector import SEVERITIES, Detector, Scores
from detection.rules.replay import HitFinder
from detection.rules.rule import Rule
from training.evaluation.metrics import INCIDENT_GAP
from training.evaluation.transplants import Case, at, received
from training.stretch import LogEncoder, Stretch

_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
#: Name of a row -> microseconds after the first time.
GAPS: Mapping[str, int] = {
    "again after 2 hours": 2 * _HOUR,
    "again after a day": 24 * _HOUR,
    "again after a week": 168 * _HOUR,
}
#: Name of a row -> microseconds between two requests.
PACES: Mapping[str, int] = {
    f"one request per {minutes} minutes": minutes * _MINUTE for minutes in (5, 30, 180)
}
REHEARSAL, TAUGHT = "after a rehearsal", "once in the training log"
ROWS = (*GAPS, *PACES, REHEARSAL, TAUGHT)

#: How many times faster than in life people act in the recordings, where minutes stand for hours.
_HASTE = 40
#: Most of the owner's actions between two exposures or two slow requests, and during one slow run.
_MOST_BETWEEN, _MOST_DURING = 60, 600
#: Events scored at a time, between which forks begin.
_SLOT = 512
_HIGH = LEVELS.index("high")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a detector made of one run.

    Attributes:
        seen: whether an action of it was flagged.
        after: how many of its actions had happened by then; None if it was not seen.
        peak: highest evidence over threshold of its actions.
        severity: the worst of its flagged actions.
        requests: its actions.
        rules: the rules beside the model that reported an action of it.
        rule_severity: the worst of them.
    """

    seen: bool
    after: int | None
    peak: float
    severity: str
    requests: int
    rules: tuple[str, ...] = ()
    rule_severity: str = SEVERITIES[0]


@dataclass(frozen=True, slots=True)
class FalseIncident:
    """An incident raised on the log without attacks, and why.

    Attributes:
        time: when it began, microseconds since 1970 UTC.
        actions: flagged actions in it.
        repeats: those of them that repeat what was flagged before. If all do, an earlier incident grows and nobody is notified.
        what: its strongest action: verb, resource, namespace and name.
        times: evidence of that action over its threshold.
        novelty_evidence, error_evidence: what that action itself added, decades.
        novelties: what is new about it.
        fields: what the model did not expect, with the error in nats.
    """

    principal: str
    kind: str
    time: int
    actions: int
    repeats: int
    severity: str
    what: str
    times: float
    novelty_evidence: float
    error_evidence: float
    novelties: list[str]
    fields: list[str]


@dataclass(slots=True)
class Replayed:
    """Outcomes of all cases, in their order, and what the log without attacks raised.

    Attributes:
        first: of each case as it is.
        rows: name in ROWS -> outcome of each case; None where the row asks nothing of it.
        false: incidents of the log without attacks.
        actions: kind of principal -> actions in that log.
        false_with_rules: kind of principal -> such incidents, with those of rules.
    """

    first: list[Outcome]
    rows: dict[str, list[Outcome | None]]
    false: list[FalseIncident]
    actions: dict[str, int]
    false_with_rules: dict[str, int]


class StrictReplay:
    """Replays cases against one detector, and the rules beside it.

    Args:
        detector: as its bundle made it.
        clean: the log without labelled events.
        rules: that run beside it, as in the service.
    """

    def __init__(self, detector: Detector, clean: Sequence[AuditEvent], rules: Iterable[Rule] = ()) -> None:
        self.detector, self.clean = detector, clean
        self.finder = HitFinder(rules)
        self.time = received(clean)
        self.by_user: dict[str, list[int]] = defaultdict(list)
        for row, event in enumerate(clean):
            self.by_user[event.user.username].append(row)
        #: Latest time up to each event; arrival is only nearly in the order of the requests.
        self.arrived = np.maximum.accumulate(self.time)

    def run(self, cases: Sequence[Case], rows: Sequence[str] = ROWS, progress: bool = False) -> Replayed:
        """Score the log once, and every case in forks of it; `rows` are asked of attacks alone."""
        starting: dict[int, list[int]] = defaultdict(list)
        for number, case in enumerate(cases):
            starting[int(np.searchsorted(self.arrived, _begin(case))) // _SLOT].append(number)
        first: list[Outcome | None] = [None] * len(cases)
        found: dict[str, list[Outcome | None]] = {row: [None] * len(cases) for row in rows}
        alarms = _Alarms()
        slots = -(-len(self.clean) // _SLOT)
        columns = TextColumn("replaying runs"), BarColumn(), TimeRemainingColumn()
        with WorkProgress(*columns, disable=not progress, transient=True) as bar:
            task = bar.add_task("", total=slots + len(cases))
            for slot in range(slots + 1):
                for number in starting.get(slot, ()):
                    asked = rows if cases[number].is_attack else ()
                    first[number], others = self._replay(cases[number], slot * _SLOT, asked)
                    for row, outcome in others.items():
                        found[row][number] = outcome
                    bar.advance(task)
                chunk = self.clean[slot * _SLOT : (slot + 1) * _SLOT]
                if chunk:
                    alarms.add(*self._ruled(chunk))
                bar.advance(task)
        seen = [one for one in first if one is not None]
        return Replayed(seen, found, alarms.incidents(), alarms.actions, alarms.with_rules())

    @contextmanager
    def fork(self) -> Iterator[None]:
        """Replay on trial: on exit the detector and the rules know what they knew on entry. Forks may be nested."""
        with self.detector.fork(), self.finder.fork():
            yield

    def _replay(
        self, case: Case, place: int, rows: Sequence[str]
    ) -> tuple[Outcome, dict[str, Outcome | None]]:
        """A case from the moment before event `place` of the log."""
        found: dict[str, Outcome | None] = {}
        begin, end = _begin(case), int(received(case.events).max())
        before, during = self._own(case, place, begin, end)
        context = [*during, *case.induced]
        with self.fork():
            self._score(before)
            with self.fork():
                first, levels = self._show(case.events, context)
                for name in (name for name in rows if name in GAPS and first.seen):
                    with self.fork():
                        found[name] = self._again(case, end, GAPS[name])
            for name in (name for name in rows if name in PACES):
                if first.requests <= 1:  # a single request is as slow as it can be
                    found[name] = first
                    continue
                with self.fork():
                    found[name] = self._slowly(case, PACES[name])
            if REHEARSAL in rows:
                with self.fork():
                    found[REHEARSAL] = self._rehearsed(case, levels)
            if TAUGHT in rows:
                with self._taught(case), self.fork():
                    found[TAUGHT] = self._show(case.events, context)[0]
        return first, found

    def _own(self, case: Case, place: int, begin: int, end: int) -> tuple[list[AuditEvent], list[AuditEvent]]:
        """Actions of the log by those who act in a case: from `place` on until it begins, and while it lasts."""
        rows = sorted(row for name in case.principals for row in self._later(name, place, end))
        before = [self.clean[row] for row in rows if self.time[row] < begin]
        return before, [self.clean[row] for row in rows if begin <= self.time[row] <= end]

    def _later(self, name: str, place: int, end: int) -> list[int]:
        held = self.by_user.get(name, [])
        last = int(np.searchsorted(self.arrived, end, side="right"))
        return held[bisect_left(held, place) : bisect_right(held, last)]

    def _next_own(self, case: Case, after: int) -> Iterator[AuditEvent]:
        """What the first principal of a case does next, again from its beginning when the log ends; perhaps nothing."""
        held = self.by_user.get(case.principals[0], [])
        start = bisect_left(held, int(np.searchsorted(self.arrived, after, side="right")))
        turned = [*held[start:], *held[:start]]
        return (self.clean[row] for row in cycle(turned)) if turned else iter(())

    def _score(self, events: Sequence[AuditEvent]) -> None:
        if events:
            self._ruled(events)

    def _ruled(self, events: Sequence[AuditEvent]) -> tuple[Scores, dict[int, list[Rule]]]:
        """Score events; also the rules that report one, by row of the scores."""
        scores = self.detector.score(events)
        return scores, self.finder.find(events, scores)

    def _show(
        self, own: Sequence[AuditEvent], context: Sequence[AuditEvent]
    ) -> tuple[Outcome, dict[str, int]]:
        """Score a run among other events, in the order of time; returns also the sensitivity of each of its requests."""
        events = [*context, *own]
        mine = np.arange(len(events)) >= len(context)
        order = np.argsort(received(events), kind="stable")
        scores, ruled = self._ruled([events[i] for i in order.tolist()])
        rows = np.flatnonzero(mine[order][scores.event])
        flagged = scores.flagged[rows]
        hits = np.flatnonzero(flagged)
        times = scores.evidence[rows] / scores.threshold[rows]
        worst = max((SEVERITIES.index(scores.severity[row]) for row in rows[hits].tolist()), default=0)
        asked = [events[order[scores.event[row]]].auditID for row in rows.tolist()]
        hit = {rule.name: rule.spec.severity for row in rows.tolist() for rule in ruled.get(row, ())}
        return Outcome(
            bool(len(hits)),
            int(hits[0]) + 1 if len(hits) else None,
            float(times.max(initial=0.0)),
            SEVERITIES[worst],
            len(rows),
            tuple(sorted(hit)),
            max(hit.values(), key=SEVERITIES.index, default=SEVERITIES[0]),
        ), dict(zip(asked, scores.sensitivity[rows].tolist(), strict=True))

    def _again(self, case: Case, end: int, gap: int) -> Outcome:
        """The same deed once more, after the owner's next actions."""
        self._bridge(case, end, end + gap)
        shift = end + gap - _begin(case)
        again = [
            at(event, time + shift, f"again-{event.auditID}")
            for event, time in zip(case.events, received(case.events).tolist(), strict=True)
        ]
        return self._show(again, ())[0]

    def _bridge(self, case: Case, begin: int, end: int) -> None:
        """Let the owner go on between two moments."""
        self._score(self._spread(case, begin, end, self._actions_in(case, end - begin)))

    def _actions_in(self, case: Case, time: int) -> int:
        """Actions that the owner takes in so many microseconds of life, at least one and within bounds."""
        held = len(self.by_user.get(case.principals[0], ()))
        span = max(int(self.arrived[-1] - self.arrived[0]), 1) if len(self.arrived) else 1
        return int(np.clip(held / span * time / _HASTE, 1, _MOST_BETWEEN))

    def _spread(self, case: Case, begin: int, end: int, most: int) -> list[AuditEvent]:
        """The owner's next `most` actions, evenly between two moments."""
        chosen = list(islice(self._next_own(case, begin), most))
        step = (end - begin) // (most + 1)
        return [at(event, begin + (i + 1) * step, f"own-{i}-{begin}") for i, event in enumerate(chosen)]

    def _slowly(self, case: Case, pace: int) -> Outcome:
        """One request per so many microseconds, with the owner's actions between them."""
        begin = _begin(case)
        order: dict[str, int] = {}
        for event in case.events:
            order.setdefault(event.auditID, len(order))
        own = [at(event, begin + pace * order[event.auditID]) for event in case.events]
        last = begin + pace * (len(order) - 1)
        most = min(self._actions_in(case, pace) * (len(order) - 1), _MOST_DURING)
        return self._show(own, self._spread(case, begin, last, most))[0]

    @contextmanager
    def _taught(self, case: Case) -> Iterator[None]:
        """Meanwhile the habits know what they would of a case if it had been in the training log once."""
        bundle, habits = self.detector.bundle, self.detector.habits
        encoder = LogEncoder(
            bundle.settings, bundle.vocabulary, bundle.principals, bundle.sensitivity.table, {}
        )
        stretch, _ = encoder.encode(case.events)
        counted = stretch.attributes, stretch.name_hash, stretch.group_hash
        left_out = self._left_out(case, stretch) if bundle.calibration.left_out is not None else None
        known = habits.observe(*counted, left_out)
        try:
            yield
        finally:
            habits.unobserve(*counted, known, left_out)

    def _left_out(self, case: Case, stretch: Stretch) -> Flags:
        """What of a case training would have left out of the habits, bool [N, attributes]: what the rest of the log flags."""
        names = set(stretch.name.tolist())
        with self.fork():
            self._show(case.events, ())
            held = {name: self.detector.probation.held_by(name) for name in names}
        found = np.zeros(stretch.attributes.shape, bool)
        for name, keys in held.items():
            rows = np.flatnonzero(stretch.name == name)
            found[rows] = np.isin(stretch.attributes[rows], np.array(keys, np.uint64))
        return found

    def _rehearsed(self, case: Case, levels: Mapping[str, int]) -> Outcome:
        """The milder part first, then after two hours the whole; seen is what is flagged in either."""
        begin, gap = _begin(case), GAPS["again after 2 hours"]
        mild = [event for event in case.events if levels.get(event.auditID, 0) < _HIGH]
        order: dict[str, int] = {}
        for event in (early := [*_looks(case), *mild]):
            order.setdefault(event.auditID, len(order))
        early = [
            at(event, begin + order[event.auditID] * _SECOND, f"mild-{event.auditID}") for event in early
        ]
        before = self._show(early, ())[0]
        end = begin + len(order) * _SECOND
        self._bridge(case, end, end + gap)
        shift = end + gap - begin
        late = [
            at(event, time + shift)
            for event, time in zip(case.events, received(case.events).tolist(), strict=True)
        ]
        after = self._show(late, ())[0]
        worst = max(SEVERITIES.index(one.severity) for one in (before, after))
        return Outcome(
            seen=before.seen or after.seen,
            after=before.after or (after.after and before.requests + after.after),
            peak=max(before.peak, after.peak),
            severity=SEVERITIES[worst],
            requests=before.requests + after.requests,
            rules=tuple(sorted({*before.rules, *after.rules})),
            rule_severity=max(before.rule_severity, after.rule_severity, key=SEVERITIES.index),
        )


def _begin(case: Case) -> int:
    return int(received(case.events).min())


def _looks(case: Case) -> list[AuditEvent]:
    """A look at the pods of each namespace that a run touches, from the run's own session; where it touches none, of all."""
    first = case.events[0]
    touched = [event.objectRef.namespace for event in case.events if event.objectRef is not None]
    looks = []
    for place, namespace in enumerate(dict.fromkeys(touched or [""])):
        scope = f"/namespaces/{namespace}" if namespace else ""
        looks.append(
            replace(
                first,
                verb="list",
                requestURI=f"/api/v1{scope}/pods?limit=500",
                objectRef=ObjectRef(resource="pods", namespace=namespace, apiVersion="v1"),
                requestObject=type(first.requestObject)(),
                stage="ResponseComplete",
                auditID=f"look-{place}-{first.auditID}",
            )
        )
    return looks


class _Alarms:
    """Collects what is flagged on the log without attacks."""

    def __init__(self) -> None:
        self.actions: dict[str, int] = defaultdict(int)
        self._flagged: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._times: dict[tuple[str, str], list[int]] = defaultdict(list)

    def add(self, scores: Scores, ruled: Collection[int]) -> None:
        """Note the flagged actions of a chunk, and the rows that rules reported."""
        for kind in scores.kind:
            self.actions[kind] += 1
        for row in {*np.flatnonzero(scores.flagged).tolist(), *ruled}:
            who = scores.principal[row], scores.kind[row]
            self._times[who].append(int(scores.time[row].astype(np.int64)))
        for row in np.flatnonzero(scores.flagged).tolist():
            self._flagged[scores.principal[row]].append(_flag(scores, row))

    def incidents(self) -> list[FalseIncident]:
        """All incidents in the order of time."""
        found = []
        for principal, flags in self._flagged.items():
            flags.sort(key=lambda flag: flag["time"])
            last, members = -INCIDENT_GAP, list[list[dict[str, Any]]]()
            for flag in flags:
                if not members or flag["time"] - last > INCIDENT_GAP:
                    members.append([])
                members[-1].append(flag)
                last = flag["time"]
            found += [_incident(principal, some) for some in members]
        return sorted(found, key=lambda one: (one.time, one.principal))

    def with_rules(self) -> dict[str, int]:
        """Kind of principal -> incidents, those of rules included."""
        found = Counter[str]()
        for (_, kind), times in self._times.items():
            found[kind] += 1 + int((np.diff(sorted(times)) > INCIDENT_GAP).sum())
        return found


def _flag(scores: Scores, row: int) -> dict[str, Any]:
    why = scores.explanations[row]
    return {
        "kind": scores.kind[row],
        "time": int(scores.time[row].astype(np.int64)),
        "times": float(scores.evidence[row] / scores.threshold[row]),
        "severity": scores.severity[row],
        "repeat": bool(scores.repeat[row]),
        "what": " ".join(why.values[name] for name in ("verb", "resource", "namespace", "name")),
        "novelty_evidence": float(scores.novelty_evidence[row]),
        "error_evidence": float(scores.error_evidence[row]),
        "novelties": [f"{one.attribute}: {one.value}" for one in why.habits[:4]],
        "fields": [f"{one.field}: {one.value} ({one.nll:.1f})" for one in why.fields[:3]],
    }


def _incident(principal: str, flags: Sequence[dict[str, Any]]) -> FalseIncident:
    strongest = max(flags, key=lambda flag: flag["times"])
    worst = max(SEVERITIES.index(flag["severity"]) for flag in flags)
    kept = {key: value for key, value in strongest.items() if key not in ("time", "severity", "repeat")}
    return FalseIncident(
        principal=principal,
        time=flags[0]["time"],
        actions=len(flags),
        repeats=sum(flag["repeat"] for flag in flags),
        severity=SEVERITIES[worst],
        **kept,
    )
