"""How fast training is: tokens a second, the share of the machine's matrix-multiply peak, and how it grows with the data.

Trains as `kubehabit train` does on a quarter, a half and all of the shipped normal recording. The operations of a step are
counted from the model's shapes (matrix products only, backward as twice forward); the peak is the best of some large float32
products of torch with the same threads, in the same run.

Run: python -m benchmarks.bench_training [--steps 1000]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.report import Row, at_most, report
from data.actions.encoder import ActionSettings
from data.actions.fields import FIELDS
from data.events.reader import open_lines
from data.paths import Recordings
from training.model import ModelConfig

ROOT = Path(__file__).resolve().parent.parent
NORMAL = ROOT / "data" / "recordings" / "normal.jsonl.zst"
SHARES = (0.25, 0.5, 1.0)
_SIDE, _REPEATS = 2048, 12


def peak() -> float:
    """Floating-point operations a second of the best of some matrix products, float32."""
    left, right = torch.rand(_SIDE, _SIDE), torch.rand(_SIDE, _SIDE)
    best = float("inf")
    for _ in range(_REPEATS):
        began = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - began)
    return 2 * _SIDE**3 / best


def operations(model: ModelConfig) -> int:
    """Floating-point operations of the matrix products of one window in a training step, forward and backward."""
    condition = 2 * model.condition
    read = len(model.vocabulary) * model.embedding + condition
    width = model.bottleneck + condition + model.condition

    def lstm(steps: int, width: int) -> int:
        return steps * 2 * 4 * model.hidden * (width + model.hidden)

    forward = lstm(model.window, read) + lstm(model.depth, width)
    forward += 2 * model.hidden * model.bottleneck
    forward += model.depth * 2 * 2 * (model.hidden + condition) * sum(model.vocabulary)  # of two decoders
    return 3 * forward


def measure(share: float, lines: list[bytes], folder: Path, steps: int | None, best: float) -> list[Row]:
    """Rows of one training on the first share of the recording."""
    from data.dataset.build import build
    from detection.bundle import Bundle
    from training.registry import download
    from training.train import train

    log = folder / f"{share:g}.jsonl"
    log.write_bytes(b"\n".join(lines[: int(share * len(lines))]) + b"\n")
    dataset = folder / f"dataset-{share:g}"
    began = time.monotonic()
    build(
        [log], dataset, settings=ActionSettings.shipped(trusted_hops=Recordings.TRUSTED_HOPS), progress=False
    )
    built = time.monotonic() - began
    options = [] if steps is None else [f"--trainer.max_steps={steps}"]
    result = train(ROOT / "configs" / "train.yaml", dataset, options)
    whole = time.monotonic() - began
    meta = Bundle.load(download(result.model_uri)).meta["model"]
    names = ModelConfig.__dataclass_fields__
    model = ModelConfig(
        **{
            name: tuple(value) if name == "vocabulary" else value
            for name, value in meta.items()
            if name in names
        }
    )
    windows = result.metrics["actions_per_second_training"]
    title = f"{share:.0%} of the recording"
    rows = [
        Row(f"{title}: log to dataset", built, "seconds"),
        Row(f"{title}: training steps", result.metrics["seconds_training"], "seconds"),
        Row(f"{title}: windows", windows, "windows/s"),
        Row(f"{title}: tokens read", windows * model.window * len(FIELDS), "tokens/s"),
        Row(f"{title}: share of the matrix-multiply peak", 100 * windows * operations(model) / best, "%"),
    ]
    if share == 1.0:
        return [*rows, at_most(f"{title}: log to registered model", whole, "seconds", 600)]
    return [*rows, Row(f"{title}: log to registered model", whole, "seconds")]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, help="training steps in place of those of train.yaml")
    options = parser.parse_args()
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)
    best = peak()
    rows = [
        Row("load average before", os.getloadavg()[0], "runnable"),
        Row("threads", torch.get_num_threads(), "threads"),
        Row("matrix-multiply peak", best / 1e9, "GFLOP/s"),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["KUBEHABIT_HOME"] = str(Path(scratch) / "home")
        lines = list(open_lines(NORMAL))
        for share in SHARES:
            rows += measure(share, lines, Path(scratch), options.steps, best)
    report("training", rows)


if __name__ == "__main__":
    main()
