"""Novelty count: how many attributes of an action are new to its principal, those new to its peers counted double.

The strongest simple detector known for these logs, and the one to beat.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from data.actions.attributes import ATTRIBUTES
from data.actions.fields import FIELDS
from data.arrays import Floats
from training.baselines.base import FIELD_COUNT, Baseline
from training.stretch import Stretch

_SHARE = np.zeros((len(ATTRIBUTES), FIELD_COUNT))
for _row, _fields in enumerate(ATTRIBUTES.values()):
    for _field in _fields:
        _SHARE[_row, FIELDS.index(_field)] = 1 / len(_fields)


class NoveltyCount(Baseline):
    """Score: sum over attributes of 0 (known to the principal), 1 (new to it) or 2 (new to its peer group as well).

    By field: an attribute's novelty is shared evenly among the fields that make it.
    """

    title: ClassVar[str] = "novelty count"

    def __init__(self) -> None:
        super().__init__()
        self._own: set[tuple[int, int]] = set()
        self._group: set[tuple[int, int]] = set()

    def fit(self, train: Stretch) -> Self:
        """Take note of everything."""
        self.score(train)
        return self

    def score(self, stretch: Stretch) -> tuple[Floats, Floats]:
        """Score, and take note of what was new."""
        own, group = self._own, self._group
        levels = np.zeros((len(stretch), len(ATTRIBUTES)))
        columns = (stretch.name_hash, stretch.group_hash, stretch.attributes)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for row, (who, peers, attributes) in enumerate(rows):
            for column, attribute in enumerate(attributes):
                mine = (who, attribute)
                if mine not in own:
                    own.add(mine)
                    theirs = (peers, attribute)
                    if theirs in group:
                        levels[row, column] = 1.0
                    else:
                        levels[row, column] = 2.0
                        group.add(theirs)
        return levels.sum(axis=1), levels @ _SHARE
