"""The composite LSTM autoencoder: one file, every tensor with its shape.

One encoder reads a window of a principal's last actions; two decoders say what its newest actions are. The first rebuilds
them, newest first, through a bottleneck that has read the whole window. The second predicts each from what the encoder knew just
before it. Both know who acted and who its peers are, so that neither need carry what is habit. The first can copy an unfamiliar
action through the bottleneck; the second cannot expect a familiar one that nothing announced. An action is odd where both are
surprised: its score is the negative log-likelihood (NLL, in nats) of each of its fields under the mixture of both.

Papers: Srivastava et al. 2015 (composite LSTM autoencoder), arXiv 1502.04681; Malhotra et al. 2016 (reconstruction error as
anomaly score), arXiv 1607.00148; Du et al. 2017 (DeepLog, next-action prediction); Vincent et al. 2008 (denoising
autoencoders).

Letters in shapes: B windows, W actions a window, F fields, P positions asked for, V tokens of all fields together, E embedding,
C condition, H hidden, Z bottleneck.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MASK = 2  # data.actions.vocabulary.MASK; tested to be equal


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Architecture.

    Attributes:
        vocabulary: number of tokens of each field, in the order of data.actions.fields.FIELDS.
        principals: number of known principals; ids run from 1, 0 is "never seen".
        groups: number of known peer groups; ids run from 1.
        kind_sizes: how many tokens fall back on each token, fields side by side (`Vocabulary.kind_sizes`); empty for one each.
        window: longest window, in actions.
        embedding: width of a field's token embedding.
        hidden: width of the LSTMs.
        bottleneck: width of the latent code of a window.
        condition: width of the principal embedding and of the peer-group embedding.
        depth: newest actions of a window that are decoded in training; scoring uses the newest.
        mask: share of input tokens replaced by MASK in training (denoising).
        principal_dropout: share of windows trained as if their principal were unknown, so that a newcomer falls back
            on its peers.
    """

    vocabulary: tuple[int, ...]
    principals: int
    groups: int
    kind_sizes: tuple[int, ...] = ()
    window: int = 16
    embedding: int = 16
    hidden: int = 112
    bottleneck: int = 32
    condition: int = 32
    depth: int = 4
    mask: float = 0.15
    principal_dropout: float = 0.1

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


class Autoencoder(nn.Module):
    """Encoder LSTM -> (bottleneck -> decoder LSTM -> heads that rebuild) and (state before -> heads that predict)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        sizes = config.vocabulary
        self.fields = len(sizes)
        # All fields share one embedding table; a field's tokens start at its offset.
        self.offsets: Tensor
        self.register_buffer(
            "offsets", torch.tensor([sum(sizes[:i]) for i in range(self.fields)]), persistent=False
        )
        # What a value outside the vocabulary costs beside its kind: it shares the kind's probability with as many others.
        self.sharing: Tensor
        kinds = torch.tensor(config.kind_sizes or (1,) * sum(sizes), dtype=torch.float32)
        self.register_buffer("sharing", torch.log(kinds), persistent=False)  # [V]
        self.tokens = nn.Embedding(sum(sizes), config.embedding)
        self.principal = nn.Embedding(config.principals + 1, config.condition)
        self.group = nn.Embedding(config.groups + 1, config.condition)
        condition = 2 * config.condition
        self.encoder = nn.LSTM(self.fields * config.embedding + condition, config.hidden, batch_first=True)
        self.squeeze = nn.Linear(config.hidden, config.bottleneck)
        self.place = nn.Embedding(config.window, config.condition)
        self.decoder = nn.LSTM(
            config.bottleneck + condition + config.condition, config.hidden, batch_first=True
        )
        self.heads = nn.Linear(config.hidden + condition, sum(sizes))
        self.next_heads = nn.Linear(config.hidden + condition, sum(sizes))
        # Weight of the rebuilding decoder in the mixture, by field: even. Fitted to held-back data it goes to the decoder that
        # copies, which foresees a stranger's action as well as its principal's own (`benchmarks.decoders`). It is saved because
        # models of earlier releases were fitted.
        self.rebuilt_share: Tensor
        self.register_buffer("rebuilt_share", torch.full((self.fields,), 0.5))

    def cost_of_kinds(self, targets: Tensor) -> Tensor:
        """What tokens [..., F] that stand for a kind of values cost besides, as one of so many: nats [..., F], 0 for others."""
        return self.sharing[targets + self.offsets]

    def corrupt(self, tokens: Tensor) -> Tensor:
        """Replace a random share of the tokens by MASK (training only)."""
        hidden = torch.rand(tokens.shape, device=tokens.device) < self.config.mask
        return tokens.masked_fill(hidden, MASK)

    def forward(
        self, tokens: Tensor, lengths: Tensor, principal: Tensor, group: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode the newest actions of each window, twice.

        The rebuilding decoder unrolls from the newest action back, so scoring the newest alone costs one step of it.

        Args:
            tokens: int64 [B, W, F], oldest action first, padded with 0 after `lengths`.
            lengths: int64 [B], actions in each window, at least 1.
            principal: int64 [B], 0 if never seen.
            group: int64 [B].
            positions: int64 [P], 0 to P-1: how many actions ago each decoded action was (0 = newest).

        Returns:
            Logits of all fields side by side, float32 [B, P, V] each: rebuilt from the whole window, and predicted from the
            actions before.
        """
        batch, window = tokens.shape[0], tokens.shape[1]
        who = torch.cat([self.principal(principal), self.group(group)], dim=-1).unsqueeze(1)  # [B, 1, 2C]
        embedded = self.tokens(tokens + self.offsets).flatten(2)  # [B, W, F*E]
        states, _ = self.encoder(torch.cat([embedded, who.expand(-1, window, -1)], dim=-1))  # [B, W, H]

        whole = _after(states, lengths.unsqueeze(1))  # [B, 1, H]
        code = torch.tanh(self.squeeze(whole))  # [B, 1, Z]
        places = positions.shape[0]
        steps = self.place(positions).unsqueeze(0).expand(batch, -1, -1)  # [B, P, C]
        given = torch.cat([code, who], dim=-1).expand(-1, places, -1)  # [B, P, Z+2C]
        decoded, _ = self.decoder(torch.cat([given, steps], dim=-1))  # [B, P, H]

        before = _after(states, lengths.unsqueeze(1) - 1 - positions.unsqueeze(0))  # [B, P, H]
        whose = who.expand(-1, places, -1)  # [B, P, 2C]
        rebuilt: Tensor = self.heads(torch.cat([decoded, whose], dim=-1))  # [B, P, V]
        predicted: Tensor = self.next_heads(torch.cat([before, whose], dim=-1))  # [B, P, V]
        return rebuilt, predicted


def _after(states: Tensor, count: Tensor) -> Tensor:
    """The encoder's state after its first `count` [B, P] actions, 0 for none or fewer: [B, P, H] of [B, W, H]."""
    nothing = torch.zeros_like(states[:, :1])  # [B, 1, H]
    index = count.clamp(min=0).unsqueeze(-1).expand(-1, -1, states.shape[2])  # [B, P, H]
    return torch.cat([nothing, states], dim=1).gather(1, index)


def targets_at(tokens: Tensor, lengths: Tensor, positions: Tensor) -> Tensor:
    """The actions at `positions` ("how many ago"): [B, P, F] of [B, W, F]; before the window it is its oldest action."""
    index = (lengths.unsqueeze(1) - 1 - positions.unsqueeze(0)).clamp(min=0)  # [B, P]
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[2]))


def field_nll(logits: Tensor, targets: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """NLL of each field under one decoder, nats: float32 [..., F] from logits [..., V] and targets int64 [..., F]."""
    parts = torch.split(logits, list(sizes), dim=-1)
    return torch.stack(
        [
            torch.logsumexp(part, -1) - part.gather(-1, targets[..., i : i + 1]).squeeze(-1)
            for i, part in enumerate(parts)
        ],
        dim=-1,
    )


def mixed(rebuilt: Tensor, predicted: Tensor, share: Tensor) -> Tensor:
    """log(share * exp(rebuilt) + (1 - share) * exp(predicted)) of log-probabilities and a share, all of one shape."""
    # Added up pair by pair, so that a score does not depend on its place in a batch: softplus would round by vector lanes.
    weighed = torch.stack([rebuilt + torch.log(share), predicted + torch.log1p(-share)], dim=-1)  # [..., 2]
    return torch.logsumexp(weighed, dim=-1)


class Scorer(nn.Module):
    """What is exported: the autoencoder with its error computed inside the graph."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model
        self.sizes = model.config.vocabulary

    def forward(
        self, tokens: Tensor, lengths: Tensor, principal: Tensor, group: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Arguments as for `Autoencoder.forward`.

        Returns:
            nll: float32 [B, P, F], NLL of each field under the mixture of both decoders, nats. Of a token that stands for a
                kind of values it is that of one of so many.
            log_probs: float32 [B, P, V], log-probability of every token of every field, fields side by side.
        """
        decoders = self.model(tokens, lengths, principal, group, positions)  # two of [B, P, V]
        parts = zip(*(torch.split(logits, list(self.sizes), dim=-1) for logits in decoders), strict=True)
        targets = targets_at(tokens, lengths, positions)  # [B, P, F]
        nll, every = [], []
        for i, (rebuilt, predicted) in enumerate(parts):  # [B, P, V_i] each
            log_probs = mixed(
                functional.log_softmax(rebuilt, dim=-1),
                functional.log_softmax(predicted, dim=-1),
                self.model.rebuilt_share[i],
            )
            nll.append(-log_probs.gather(-1, targets[..., i : i + 1]).squeeze(-1))
            every.append(log_probs)
        return torch.stack(nll, -1) + self.model.cost_of_kinds(targets), torch.cat(every, -1)
