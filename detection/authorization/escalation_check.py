"""The check that the API server makes beside authorization when a role or binding is written: nobody passes on what they lack.

Source: `pkg/registry/rbac/escalation_check.go` and the `policybased` storages of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from detection.authorization.authorizer import MASTERS, Authorizer
from detection.authorization.rbac import API_GROUP, ObjectKey
from detection.authorization.requests import AccessRequest
from detection.authorization.rules import PolicyRule, uncovered


def may_bind(
    authorizer: Authorizer, user: str, groups: Sequence[str], role: ObjectKey, namespace: str
) -> bool | None:
    """Whether a user may make a binding to a role: in a namespace, or in the whole cluster if that is empty; None: unknown."""
    kind = "rolebindings" if namespace else "clusterrolebindings"
    create = AccessRequest("create", None, API_GROUP, kind, "", namespace)
    allowed = _allows(authorizer, user, groups, create)
    return allowed and passes_binding(authorizer, user, groups, role, namespace)


def may_write_role(
    authorizer: Authorizer,
    user: str,
    groups: Sequence[str],
    role: ObjectKey,
    verb: str,
    rules: Iterable[PolicyRule],
) -> bool | None:
    """Whether a user may create, update or patch a role so that it has some rules; None: unknown."""
    name = "" if verb == "create" else role.name
    write = AccessRequest(verb, None, API_GROUP, role.resource, "", role.namespace, name)
    allowed = _allows(authorizer, user, groups, write)
    return allowed and passes_rules(authorizer, user, groups, role, rules)


def passes_binding(
    authorizer: Authorizer, user: str, groups: Sequence[str], role: ObjectKey, namespace: str
) -> bool | None:
    """Whether who writes a binding may give its role: by the verb `bind` on it, or because they have all of it."""
    bind = AccessRequest("bind", None, API_GROUP, role.resource, "", namespace, role.name)
    may = _allows(authorizer, user, groups, bind)
    if may:
        return True
    rules = authorizer.rbac.rules(role)
    # A role that is not there cannot be compared; the API server refuses the binding.
    if rules is None or role not in authorizer.rbac:
        return None
    return _either(may, _has(authorizer, user, groups, rules, namespace))


def passes_rules(
    authorizer: Authorizer, user: str, groups: Sequence[str], role: ObjectKey, rules: Iterable[PolicyRule]
) -> bool | None:
    """Whether who writes a role may give it some rules: by the verb `escalate` on it, or because they have all of them."""
    escalate = AccessRequest("escalate", None, API_GROUP, role.resource, "", role.namespace, role.name)
    may = _allows(authorizer, user, groups, escalate)
    return True if may else _either(may, _has(authorizer, user, groups, rules, role.namespace))


def _allows(authorizer: Authorizer, user: str, groups: Sequence[str], request: AccessRequest) -> bool | None:
    opinion = authorizer.decide(user, groups, request).opinion
    return None if opinion == "unknown" else opinion == "allow"


def _either(one: bool | None, other: bool | None) -> bool | None:
    return True if one or other else None if one is None or other is None else False


def _has(
    authorizer: Authorizer, user: str, groups: Sequence[str], rules: Iterable[PolicyRule], namespace: str
) -> bool | None:
    """Whether a user has all rights of some rules in a namespace, by the rules of its bindings there."""
    if MASTERS in groups:
        return True
    held: list[PolicyRule] = []
    is_known = True
    for grant in authorizer.rbac.bindings_of(user, groups, namespace):
        of_role = authorizer.rbac.rules(grant.role)
        binding = authorizer.rbac.bindings[grant.binding]
        if of_role is None or binding.users is None or binding.groups is None:
            is_known = False
        else:
            held += of_role
    return True if not uncovered(held, rules) else False if is_known else None
