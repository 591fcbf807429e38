"""Turns Sigma rules for Kubernetes audit logs into rules; needs pySigma, the optional extra `sigma`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from data.errors import KubehabitError
from detection.rules.event_view import FIELDS
from detection.rules.rule import API_VERSION, KIND, RuleFormError, rule_from
from detection.rules.rule_files import MAX_FILE_BYTES

_SEVERITIES = {
    "informational": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "critical": "critical",
}
_NUMBERS = frozenset(("event.responseStatus.code", "event.duration"))
_LISTS = frozenset(("event.user.groups", "event.impersonatedUser.groups", "event.sourceIPs"))
#: Values of these are in lower case whatever a rule writes; Sigma compares without case.
_LOWER = frozenset(
    (
        "event.verb",
        *(f"event.objectRef.{name}" for name in ("resource", "subresource", "apiGroup", "namespace", "name")),
    )
)
#: Names that rules use for what native events have elsewhere.
_ELSEWHERE = {"apiGroup": "event.objectRef.apiGroup", "capabilities": "", "hostPath": "", "hostpath": ""}
_CONNECTIONS = frozenset(("exec", "attach", "portforward"))
_BAD = re.compile(r"[^a-z0-9]+")
_TECHNIQUE = re.compile(r"t\d{4}(\.\d{3})?")
_ADDRESS = re.compile(r"https?://\S{1,500}")
_FIELD_NAME = re.compile(r"[A-Za-z_]\w*")
_SPECIAL = re.compile(r"([^A-Za-z0-9_/:@=&%, \-])")


class SigmaFormError(ValueError):
    """A Sigma rule cannot be turned; the message says why."""


@dataclass(frozen=True, slots=True)
class ConvertedRule:
    """What became of one Sigma rule.

    Attributes:
        source: its file.
        path: of the rule that was written; None if it could not be turned.
        problem: why not.
        warnings: what of it cannot match, or is seen otherwise.
    """

    source: Path
    path: Path | None
    problem: str = ""
    warnings: Sequence[str] = ()


@dataclass(slots=True)
class _Terms:
    """What was met on the way: values that are compared with, by field, and warnings."""

    values: dict[str, set[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def convert_files(paths: Iterable[Path], out: Path) -> list[ConvertedRule]:
    """Turn Sigma rules, one a file, and write them to a folder.

    Raises:
        KubehabitError: pySigma is not installed, or the folder cannot be written to.
    """
    try:
        import sigma.rule  # noqa: F401
    except ImportError as error:
        raise KubehabitError(
            "Reading Sigma rules needs pySigma. Install it with: pip install 'kubehabit[sigma]'"
        ) from error
    found = []
    for path in paths:
        try:
            content, warnings = convert_text(path.read_bytes()[: MAX_FILE_BYTES + 1].decode())
            target = out / f"{content['metadata']['name']}.yaml"
            if target.exists():
                raise SigmaFormError(f"{target} exists; remove it first")
            out.mkdir(parents=True, exist_ok=True)
            target.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))
        except (SigmaFormError, UnicodeDecodeError) as error:
            found.append(ConvertedRule(path, None, str(error)))
        except OSError as error:
            raise KubehabitError(
                f"{error.filename}: {error.strerror}. Check the path and its permissions."
            ) from error
        else:
            found.append(ConvertedRule(path, target, "", warnings))
    return found


def convert_text(text: str) -> tuple[dict[str, Any], list[str]]:
    """Turn one Sigma rule into the plain data of a rule, and warnings.

    Raises:
        SigmaFormError: it is not for native audit events, or uses what has no equal here.
    """
    from sigma.exceptions import SigmaError
    from sigma.rule import SigmaRule

    if len(text.encode()) > MAX_FILE_BYTES:
        raise SigmaFormError(f"it is larger than {MAX_FILE_BYTES >> 10} KiB")
    try:
        rule = SigmaRule.from_yaml(text)
        conditions = [one.parsed for one in rule.detection.parsed_condition]
    except (
        SigmaError,
        yaml.YAMLError,
        RecursionError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
    ) as error:
        raise SigmaFormError(f"it is no Sigma rule: {str(error)[:200]}") from error
    if rule.logsource.product != "kubernetes":
        raise SigmaFormError(
            f"it is for logs of {rule.logsource.product or 'any product'}, not for audit events of Kubernetes"
        )
    terms = _Terms()
    expression = " || ".join(f"({_condition(one, terms)})" for one in conditions)
    content = _document(rule, expression, _constraints(conditions, terms))
    verbs, subresources = (
        terms.values.get("event.verb", set()),
        terms.values.get("event.objectRef.subresource", set()),
    )
    if verbs == {"create"} and not subresources.isdisjoint(_CONNECTIONS):
        terms.warn(
            "it asks for the verb create, and kubectl from 1.31 on sends exec, attach and port-forward as get"
        )
    try:
        rule_from(content)
    except RuleFormError as error:
        raise SigmaFormError(str(error)) from error
    return content, terms.warnings


def _document(rule: Any, expression: str, constraints: dict[str, Any]) -> dict[str, Any]:
    name = _BAD.sub("-", f"sigma-{rule.title}".lower()).strip("-")[:63].strip("-")
    author = rule.author or "an unknown author"
    origin = f"From the Sigma rule {rule.title!r} ({rule.id}), by {author}. Its licence holds for this."
    techniques = [
        tag.name.upper() for tag in rule.tags if tag.namespace == "attack" and _TECHNIQUE.fullmatch(tag.name)
    ]
    spec: dict[str, Any] = {
        "title": str(rule.title)[:120],
        "description": f"{rule.description or ''}\n{origin}".strip()[:4_000],
        "severity": _SEVERITIES[str(rule.level).lower()] if rule.level is not None else "low",
        "techniques": techniques[:10],
        "references": [one for one in map(str, rule.references) if _ADDRESS.fullmatch(one)][:20],
        "falsePositives": [one[:2_000] for one in map(str, rule.falsepositives) if one][:20],
        "matchConstraints": constraints,
        "expression": expression,
        "reason": "it matches the Sigma rule " + json.dumps(str(rule.title)[:120]).replace("{{", "{ {"),
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": spec}


# -- conditions --------------------------------------------------------------------------------------------------


def _condition(node: Any, terms: _Terms) -> str:
    kind = type(node).__name__
    if kind in ("ConditionAND", "ConditionOR"):
        joint = " && " if kind == "ConditionAND" else " || "
        return joint.join(_folded(node.args, joint, terms))
    if kind == "ConditionNOT":
        return f"!({_condition(node.args[0], terms)})"
    if kind == "ConditionFieldEqualsValueExpression":
        return _comparison(node.field, node.value, terms)
    if kind == "ConditionValueExpression":
        raise SigmaFormError("it looks for words anywhere in an event; name the field")
    raise SigmaFormError(f"{kind} has no equal here")


def _folded(nodes: Sequence[Any], joint: str, terms: _Terms) -> Iterator[str]:
    """The parts of a condition; many values of one field in one comparison, for expressions nest only 32 deep."""

    def key(node: Any) -> str:
        plain = (
            type(node).__name__ == "ConditionFieldEqualsValueExpression" and _exact(node.value) is not None
        )
        return str(node.field) if plain and joint == " || " else ""

    for name, group in groupby(nodes, key):
        same = list(group)
        if name and len(same) > 1 and (path := _path(name)) in _LOWER:
            values = [str(_exact(one.value)).lower() for one in same]
            terms.values.setdefault(path, set()).update(values)
            yield f"{path} in [{', '.join(map(_literal, values))}]"
        else:
            for one in same:
                yield f"({_condition(one, terms)})"


def _path(name: str) -> str:
    """The place of a Sigma field in an event; empty for what is in lists of a body."""
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    parts = name.split(".")
    here = "event"
    for part in parts:
        known = FIELDS.get(here)
        if known is not None and part not in known:
            raise SigmaFormError(f"native audit events have no field {name!r}")
        if not _FIELD_NAME.fullmatch(part):
            raise SigmaFormError(f"the field {name!r} cannot be named in an expression")
        here = f"{here}.{part}"
    return here


def _comparison(name: str, value: Any, terms: _Terms) -> str:
    path = _path(name)
    test = _test(value, path, name, terms)
    if name in ("hostPath", "hostpath"):
        inner = test("volume.hostPath.path")
        return f"(has(event.podSpec.volumes) && event.podSpec.volumes.exists(volume, has(volume.hostPath) && {inner}))"
    if name == "capabilities":
        where = "one.securityContext.capabilities"
        guard = f"has(one.securityContext) && has({where}) && has({where}.add)"
        return f"event.containers.exists(one, {guard} && {where}.add.exists(each, {test('each')}))"
    if path in _LISTS:
        return f"{path}.exists(each, {test('each')})"
    if path.startswith("event.requestObject."):
        parts = path.split(".")
        guards = [f"has({'.'.join(parts[:end])})" for end in range(3, len(parts) + 1)]
        if type(value).__name__ == "SigmaNull":
            return f"!({' && '.join(guards)})"
        return f"({' && '.join([*guards, test(path)])})"
    return test(path)


def _exact(value: Any) -> str | None:
    """The text of a value without wildcards; None for any other."""
    if type(value).__name__ not in ("SigmaString", "SigmaCasedString"):
        return None
    return None if value.contains_special() else str(value.to_plain()).replace("\\", "")


def _test(value: Any, path: str, name: str, terms: _Terms) -> Callable[[str], str]:
    """What makes of a place the comparison with a value."""
    kind = type(value).__name__
    if kind == "SigmaExists":
        return lambda _place: "true" if value.exists else "false"
    if kind == "SigmaNull":
        return lambda place: f"{place} == ''"
    if kind == "SigmaBool":
        return lambda place: f"{place} == {str(value.boolean).lower()}"
    if kind == "SigmaNumber":
        terms.values.setdefault(path, set()).add(str(value.number))
        if path in _NUMBERS or path.startswith("event.requestObject."):
            return lambda place: f"{place} == {value.number}"
        return lambda place: f"{place} == {_literal(str(value.number))}"
    if kind == "SigmaRegularExpression":
        pattern = str(value.regexp.to_plain() if hasattr(value.regexp, "to_plain") else value.regexp)
        return lambda place: f"{place}.matches({_literal(pattern)})"
    if kind not in ("SigmaString", "SigmaCasedString"):
        raise SigmaFormError(f"a value of {name!r} has no equal here ({kind})")
    if path in _NUMBERS:
        terms.warn(
            f"{name} is compared with the text {str(value)!r}, and API servers write a number there: this part never holds"
        )
        return lambda _place: "false"
    return _text_test(value, path, terms, cased=kind == "SigmaCasedString")


def _text_test(value: Any, path: str, terms: _Terms, *, cased: bool) -> Callable[[str], str]:
    exact = _exact(value)
    if exact is not None and (path in _LOWER or cased):
        wanted = exact.lower() if path in _LOWER else exact
        terms.values.setdefault(path, set()).add(wanted)
        return lambda place: f"{place} == {_literal(wanted)}"
    pattern = "".join(_parts(value))
    terms.values.setdefault(path, set()).update(part.lower() for part in value.s if isinstance(part, str))
    flags = "(?s)" if cased else "(?is)"
    return lambda place: f"{place}.matches({_literal(f'{flags}^{pattern}$')})"


def _parts(value: Any) -> Iterator[str]:
    for part in value.s:
        if isinstance(part, str):
            yield _SPECIAL.sub(r"\\\1", part)
        else:
            yield ".*" if part.name == "WILDCARD_MULTI" else "."


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)


# -- constraints -------------------------------------------------------------------------------------------------


def _constraints(conditions: Sequence[Any], terms: _Terms) -> dict[str, Any]:
    """What the rule is about, from comparisons that have to hold in any case."""
    needed = _needed(conditions[0]) if len(conditions) == 1 else {}
    rule: dict[str, Any] = {}
    resources, subresources = (
        needed.get("event.objectRef.resource"),
        needed.get("event.objectRef.subresource"),
    )
    if resources:
        wanted = [f"{one}/{sub}" for one in resources for sub in subresources or ()]
        rule["resources"] = wanted or [text for one in resources for text in (one, f"{one}/*")]
    for name, path in (("verbs", "event.verb"), ("apiGroups", "event.objectRef.apiGroup")):
        if needed.get(path):
            rule[name] = needed[path]
    found: dict[str, Any] = {"resourceRules": [rule]}
    if needed.get("event.objectRef.namespace"):
        found["namespaces"] = needed["event.objectRef.namespace"]
    if not any(path.startswith("event.objectRef.") for path in needed):
        found["nonResourceRules"] = [
            {"nonResourceURLs": ["*"]} | ({"verbs": rule["verbs"]} if "verbs" in rule else {})
        ]
        if not needed:
            terms.warn(
                "it names neither verb nor resource that every match has: its expression runs for every request"
            )
    return found


def _needed(node: Any) -> dict[str, list[str]]:
    """Exact values of fields of which one has to hold, of those that columns answer."""
    kind = type(node).__name__
    if kind == "ConditionAND":
        found: dict[str, list[str]] = {}
        for one in node.args:
            found |= {path: values for path, values in _needed(one).items() if path not in found}
        return found
    if kind not in ("ConditionOR", "ConditionFieldEqualsValueExpression"):
        return {}
    nodes = node.args if kind == "ConditionOR" else [node]
    if kind == "ConditionOR" and len(nodes) == 1:
        return _needed(nodes[0])
    names = {getattr(one, "field", None) for one in nodes}
    values = [_exact(one.value) if hasattr(one, "value") else None for one in nodes]
    if len(names) != 1 or None in names or None in values:
        return {}
    path = _path(str(names.pop()))
    return {path: [str(one).lower() for one in values]} if path in _LOWER and all(values) else {}
