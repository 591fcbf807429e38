"""Torch -> ONNX, and the check that both compute the same numbers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

from data.detector import Ints, Nll, OnnxModel
from data.errors import KubehabitError
from training.model import Autoencoder, Scorer

OPSET = 17
INPUTS = ("tokens", "lengths", "principal", "group", "positions")
OUTPUTS = ("nll", "rank", "log_probs")
TOLERANCE = 1e-4
PARITY_BATCHES = 200


class TorchModel:
    """The torch model behind the detector's interface, for calibration before export."""

    def __init__(self, model: Autoencoder) -> None:
        self.scorer = Scorer(model).eval()

    def __call__(
        self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints, positions: Ints
    ) -> tuple[Nll, Nll, Nll]:
        """See `data.detector.Model`."""
        inputs = (tokens, lengths, principal, group, positions)
        with torch.no_grad():
            nll, rank, log_probs = self.scorer(
                *(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs)
            )
        return nll.numpy(), rank.numpy(), log_probs.numpy()


def export(model: Autoencoder, path: Path) -> None:
    """Write the scoring graph.

    The tracing exporter is used on purpose: it is fast, and torch's newer one keeps the time axis symbolic only for the
    first LSTM that a process exports (see docs/export.md).

    Raises:
        KubehabitError: an axis that must be free came out frozen.
    """
    config = model.config
    fields = len(config.vocabulary)
    example = (
        torch.zeros(2, 3, fields, dtype=torch.int64),
        torch.tensor([3, 2]),
        torch.tensor([0, 1]),
        torch.tensor([0, 1]),
        torch.arange(2),
    )
    axes = {
        "tokens": {0: "batch", 1: "window"},
        **{name: {0: "batch"} for name in ("lengths", "principal", "group")},
        "positions": {0: "positions"},
        **{name: {0: "batch", 1: "positions"} for name in OUTPUTS},
    }
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the tracer warns of LSTM batch sizes; the parity check is the judge of that
        torch.onnx.export(
            Scorer(model).eval(),
            example,
            str(path),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnx.load(str(path)).graph
    for value in graph.input:
        free = len(axes[value.name])
        dims = value.type.tensor_type.shape.dim
        if any(not dims[i].dim_param for i in range(free)):
            raise KubehabitError(
                f"ONNX export froze an axis of {value.name!r} that must stay free; the bundle was not written."
            )


def check_parity(
    model: Autoencoder,
    path: Path,
    *,
    batches: int = PARITY_BATCHES,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> float:
    """Largest absolute difference of the NLL, torch against onnxruntime, over random ragged batches.

    Raises:
        KubehabitError: it is above `tolerance`.
    """
    rng = np.random.default_rng(seed)
    config = model.config
    reference, exported = TorchModel(model), OnnxModel(str(path))
    worst = 0.0
    for _ in range(batches):
        batch, window = int(rng.integers(1, 33)), int(rng.integers(1, config.window + 1))
        inputs = (
            np.stack([rng.integers(0, size, (batch, window)) for size in config.vocabulary], axis=-1),
            rng.integers(1, window + 1, batch),
            rng.integers(0, config.principals + 1, batch),
            rng.integers(0, config.groups + 1, batch),
            np.arange(int(rng.integers(1, window + 1))),
        )
        # np.maximum, unlike max, passes a NaN on.
        worst = float(np.maximum(worst, np.abs(reference(*inputs)[0] - exported(*inputs)[0]).max()))
    if not worst <= tolerance:
        raise KubehabitError(
            f"The exported model differs from the trained one by {worst:.2g} nats (allowed {tolerance:.0e}); nothing was "
            "registered. Check the versions of torch, onnx and onnxruntime against requirements/lock.txt."
        )
    return worst
