"""Bootstrap intervals: how far a figure would move on another recording of the same cluster.

Attack runs are resampled whole, since actions of one run are not independent; false incidents are resampled in blocks of time,
since they come in bursts (Efron and Tibshirani 1993; Künsch 1989, block bootstrap). Seeded: same figures, same interval.
"""

from __future__ import annotations

import numpy as np

from data.arrays import Flags, Floats, Ints, Names

DRAWS = 2000
COVERAGE = 0.95
#: Microseconds of a block of time; a recording of minutes has few blocks, so its intervals are wide, as they should be.
BLOCK = 120_000_000

SEED = 7


def _interval(draws: Floats) -> list[float]:
    tail = (1 - COVERAGE) / 2
    return [float(value) for value in np.quantile(draws, [tail, 1 - tail])]


def share_interval(caught: Flags, seed: int = SEED) -> list[float] | None:
    """Interval of a share of runs; None without runs."""
    return difference_interval(caught, np.zeros_like(caught), seed)


def difference_interval(
    mine: Flags, other: Flags, seed: int = SEED, draws: int = DRAWS
) -> list[float] | None:
    """Interval of the difference of two shares of the same runs, which are drawn together; None without runs."""
    if not len(mine):
        return None
    drawn = np.random.default_rng(seed).integers(0, len(mine), (draws, len(mine)))
    return _interval((mine.astype(float) - other)[drawn].mean(axis=1))


def clustered_interval(caught: Flags, cluster: Names, seed: int = SEED) -> list[float] | None:
    """Interval of a share of runs that come in clusters, such as the copies of one scenario, which are drawn whole."""
    if not len(caught):
        return None
    _, of = np.unique(cluster.astype(str), return_inverse=True)
    size = np.bincount(of)
    hits = np.bincount(of, weights=caught)
    drawn = np.random.default_rng(seed).integers(0, len(size), (DRAWS, len(size)))
    return _interval(hits[drawn].sum(axis=1) / size[drawn].sum(axis=1))


def rate_interval(starts: Ints, normal: Ints, per: float, seed: int = SEED) -> list[float] | None:
    """Interval of a rate of incidents for `per` actions, from the times (microseconds) of incidents and of normal actions."""
    if not len(normal):
        return None
    first = min(int(normal.min()), int(starts.min()) if len(starts) else int(normal.min()))
    last = max(int(normal.max()), int(starts.max()) if len(starts) else 0)
    blocks = (last - first) // BLOCK + 1
    incidents = np.bincount((starts - first) // BLOCK, minlength=blocks)
    actions = np.bincount((normal - first) // BLOCK, minlength=blocks)
    drawn = np.random.default_rng(seed).integers(0, blocks, (DRAWS, blocks))
    return _interval(incidents[drawn].sum(axis=1) * per / np.maximum(actions[drawn].sum(axis=1), 1))
