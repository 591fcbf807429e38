"""From surprise to evidence: the arithmetic that turns reconstruction errors into calibrated p-values and verdicts.

Fitting is done offline (`training.calibrate`); this module only applies what was fitted, for training and serving alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data.principals import PEOPLE_AND_PIPELINES

TAIL_SHARE = 0.05
"""Share of the largest values that a tail is fitted to (peaks over threshold)."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tail:
    """Exponential tail of a statistic: P(X > x) = TAIL_SHARE * exp(-(x - start) / scale) for x > start.

    Attributes:
        start: quantile at which the tail begins.
        scale: mean excess over `start`.
        count: values it was fitted on.
    """

    start: float
    scale: float
    count: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything between the model's NLL and a verdict.

    Attributes:
        weights: weight of each attribute's novelty level, in the order of ATTRIBUTES.
        field_weights: weight of each field's NLL, in the order of FIELDS.
        tails: principal name, peer group (`group:...`, `namespace:...`) or `kind:...` -> tail of the statistic.
        shrinkage: values a principal must have for its own tail to weigh as much as that of its kind.
        sensitivity_weights: how far evidence counts at each sensitivity level; thresholds are divided by it.
        person_threshold: evidence (-log10 p) at which people and pipelines are flagged.
        system_threshold: the same for the machinery of the cluster.
        budget: what the thresholds were set for, as words for a person.
    """

    weights: tuple[float, ...]
    field_weights: tuple[float, ...]
    tails: Mapping[str, Tail]
    shrinkage: float
    sensitivity_weights: tuple[float, ...]
    person_threshold: float
    system_threshold: float
    budget: Mapping[str, Any]

    def tail(self, principal: str, kind: str) -> Tail:
        """Tail of a principal, shrunk to that of its kind (a newcomer has its kind's)."""
        broad = self.tails.get(f"kind:{kind}") or self.tails["kind:any"]
        own = self.tails.get(principal)
        if own is None:
            return broad
        share = own.count / (own.count + self.shrinkage)
        return Tail(
            share * own.start + (1 - share) * broad.start,
            share * own.scale + (1 - share) * broad.scale,
            own.count,
        )

    def thresholds(self, kinds: Sequence[str], sensitivity: npt.NDArray[np.int8]) -> Floats:
        """Evidence at which each action is flagged, float64 [N]: the less harm it could do, the more evidence it takes."""
        base = [
            self.person_threshold if kind in PEOPLE_AND_PIPELINES else self.system_threshold for kind in kinds
        ]
        weight: Floats = np.asarray(self.sensitivity_weights)[sensitivity]
        limits: Floats = np.asarray(base, np.float64) / weight
        return limits

    def novelty(self, levels: Sequence[Sequence[int]]) -> Floats:
        """Weighted novelty of each action, float64 [N], from its attribute levels [N, attributes]."""
        if not len(levels):
            return np.empty(0)
        novelty: Floats = np.asarray(levels, np.float64) @ np.asarray(self.weights)
        return novelty

    def statistic(self, nll: npt.NDArray[np.float32], novelty: Floats) -> Floats:
        """What is calibrated: weighted reconstruction error, raised by what is new. float64 [N]."""
        error: Floats = nll.astype(np.float64) @ np.asarray(self.field_weights)
        return error * (1.0 + novelty)

    def evidence(self, statistic: Floats, principals: Sequence[str], kinds: Sequence[str]) -> Floats:
        """-log10 of the p-value of each statistic under its principal's tail, float64 [N].

        Below the tail's start the p-value is not resolved: evidence runs linearly from 0 to -log10(TAIL_SHARE).
        """
        known: dict[tuple[str, str], int] = {}
        tails: list[Tail] = []
        which = np.empty(len(statistic), np.int64)
        for i, key in enumerate(zip(principals, kinds, strict=True)):
            index = known.get(key)
            if index is None:
                index = known[key] = len(tails)
                tails.append(self.tail(*key))
            which[i] = index
        start = np.array([tail.start for tail in tails])[which] if tails else np.empty(0)
        scale = np.array([tail.scale for tail in tails])[which] if tails else np.empty(0)
        at_start = -np.log10(TAIL_SHARE)
        below = at_start * np.clip(statistic / np.maximum(start, 1e-9), 0.0, 1.0)
        beyond = at_start + (statistic - start) / (scale * np.log(10.0))
        evidence: Floats = np.where(statistic > start, beyond, below)
        return evidence

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        saved = {key: value for key, value in asdict(self).items() if key != "tails"}
        saved["tails"] = {
            name: [tail.start, tail.scale, tail.count] for name, tail in sorted(self.tails.items())
        }
        return saved

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Calibration:
        """Inverse of `to_dict`."""
        return cls(
            weights=tuple(saved["weights"]),
            field_weights=tuple(saved["field_weights"]),
            tails={name: Tail(float(a), float(b), int(c)) for name, (a, b, c) in saved["tails"].items()},
            shrinkage=float(saved["shrinkage"]),
            sensitivity_weights=tuple(saved["sensitivity_weights"]),
            person_threshold=float(saved["person_threshold"]),
            system_threshold=float(saved["system_threshold"]),
            budget=dict(saved["budget"]),
        )
