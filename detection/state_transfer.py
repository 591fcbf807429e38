"""Carries what a running detector knows of its principals over to the detector of another bundle.

A principal does not change because the model did: who was half-way through something unusual still is, and what was done since
the old bundle was made is known. What is carried, and how it is fitted to the new bundle:

- the requests seen, the ownership followed and what people read, as they are;
- windows: token by token, by the value that the token stands for. What the old vocabulary did not know stays unknown;
- evidence that is adding up: the sums of each horizon, in decades of calibrated rarity, which mean the same in each bundle;
- habits: what was counted since the old bundle is known to the new one, on top of what it learned in training;
- probation: what was flagged and nobody has accepted is no habit under the new bundle either, even if it was trained on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from data.actions.fields import FIELDS
from data.actions.vocabulary import SPECIALS, Vocabulary
from detection.detector import Detector
from detection.evidence import Sums
from detection.novelty import HabitTable
from detection.windows import Contexts


def transfer_state(
    old: Detector, new: Detector, *, share: bool = True, learned: HabitTable | None = None
) -> None:
    """Give a fresh detector the state of one that ran.

    Args:
        old: must not score meanwhile.
        new: has not scored yet; it has its bundle's own habits and windows.
        learned: a copy of the old one's habits from which the new one has learned already, so that this takes less time.
        share: the old one will not score again, so its memory of requests and owners can simply be handed on.
    """
    folder, owners, reads = old.encoder.folder, old.encoder.owners, old.encoder.reads
    if not share:
        folder, owners = folder.copy(), None if owners is None else owners.copy()
        reads = None if reads is None else reads.copy()
    new.encoder.restore(folder, owners, reads)
    transfer_contexts(new, old.windows.contexts(), old.bundle.vocabulary, old.bundle.warmup.last)
    transfer_sums(new, old.accumulator.sums(), old.accumulator.horizons)
    if learned is None:
        new.habits.learn(old.habits, old.bundle.habits)
    else:
        new.habits.catch_up(old.habits, learned)
    new.restore_probation(old.probation.records())


def translation(old: Vocabulary, new: Vocabulary) -> list[npt.NDArray[np.int16]]:
    """For each field, the new token of every old one, int16 [old tokens]."""
    special = range(len(SPECIALS))
    return [
        np.array(
            [*special, *(new.token(field, value) for value in old.tokens[field][len(SPECIALS) :])], np.int16
        )
        for field in FIELDS
    ]


def transfer_contexts(
    new: Detector, held: Contexts, words: Vocabulary, before: Mapping[str, int] | None = None
) -> None:
    """Give a detector contexts of another bundle with its vocabulary.

    What training saw after all that was served is nearer to the present, and stays.

    Args:
        before: times of the last actions in the other bundle's training, if known; those add nothing.
    """
    there = new.windows.contexts(held.names)
    later = dict(zip(there.names, there.last.tolist(), strict=True))
    known = before or {}
    stays = [
        row
        for row, (name, last) in enumerate(zip(held.names, held.last.tolist(), strict=True))
        if not (later.get(name, last) > last and later[name] != known.get(name))
    ]
    tables = translation(words, new.bundle.vocabulary)
    tokens = np.stack([table[held.tokens[stays, :, column]] for column, table in enumerate(tables)], axis=2)
    lengths = held.lengths[stays].astype(np.int64)
    # A window of another length keeps the newest.
    kept = np.minimum(lengths, new.windows.window - 1)
    steps = np.arange(new.windows.window - 1)
    at = np.minimum((lengths - kept)[:, None] + steps, max(tokens.shape[1] - 1, 0))
    fitted = np.take_along_axis(tokens, at[:, :, None], axis=1)
    fitted[steps >= kept[:, None]] = 0
    names = [held.names[row] for row in stays]
    new.windows.restore(Contexts(names, fitted, kept.astype(np.int16), held.last[stays]))


def transfer_sums(new: Detector, held: Sums, horizons: Sequence[float]) -> None:
    """Give a detector sums of another bundle, horizon by horizon.

    A horizon that the other bundle did not have starts with what its longest shorter one held: no less than that.
    """
    rows = np.full((len(held.names), 2 + 2 * len(new.accumulator.horizons)), np.nan)
    rows[:, 0], rows[:, 1:-1] = held.rows[:, 0], 0.0
    if held.rows.shape[1] == 2 + 2 * len(horizons):  # not of an earlier release
        rows[:, -1] = held.rows[:, -1]
    for place, horizon in enumerate(new.accumulator.horizons):
        within = [index for index, seconds in enumerate(horizons) if seconds <= horizon]
        if within:
            source = max(within, key=horizons.__getitem__)
            rows[:, 1 + 2 * place : 3 + 2 * place] = held.rows[:, 1 + 2 * source : 3 + 2 * source]
    new.accumulator.restore(Sums(held.names, rows))
