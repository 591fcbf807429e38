"""Rates how much harm an action could do if it were an attacker's, by the table in `configs/sensitivity.yaml`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from data.actions.encoder import ActionBatch, ActionEncoder
from data.errors import KubehabitError
from data.patterns import Pattern, compile_pattern, full_match

_log = logging.getLogger(__name__)

_DENSE_LIMIT = 1 << 40
#: Values that are remembered of each field. They are strings of an encoder's interners, which bound their characters.
_MATCHES_LIMIT = 10_000
#: Patterns shipped before, as bundles carry them -> the same in RE2's language.
_REPLACED = {"(?!-$).*": "[^-].*|-.+|"}
LEVELS = ("routine", "low", "medium", "high")
#: Level of an action that counts for nothing; the name of it in a rule for own work.
HARMLESS, _HARMLESS_NAME = -1, "none"


@dataclass(frozen=True, slots=True)
class SensitivityRule:
    """The level of every action whose fields match all patterns; with `caps`, the most it may have."""

    level: int
    caps: bool
    patterns: tuple[tuple[str, Pattern], ...]
    why: str


class _Masks(dict[str, int]):
    """Which rules the values of one field meet, each distinct value tried once.

    Bit i of a mask says whether the i-th rule is met: its pattern for the field matches, or it has none.

    Attributes:
        testing: the rules that have one.
    """

    def __init__(self, field: str, rules: Sequence[SensitivityRule]) -> None:
        super().__init__()
        # `traits` patterns match anywhere in the text; all others must match the whole value.
        self._tests = [
            (1 << bit, pattern.search if field == "traits" else partial(full_match, pattern))
            for bit, rule in enumerate(rules)
            for name, pattern in rule.patterns
            if name == field
        ]
        self.testing = sum(bit for bit, _ in self._tests)

    def __missing__(self, value: str) -> int:
        if len(self) > _MATCHES_LIMIT:
            self.clear()
        met = sum(bit for bit, match in self._tests if match(value) is not None)
        self[value] = found = ~self.testing | met
        return found


class _Answers(dict[int, tuple[int, str]]):
    """Level and reason by the mask of the rules that are met."""

    def __init__(self, rules: Sequence[SensitivityRule]) -> None:
        super().__init__()
        self._rules = rules

    def __missing__(self, mask: int) -> tuple[int, str]:
        if len(self) > _MATCHES_LIMIT:
            self.clear()
        met = [rule for bit, rule in enumerate(self._rules) if mask >> bit & 1]
        found = next(((rule.level, rule.why) for rule in met if not rule.caps), (0, ""))
        cap = next((rule for rule in met if rule.caps), None)
        if cap is not None and cap.level < found[0]:
            found = (cap.level, cap.why)
        self[mask] = found
        return found


class Sensitivity:
    """Looks up the level of actions; the highest matching rule wins, within the lowest cap."""

    FIELDS = ("verb", "resource", "traits", "namespace", "name", "code", "impersonates")
    #: Key of a rule -> the field that its patterns are for.
    _FIELD_OF: ClassVar[Mapping[str, str]] = {"traits": "traits", "impersonates": "impersonates"} | {
        f"{field}s": field for field in ("verb", "resource", "namespace", "name", "code")
    }
    _KEYS = frozenset(("level", "at_most", "why", "own_work", *_FIELD_OF))

    def __init__(self, table: Sequence[Mapping[str, Any]], *, strict: bool = True) -> None:
        """Compile the rules of `configs/sensitivity.yaml`; one that cannot be used raises KubehabitError.

        Without `strict`, for the table of a dataset or model made before, it is left out, with a warning.
        """
        self.table = [dict(entry) for entry in table]
        self.rules: list[SensitivityRule] = []
        #: The rule for what only removes the principal's own fresh work, or reads its log.
        self.own_work: SensitivityRule | None = None
        for entry in table:
            try:
                rule = self._rule(entry)
                if "own_work" in entry:
                    self.own_work = rule
                else:
                    self.rules.append(rule)
            except KubehabitError as error:
                if strict:
                    raise
                _log.warning("A rule of the saved sensitivity table is left out: %s", error)
        # Caps first, lowest first, then levels, highest first: the first match of each sort decides.
        ordered = sorted(
            self.rules, key=lambda rule: (not rule.caps, rule.level if rule.caps else -rule.level)
        )
        ordered = [rule for rule in ordered if rule.level or rule.caps]
        # Names last: most are new, and few rules are left by then that ask for one.
        places = sorted(range(len(self.FIELDS)), key=lambda place: self.FIELDS[place] == "name")
        masks = [(place, _Masks(self.FIELDS[place], ordered)) for place in places]
        self._masks = [(place, one.testing, one) for place, one in masks]
        self._every = (1 << len(ordered)) - 1
        self._answers = _Answers(ordered)
        self._generation = -1

    def _rule(self, entry: Mapping[str, Any]) -> SensitivityRule:
        unknown = set(entry) - self._KEYS
        given = [key for key in ("level", "at_most") if key in entry]
        if "own_work" in entry:
            return self._rule_of_own_work(entry)
        if unknown or len(given) != 1 or entry[given[0]] not in LEVELS:
            raise KubehabitError(
                f"sensitivity rule {dict(entry)}: needs a level, or an at_most, of {LEVELS} "
                f"and only the keys {sorted(self._KEYS)}."
            )
        patterns = []
        for key, field in self._FIELD_OF.items():
            if key not in entry:
                continue
            used = (_REPLACED.get(pattern, pattern) for pattern in entry[key])
            try:
                patterns.append((field, compile_pattern("|".join(f"(?:{pattern})" for pattern in used))))
            except ValueError as error:
                raise KubehabitError(f"sensitivity rule {dict(entry)}: {key}: {error}.") from error
        level = LEVELS.index(entry[given[0]])
        return SensitivityRule(level, given[0] == "at_most", tuple(patterns), str(entry.get("why", "")))

    @staticmethod
    def _rule_of_own_work(entry: Mapping[str, Any]) -> SensitivityRule:
        most = entry.get("at_most")
        if set(entry) - {"own_work", "at_most", "why"} or most not in (_HARMLESS_NAME, *LEVELS):
            raise KubehabitError(
                f"sensitivity rule {dict(entry)}: own_work holds for removals, and reads of logs, of what the same principal "
                f"created within the last day; with it go only why and at_most, which is {_HARMLESS_NAME} or one of {LEVELS}."
            )
        level = HARMLESS if most == _HARMLESS_NAME else LEVELS.index(most)
        return SensitivityRule(level, True, (), str(entry.get("why", "")))

    def look_up(self, values: tuple[str, ...]) -> tuple[int, str]:
        """Level and reason of an action given its FIELDS values."""
        mask = self._every
        for place, testing, masks in self._masks:
            if mask & testing:
                mask &= masks[values[place]]
        return self._answers[mask]

    def cap_own_work(self, levels: npt.NDArray[np.int8], rows: Sequence[int]) -> None:
        """Lower, in place, the levels of actions on what their principal has just created (`ActionBatch.own_work`).

        Args:
            levels: int8 [N].
            rows: places of these actions.
        """
        if rows and self.own_work is not None:
            at = np.asarray(rows, np.int64)
            levels[at] = np.minimum(levels[at], self.own_work.level)

    def levels(self, batch: ActionBatch, encoder: ActionEncoder) -> npt.NDArray[np.int8]:
        """Level of every action, int8 [N], or HARMLESS; each distinct combination of values is looked up once."""
        if not len(batch):
            return np.empty(0, np.int8)
        found = self._levels(batch, encoder)
        self.cap_own_work(found, batch.own_work)
        return found

    def _levels(self, batch: ActionBatch, encoder: ActionEncoder) -> npt.NDArray[np.int8]:
        if encoder.generation != self._generation:  # keep no strings alive that the encoder forgot
            self._generation = encoder.generation
            for _, _, masks in self._masks:
                masks.clear()
        if len(batch) == 1:
            row = tuple(encoder.interners[name].values[batch.codes[name][0]] for name in self.FIELDS)
            return np.array([self.look_up(row)[0]], np.int8)
        # One sortable number per combination: sorting rows of a matrix costs twenty times as much.
        combined = np.zeros(len(batch), np.int64)
        for name in self.FIELDS:
            combined = combined * len(encoder.interners[name].values) + batch.codes[name]
            if combined.max() > _DENSE_LIMIT:
                combined = np.unique(combined, return_inverse=True)[1]
        _, first, inverse = np.unique(combined, return_index=True, return_inverse=True)
        columns = [
            [encoder.interners[name].values[code] for code in batch.codes[name][first].tolist()]
            for name in self.FIELDS
        ]
        found = [self.look_up(row)[0] for row in zip(*columns, strict=True)]
        return np.array(found, np.int8)[inverse.ravel()]
