"""Parity check of a bundle: a few windows with the reconstruction errors that torch computed, to compare on this machine.

A checksum shows that the graph is the exported one, not that the onnxruntime here computes the same from it: instruction sets
and versions differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.errors import BundleError
from detection.reconstruction import Reconstruction
from detection.windows import Cut

#: Largest difference in nats that is still the same model. Export allows 1e-4 on its own machine; instruction sets that sum in
#: another order add to that. Evidence is counted in decades, of which this is less than a thousandth.
TOLERANCE = 1e-3

PARITY_FILE = "self_test.npz"
_COLUMNS = {
    "tokens": (np.int16, 3),
    "lengths": (np.int64, 1),
    "principal": (np.int64, 1),
    "group": (np.int64, 1),
    "nll": (np.float32, 2),
}


@dataclass(frozen=True, slots=True)
class ParityCheck:
    """Windows, with the errors that torch computed for the newest action of each.

    Attributes:
        tokens: int16 [B, W, F], padded with 0 at the end.
        lengths: int64 [B].
        principal, group: int64 [B], ids of the model.
        nll: float32 [B, F], reconstruction NLL, nats.
    """

    tokens: npt.NDArray[np.int16]
    lengths: npt.NDArray[np.int64]
    principal: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    nll: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.lengths)

    def difference(self, reconstruction: Reconstruction) -> float:
        """Largest absolute difference of any graph from `nll`, nats; infinite if one gives no finite number."""
        cut = self._cut()
        worst = 0.0
        for newest in {None, reconstruction.newest}:
            nll = Reconstruction(reconstruction.model, newest).nll(cut, self.principal, self.group)
            # np.maximum, unlike max, passes a NaN on.
            worst = float(np.maximum(worst, np.abs(nll - self.nll).max()))
        return worst if np.isfinite(worst) else float("inf")

    def _cut(self) -> Cut:
        lengths, window = self.lengths.astype(np.int64), self.tokens.shape[1]
        block = self.tokens[np.arange(window) < lengths[:, None]]
        whose = np.repeat(np.arange(len(self)), lengths)
        return Cut(block, np.cumsum(lengths) - lengths, lengths, whose, window)

    def save(self, path: Path) -> None:
        """Write as an `.npz` without object arrays."""
        np.savez_compressed(path, **{name: getattr(self, name) for name in _COLUMNS})

    @classmethod
    def load(cls, path: Path) -> ParityCheck:
        """Inverse of `save`.

        Raises:
            ValueError: columns of the wrong type or of different lengths, or no rows.
        """
        with np.load(path, allow_pickle=False) as saved:
            columns = {name: saved[name] for name in _COLUMNS}
        rows = len(columns["lengths"])
        for name, (kind, dimensions) in _COLUMNS.items():
            column = columns[name]
            if column.dtype != kind or column.ndim != dimensions or len(column) != rows:
                raise ValueError(f"column {name} of the self-test is {column.dtype} {column.shape}")
        if not rows:
            raise ValueError("the self-test is empty")
        return cls(**columns)


def verify_parity(test: ParityCheck, reconstruction: Reconstruction, what: str) -> float:
    """Compare a model's graphs with the errors in its bundle; returns the largest difference, nats.

    Args:
        what: names the model in errors.

    Raises:
        BundleError: the difference is above TOLERANCE, or a graph cannot be run.
    """
    try:
        worst = test.difference(reconstruction)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        reason = (str(error).splitlines() or [""])[0][:200]
        raise BundleError(
            f"{what} cannot be run by the onnxruntime of this machine ({type(error).__name__}: {reason}). "
            "Compare the versions of onnx and onnxruntime with requirements/lock.txt, or train a new one: kubehabit train"
        ) from error
    if not worst <= TOLERANCE:
        raise BundleError(
            f"{what} fails its self-test: on this machine it differs by {worst:.2g} nats from what training computed "
            f"(allowed {TOLERANCE:.0e}). Compare the version of onnxruntime with requirements/lock.txt; if it is the same, "
            "train and register a new one: kubehabit train"
        )
    return worst
