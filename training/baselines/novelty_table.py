"""Novelty table: the first time a principal does a verb on a resource in a namespace.

Every first time counts the more the seldomer that principal does anything for the first time, so that there is something to set a
threshold on: the table alone says yes or no.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from data.actions.attributes import ATTRIBUTES
from data.arrays import Floats
from training.baselines.base import Baseline
from training.stretch import Stretch

_TUPLE = list(ATTRIBUTES).index("verb_resource_namespace")


class NoveltyTable(Baseline):
    """Score: 0 for what the principal did before; else 1 - log10 of the chance that its next action is a first (Good-Turing)."""

    title: ClassVar[str] = "novelty table"

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[int, int]] = set()
        self._firsts: dict[int, int] = {}
        self._actions: dict[int, int] = {}

    def fit(self, train: Stretch) -> Self:
        """Fill the table."""
        self.score(train)
        return self

    def score(self, stretch: Stretch) -> tuple[Floats, None]:
        """Score, and enter what was new."""
        out = np.zeros(len(stretch))
        pairs = zip(stretch.name_hash.tolist(), stretch.attributes[:, _TUPLE].tolist(), strict=True)
        for row, pair in enumerate(pairs):
            who = pair[0]
            if pair not in self._seen:
                chance = (self._firsts.get(who, 0) + 1) / (self._actions.get(who, 0) + 2)
                out[row] = 1.0 - np.log10(chance)
                self._seen.add(pair)
                self._firsts[who] = self._firsts.get(who, 0) + 1
            self._actions[who] = self._actions.get(who, 0) + 1
        return out, None
