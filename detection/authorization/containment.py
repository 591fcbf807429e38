"""Which bindings made requests possible, and the smallest change of RBAC that would have stopped them and nothing that is habit.

RBAC only adds rights, so a request is stopped when every binding that allows it has changed. For each the change is tried that
takes away least: the one right from its role; then the subject from the binding; then the subject's part of the binding is
replaced by roles for exactly what was used. A change stands only if all that was used before is still allowed with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detection.authorization.authorizer import MASTERS, Authorizer
from detection.authorization.least_privilege import minimal_rules
from detection.authorization.rbac import (
    API_GROUP,
    KINDS,
    SERVICE_ACCOUNT,
    BindingGrant,
    ObjectKey,
    Rbac,
    RbacBinding,
)
from detection.authorization.requests import AccessRequest
from detection.authorization.rules import ALL, PolicyRule
from detection.authorization.usage import UserUsage

#: Label of the roles that an API server puts back to what they were.
_DEFAULTS = "kubernetes.io/bootstrapping"
_KIND_OF = {resource: kind for kind, resource in KINDS.items()}


@dataclass(frozen=True, slots=True)
class SuspectRequest:
    """A request that should not have been possible."""

    user: str
    groups: tuple[str, ...]
    request: AccessRequest


@dataclass(frozen=True, slots=True)
class RbacChange:
    """A change of RBAC.

    Attributes:
        words: what it does, as a sentence without a final stop.
        objects: manifests to apply.
        removed: roles or bindings to delete.
    """

    words: str
    objects: tuple[Mapping[str, Any], ...] = ()
    removed: tuple[ObjectKey, ...] = ()


@dataclass(slots=True)
class Containment:
    """What would have stopped some requests.

    Attributes:
        allowed_by: the bindings that allow each request, as the rules stand.
        changes: all of them together stop what can be stopped.
        unstoppable: requests that no such change stops, with the reason.
        kept: rights in use that were checked to be allowed still.
    """

    allowed_by: dict[SuspectRequest, list[BindingGrant]] = field(default_factory=dict)
    changes: list[RbacChange] = field(default_factory=list)
    unstoppable: dict[SuspectRequest, str] = field(default_factory=dict)
    kept: int = 0


def contain(rbac: Rbac, suspects: Iterable[SuspectRequest], habits: Mapping[str, UserUsage]) -> Containment:
    """Find the smallest changes that stop requests and nothing in use.

    Args:
        rbac: as it stands; it is not changed.
        suspects: the requests.
        habits: what each user does otherwise, with the suspect requests left out.
    """
    found = Containment()
    now = rbac.copy()
    for suspect in dict.fromkeys(suspects):
        grants = Authorizer(rbac).granting(suspect.user, suspect.groups, suspect.request)
        found.allowed_by[suspect] = grants
        if MASTERS in suspect.groups:
            found.unstoppable[suspect] = f"members of {MASTERS} may do everything: take away the credential"
            continue
        if not grants:
            found.unstoppable[suspect] = "no binding allows it as the rules stand"
            continue
        tried, changes = now.copy(), list[RbacChange]()
        for grant in Authorizer(tried).granting(suspect.user, suspect.groups, suspect.request):
            change = _smallest(tried, grant, suspect, habits)
            if change is None:
                break
            _apply(tried, change)
            changes.append(change)
        else:
            now = tried
            found.changes += changes
            continue
        found.unstoppable[suspect] = "the same right is in use: only its name or its time tells it apart"
    found.kept = sum(len(usage.counts) for usage in habits.values())
    return found


def _smallest(
    rbac: Rbac, grant: BindingGrant, suspect: SuspectRequest, habits: Mapping[str, UserUsage]
) -> RbacChange | None:
    """The first change of a binding or its role that stops a request by it and nothing in use."""
    for change in _options(rbac, grant, suspect, habits):
        changed = rbac.copy()
        changed.take_affected()
        _apply(changed, change)
        affected = changed.take_affected()
        after = Authorizer(changed)
        if grant in after.granting(suspect.user, suspect.groups, suspect.request):
            continue
        new = {key for key in changed.bindings if key not in rbac.bindings}
        again = after.granting(suspect.user, suspect.groups, suspect.request)
        if any(one.binding in new for one in again):
            continue
        touched = ((user, one) for user, one in habits.items() if affected.has(user, one.groups))
        if all(_keeps(rbac, changed, user, usage) for user, usage in touched):
            return change
    return None


def _keeps(before: Rbac, after: Rbac, user: str, usage: UserUsage) -> bool:
    """Whether everything that a user does is allowed as it was before."""
    was, now = Authorizer(before), Authorizer(after)
    for right in usage.counts:
        names = usage.names.get(right)
        for name in names or ("",):
            request = right.request(name)
            allowed = was.decide(user, usage.groups, request).opinion == "allow"
            if allowed and now.decide(user, usage.groups, request).opinion != "allow":
                return False
    return True


def _options(
    rbac: Rbac, grant: BindingGrant, suspect: SuspectRequest, habits: Mapping[str, UserUsage]
) -> Iterator[RbacChange]:
    role = rbac.roles.get(grant.role)
    binding = rbac.bindings[grant.binding]
    if role is not None and role.rules and role.selectors is None and _DEFAULTS not in role.labels:
        rules = [one for rule in role.rules for one in _without(rule, suspect.request)]
        if not any(rule.allows(suspect.request) for rule in rules):
            what = str(
                AccessRequest(
                    suspect.request.verb,
                    suspect.request.path,
                    suspect.request.group,
                    suspect.request.resource,
                    suspect.request.subresource,
                )
            )
            manifest = _role_manifest(grant.role, rules, role.labels)
            yield RbacChange(f"take {what} out of {grant.role}", (manifest,))
    users = [suspect.user] if suspect.user in (binding.users or ()) else []
    groups = [group for group in suspect.groups if group in (binding.groups or ())]
    subjects = [*users, *groups]
    if not subjects:
        return
    named = ", ".join(subjects)
    less = _less(binding, users, groups)
    rest = () if less is None else (_binding_manifest(grant.binding, grant.role, less),)
    removed = (grant.binding,) if less is None else ()
    yield RbacChange(f"take {named} out of {grant.binding}", rest, removed)
    usage = _usage_of(habits, users, groups)
    for by_name in (False, True):
        made = list(_replacements(grant, usage, users, groups, by_name=by_name))
        if made:
            words = f"take {named} out of {grant.binding}, and give what is used of it by roles of its own"
            yield RbacChange(words, (*rest, *made), removed)


def _without(rule: PolicyRule, request: AccessRequest) -> Iterator[PolicyRule]:
    """A rule as rules that allow the same, without a right that it names; a rule with a wildcard for it as it is."""
    if not rule.allows(request):
        yield rule
        return
    verbs = tuple(verb for verb in rule.verbs if verb != request.verb)
    if request.path is not None:
        left = tuple(path for path in rule.paths if path != request.path)
        parts = (PolicyRule(verbs, paths=rule.paths), PolicyRule((request.verb,), paths=left))
        exact = request.path in rule.paths
    else:
        left = tuple(resource for resource in rule.resources if resource != request.combined)
        parts = (
            PolicyRule(verbs, rule.groups, rule.resources, rule.names),
            PolicyRule((request.verb,), rule.groups, left, rule.names),
        )
        exact = request.combined in rule.resources
    if not exact or ALL in rule.verbs:
        yield rule
        return
    yield from (part for part in parts if part.verbs and (part.resources or part.paths))


def _less(binding: RbacBinding, users: Sequence[str], groups: Sequence[str]) -> RbacBinding | None:
    """A binding without some subjects; None if nobody is left."""
    left = RbacBinding(
        binding.role, (binding.users or frozenset()) - {*users}, (binding.groups or frozenset()) - {*groups}
    )
    return left if left.users or left.groups else None


def _usage_of(habits: Mapping[str, UserUsage], users: Sequence[str], groups: Sequence[str]) -> UserUsage:
    """What some users, and all members of some groups, do."""
    together = UserUsage()
    for user, usage in habits.items():
        if user not in users and set(groups).isdisjoint(usage.groups):
            continue
        for right, count in usage.counts.items():
            together.counts[right] += count
            names, held = usage.names.get(right), together.names.get(right, set())
            together.names[right] = None if names is None or held is None else held | names
    return together


def _replacements(
    grant: BindingGrant,
    usage: UserUsage,
    users: Sequence[str],
    groups: Sequence[str],
    *,
    by_name: bool,
) -> Iterator[Mapping[str, Any]]:
    """Roles for exactly what was used, bound to the subjects, within what the binding reaches."""
    wide = not grant.binding.namespace
    for namespace, rules in minimal_rules(usage, by_name=by_name).items():
        if not wide and namespace != grant.binding.namespace:
            continue
        name = f"{grant.binding.name}-used"
        resource = "roles" if namespace else "clusterroles"
        role = ObjectKey(resource, namespace, name)
        yield _role_manifest(role, rules, {})
        bound = ObjectKey("rolebindings" if namespace else "clusterrolebindings", namespace, name)
        yield _binding_manifest(bound, role, RbacBinding(role, frozenset(users), frozenset(groups)))


def _metadata(key: ObjectKey) -> dict[str, Any]:
    return {"name": key.name} | ({"namespace": key.namespace} if key.namespace else {})


def _role_manifest(key: ObjectKey, rules: Iterable[PolicyRule], labels: Mapping[str, str]) -> dict[str, Any]:
    metadata = _metadata(key) | ({"labels": dict(labels)} if labels else {})
    return {
        "apiVersion": f"{API_GROUP}/v1",
        "kind": _KIND_OF[key.resource],
        "metadata": metadata,
        "rules": [rule.to_object() for rule in rules],
    }


def _binding_manifest(key: ObjectKey, role: ObjectKey, binding: RbacBinding) -> dict[str, Any]:
    subjects: list[dict[str, str]] = []
    for user in sorted(binding.users or ()):
        if user.startswith(SERVICE_ACCOUNT):
            namespace, _, name = user.removeprefix(SERVICE_ACCOUNT).partition(":")
            subjects.append({"kind": "ServiceAccount", "namespace": namespace, "name": name})
        else:
            subjects.append({"kind": "User", "apiGroup": API_GROUP, "name": user})
    for group in sorted(binding.groups or ()):
        subjects.append({"kind": "Group", "apiGroup": API_GROUP, "name": group})
    return {
        "apiVersion": f"{API_GROUP}/v1",
        "kind": _KIND_OF[key.resource],
        "metadata": _metadata(key),
        "roleRef": {"apiGroup": API_GROUP, "kind": _KIND_OF[role.resource], "name": role.name},
        "subjects": subjects,
    }


def _apply(rbac: Rbac, change: RbacChange) -> None:
    for key in change.removed:
        rbac.remove(key)
    for content in change.objects:
        rbac.put_object(content)
