"""Token ids of each field, fitted on training data only; rare values fall back on broader ones before "unknown"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data.actions.encoder import ActionBatch, ActionEncoder
from data.actions.fields import FIELDS, GAPS, STATIC_FIELDS
from data.actions.folding import client_family, network_of, reach_of

PAD, UNKNOWN, MASK = 0, 1, 2
SPECIALS = ("<pad>", "<unknown>", "<mask>")
#: A value seen once in training is as good as unknown; its own token would teach the model nothing.
MIN_COUNT = 2

#: Hours are learned only from data that holds every weekday; otherwise each new hour would look like an attack.
HOUR_NEEDS_DAYS = 7.0


def back_offs(field: str, value: str) -> tuple[str, ...]:
    """Broader values of a value, narrowest first: a new kubectl version is still kubectl."""
    if field == "client":
        return (f"{client_family(value)}/?",)
    if field == "place":
        return (network_of(value), reach_of(value))
    if field == "name":
        return ("<named>",) if value != "-" else ()
    if field == "resource":
        parts = value.split("/")
        return (f"{parts[0]}/?",) if len(parts) > 1 and not value.startswith("/") else ()
    if field == "traits":
        return ("<traits>",)
    return ()


class Vocabulary:
    """Maps field values to token ids."""

    def __init__(self, tokens: Mapping[str, list[str]], uses_hour: bool) -> None:
        self.tokens = {field: list(tokens[field]) for field in FIELDS}  # by id, the SPECIALS first
        self.uses_hour = uses_hour  # whether the hour carries information: the training data spans days
        self._ids = {name: dict(zip(ids, range(len(ids)), strict=True)) for name, ids in self.tokens.items()}
        self._tables: dict[str, npt.NDArray[np.int32]] = {}
        self._generation = -1

    @classmethod
    def fit(cls, counts: Mapping[str, Mapping[str, int]], *, span_days: float, limit: int) -> Vocabulary:
        """Fit on the training part.

        Args:
            counts: static field -> value -> occurrences.
            span_days: time span.
            limit: most tokens a field may have; the rarest values beyond it fall back.
        """
        tokens: dict[str, list[str]] = {}
        uses_hour = span_days >= HOUR_NEEDS_DAYS
        for field in STATIC_FIELDS:
            if field == "hour" and not uses_hour:
                tokens[field] = [*SPECIALS]
                continue
            values = sorted(counts[field].items(), key=lambda pair: (-pair[1], pair[0]))
            kept = [value for value, count in values if count >= MIN_COUNT][: limit - len(SPECIALS)]
            # Back-offs come last so that limits never drop them: they are what an unseen value becomes.
            broad = {wider for value in counts[field] for wider in back_offs(field, value)}
            tokens[field] = [*SPECIALS, *kept, *sorted(broad - set(kept))]
        tokens["gap"] = [*SPECIALS, *GAPS]
        return cls(tokens, uses_hour)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of tokens of each field, in the order of FIELDS."""
        return tuple(len(self.tokens[field]) for field in FIELDS)

    def token(self, field: str, value: str) -> int:
        """Token id of a value: its own, else that of its narrowest known back-off, else UNKNOWN."""
        if field == "hour" and not self.uses_hour:
            return UNKNOWN
        ids = self._ids[field]
        return next((ids[known] for known in (value, *back_offs(field, value)) if known in ids), UNKNOWN)

    def table(self, field: str, values: Sequence[str]) -> npt.NDArray[np.int32]:
        """Token ids of values, int32 [values]."""
        return np.array([self.token(field, value) for value in values], np.int32)

    def encode(self, batch: ActionBatch, encoder: ActionEncoder) -> npt.NDArray[np.int32]:
        """Token ids of the static fields, int32 [N, fields]; the gap column is left at 0 for the sequence to fill."""
        if encoder.generation != self._generation:
            self._generation = encoder.generation
            self._tables = {field: np.empty(0, np.int32) for field in STATIC_FIELDS}
        out = np.zeros((len(batch), len(FIELDS)), np.int32)
        for column, field in enumerate(STATIC_FIELDS):
            table = self._tables[field]
            values = encoder.interners[field].values
            if len(table) < len(values):
                table = self._tables[field] = np.concatenate([table, self.table(field, values[len(table) :])])
            out[:, column] = table[batch.codes[field]]
        return out

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"tokens": self.tokens, "uses_hour": self.uses_hour}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Vocabulary:
        """Inverse of `to_dict`."""
        return cls(saved["tokens"], bool(saved["uses_hour"]))
