"""How the two decoders are weighed: the share of each field's mixture, fitted on held-back normal actions after training."""

from __future__ import annotations

import numpy as np
import torch

from data.arrays import Floats, Ints
from data.dataset.table import ActionTable
from detection.reconstruction import Nll
from training.model import Autoencoder, field_nll, targets_at
from training.stretch import window_inputs

#: Held-back actions that are looked at.
_MOST = 8192
_BATCH = 512
_STEPS = 200
#: Least share of either decoder. Likelihood alone favours the one that copies, which foresees a stranger's action as well as
#: its principal's own; so what one of them expects costs at most ln(4) = 1.4 nats more in the mixture, whatever the other says.
_LEAST = 0.25


def fit_mixture(model: Autoencoder, table: ActionTable, seed: int = 0) -> Floats:
    """Set a model's `rebuilt_share` in place from the held-back actions of a dataset; returns it, float64 [F].

    Principals count alike as far as the square root of their actions: the machinery's routine is not to decide for people.
    """
    held_back = table.windows["calibration"]
    rows = np.random.default_rng(seed).permutation(len(held_back))[:_MOST]
    parts = [_errors(model, table, held_back[rows[at : at + _BATCH]]) for at in range(0, len(rows), _BATCH)]
    rebuilt, predicted = (np.concatenate(side) for side in zip(*parts, strict=True))
    _, who, count = np.unique(table.name[held_back[rows, 0]], return_inverse=True, return_counts=True)
    share = likeliest_share(rebuilt, predicted, 1.0 / np.sqrt(count[who]))
    model.rebuilt_share.copy_(torch.from_numpy(share))
    return share


def _errors(model: Autoencoder, table: ActionTable, windows: Ints) -> tuple[Nll, Nll]:
    """NLL of the newest action of windows under each decoder, float32 [B, F]."""
    tokens, lengths, *who = map(torch.from_numpy, window_inputs(table, windows, model.config.window))
    newest = torch.zeros(1, dtype=torch.int64)
    targets = targets_at(tokens, lengths, newest)
    with torch.no_grad():
        decoders = model(tokens, lengths, *who, newest)
        rebuilt, predicted = (
            field_nll(logits, targets, model.config.vocabulary)[:, 0].numpy() for logits in decoders
        )
    return rebuilt, predicted


def likeliest_share(rebuilt: Nll, predicted: Nll, weight: Floats) -> Floats:
    """Share of the rebuilding decoder in each field's mixture that makes the truth likeliest, float64 [F].

    By expectation maximisation, which for two fixed parts has no other optimum to end in (Dempster et al. 1977).

    Args:
        rebuilt, predicted: float32 [N, F], NLL of the same actions.
        weight: [N], of each action.
    """
    ahead = rebuilt.astype(np.float64) - predicted  # log of how much likelier the prediction made the truth
    share = np.full(rebuilt.shape[1], 0.5)
    weight = weight / weight.sum()
    for _ in range(_STEPS):
        odds = np.log(share / (1 - share)) - ahead
        share = np.clip(weight @ (1 / (1 + np.exp(-np.clip(odds, -60, 60)))), _LEAST, 1 - _LEAST)
    return share
