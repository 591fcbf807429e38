"""Small pieces of array code that several rooms need."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]
Names = npt.NDArray[np.object_]


def runs(ordered: npt.NDArray[Any]) -> tuple[Ints, Ints]:
    """Start and length of each run of equal values, int64 [R] each.

    Args:
        ordered: [N], one at least.
    """
    differs = np.empty(len(ordered), np.bool_)
    differs[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=differs[1:])
    begins = differs.nonzero()[0]
    sizes = np.empty_like(begins)
    np.subtract(begins[1:], begins[:-1], out=sizes[:-1])
    sizes[-1] = len(ordered) - begins[-1]
    return begins, sizes
