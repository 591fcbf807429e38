"""The Lightning side: which windows are trained on, and one training step. Configured by `configs/train.yaml`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from data.identity import KINDS
from data.table import ActionTable, cut_windows, load
from training.feedback import FeedbackConfig, Learned, learn, read_feedback
from training.model import Autoencoder, ModelConfig, field_nll, targets_at

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class _Draws(IterableDataset[Batch]):
    """An endless, seeded stream of batches. Each device draws its own.

    Every batch has a random stream of its own, so that a resumed training goes on with the very batch it was killed before.
    `done` says how many batches were trained on when the stream begins.
    """

    def __init__(
        self,
        table: ActionTable,
        cumulative: npt.NDArray[np.float64],
        window: int,
        batch_size: int,
        seed: int,
        done: Callable[[], int],
    ) -> None:
        self.table, self.cumulative, self.window, self.batch_size, self.seed, self.done = (
            table,
            cumulative,
            window,
            batch_size,
            seed,
            done,
        )

    def __iter__(self) -> Iterator[Batch]:
        windows = self.table.windows["train"]
        for number in count(self.done()):
            rng = np.random.default_rng((self.seed, _rank(), number))
            drawn = np.searchsorted(self.cumulative, rng.random(self.batch_size))
            yield _batch(self.table, windows[np.minimum(drawn, len(windows) - 1)], self.window)


def _rank() -> int:
    """Which of the devices this process drives; 0 if there is one only."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


class _HeldBack(IterableDataset[Batch]):
    """A fixed sample of held-back windows, the same at every validation."""

    def __init__(self, table: ActionTable, window: int, batch_size: int, seed: int, size: int) -> None:
        windows = table.windows["calibration"]
        chosen = np.random.default_rng(seed).choice(len(windows), min(size, len(windows)), replace=False)
        self.table, self.window, self.batch_size = table, window, batch_size
        self.windows = windows[np.sort(chosen)]

    def __iter__(self) -> Iterator[Batch]:
        for begin in range(0, len(self.windows), self.batch_size):
            yield _batch(self.table, self.windows[begin : begin + self.batch_size], self.window)


def _batch(table: ActionTable, windows: npt.NDArray[np.int64], window: int) -> Batch:
    """(tokens [B, W, F], lengths [B], principal [B], group [B]), all int64."""
    tokens, lengths = cut_windows(table, windows, window)
    end = windows[:, 0]
    return (
        torch.from_numpy(tokens),
        torch.from_numpy(lengths),
        torch.from_numpy(table.principal[end].astype(np.int64)),
        torch.from_numpy(table.group[end].astype(np.int64)),
    )


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
        validation_windows: int = 4096,
        feedback: Path | None = None,
        feedback_logs: list[Path] | None = None,
        teaching: FeedbackConfig | None = None,
    ) -> None:
        super().__init__()
        self.table = load(Path(path))
        self.learned: Learned | None = None
        if feedback is not None:
            self.learned = learn(
                self.table, read_feedback(feedback), feedback_logs or [], window, teaching or FeedbackConfig()
            )
            self.table = self.learned.table
        self.window = window
        self.batch_size = batch_size
        self.seed = seed
        self.validation_windows = validation_windows
        self.vocabulary = list(self.table.vocabulary.sizes)
        self.principals = len(self.table.principals.ids)
        self.groups = len(self.table.principals.groups)
        weights = dict.fromkeys(KINDS, 1.0) | (kind_weights or {})
        end = self.table.windows["train"][:, 0]
        who = self.table.principal[end]
        share = np.bincount(who).astype(np.float64)[who] ** (balance - 1.0)
        share *= np.array([weights[kind] for kind in self.table.kind[end]])
        taught = self.learned.weights if self.learned else np.empty(0)
        self._cumulative = np.cumsum(np.concatenate([share / share.sum() * (1 - taught.sum()), taught]))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Endless seeded draws; `trainer.max_steps` ends the training."""
        draws = _Draws(
            self.learned.training if self.learned else self.table,
            self._cumulative,
            self.window,
            self.batch_size,
            self.seed,
            self._done,
        )
        return DataLoader(draws, batch_size=None)

    def _done(self) -> int:
        """Batches this training has already used; above 0 after a resume."""
        return self.trainer.fit_loop.total_batch_idx + 1 if self.trainer is not None else 0

    def val_dataloader(self) -> DataLoader[Batch]:
        """The fixed held-back sample."""
        held_back = _HeldBack(self.table, self.window, self.batch_size, self.seed, self.validation_windows)
        return DataLoader(held_back, batch_size=None)


class HabitModule(lightning.LightningModule):
    """Trains the autoencoder.

    Args:
        vocabulary, principals, groups: sizes, taken from the data.
        window: actions in a window, taken from the data.
        embedding, hidden, bottleneck, condition, depth, mask, principal_dropout, cloze, bidirectional,
            teacher_forcing: see `training.model.ModelConfig`.
        learning_rate: peak of the one-cycle schedule (Smith 2018, arXiv 1803.09820).
        weight_decay: of AdamW.
    """

    def __init__(
        self,
        vocabulary: list[int],
        principals: int,
        groups: int,
        window: int = 16,
        embedding: int = 16,
        hidden: int = 128,
        bottleneck: int = 32,
        condition: int = 32,
        depth: int = 4,
        mask: float = 0.15,
        principal_dropout: float = 0.1,
        cloze: bool = False,
        bidirectional: bool = False,
        teacher_forcing: bool = False,
        learning_rate: float = 4e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.seed = torch.initial_seed()
        self.config = ModelConfig(
            vocabulary=tuple(vocabulary),
            principals=principals,
            groups=groups,
            window=window,
            embedding=embedding,
            hidden=hidden,
            bottleneck=bottleneck,
            condition=condition,
            depth=depth,
            mask=mask,
            principal_dropout=principal_dropout,
            cloze=cloze,
            bidirectional=bidirectional,
            teacher_forcing=teacher_forcing,
        )
        self.model = Autoencoder(self.config)

    def _loss(self, batch: Batch, tokens: Tensor, principal: Tensor) -> tuple[Tensor, Tensor]:
        """Mean NLL of a decoded action (nats), and that of each field, float32 [F]."""
        truth, lengths, _, group = batch
        positions = torch.arange(min(self.config.depth, truth.shape[1]), device=truth.device)
        logits = self.model(tokens, lengths, principal, group, positions)
        nll = field_nll(logits, targets_at(truth, lengths, positions), self.config.vocabulary)  # [B, P, F]
        real = (positions.unsqueeze(0) < lengths.unsqueeze(1)).unsqueeze(-1).float()  # [B, P, 1]
        fields = (nll * real).sum((0, 1)) / real.sum()
        return fields.sum(), fields

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Give each step a random stream of its own: masks and dropout after a resume are those of a run that never stopped."""
        step = np.random.SeedSequence((self.seed, _rank(), self.global_step))
        torch.manual_seed(int(step.generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Reconstruct corrupted windows, some of them without knowing the principal."""
        tokens, _, principal, _ = batch
        known = torch.rand(principal.shape, device=principal.device) >= self.config.principal_dropout
        loss, _ = self._loss(batch, self.model.corrupt(tokens), principal * known)
        self.log("train_nll", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Reconstruct held-back windows as they are scored: uncorrupted, principal known."""
        loss, _ = self._loss(batch, batch[0], batch[2])
        self.log("held_back_nll", loss, prog_bar=True, batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle schedule over `trainer.max_steps`."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
