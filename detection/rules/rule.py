"""A detection rule as its file has it, checked and compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from detection.rules.constraints import MatchConstraints
from detection.rules.expressions import Expression, ExpressionError, Reason

API_VERSION, KIND = "kubehabit.io/v1alpha1", "DetectionRule"
RuleSeverity = Literal["low", "medium", "high", "critical"]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]
_NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"


class RuleMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names a rule: a DNS label, unique among all that are loaded."""

    name: Annotated[str, msgspec.Meta(pattern=_NAME)]


class HistoryWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which earlier requests of the principal an expression sees as `history`.

    Attributes:
        seconds: how far back.
        matchConstraints: which; without it, those that the rule is about.
    """

    seconds: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 600
    matchConstraints: MatchConstraints | None = None


class RuleTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events of one principal or of several, and whether the rule hits the last of them.

    Attributes:
        name: says what it shows.
        hits: whether the rule must hit the last event.
        events: audit events; what API servers always write is filled in.
        authorization: the oracle's answer on the last event, as expressions see it.
        silentDays: days without a request of the principal before the last event.
    """

    name: _Text
    hits: bool
    events: Annotated[tuple[dict[str, Any], ...], msgspec.Meta(min_length=1, max_length=128)]
    authorization: dict[str, str] = {}
    silentDays: Annotated[int, msgspec.Meta(ge=0, le=3_650)] = 0


class RuleSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rule says; see docs/rules.md.

    Attributes:
        title: in a few words.
        severity: of the alert.
        matchConstraints: requests it is about.
        expression: CEL; true is a hit.
        reason: why it is reported, with `{{ expression }}` for what the event holds.
        description, falsePositives: for people.
        techniques: of ATT&CK.
        references: URLs.
        history: which earlier requests the expression sees.
        habitDays: distinct days on which a principal has to do it before it is its habit and no longer reported; 0 for never.
        tests: run by `kubehabit rules test`.
    """

    title: Annotated[str, msgspec.Meta(min_length=1, max_length=120)]
    severity: RuleSeverity
    matchConstraints: MatchConstraints
    expression: str
    reason: str
    description: Annotated[str, msgspec.Meta(max_length=4_000)] = ""
    falsePositives: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=20)] = ()
    techniques: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern=r"^T[0-9]{4}(\.[0-9]{3})?$")], ...],
        msgspec.Meta(max_length=10),
    ] = ()
    references: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern=r"^https?://\S{1,500}$")], ...], msgspec.Meta(max_length=20)
    ] = ()
    history: HistoryWindow | None = None
    habitDays: Annotated[int, msgspec.Meta(ge=0, le=90)] = 3
    tests: Annotated[tuple[RuleTest, ...], msgspec.Meta(max_length=64)] = ()


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    apiVersion: str
    kind: str
    metadata: RuleMetadata
    spec: RuleSpec


class RuleFormError(ValueError):
    """A rule cannot be used; the message says where and why."""


class Rule:
    """One rule, compiled.

    Attributes:
        name: unique.
        spec: as written.
        source: file it came from, for people.
        expression, reason: compiled.
        fields: of `event` that expression and reason name.
    """

    def __init__(self, name: str, spec: RuleSpec, source: str = "") -> None:
        """Compile a rule; raises RuleFormError."""
        self.name = name
        self.spec = spec
        self.source = source
        try:
            self.expression = Expression(spec.expression)
        except ExpressionError as error:
            raise RuleFormError(f"spec.expression: {error}") from error
        if not self.expression.is_condition:
            raise RuleFormError("spec.expression: it must give true or false")
        try:
            self.reason = Reason(spec.reason)
        except ExpressionError as error:
            raise RuleFormError(f"spec.reason: {error}") from error
        named = (self.expression, *self.reason.expressions)
        self.fields = frozenset(name for one in named for name in one.fields)
        self.needs_body = any(one.needs_body for one in named)
        self.needs_authorization = any(one.needs_authorization for one in named)
        if any(one.needs_history for one in named) and spec.history is None:
            raise RuleFormError(
                "spec.expression: it names 'history', and spec.history does not say how far back"
            )

    @property
    def history_constraints(self) -> MatchConstraints | None:
        """Which requests are remembered for it; None for a rule without history."""
        window = self.spec.history
        return None if window is None else window.matchConstraints or self.spec.matchConstraints


def rule_from(content: object, source: str = "") -> Rule:
    """A rule from the plain data of its file.

    Raises:
        RuleFormError: something in it is unknown, missing or wrong.
    """
    if not isinstance(content, Mapping):
        raise RuleFormError(
            f"it holds a {type(content).__name__}; a rule begins with 'apiVersion: {API_VERSION}'"
        )
    if content.get("apiVersion") != API_VERSION or content.get("kind") != KIND:
        raise RuleFormError(f"a rule begins with 'apiVersion: {API_VERSION}' and 'kind: {KIND}'")
    try:
        document = msgspec.convert(dict(content), _Document)
    except msgspec.ValidationError as error:
        raise RuleFormError(_where_first(str(error))) from error
    except (RecursionError, TypeError) as error:
        raise RuleFormError(f"it cannot be read: {error}") from error
    return Rule(document.metadata.name, document.spec, source)


def _where_first(text: str) -> str:
    what, found, where = text.rpartition(" - at `$.")
    return f"{where.rstrip('`')}: {what.removeprefix('Object ')}" if found else text
