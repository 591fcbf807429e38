"""Torch -> ONNX, and the check that both compute the same numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from data.arrays import Ints
from data.dataset.table import ActionTable
from data.errors import KubehabitError
from detection.parity_check import ParityCheck
from detection.reconstruction import NewestOnnxModel, Nll, OnnxModel
from detection.windows import Cut
from training.model import Autoencoder, Scorer
from training.model_newest import NewestScorer
from training.stretch import window_inputs

OPSET = 17
INPUTS = ("tokens", "lengths", "principal", "group", "positions")
OUTPUTS = ("nll", "log_probs")
TOLERANCE = 1e-4
PARITY_BATCHES = 200
#: Windows of the self-test in the bundle: some kilobytes, and milliseconds at every start of the service.
PARITY_WINDOWS = 96


class TorchModel:
    """The torch model behind the detector's interface, for calibration before export."""

    def __init__(self, model: Autoencoder) -> None:
        self.scorer = Scorer(model).eval()

    def __call__(
        self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints, positions: Ints
    ) -> tuple[Nll, Nll]:
        """See `detection.reconstruction.Model`."""
        inputs = (tokens, lengths, principal, group, positions)
        with torch.no_grad():
            nll, log_probs = self.scorer(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs))
        return nll.numpy(), log_probs.numpy()


def export(model: Autoencoder, path: Path) -> None:
    """Write the scoring graph; KubehabitError if an axis that must be free came out frozen.

    The tracing exporter is used on purpose: it is fast, and torch's newer one keeps the time axis symbolic only for the
    first LSTM that a process exports (see docs/export.md).
    """
    fields = len(model.config.vocabulary)
    pair = torch.tensor([0, 1])
    example = (
        torch.zeros(2, 3, fields, dtype=torch.int64),
        torch.tensor([3, 2]),
        torch.zeros_like(pair),  # a starter model knows no principal
        pair,
        torch.arange(2),
    )
    axes = {
        "tokens": {0: "batch", 1: "window"},
        **{name: {0: "batch"} for name in ("lengths", "principal", "group")},
        "positions": {0: "positions"},
        **{name: {0: "batch", 1: "positions"} for name in OUTPUTS},
    }
    _write(Scorer(model), example, path, INPUTS, OUTPUTS, axes)


def export_newest(model: Autoencoder, path: Path) -> None:
    """Write the graph for the newest action alone, see `training.model_newest`."""
    config = model.config
    shapes = ((5, len(config.vocabulary)), (5,), (5,), (3, config.window))
    example = tuple(torch.zeros(shape, dtype=torch.int64) for shape in shapes)
    axes = {
        **{name: {0: "actions"} for name in ("actions", "principal", "group")},
        "index": {0: "windows"},
        "nll": {0: "windows"},
    }
    _write(NewestScorer(model), example, path, tuple(axes)[:-1], ("nll",), axes)


def _write(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
) -> None:
    with warnings.catch_warnings():
        # The tracer warns of LSTM batch sizes; the parity check decides on that.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnx.load(str(path)).graph
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if not all(dims[axis].dim_param for axis in axes[value.name]):
            raise KubehabitError(
                f"ONNX export froze an axis of {value.name!r} that must stay free; the bundle was not written."
            )


def check_parity(
    model: Autoencoder, path: Path, *, batches: int | None = None, tolerance: float = TOLERANCE
) -> float:
    """Largest absolute difference of the NLL, torch against onnxruntime, over random ragged batches; an error if too large.

    Args:
        model: the torch model.
        path: of its graph.
        batches: number of batches; `PARITY_BATCHES` if not given.
        tolerance: largest difference that is allowed, nats.
    """
    rng = np.random.default_rng(0)
    config = model.config
    reference, exported = TorchModel(model), OnnxModel(str(path))

    def difference() -> Nll:
        batch, window = int(rng.integers(1, 33)), int(rng.integers(1, config.window + 1))
        inputs = (
            np.stack([rng.integers(0, size, (batch, window)) for size in config.vocabulary], axis=-1),
            rng.integers(1, window + 1, batch),
            rng.integers(0, config.principals + 1, batch),
            rng.integers(0, config.groups + 1, batch),
            np.arange(int(rng.integers(1, window + 1))),
        )
        return reference(*inputs)[0] - exported(*inputs)[0]

    return _largest(difference, PARITY_BATCHES if batches is None else batches, tolerance)


def check_newest(
    model: Autoencoder, path: Path, *, batches: int | None = None, tolerance: float = TOLERANCE
) -> float:
    """As `check_parity`, for the graph of `export_newest`: overlapping windows of several principals, whole and short."""
    rng = np.random.default_rng(0)
    config = model.config
    reference, exported = TorchModel(model), NewestOnnxModel(str(path))

    def difference() -> Nll:
        actions = rng.integers(1, 3 * config.window, int(rng.integers(1, 6)))  # of each principal
        owner = np.repeat(np.arange(len(actions)), actions)
        start = np.repeat(np.cumsum(actions) - actions, actions)
        newest = np.arange(len(owner))
        first = np.maximum(newest - rng.integers(0, config.window, len(owner)), start)
        block = np.stack([rng.integers(0, size, len(owner)) for size in config.vocabulary], axis=-1)
        cut = Cut(block.astype(np.int16), first, newest - first + 1, newest, config.window)
        principal = rng.integers(0, config.principals + 1, len(actions))[owner]
        group = rng.integers(0, config.groups + 1, len(actions))[owner]
        rows = rng.permutation(len(owner))[: int(rng.integers(1, len(owner) + 1))]
        inputs = (cut.tokens(rows), cut.lengths[rows], principal[rows], group[rows], np.zeros(1, np.int64))
        return reference(*inputs)[0][:, 0] - exported(cut, principal, group, rows)

    return _largest(difference, PARITY_BATCHES if batches is None else batches, tolerance)


def _largest(difference: Callable[[], Nll], batches: int, tolerance: float) -> float:
    worst = 0.0
    for _ in range(batches):
        # np.maximum, unlike max, passes a NaN on.
        worst = float(np.maximum(worst, np.abs(difference()).max()))
    if not worst <= tolerance:
        raise KubehabitError(
            f"The exported model differs from the trained one by {worst:.2g} nats (allowed {tolerance:.0e}); nothing was "
            "registered. Check the versions of torch, onnx and onnxruntime against requirements/lock.txt."
        )
    return worst


def parity_check(model: Autoencoder, table: ActionTable, windows: int = PARITY_WINDOWS) -> ParityCheck:
    """The self-test of a model: windows spread over the held-back data, with what torch makes of the newest action of each.

    One in eight is given an unknown principal and group, as the service will meet them.
    """
    every = table.windows["calibration"]
    chosen = every[np.unique(np.linspace(0, len(every) - 1, min(windows, len(every))).astype(np.int64))]
    tokens, lengths, principal, group = window_inputs(table, chosen, model.config.window)
    principal[::8] = group[::8] = 0
    nll, _ = TorchModel(model)(tokens, lengths, principal, group, np.zeros(1, np.int64))
    return ParityCheck(tokens.astype(np.int16), lengths, principal, group, nll[:, 0])
