"""Reads rule files. A file that cannot be used is named and left out; it never keeps another rule from working."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data.errors import KubehabitError
from data.visible_text import visible
from detection.rules.rule import Rule, RuleFormError, rule_from

#: Bytes of one file, files of one folder.
MAX_FILE_BYTES, MAX_FILES = 256 << 10, 1_000
_SUFFIXES = (".yaml", ".yml")
_DEEPEST = 64

try:
    from yaml import CSafeLoader as _Base
except ImportError:  # a build of PyYAML without libyaml
    from yaml import SafeLoader as _Base  # type: ignore[assignment]


class _Loader(_Base):
    """YAML of plain data: a name given twice is refused, and a time stays the text that it is."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _Base.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
        if twice is not None:
            raise RuleFormError(f"{twice!r} is given twice (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A file that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All rules that can be used, by name, and the files that cannot.

    Attributes:
        files: of the rules, by their names.
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    broken: Sequence[BrokenRule] = ()
    files: Mapping[str, Path] = field(default_factory=dict)

    def without(self, names: Collection[str]) -> RuleSet:
        """The same without some rules."""
        rules = {name: rule for name, rule in self.rules.items() if name not in names}
        return RuleSet(rules, self.broken, self.files)


def parse_rule_text(text: str) -> object:
    """Plain data of a rule's YAML.

    Raises:
        RuleFormError: it is no YAML, has aliases (which can multiply what is in a small file), or is nested too deep.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Base):
            if isinstance(event, yaml.AliasEvent):
                raise RuleFormError("aliases ('*name') are not read; write out what they stand for")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise RuleFormError(f"it is nested more than {_DEEPEST} deep")
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise RuleFormError(f"it is not valid YAML{where}") from error
    except (ValueError, RecursionError, TypeError) as error:
        if isinstance(error, RuleFormError):
            raise
        raise RuleFormError(f"it is not valid YAML: {visible(str(error))[:200]}") from error


def read_rule(path: Path) -> Rule:
    """One rule from its file; raises RuleFormError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise RuleFormError(f"it cannot be read: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise RuleFormError(f"it is larger than {MAX_FILE_BYTES >> 10} KiB")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise RuleFormError("it is not UTF-8") from error
    return rule_from(parse_rule_text(text), path.name)


def rule_paths(folder: Path) -> list[Path]:
    """Rule files of a folder, in the order of their names; none if there is no such folder.

    Raises:
        KubehabitError: there are too many.
    """
    try:
        found = sorted(
            one for one in folder.iterdir() if one.suffix in _SUFFIXES and not one.name.startswith(".")
        )
    except OSError:
        return []
    if len(found) > MAX_FILES:
        raise KubehabitError(f"{folder} holds more than {MAX_FILES:,} rule files. Keep fewer there.")
    return found


def read_rules(folders: Iterable[Path]) -> RuleSet:
    """The rules of some folders; a rule replaces one of the same name from a folder before.

    Raises:
        KubehabitError: a folder holds too many files.
    """
    rules: dict[str, Rule] = {}
    broken: list[BrokenRule] = []
    files: dict[str, Path] = {}
    for folder in folders:
        here: dict[str, Path] = {}
        for path in rule_paths(folder):
            try:
                rule = read_rule(path)
                if rule.name in here:
                    raise RuleFormError(
                        f"metadata.name: {here[rule.name].name} has the name {rule.name!r} already"
                    )
            except RuleFormError as error:
                broken.append(BrokenRule(path, str(error)))
                continue
            here[rule.name] = files[rule.name] = path
            rules[rule.name] = rule
    return RuleSet(rules, tuple(broken), files)


def read_named(paths: Iterable[Path]) -> RuleSet:
    """Rules of files and of folders; raises as `read_rules`."""
    rules: dict[str, Rule] = {}
    broken: list[BrokenRule] = []
    for path in paths:
        if path.is_dir():
            found = read_rules([path])
            rules |= found.rules
            broken += found.broken
            continue
        try:
            rule = read_rule(path)
        except RuleFormError as error:
            broken.append(BrokenRule(path, str(error)))
        else:
            rules[rule.name] = rule
    return RuleSet(rules, tuple(broken))
