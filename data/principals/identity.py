"""Turns user names into principals and their kind.

The rules of `configs/identity.yaml` fold user names, so that a session is its role and an account made for one run is the
pipeline. The event itself keeps the user name it was logged with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from data.errors import KubehabitError

Kind = Literal["human", "serviceaccount", "controller", "component", "node", "anonymous"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Kinds whose alerts a person reads one by one; the others are the machinery of the cluster itself.
PEOPLE_AND_PIPELINES: frozenset[str] = frozenset(("human", "serviceaccount"))

_SERVICE_ACCOUNT = "system:serviceaccount:"
_MEMO_LIMIT = 100_000
_EXAMPLES = 3
#: User names of one principal that are remembered for the report of what was folded.
FOLDS_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Principal:
    """One identity in the log."""

    name: str  # the user name, folded (`system:anonymous` when the request had no identity)
    kind: Kind
    groups: tuple[str, ...]  # candidate peer groups, narrowest first; the last is always the kind


def identify(username: str, groups: Iterable[str]) -> Principal:
    """Principal of a logged user, without any folding."""
    if username in ("", "system:anonymous"):
        return Principal("system:anonymous", "anonymous", ("kind:anonymous",))
    if username.startswith(_SERVICE_ACCOUNT):
        namespace, _, account = username[len(_SERVICE_ACCOUNT) :].partition(":")
        kind: Kind = "controller" if namespace == "kube-system" else "serviceaccount"
        if account == "default":  # shared by all workloads without an account of their own, so it is no role
            return Principal(username, kind, (f"namespace:{namespace}", f"kind:{kind}"))
        return Principal(username, kind, (f"account:{account}", f"namespace:{namespace}", f"kind:{kind}"))
    if username.startswith("system:node:"):
        return Principal(username, "node", ("kind:node",))
    if username.startswith("system:"):
        return Principal(username, "component", ("kind:component",))
    named = sorted(group for group in groups if not group.startswith("system:"))
    return Principal(username, "human", (*(f"group:{group}" for group in named), "kind:human"))


@dataclass(frozen=True, slots=True)
class FoldRule:
    """One compiled rule: what `pattern` matches becomes `name`."""

    pattern: re.Pattern[str]
    name: str
    group: str
    kind: Kind | None
    why: str


_RULE_KEYS = {"match", "name", "group", "kind", "why"}
_KEYS = {"fold", "fold_nodes", "node_pools", "similar_from"}


def _rule(entry: object) -> FoldRule:
    """Compile one rule; an unknown or missing key, or an unusable expression, raises KubehabitError."""
    if not isinstance(entry, Mapping) or set(entry) - _RULE_KEYS or not {"match", "name"} <= set(entry):
        raise KubehabitError(
            f"identity rule {entry!r}: needs `match` and `name`; known keys: {', '.join(sorted(_RULE_KEYS))}."
        )
    kind = entry.get("kind")
    if kind is not None and kind not in KINDS:
        raise KubehabitError(f"identity rule {dict(entry)}: kind must be one of {', '.join(KINDS)}.")
    name, group = str(entry["name"]), str(entry.get("group", ""))
    try:
        pattern = re.compile(str(entry["match"]))
        for template in (name, group):
            # Expanding once on a match of anything tells whether the template names groups that exist.
            probe = re.compile(f"(?:{pattern.pattern})|").match("")
            if probe is not None:
                probe.expand(template)
    except (re.error, IndexError) as error:
        raise KubehabitError(
            f"identity rule {dict(entry)}: {error}. Give a regular expression, and groups of it as \\1 in the name."
        ) from error
    return FoldRule(pattern, name, group, kind, str(entry.get("why", "a rule")))


class Identity:
    """Turns logged users into principals, each distinct user name once, and remembers what was folded into what."""

    def __init__(self, rules: Mapping[str, Any] | None = None) -> None:
        """Compile the content of `configs/identity.yaml`; an unusable rule or an unknown key raises KubehabitError."""
        rules = dict(rules or {})
        unknown = set(rules) - _KEYS
        if unknown:
            raise KubehabitError(
                f"Unknown identity setting {sorted(unknown)}; known: {', '.join(sorted(_KEYS))}."
            )
        for key in ("fold", "node_pools"):
            if not isinstance(rules.get(key, []), list | tuple):
                raise KubehabitError(f"{key} in the identity settings must be a list of rules.")
        if not isinstance(rules.get("fold_nodes", False), bool):
            raise KubehabitError("fold_nodes in the identity settings must be true or false.")
        similar_from = rules.get("similar_from", 0.5)
        is_number = isinstance(similar_from, int | float) and not isinstance(similar_from, bool)
        if not is_number or not 0 < similar_from <= 1:
            raise KubehabitError(
                "similar_from in the identity settings must be a number above 0 and at most 1."
            )
        self.similar_from = float(similar_from)
        pools = [_rule(entry) for entry in rules.get("node_pools", ())]
        folds = [_rule(entry) for entry in rules.get("fold", ())]
        self._rules = [*folds, *(pools if rules.get("fold_nodes", False) else ())]
        self._folded: dict[str, tuple[str, FoldRule | None]] = {}
        self._names: dict[str, tuple[str, set[str]]] = {}

    def fold(self, username: str) -> str:
        """Principal's name of a user name."""
        return self._look_up(username)[0]

    def principal(self, username: str, groups: Iterable[str]) -> Principal:
        """Principal of a logged user: the folded name, with the kind and peer groups of the name as logged."""
        found = identify(username, groups)
        name, rule = self._look_up(found.name)
        if rule is None:
            return found
        kind, candidates = rule.kind or found.kind, found.groups
        if kind != found.kind or name.startswith(_SERVICE_ACCOUNT):
            candidates = identify(name, groups).groups
        if rule.group:
            matched = rule.pattern.fullmatch(found.name)
            assert matched is not None
            candidates = (matched.expand(rule.group), *candidates)
        return Principal(name, kind, (*candidates[:-1], f"kind:{kind}"))

    def _look_up(self, username: str) -> tuple[str, FoldRule | None]:
        known = self._folded.get(username)
        if known is not None:
            return known
        name, applied = username, None
        for rule in self._rules:
            matched = rule.pattern.fullmatch(username)
            if matched is not None:
                name, applied = matched.expand(rule.name) or username, rule
                break
        if len(self._folded) >= _MEMO_LIMIT:
            self._folded.clear()
        self._folded[username] = (name, applied)
        if applied is not None and name != username:
            names = self._names.setdefault(name, (applied.why, set()))[1]
            if len(names) < FOLDS_LIMIT:
                names.add(username)
        return name, applied

    def folds(self) -> dict[str, tuple[str, list[str]]]:
        """What was folded so far: principal -> (why, user names); JSON-ready, for `fold_report`."""
        return {name: (why, sorted(names)) for name, (why, names) in sorted(self._names.items())}


def fold_report(folds: Iterable[Mapping[str, Sequence[Any]]]) -> dict[str, dict[str, Any]]:
    """What was folded into what: principal -> {names, examples, why}.

    `folds` are the `Identity.folds` of encoders that shared the work; `names` counts distinct user names, up to FOLDS_LIMIT.
    """
    joined: dict[str, tuple[str, set[str]]] = {}
    for found in folds:
        for name, (why, names) in found.items():
            known = joined.setdefault(name, (why, set()))[1]
            known.update(names[: FOLDS_LIMIT - len(known)])
    return {
        name: {"names": len(names), "examples": sorted(names)[:_EXAMPLES], "why": why}
        for name, (why, names) in sorted(joined.items())
    }


def describe_folds(report: Mapping[str, Mapping[str, Any]], limit: int = 12) -> list[str]:
    """Lines of a `fold_report` for a person: what was folded into what, most names first."""
    ordered = sorted(report.items(), key=lambda item: (-item[1]["names"], item[0]))
    lines = []
    for name, entry in ordered[:limit]:
        examples = entry["examples"][:2]
        more = f" and {entry['names'] - len(examples)} more" if entry["names"] > len(examples) else ""
        lines.append(f"{name} <- {', '.join(examples)}{more} ({entry['why']})")
    if len(ordered) > limit:
        lines.append(f"and {len(ordered) - limit} more; all are in the dataset's card")
    return lines
