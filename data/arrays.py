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
    """Start and length of each run of equal values in `ordered` [N], N >= 1; int64 [R] each."""
    differs = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=differs[1:])
    starts = differs.nonzero()[0]
    sizes = np.empty_like(starts)  # three times as quick as np.diff where there are few
    np.subtract(starts[1:], starts[:-1], out=sizes[:-1])
    sizes[-1] = len(ordered) - starts[-1]
    return starts, sizes
