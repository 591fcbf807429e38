"""Turns user names into principals and their kind.

The rules of `configs/identity.yaml` fold user names, so that a session is its role and an account made for one run is the
pipeline. The event itself keeps the user name it was logged with.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from data.errors import KubehabitError
from data.events.audit_event import Annotations, User
from data.patterns import Pattern, PatternSet, compile_pattern, full_match, matched_groups

Kind = Literal["human", "serviceaccount", "controller", "component", "node", "anonymous"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Kinds whose alerts a person reads one by one; the others are the machinery of the cluster itself.
PEOPLE_AND_PIPELINES: frozenset[str] = frozenset(("human", "serviceaccount"))

#: User name of requests without an identity.
ANONYMOUS = "system:anonymous"

_log = logging.getLogger(__name__)
_SERVICE_ACCOUNT = "system:serviceaccount:"
#: User names that are looked up once, and the most characters that they may have together: what a log holds can be long.
_MEMO_LIMIT, _MEMO_CHARACTERS = 100_000, 16 << 20
_EXAMPLES = 3
#: User names of one principal that are remembered for the report of what was folded.
FOLDS_LIMIT = 10_000
#: The same over all principals: most characters that names chosen by a log may take.
_REMEMBERED_CHARACTERS = 32 << 20


@dataclass(frozen=True, slots=True)
class Principal:
    """One identity in the log."""

    name: str  # the user name, folded (`system:anonymous` when the request had no identity)
    kind: Kind
    groups: tuple[str, ...]  # candidate peer groups, narrowest first; the last is always the kind


def identify(username: str, groups: Iterable[str]) -> Principal:
    """Principal of a logged user, without any folding."""
    if username in ("", ANONYMOUS):
        return Principal(ANONYMOUS, "anonymous", ("kind:anonymous",))
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


#: Alphabet of the suffixes that Kubernetes generates.
_SAFE = frozenset("bcdfghjklmnpqrstvwxz2456789")
_HEX = frozenset("0123456789abcdef")
_DIGITS = frozenset("0123456789")
_UUID = (8, 4, 4, 4, 12)


def _is_generated(part: str) -> bool:
    """Whether a part of a name between dashes was generated: a number, hexadecimal, or Kubernetes' own alphabet."""
    letters = set(part)
    if letters.isdisjoint(_DIGITS):
        return False
    return (
        (len(part) >= 4 and letters <= _DIGITS)
        or (7 <= len(part) <= 40 and letters <= _HEX)
        or (5 <= len(part) <= 10 and letters <= _SAFE)
    )


def without_generated(name: str) -> str | None:
    """A name without the generated parts at its end, in linear time: `run-x2x4z-1234` -> `run`; None if it has none."""
    parts = name.split("-")
    # Whether everything from a part on is generated; an UUID takes five parts.
    generated = [False] * len(parts) + [True]
    for at in range(len(parts) - 1, 0, -1):
        uuid = parts[at : at + len(_UUID)]
        generated[at] = (generated[at + 1] and _is_generated(parts[at])) or (
            tuple(map(len, uuid)) == _UUID and generated[at + len(_UUID)] and set("".join(uuid)) <= _HEX
        )
    kept = (at for at in range(1, len(parts)) if generated[at] and (at > 1 or parts[0]))
    first = next(kept, None)
    return None if first is None else "-".join(parts[:first])


_REFERENCE = re.compile(r"\\(?:g<(\w+)>|(\d\d?)|(.))")


@dataclass(frozen=True, slots=True)
class FoldRule:
    """One compiled rule: what `pattern` matches, and `unless` does not, becomes `name`."""

    pattern: Pattern
    unless: Pattern | None
    strip_generated: bool  # the last group has to end in generated parts, and is used without them
    name: str
    group: str
    kind: Kind | None
    why: str

    def fold(self, username: str) -> tuple[str, str] | None:
        """Name and peer group of a user name; None if the rule is not for it."""
        groups = matched_groups(self.pattern, username)
        if groups is None or (self.unless is not None and full_match(self.unless, username) is not None):
            return None
        if self.strip_generated:
            groups[-1] = without_generated(groups[-1] or "")
            if groups[-1] is None:
                return None
        return self.expand(self.name, groups), self.expand(self.group, groups)

    def expand(self, template: str, groups: Sequence[str | None]) -> str:
        """A template with the groups of a match; raises IndexError or KeyError for a group that does not exist."""

        def reference(found: re.Match[str]) -> str:
            named, number, escaped = found.groups()
            if escaped is not None:
                return str(escaped)
            named = number or named
            return groups[int(named) if named.isdecimal() else self.pattern.groupindex[named]] or ""

        return _REFERENCE.sub(reference, template)


class Actor(NamedTuple):
    """Who is behind one request, as far as the log says.

    Attributes:
        username: user name that the principal is made of, not folded.
        groups: groups of that user.
        acts_as: user name that the principal impersonates; empty if none.
        proxy: user name of the proxy that the principal came through; empty if none.
        refused: whether the request is a log-in that was denied: its sender did not prove to be `username`.
    """

    username: str
    groups: tuple[str, ...]
    acts_as: str = ""
    proxy: str = ""
    refused: bool = False


_RULE_KEYS = {"match", "unless", "strip_generated", "name", "group", "kind", "why"}
_SHARED_KEYS = {"extra", "match", "unless", "strip_generated", "name", "why"}
_PROXY_KEYS = {"match", "unless", "why"}
_KEYS = {"fold", "fold_nodes", "node_pools", "similar_from", "shared_names", "proxies", "oauth_logins"}
_LISTS = ("fold", "node_pools", "shared_names", "proxies")
_FLAGS = ("fold_nodes", "oauth_logins")
#: Keys of `user.extra` that an event keeps (`data.events.audit_event.Extra`).
_EXTRAS = ("arn", "sessionName")
#: Rules shipped before, as datasets and bundles carry them -> the same in RE2's language.
_REPLACED: Mapping[str, Mapping[str, Any]] = {
    r"oidc:(?!system:)(.+)": {"match": "oidc:(.+)", "unless": "oidc:system:.*"},
    r"https://([^/#]+)[^#]*#(?!system:)(.+)": {
        "match": "https://([^/#]+)[^#]*#(.+)",
        "unless": "https://[^#]*#system:.*",
    },
    r"system:serviceaccount:([^:]+):([^:]+?)(?:-(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|(?=[a-f]*\d)[0-9a-f]{7,40}|\d{4,}|(?=[a-z]*\d)[bcdfghjklmnpqrstvwxz2456789]{5,10}))+": {
        "match": "system:serviceaccount:([^:]+):([^:]+)",
        "strip_generated": True,
    },
}


def _rule(entry: object) -> FoldRule:
    """Compile one rule; an unknown or missing key, or an unusable expression, raises KubehabitError."""
    if not isinstance(entry, Mapping) or set(entry) - _RULE_KEYS or not {"match", "name"} <= set(entry):
        raise KubehabitError(
            f"identity rule {entry!r}: needs `match` and `name`; known keys: {', '.join(sorted(_RULE_KEYS))}."
        )
    kind = entry.get("kind")
    if kind is not None and kind not in KINDS:
        raise KubehabitError(f"identity rule {dict(entry)}: kind must be one of {', '.join(KINDS)}.")
    used = {**entry, **_REPLACED.get(str(entry["match"]), {})}
    strip = used.get("strip_generated", False)
    try:
        pattern = compile_pattern(str(used["match"]))
        unless = compile_pattern(str(used["unless"])) if "unless" in used else None
        if not isinstance(strip, bool) or (strip and not pattern.groups):
            raise ValueError("strip_generated must be true or false, and needs a group in `match`")
        rule = FoldRule(
            *(pattern, unless, strip, str(used["name"]), str(used.get("group", "")), kind),
            why=str(used.get("why", "a rule")),
        )
        for template in (rule.name, rule.group):  # raises for a group that does not exist
            rule.expand(template, [""] * (1 + pattern.groups))
    except (ValueError, LookupError) as error:
        raise KubehabitError(
            f"identity rule {dict(entry)}: {error}. Give a regular expression, and groups of it as \\1 in the name."
        ) from error
    return rule


def _shared(entry: object) -> tuple[str, FoldRule]:
    """Compile one rule of `shared_names`: the key of `user.extra`, and what to make of the user name and its value."""
    if not isinstance(entry, Mapping) or set(entry) - _SHARED_KEYS or entry.get("extra") not in _EXTRAS:
        raise KubehabitError(
            f"identity rule {entry!r}: needs `extra` ({' or '.join(_EXTRAS)}), `match` and `name`; "
            f"known keys: {', '.join(sorted(_SHARED_KEYS))}."
        )
    return str(entry["extra"]), _rule({key: value for key, value in entry.items() if key != "extra"})


def _proxy(entry: object) -> FoldRule:
    """Compile one rule of `proxies`."""
    if not isinstance(entry, Mapping) or set(entry) - _PROXY_KEYS or "match" not in entry:
        raise KubehabitError(
            f"identity rule {entry!r}: a proxy needs `match`; known keys: {', '.join(sorted(_PROXY_KEYS))}."
        )
    return _rule({**entry, "name": r"\g<0>"})


_Rule = TypeVar("_Rule")


def _rules(entries: Iterable[object], make: Callable[[object], _Rule], strict: bool) -> Iterator[_Rule]:
    for entry in entries:
        try:
            yield make(entry)
        except KubehabitError as error:
            if strict:
                raise
            _log.warning("A rule of the saved identity settings is left out: %s Then train again.", error)


class Identity:
    """Turns logged users into principals, each distinct user name once, and remembers what was folded into what."""

    def __init__(self, rules: Mapping[str, Any] | None = None, *, strict: bool = True) -> None:
        """Compile the content of `configs/identity.yaml`; an unusable rule or an unknown key raises KubehabitError.

        Without `strict`, for settings of a dataset or model made before, a rule that cannot be used is left out, with a warning.
        """
        rules = dict(rules or {})
        unknown = set(rules) - _KEYS
        if unknown:
            raise KubehabitError(
                f"Unknown identity setting {sorted(unknown)}; known: {', '.join(sorted(_KEYS))}."
            )
        for key in _LISTS:
            if not isinstance(rules.get(key, []), list | tuple):
                raise KubehabitError(f"{key} in the identity settings must be a list of rules.")
        for key in _FLAGS:
            if not isinstance(rules.get(key, False), bool):
                raise KubehabitError(f"{key} in the identity settings must be true or false.")
        similar_from = rules.get("similar_from", 0.5)
        is_number = isinstance(similar_from, int | float) and not isinstance(similar_from, bool)
        if not is_number or not 0 < similar_from <= 1:
            raise KubehabitError(
                "similar_from in the identity settings must be a number above 0 and at most 1."
            )
        self.similar_from = float(similar_from)
        pools = [*_rules(rules.get("node_pools", ()), _rule, strict)]
        folds = [*_rules(rules.get("fold", ()), _rule, strict)]
        self._rules = [*folds, *(pools if rules.get("fold_nodes", False) else ())]
        self._shared = [*_rules(rules.get("shared_names", ()), _shared, strict)]
        self._proxies = [*_rules(rules.get("proxies", ()), _proxy, strict)]
        self._logins = bool(rules.get("oauth_logins", False))
        self._folded: dict[str, tuple[str, str, FoldRule | None]] = {}
        self._names: dict[str, tuple[str, set[str]]] = {}
        self._memo_size = self._remembered = 0  # characters
        # Most names match no rule: one pass says so, where trying the rules one by one takes eight.
        self._matched = PatternSet(rule.pattern.pattern for rule in self._rules)

    def fold(self, username: str) -> str:
        """Principal's name of a user name."""
        return self._look_up(username)[0]

    def actor(self, user: User, other: User | None, notes: Annotations | None = None) -> Actor:
        """Who is behind a request of a user, who may impersonate another; `notes` are the event's annotations.

        Behind a proxy that is named in the settings it is the person whom the proxy acts as. A proxy that acts as a `system:`
        identity, which is no person, is an impersonator like any other.
        """
        if other is None:
            if self._logins and notes is not None and notes.login and user.username in ("", ANONYMOUS):
                refused = notes.login_decision != "allow"
                if not notes.login.startswith("system:"):
                    return Actor(notes.login, (), refused=refused)
            return Actor(self._behind(user), user.groups)
        name = other.username or ANONYMOUS
        if self.is_proxied(user.username, name):
            return Actor(self._behind(other), other.groups, proxy=user.username)
        return Actor(self._behind(user), user.groups, acts_as=name)

    def is_proxied(self, username: str, acts_as: str) -> bool:
        """Whether one user name is that of a proxy which the settings name, and the other that of a person behind it."""
        if not acts_as or acts_as.startswith("system:"):
            return False
        return any(rule.fold(username) is not None for rule in self._proxies)

    def _behind(self, user: User) -> str:
        """User name, or what `user.extra` makes of one that many share."""
        if user.extra is None or not self._shared:
            return user.username
        for key, rule in self._shared:
            value = user.extra.value(key)
            if not value:
                continue
            # A user name that was made of the session tells people apart by itself.
            session = value.rpartition("/")[2]
            if session in user.username or session.replace("@", "-") in user.username:
                return user.username
            found = rule.fold(f"{user.username} {value}")
            if found is not None:
                return found[0]
        return user.username

    def principal(self, username: str, groups: Iterable[str]) -> Principal:
        """Principal of a logged user: the folded name, with the kind and peer groups of the name as logged."""
        found = identify(username, groups)
        name, group, rule = self._look_up(found.name)
        if rule is None:
            return found
        kind, candidates = rule.kind or found.kind, found.groups
        if kind != found.kind or name.startswith(_SERVICE_ACCOUNT):
            candidates = identify(name, groups).groups
        if group:
            candidates = (group, *candidates)
        return Principal(name, kind, (*candidates[:-1], f"kind:{kind}"))

    def _look_up(self, username: str) -> tuple[str, str, FoldRule | None]:
        """Name, peer group by the rule, and the rule."""
        known = self._folded.get(username)
        if known is not None:
            return known
        candidates = (self._rules[index] for index in self._matched.matches(username))
        folded = ((rule.fold(username), rule) for rule in candidates)
        found, rule = next(((found, rule) for found, rule in folded if found is not None), (("", ""), None))
        name = found[0] or username
        self._memo_size += len(username)
        if len(self._folded) >= _MEMO_LIMIT or self._memo_size > _MEMO_CHARACTERS:
            self._folded.clear()
            self._memo_size = len(username)
        self._folded[username] = name, found[1], rule
        if rule is not None and name != username and self._remembered < _REMEMBERED_CHARACTERS:
            names = self._names.setdefault(name, (rule.why, set()))[1]
            if len(names) < FOLDS_LIMIT and username not in names:
                names.add(username)
                self._remembered += len(username)
        return self._folded[username]

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
