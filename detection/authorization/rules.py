"""RBAC rules: what one allows, and whether some cover others.

Source of the semantics: `pkg/apis/rbac/v1/evaluation_helpers.go` and `component-helpers/auth/rbac/validation` of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from detection.authorization.requests import AccessRequest

ALL = "*"


def _texts(value: object) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list | tuple) else ()


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One rule of a role: every combination of its verbs with its resources, or with its paths, is allowed.

    Attributes:
        verbs, groups, resources: of the resource API; `*` is any.
        names: if not empty, only objects of these names.
        paths: outside the resource API; a last `*` stands for any end.
    """

    verbs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    @classmethod
    def from_object(cls, rule: Mapping[str, Any]) -> PolicyRule:
        """From an entry of `rules` in a Role or ClusterRole."""
        keys = ("verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs")
        return cls(*(_texts(rule.get(key)) for key in keys))

    def to_object(self) -> dict[str, list[str]]:
        """As an entry of `rules`; inverse of `from_object`."""
        keys = ("apiGroups", "resources", "resourceNames", "nonResourceURLs", "verbs")
        values = (self.groups, self.resources, self.names, self.paths, self.verbs)
        return {key: list(value) for key, value in zip(keys, values, strict=True) if value}

    @property
    def words(self) -> str:
        """A right that is broken down, as people write it: `get pods/log web-0`."""
        what = self.paths[0] if self.paths else self.resources[0]
        group = f".{self.groups[0]}" if not self.paths and self.groups[0] else ""
        named = f" {self.names[0]}" if self.names else ""
        return f"{self.verbs[0]} {what}{group}{named}"

    def allows(self, request: AccessRequest) -> bool:
        """Whether it allows a request, wherever it applies."""
        if request.verb not in self.verbs and ALL not in self.verbs:
            return False
        if request.path is not None:
            return any(path_matches(path, request.path) for path in self.paths)
        resources, subresource = self.resources, request.subresource
        return (
            (ALL in self.groups or request.group in self.groups)
            and (
                ALL in resources
                or request.combined in resources
                or (bool(subresource) and f"*/{subresource}" in resources)
            )
            and (not self.names or request.name in self.names)
        )


def path_matches(rule: str, path: str) -> bool:
    """Whether a path of a rule is a path, or stands for it by a last `*`."""
    return rule in (ALL, path) or (rule.endswith(ALL) and path.startswith(rule.rstrip(ALL)))


def breakdown(rules: Iterable[PolicyRule]) -> Iterator[PolicyRule]:
    """The same rights as rules of one verb, one group, one resource and one name at most, or of one path."""
    for rule in rules:
        for group, resource, verb in product(rule.groups, rule.resources, rule.verbs):
            for name in rule.names or (None,):
                yield PolicyRule((verb,), (group,), (resource,), () if name is None else (name,))
        for path, verb in product(rule.paths, rule.verbs):
            yield PolicyRule((verb,), paths=(path,))


def uncovered(held: Sequence[PolicyRule], wanted: Iterable[PolicyRule]) -> list[PolicyRule]:
    """Rights of `wanted` that nobody with the rights `held` may pass on, broken down; empty if all are covered."""
    return [one for one in breakdown(wanted) if not any(_covers(rule, one) for rule in held)]


def _covers(rule: PolicyRule, one: PolicyRule) -> bool:
    """Whether a rule covers a right that is broken down."""
    if ALL not in rule.verbs and one.verbs[0] not in rule.verbs:
        return False
    if one.paths:
        wanted = one.paths[0]
        return any(
            path in (ALL, wanted) or (path.endswith(ALL) and wanted.startswith(path.rstrip(ALL)))
            for path in rule.paths
        )
    resource = one.resources[0]
    _, slash, subresource = resource.partition("/")
    any_of = f"*/{subresource}" if slash else resource
    return (
        (ALL in rule.groups or one.groups[0] in rule.groups)
        and (ALL in rule.resources or resource in rule.resources or any_of in rule.resources)
        # A rule of names never covers the right to all of them.
        and (not rule.names or (bool(one.names) and one.names[0] in rule.names))
    )
