"""Cross-fitting: every training session is scored by a member that has not learnt it, and those scores calibrate all members.

A hold-out of a fifth leaves few sessions to read a 99.5th percentile from. Here each member of an ensemble leaves out another
fold, so that all folds together calibrate (cross-conformal prediction, Vovk 2015, arXiv 1208.0806), and each member is trained
on as much as with a single hold-out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FOLDS = 5
#: Share of the largest scores that the tail is fitted to.
TAIL = 0.2

#: Share of normal sessions that a threshold may flag.
ALPHA = 0.005

_DISTINCT_EXCESSES = 3  # fewer are atoms of a discrete score, not a tail


def folds(count: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """A random split of `count` sessions into FOLDS folds of (nearly) the same size: indices of each."""
    return np.array_split(np.random.default_rng(seed).permutation(count), FOLDS)


class Calibration:
    """Turns a score into decades: -log10 of the chance that a normal session scores as high.

    Below the tail the chance is counted as in conformal prediction, (scores as high + 1) / (scores + 1). In the tail it is
    that of an exponential whose scale is known only from the m excesses e over the tail's start:
    P(X > start + x) = P(X > start) (1 + x / sum(e))^-m. This is exact for exponential excesses however few they are, since
    x / sum(e) does not depend on the scale (Geisser 1993, Predictive Inference), and becomes the plain exponential with many. A
    score of a few discrete values has no tail and is only counted.

    Args:
        scores: of normal sessions, none by a model that learnt it; at least one.
    """

    def __init__(self, scores: Floats) -> None:
        self._sorted = np.sort(scores)
        count = len(scores)
        self.start = float(self._sorted[min(count - 1, math.ceil((1 - TAIL) * count) - 1)])
        excesses = self._sorted[self._sorted > self.start] - self.start
        self._many = len(excesses)
        self._sum = float(excesses.sum())
        self._has_tail = len(np.unique(excesses)) >= _DISTINCT_EXCESSES

    def decades(self, scores: Floats) -> Floats:
        """Decades of each score, never negative and rising with the score."""
        count = len(self._sorted)
        as_high = count - np.searchsorted(self._sorted, scores, "left")
        chance = (as_high + 1) / (count + 1)
        if self._has_tail:
            excess = np.maximum(scores - self.start, 0.0)
            tail = np.log((self._many + 1) / (count + 1)) - self._many * np.log1p(excess / self._sum)
            return np.asarray(np.where(scores > self.start, -tail / math.log(10), -np.log10(chance)))
        return np.asarray(-np.log10(chance))


Members = Sequence[Floats]  # a score of the same or of other sessions by each member


def calibrated(fresh: Members, *asked: Members) -> list[list[Floats]]:
    """Decades of the out-of-fold scores and of every asked list, member by member, on one scale pooled over the members."""
    scale = Calibration(np.concatenate(fresh))
    return [[scale.decades(one) for one in members] for members in (fresh, *asked)]


def merged(decades: Members) -> Floats:
    """One verdict of all members: their decades averaged, which is the geometric mean of their p-values.

    Whatever the members have in common, a normal session reaches -log10(a) with a chance of at most e * a if each member's
    p-values are valid (Vovk and Wang 2020, arXiv 1212.4966); members that differ make it rarer than a.
    """
    return np.asarray(np.mean(decades, axis=0))


def flagged(decades: Floats, alpha: float = ALPHA) -> npt.NDArray[np.bool_]:
    """Which are above the threshold that normal sessions exceed with a chance of `alpha`."""
    return np.asarray(decades > -math.log10(alpha))


def joined(how: str, parts: Sequence[Floats]) -> Floats:
    """Several readings of the same sessions as one score: "sum" of decades (Fisher), strangest ("either") or least ("every")."""
    stacked = np.stack(parts)
    joins: Mapping[str, Floats] = {"sum": stacked.sum(0), "either": stacked.max(0), "every": stacked.min(0)}
    return joins[how]
