"""Every pattern that can meet a log's text takes linear time, on worst cases that are made from the pattern itself."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOMS = ("data", "detection")
ROOT = Path(__file__).resolve().parents[2]
#: Times as long for ten times the text: 10 is linear, 100 quadratic. Below this many seconds nothing can be measured.
MOST, NOISE = 25, 0.02
_ENDS = ("", "!", "\0", "Z-")
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")


def _modules() -> Iterator[ModuleType]:
    for room in ROOMS:
        package = importlib.import_module(room)
        for found in pkgutil.walk_packages(package.__path__, room + "."):
            if not found.name.startswith(
                ("data.simulation", "data.recordings", "data.pyfunc", "detection.pyfunc")
            ):
                yield importlib.import_module(found.name)


def _patterns_in(value: Any, depth: int = 3) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif depth and isinstance(value, dict):
        yield from _patterns_in([*value, *value.values()], depth - 1)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _patterns_in(inner, depth - 1)
    elif depth and isinstance(value, type):
        yield from _patterns_in(list(vars(value).values()), depth - 1)


@dataclass(frozen=True)
class Used:
    """A pattern and what the code does with it: `match` at one place, or a search through all of a text."""

    pattern: re.Pattern[Any]
    methods: frozenset[str]


@cache
def patterns() -> dict[str, Used]:
    """The compiled patterns of all modules, by where they stand."""
    found: dict[str, Used] = {}
    for module in _modules():
        source = inspect.getsource(module)
        for name, value in vars(module).items():
            for pattern in _patterns_in(value):
                methods = re.findall(
                    rf"\b{name}\.(match|fullmatch|search|sub|split|finditer|findall)\b", source
                )
                if methods or not re.search(rf"import.*\b{name}\b", source):
                    found[f"{module.__name__}.{name}"] = Used(
                        pattern, frozenset(methods or ("match", "search"))
                    )
    return found


def _characters(node: Any, literals: str) -> str:
    """Characters that a set of a pattern takes, those first that stand elsewhere in the pattern."""
    negated = any(str(kind) == "NEGATE" for kind, _ in node)
    taken = set()
    for kind, value in node:
        if str(kind) == "LITERAL":
            taken.add(chr(value))
        elif str(kind) == "RANGE":
            taken |= {chr(value[0]), chr(value[1])}
        elif str(kind) == "CATEGORY":
            taken |= {"CATEGORY_DIGIT": {"7"}, "CATEGORY_SPACE": {" "}}.get(str(value), {"w", "7"})
    candidates = [*literals, "a", "7", "-", " ", "z"]
    wanted = [character for character in candidates if (character in taken) != negated]
    return "".join(dict.fromkeys([*wanted, *sorted(taken if not negated else ())]))


def _sample(tree: Any, literals: str, found: list[tuple[str, str]], before: str = "") -> str:
    """A text that a pattern takes; notes (what comes before, what is repeated) of each repetition on the way."""
    text = ""
    for kind, value in tree:
        name = str(kind)
        if name == "LITERAL":
            text += chr(value)
        elif name in ("ANY", "NOT_LITERAL"):
            text += "a"
        elif name == "IN":
            text += (_characters(value, literals) or "a")[0]
        elif name in _REPEATS:
            least, most, inner = value
            pump = _sample(inner, literals, found, before + text)
            if most > 20:
                found.append((before + text, pump))
                if len(inner) == 1 and str(inner[0][0]) == "IN":
                    found += [(before + text, other) for other in _characters(inner[0][1], literals)[:6]]
            text += pump * max(least, 1)
        elif name == "SUBPATTERN":
            text += _sample(value[3], literals, found, before + text)
        elif name == "ATOMIC_GROUP":
            text += _sample(value, literals, found, before + text)
        elif name == "BRANCH":
            choices = [_sample(branch, literals, found, before + text) for branch in value[1]]
            text += choices[0]
        elif name in ("ASSERT", "ASSERT_NOT"):
            _sample(value[1], literals, found, before + text)
    return text


def _literals(tree: Any) -> str:
    return "".join(dict.fromkeys(chr(int(code)) for code in re.findall(r"LITERAL, (\d+)", repr(list(tree)))))


def worst_cases(pattern: re.Pattern[Any]) -> list[Callable[[int], str]]:
    """Texts of any size that make a backtracking engine try again and again."""
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    tree = re._parser.parse(source, pattern.flags & ~re.UNICODE)  # type: ignore[attr-defined]
    literals = _literals(tree)
    pumps: list[tuple[str, str]] = []
    whole = _sample(tree, literals, pumps)
    units = {whole, whole[:-1], *literals[:12], *(before + pump for before, pump in pumps)}
    cases = {("", unit, end) for unit in units if unit for end in _ENDS[:2]}
    cases |= {(before, pump, end) for before, pump in pumps if pump for end in _ENDS}
    return [
        lambda size, before=before, pump=pump, end=end: before + pump * (size // len(pump)) + end  # type: ignore[misc]
        for before, pump, end in sorted(cases)
    ]


def _seconds(used: Used, text: str) -> float:
    """CPU time of what is done with a pattern; the best of two where it is worth it."""
    pattern = used.pattern
    given = text if isinstance(pattern.pattern, str) else text.encode("latin-1", "replace")
    taken = []
    for _ in range(2):
        begin = time.process_time()
        for method in used.methods & {"match", "fullmatch"}:
            getattr(pattern, method)(given)
        if used.methods - {"match", "fullmatch"}:
            for _match in pattern.finditer(given):
                pass
        taken.append(time.process_time() - begin)
        if taken[0] < NOISE:
            break
    return min(taken)


def slowest_growth(used: Used) -> float:
    """How many times longer ten times the text takes at worst."""
    cases = worst_cases(used.pattern)
    for size in (12, 16, 20, 24, 48, 96, 120):  # what is exponential shows early, before it would never end
        if any(_seconds(used, case(size)) > NOISE for case in cases):
            return float("inf")
    growth, sizes = 1.0, (1_000, 10_000, 100_000)
    for size in sizes:
        times = [(_seconds(used, case(size)), number) for number, case in enumerate(cases)]
        small, worst = max(times)
        large = _seconds(used, cases[worst](10 * size))
        if large > NOISE:
            growth = max(growth, large / max(small, NOISE / 20))
        if growth > MOST:
            break
    return growth


@pytest.mark.parametrize("name", sorted(patterns()))
def test_a_pattern_takes_linear_time(name: str) -> None:
    growth = slowest_growth(patterns()[name])
    assert growth <= MOST, f"{name}: ten times the text takes {growth:.0f} times as long"


@pytest.mark.parametrize(
    "pattern",
    [
        r'\\*"(?:data|env)\\*"\s*:',  # of dead letters, once: quadratic
        r"eyJ[\w-]+\.[\w-]+\.[\w-]+",  # tokens: quadratic
        r"([^:]+?)(?:-(?:(?=[a-f]*\d)[0-9a-f]{7,40}|\d{4,}|(?=[a-z]*\d)[a-z0-9]{5,10}))+",
        r"(?:a+)+b",  # exponential
        r"(?:a|a|b)+c",
    ],
)
def test_the_search_finds_what_is_not_linear(pattern: str) -> None:
    assert slowest_growth(Used(re.compile(pattern), frozenset({"search"}))) > MOST


def test_all_patterns_are_found() -> None:
    named = patterns()
    assert len(named) > 25
    assert "data.actions.folding._RANDOM" in named
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            inline = [
                node.lineno
                for node in ast.walk(ast.parse(path.read_text("utf-8")))
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.func.attr not in ("compile", "escape")
            ]
            assert not inline or "simulation" in path.parts, f"{path}: compile the patterns of lines {inline}"
