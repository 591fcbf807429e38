"""Lightning data module: which windows of a dataset are trained on and validated on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from data.arrays import Floats, Ints, runs
from data.dataset.table import ActionTable, load
from data.principals.identity import KINDS
from training.feedback import FeedbackConfig, Learned, learn, read_feedback
from training.stretch import window_inputs
from training.unseen import UnseenValues

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(eq=False)
class _Draws(IterableDataset[Batch]):
    """An endless, seeded stream of batches. Each device draws its own.

    Every batch has a random stream of its own, so that a resumed training goes on with the very batch it was killed before.
    `done` says how many batches were trained on when the stream begins.
    """

    table: ActionTable
    cumulative: Floats
    window: int
    batch_size: int
    seed: int
    done: Callable[[], int]
    unseen: UnseenValues

    def __iter__(self) -> Iterator[Batch]:
        windows = self.table.windows["train"]
        for number in count(self.done()):
            rng = np.random.default_rng((self.seed, rank(), number))
            drawn = np.searchsorted(self.cumulative, rng.random(self.batch_size))
            rows = windows[np.minimum(drawn, len(windows) - 1)]
            tokens, *others = window_inputs(self.table, rows, self.window)
            yield _tensors(self.unseen.hide(tokens, rng), *others)


def rank() -> int:
    """Which of the devices this process drives; 0 if there is one only."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


@dataclass(eq=False)
class _HeldBackBatches(IterableDataset[Batch]):
    """Held-back windows, the same at every validation."""

    table: ActionTable
    windows: Ints
    window: int
    batch_size: int

    def __iter__(self) -> Iterator[Batch]:
        for begin in range(0, len(self.windows), self.batch_size):
            rows = self.windows[begin : begin + self.batch_size]
            yield _tensors(*window_inputs(self.table, rows, self.window))


def _tensors(*arrays: Ints) -> Batch:
    """(tokens [B, W, F], lengths [B], principal [B], group [B]), all int64."""
    tokens, lengths, principal, group = map(torch.from_numpy, arrays)
    return tokens, lengths, principal, group


class ActionWindows(lightning.LightningDataModule):
    """Windows of a built dataset.

    Routine repeats: a controller writes thousands of like windows while a person writes a hundred different ones. So a
    principal's share of the training windows grows only with a power of its actions, weighted by its kind.

    Args:
        path: folder written by `kubehabit data build`.
        window: actions in a window.
        batch_size: windows in a batch.
        seed: of the draw.
        balance: exponent of a principal's number of actions in its share; 1 draws actions alike, 0 draws principals alike.
        kind_weights: weight of each kind of principal.
        unseen: occasions on which each value is taken for unseen, see `training.unseen`; 0 for none.
        validation_windows: held-back windows on which the loss is watched.
        feedback: file of what people said about alerts, see `training.feedback`.
        feedback_logs: logs that hold its events.
        teaching: how much feedback may teach.
    """

    def __init__(
        self,
        path: Path,
        window: int = 16,
        batch_size: int = 256,
        seed: int = 7,
        balance: float = 0.5,
        kind_weights: dict[str, float] | None = None,
        unseen: float = 0.3,
        validation_windows: int = 4096,
        feedback: Path | None = None,
        feedback_logs: list[Path] | None = None,
        teaching: FeedbackConfig | None = None,
    ) -> None:
        super().__init__()
        self.table = load(Path(path))
        self.learned: Learned | None = None
        if feedback is not None:
            entries, logs = read_feedback(feedback), feedback_logs or []
            self.learned = learn(self.table, entries, logs, window, teaching or FeedbackConfig())
            self.table = self.learned.table
        self.window, self.batch_size, self.seed = window, batch_size, seed
        self.validation_windows = validation_windows
        self.unseen = unseen
        self.vocabulary = list(self.table.vocabulary.sizes)
        self.kind_sizes = self.table.vocabulary.kind_sizes
        self.principals = len(self.table.principals.ids)
        self.groups = len(self.table.principals.groups)
        weights = dict.fromkeys(KINDS, 1.0) | (kind_weights or {})
        end = self.table.windows["train"][:, 0]
        starts, sizes = runs(self.table.name)  # of rows of one principal, which lie together
        who = np.repeat(np.arange(len(starts)), sizes)[end]
        share = np.bincount(who).astype(np.float64)[who] ** (balance - 1.0)
        share *= np.array([weights[kind] for kind in self.table.kind[end]])
        taught = self.learned.weights if self.learned else np.empty(0)
        self._cumulative = np.cumsum(np.concatenate([share / share.sum() * (1 - taught.sum()), taught]))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless seeded draws; `trainer.max_steps` ends the training."""
        table = self.learned.training if self.learned else self.table
        unseen = UnseenValues.fit(self.table, self.unseen)
        draws = _Draws(table, self._cumulative, self.window, self.batch_size, self.seed, self._done, unseen)
        return DataLoader(draws, batch_size=None)

    def _done(self) -> int:
        """Batches this training has already used; above 0 after a resume."""
        return self.trainer.fit_loop.total_batch_idx + 1 if self.trainer is not None else 0

    def val_dataloader(self) -> DataLoader[Batch]:
        """The fixed held-back sample."""
        windows = self.table.windows["calibration"]
        size = min(self.validation_windows, len(windows))
        chosen = np.random.default_rng(self.seed).choice(len(windows), size, replace=False)
        held_back = _HeldBackBatches(self.table, windows[np.sort(chosen)], self.window, self.batch_size)
        return DataLoader(held_back, batch_size=None)
