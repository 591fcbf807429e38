"""Runs rules over a log, without a model or beside one: what they would have reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data.actions.encoder import ActionEncoder, ActionSettings
from data.events.audit_event import AuditEvent
from detection.rules.evaluator import ActedEvents, EarlierActions, RuleCounts, RuleEvaluator
from detection.rules.hit_filter import FilteredHit, HitFilter, reported
from detection.rules.rule import Rule

if TYPE_CHECKING:
    from detection.detector import Scores


@dataclass(frozen=True, slots=True)
class ReplayedHit:
    """A hit on an event of the log, and what became of it."""

    event: AuditEvent
    principal: str
    kind: str
    time: int
    filtered: FilteredHit


@dataclass(slots=True)
class RuleReplay:
    """What a log came to.

    Attributes:
        events: that were read.
        actions: requests among them.
        hits: the first ones that are reported, in their order; `outcomes` counts all.
        outcomes: by rule and outcome.
        counts: of each rule.
    """

    events: int = 0
    actions: int = 0
    hits: list[ReplayedHit] = field(default_factory=list)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    counts: Mapping[str, RuleCounts] = field(default_factory=dict)


class HitFinder:
    """Finds what rules report of the events that a detector scores, chunk by chunk; roles and bindings are not asked."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._evaluator, self._filter = RuleEvaluator(rules), HitFilter()

    def find(self, events: Sequence[AuditEvent], scores: Scores) -> dict[int, list[Rule]]:
        """The rules whose hits are reported, by row of `scores`; events come in the order of the log."""
        acted, found = ActedEvents.scored(events, scores), dict[int, list[Rule]]()
        for one in reported(list(_decided(self._evaluator, self._filter, acted))):
            found.setdefault(one.hit.row, []).append(one.hit.rule)
        return found

    @contextmanager
    def fork(self) -> Iterator[None]:
        """Find on trial: on exit what is known is again what it was on entry. Forks may be nested."""
        memory, undo = self._evaluator.memory, self._filter.checkpoint()
        self._evaluator.memory = memory.copy()
        try:
            yield
        finally:
            self._evaluator.memory = memory
            undo()


def replay(
    rules: Sequence[Rule],
    chunks: Iterable[Sequence[AuditEvent]],
    settings: ActionSettings | None = None,
    *,
    limit: int = 1_000,
) -> RuleReplay:
    """Run rules over a log.

    Args:
        rules: which.
        chunks: events in the order of the log.
        settings: how user names are folded and requests encoded; what ships with kubehabit by default.
        limit: hits that are kept.
    """
    encoder = ActionEncoder(settings or ActionSettings.shipped())
    evaluator, kept = RuleEvaluator(rules), HitFilter()
    found = RuleReplay(counts=evaluator.counts)
    earlier = EarlierActions()
    for chunk in chunks:
        batch = encoder.encode(chunk)
        who = [batch.principals[code] for code in batch.principal.tolist()]
        names, times = [one.name for one in who], batch.time.tolist()
        own, pauses = earlier.add(names, times)
        acted = ActedEvents(
            events=[chunk[index] for index in batch.event.tolist()],
            principals=names,
            kinds=[one.kind for one in who],
            groups=[one.groups[0] for one in who],
            times=times,
            own_actions=own,
            pauses=pauses,
        )
        found.events += len(chunk)
        found.actions += len(acted.events)
        for one in _decided(evaluator, kept, acted):
            row = one.hit.row
            found.outcomes[one.hit.rule.name, one.outcome] += 1
            if reported((one,)) and len(found.hits) < limit:
                found.hits.append(
                    ReplayedHit(
                        acted.events[row], acted.principals[row], acted.kinds[row], acted.times[row], one
                    )
                )
    return found


def _decided(evaluator: RuleEvaluator, kept: HitFilter, acted: ActedEvents) -> Iterator[FilteredHit]:
    """What becomes of each hit, in the order of the log."""
    for hit in evaluator.evaluate(acted):
        row = hit.row
        yield kept.decide(hit, acted.events[row], acted.principals[row], acted.times[row])
