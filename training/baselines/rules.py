"""Public rules: what well-known rule sets look for, re-expressed in our own words in `configs/rules.yaml`. No history at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from data.arrays import Floats
from data.errors import KubehabitError
from data.paths import shipped
from training.baselines.base import Baseline, Prediction, Thresholds
from training.stretch import Stretch

LEVELS = ("low", "medium", "high", "critical")
_FIELDS = (
    *("verb", "resource", "namespace", "name", "code", "client"),
    *("traits", "images", "uri", "impersonates", "kind", "principal"),
)
_SEARCHED = ("traits", "uri")
#: Key of a rule -> field. Three keys have the name of their field, the others its plural.
_PATTERNS = {
    field if field in ("traits", "images", "impersonates") else f"{field}s": field for field in _FIELDS
}
#: What each further rule that fires adds to the highest level: enough to rank, never a level.
_ONE_MORE = 0.01


class PublicRules(Baseline):
    """Score: highest level of the rules that fire (1 to 4) and a hundredth for each further one; severity is its level.

    Until a threshold is inferred, actions are flagged from the level on that the table names.
    """

    title: ClassVar[str] = "public rules"

    def __init__(self, table: Mapping[str, Any] | None = None) -> None:
        """Read a table shaped as `configs/rules.yaml`, the default; KubehabitError for any other shape."""
        super().__init__()
        table = shipped("rules.yaml") if table is None else table
        self.rules = [_rule(entry) for entry in table["rules"]]
        natural = LEVELS.index(table["flag_from"]) + 1.0
        self.thresholds = Thresholds(natural, natural)
        self._known: dict[tuple[str, ...], tuple[float, tuple[str, ...]]] = {}

    def fit(self, train: Stretch) -> Self:  # noqa: ARG002 - rules know no history
        """Nothing: rules do not learn."""
        return self

    def fired(self, values: Sequence[str]) -> tuple[str, ...]:
        """Names of the rules that fire on an action, given its values in the order of the pattern fields."""
        return self._look_up(tuple(values))[1]

    def score(self, stretch: Stretch) -> tuple[Floats, None]:
        """Match every action; each distinct combination of values is matched once."""
        columns = [
            stretch.kind.tolist()
            if field == "kind"
            else stretch.name.tolist()
            if field == "principal"
            else [stretch.values[field][0][code] for code in stretch.values[field][1].tolist()]
            for field in _FIELDS
        ]
        return np.array([self._look_up(row)[0] for row in zip(*columns, strict=True)], np.float64), None

    def predict(self, stretch: Stretch) -> Prediction:
        """As every baseline's, with the rules' own levels as severity."""
        answer = super().predict(stretch)
        severity = [
            LEVELS[min(int(score), len(LEVELS)) - 1] if hit else "none"
            for score, hit in zip(answer.score.tolist(), answer.flagged.tolist(), strict=True)
        ]
        return Prediction(answer.score, answer.flagged, severity)

    def _look_up(self, values: tuple[str, ...]) -> tuple[float, tuple[str, ...]]:
        found = self._known.get(values)
        if found is None:
            named = dict(zip(_FIELDS, values, strict=True))
            hits = [
                (level, name)
                for name, level, patterns in self.rules
                if all(
                    (pattern.search if field in _SEARCHED else pattern.fullmatch)(named[field])
                    for field, pattern in patterns
                )
            ]
            score = max((level for level, _ in hits), default=0) + _ONE_MORE * max(len(hits) - 1, 0)
            found = self._known[values] = (score, tuple(name for _, name in hits))
        return found


def _rule(entry: Mapping[str, Any]) -> tuple[str, int, list[tuple[str, re.Pattern[str]]]]:
    unknown = set(entry) - set(_PATTERNS) - {"name", "level"}
    if unknown or not entry.get("name") or entry.get("level") not in LEVELS:
        raise KubehabitError(
            f"rule {dict(entry)}: needs a name, a level of {LEVELS}, and besides only {sorted(_PATTERNS)}."
        )
    try:
        patterns = [
            (field, re.compile("|".join(f"(?:{pattern})" for pattern in entry[key])))
            for key, field in _PATTERNS.items()
            if key in entry
        ]
    except re.error as error:
        raise KubehabitError(f"rule {entry['name']}: no regular expression: {error}") from error
    return str(entry["name"]), LEVELS.index(entry["level"]) + 1, patterns
