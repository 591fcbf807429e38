"""The data that every variant of an ablation is judged on, and the errors that one model makes on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.arrays import Ints
from data.dataset.table import ActionTable, load
from data.durable_file import replacing
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from detection.calibration import ActionFeatures
from detection.novelty import HabitTable
from detection.reconstruction import Model, Nll
from detection.windows import Windows
from training.audit_log import read_log
from training.bundle_writer import warmup_of
from training.calibrate import HeldBack, group_sizes
from training.evaluation.metrics import Actions, Label, Truth, join, named_by
from training.stretch import LogEncoder, window_inputs, windows_in_order

_CHUNK = 2048
_COLUMNS = ("tokens", "principal", "group")


@dataclass(frozen=True, slots=True)
class LogReplay:
    """A log as the detector meets it, before any model has seen it; `deeds` is what the habits knew before each action."""

    actions: Actions
    tokens: Ints
    principal: Ints
    group: Ints
    deeds: ActionFeatures

    @classmethod
    def from_events(cls, events: Sequence[AuditEvent], table: ActionTable, habits: HabitTable) -> LogReplay:
        """Encode a log's events against a dataset; `habits` is brought up to date."""
        encoder = LogEncoder(table.settings, table.vocabulary, table.principals, table.rules, {})
        sizes = group_sizes(table.principals)
        actions, deeds, stretches = [], [], []
        for begin in range(0, len(events), _CHUNK):
            one, audit_ids = encoder.encode(events[begin : begin + _CHUNK])
            names, kinds = one.name.tolist(), one.kind.tolist()
            known = habits.observe(one.attributes, one.name_hash, one.group_hash)
            deeds.append(
                ActionFeatures.from_counts(
                    *(known, one.tokens, table.vocabulary, names, kinds, one.sensitivity.astype(np.int8)),
                    members=sizes[one.group],
                )
            )
            actions.append(Actions(audit_ids, one.name, one.kind, one.time))
            stretches.append(one)
        columns = {name: np.concatenate([getattr(one, name) for one in stretches]) for name in _COLUMNS}
        return cls(Actions.concatenate(actions), deeds=ActionFeatures.concatenate(deeds), **columns)


@dataclass(frozen=True, slots=True)
class Exam:
    """The data that every variant is judged on; nothing in it depends on a model.

    Attributes:
        held: the held-back actions of the dataset.
        whole: the labelled log.
        clean: the same without what was labelled, what that induced and what cleaned up after it.
        truth: labels joined with `whole`.
        key: digest of the dataset, the log and the labels.
        encoded: digest of what a model is given of them.
    """

    table: ActionTable
    held: HeldBack
    whole: LogReplay
    clean: LogReplay
    truth: Truth
    key: str
    encoded: str

    @classmethod
    def prepare(cls, data: Path, log: Path, labels: Sequence[Label]) -> Exam:
        """Read dataset and log; KubehabitError if either is missing, or without an attack in the labels."""
        if not any(label["kind"] == "attack" for label in labels):
            raise KubehabitError("The labels name no attack: there is nothing to compare variants by.")
        table = load(data)
        held = HeldBack.from_table(table)
        events = [event for chunk in read_log(log) for event in chunk]
        done = named_by(labels)
        normal = [event for event in events if event.auditID not in done]
        if not normal:
            raise KubehabitError(f"{log}: every event is labelled, so false incidents cannot be counted.")
        key = hashlib.sha256(table.card["fingerprint"].encode())
        key.update(hashlib.sha256(log.read_bytes()).digest())
        key.update(json.dumps(labels, sort_keys=True).encode())
        whole, clean = (LogReplay.from_events(some, table, held.habits.copy()) for some in (events, normal))
        encoded = hashlib.sha256()
        for given in (table, whole, clean):
            for name in _COLUMNS:
                encoded.update(getattr(given, name).tobytes())
        truth = join(whole.actions, labels)
        return cls(table, held, whole, clean, truth, key.hexdigest(), encoded.hexdigest())


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of one model on the exam: NLL by field in nats, float32 [N, F] each."""

    held: Nll
    whole: Nll
    clean: Nll

    @classmethod
    def compute(cls, model: Model, window: int, exam: Exam, blind: Sequence[str]) -> Errors:
        """Run a model over the held-back actions and both replays."""
        read = _Reader(model, blind)
        rows = windows_in_order(exam.table, "calibration")
        cuts = (rows[begin : begin + _CHUNK] for begin in range(0, len(rows), _CHUNK))
        found = [np.concatenate([read(*window_inputs(exam.table, cut, window)) for cut in cuts])]
        warm = warmup_of(exam.table, window)
        for replay in (exam.whole, exam.clean):
            windows = Windows(window)
            for name, tokens in warm.tokens.items():
                windows.seed(name, tokens, warm.last[name])
            parts = []
            for begin in range(0, len(replay.tokens), _CHUNK):
                at = slice(begin, begin + _CHUNK)
                names, times = replay.actions.principal[at].tolist(), replay.actions.time[at]
                cut = windows.append(names, replay.tokens[at].astype(np.int32), times)
                parts.append(read(*cut, replay.principal[at], replay.group[at]))
            found.append(np.concatenate(parts))
        return cls(*found)

    @classmethod
    def load(cls, path: Path) -> Errors:
        """Inverse of `save`."""
        with np.load(path, allow_pickle=False) as saved:
            return cls(**saved)

    def save(self, path: Path) -> None:
        """Keep for another time; the file appears only when it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez(file, held=self.held, whole=self.whole, clean=self.clean)


class _Reader:
    """A model's error on the newest action of windows; equal windows of one principal are computed once, ever."""

    def __init__(self, model: Model, blind: Sequence[str]) -> None:
        self.model, self.blind = model, blind
        self.seen: dict[bytes, Nll] = {}

    def __call__(self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints) -> Nll:
        """NLL by field, float32 [N, F]; what the model is blind to is given as unknown."""
        principal = principal * ("principal" not in self.blind)
        group = group * ("group" not in self.blind)
        keys = [
            row.tobytes()
            for row in np.column_stack([tokens.reshape(len(tokens), -1), principal, group]).astype(np.int32)
        ]
        new = {key: row for row, key in enumerate(keys) if key not in self.seen}
        rows = np.fromiter(new.values(), np.int64, len(new))
        for begin in range(0, len(rows), 256):
            at = rows[begin : begin + 256]
            nll, _ = self.model(tokens[at], lengths[at], principal[at], group[at], np.zeros(1, np.int64))
            self.seen |= dict(zip((keys[row] for row in at.tolist()), nll[:, 0], strict=True))
        return np.array([self.seen[key] for key in keys], np.float32)
