"""CEL: expressions and texts of rules, compiled once, with bounds on what each may cost.

The runtime is Google's C++ one. It ends an evaluation after 10,000 steps of `all`, `exists`, `map` and `filter` together, and
matches regular expressions with RE2. What it leaves open is bounded here before anything is compiled: texts can grow only by
`+`, whose number is limited; and patterns have to stand in the rule, so that no event brings one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from typing import Any

from data.patterns import compile_pattern
from data.secret_text import without_secrets
from data.visible_text import visible
from detection.rules.event_view import BODY_FIELDS, FIELDS

#: Characters of one expression, of a reason, and of what a reason puts in for one of its parts.
MAX_EXPRESSION, MAX_REASON, _MAX_PART = 4_096, 1_000, 200
#: With eight, a text can become 256 times as long.
_MAX_PLUS = 8
_MAX_LOOPS = 16
_MAX_LISTED = 8
_LOOP = re.compile(r"\.(?:all|exists|exists_one|map|filter)\s*\(")
_MATCHES = re.compile(r"\bmatches\s*\(\s*[rR]?(@?)")
_MATCHES_END = re.compile(r"\bmatches\s*\(\s*[rR]?$")
_MAX_PATTERN = 500
_PATH = re.compile(r"(?<![\w.@])(event|principal|authorization)((?:\.[A-Za-z_]\w*)*)")
_EVENT = re.compile(r"(?<![\w.@])event\b\.?([A-Za-z_]\w*)?")
_VARIABLES = ("event", "principal", "history", "authorization")
_SPENT = "Iteration budget exceeded"
_MISSING = ("NOT_FOUND", "INVALID_ARGUMENT: Applying SELECT to non-message type")
#: Variables that an expression uses, found in its own text.
_HISTORY = re.compile(r"(?<![\w.])history\b")
_AUTHORIZATION = re.compile(r"(?<![\w.])authorization\b")


class ExpressionError(ValueError):
    """An expression cannot be used; the message says why."""


class UndecidedError(Exception):
    """An expression has used up its steps without an answer."""


@cache
def _environment() -> Any:
    from cel_expr_python import cel  # 15 MB that a service without rules need not load

    return cel.NewEnv(variables=dict.fromkeys(_VARIABLES, cel.Type.DYN))


def activation(values: Mapping[str, Any]) -> Any:
    """Values for several evaluations; each of the variables has to be there."""
    return _environment().Activation(values)


class Evaluated:
    """Result of one evaluation: `value`, or `problem` as text; `missing` if it is only a field that is not there."""

    __slots__ = ("missing", "problem", "value")

    def __init__(self, value: Any, problem: str = "", missing: bool = False) -> None:
        self.value = value
        self.problem = problem
        self.missing = missing


class Expression:
    """One compiled expression.

    Attributes:
        text: as it was written.
        fields: of `event`, those that it names; all of them if it names `event` itself.
        needs_body, needs_history, needs_authorization: which of the costlier variables it names.
    """

    def __init__(self, text: str) -> None:
        """Compile an expression; raises ExpressionError."""
        self.text = text.strip()
        code = _checked(self.text)
        named = _EVENT.findall(code)
        self.fields = FIELDS["event"] if "" in named else frozenset(named)
        self.needs_body = not self.fields.isdisjoint(BODY_FIELDS)
        self.needs_history = _HISTORY.search(code) is not None
        self.needs_authorization = _AUTHORIZATION.search(code) is not None
        try:
            self._compiled = _environment().compile(self.text)
        except Exception as error:  # the binding raises RuntimeError and TypeError
            raise ExpressionError(_compiler_words(str(error))) from error

    @property
    def is_condition(self) -> bool:
        """Whether it can give true or false."""
        return self._compiled.return_type().name().lower() in ("bool", "dyn")

    def evaluate(self, values: Any) -> Evaluated:
        """Evaluate on what `activation` made.

        Raises:
            UndecidedError: it took more steps than an evaluation may.
        """
        try:
            found = self._compiled.eval(values)
        except RuntimeError as error:
            if _SPENT in str(error):
                raise UndecidedError from error
            return Evaluated(None, str(error)[:_MAX_PART])
        if found.type().name().lower().endswith("error"):
            problem = str(found.value())[:_MAX_PART]
            return Evaluated(None, problem, problem.startswith(_MISSING))
        return Evaluated(found.plain_value())


class Reason:
    """A text with `{{ expression }}` in it."""

    def __init__(self, text: str) -> None:
        """Compile a text; raises ExpressionError."""
        self.text = " ".join(text.split())
        if not self.text or len(self.text) > MAX_REASON:
            raise ExpressionError(f"a reason has 1 to {MAX_REASON} characters")
        self._parts: list[str | Expression] = []
        rest = self.text
        while "{{" in rest:
            before, _, rest = rest.partition("{{")
            inside, closed, rest = rest.partition("}}")
            if not closed:
                raise ExpressionError("'{{' has no '}}'")
            self._parts += [before, Expression(inside)]
        self._parts.append(rest)

    @property
    def expressions(self) -> list[Expression]:
        """What it evaluates."""
        return [part for part in self._parts if isinstance(part, Expression)]

    def render(self, values: Any) -> str:
        """The text for an event: visible characters only, without secrets; "?" stands for what is not there."""
        found = "".join(part if isinstance(part, str) else self._part(part, values) for part in self._parts)
        return found if len(found) <= MAX_REASON else found[: MAX_REASON - 1] + "…"

    @staticmethod
    def _part(part: Expression, values: Any) -> str:
        try:
            value = part.evaluate(values).value
        except UndecidedError:
            return "?"
        listed = value[:_MAX_LISTED] if isinstance(value, list) else [value]
        texts = [str(one) for one in listed if isinstance(one, str | int | float)]
        text = visible(without_secrets(", ".join(texts)[: 4 * _MAX_PART], "[token]")) or "?"
        return text if len(text) <= _MAX_PART else text[: _MAX_PART - 1] + "…"


def _compiler_words(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), text)
    return visible(
        first.replace("INVALID_ARGUMENT: ERROR: <input>:", "at ").removesuffix(" [INVALID_ARGUMENT]")[:300]
    )


def _checked(text: str) -> str:
    """The code of an expression without its literals, after everything about it that is bounded was looked at."""
    if not text or len(text) > MAX_EXPRESSION:
        raise ExpressionError(f"an expression has 1 to {MAX_EXPRESSION:,} characters")
    if any(not one.isprintable() and one not in "\t\n\r" for one in text):
        raise ExpressionError("it holds characters that nobody can see; write them as escapes")
    pieces = list(_pieces(text))
    code = "".join("@" if is_literal else piece for is_literal, piece in pieces)
    if code.count("+") > _MAX_PLUS:
        raise ExpressionError(f"it has more than {_MAX_PLUS} '+'")
    if len(_LOOP.findall(code)) > _MAX_LOOPS:
        raise ExpressionError(f"it has more than {_MAX_LOOPS} of all, exists, exists_one, map and filter")
    if any(found != "@" for found in _MATCHES.findall(code)):
        raise ExpressionError("the pattern of matches() must be a text that stands in the rule")
    for (_, before), (is_literal, literal) in pairwise(pieces):
        if is_literal and _MATCHES_END.search(before):
            _check_pattern(literal)
    _check_names(code)
    return code


def _check_pattern(literal: str) -> None:
    if len(literal) > _MAX_PATTERN:
        raise ExpressionError(f"a pattern has at most {_MAX_PATTERN} characters")
    try:
        compile_pattern(literal.replace("\\\\", "\\"))
    except ValueError as error:
        raise ExpressionError(str(error)) from error


def _check_names(code: str) -> None:
    """Refuse fields that no event has: without types, a slip of the keyboard would never match and never say so."""
    for root, path in _PATH.findall(code):
        here = root
        for name in path.split(".")[1:]:
            known = FIELDS.get(here)
            if known is None:
                break
            following = code.find(f"{here}.{name}(")
            if name not in known and following < 0:
                close = get_close_matches(name, known, 1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; it has: {', '.join(sorted(known))}"
                raise ExpressionError(f"{here!r} has no field {name!r}{hint}")
            here = f"{here}.{name}"


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """Code and literals of an expression, in turn; comments are left out."""
    at = start = 0
    while at < len(text):
        if text.startswith("//", at):
            yield False, text[start:at]
            end = text.find("\n", at)
            at = start = len(text) if end < 0 else end
            continue
        if text[at] not in "'\"":
            at += 1
            continue
        quote = text[at] * 3 if text.startswith(text[at] * 3, at) else text[at]
        raw = at > start and text[at - 1] in "rR" and not (at - 1 > start and text[at - 2].isalnum())
        yield False, text[start:at]
        end = at + len(quote)
        while end < len(text) and not text.startswith(quote, end):
            end += 1 if raw or text[end] != "\\" else 2
        if end >= len(text):
            raise ExpressionError("a quoted text does not end")
        yield True, text[at + len(quote) : end]
        at = start = end + len(quote)
    yield False, text[start:]
