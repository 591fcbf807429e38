"""Compares what an audit log says was decided with what the cluster's rules allow: proof, where they contradict each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

from data.events.audit_event import AuditEvent, User
from detection.authorization.authorizer import MASTERS, Authorizer, Ruling
from detection.authorization.changes import ChangeFollower
from detection.authorization.escalation_check import passes_binding, passes_rules
from detection.authorization.rbac import BindingGrant, ObjectKey, RbacBinding, RbacRole
from detection.authorization.requests import AccessRequest, access_request
from detection.authorization.rules import ALL, PolicyRule

Contradiction = Literal[
    "allowed by nothing",
    "binding does not grant it",
    "anonymous success by no rule",
    "decision contradicts the response",
    "no decision recorded",
    "more than its writer had",
]
Outcome = Literal["agrees", "unknown", "refused though a rule allows it", "not authorized"] | Contradiction
#: Outcomes that say that a check of the API server was passed by, or that the log or the snapshot is not whole.
CONTRADICTIONS: Mapping[Contradiction, str] = {
    "allowed by nothing": "it was allowed, though no role or binding as of that moment allows it",
    "binding does not grant it": "the recorded reason names a binding that as of that moment does not allow it",
    "anonymous success by no rule": "a caller without credentials succeeded, though no rule allows that",
    "decision contradicts the response": "authorization refused it, and yet it succeeded",
    "no decision recorded": "it succeeded without any record of an authorization",
    "more than its writer had": "a role or binding was written that gives more than its writer had, without 'escalate' or 'bind'",
}
#: User of a request without credentials.
ANONYMOUS = "system:anonymous"
#: `RBAC: allowed by RoleBinding "edit/shop" of ClusterRole "edit" to Group "devs"`, as the API server writes it.
_REASON = re.compile(
    r'RBAC: allowed by (ClusterRoleBinding|RoleBinding) "([^"/]{1,512})(?:/([^"]{1,512}))?" '
    r'of (ClusterRole|Role) "([^"/]{1,512})(?:/[^"]{0,512})?" to '
)
_RESOURCES = {
    "ClusterRoleBinding": "clusterrolebindings",
    "RoleBinding": "rolebindings",
    "ClusterRole": "clusterroles",
    "Role": "roles",
}
_UNAUTHORIZED = 401
#: How long after a change an API server may still decide by what was before.
_LAG = timedelta(seconds=5)


@lru_cache(1 << 15)
def recorded_grant(reason: str) -> BindingGrant | None:
    """The binding and role that an authorization reason names; None if it names none."""
    if not reason.startswith("RBAC:"):
        return None
    found = _REASON.match(reason)
    if found is None:
        return None
    kind, name, namespace, role_kind, role = found.groups()
    binding = ObjectKey(_RESOURCES[kind], namespace or "", name)
    return BindingGrant(
        binding, ObjectKey(_RESOURCES[role_kind], binding.namespace if role_kind == "Role" else "", role)
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """One event, compared.

    Attributes:
        outcome: `agrees`, a contradiction, or why nothing can be said.
        user, groups: who was authorized: the impersonated user, if there is one.
        request: what was asked for.
        ruling: what the rules say; None where they were not asked.
        recorded: binding that the log names.
    """

    outcome: Outcome
    user: str
    groups: tuple[str, ...]
    request: AccessRequest
    ruling: Ruling | None = None
    recorded: BindingGrant | None = None


def compare(event: AuditEvent, authorizer: Authorizer) -> Comparison:
    """Compare the recorded decision of a finished request with the rules as they stand."""
    who: User = event.impersonatedUser or event.user
    user = who.username or ANONYMOUS
    request = access_request(event.verb, event.requestURI)
    notes, code = event.annotations, event.responseStatus.code if event.responseStatus else 0
    decision, reason = (notes.decision, notes.reason or "") if notes else (None, "")
    succeeded = 100 <= code < 300
    if code == _UNAUTHORIZED or (decision is None and not succeeded):
        return Comparison("not authorized", user, who.groups, request)
    ruling = authorizer.decide(user, who.groups, request)
    recorded = recorded_grant(reason)

    def result(outcome: Outcome) -> Comparison:
        return Comparison(outcome, user, who.groups, request, ruling, recorded)

    if decision is None:
        # Health probes and the like are not authorized at all.
        return result("agrees" if ruling.opinion == "allow" else "no decision recorded")
    if decision != "allow":
        if succeeded:
            return result("decision contradicts the response")
        if ruling.opinion == "allow":
            # The node authorizer learns of a pod a little after its node does.
            return result("refused though a rule allows it" if ruling.lasting else "unknown")
        return result("agrees")
    if recorded is not None:
        binding = authorizer.rbac.bindings.get(recorded.binding)
        granted = None if binding is None else authorizer.rbac.grants(recorded, request)
        bound = binding is not None and (
            binding.users is None
            or user in binding.users
            or not set(who.groups).isdisjoint(binding.groups or ())
        )
        if binding is not None and binding.users is None:
            return result("unknown")
        if binding is None or granted is False or not bound or binding.role != recorded.role:
            return result("binding does not grant it")
        return result("unknown" if granted is None else "agrees")
    if ruling.opinion == "allow":
        return result("agrees")
    if ruling.opinion == "unknown" or reason:
        return result(
            "unknown"
        )  # another authorizer allowed it, and says so: a cloud's, a webhook, the node authorizer
    return result("anonymous success by no rule" if user == ANONYMOUS else "allowed by nothing")


def confirm(
    event: AuditEvent, found: Comparison, authorizer: Authorizer, follower: ChangeFollower
) -> Comparison:
    """What `compare` found; a contradiction only if the rules that stood when the request arrived contradict it too.

    A watch is logged when it ends, and API servers learn of a change a little after it was made.
    """
    if found.outcome not in CONTRADICTIONS or not follower.recent:
        return found
    since = _earlier(event.requestReceivedTimestamp or event.stageTimestamp)
    if not follower.remembers(since):
        return replace(found, outcome="unknown")
    before = follower.as_of(since)
    if before is None:
        return found
    then = compare(event, Authorizer(before, authorizer.nodes))
    return found if then.outcome in CONTRADICTIONS else then


def check_write(
    event: AuditEvent, found: Comparison, authorizer: Authorizer, follower: ChangeFollower
) -> Comparison:
    """What was found of a write of RBAC, before it is followed: a contradiction if it gives more than its writer had.

    Only what a binding allowed is checked: another authorizer may know the verbs `escalate` and `bind` too.
    """
    if found.outcome != "agrees" or found.recorded is None:
        return found
    made = follower.written(event)
    if (
        made is None
        or made[1] == authorizer.rbac.get(made[0])
        or passes(authorizer, found, *made) is not False
    ):
        return found
    since = _earlier(event.requestReceivedTimestamp or event.stageTimestamp)
    before = follower.as_of(since) if follower.remembers(since) else None
    if before is not None and passes(Authorizer(before, authorizer.nodes), found, *made) is not False:
        return found
    return replace(found, outcome="more than its writer had")


def passes(
    authorizer: Authorizer, found: Comparison, key: ObjectKey, made: RbacRole | RbacBinding
) -> bool | None:
    """Whether who made a request may give what it wrote; None: unknown."""
    if isinstance(made, RbacBinding):
        if made.role is None:
            return None
        return passes_binding(authorizer, found.user, found.groups, made.role, key.namespace)
    rules = made.rules
    if rules is None:
        return None
    # Who makes a role that gathers others needs everything.
    wanted = rules if made.selectors is None else (*rules, PolicyRule((ALL,), (ALL,), (ALL,)))
    return passes_rules(authorizer, found.user, found.groups, key, wanted)


def _earlier(time: str) -> str:
    """A time some seconds before an RFC 3339 time, in the form that API servers write."""
    try:
        moment = datetime.fromisoformat(time).astimezone(UTC) - _LAG
    except (ValueError, OverflowError):
        return time
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


@dataclass(slots=True)
class Agreement:
    """What comparing a log came to.

    Attributes:
        counts: finished requests by outcome.
        contradictions: the first ones, with their event; all are in `counts`.
        decided: by what the recorded decisions were made: RBAC, `system:masters`, another authorizer.
    """

    counts: Counter[str] = field(default_factory=Counter)
    contradictions: list[tuple[AuditEvent, Comparison]] = field(default_factory=list)
    decided: Counter[str] = field(default_factory=Counter)

    @property
    def compared(self) -> int:
        """Requests of which the rules could be asked with a definite answer."""
        return sum(self.counts.values()) - self.counts["unknown"] - self.counts["not authorized"]

    @property
    def agreed(self) -> int:
        """Those in which log and rules agree."""
        return self.counts["agrees"]


def agree(
    events: Iterable[AuditEvent], authorizer: Authorizer, follower: ChangeFollower, *, limit: int = 1000
) -> Agreement:
    """Compare every finished request of a log with the rules as of its moment; the rules follow the log.

    Args:
        limit: contradictions that are kept with their events.
    """
    found = Agreement()
    for event in events:
        if event.stage not in ("ResponseComplete", "Panic"):
            continue
        one = confirm(event, compare(event, authorizer), authorizer, follower)
        one = check_write(event, one, authorizer, follower)
        found.counts[one.outcome] += 1
        if one.recorded is not None:
            found.decided["RBAC"] += 1
        elif MASTERS in one.groups:
            found.decided[MASTERS] += 1
        else:
            found.decided["another authorizer, or none"] += 1
        if one.outcome in CONTRADICTIONS and len(found.contradictions) < limit:
            found.contradictions.append((event, one))
        follower.follow(event)
    return found
