"""Consecutive actions of a log or of a dataset as columns: what detectors are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.actions.attributes import attribute_hashes
from data.actions.encoder import ActionEncoder, ActionSettings
from data.actions.fields import STATIC_FIELDS, gap_codes, stable_hash
from data.actions.sensitivity import Sensitivity
from data.actions.vocabulary import SPECIALS, Vocabulary
from data.arrays import Flags, Hashes, Ints, Names
from data.dataset.table import ActionTable, cut_windows
from data.events.audit_event import AuditEvent
from data.principals.identity import PEOPLE_AND_PIPELINES
from data.principals.peer_groups import PrincipalTable


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive actions of a log as columns, N rows in arrival order.

    Attributes:
        tokens: int64 [N, FIELDS], token ids under the training vocabulary.
        attributes: uint64 [N, ATTRIBUTES], stable hashes of combinations of fields.
        principal, group: int64 [N], ids of the principal table; 0 if training never saw it.
        name, kind: object [N], of the principal.
        name_hash, group_hash: uint64 [N], stable hashes of its name and of its peer group.
        time: int64 [N], microseconds since 1970 UTC.
        sensitivity: int64 [N], level in data.actions.sensitivity.LEVELS, or HARMLESS.
        values: field -> (distinct values, int64 [N] index into them). Of a dataset, rare values are those of the vocabulary.
        events: the audit events the actions came from; None for a dataset, which does not keep them.
    """

    tokens: Ints
    attributes: Hashes
    principal: Ints
    group: Ints
    name: Names
    kind: Names
    name_hash: Hashes
    group_hash: Hashes
    time: Ints
    sensitivity: Ints
    values: Mapping[str, tuple[Sequence[str], Ints]]
    events: Sequence[AuditEvent] | None = None

    def __len__(self) -> int:
        return len(self.time)

    @property
    def person(self) -> Flags:
        """Which are by people and pipelines."""
        return np.isin(self.kind, list(PEOPLE_AND_PIPELINES))


def windows_in_order(table: ActionTable, split: str) -> Ints:
    """Windows of a split of a dataset, int64 [M, 2], in the order of the log."""
    windows = table.windows[split]
    return windows[np.argsort(table.arrival[windows[:, 0]], kind="stable")]


def window_inputs(table: ActionTable, windows: Ints, window: int) -> tuple[Ints, Ints, Ints, Ints]:
    """What a model reads of windows, int64: tokens [B, W, F], and lengths, principal and group, [B] each."""
    tokens, lengths = cut_windows(table, windows, window)
    end = windows[:, 0]
    return tokens, lengths, table.principal[end].astype(np.int64), table.group[end].astype(np.int64)


def of_dataset(table: ActionTable, split: str) -> Stretch:
    """A split ("train" or "calibration") of a dataset, in the order of the log."""
    rows = windows_in_order(table, split)[:, 0]
    tokens = table.tokens[rows].astype(np.int64)
    return Stretch(
        tokens=tokens,
        attributes=table.attributes[rows],
        principal=table.principal[rows].astype(np.int64),
        group=table.group[rows].astype(np.int64),
        name=table.name[rows],
        kind=table.kind[rows],
        name_hash=table.name_hashes[rows],
        group_hash=table.group_hashes[rows],
        time=table.time[rows],
        sensitivity=table.sensitivity[rows].astype(np.int64),
        values={
            field: (table.vocabulary.tokens[field], tokens[:, i]) for i, field in enumerate(STATIC_FIELDS)
        },
    )


class LogEncoder:
    """Turns the events of a log, chunk by chunk, into the stretches that detectors are shown."""

    def __init__(
        self,
        settings: ActionSettings,
        vocabulary: Vocabulary,
        principals: PrincipalTable,
        rules: Sequence[Mapping[str, Any]],
        last: Mapping[str, int],
    ) -> None:
        """Start a log for a dataset or the bundle made of it; `last`: principal -> time (microseconds) of its last action."""
        self._encoder = ActionEncoder(settings)
        self._vocabulary, self._principals = vocabulary, principals
        self._sensitivity = Sensitivity(rules, strict=False)
        self._last = dict(last)

    def encode(self, events: Sequence[AuditEvent]) -> tuple[Stretch, list[str]]:
        """The next chunk, and the audit ID of each of its actions."""
        batch = self._encoder.encode(events)
        codes = batch.principal
        groups = [self._principals.group(principal) for principal in batch.principals]
        names = [principal.name for principal in batch.principals]
        tokens = self._vocabulary.encode(batch, self._encoder).astype(np.int64)
        name = np.array(names, object)[codes]
        tokens[:, -1] = self._gaps(name, batch.time)
        stretch = Stretch(
            tokens=tokens,
            attributes=attribute_hashes(batch, self._encoder),
            principal=np.array([self._principals.ids.get(one, 0) for one in names], np.int64)[codes],
            group=np.array([self._principals.groups.get(one, 0) for one in groups], np.int64)[codes],
            name=name,
            kind=np.array([principal.kind for principal in batch.principals], object)[codes],
            name_hash=np.array([stable_hash(one) for one in names], np.uint64)[codes],
            group_hash=np.array([stable_hash(one) for one in groups], np.uint64)[codes],
            time=batch.time,
            sensitivity=self._sensitivity.levels(batch, self._encoder).astype(np.int64),
            values={
                field: (self._encoder.interners[field].values, batch.codes[field].astype(np.int64))
                for field in STATIC_FIELDS
            },
            events=events,
        )
        return stretch, [events[i].auditID for i in batch.event.tolist()]

    def _gaps(self, name: Names, time: Ints) -> Ints:
        """Tokens of the time since each principal's previous action."""
        gaps = np.empty(len(time), np.int64)
        last = self._last
        for row, (who, when) in enumerate(zip(name.tolist(), time.tolist(), strict=True)):
            before = last.get(who)
            gaps[row] = -1 if before is None else max(when - before, 0)
            last[who] = when
        return gap_codes(gaps) + len(SPECIALS)
