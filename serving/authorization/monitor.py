"""Compares every event with RBAC while the service runs, and decides which contradictions are raised.

A contradiction is raised once. Done again ten minutes later it joins the alert that it repeats; after the verdict *normal* it
is only counted. New ones are limited, of one user and in all, so that neither a wrong snapshot nor an attacker floods people;
what is beyond that is counted (`kubehabit_authorization_withheld_total`).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from cachetools import LRUCache

from data.events.audit_event import AuditEvent
from detection.authorization.agreement import CONTRADICTIONS, Comparison
from detection.authorization.changes import Change
from detection.authorization.oracle import AuthorizationOracle
from detection.authorization.rbac import Rbac
from detection.evidence import INCIDENT_SECONDS

_log = logging.getLogger("kubehabit.authorization")
#: Microseconds within which the same contradiction is raised once.
_ONCE = INCIDENT_SECONDS * 1_000_000
#: Contradictions that are remembered, and users of whom new ones are counted.
_KNOWN, _USERS = 10_000, 10_000
#: New contradictions that may be raised, of one user and in all, before some of this is earned back by requests compared. That
#: needs no clock, which a log could set.
_EACH, _ALL, _EARNED_EACH, _EARNED = 16, 128, 2_000, 500
#: Requests without a recorded decision are only worth an alert in a log that otherwise has one for nearly all.
_USUAL = 20
#: Outcomes of requests that came before the snapshot was taken, and of those of another cluster.
EARLIER, ELSEWHERE = "before the snapshot", "another cluster"

_OUTCOMES = ("agrees", "unknown", "not authorized", "refused though a rule allows it", *CONTRADICTIONS)
_WITHHELD = ("reported already", "accepted", "too many", "log without decisions")

#: How long it is taken for granted which accounts run pods.
_FRESH_SECONDS = 60.0

Verdict = Literal["normal", "malicious", "unclear"]


class ContradictionKey(NamedTuple):
    """What makes two contradictions the same."""

    user: str
    outcome: str
    request: str
    recorded: str


@dataclass(slots=True)
class KnownContradiction:
    """A contradiction that was raised. Times are microseconds since 1970 UTC.

    Attributes:
        first: when, as the alert has it.
        last: when it was last raised, again or for the first time.
        principal: whose alert.
        accepted: whether people said that it is normal.
    """

    first: int
    last: int
    principal: str
    accepted: bool = False


class Raised(NamedTuple):
    """A contradiction that is to be raised: `first` is when it was before, in microseconds; None for a new one."""

    first: int | None


@dataclass(slots=True)
class MonitorFigures:
    """Requests by what comparing them came to, contradictions that were not raised, and RBAC changes followed."""

    outcomes: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(_OUTCOMES, 0)))
    withheld: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(_WITHHELD, 0)))
    changes: int = 0
    unknown_changes: int = 0


@dataclass(frozen=True, slots=True)
class CurrentRights:
    """Roles and bindings at a moment; nobody changes them.

    Attributes:
        rbac: roles and bindings.
        on_nodes: service accounts whose pods run, as user names.
        pods_known: whether a snapshot had the pods: else there are more than those.
        unknown_changes: changes whose content the log did not have.
        changes: the last ones that led to them, oldest first.
        whole: whether these are all since the snapshot.
    """

    rbac: Rbac
    on_nodes: frozenset[str]
    pods_known: bool
    unknown_changes: int
    changes: tuple[Change, ...] = ()
    whole: bool = True


class AuthorizationMonitor:
    """Compares the events of a service with the rules, in the order of their arrival; called by one thread at a time.

    Args:
        oracle: knows the rules as they stand.
        digest: of the snapshot's files; state that was saved for other files is not taken over.
        taken: when the snapshot was taken, RFC 3339 in UTC; earlier events are neither compared nor followed. Empty: unknown.
        cluster: only events of this cluster are compared, in a log of several; None: all.
    """

    def __init__(
        self, oracle: AuthorizationOracle, *, digest: str = "", taken: str = "", cluster: str | None = None
    ) -> None:
        self.oracle = oracle
        self._digest, self._taken, self._cluster = digest, taken, cluster
        self._known: LRUCache[ContradictionKey, KnownContradiction] = LRUCache(_KNOWN)
        self._outcomes: Counter[str] = Counter()
        self._withheld: Counter[str] = Counter()
        self._spent, self._spent_at = 0.0, 0
        self._spent_by: LRUCache[str, tuple[float, int]] = LRUCache(_USERS)
        self._current: CurrentRights | None = None
        self._current_until = 0.0

    def compare(self, events: Sequence[AuditEvent]) -> list[Comparison | None]:
        """Compare events and count what came of it.

        Returns:
            One for each event; None for a stage before the end of a request, and for what is not to be compared.
        """
        wanted = events
        if self._taken or self._cluster is not None:
            wanted = [event for event in events if self._is_wanted(event)]
        found = self.oracle.compare(wanted)
        self._outcomes.update([one.outcome for one in found if one is not None])
        if len(wanted) == len(events):
            return found
        compared = dict(zip(map(id, wanted), found, strict=True))
        return [compared.get(id(event)) for event in events]

    def _is_wanted(self, event: AuditEvent) -> bool:
        if self._cluster is not None and event.cluster != self._cluster:
            self._outcomes[ELSEWHERE] += 1
            return False
        if (event.requestReceivedTimestamp or event.stageTimestamp) < self._taken:
            self._outcomes[EARLIER] += 1
            return False
        return True

    def judge(self, one: Comparison, principal: str, time: int) -> Raised | None:
        """Whether a contradiction is to be raised; None if it only counts.

        Args:
            one: an outcome of `CONTRADICTIONS`.
            principal: whose alert it would be.
            time: of its event, microseconds since 1970 UTC.
        """
        if one.outcome == "no decision recorded" and self._is_usual(one.outcome):
            self._withhold("log without decisions")
            return None
        key = _key_of(one)
        known = self._known.get(key)
        if known is not None:
            recent = abs(time - known.last) < _ONCE
            if known.accepted or recent:
                self._withhold("accepted" if known.accepted else "reported already")
                return None
            known.last = max(known.last, time)
            return Raised(known.first)
        if not self._afford(one.user):
            self._withhold("too many")
            return None
        self._known[key] = KnownContradiction(time, time, principal)
        return Raised(None)

    def _is_usual(self, outcome: str) -> bool:
        decided = sum(self._outcomes[name] for name in ("agrees", "unknown", *CONTRADICTIONS))
        missing = self._outcomes[outcome]
        return (decided - missing) < _USUAL * missing

    def _withhold(self, why: str) -> None:
        self._withheld[why] += 1
        if why == "too many" and self._withheld[why] == 1:
            _log.error(
                "more contradictions to RBAC than are raised: the snapshot may not be of this cluster, or not of the moment "
                "at which its log begins"
            )

    def _afford(self, user: str) -> bool:
        now = self.oracle.figures.compared
        spent = max(0.0, self._spent - (now - self._spent_at) / _EARNED)
        of_user, at = self._spent_by.get(user, (0.0, now))
        of_user = max(0.0, of_user - (now - at) / _EARNED_EACH)
        can = spent + 1 <= _ALL and of_user + 1 <= _EACH
        self._spent, self._spent_at = spent + can, now
        self._spent_by[user] = of_user + can, now
        return can

    def apply_verdict(self, principal: str, times: Collection[int], verdict: Verdict) -> None:
        """Take in what people say about an alert: what it was raised for is accepted, or raised again.

        Args:
            principal: of the alert.
            times: of its actions, microseconds since 1970 UTC.
            verdict: normal: counted from now on, and not raised; otherwise a new alert when it is done again.
        """
        for key, known in list(self._known.items()):
            if known.principal == principal and known.first in times:
                if verdict == "normal":
                    known.accepted = True
                else:
                    del self._known[key]

    @property
    def figures(self) -> MonitorFigures:
        """Counters since the service first had this snapshot."""
        follower = self.oracle.follower
        found = MonitorFigures(changes=follower.applied, unknown_changes=follower.unknown)
        found.outcomes.update(self._outcomes)
        found.withheld.update(self._withheld)
        return found

    def current(self) -> CurrentRights:
        """Roles and bindings as they stand; the same object as long as they have not changed.

        Which accounts run pods is looked up again after a minute.
        """
        now, known = time.monotonic(), self._current
        rbac, follower = self.oracle.rbac, self.oracle.follower
        if known is not None and known.rbac.generation == rbac.generation and now < self._current_until:
            return known
        unchanged = known is not None and known.rbac.generation == rbac.generation
        on_nodes = frozenset(self.oracle.graph.accounts())
        if known is not None and unchanged and known.on_nodes == on_nodes:
            self._current_until = now + _FRESH_SECONDS
            return known
        self._current = CurrentRights(
            known.rbac if known is not None and unchanged else rbac.copy(),
            on_nodes,
            self.oracle.graph.complete,
            follower.unknown,
            tuple(follower.recent),
            follower.whole,
        )
        self._current_until = now + _FRESH_SECONDS
        return self._current

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """What must outlive a restart; the result makes it ready for MessagePack, on any thread, as it is now."""
        rules, graph = self.oracle.follower.snapshot(), self.oracle.graph.snapshot()
        known = [
            (tuple(key), one.first, one.last, one.principal, one.accepted) for key, one in self._known.items()
        ]
        rest = {
            "digest": self._digest,
            "rules": rules,
            "known": known,
            "outcomes": dict(self._outcomes),
            "withheld": dict(self._withheld),
        }
        return lambda: rest | {"graph": graph()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restore a decoded `snapshot`: of other files only what was raised."""
        for key, first, last, principal, accepted in saved["known"]:
            self._known[ContradictionKey(*key)] = KnownContradiction(first, last, principal, accepted)
        self._outcomes.update(saved["outcomes"])
        self._withheld.update(saved["withheld"])
        if saved["digest"] != self._digest:
            _log.info("the files of authorization.snapshot changed: the rules begin with them")
            return
        self.oracle.restore(saved["rules"], saved["graph"])


def _key_of(one: Comparison) -> ContradictionKey:
    request = one.request
    # One contradiction for all objects of a kind; of paths for all below the first part.
    what = f"{request.verb} {request.combined}.{request.group}/{request.namespace}"
    if request.path is not None:
        what = f"{request.verb} /{request.path.strip('/').partition('/')[0]}"
    recorded = "" if one.recorded is None else str(one.recorded.binding)
    return ContradictionKey(one.user, one.outcome, what, recorded)
