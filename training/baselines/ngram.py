"""N-gram per principal with back-off: how likely an action is after the two before it, for this principal, its peers, its kind.

Witten-Bell interpolation (Witten and Bell 1991; Chen and Goodman 1998): each longer context is trusted as far as it has been seen
and as few different actions have followed it; what is left goes to the next broader one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from typing import ClassVar

import numpy as np

from data.actions.attributes import ATTRIBUTES
from data.arrays import Floats
from training.baselines.base import Baseline
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
        self._counts: dict[Hashable, dict[int, int]] = defaultdict(dict)
        self._totals: dict[Hashable, int] = defaultdict(int)
        self._last: dict[int, tuple[int, int]] = {}
        self._known: set[int] = set()

    def score(self, stretch: Stretch) -> tuple[Floats, None]:
        """Score, and go on counting."""
        counts, totals, known = self._counts, self._totals, self._known
        with np.errstate(over="ignore"):
            symbols = stretch.attributes[:, _ACTION] ^ (stretch.attributes[:, _ANSWER] * np.uint64(3))
        out = np.empty(len(stretch))
        columns = (symbols, stretch.name_hash, stretch.group_hash, stretch.kind)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for row, (symbol, who, peers, kind) in enumerate(rows):
            before, last = self._last.get(who, (_START, _START))
            contexts: tuple[Hashable, ...] = (
                "anyone",
                kind,
                ("group", peers),
                ("principal", who),
                (who, last),
                (who, before, last),
            )
            likelihood = 1.0 / (len(known) + 1)  # one place is kept for what was never seen
            for context in contexts:
                followed = counts[context]
                kinds, total = len(followed), totals[context]
                if total:
                    likelihood = (followed.get(symbol, 0) + kinds * likelihood) / (total + kinds)
                followed[symbol] = followed.get(symbol, 0) + 1
                totals[context] = total + 1
            known.add(symbol)
            self._last[who] = (last, symbol)
            out[row] = -np.log(likelihood)
        return out, None
