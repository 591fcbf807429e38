"""Least privilege: rights that were granted but never used, the smallest role for what was, and what a change would deny."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.events.audit_event import AuditEvent
from detection.authorization.authorizer import Authorizer
from detection.authorization.changes import Change, ChangeFollower, undo
from detection.authorization.rbac import BindingGrant, ObjectKey, Rbac
from detection.authorization.requests import access_request
from detection.authorization.right_index import RightIndex
from detection.authorization.rules import PolicyRule
from detection.authorization.usage import UsedRight, UserUsage


@dataclass(frozen=True, slots=True)
class GrantedRight:
    """A right that a binding gives, broken down, and whether it was used.

    Attributes:
        grant: by which binding and role.
        rule: one verb on one resource, or on one path.
        uses: requests of the window that it allowed.
        risk: what it leads to; empty for an ordinary right.
    """

    grant: BindingGrant
    rule: PolicyRule
    uses: int
    risk: str


def granted_rights(
    rbac: Rbac, user: str, usage: UserUsage, index: RightIndex | None = None
) -> list[GrantedRight]:
    """Every right of a user by its bindings, with how often it was used; those that are risky and unused come first.

    Args:
        index: of the same rules and of the usage of all, if there is one: it remembers what it found.
    """
    index = index or RightIndex(rbac, {user: usage})
    return rights_by(index, rbac.all_bindings_of(user, usage.groups), [user])


def rights_by(index: RightIndex, grants: Iterable[BindingGrant], users: Sequence[str]) -> list[GrantedRight]:
    """Every right that some bindings give, with how often some users used it, in the order of `granted_rights`."""
    found = []
    for grant in grants:
        role = index.role(grant.role)
        if role is None:
            continue
        by = index.uses_by(grant, users)
        for number, (rule, risk) in enumerate(zip(role.rights, role.risks, strict=True)):
            found.append(GrantedRight(grant, rule, by[number], risk))
    found.sort(key=lambda one: (one.uses > 0, not one.risk, one.grant, one.rule.verbs, one.rule.resources))
    return found


def minimal_rules(usage: UserUsage, *, by_name: bool = False) -> dict[str, list[PolicyRule]]:
    """The fewest rules that allow exactly what was used: namespace (empty: the whole cluster) -> rules.

    Args:
        by_name: allow only the objects that were touched, where the right can be given by name and they were few.
    """
    verbs_of: dict[tuple[str, str, str, tuple[str, ...]], set[str]] = defaultdict(set)
    paths_of: dict[str, set[str]] = defaultdict(set)
    for right in usage.counts:
        if right.path is not None:
            paths_of[right.path].add(right.verb)
            continue
        names = usage.names[right] if by_name else None
        given = tuple(sorted(names)) if names and "" not in names else ()
        verbs_of[right.namespace, right.group, right.resource, given].add(right.verb)
    # Resources with the same verbs share a rule: its product of verbs and resources holds nothing that was not used.
    together: dict[tuple[str, str, tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
    for (namespace, group, resource, given), used in sorted(verbs_of.items()):
        together[namespace, group, tuple(sorted(used)), given].append(resource)
    rules: dict[str, list[PolicyRule]] = defaultdict(list)
    for (namespace, group, verbs, given), resources in together.items():
        if given:  # names of one kind of object are not those of another
            rules[namespace] += (PolicyRule(verbs, (group,), (resource,), given) for resource in resources)
        else:
            rules[namespace].append(PolicyRule(verbs, (group,), tuple(resources)))
    by_verbs: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path, used in sorted(paths_of.items()):
        by_verbs[tuple(sorted(used))].append(path)
    rules[""] += (PolicyRule(path_verbs, paths=tuple(paths)) for path_verbs, paths in by_verbs.items())
    return {namespace: found for namespace, found in sorted(rules.items()) if found}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An existing role as a starting point: how many used rights it lacks, and how many it gives that were not used."""

    role: ObjectKey
    missing: int
    unused: int


def candidates(
    rbac: Rbac, usage: UserUsage, namespace: str, limit: int = 3, index: RightIndex | None = None
) -> list[Candidate]:
    """Existing roles that come closest to what was used in a namespace: those that lack least, then give least.

    Roles with wildcards are no starting point for least privilege.
    """
    index = index or RightIndex(rbac, {})
    rights = [right for right in usage.counts if right.namespace == namespace or right.path is not None]
    found = []
    for key in rbac.roles:
        # Kubernetes' own roles are for its own parts, but for the four that are meant for users.
        if key.namespace not in ("", namespace) or key.name.startswith("system:"):
            continue
        role = index.role(key)
        if role is None or role.boundless:
            continue
        allowed: set[int] = set()
        missing = 0
        for right in rights:
            by = set(role.allowing(right, set()))
            missing += not by
            allowed |= by
        if missing < len(rights):
            found.append(Candidate(key, missing, len(role.rights) - len(allowed)))
    return sorted(found, key=lambda one: (one.missing, one.unused, one.role))[:limit]


@dataclass(slots=True)
class WhatIf:
    """What a change of RBAC would have meant for a log.

    Attributes:
        considered: requests that RBAC allowed.
        denied: those that it would not allow any more, by user and right.
        unsure: those of which that cannot be said.
    """

    considered: int
    denied: Counter[tuple[str, UsedRight]]
    unsure: int


def what_if(
    events: Iterable[AuditEvent],
    now: Authorizer,
    follower: ChangeFollower,
    proposed: Sequence[Mapping[str, Any]],
    removed: Sequence[ObjectKey],
) -> WhatIf:
    """Which allowed requests of a log a change would have denied.

    The change is put on top of the rules as they stood at each moment: it holds for the whole log.
    """
    found = WhatIf(0, Counter(), 0)
    changed, generation = None, -1
    for event in events:
        notes = event.annotations
        if event.stage != "ResponseComplete" or notes is None or notes.decision != "allow":
            continue
        if changed is None or generation != now.rbac.generation:
            generation = now.rbac.generation
            changed = Authorizer(_with(now.rbac, proposed, removed))
        who = event.impersonatedUser or event.user
        request = access_request(event.verb, event.requestURI)
        before = now.decide(who.username, who.groups, request)
        if before.opinion == "allow" and before.grant is not None:
            found.considered += 1
            after = changed.decide(who.username, who.groups, request)
            found.unsure += after.opinion == "unknown"
            if after.opinion == "no opinion":
                found.denied[who.username, UsedRight.from_request(request)] += 1
        follower.follow(event)
    return found


def what_if_used(
    rbac: Rbac,
    periods: Iterable[tuple[Sequence[Change], Mapping[str, UserUsage]]],
    proposed: Sequence[Mapping[str, Any]],
    removed: Sequence[ObjectKey],
) -> WhatIf:
    """As `what_if`, of what users did between changes of RBAC, by the rules as they stood in each of these periods.

    Requests of a right count as denied if that holds for one of the objects that it was used on.

    Args:
        rbac: as it stands.
        periods: newest first: the changes that ended a period, in their order, and what users did in it.
    """
    found = WhatIf(0, Counter(), 0)
    as_it_was, changed = rbac.copy(), _with(rbac, proposed, removed)
    held = {changed.put_object(content) for content in proposed}.union(removed)
    now, then = Authorizer(as_it_was), Authorizer(changed)
    for changes, usage in periods:
        for change in reversed(changes):
            undo(change, as_it_was)
            if change.key not in held:
                undo(change, changed)
        _compare_used(found, usage, now, then)
    return found


def _compare_used(found: WhatIf, usage: Mapping[str, UserUsage], now: Authorizer, then: Authorizer) -> None:
    """Add to a result what users did that the rules `now` allow, and whether the rules `then` do."""
    for user, used in usage.items():
        for right, count in used.counts.items():
            opinions: set[str] = set()
            for name in sorted(used.names[right] or ("",)):
                before = now.decide(user, used.groups, right.request(name))
                if before.opinion == "allow" and before.grant is not None:
                    opinions.add(then.decide(user, used.groups, right.request(name)).opinion)
            if not opinions:
                continue
            found.considered += count
            if "no opinion" in opinions:
                found.denied[user, right] += count
            elif "unknown" in opinions:
                found.unsure += count


def _with(rbac: Rbac, proposed: Sequence[Mapping[str, Any]], removed: Sequence[ObjectKey]) -> Rbac:
    changed = rbac.copy()
    for key in removed:
        changed.remove(key)
    for content in proposed:
        changed.put_object(content)
    return changed
