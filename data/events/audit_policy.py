"""An audit policy (kind Policy of audit.k8s.io/v1), and what kube-apiserver would have written of a request under it.

Source: k8s.io/apiserver/pkg/audit/policy (checker.go) and k8s.io/apiserver/pkg/apis/audit/v1 (types.go).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from data.errors import KubehabitError

LEVELS = ("None", "Metadata", "Request", "RequestResponse")
STAGES = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")
_POLICY_KEYS = {"apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"}
_LISTS = ("users", "userGroups", "verbs", "namespaces", "nonResourceURLs", "omitStages")
_RULE_KEYS = {"level", "resources", "omitManagedFields", *_LISTS}
_GROUP_KEYS = {"group", "resources", "resourceNames"}

Event = Mapping[str, Any]


class Decision(NamedTuple):
    """What a policy says of a request.

    Attributes:
        omitted: stages that are not written.
        rule: number of the rule that matched, from 0; None if none did, so that nothing is written.
    """

    level: str
    without_managed_fields: bool
    omitted: frozenset[str]
    rule: int | None


@dataclass(frozen=True, slots=True)
class _Resources:
    """One entry of a rule's `resources`; None matches all."""

    group: str
    resources: frozenset[str] | None
    names: frozenset[str] | None

    def matches(self, ref: Mapping[str, str]) -> bool:
        if self.group != ref.get("apiGroup", ""):
            return False
        if self.resources is None:
            return True
        resource, subresource = ref["resource"], ref.get("subresource", "")
        combined = f"{resource}/{subresource}" if subresource else resource
        accepted = {"*", combined, f"{resource}/*"} | ({f"*/{subresource}"} if subresource else set())
        return not accepted.isdisjoint(self.resources) and (
            self.names is None or ref.get("name", "") in self.names
        )


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule; None matches all."""

    decision: Decision
    users: frozenset[str] | None
    groups: frozenset[str] | None
    verbs: frozenset[str] | None
    namespaces: frozenset[str] | None
    resources: tuple[_Resources, ...]
    urls: tuple[str, ...]

    def matches(self, event: Event) -> bool:
        user, ref = event.get("user") or {}, event.get("objectRef") or {}
        if self.users is not None and user.get("username", "") not in self.users:
            return False
        if self.groups is not None and self.groups.isdisjoint(user.get("groups") or ()):
            return False
        if self.verbs is not None and event.get("verb") not in self.verbs:
            return False
        if self.namespaces is not None or self.resources:
            if not ref.get("resource"):
                return False
            if self.namespaces is not None and ref.get("namespace", "") not in self.namespaces:
                return False
            return not self.resources or any(one.matches(ref) for one in self.resources)
        if self.urls:
            path = event.get("requestURI", "").partition("?")[0]
            return not ref.get("resource") and any(_url_matches(pattern, path) for pattern in self.urls)
        return True


def _url_matches(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern.rstrip("*")))


class AuditPolicy:
    """Rules in their order; the first that matches decides.

    Args:
        document: the policy, as parsed YAML.
        name: of the policy in errors.

    Raises:
        KubehabitError: it is no audit policy, or says something that kube-apiserver would not take.
    """

    def __init__(self, document: Any, name: str = "the audit policy") -> None:
        self._name = name
        if not isinstance(document, dict) or document.get("kind") != "Policy":
            raise KubehabitError(
                f"{name} is no audit policy: it needs `kind: Policy` and `apiVersion: audit.k8s.io/v1`."
            )
        self._check_keys(document, _POLICY_KEYS, "")
        rules = document.get("rules")
        if not isinstance(rules, list) or not rules:
            raise KubehabitError(f"{name} has no rules, so nothing would be written: give it a list `rules`.")
        always = self._stages(document.get("omitStages"), "omitStages")
        managed = bool(document.get("omitManagedFields", False))
        self._rules = [self._rule(rule, number, always, managed) for number, rule in enumerate(rules)]
        self._nothing = Decision("None", managed, always, None)
        #: What each rule is about, in a few words, in the order of the rules.
        self.titles = [_title(rule) for rule in rules]

    @classmethod
    def from_file(cls, path: Path) -> AuditPolicy:
        """Read a YAML file; raises KubehabitError."""
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise KubehabitError(
                f"The audit policy {path} cannot be read: {' '.join(str(error).split())}"
            ) from error
        return cls(document, str(path))

    def decide(self, event: Event) -> Decision:
        """The decision on a request, by an event of it as kube-apiserver writes it."""
        return next((rule.decision for rule in self._rules if rule.matches(event)), self._nothing)

    def written(self, event: Event) -> dict[str, Any] | None:
        """The event as it would be in the log; None if it would not."""
        return written_by(self.decide(event), event)

    def _rule(self, rule: Any, number: int, always: frozenset[str], managed: bool) -> _Rule:
        where = f"rules[{number}]"
        if not isinstance(rule, dict):
            raise KubehabitError(f"{self._name}: {where} is no mapping with a `level`.")
        self._check_keys(rule, _RULE_KEYS, where)
        if rule.get("level") not in LEVELS:
            raise KubehabitError(
                f"{self._name}: {where}.level is {rule.get('level')!r}; it must be one of {', '.join(LEVELS)}."
            )
        texts = {key: self._texts(rule.get(key), f"{where}.{key}") for key in _LISTS}
        omitted = always | self._stages(rule.get("omitStages"), f"{where}.omitStages")
        without = bool(rule.get("omitManagedFields", managed))
        groups = rule.get("resources") or []
        if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
            raise KubehabitError(
                f"{self._name}: {where}.resources must be a list of mappings with `group` and `resources`."
            )
        if (groups or texts["namespaces"]) and texts["nonResourceURLs"]:
            raise KubehabitError(
                f"{self._name}: {where} names resources and nonResourceURLs: split it into two rules."
            )
        return _Rule(
            Decision(rule["level"], without, omitted, number),
            _set(texts["users"]),
            _set(texts["userGroups"]),
            _set(texts["verbs"]),
            _set(texts["namespaces"]),
            tuple(self._resources(group, f"{where}.resources") for group in groups),
            tuple(texts["nonResourceURLs"]),
        )

    def _resources(self, group: Mapping[str, Any], where: str) -> _Resources:
        self._check_keys(group, _GROUP_KEYS, where)
        resources = self._texts(group.get("resources"), f"{where}.resources")
        names = self._texts(group.get("resourceNames"), f"{where}.resourceNames")
        return _Resources(str(group.get("group") or ""), _set(resources), _set(names))

    def _check_keys(self, found: Mapping[str, Any], known: set[str], where: str) -> None:
        if unknown := sorted(str(key) for key in set(found) - known):
            place = f"{where}." if where else ""
            raise KubehabitError(f"{self._name}: {place}{unknown[0]} is no field of an audit policy.")

    def _texts(self, found: Any, where: str) -> list[str]:
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise KubehabitError(f"{self._name}: {where} must be a list of texts.")
        return found

    def _stages(self, found: Any, where: str) -> frozenset[str]:
        stages = self._texts(found, where)
        if wrong := sorted(set(stages) - set(STAGES)):
            raise KubehabitError(f"{self._name}: {where} names {wrong[0]!r}; stages are {', '.join(STAGES)}.")
        return frozenset(stages)


def written_by(decision: Decision, event: Event) -> dict[str, Any] | None:
    """An event as a decision leaves it, or None; a policy cannot bring back what the event was written without."""
    if decision.level == "None" or event.get("stage") in decision.omitted:
        return None
    had = event.get("level")
    level = min(decision.level, had if had in LEVELS else decision.level, key=LEVELS.index)
    kept = dict(event, level=level)
    if level == "Metadata":
        kept.pop("requestObject", None)
    if level != "RequestResponse":
        kept.pop("responseObject", None)
    if decision.without_managed_fields:
        for key in ("requestObject", "responseObject"):
            body = kept.get(key)
            if isinstance(body, dict) and isinstance(body.get("metadata"), dict):
                metadata = {
                    name: value for name, value in body["metadata"].items() if name != "managedFields"
                }
                kept[key] = body | {"metadata": metadata}
    return kept


def _set(texts: Sequence[str]) -> frozenset[str] | None:
    return frozenset(texts) if texts else None


def _title(rule: Mapping[str, Any]) -> str:
    groups = rule.get("resources") or []
    about = [
        name for group in groups for name in group.get("resources") or [f"{group.get('group') or 'core'}/*"]
    ]
    who = [*(rule.get("users") or []), *(rule.get("userGroups") or [])]
    parts = [*(rule.get("verbs") or []), *about, *(rule.get("nonResourceURLs") or [])]
    title = " ".join(parts[:6]) + (" ..." if len(parts) > 6 else "") or "everything else"
    return f"{title} by {who[0]}{' ...' if len(who) > 1 else ''}" if who else title
