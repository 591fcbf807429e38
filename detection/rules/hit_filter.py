"""Keeps hits of rules from flooding: what a principal does day after day is its habit, and of the rest only so much is reported.

A hit is known by its rule, its principal, and what was done where (verb, resource, namespace). Nothing here depends on clocks or
on how events were batched: days and hours are those of the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from data.events.audit_event import AuditEvent
from detection.evidence import INCIDENT_SECONDS
from detection.rules.evaluator import RuleHit

Outcome = Literal["new", "again", "habit", "over budget", "allowed"]
OUTCOMES: tuple[Outcome, ...] = ("new", "again", "habit", "over budget", "allowed")
_MICRO = 1_000_000
_HOUR, _DAY = 3_600 * _MICRO, 86_400 * _MICRO
_GAP = INCIDENT_SECONDS * _MICRO
#: Hits of one rule and principal, and of one rule in all, that are reported in an hour of the log.
MOST_EACH, MOST_IN_ALL = 20, 200
#: Kinds of hits that are held; those seen longest ago are forgotten.
_LIMIT = 50_000
_MOST_DAYS = 90
#: Days of which hits are counted one by one.
_COUNTED_DAYS = 90
#: Times of reported hits by which a verdict finds them.
_MOST_TIMES = 32
_NORMAL, _MALICIOUS = 1, 2
HitKey = tuple[str, str, str, str, str]


class HeldHit(msgspec.Struct, array_like=True):
    """One kind of hit. Times are microseconds since 1970 UTC.

    Attributes:
        days: distinct days on which it was, the latest last.
        first: when what later hits repeat was reported.
        last: when it was reported last as new.
        times: of the reported ones.
        verdict: 0 none, 1 normal, 2 malicious.
    """

    days: list[int]
    first: int
    last: int
    times: list[int]
    verdict: int = 0


@dataclass(frozen=True, slots=True)
class FilteredHit:
    """A hit and what becomes of it.

    Attributes:
        hit: which.
        outcome: `new`, or `again` for what was reported before; both are reported.
        first: for `again`, when what it repeats was reported, microseconds; else 0.
    """

    hit: RuleHit
    outcome: Outcome
    first: int = 0


class HitFilter:
    """Decides which hits are reported."""

    def __init__(self) -> None:
        self._held: dict[HitKey, HeldHit] = {}
        self._hour = 0
        self._reported: Counter[tuple[str, str]] = Counter()
        #: By rule and outcome, since the start.
        self.counts: Counter[tuple[str, Outcome]] = Counter()
        #: By day of the log (days since 1970), then as above; outlives a restart.
        self.by_day: dict[int, Counter[tuple[str, Outcome]]] = {}

    def decide(self, hit: RuleHit, event: AuditEvent, principal: str, time: int) -> FilteredHit:
        """What becomes of a hit; hits come in the order of the log.

        Args:
            hit: of a rule.
            event: that it hit.
            principal: who acted.
            time: when, microseconds since 1970 UTC.
        """
        found = self._decide(hit, event, principal, time)
        self._count(hit.rule.name, found.outcome, time)
        return found

    def allow(self, hit: RuleHit, time: int) -> None:
        """Count a hit that an exception by hand allows; it is not reported, and no habit comes of it."""
        self._count(hit.rule.name, "allowed", time)

    def _count(self, rule: str, outcome: Outcome, time: int) -> None:
        self.counts[rule, outcome] += 1
        day = time // _DAY
        if day not in self.by_day:
            while len(self.by_day) >= _COUNTED_DAYS:
                del self.by_day[min(self.by_day)]
            self.by_day[day] = Counter()
        self.by_day[day][rule, outcome] += 1

    def _decide(self, hit: RuleHit, event: AuditEvent, principal: str, time: int) -> FilteredHit:
        key = hit_key(hit.rule.name, principal, event)
        day = time // _DAY
        held = self._held.pop(key, None)
        is_new = held is None
        if held is None:
            held = HeldHit([], time, time, [])
            if len(self._held) >= _LIMIT:
                del self._held[next(iter(self._held))]
        self._held[key] = held
        habit_days = hit.rule.spec.habitDays
        earlier = sum(1 for one in held.days if one != day)
        if day not in held.days:
            held.days = sorted([*held.days, day])[-_MOST_DAYS:]
        if held.verdict == _NORMAL or (held.verdict == 0 and 0 < habit_days <= earlier):
            return FilteredHit(hit, "habit")
        if not self._spend(hit.rule.name, principal, time):
            if is_new:
                del self._held[key]  # it was never reported, so the next one is new
            return FilteredHit(hit, "over budget")
        held.times = [*held.times, time][-_MOST_TIMES:]
        again = not is_new and time - held.last > _GAP and held.verdict == 0
        if not again:
            held.last = max(held.last, time)
            if held.verdict == _MALICIOUS:
                held.first = time
        return FilteredHit(hit, "again", held.first) if again else FilteredHit(hit, "new")

    def _spend(self, rule: str, principal: str, time: int) -> bool:
        hour = time // _HOUR
        if hour > self._hour:
            self._hour = hour
            self._reported.clear()
        mine, all_of_it = (rule, principal), (rule, "")
        if self._reported[mine] >= MOST_EACH or self._reported[all_of_it] >= MOST_IN_ALL:
            return False
        self._reported[mine] += 1
        self._reported[all_of_it] += 1
        return True

    def apply_verdict(self, principal: str, times: Collection[int], verdict: str) -> None:
        """Take in what people say about reported hits: normal ones are habits from now on, malicious ones never.

        Args:
            principal: who acted.
            times: when, microseconds since 1970 UTC.
            verdict: normal, malicious or unclear.
        """
        wanted = set(times)
        value = {"normal": _NORMAL, "malicious": _MALICIOUS}.get(verdict, 0)
        for key, held in self._held.items():
            if key[1] == principal and not wanted.isdisjoint(held.times):
                held.verdict = value

    def checkpoint(self) -> Callable[[], None]:
        """Returns what forgets everything decided from now on."""
        saved, counts = self.to_plain(), Counter(self.counts)

        def undo() -> None:
            self.restore(saved)
            self.counts = counts

        return undo

    def to_plain(self) -> dict[str, Any]:
        """As plain data, for a snapshot."""
        return {
            "held": [[*key, msgspec.to_builtins(held)] for key, held in self._held.items()],
            "hour": self._hour,
            "reported": [[*key, number] for key, number in self._reported.items()],
            "days": [
                [day, *key, number] for day, of_day in self.by_day.items() for key, number in of_day.items()
            ],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on with what `to_plain` gave."""
        self._held = {
            (rule, who, verb, what, where): msgspec.convert(held, HeldHit)
            for rule, who, verb, what, where, held in saved["held"]
        }
        self._hour = saved["hour"]
        self._reported = Counter({(rule, who): number for rule, who, number in saved["reported"]})
        self.by_day = {}
        for day, rule, outcome, number in saved.get("days", ()):  # not in a state of an older version
            self.by_day.setdefault(day, Counter())[rule, outcome] = number


def hit_key(rule: str, principal: str, event: AuditEvent) -> HitKey:
    """What makes two hits the same kind."""
    ref = event.objectRef
    if ref is None:
        return rule, principal, event.verb, "", ""
    what = f"{ref.apiGroup}/{ref.resource}/{ref.subresource}"
    return rule, principal, event.verb, what, ref.namespace


def reported(filtered: Sequence[FilteredHit]) -> list[FilteredHit]:
    """Those that are reported."""
    return [one for one in filtered if one.outcome in ("new", "again")]
