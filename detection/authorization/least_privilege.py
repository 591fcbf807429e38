"""Least privilege: rights that were granted but never used, the smallest role for what was, and what a change would deny."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.events.audit_event import AuditEvent
from detection.authorization.authorizer import Authorizer
from detection.authorization.changes import ChangeFollower
from detection.authorization.rbac import API_GROUP, BindingGrant, ObjectKey, Rbac
from detection.authorization.requests import AccessRequest, access_request
from detection.authorization.rules import ALL, PolicyRule, breakdown
from detection.authorization.usage import UsedRight, UserUsage

#: Rights that lead to others: verbs, groups, resources and why. The first that fits is given.
_RISKS: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str], ...] = (
    ((ALL,), (ALL,), (ALL,), "everything"),
    (("escalate",), (API_GROUP,), ("roles", "clusterroles"), "gives a role any right (escalate)"),
    (("bind",), (API_GROUP,), ("roles", "clusterroles"), "binds any role to anybody (bind)"),
    (("impersonate",), ("",), ("users", "groups", "serviceaccounts"), "acts as others (impersonate)"),
    (
        ("create", "update", "patch"),
        (API_GROUP,),
        ("rolebindings", "clusterrolebindings"),
        "changes who has rights",
    ),
    (("create", "update", "patch"), (API_GROUP,), ("roles", "clusterroles"), "changes what roles allow"),
    (("get", "list", "watch"), ("",), ("secrets",), "reads secrets"),
    (("create", "get"), ("",), ("pods/exec", "pods/attach"), "runs commands in any pod"),
    (
        ("create", "get", "update", "patch", "delete"),
        ("",),
        ("nodes/proxy",),
        "reaches kubelets past the API server's checks",
    ),
    (("create",), ("",), ("serviceaccounts/token",), "makes tokens of service accounts"),
    (("create", "update", "patch"), ("",), ("pods/ephemeralcontainers",), "adds containers to running pods"),
    (("create",), ("",), ("pods",), "starts pods, as any service account of the namespace"),
    (
        ("create", "update", "patch"),
        ("apps", "batch", ""),
        (
            "deployments",
            "daemonsets",
            "statefulsets",
            "replicasets",
            "jobs",
            "cronjobs",
            "replicationcontrollers",
        ),
        "starts pods, as any service account of the namespace",
    ),
    (
        ("create", "update", "patch"),
        ("admissionregistration.k8s.io",),
        (
            *("mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
            *("mutatingadmissionpolicies", "validatingadmissionpolicies"),
        ),
        "sees or changes what is written (webhooks)",
    ),
    (
        ("update", "patch", "approve", "sign"),
        ("certificates.k8s.io",),
        ("certificatesigningrequests/approval", "certificatesigningrequests/status", "signers"),
        "issues client certificates",
    ),
    (("update", "patch"), ("",), ("nodes", "nodes/status"), "moves pods between nodes"),
)


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


def risk_of(rule: PolicyRule) -> str:
    """What a broken-down right leads to; empty if it is an ordinary one."""
    if rule.paths:
        return ""
    verb, group, resource = rule.verbs[0], rule.groups[0], rule.resources[0]
    for verbs, groups, resources, why in _RISKS:
        if verbs[0] == ALL:
            if (verb, group, resource) == (ALL, ALL, ALL):
                return why
        elif (
            (verb == ALL or verb in verbs)
            and (group == ALL or group in groups)
            and (
                resource == ALL
                or resource in resources
                or (resource.startswith("*/") and any(one.endswith(resource[1:]) for one in resources))
            )
        ):
            return why
    return ""


def granted_rights(rbac: Rbac, user: str, usage: UserUsage) -> list[GrantedRight]:
    """Every right of a user by its bindings, with how often it was used; those that are risky and unused come first."""
    found = []
    used = [(right, right.request(), count) for right, count in usage.counts.items()]
    for grant in rbac.all_bindings_of(user, usage.groups):
        for rule in dict.fromkeys(breakdown(rbac.rules(grant.role) or ())):
            uses = sum(
                count
                for right, request, count in used
                if grant.binding.namespace in ("", right.namespace)
                and _allows_some(rule, request, usage.names[right])
            )
            found.append(GrantedRight(grant, rule, uses, risk_of(rule)))
    found.sort(key=lambda one: (one.uses > 0, not one.risk, one.grant, one.rule.verbs, one.rule.resources))
    return found


def _allows_some(rule: PolicyRule, request: AccessRequest, names: set[str] | None) -> bool:
    if not rule.names or names is None:
        return PolicyRule(rule.verbs, rule.groups, rule.resources, (), rule.paths).allows(request)
    return any(rule.allows(UsedRight.from_request(request).request(name)) for name in names)


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


def candidates(rbac: Rbac, usage: UserUsage, namespace: str, limit: int = 3) -> list[Candidate]:
    """Existing roles that come closest to what was used in a namespace: those that lack least, then give least.

    Roles with wildcards are no starting point for least privilege.
    """
    requests = [
        right.request() for right in usage.counts if right.namespace == namespace or right.path is not None
    ]
    found = []
    for key in rbac.roles:
        rules = rbac.rules(key)
        # Kubernetes' own roles are for its own parts, but for the four that are meant for users.
        if rules is None or key.namespace not in ("", namespace) or key.name.startswith("system:"):
            continue
        missing = sum(not any(rule.allows(request) for rule in rules) for request in requests)
        rights = list(breakdown(rules))
        boundless = any(ALL in (*one.verbs, *one.groups, *one.resources, *one.paths) for one in rights)
        if missing < len(requests) and not boundless:
            unused = sum(not any(one.allows(request) for request in requests) for one in rights)
            found.append(Candidate(key, missing, unused))
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


def _with(rbac: Rbac, proposed: Sequence[Mapping[str, Any]], removed: Sequence[ObjectKey]) -> Rbac:
    changed = rbac.copy()
    for key in removed:
        changed.remove(key)
    for content in proposed:
        changed.put_object(content)
    return changed
