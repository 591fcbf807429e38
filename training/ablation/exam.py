"""The data that every variant of an ablation is judged on, and the errors that one model makes on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.actions.fields import FIELDS
from data.arrays import Ints
from data.dataset.table import ActionTable, cut_windows, load
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from detection.calibration import Deeds
from detection.novelty import Habits
from detection.reconstruction import Model
from detection.windows import Windows
from training.audit_log import read_log
from training.bundle_writer import warmup_of
from training.calibrate import HeldBack
from training.evaluation.metrics import Actions, Label, Truth, join, named_by
from training.stretch import LogEncoder

_CHUNK = 2048

Nll = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Replay:
    """A log as the detector meets it, before any model has seen it.

    Attributes:
        actions: who, when, and which event.
        tokens: int64 [N, F].
        principal, group: int64 [N], ids of the principal table.
        deeds: what the habits knew before each action.
    """

    actions: Actions
    tokens: Ints
    principal: Ints
    group: Ints
    deeds: Deeds

    @classmethod
    def of(cls, events: Sequence[AuditEvent], table: ActionTable, habits: Habits) -> Replay:
        """Encode a log's events against a dataset; `habits` is brought up to date."""
        encoder = LogEncoder(table.settings, table.vocabulary, table.principals, table.rules, {})
        actions, deeds, stretches = [], [], []
        for begin in range(0, len(events), _CHUNK):
            one, audit_ids = encoder.encode(events[begin : begin + _CHUNK])
            names, kinds = one.name.tolist(), one.kind.tolist()
            known = habits.observe(one.attributes, one.name_hash, one.group_hash)
            deeds.append(
                Deeds.of(known, one.tokens, table.vocabulary, names, kinds, one.sensitivity.astype(np.int8))
            )
            actions.append(Actions(audit_ids, one.name, one.kind, one.time))
            stretches.append(one)
        return cls(
            Actions.concatenate(actions),
            np.concatenate([one.tokens for one in stretches]),
            np.concatenate([one.principal for one in stretches]),
            np.concatenate([one.group for one in stretches]),
            Deeds.concatenate(deeds),
        )


@dataclass(frozen=True, slots=True)
class Exam:
    """The data that every variant is judged on; nothing in it depends on a model.

    Attributes:
        table: the dataset.
        held: its held-back actions.
        whole: the labelled log.
        clean: the same without what was labelled, what that induced and what cleaned up after it.
        truth: labels joined with `whole`.
        key: digest of the dataset, the log and the labels.
        encoded: digest of what a model is given of them.
    """

    table: ActionTable
    held: HeldBack
    whole: Replay
    clean: Replay
    truth: Truth
    key: str
    encoded: str

    @classmethod
    def prepare(cls, data: Path, log: Path, labels: Sequence[Label]) -> Exam:
        """Read dataset and log.

        Raises:
            KubehabitError: no dataset, no log, or no attack in the labels.
        """
        if not any(label["kind"] == "attack" for label in labels):
            raise KubehabitError("The labels name no attack: there is nothing to compare variants by.")
        table = load(data)
        held = HeldBack.of(table)
        events = [event for chunk in read_log(log) for event in chunk]
        done = named_by(labels)
        normal = [event for event in events if event.auditID not in done]
        if not normal:
            raise KubehabitError(f"{log}: every event is labelled, so false incidents cannot be counted.")
        key = hashlib.sha256(table.card["fingerprint"].encode())
        key.update(hashlib.sha256(log.read_bytes()).digest())
        key.update(json.dumps(labels, sort_keys=True).encode())
        whole, clean = (Replay.of(some, table, held.habits.copy()) for some in (events, normal))
        encoded = hashlib.sha256()
        for given in (table, whole, clean):
            for array in (given.tokens, given.principal, given.group):
                encoded.update(array.tobytes())
        truth = join(whole.actions, labels)
        return cls(table, held, whole, clean, truth, key.hexdigest(), encoded.hexdigest())


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of one model on the exam, float32 [N, F] each: NLL, and as ranks log(1 + rank)."""

    held: Nll
    whole: Nll
    clean: Nll
    held_ranks: Nll
    whole_ranks: Nll
    clean_ranks: Nll

    @classmethod
    def of(cls, model: Model, window: int, exam: Exam, blind: Sequence[str]) -> Errors:
        """Run a model over the held-back actions and both replays."""
        read = _Reader(model, blind)
        table = exam.table
        rows = table.windows["calibration"]
        rows = rows[np.argsort(table.arrival[rows[:, 0]], kind="stable")]
        held = []
        for begin in range(0, len(rows), _CHUNK):
            cut = rows[begin : begin + _CHUNK]
            who = (table.principal[cut[:, 0]].astype(np.int64), table.group[cut[:, 0]].astype(np.int64))
            held.append(read(*cut_windows(table, cut, window), *who))
        warm = warmup_of(table, window)
        pairs = [np.concatenate(held)]
        for replay in (exam.whole, exam.clean):
            windows = Windows(window)
            for name, tokens in warm.tokens.items():
                windows.seed(name, tokens, warm.last[name])
            parts = []
            for begin in range(0, len(replay.tokens), _CHUNK):
                at = slice(begin, begin + _CHUNK)
                cut, lengths = windows.append(
                    replay.actions.principal[at].tolist(),
                    replay.tokens[at].astype(np.int32),
                    replay.actions.time[at],
                )
                parts.append(read(cut, lengths, replay.principal[at], replay.group[at]))
            pairs.append(np.concatenate(parts))
        width = len(FIELDS)
        return cls(*(pair[:, :width] for pair in pairs), *(pair[:, width:] for pair in pairs))

    @classmethod
    def load(cls, path: Path) -> Errors:
        """Inverse of `save`."""
        with np.load(path, allow_pickle=False) as saved:
            return cls(**{one.name: saved[one.name] for one in fields(cls)})

    def save(self, path: Path) -> None:
        """Keep for another time; the file appears only when it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, **{one.name: getattr(self, one.name) for one in fields(self)})
        unfinished.replace(path)


class _Reader:
    """A model's error on the newest action of windows; equal windows of one principal are computed once, ever."""

    def __init__(self, model: Model, blind: Sequence[str]) -> None:
        self.model, self.blind = model, blind
        self.seen: dict[bytes, Nll] = {}

    def __call__(self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints) -> Nll:
        """NLL and log(1 + rank) side by side, float32 [N, 2F]; what the model is blind to is given as unknown."""
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
            nll, rank, _ = self.model(
                tokens[at], lengths[at], principal[at], group[at], np.zeros(1, np.int64)
            )
            both = np.concatenate([nll[:, 0], np.log1p(rank[:, 0])], axis=1)
            self.seen |= dict(zip((keys[row] for row in at.tolist()), both, strict=True))
        return np.array([self.seen[key] for key in keys], np.float32)
