"""A cluster of which a starter model knows nothing yet: who is a newcomer there only because everybody is.

A newcomer is judged by what its peers do. Where these are newcomers themselves, all that anybody does is new to everybody, and
says nothing. So the first actions of a principal count for nothing until principals of its class that are known by then have
done enough.

A principal that is no newcomer any more still brings more news than one that was watched for long: how often something is new
falls about as the inverse of what was seen (Good 1953). Rarity of news was fitted on principals with long histories, so decades
are taken off for a short one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from data.actions.attributes import mix
from data.actions.fields import stable_hash
from detection.novelty import MATURE, HabitTable
from detection.rarity import CLASSES, classes_of

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

#: Actions by principals of a class with enough history, from which a newcomer of that class can be compared with them.
SETTLED = 1_000

#: Actions of a principal from which news is as rare as it was where rarity was fitted.
LONG_HISTORY = 1_000

#: Keys in the habits under which these actions are counted, so that they are kept and carried over as habits are.
_KEYS = mix(
    np.uint64(stable_hash("level:settled")), np.array([stable_hash(name) for name in CLASSES], np.uint64)
)


def short_history(actions: Ints) -> Floats:
    """Decades by which news of each action's principal is less rare than rarity has it, float64 [N]; 0 for a newcomer.

    Args:
        actions: int64 [N], earlier actions of the principal.
    """
    decades: Floats = np.log10(LONG_HISTORY / np.clip(actions, MATURE, LONG_HISTORY))
    return np.where(actions >= MATURE, decades, 0.0)


class ClusterYouth:
    """Counts what known principals did, by class; the counts are kept in the habits."""

    def __init__(self, habits: HabitTable) -> None:
        self._habits = habits

    def young(self, kinds: Sequence[str], actions: Ints) -> Flags:
        """Which of N consecutive actions are by newcomers that cannot be compared with anybody yet, bool [N].

        Args:
            actions: int64 [N], earlier actions of the principal of each.
        """
        classes, known = classes_of(kinds), actions >= MATURE
        before = self._habits.counts(_KEYS)
        if (before >= SETTLED).all() or known.all():
            return ~known & (before < SETTLED)[classes]
        done = np.zeros((len(kinds) + 1, len(CLASSES)), np.int64)
        rows = np.flatnonzero(known)
        done[rows + 1, classes[rows]] = 1
        settled = before[classes] + done.cumsum(axis=0)[np.arange(len(kinds)), classes]
        return np.asarray(~known & (settled < SETTLED))

    def count(self, kinds: Sequence[str], actions: Ints) -> Callable[[], None]:
        """Count those of consecutive actions that are by known principals; returns what undoes that."""
        return self._habits.tally(_KEYS[classes_of(kinds)[actions >= MATURE]])
