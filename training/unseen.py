"""Values taken for unseen in training, so that the model learns what a value outside its vocabulary says by its back-offs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.actions.fields import FIELDS
from data.actions.vocabulary import BACK_OFF_STEPS
from data.arrays import Floats, Ints, runs
from data.dataset.table import ActionTable

#: Parts of the log's time; a value in several of them, or with several principals, was met on so many occasions.
_PARTS = 16


@dataclass(frozen=True, slots=True)
class UnseenValues:
    """How often each token is taken for unseen, and what stands in its place.

    A value is replaced in a whole window, as it would be if it had come up after training. The chance is that of a value not yet
    met where it occurs (Witten & Bell 1991): the fewer occasions it was met on, the higher.

    Attributes:
        chance: float32 [V], tokens of all fields side by side.
        broader: int64 [V], token of the same field that an unseen value falls back on.
        offsets: int64 [F], first token of each field.
    """

    chance: npt.NDArray[np.float32]
    broader: Ints
    offsets: Ints

    @classmethod
    def fit(cls, table: ActionTable, share: float) -> UnseenValues:
        """Count occasions in the fitting part of a dataset; `share` is the number of occasions a value is unseen on."""
        rows = table.windows["train"][:, 0]
        time = table.time[rows]
        part = (time - time.min()) * _PARTS // (np.ptp(time) + 1)
        starts, sizes = runs(table.name)  # of rows of one principal, which lie together
        occasion = np.repeat(np.arange(len(starts)), sizes)[rows] * _PARTS + part
        chances, broader = [], []
        for column, field in enumerate(FIELDS):
            wider = table.vocabulary.broader(field)
            met_on = np.unique(occasion * len(wider) + table.tokens[rows, column]) % len(wider)
            met = _with_narrower(np.bincount(met_on, minlength=len(wider)), wider)
            movable = (wider != np.arange(len(wider))) & (met > 0)
            chances.append(np.where(movable, share / (share + np.maximum(met, 1)), 0.0))
            broader.append(wider)
        tokens = np.array(table.vocabulary.sizes)
        offsets = np.cumsum(tokens) - tokens
        return cls(np.concatenate(chances).astype(np.float32), np.concatenate(broader), offsets)

    def hide(self, tokens: Ints, rng: np.random.Generator) -> Ints:
        """Windows with some values taken for unseen, int64 [B, W, F] of the same."""
        drawn = rng.random((len(tokens), len(self.chance)), np.float32) < self.chance
        windows = np.arange(len(tokens))[:, None, None]
        for _ in range(BACK_OFF_STEPS):
            at = tokens + self.offsets
            tokens = np.where(drawn[windows, at], self.broader[at], tokens)
        return tokens


def _with_narrower(met: Ints, broader: Ints) -> Floats:
    """Occasions of each token and of those that fall back on it, float64 [tokens]."""
    total = met.astype(np.float64)
    at = np.arange(len(met))
    for _ in range(BACK_OFF_STEPS):
        wider = broader[at]
        np.add.at(total, wider, np.where(wider != at, met, 0))
        at = wider
    return total
