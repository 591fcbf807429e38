"""Interface of the baselines: their predictions, and the inference of their thresholds.

The contract is `fit -> infer_threshold -> predict`, and all three are shown actions in the order of the log. A detector is a
stream: what it has been shown counts as history for what comes next, as it does for the product, so each stretch is shown once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from data.actions.fields import FIELDS
from data.arrays import Flags, Floats, Ints, Names
from training.stretch import Stretch
from training.thresholds import threshold_for

FIELD_COUNT = len(FIELDS)
#: Share of the largest scores that tells how fast a detector's tail falls.
_TAIL = 0.05
#: Severity of a flagged action by the sensitivity of what it touches.
_BY_SENSITIVITY = ("low", "low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A detector's answer for each action of a stretch.

    Attributes:
        score: float64 [N], higher is more suspicious.
        severity: [N], one of detection.detector.SEVERITIES; "none" where not flagged.
        fields: float64 [N, FIELDS], what each field contributed; None where a detector cannot say.
    """

    score: Floats
    flagged: Flags
    severity: list[str]
    fields: Floats | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """False incidents wanted: per 10,000 actions of people and pipelines, per 1,000,000 of the cluster's own machinery."""

    person: float = 3.0
    system: float = 4.0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Scores from which actions are flagged: of people and pipelines, and of the cluster's own machinery."""

    person: float
    system: float

    def exceeded(self, score: Floats, person: Flags) -> Flags:
        """Which scores are flagged, bool [N]."""
        flagged: Flags = score >= np.where(person, self.person, self.system)
        return flagged


class Baseline(ABC):
    """A detector that learns from a dataset alone and knows nothing of labels; `title` is its name in tables."""

    title: ClassVar[str]

    def __init__(self) -> None:
        self.thresholds: Thresholds | None = None

    def fit(self, train: Stretch) -> Self:
        """Learn from normal actions; what only counts does so by scoring them."""
        self.score(train)
        return self

    @abstractmethod
    def score(self, stretch: Stretch) -> tuple[Floats, Floats | None]:
        """Score the next actions: float64 [N], and by field float64 [N, FIELDS] where the detector can say."""

    def infer_threshold(self, held_back: Stretch, budget: Budget) -> Self:
        """Set thresholds to a budget of false incidents on normal actions that were not fitted on."""
        score, _ = self.score(held_back)
        self.thresholds = thresholds_for(score, held_back, budget)
        return self

    def predict(self, stretch: Stretch) -> Prediction:
        """Score and judge the next actions."""
        if self.thresholds is None:
            raise RuntimeError(
                f"{type(self).__name__}.predict needs a threshold: call infer_threshold first."
            )
        score, fields = self.score(stretch)
        flagged = self.thresholds.exceeded(score, stretch.person)
        return Prediction(score, flagged, severities(flagged, stretch), fields)


def severities(flagged: Flags, stretch: Stretch) -> list[str]:
    """Severity of each action by what it touches alone; "none" where it is not flagged."""
    return [
        _BY_SENSITIVITY[max(level, 0)] if hit else "none"
        for hit, level in zip(flagged.tolist(), stretch.sensitivity.tolist(), strict=True)
    ]


def thresholds_for(score: Floats, held_back: Stretch, budget: Budget) -> Thresholds:
    """Thresholds at which held-back normal actions raise no more incidents than the budget allows.

    The rule is the champion's (`training.calibrate.threshold_for`). So that it holds on any scale, it is given what a score
    exceeds its 95 % quantile by, in units of the mean excess.
    """
    person = held_back.person
    limits = []
    for chosen, rate in ((person, budget.person / 1e4), (~person, budget.system / 1e6)):
        values = score[chosen]
        start, unit = 0.0, 1.0
        if len(values):
            start = float(np.quantile(values, 1 - _TAIL))
            beyond = values[values > start] - start
            unit = float(beyond.mean()) if len(beyond) else 1.0
        names = held_back.name[chosen].tolist()
        excess = np.maximum(values - start, 0.0) / unit
        limit = threshold_for(excess, names, held_back.time[chosen], rate * int(chosen.sum()))
        limits.append(start + unit * limit)
    return Thresholds(*limits)


class Recent:
    """The last actions of each principal, kept between one stretch and the next."""

    def __init__(self, window: int) -> None:
        self.window = window
        self._history: dict[str, Ints] = {}

    def append(self, names: Names, tokens: Ints) -> tuple[Ints, Ints]:
        """The last `window` actions of each action's principal (object [N]), up to and including it, from tokens int64 [N, K].

        Returns int64 [N, W, K], padded with 0 in front, and lengths int64 [N].
        """
        out = np.zeros((len(tokens), self.window, tokens.shape[1]), np.int64)
        lengths = np.empty(len(tokens), np.int64)
        nothing = np.empty((0, tokens.shape[1]), np.int64)
        for name in set(names.tolist()):
            rows = np.flatnonzero(names == name)
            before = self._history.get(name, nothing)
            pad = np.zeros((self.window - 1 - len(before), tokens.shape[1]), np.int64)
            block = np.concatenate([pad, before, tokens[rows]])
            view = np.lib.stride_tricks.sliding_window_view(block, self.window, axis=0)  # [rows, K, W]
            out[rows] = view.transpose(0, 2, 1)
            lengths[rows] = np.minimum(len(before) + 1 + np.arange(len(rows)), self.window)
            self._history[name] = np.concatenate([before, tokens[rows]])[-(self.window - 1) :]
        return out, lengths
