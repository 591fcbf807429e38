"""Lightning module: one training step of the composite autoencoder and its optimizer. Configured by `configs/train.yaml`."""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from training.datamodule import Batch, rank
from training.model import Autoencoder, ModelConfig, field_nll, targets_at


class HabitModule(lightning.LightningModule):
    """Trains the autoencoder.

    Args:
        vocabulary: number of tokens of each field, from the data.
        kind_sizes: how many tokens fall back on each, from the data.
        learning_rate: peak of the one-cycle schedule (Smith 2018, arXiv 1803.09820).
        weight_decay: of AdamW.
        architecture: the rest of `training.model.ModelConfig`; `principals`, `groups` and `window` come from the data.
    """

    def __init__(
        self,
        vocabulary: list[int],
        kind_sizes: list[int],
        learning_rate: float = 4e-3,
        weight_decay: float = 1e-4,
        **architecture: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.seed = torch.initial_seed()
        self.config = ModelConfig(vocabulary=tuple(vocabulary), kind_sizes=tuple(kind_sizes), **architecture)
        self.model = Autoencoder(self.config)

    def _loss(self, batch: Batch, tokens: Tensor, principal: Tensor) -> Tensor:
        """Mean NLL of a decoded action under both decoders together, nats."""
        truth, lengths, _, group = batch
        positions = torch.arange(min(self.config.depth, truth.shape[1]), device=truth.device)
        targets = targets_at(truth, lengths, positions)  # [B, P, F]
        rebuilt, predicted = (
            field_nll(logits, targets, self.config.vocabulary).sum(-1)  # [B, P]
            for logits in self.model(tokens, lengths, principal, group, positions)
        )
        real = (positions.unsqueeze(0) < lengths.unsqueeze(1)).float()  # [B, P]
        return ((rebuilt + predicted) * real).sum() / real.sum()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Seed each step on its own: masks and dropout after a resume are those of a run that never stopped."""
        step = np.random.SeedSequence((self.seed, rank(), self.global_step))
        torch.manual_seed(int(step.generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Rebuild and predict from corrupted windows, some of them without knowing the principal."""
        tokens, _, principal, _ = batch
        known = torch.rand(principal.shape, device=principal.device) >= self.config.principal_dropout
        loss = self._loss(batch, self.model.corrupt(tokens), principal * known)
        self.log("train_nll", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Do so on held-back windows as they are scored: uncorrupted, principal known."""
        loss = self._loss(batch, batch[0], batch[2])
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
