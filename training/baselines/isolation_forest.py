"""Isolation forest (Liu et al. 2008) on window counts: what a principal's last actions were, against what they usually are."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from sklearn.ensemble import IsolationForest as Forest

from data.actions.fields import FIELDS
from data.arrays import Floats, Ints
from training.baselines.base import Baseline, Recent
from training.stretch import Stretch

_COUNTED = tuple(FIELDS.index(name) for name in ("verb", "resource", "namespace", "code", "client", "place"))


class IsolationForest(Baseline):
    """Score: isolation score of how far the counts of each token in the window differ from the principal's own mean.

    A new principal is compared with the mean of its peer group, a new group with the mean of all.
    """

    title: ClassVar[str] = "isolation forest"

    def __init__(
        self, window: int = 16, trees: int = 100, tokens: int = 40, samples: int = 4096, seed: int = 7
    ) -> None:
        """Set up; the `tokens` commonest of a field are counted one by one, the rest together; a tree grows on `samples`."""
        super().__init__()
        self._recent = Recent(window)
        self._tokens = tokens
        self._columns: list[Ints] = []
        self._means: dict[tuple[str, int], Floats] = {}
        self._all: Floats = np.empty(0)
        self._forest = Forest(n_estimators=trees, max_samples=samples, random_state=seed)

    def fit(self, train: Stretch) -> Self:
        """Learn the mean window of each principal, of each group and of all, and grow the forest on the differences from it."""
        for field in _COUNTED:
            seen = np.bincount(train.tokens[:, field])
            table = np.full(len(seen) + 1, self._tokens, np.int64)
            common = np.argsort(-seen, kind="stable")[: self._tokens]
            table[common] = np.arange(len(common))
            self._columns.append(table)
        counts = self._count(train)
        self._all = counts.mean(axis=0)
        for label, ids in (("principal", train.principal), ("group", train.group)):
            for key in np.unique(ids).tolist():
                if key:
                    self._means[label, key] = counts[ids == key].mean(axis=0)
        self._forest.set_params(max_samples=min(self._forest.max_samples, len(counts)))
        self._forest.fit(self._differences(train, counts))
        return self

    def score(self, stretch: Stretch) -> tuple[Floats, None]:
        """Score the window that ends with each action."""
        if not len(stretch):
            return np.empty(0), None
        isolation: Floats = -self._forest.score_samples(self._differences(stretch, self._count(stretch)))
        return isolation, None

    def _count(self, stretch: Stretch) -> Floats:
        """Share of each token in each window, float64 [N, fields * (tokens + 1)]."""
        width = self._tokens + 1
        places = np.stack(
            [
                index * width + table[np.minimum(stretch.tokens[:, field], len(table) - 1)]
                for index, (field, table) in enumerate(zip(_COUNTED, self._columns, strict=True))
            ],
            axis=1,
        )
        # Rows before the first action are 0 in a window; places are shifted by one so that they stay apart.
        windows, lengths = self._recent.append(stretch.name, places + 1)
        counts = np.zeros((len(stretch), len(_COUNTED) * width + 1))
        rows = np.arange(len(stretch))
        for step in range(windows.shape[1]):
            for column in range(windows.shape[2]):
                counts[rows, windows[:, step, column]] += 1
        return counts[:, 1:] / lengths[:, None]

    def _differences(self, stretch: Stretch, counts: Floats) -> Floats:
        means = [
            self._means.get(("principal", who), self._means.get(("group", peers), self._all))
            for who, peers in zip(stretch.principal.tolist(), stretch.group.tolist(), strict=True)
        ]
        return counts - np.array(means)
