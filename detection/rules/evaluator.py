"""Runs rules over scored actions: which of them hit, and why."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import sub
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data.events.audit_event import AuditEvent
from detection.rules.constraints import ColumnMatcher, bits_of
from detection.rules.event_view import BODY_FIELDS, body_view, event_view, plain
from detection.rules.expressions import UndecidedError, activation
from detection.rules.rule import Rule
from detection.rules.scopes import ClusterWideResources
from detection.rules.watched_days import WatchedDays

if TYPE_CHECKING:
    from detection.authorization.agreement import Comparison
    from detection.detector import Scores

_MICRO = 1_000_000
#: Earlier requests of one principal that one rule sees, and pairs of rule and principal for which they are held.
MAX_HISTORY, _MAX_HELD = 64, 20_000
_MAX_MASKS = 10_000
_UNKNOWN = {"outcome": "unknown", "opinion": "unknown", "binding": "", "role": "", "reason": ""}
UNDECIDED = "The request is too large for this rule to check it; what it looks for may be in it."


@dataclass(frozen=True, slots=True)
class ActedEvents:
    """N scored actions as columns.

    Attributes:
        events: the event of each.
        principals, kinds, groups: who acted.
        times: microseconds since 1970 UTC.
        own_actions: earlier actions of the principal.
        pauses: microseconds since its previous action; 0 for its first.
    """

    events: Sequence[AuditEvent]
    principals: Sequence[str]
    kinds: Sequence[str]
    groups: Sequence[str]
    times: Sequence[int]
    own_actions: Sequence[int]
    pauses: Sequence[int]

    @classmethod
    def scored(cls, events: Sequence[AuditEvent], scores: Scores) -> ActedEvents:
        """Those of `events` that a detector scored."""
        return cls(
            events=[events[index] for index in scores.event.tolist()],
            principals=scores.principal,
            kinds=scores.kind,
            groups=scores.group,
            times=scores.time.astype(np.int64).tolist(),
            own_actions=scores.own_actions.tolist() or [0] * len(scores.principal),
            pauses=scores.pauses.tolist() or [0] * len(scores.principal),
        )


class EarlierActions:
    """What each principal did before, for logs that no detector scores."""

    def __init__(self) -> None:
        self._actions: Counter[str] = Counter()
        self._latest: dict[str, int] = {}

    def add(self, principals: Iterable[str], times: Iterable[int]) -> tuple[list[int], list[int]]:
        """Take in actions in the order of the log; returns `own_actions` and `pauses` of each, as `ActedEvents` has them."""
        own, pauses = list[int](), list[int]()
        for name, time_of in zip(principals, times, strict=True):
            own.append(self._actions[name])
            pauses.append(max(time_of - self._latest.get(name, time_of), 0))
            self._actions[name] += 1
            self._latest[name] = time_of
        return own, pauses


@dataclass(frozen=True, slots=True)
class RuleHit:
    """A rule that hit an action.

    Attributes:
        rule: which.
        row: of the action.
        reason: in words.
        decided: False where the request was too large to be checked.
    """

    rule: Rule
    row: int
    reason: str
    decided: bool = True


@dataclass(slots=True)
class RuleCounts:
    """What a rule did since the start.

    Attributes:
        evaluations: how often its expression ran.
        hits: how often it was true, or could not be decided.
        errors: how often it failed other than for a field that is not there.
        undecided: how often a request was too large for it.
        seconds: that its expression took.
        problem: the last error.
    """

    evaluations: int = 0
    hits: int = 0
    errors: int = 0
    undecided: int = 0
    seconds: float = 0.0
    problem: str = ""


@dataclass(slots=True)
class RuleMemory:
    """What rules know of earlier events; it outlives a change of the rules.

    Attributes:
        history: by rule and principal, the earlier requests: time and what an expression sees.
        cluster_wide: custom resources that the log has shown to be cluster-wide.
        watched: days of which the log had anything.
    """

    history: dict[tuple[str, str], deque[tuple[int, dict[str, Any]]]] = field(default_factory=dict)
    cluster_wide: ClusterWideResources = field(default_factory=ClusterWideResources)
    watched: WatchedDays = field(default_factory=WatchedDays)

    def recall(self, rule: str, principal: str, now: int, seconds: int) -> list[dict[str, Any]]:
        """Earlier requests within so many seconds, the latest last."""
        held = self.history.get((rule, principal), ())
        since = now - seconds * _MICRO
        return [seen | {"secondsAgo": (now - at) / _MICRO} for at, seen in held if since <= at <= now]

    def remember(self, rule: str, principal: str, at: int, event: AuditEvent) -> None:
        """Add a request; the oldest of one principal, and the principal seen longest ago, are forgotten."""
        key = rule, principal
        held = self.history.pop(key, None) or deque(maxlen=MAX_HISTORY)
        held.append((at, _brief(event)))
        self.history[key] = held
        if len(self.history) > _MAX_HELD:
            del self.history[next(iter(self.history))]

    def copy(self) -> RuleMemory:
        """One that goes on by itself."""
        history = {key: held.copy() for key, held in self.history.items()}
        cluster_wide = ClusterWideResources(self.cluster_wide.to_list())
        return RuleMemory(history, cluster_wide, WatchedDays(self.watched.to_list()))

    def to_plain(self) -> dict[str, Any]:
        """As plain data, for a snapshot."""
        return {
            "history": [[*key, list(held)] for key, held in self.history.items()],
            "cluster_wide": self.cluster_wide.to_list(),
            "watched": self.watched.to_list(),
        }

    @classmethod
    def from_plain(cls, saved: Mapping[str, Any]) -> RuleMemory:
        """Inverse of `to_plain`."""
        history = {
            (rule, principal): deque(((at, seen) for at, seen in held), MAX_HISTORY)
            for rule, principal, held in saved["history"]
        }
        cluster_wide = ClusterWideResources((group, resource) for group, resource in saved["cluster_wide"])
        return cls(history, cluster_wide, WatchedDays(saved.get("watched", ())))


def _brief(event: AuditEvent) -> dict[str, Any]:
    ref = event.objectRef
    names = ("apiGroup", "resource", "subresource", "namespace", "name")
    seen: dict[str, Any] = {name: "" if ref is None else plain(getattr(ref, name))[:253] for name in names}
    code = 0 if event.responseStatus is None else event.responseStatus.code
    return seen | {"verb": plain(event.verb)[:64], "code": code}


def authorization_view(comparison: Comparison | None) -> dict[str, str]:
    """What an expression sees of the authorization oracle's answer; all unknown where it was not asked."""
    if comparison is None:
        return _UNKNOWN
    ruling = comparison.ruling
    grant = comparison.recorded or (None if ruling is None else ruling.grant)
    return {
        "outcome": comparison.outcome,
        "opinion": "unknown" if ruling is None else ruling.opinion,
        "binding": "" if grant is None else plain(str(grant.binding)),
        "role": "" if grant is None else plain(str(grant.role)),
        "reason": "" if ruling is None else plain(ruling.reason),
    }


class _LazyEvent:
    """An event as expressions see it; what costs is made when it is named for the first time.

    Attributes:
        is_cut: whether something is missing of the body because of its size; known once a field of it was named.
    """

    def __init__(self, event: AuditEvent) -> None:
        self._event = event
        self._body: dict[str, Any] | None = None
        self.is_cut = False

    def of(self, fields: Collection[str]) -> dict[str, Any]:
        """The fields that are named."""
        view = event_view(self._event, fields)
        if any(name in fields for name in BODY_FIELDS):
            if self._body is None:
                self._body, self.is_cut = body_view(self._event)
            view |= {name: self._body[name] for name in BODY_FIELDS if name in fields}
        return view


class RuleEvaluator:
    """Runs a set of rules.

    Args:
        rules: which.
        memory: what earlier rules knew.
    """

    def __init__(self, rules: Iterable[Rule], memory: RuleMemory | None = None) -> None:
        self.rules = tuple(rules)
        self.memory = memory or RuleMemory()
        self.counts = {rule.name: RuleCounts() for rule in self.rules}
        remembering = [rule for rule in self.rules if rule.history_constraints is not None]
        self._remembering = dict(enumerate(remembering, len(self.rules)))
        constraints = [rule.spec.matchConstraints for rule in self.rules]
        constraints += [one for rule in remembering if (one := rule.history_constraints) is not None]
        self._matcher = ColumnMatcher(constraints)
        self._silent = {bit: one.silentDays for bit, one in enumerate(constraints) if one.silentDays}
        self._fields: dict[int, frozenset[str]] = {}
        self._own = (1 << len(self.rules)) - 1

    def evaluate(
        self, acted: ActedEvents, compared: Callable[[int], Mapping[str, str]] = lambda _row: _UNKNOWN
    ) -> list[RuleHit]:
        """Rules that hit, in the order of the actions.

        Args:
            acted: the actions, in the order of the log.
            compared: gives of a row what `authorization_view` makes of the oracle's answer.
        """
        hits: list[RuleHit] = []
        if not self.rules:
            return hits
        events, watched = acted.events, self.memory.watched
        watched.learn(acted.times)
        among = -1
        if self._silent and len(events):
            earliest = min(map(sub, acted.times, acted.pauses))
            longest = watched.between(earliest, max(acted.times))
            among = ~sum(1 << bit for bit, days in self._silent.items() if days > longest)
        for row, mask in self._matcher.matches(events, acted.kinds, self.memory.cluster_wide, among):
            for bit, days in self._silent.items():
                if mask >> bit & 1 and self._silence(acted, row) < days:
                    mask &= ~(1 << bit)
            if own := mask & self._own:
                try:
                    hits += self._run(acted, row, own, compared)
                except Exception as error:  # no event may keep the rules from those that follow
                    self._failed(own, error)
            for bit in bits_of(mask & ~self._own):
                name, who = self._remembering[bit].name, acted.principals[row]
                self.memory.remember(name, who, int(acted.times[row]), events[row])
        return hits

    def _silence(self, acted: ActedEvents, row: int) -> int:
        return self.memory.watched.between(acted.times[row] - acted.pauses[row], acted.times[row])

    def _run(
        self, acted: ActedEvents, row: int, mask: int, compared: Callable[[int], Mapping[str, str]]
    ) -> list[RuleHit]:
        found = []
        view = _LazyEvent(acted.events[row])
        fields = self._fields.get(mask)
        if fields is None:
            if len(self._fields) >= _MAX_MASKS:
                self._fields.clear()
            named = (self.rules[bit].expression.fields for bit in bits_of(mask))
            fields = self._fields[mask] = frozenset[str]().union(*named)
        values: dict[str, Any] = {
            "event": view.of(fields),
            "principal": {
                "name": plain(acted.principals[row]),
                "kind": acted.kinds[row],
                "group": plain(acted.groups[row]),
                "actions": int(acted.own_actions[row]),
                "silentDays": self._silence(acted, row),
            },
            "history": [],
            "authorization": _UNKNOWN,
        }
        shared: Any = None
        for bit in bits_of(mask):
            rule = self.rules[bit]
            given = values
            if rule.needs_authorization:
                given = given | {"authorization": dict(compared(row))}
            if rule.spec.history is not None:
                now, who = int(acted.times[row]), acted.principals[row]
                earlier = self.memory.recall(rule.name, who, now, rule.spec.history.seconds)
                given = given | {"history": earlier}
            if given is not values:
                ready = activation(given)
            else:
                ready = shared = shared or activation(values)
            answer = self._judge(rule, ready, view.is_cut and rule.expression.needs_body)
            if answer == "hit":
                whole = given if rule.fields <= fields else given | {"event": view.of(rule.fields)}
                found.append(RuleHit(rule, row, rule.reason.render(activation(whole))))
            elif answer == "undecided":
                found.append(RuleHit(rule, row, UNDECIDED, decided=False))
        return found

    def _judge(self, rule: Rule, values: Any, is_cut: bool) -> Literal["no", "hit", "undecided"]:
        counts = self.counts[rule.name]
        counts.evaluations += 1
        answer: Literal["no", "hit", "undecided"] = "undecided" if is_cut else "no"
        began = time.perf_counter()
        try:
            result = rule.expression.evaluate(values)
            if result.value is True:
                answer = "hit"
            if result.problem and not result.missing:
                counts.errors += 1
                counts.problem = result.problem
        except UndecidedError:
            answer = "undecided"
        counts.seconds += time.perf_counter() - began
        counts.hits += answer != "no"
        counts.undecided += answer == "undecided"
        return answer

    def _failed(self, mask: int, error: Exception) -> None:
        for bit in bits_of(mask):
            counts = self.counts[self.rules[bit].name]
            counts.errors += 1
            counts.problem = repr(error)[:200]

    def replaced(self, rules: Iterable[Rule]) -> RuleEvaluator:
        """An evaluator of other rules that goes on with what is known; counts of rules of the same name go on too."""
        other = RuleEvaluator(rules, self.memory)
        other.counts |= {name: counts for name, counts in self.counts.items() if name in other.counts}
        return other
