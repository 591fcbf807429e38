"""Tails of normal work: the evidence that is reached as rarely as a budget allows, also where a log is too short to show it.

Peaks over a start follow a generalised Pareto distribution (Pickands 1975), whose shape and scale are estimated from
probability-weighted moments (Hosking and Wallis 1987), which stay usable for a dozen values. A short log has fewer; what other
clusters' machinery showed then stands in for what is missing, as pseudo-observations that are outweighed as the log grows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.arrays import Floats

#: Peaks that the default shape weighs as much as.
_SHAPE_SHRINKAGE = 30.0
#: Bounds of the shape: 0 is an exponential tail; above 0.3 a few peaks would put any threshold out of reach.
_MOST_SHAPE = 0.3


@dataclass(frozen=True, slots=True)
class PeakTail:
    """How often normal work reaches an evidence: rate * (1 + shape * (x - start) / scale) ** (-1 / shape), for x > start.

    Attributes:
        start: evidence at which the tail begins, decades.
        rate: peaks above `start` for each action.
        scale, shape: of the generalised Pareto distribution of the excess.
        count: peaks that were seen, 0 if it is a default alone.
    """

    start: float
    rate: float
    scale: float
    shape: float
    count: int = 0

    def level(self, rate: float) -> float:
        """Evidence that `rate` peaks for each action go beyond; `start` where even that is rarer."""
        times = self.rate / rate
        if times <= 1:
            return self.start
        grown = np.log(times) if self.shape < 1e-6 else (times**self.shape - 1) / self.shape
        return self.start + self.scale * float(grown)


def fit_tail(peaks: Floats, actions: int, default: PeakTail | None = None, weight: float = 0.0) -> PeakTail:
    """Tail of the peaks that `actions` normal actions raised.

    Args:
        peaks: float64 [n], highest evidence of each stretch of a principal, decades; those at or below the start do not count.
        default: tail of other clusters; its start is used.
        weight: actions that the default weighs as much as.
    """
    start = default.start if default else float(peaks.min(initial=0.0))
    excess = np.sort(peaks[peaks > start] - start)
    count = len(excess)
    expected = default.rate * weight if default else 0.0  # peaks that the default stands for
    mean = default.scale / (1 - default.shape) if default else 1.0
    total = count + expected
    if total == 0:
        return PeakTail(start, 0.5 / max(actions, 1), mean, 0.0)
    scale_and_shape = (excess.sum() + expected * mean) / total
    shape = (count * _shape(excess) + _SHAPE_SHRINKAGE * (default.shape if default else 0.0)) / (
        count + _SHAPE_SHRINKAGE
    )
    # Few peaks may all have been small by chance: the mean is taken at its upper bound.
    bounded = scale_and_shape * doubt(total)
    return PeakTail(start, max(total, 0.5) / (actions + weight), bounded * (1 - shape), shape, count)


def doubt(count: float) -> float:
    """Upper 75 % bound of the mean of an exponential, as a multiple of the mean of `count` values.

    That is 2n over the 25 % quantile of chi-square with 2n degrees of freedom, by Wilson and Hilferty's approximation (1931).
    """
    spare = 1.0 / (9.0 * max(count, 1.0))
    return float((1.0 - spare - 0.6745 * spare**0.5) ** -3)


def _shape(excess: Floats) -> float:
    """Shape of a generalised Pareto distribution by probability-weighted moments, bounded; 0 of fewer than three values."""
    count = len(excess)
    if count < 3:
        return 0.0
    first = float(excess.mean())
    second = float((excess * (count - 1 - np.arange(count)) / (count - 1)).mean())
    if first <= 2 * second:
        return _MOST_SHAPE
    return float(np.clip(2.0 - first / (first - 2.0 * second), 0.0, _MOST_SHAPE))
