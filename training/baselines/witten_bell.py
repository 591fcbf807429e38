"""Interpolated counts: how likely a symbol is in contexts from broad to narrow, learned as it goes.

Witten-Bell interpolation (Witten and Bell 1991; Chen and Goodman 1998): each narrower context is trusted as far as it has been
seen and as few different symbols have followed it; what is left goes to the next broader one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager


class WittenBell:
    """Counts of symbols by context."""

    def __init__(self) -> None:
        self._counts: dict[Hashable, dict[Hashable, int]] = {}
        self._totals: dict[Hashable, int] = {}
        #: What was counted since the innermost open fork began.
        self._journal: list[tuple[Sequence[Hashable], Hashable]] | None = None

    def likelihood(self, contexts: Sequence[Hashable], symbol: Hashable, floor: float) -> float:
        """Probability of a symbol, then count it; `floor` is its probability before any context is looked at."""
        counts, totals = self._counts, self._totals
        likelihood = floor
        for context in contexts:
            followed = counts.get(context)
            if followed is None:
                counts[context], totals[context] = {symbol: 1}, 1
                continue
            kinds, total = len(followed), totals[context]
            seen = followed.get(symbol, 0)
            likelihood = (seen + kinds * likelihood) / (total + kinds)
            followed[symbol] = seen + 1
            totals[context] = total + 1
        if self._journal is not None:
            self._journal.append((contexts, symbol))
        return likelihood

    @contextmanager
    def fork(self) -> Iterator[None]:
        """Count on trial: on exit the counts are again what they were on entry. Forks may be nested."""
        outer, self._journal = self._journal, []
        try:
            yield
        finally:
            for contexts, symbol in self._journal:
                for context in contexts:
                    self._take_back(context, symbol)
            self._journal = outer

    def _take_back(self, context: Hashable, symbol: Hashable) -> None:
        followed = self._counts[context]
        followed[symbol] -= 1
        self._totals[context] -= 1
        if not followed[symbol]:
            del followed[symbol]
        if not followed:
            del self._counts[context], self._totals[context]
