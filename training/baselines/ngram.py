"""N-gram per principal with back-off: how likely an action is after the two before it, for the principal, its peers, its kind."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar

import numpy as np

from data.actions.attributes import ATTRIBUTES
from data.arrays import Floats
from training.baselines.base import Baseline
from training.baselines.witten_bell import WittenBell
from training.stretch import Stretch

_ACTION, _ANSWER = (list(ATTRIBUTES).index(name) for name in ("verb_resource_namespace", "code"))
_START = 0


class Ngram(Baseline):
    """Score: negative log-likelihood (nats) of what was done (verb, resource, namespace, answer) under the interpolated trigram.

    Contexts from broad to narrow: anyone, its kind, its peer group, the principal, and that after one and after two actions.
    """

    title: ClassVar[str] = "n-gram"

    def __init__(self) -> None:
        super().__init__()
        self._counts = WittenBell()
        self._last: dict[int, tuple[int, int]] = {}
        self._known: set[int] = set()

    def score(self, stretch: Stretch) -> tuple[Floats, None]:
        """Score, and go on counting."""
        known = self._known
        with np.errstate(over="ignore"):
            symbols = stretch.attributes[:, _ACTION] ^ (stretch.attributes[:, _ANSWER] * np.uint64(3))
        out = np.empty(len(stretch))
        columns = (symbols, stretch.name_hash, stretch.group_hash, stretch.kind)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for row, (symbol, who, peers, kind) in enumerate(rows):
            before, last = self._last.get(who, (_START, _START))
            contexts: tuple[Hashable, ...] = (
                *("anyone", kind, ("group", peers), ("principal", who)),
                *((who, last), (who, before, last)),
            )
            # One place is kept for what was never seen.
            out[row] = -np.log(self._counts.likelihood(contexts, symbol, 1.0 / (len(known) + 1)))
            known.add(symbol)
            self._last[who] = (last, symbol)
        return out, None
