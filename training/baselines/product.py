"""The product behind the detectors' interface, and its reconstruction error alone as an ablation."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from data.actions.fields import FIELDS
from data.arrays import Floats, Ints
from detection.bundle import Bundle
from detection.detector import Detector, Scores
from training.baselines.base import Baseline, Prediction, Recent
from training.stretch import Stretch

_BATCH = 512
#: Fields that are context only, as in the shipped calibration.
_UNSCORED = ("gap", "owner")


class ProductDetector:
    """The detector of a bundle: fitted and calibrated when the bundle was made, so only `predict` is left to do."""

    title: ClassVar[str] = "kubehabit"

    def __init__(self, bundle: Bundle) -> None:
        self.detector = Detector(bundle)
        self._latest: tuple[Stretch, Scores] | None = None

    def scores(self, stretch: Stretch) -> Scores:
        """The detector's own answer, computed once for the newest stretch; ValueError for a dataset, which keeps no events."""
        if self._latest is None or self._latest[0] is not stretch:
            if stretch.events is None:
                raise ValueError("The product scores events; a dataset does not keep them.")
            self._latest = stretch, self.detector.score(stretch.events)
        return self._latest[1]

    def predict(self, stretch: Stretch) -> Prediction:
        """Evidence over threshold, the verdict at 1, severity, and NLL by field."""
        scores = self.scores(stretch)
        return Prediction(
            scores.evidence / scores.threshold, scores.flagged, scores.severity, scores.nll.astype(np.float64)
        )


class ReconstructionError(Baseline):
    """Ablation: the summed NLL of the scored fields alone, without tails, novelty, sensitivity or accumulation."""

    title: ClassVar[str] = "autoencoder alone"

    def __init__(self, autoencoder: ProductDetector) -> None:
        super().__init__()
        self._autoencoder = autoencoder
        self._recent = Recent(autoencoder.detector.bundle.window)
        self._scored = np.array([field not in _UNSCORED for field in FIELDS])

    def fit(self, train: Stretch) -> Self:
        """Take the context of each principal; the model was trained when the bundle was made."""
        self._recent.append(train.name, train.tokens)
        return self

    def score(self, stretch: Stretch) -> tuple[Floats, Floats]:
        """Reconstruct each action in its window."""
        if stretch.events is not None:
            nll = self._autoencoder.scores(stretch).nll.astype(np.float64)
        else:
            windows, lengths = self._recent.append(stretch.name, stretch.tokens)
            nll = self._reconstruct(_padded_behind(windows, lengths), lengths, stretch)
        fields = nll * self._scored
        return fields.sum(axis=1), fields

    def _reconstruct(self, windows: Ints, lengths: Ints, stretch: Stretch) -> Floats:
        model, newest = self._autoencoder.detector.model, np.zeros(1, np.int64)
        parts = [
            model(windows[rows], lengths[rows], stretch.principal[rows], stretch.group[rows], newest)[0][:, 0]
            for rows in np.split(np.arange(len(stretch)), range(_BATCH, len(stretch), _BATCH))
        ]
        return np.concatenate(parts).astype(np.float64)


def _padded_behind(windows: Ints, lengths: Ints) -> Ints:
    """Windows padded in front, int64 [N, W, F], as the model wants them: padded behind."""
    width = windows.shape[1]
    steps = np.arange(width)
    index = np.minimum(width - lengths[:, None] + steps, width - 1)
    out = np.take_along_axis(windows, index[:, :, None], axis=1)
    out[steps >= lengths[:, None]] = 0
    return out
