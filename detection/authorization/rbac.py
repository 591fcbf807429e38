"""RBAC of a cluster as it stands: roles, bindings and aggregation, with each change in its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from detection.authorization.requests import AccessRequest
from detection.authorization.rules import PolicyRule

API_GROUP = "rbac.authorization.k8s.io"
#: Resource -> whether it is a role, and whether it belongs to the whole cluster.
RESOURCES: Mapping[str, tuple[bool, bool]] = {
    "clusterroles": (True, True),
    "roles": (True, False),
    "clusterrolebindings": (False, True),
    "rolebindings": (False, False),
}
KINDS: Mapping[str, str] = {
    "ClusterRole": "clusterroles",
    "Role": "roles",
    "ClusterRoleBinding": "clusterrolebindings",
    "RoleBinding": "rolebindings",
}
_KIND_OF = {resource: kind for kind, resource in KINDS.items()}
SERVICE_ACCOUNT = "system:serviceaccount:"
#: Users with a namespace whose bindings are remembered until RBAC changes, and the longest namespace or most groups of one.
_REMEMBERED, _LONGEST = 4_096, 512
#: The role whose rules the node authorizer applies to every node; no binding names it.
NODE_ROLE_NAME = "system:node"


class ObjectKey(NamedTuple):
    """Which RBAC object: its resource, namespace (empty for the whole cluster) and name."""

    resource: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """As Kubernetes' own reasons name it: `RoleBinding "edit/shop"`."""
        kind = _KIND_OF[self.resource]
        return f'{kind} "{self.name}/{self.namespace}"' if self.namespace else f'{kind} "{self.name}"'


@dataclass(frozen=True, slots=True)
class RbacRole:
    """A Role or ClusterRole.

    Attributes:
        rules: None if the log did not say what they are.
        labels: for aggregation.
        selectors: label selectors of an aggregated ClusterRole: each gathers the rules of those that it matches.
    """

    rules: tuple[PolicyRule, ...] | None
    labels: Mapping[str, str] = field(default_factory=dict)
    selectors: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class RbacBinding:
    """A RoleBinding or ClusterRoleBinding: `subjects` are users and groups as an authorizer sees them.

    Attributes:
        role: which role it gives.
        users, groups: to whom; None if the log did not say.
    """

    role: ObjectKey | None
    users: frozenset[str] | None
    groups: frozenset[str] | None


class BindingGrant(NamedTuple):
    """A binding and the role that it gives."""

    binding: ObjectKey
    role: ObjectKey


@dataclass(slots=True)
class Affected:
    """Whose rights changes may have touched.

    Attributes:
        everybody: whether that cannot be narrowed to users and groups.
    """

    users: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    everybody: bool = False

    def has(self, user: str, groups: Iterable[str]) -> bool:
        """Whether the rights of a user with its groups may have changed."""
        return self.everybody or user in self.users or not self.groups.isdisjoint(groups)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def role_from(content: Mapping[str, Any]) -> RbacRole:
    """A role from its object."""
    labels = {
        str(key): str(value)
        for key, value in _mapping(_mapping(content.get("metadata")).get("labels")).items()
    }
    aggregation = content.get("aggregationRule")
    selectors = None
    if isinstance(aggregation, Mapping):
        selectors = tuple(_items(aggregation.get("clusterRoleSelectors")))
    return RbacRole(tuple(map(PolicyRule.from_object, _items(content.get("rules")))), labels, selectors)


def binding_from(content: Mapping[str, Any], namespace: str) -> RbacBinding:
    """A binding from its object, which is in a namespace or (empty) in none."""
    reference = _mapping(content.get("roleRef"))
    role = None
    if reference.get("name"):
        of_cluster = reference.get("kind") != "Role"
        resource, place = ("clusterroles", "") if of_cluster else ("roles", namespace)
        role = ObjectKey(resource, place, str(reference["name"]))
    users, groups = set(), set()
    for subject in _items(content.get("subjects")):
        name, kind = str(subject.get("name", "")), subject.get("kind")
        if kind == "User":
            users.add(name)
        elif kind == "Group":
            groups.add(name)
        elif kind == "ServiceAccount":
            place = str(subject.get("namespace") or namespace)
            if place:
                users.add(f"{SERVICE_ACCOUNT}{place}:{name}")
    return RbacBinding(role, frozenset(users), frozenset(groups))


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches labels; an empty one matches everything."""
    wanted = _mapping(selector.get("matchLabels"))
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for term in _items(selector.get("matchExpressions")):
        key, operator = str(term.get("key")), term.get("operator")
        values = term.get("values") or ()
        held = key in labels
        matched = {
            "In": held and labels.get(key) in values,
            "NotIn": not held or labels.get(key) not in values,
            "Exists": held,
            "DoesNotExist": not held,
        }.get(str(operator), False)
        if not matched:
            return False
    return True


class Rbac:
    """Roles and bindings of one cluster, kept current.

    Attributes:
        generation: grows with every change; what was decided at an older one may no longer hold.
    """

    def __init__(self, objects: Iterable[Mapping[str, Any]] = ()) -> None:
        self.generation = 0
        self.roles: dict[ObjectKey, RbacRole] = {}
        self.bindings: dict[ObjectKey, RbacBinding] = {}
        self._of_user: dict[str, set[ObjectKey]] = defaultdict(set)
        self._of_group: dict[str, set[ObjectKey]] = defaultdict(set)
        self._of_unknown: set[ObjectKey] = set()
        self._rules: dict[ObjectKey, tuple[PolicyRule, ...] | None] = {}
        self._grants: dict[tuple[str, tuple[str, ...], str], tuple[BindingGrant, ...]] = {}
        self._affected = Affected()
        for one in objects:
            self.put_object(one)

    def __contains__(self, key: ObjectKey) -> bool:
        """Whether there is such a role or binding."""
        return key in self.roles or key in self.bindings

    def get(self, key: ObjectKey) -> RbacRole | RbacBinding | None:
        """A role or binding, if there is one."""
        return self.roles.get(key) or self.bindings.get(key)

    def copy(self) -> Rbac:
        """Independent copy."""
        other = Rbac()
        other.generation = self.generation
        other.roles, other.bindings = dict(self.roles), dict(self.bindings)
        other._of_user.update((user, set(keys)) for user, keys in self._of_user.items() if keys)
        other._of_group.update((group, set(keys)) for group, keys in self._of_group.items() if keys)
        other._of_unknown, other._rules = set(self._of_unknown), dict(self._rules)
        return other

    def put_object(self, content: Mapping[str, Any]) -> ObjectKey | None:
        """Put in an object as the API gives it; returns which, or None for one that is not RBAC's."""
        resource = KINDS.get(str(content.get("kind")))
        metadata = _mapping(content.get("metadata"))
        name = metadata.get("name")
        if resource is None or not isinstance(name, str) or not name:
            return None
        is_role, of_cluster = RESOURCES[resource]
        key = ObjectKey(resource, "" if of_cluster else str(metadata.get("namespace") or ""), name)
        self.put(key, role_from(content) if is_role else binding_from(content, key.namespace))
        return key

    def put(self, key: ObjectKey, value: RbacRole | RbacBinding) -> None:
        """Put in a role or binding, in the place of one with that key."""
        self.remove(key)
        self._note_affected(key, value)
        if isinstance(value, RbacRole):
            self.roles[key] = value
        else:
            self.bindings[key] = value
            if value.users is None or value.groups is None:
                self._of_unknown.add(key)
            for user in value.users or ():
                self._of_user[user].add(key)
            for group in value.groups or ():
                self._of_group[group].add(key)

    def remove(self, key: ObjectKey) -> None:
        """Remove a role or binding, if it is there."""
        self.generation += 1
        self._rules.clear()
        self._grants.clear()
        self._note_affected(key, self.get(key))
        self.roles.pop(key, None)
        gone = self.bindings.pop(key, None)
        if gone is not None:
            self._of_unknown.discard(key)
            for user in gone.users or ():
                self._of_user[user].discard(key)
            for group in gone.groups or ():
                self._of_group[group].discard(key)

    def _note_affected(self, key: ObjectKey, value: RbacRole | RbacBinding | None) -> None:
        affected = self._affected
        if affected.everybody or value is None:
            return
        if isinstance(value, RbacBinding):
            bindings = [value]
        else:
            # A role may be gathered into others, and by these into more.
            gathered = {other for other, role in self.roles.items() if role.selectors is not None}
            gathered = gathered if value.labels or value.selectors is not None else set()
            bindings = [one for one in self.bindings.values() if one.role == key or one.role in gathered]
            affected.everybody = key.name == NODE_ROLE_NAME
        for one in bindings:
            if one.users is None or one.groups is None:
                affected.everybody = True
                return
            affected.users |= one.users
            affected.groups |= one.groups

    def take_affected(self) -> Affected:
        """Whose rights may have changed since the last call."""
        taken, self._affected = self._affected, Affected()
        return taken

    def rules(self, role: ObjectKey) -> tuple[PolicyRule, ...] | None:
        """Rules of a role, aggregation done; none for a role that does not exist; None if the log did not say."""
        if role not in self._rules:
            self._rules[role] = self._gathered(role, frozenset())
        return self._rules[role]

    def _gathered(self, key: ObjectKey, under: frozenset[ObjectKey]) -> tuple[PolicyRule, ...] | None:
        role = self.roles.get(key)
        if role is None:
            return ()
        if role.selectors is None:
            return role.rules
        found: dict[PolicyRule, None] = {}
        for other, candidate in sorted(self.roles.items()):
            if other.resource != "clusterroles" or other == key or other in under:
                continue
            if any(selects(selector, candidate.labels) for selector in role.selectors):
                rules = self._gathered(other, under | {key})
                if rules is None:
                    return None
                found.update(dict.fromkeys(rules))
        return tuple(found)

    def bindings_of(self, user: str, groups: Sequence[str], namespace: str = "") -> tuple[BindingGrant, ...]:
        """What a user has by bindings of the whole cluster, then by those of a namespace; with what is unknown."""
        asked = user, tuple(groups), namespace
        found = self._grants.get(asked)
        if found is None:
            keys = self._of_unknown | self._naming(user, groups)
            found = tuple(self._with_roles(key for key in keys if key.namespace in ("", namespace)))
            if len(self._grants) >= _REMEMBERED:
                self._grants.clear()
            if len(namespace) + len(groups) < _LONGEST:
                self._grants[asked] = found
        return found

    def all_bindings_of(self, user: str, groups: Sequence[str]) -> Iterator[BindingGrant]:
        """As `bindings_of`, of all namespaces."""
        yield from self._with_roles(self._naming(user, groups))

    def _naming(self, user: str, groups: Sequence[str]) -> set[ObjectKey]:
        """Bindings that name a user or one of its groups."""
        return set().union(self._of_user.get(user, ()), *(self._of_group.get(group, ()) for group in groups))

    def _with_roles(self, keys: Iterable[ObjectKey]) -> Iterator[BindingGrant]:
        for key in sorted(keys):
            role = self.bindings[key].role
            if role is not None:
                yield BindingGrant(key, role)

    def grants(self, grant: BindingGrant, request: AccessRequest) -> bool | None:
        """Whether a binding with its role allows a request of those that it binds; None if that is not known."""
        binding = self.bindings.get(grant.binding)
        if binding is None or (grant.binding.namespace and request.path is not None):
            return False
        rules = self.rules(grant.role)
        if rules is None or binding.users is None:
            return None
        return any(rule.allows(request) for rule in rules)
