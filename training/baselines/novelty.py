"""Novelty detectors: what a principal does for the first time, as a table, as a count, and from the counts of a model bundle.

The count is the strongest simple detector known for these logs, and the one to beat.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from data.actions.attributes import ATTRIBUTES
from data.actions.breadth import SPANS
from data.actions.fields import FIELDS
from data.arrays import Floats
from detection.bundle import Bundle
from detection.novelty import Levels, novelty_levels
from detection.rarity import classes_of
from training.baselines.base import FIELD_COUNT, Baseline, Thresholds
from training.calibrate import table_score
from training.stretch import Stretch

_RESOURCE = FIELDS.index("resource")
_TUPLE = list(ATTRIBUTES).index("verb_resource_namespace")
_SHARE = np.zeros((len(ATTRIBUTES), FIELD_COUNT))
for _row, _fields in enumerate(ATTRIBUTES.values()):
    for _field in set(_fields).difference(SPANS):  # no fields of a model
        _SHARE[_row, FIELDS.index(_field)] = 1 / len(_fields)


class NoveltyTable(Baseline):
    """Score: 0 for a verb, resource and namespace the principal had before; else 1 - log10 of its chance of a first time.

    That chance is estimated by Good-Turing: without it the table says only yes or no, and no threshold could be set on it.
    """

    title: ClassVar[str] = "novelty table"

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[int, int]] = set()
        self._firsts: dict[int, int] = {}
        self._actions: dict[int, int] = {}

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


class NoveltyCount(Baseline):
    """Score: sum over attributes of 0 (known to the principal), 1 (new to it) or 2 (new to its peer group as well).

    By field: an attribute's novelty is shared evenly among the fields that make it.
    """

    title: ClassVar[str] = "novelty count"

    def __init__(self) -> None:
        super().__init__()
        self._own: set[tuple[int, int]] = set()
        self._group: set[tuple[int, int]] = set()

    def score(self, stretch: Stretch) -> tuple[Floats, Floats]:
        """Score, and enter what was new."""
        own, group = self._own, self._group
        levels = np.zeros((len(stretch), len(ATTRIBUTES)))
        columns = (stretch.name_hash, stretch.group_hash, stretch.attributes)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for row, (who, peers, attributes) in enumerate(rows):
            for column, attribute in enumerate(attributes):
                mine, theirs = (who, attribute), (peers, attribute)
                if mine not in own:
                    own.add(mine)
                    levels[row, column] = 1.0 if theirs in group else 2.0
                    group.add(theirs)
        return levels.sum(axis=1), levels @ _SHARE


class _BundleNovelty(Baseline):
    """Novelty levels from a bundle's habits, which hold the training data already: it is never fitted."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self._habits = bundle.habits.copy()
        self._width = bundle.attributes
        # A bundle of an earlier version has none for the table: then every first time is flagged.
        limits = bundle.meta["baselines"].get(self.title.replace(" ", "_"), {"person": 1.0, "system": 1.0})
        self.thresholds = Thresholds(float(limits["person"]), float(limits["system"]))

    def _levels(self, stretch: Stretch) -> Levels:
        attributes = stretch.attributes[:, : self._width]
        known = self._habits.observe(attributes, stretch.name_hash, stretch.group_hash)
        return novelty_levels(known)


class BundleNoveltyCount(_BundleNovelty):
    """As `NoveltyCount`, with the threshold that training put into the bundle."""

    title: ClassVar[str] = "novelty count"

    def score(self, stretch: Stretch) -> tuple[Floats, None]:
        """Attributes new to the principal, those new to its peers counted double."""
        return np.minimum(self._levels(stretch), 2).sum(axis=1).astype(np.float64), None


class BundleNoveltyTable(_BundleNovelty):
    """As `NoveltyTable`, with the rarity of first times that the bundle holds, and the threshold that training put into it."""

    title: ClassVar[str] = "novelty table"

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self._rarity = bundle.calibration.rarity

    def score(self, stretch: Stretch) -> tuple[Floats, None]:
        """0 for a verb, resource and namespace that the principal had before, more the rarer such a first time is."""
        classes, resource = classes_of(stretch.kind.tolist()), stretch.tokens[:, _RESOURCE]
        return table_score(self._rarity, classes, resource, self._levels(stretch)), None
