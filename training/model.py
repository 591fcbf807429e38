"""The conditional LSTM autoencoder: one file, every tensor with its shape.

A window of a principal's last actions is squeezed through a bottleneck and decoded again, newest action first. The decoder
knows who acted and who its peers are, so that the bottleneck need not carry what is habit; what is not habit has to come
through the bottleneck and is reconstructed badly. The score of an action is the negative log-likelihood (NLL, in nats) of
each of its fields under the decoder.

Papers: Srivastava et al. 2015 (LSTM autoencoder, reversed decoding), arXiv 1502.04681; Malhotra et al. 2016 (reconstruction
error as anomaly score), arXiv 1607.00148; Vincent et al. 2008 (denoising autoencoders); Baevski et al. 2019 (cloze
encoding from both sides), arXiv 1903.07785; Williams and Zipser 1989 (teacher forcing).

Letters in shapes: B windows, W actions a window, F fields, P positions asked for, V tokens of all fields together.
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
        window: longest window, in actions.
        embedding: width of a field's token embedding.
        hidden: width of the LSTMs.
        bottleneck: width of the latent code of a window.
        condition: width of the principal embedding and of the peer-group embedding.
        depth: newest actions of a window that are decoded in training; scoring uses the newest.
        mask: share of input tokens replaced by MASK in training (denoising).
        principal_dropout: share of windows trained as if their principal were unknown, so that a newcomer falls back
            on its peers.
        cloze: give each decoded action a code of its own, made of what stands before it and what stands after it and
            never of itself, so that an unfamiliar action cannot be copied through the bottleneck.
        bidirectional: read the window from both ends into its code; a cloze does so anyway.
        teacher_forcing: tell the decoder, at each step but the first, the true action that it decoded before.
    """

    vocabulary: tuple[int, ...]
    principals: int
    groups: int
    window: int = 16
    embedding: int = 16
    hidden: int = 128
    bottleneck: int = 32
    condition: int = 32
    depth: int = 4
    mask: float = 0.15
    principal_dropout: float = 0.1
    cloze: bool = False
    bidirectional: bool = False
    teacher_forcing: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


class Autoencoder(nn.Module):
    """Encoder LSTM -> bottleneck -> decoder LSTM -> one softmax head per field."""

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
        self.tokens = nn.Embedding(sum(sizes), config.embedding)
        self.principal = nn.Embedding(config.principals + 1, config.condition)
        self.group = nn.Embedding(config.groups + 1, config.condition)
        condition = 2 * config.condition
        action = self.fields * config.embedding
        self.encoder = nn.LSTM(action + condition, config.hidden, batch_first=True)
        both_ends = config.cloze or config.bidirectional
        if both_ends:
            self.backward_encoder = nn.LSTM(action + condition, config.hidden, batch_first=True)
        self.squeeze = nn.Linear(config.hidden * (2 if both_ends else 1), config.bottleneck)
        self.place = nn.Embedding(config.window, config.condition)
        width = config.bottleneck + condition + config.condition + (action if config.teacher_forcing else 0)
        self.decoder = nn.LSTM(width, config.hidden, batch_first=True)
        self.heads = nn.Linear(config.hidden + condition, sum(sizes))

    def corrupt(self, tokens: Tensor) -> Tensor:
        """Replace a random share of the tokens by MASK (training only)."""
        hidden = torch.rand(tokens.shape, device=tokens.device) < self.config.mask
        return tokens.masked_fill(hidden, MASK)

    def forward(
        self, tokens: Tensor, lengths: Tensor, principal: Tensor, group: Tensor, positions: Tensor
    ) -> Tensor:
        """Decode the newest actions of each window.

        The decoder unrolls from the newest action back, so scoring the newest alone costs one decoder step.

        Args:
            tokens: int64 [B, W, F], oldest action first, padded with 0 after `lengths`.
            lengths: int64 [B], actions in each window, at least 1.
            principal: int64 [B], 0 if never seen.
            group: int64 [B].
            positions: int64 [P], 0 to P-1: how many actions ago each decoded action was (0 = newest).

        Returns:
            float32 [B, P, V]: logits of all fields side by side.
        """
        batch, window = tokens.shape[0], tokens.shape[1]
        places = positions.shape[0]
        who = torch.cat([self.principal(principal), self.group(group)], dim=-1)  # [B, 2C]
        embedded = self.tokens(tokens + self.offsets).flatten(2)  # [B, W, F*E]
        read = torch.cat([embedded, who.unsqueeze(1).expand(-1, window, -1)], dim=-1)  # [B, W, F*E+2C]
        states, _ = self.encoder(read)  # [B, W, H]
        if self.config.cloze:
            code = self._neighbours(read, states, lengths, positions)  # [B, P, Z]
        else:
            last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, self.config.hidden)  # [B, 1, H]
            whole = states.gather(1, last)  # [B, 1, H]
            if self.config.bidirectional:
                back, _ = self.backward_encoder(_turned(read, lengths))  # [B, W, H]
                whole = torch.cat([whole, back.gather(1, last)], dim=-1)  # [B, 1, 2H]
            code = torch.tanh(self.squeeze(whole)).expand(-1, places, -1)  # [B, P, Z]
        steps = self.place(positions).unsqueeze(0).expand(batch, -1, -1)  # [B, P, C]
        given = torch.cat([code, who.unsqueeze(1).expand(-1, places, -1)], dim=-1)  # [B, P, Z+2C]
        inputs = torch.cat([given, steps], dim=-1)  # [B, P, Z+3C]
        if self.config.teacher_forcing:
            newer = targets_at(embedded, lengths, (positions - 1).clamp(min=0))  # [B, P, F*E]
            inputs = torch.cat([inputs, newer * (positions > 0).view(1, -1, 1)], dim=-1)  # [B, P, Z+3C+F*E]
        if self.config.cloze:
            # One step each: unrolling would hand the code of a newer action, which has read this one, down to it.
            decoded, _ = self.decoder(inputs.flatten(0, 1).unsqueeze(1))  # [B*P, 1, H]
            decoded = decoded.view(batch, places, self.config.hidden)  # [B, P, H]
        else:
            decoded, _ = self.decoder(inputs)  # [B, P, H]
        logits: Tensor = self.heads(
            torch.cat([decoded, given[..., self.config.bottleneck :]], dim=-1)
        )  # [B, P, V]
        return logits

    def _neighbours(self, read: Tensor, states: Tensor, lengths: Tensor, positions: Tensor) -> Tensor:
        """Codes of the decoded actions, float32 [B, P, Z], each from both sides of its action and not from the action.

        `read` [B, W, *] is what the encoder reads, `states` [B, W, H] what it made of it.
        """
        ago = positions.unsqueeze(0).minimum(lengths.unsqueeze(1) - 1)  # [B, P]
        back, _ = self.backward_encoder(_turned(read, lengths))  # [B, W, H]
        nothing = torch.zeros_like(states[:, :1])  # [B, 1, H]: what an LSTM knows before its first action

        def until(side: Tensor, count: Tensor) -> Tensor:
            """State after `count` [B, P] actions: [B, P, H]."""
            index = count.unsqueeze(-1).expand(-1, -1, self.config.hidden)
            return torch.cat([nothing, side], dim=1).gather(1, index)

        sides = torch.cat([until(states, lengths.unsqueeze(1) - 1 - ago), until(back, ago)], dim=-1)
        return torch.tanh(self.squeeze(sides))


def _turned(read: Tensor, lengths: Tensor) -> Tensor:
    """The window [B, W, *] newest action first, padded with its oldest after `lengths` [B]."""
    return targets_at(read, lengths, torch.arange(read.shape[1], device=read.device))


def targets_at(tokens: Tensor, lengths: Tensor, positions: Tensor) -> Tensor:
    """The actions at `positions` ("how many ago"): [B, P, F] of [B, W, F]; before the window it is its oldest action."""
    index = (lengths.unsqueeze(1) - 1 - positions.unsqueeze(0)).clamp(min=0)  # [B, P]
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[2]))


def field_nll(logits: Tensor, targets: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """NLL of each field in nats: float32 [B, P, F] from logits [B, P, V] and targets [B, P, F]."""
    parts = torch.split(logits, list(sizes), dim=-1)
    return torch.stack(
        [
            -functional.log_softmax(part, dim=-1).gather(-1, targets[..., i : i + 1]).squeeze(-1)
            for i, part in enumerate(parts)
        ],
        dim=-1,
    )


class Scorer(nn.Module):
    """What is exported: the autoencoder with the reconstruction error computed inside the graph."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model
        self.sizes = model.config.vocabulary

    def forward(
        self, tokens: Tensor, lengths: Tensor, principal: Tensor, group: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Arguments as for `Autoencoder.forward`.

        Returns:
            nll: float32 [B, P, F], reconstruction NLL of each field in nats.
            rank: float32 [B, P, F], alternatives the decoder finds likelier than the true value (0 = it is the likeliest).
            log_probs: float32 [B, P, V], log-probability of every token of every field, fields side by side.
        """
        logits = self.model(tokens, lengths, principal, group, positions)  # [B, P, V]
        targets = targets_at(tokens, lengths, positions)  # [B, P, F]
        nll, rank, every = [], [], []
        for i, part in enumerate(torch.split(logits, list(self.sizes), dim=-1)):
            log_probs = functional.log_softmax(part, dim=-1)  # [B, P, V_i]
            truth = log_probs.gather(-1, targets[..., i : i + 1])  # [B, P, 1]
            nll.append(-truth.squeeze(-1))
            rank.append((log_probs > truth).float().sum(-1))
            every.append(log_probs)
        return torch.stack(nll, -1), torch.stack(rank, -1), torch.cat(every, -1)
