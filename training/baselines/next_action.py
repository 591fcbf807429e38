"""Next-action LSTM (DeepLog, Du et al. 2017): predicts each field of a principal's next action from those before it.

Same fields, embeddings, width, conditioning and training budget as the autoencoder. What differs is the idea: it never sees the
action it scores.

Letters in shapes: B windows, W actions a window, F fields, P scored positions, V tokens of all fields together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from data.actions.fields import FIELDS
from data.arrays import Floats, Ints
from training.baselines.base import Baseline, Recent
from training.stretch import Stretch

_BATCH = 512


class NextAction(nn.Module):
    """Embeddings of the past actions and of who acts -> LSTM -> one softmax head per field of the next action."""

    def __init__(
        self,
        vocabulary: tuple[int, ...],
        principals: int,
        groups: int,
        embedding: int,
        hidden: int,
        condition: int,
    ) -> None:
        super().__init__()
        self.sizes = list(vocabulary)
        self.offsets: Tensor
        self.register_buffer("offsets", torch.tensor(np.cumsum([0, *vocabulary[:-1]])), persistent=False)
        self.tokens = nn.Embedding(sum(vocabulary), embedding)
        self.principal = nn.Embedding(principals + 1, condition)
        self.group = nn.Embedding(groups + 1, condition)
        self.lstm = nn.LSTM(len(vocabulary) * embedding + 2 * condition, hidden, batch_first=True)
        self.heads = nn.Linear(hidden + 2 * condition, sum(vocabulary))

    def forward(self, tokens: Tensor, principal: Tensor, group: Tensor, positions: int) -> Tensor:
        """NLL (nats) of the `positions` newest actions given those before, float32 [B, P, F].

        `tokens` int64 [B, W, F] has the newest action last and is padded with 0 in front; `principal` and `group` are int64 [B].
        """
        who = torch.cat([self.principal(principal), self.group(group)], dim=-1)  # [B, 2C]
        past = self.tokens(tokens[:, :-1] + self.offsets).flatten(2)  # [B, W-1, F*E]
        given = who.unsqueeze(1).expand(-1, past.shape[1], -1)  # [B, W-1, 2C]
        states, _ = self.lstm(torch.cat([past, given], dim=-1))  # [B, W-1, H]
        logits = self.heads(torch.cat([states[:, -positions:], given[:, -positions:]], dim=-1))  # [B, P, V]
        targets = tokens[:, -positions:]  # [B, P, F]
        nll = [
            functional.cross_entropy(part.transpose(1, 2), targets[..., i], reduction="none")  # [B, P]
            for i, part in enumerate(torch.split(logits, self.sizes, dim=-1))
        ]
        return torch.stack(nll, dim=-1)


class NextActionLstm(Baseline):
    """Score: summed NLL of the scored fields of an action under the LSTM's prediction; by field: each one's NLL."""

    title: ClassVar[str] = "next-action LSTM"

    def __init__(
        self,
        vocabulary: tuple[int, ...],
        principals: int,
        groups: int,
        *,
        window: int = 16,
        embedding: int = 16,
        hidden: int = 128,
        condition: int = 32,
        depth: int = 4,
        principal_dropout: float = 0.1,
        steps: int = 1000,
        batch: int = 256,
        learning_rate: float = 4e-3,
        weight_decay: float = 1e-4,
        balance: float = 0.5,
        kind_weights: Mapping[str, float] | None = None,
        unscored_fields: tuple[str, ...] = ("gap", "owner"),
        seed: int = 7,
    ) -> None:
        """Set up for a dataset of these sizes; `depth` newest actions of a window are predicted in training.

        Steps, batch, rate and decay are of AdamW with a one-cycle schedule; the rest is as the autoencoder's.
        """
        super().__init__()
        self.steps, self.batch, self.depth, self.seed = steps, batch, depth, seed
        self.principal_dropout, self.balance = principal_dropout, balance
        self.kind_weights = dict(kind_weights or {})
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self._scored = np.array([field not in unscored_fields for field in FIELDS])
        self._recent = Recent(window)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = NextAction(vocabulary, principals, groups, embedding, hidden, condition)

    def fit(self, train: Stretch) -> Self:
        """Train on windows of normal actions."""
        windows, lengths = self._recent.append(train.name, train.tokens)
        _, who, count = np.unique(train.principal, return_inverse=True, return_counts=True)
        share = count[who].astype(np.float64) ** (self.balance - 1.0)
        share *= np.array([self.kind_weights.get(kind, 1.0) for kind in train.kind.tolist()])
        cumulative = np.cumsum(share / share.sum())
        rng = np.random.default_rng(self.seed)
        model = self.model.train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps)
        steps_back = np.arange(self.depth - 1, -1, -1)
        for _ in range(self.steps):
            rows = np.minimum(np.searchsorted(cumulative, rng.random(self.batch)), len(windows) - 1)
            known = rng.random(self.batch) >= self.principal_dropout
            nll = model(
                torch.from_numpy(windows[rows]),
                torch.from_numpy(train.principal[rows] * known),
                torch.from_numpy(train.group[rows]),
                self.depth,
            )  # [B, P, F]
            real = torch.from_numpy(steps_back < lengths[rows][:, None])  # [B, P]
            loss = nll.sum(-1)[real].mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        model.eval()
        return self

    def score(self, stretch: Stretch) -> tuple[Floats, Floats]:
        """Score each action after those before it."""
        windows, _ = self._recent.append(stretch.name, stretch.tokens)
        fields = self.nll(windows, stretch.principal, stretch.group) * self._scored
        return fields.sum(axis=1), fields

    def nll(self, windows: Ints, principal: Ints, group: Ints) -> Floats:
        """NLL of the newest action of each window, float64 [N, F]; equal windows of one principal are computed once.

        `windows` int64 [N, W, F] have the newest action last and are padded with 0 in front.
        """
        if not len(windows):
            return np.empty((0, len(FIELDS)))
        columns = [windows.reshape(len(windows), -1), principal, group]
        keyed = np.ascontiguousarray(np.column_stack(columns).astype(np.int32))
        rows_as_bytes = keyed.view(np.dtype((np.void, keyed.dtype.itemsize * keyed.shape[1]))).ravel()
        _, first, inverse = np.unique(rows_as_bytes, return_index=True, return_inverse=True)
        parts = []
        with torch.no_grad():
            for begin in range(0, len(first), _BATCH):
                rows = first[begin : begin + _BATCH]
                given = (torch.from_numpy(column[rows]) for column in (windows, principal, group))
                nll = self.model(*given, 1)
                parts.append(nll[:, 0].numpy().astype(np.float64))
        return np.concatenate(parts)[inverse]
