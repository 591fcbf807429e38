"""Population stability of each principal's surprise: the reference taken at calibration, and the index that is compared with it.

The index runs over the deciles that the surprise had at calibration. Under no change, the index times nm/(n+m) is chi-squared
with one degree of freedom less than there are bins (Yurdakul 2018): a threshold that depends on the amount of data. Actions
come in bursts, so n and m are effective sizes, corrected for the correlation of neighbours (Bartlett 1946).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2

from data.actions.fields import FIELDS
from data.actions.vocabulary import UNKNOWN
from data.arrays import Flags, Floats, Ints
from data.dataset.table import ActionTable

#: Artifact of an MLflow run that holds the reference.
REFERENCE = "drift/reference.json"
BINS = 10


def effective_size(values: Floats) -> float:
    """Independent values that a sequence is worth: n (1 - r) / (1 + r), r the correlation of neighbours (at least 0)."""
    if len(values) < 3 or not values.std():
        return float(len(values) > 0)
    r = float(np.corrcoef(values[:-1], values[1:])[0, 1])
    r = min(max(r, 0.0), 0.999)
    return max(len(values) * (1 - r) / (1 + r), 1.0)


def edges_of(values: Floats) -> list[float]:
    """Inner edges of at most BINS bins that hold about equally many of the values; repeated values share one bin."""
    return sorted(set(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]).tolist()))


def counts_in(values: Floats, edges: Sequence[float]) -> list[int]:
    """Floats in each bin; a value on an edge belongs to the lower one."""
    bins = np.searchsorted(edges, values, side="left")
    return [int(count) for count in np.bincount(bins, minlength=len(edges) + 1)]


def stability_index(before: Sequence[int], now: Sequence[int]) -> float:
    """Population stability index of two histograms; half a count is added to each bin, so that an empty one is no infinity."""
    p, q = (np.array(counts, np.float64) + 0.5 for counts in (before, now))
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def noise_level(bins: int, n: float, m: float, chance: float) -> float:
    """Stability index that two samples of n and m values of the same distribution exceed with probability `chance`."""
    return float(chi2.ppf(1 - chance, max(bins - 1, 1))) * (1 / n + 1 / m)


def reference(table: ActionTable, rows: Ints, surprise: Floats, flagged: Flags) -> dict[str, Any]:
    """The reference for drift: surprise (nats) and shares of unknown values of the held-back actions `rows`, at calibration."""
    names, kinds, time = table.name[rows], table.kind[rows], table.time[rows]
    trained = table.windows["train"][:, 0]
    actions = Counter(table.name[trained].tolist())
    people = {}
    for name in sorted(set(names.tolist())):
        mine = np.flatnonzero(names == name)
        ordered = surprise[mine[np.argsort(time[mine], kind="stable")]]
        edges = edges_of(ordered)
        people[name] = {
            "kind": str(kinds[mine[0]]),
            "edges": edges,
            "counts": counts_in(ordered, edges),
            "effective": effective_size(ordered),
            "median": float(np.median(ordered)),
        }
    unknown = (table.tokens[rows] == UNKNOWN).mean(axis=0)
    return {
        "actions": len(rows),
        "unknown": dict(zip(FIELDS, unknown.tolist(), strict=True)),
        "flagged": float(flagged.mean()) if len(flagged) else 0.0,
        "principals": people,
        "trained_actions": dict(sorted(actions.items())),
    }
