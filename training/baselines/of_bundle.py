"""The two novelty baselines without their dataset: from the counts that a model bundle carries anyway."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from data.actions.attributes import ATTRIBUTES
from data.arrays import Floats
from detection.bundle import Bundle
from detection.novelty import Habits, novelty_levels
from training.baselines.base import Baseline, Thresholds
from training.stretch import Stretch

_TUPLE = list(ATTRIBUTES).index("verb_resource_namespace")


class _BundleNovelty(Baseline):
    """Novelty levels from the bundle's habits; the bundle was fitted already, and nothing is held back here."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self._habits: Habits = bundle.habits.copy()

    def fit(self, train: Stretch) -> Self:
        """Refused: the counts in the bundle hold the training data already, and would count it twice."""
        raise RuntimeError(
            f"{type(self).__name__} comes fitted from the bundle, {len(train)} actions are not needed."
        )

    def _levels(self, stretch: Stretch) -> Floats:
        known = self._habits.observe(stretch.attributes, stretch.name_hash, stretch.group_hash)
        return novelty_levels(known).astype(np.float64)


class BundleNoveltyCount(_BundleNovelty):
    """As `NoveltyCount`, with the threshold that training set and put into the bundle."""

    title: ClassVar[str] = "novelty count"

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        limits = bundle.meta["baselines"]["novelty_count"]
        self.thresholds = Thresholds(float(limits["person"]), float(limits["system"]))

    def score(self, stretch: Stretch) -> tuple[Floats, None]:
        """Attributes new to the principal, those new to its peers counted double."""
        return np.minimum(self._levels(stretch), 2.0).sum(axis=1), None


class BundleNoveltyTable(_BundleNovelty):
    """The bare table: flags every first time, for a bundle holds no threshold for it."""

    title: ClassVar[str] = "novelty table"

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.thresholds = Thresholds(1.0, 1.0)

    def score(self, stretch: Stretch) -> tuple[Floats, None]:
        """1 for the first time this principal does this verb on this resource in this namespace."""
        return (self._levels(stretch)[:, _TUPLE] > 0).astype(np.float64), None
