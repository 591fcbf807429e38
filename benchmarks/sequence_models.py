"""The learning detectors of the published benchmarks: the product's autoencoder and a next-key LSTM, trained and scored alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.sequences import Floats, Session
from data.actions.vocabulary import MASK, PAD, UNKNOWN
from training.model import Autoencoder, ModelConfig, targets_at

BEGIN, END = MASK + 1, MASK + 2

#: Share of the input events hidden in training.
_MASKED = 0.2

Tick = Callable[[], None]


class Surprise(NamedTuple):
    """What a model makes of a session.

    Attributes:
        nll: of every event, in nats.
        rank: of every event, the alternatives that are likelier.
        code: float64 [Z], mean over the events of what the model squeezed their surroundings into.
    """

    nll: Floats
    rank: Floats
    code: Floats


class Read(NamedTuple):
    """What a model makes of B windows, newest event first: logits [B, W, V], targets [B, W], real [B, W], codes [B, W, Z]."""

    logits: Tensor
    targets: Tensor
    real: Tensor
    codes: Tensor


@dataclass(frozen=True, slots=True)
class Budget:
    """What every detector gets alike for one view of a set.

    Attributes:
        steps: training steps of one model.
        batch: windows in a step.
        window: events in a window, ends included; longer sessions are cut into overlapping windows.
        hidden: width of the LSTMs.
        rate: highest learning rate of the one-cycle schedule.
    """

    steps: int
    batch: int
    window: int
    hidden: int
    rate: float


def view(name: str, session: Session) -> Session:
    """A session as `whole` or `kinds` sees it."""
    return session if name == "whole" else tuple(sorted(set(session)))


class Alphabet:
    """Event key <-> token of the one field.

    An event of one learnt session only is unknown, like one never seen. So a model learns how often something new
    comes; a token that is never a target in training would cost an arbitrary amount.
    """

    def __init__(self, learnt: Sequence[Session]) -> None:
        sessions = Counter(event for session in learnt for event in set(session))
        common = sorted(event for event, count in sessions.items() if count > 1)
        self.ids = {event: END + 1 + i for i, event in enumerate(common)}
        self.size = END + 1 + len(self.ids)

    def encode(self, session: Session) -> list[int]:
        """Tokens of a session, its ends marked."""
        return [BEGIN, *(self.ids.get(event, UNKNOWN) for event in session), END]


def cut(length: int, window: int) -> list[tuple[int, int, int, int]]:
    """Overlapping windows over a session: (begin, end, first scored, after the last scored).

    Every event is scored once, in the window in which it stands furthest from an edge.
    """
    if length <= window:
        return [(0, length, 0, length)]
    begins = [*range(0, length - window, max(1, window * 3 // 4)), length - window]
    borders = [0, *((a + b + window) // 2 for a, b in pairwise(begins)), length]
    return [(b, b + window, borders[i], borders[i + 1]) for i, b in enumerate(begins)]


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(tokens int64 [B, W], lengths int64 [B])."""
    lengths = [len(row) for row in rows]
    tokens = np.full((len(rows), max(lengths)), PAD, np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return torch.from_numpy(tokens), torch.tensor(lengths)


class Reconstruction(nn.Module):
    """Ours: the rebuilding half of the product's autoencoder over one field."""

    def __init__(self, size: int, budget: Budget) -> None:
        super().__init__()
        self.model = Autoencoder(
            ModelConfig(
                vocabulary=(size,),
                principals=1,
                groups=1,
                window=budget.window,
                hidden=budget.hidden,
                embedding=16,
                bottleneck=32,
                condition=8,
                depth=budget.window,
                mask=_MASKED,
            )
        )
        self.squeezed = torch.empty(0)  # what last came through the bottleneck, [B, 1, Z]
        self.model.squeeze.register_forward_hook(self._keep)

    def _keep(self, _layer: nn.Module, _given: object, out: Tensor) -> None:
        self.squeezed = out.detach()

    def forward(self, tokens: Tensor, lengths: Tensor) -> Read:
        """Reconstruct windows of tokens [B, W]."""
        events = tokens.unsqueeze(-1)  # [B, W, 1]
        positions = torch.arange(tokens.shape[1])
        one = torch.ones(len(tokens), dtype=torch.int64)
        read = self.model.corrupt(events) if self.training else events
        logits, _ = self.model(read, lengths, one, one, positions)  # [B, W, V]
        return Read(
            logits,
            targets_at(events, lengths, positions).squeeze(-1),
            positions.unsqueeze(0) < lengths.unsqueeze(1),
            torch.tanh(self.squeezed).expand(-1, tokens.shape[1], -1),
        )


class Cloze(nn.Module):
    """Reconstructs each event from both sides of it and never from itself (Baevski et al. 2019, arXiv 1903.07785)."""

    def __init__(self, size: int, budget: Budget) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size, 32)
        self.before, self.after = (nn.LSTM(32, budget.hidden, batch_first=True) for _ in range(2))
        self.squeeze = nn.Linear(2 * budget.hidden, 64)
        self.place = nn.Embedding(budget.window, 8)
        self.decoder = nn.LSTM(64 + 8, budget.hidden, batch_first=True)
        self.head = nn.Linear(budget.hidden, size)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Read:
        """Reconstruct windows of tokens [B, W]."""
        positions = torch.arange(tokens.shape[1])
        newest_first = targets_at(tokens.unsqueeze(-1), lengths, positions).squeeze(-1)  # [B, W]
        oldest_first, turned = tokens, newest_first
        if self.training:
            hidden = torch.rand(tokens.shape) < _MASKED
            oldest_first = tokens.masked_fill(hidden, MASK)
            turned = targets_at(oldest_first.unsqueeze(-1), lengths, positions).squeeze(-1)
        ago = positions.unsqueeze(0).minimum(lengths.unsqueeze(1) - 1)  # [B, W]
        sides = torch.cat(
            [
                _until(self.before(self.tokens(oldest_first))[0], lengths.unsqueeze(1) - 1 - ago),
                _until(self.after(self.tokens(turned))[0], ago),
            ],
            dim=-1,
        )  # [B, W, 2H]
        code = torch.tanh(self.squeeze(sides))  # [B, W, Z]
        places = self.place(positions).expand(len(tokens), -1, -1)  # [B, W, 8]
        # One step each: unrolling would hand the code of a newer event, which has read this one, down to it.
        decoded, _ = self.decoder(torch.cat([code, places], dim=-1).flatten(0, 1).unsqueeze(1))  # [B*W, 1, H]
        logits = self.head(decoded.view(*tokens.shape, -1))  # [B, W, V]
        return Read(logits, newest_first, positions.unsqueeze(0) < lengths.unsqueeze(1), code.detach())


def _until(states: Tensor, count: Tensor) -> Tensor:
    """States [B, W, H] of an LSTM after `count` [B, W] events."""
    states = torch.cat(
        [torch.zeros_like(states[:, :1]), states], dim=1
    )  # nothing is known before the first event
    return states.gather(1, count.unsqueeze(-1).expand(-1, -1, states.shape[2]))


class NextKey(nn.Module):
    """The rival: an LSTM that predicts the next event from all before it (Du et al. 2017, DeepLog), as wide as ours."""

    def __init__(self, size: int, budget: Budget) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size, 32)
        self.lstm = nn.LSTM(32, budget.hidden, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(budget.hidden, size)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Read:
        """Predict windows of tokens [B, W]; the first event of a window has nothing before it and stays unscored."""
        states, _ = self.lstm(self.dropout(self.tokens(tokens)))  # [B, W, H]
        logits = self.head(self.dropout(states))  # [B, W, V], of the event after each
        positions = torch.arange(tokens.shape[1])
        index = (lengths.unsqueeze(1) - 1 - positions.unsqueeze(0)).clamp(min=0)  # [B, W]
        before = (index - 1).clamp(min=0).unsqueeze(-1)  # [B, W, 1]
        return Read(
            logits.gather(1, before.expand(-1, -1, logits.shape[2])),
            tokens.gather(1, index),
            positions.unsqueeze(0) < lengths.unsqueeze(1) - 1,
            states.detach().gather(1, before.expand(-1, -1, states.shape[2])),
        )


OURS, LSTM = "autoencoder", "next-key LSTM"
DETECTORS: dict[str, Callable[[int, Budget], nn.Module]] = {OURS: Reconstruction, LSTM: NextKey}


class Fitted:
    """The model of one detector on one view. Every distinct session is learnt alike, however often it occurs.

    Args:
        detector: its kind, in DETECTORS.
        name: of the view.
        budget: steps, batch and window.
        cloze: whether ours decodes each event from its neighbours alone.
        learnt: sessions to learn from.
        seed: of its weights and of the order of its windows.
        tick: called after every step.
    """

    def __init__(
        self,
        detector: str,
        name: str,
        budget: Budget,
        cloze: bool,
        learnt: Sequence[Session],
        seed: int,
        tick: Tick,
    ) -> None:
        self.name, self.budget = name, budget
        seen = [view(name, session) for session in learnt]
        self.alphabet = Alphabet(seen)
        rows = [self.alphabet.encode(session) for session in sorted(set(seen))]
        windows = [row[a:b] for row in rows for a, b, _, _ in cut(len(row), budget.window)]
        torch.manual_seed(seed)
        make = Cloze if cloze and detector == OURS else DETECTORS[detector]
        self.model = make(self.alphabet.size, budget)
        self._train(windows, seed, tick)
        self.model.eval()

    def _train(self, windows: list[list[int]], seed: int, tick: Tick) -> None:
        rng = np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.budget.rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.budget.rate, total_steps=self.budget.steps
        )
        self.model.train()
        for _ in range(self.budget.steps):
            tokens, lengths = pad([windows[i] for i in rng.integers(len(windows), size=self.budget.batch)])
            read = self.model(tokens, lengths)
            loss = functional.cross_entropy(read.logits[read.real], read.targets[read.real])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            tick()

    @torch.no_grad()
    def surprise(self, sessions: Sequence[Session]) -> list[Surprise]:
        """What the model makes of each session; alike sessions are scored once."""
        seen = [view(self.name, session) for session in sessions]
        unlike = sorted(set(seen))
        rows = [self.alphabet.encode(session) for session in unlike]
        parts = [(i, *part) for i, row in enumerate(rows) for part in cut(len(row), self.budget.window)]
        parts.sort(key=lambda part: part[2] - part[1])
        nll, rank = ([np.full(len(row), np.nan) for row in rows] for _ in range(2))
        code: list[Floats | float] = [0.0] * len(rows)
        for start in range(0, len(parts), 256):
            some = parts[start : start + 256]
            tokens, lengths = pad([rows[i][a:b] for i, a, b, _, _ in some])
            read = self.model(tokens, lengths)
            log_probs = functional.log_softmax(read.logits, dim=-1)
            truth = log_probs.gather(-1, read.targets.unsqueeze(-1))
            losses = (-truth.squeeze(-1)).masked_fill(~read.real, torch.nan).numpy()  # [B, W]
            ranks = (log_probs > truth).sum(-1).float().masked_fill(~read.real, torch.nan).numpy()
            codes = read.codes.masked_fill(~read.real.unsqueeze(-1), 0.0).numpy()  # [B, W, Z]
            for row, (i, _, b, first, last) in enumerate(some):
                newest = slice(b - last, b - first)  # newest first -> oldest first
                nll[i][first:last] = losses[row, newest][::-1]
                rank[i][first:last] = ranks[row, newest][::-1]
                code[i] = code[i] + codes[row, newest].sum(0, dtype=np.float64)
        found = {}
        for i, session in enumerate(unlike):
            real = ~np.isnan(nll[i])
            found[session] = Surprise(nll[i][real], rank[i][real], np.asarray(code[i]) / real.sum())
        return [found[session] for session in seen]
