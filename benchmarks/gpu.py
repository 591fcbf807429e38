"""Training on a GPU: windows a second, share of the device's peak, and whether bfloat16 and cuDNN reach the same loss.

    python -m benchmarks.gpu DATASET [--steps 1000] [--batch 2048] [--device gpu] [--limit 270]

DATASET is a folder of `kubehabit data build`, such as of the twin's weeks (`kubehabit data simulate --profile weeks`). It trains
twice with one seed, in float32 and with bfloat16, each within half of the time limit (seconds), and compares the losses on
the same held-back windows. With `--device cpu` it runs anywhere; shares are then of the processor's peak. Exit status 1 says
that the losses differ by more than 2 %.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch

from benchmarks.bench_training import ROOT, operations
from benchmarks.report import Row, at_most, report

_SIDE, _REPEATS = 4096, 10
_SIDE_CPU = 512
#: Precision of Lightning -> type of the products whose peak it is held against.
PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
#: Share by which the held-back losses may differ, percent.
_SAME = 2.0


@dataclass(frozen=True, slots=True)
class TimedTraining:
    """One training: steps done, seconds, windows a second, held-back loss (nats), operations of the products of one window."""

    steps: int
    seconds: float
    windows: float
    loss: float
    operations: int


def peak(device: str, kind: torch.dtype) -> float:
    """Floating-point operations a second of the best of some large matrix products."""
    side = _SIDE if device == "cuda" else _SIDE_CPU
    left, right = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS):
        _wait(device)
        began = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def computes(device: str, kind: torch.dtype) -> bool:
    """Whether LSTMs of a type can be trained on a device: a processor without AVX-512 has none of bfloat16."""
    network = torch.nn.LSTM(8, 8).to(device)
    try:
        with torch.autocast(device, kind, enabled=kind is not torch.float32):
            network(torch.zeros(2, 1, 8, device=device))
    except RuntimeError:
        return False
    return True


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def trained(
    dataset: Path, precision: str, *, device: str, steps: int, batch: int, seconds: float, options: list[str]
) -> TimedTraining:
    """Train as `kubehabit train` does, without registering anything; ends after the steps or the seconds."""
    from lightning.pytorch.callbacks import Timer

    from training.train import parse, quieten_lightning

    quieten_lightning()
    given = [
        *(
            f"--trainer.precision={precision}",
            f"--trainer.accelerator={device}",
            f"--data.batch_size={batch}",
        ),
        *(f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}"),
        "--trainer.enable_checkpointing=false",
    ]
    cli = parse(ROOT / "configs" / "train.yaml", dataset, [*given, *options])
    cli.trainer.callbacks.append(Timer(timedelta(seconds=seconds)))  # type: ignore[attr-defined]
    began = time.perf_counter()
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    taken = time.perf_counter() - began
    done = cli.trainer.global_step
    (figures,) = cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
    loss = float(figures["held_back_nll"])
    return TimedTraining(done, taken, done * batch / taken, loss, operations(cli.model.config))


def rows_of(precision: str, run: TimedTraining, best: float) -> list[Row]:
    """Figures of one training; `best` is the peak, operations a second."""
    return [
        Row(f"{precision}: steps", run.steps, "steps"),
        Row(f"{precision}: windows", run.windows, "windows/s"),
        Row(f"{precision}: matrix-multiply peak", best / 1e12, "TFLOP/s"),
        Row(f"{precision}: share of it", 100 * run.windows * run.operations / best, "%"),
        Row(f"{precision}: held-back loss", run.loss, "nats"),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, report, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--limit", type=float, default=270.0)
    known, options = parser.parse_known_args(arguments)
    device = "cuda" if known.device == "gpu" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        print(
            "There is no GPU that torch can use here: --device cpu runs the same on the processor.",
            file=sys.stderr,
        )
        return 2
    rows = [Row("cuDNN", torch.backends.cudnn.version() or 0, "version")]
    runs = {}
    possible = {precision: kind for precision, kind in PRECISIONS.items() if computes(device, kind)}
    for precision, kind in possible.items():
        runs[precision] = trained(
            known.dataset,
            precision,
            device=known.device,
            steps=known.steps,
            batch=known.batch,
            seconds=known.limit / len(possible),
            options=options,
        )
        rows += rows_of(precision, runs[precision], peak(device, kind))
    if len(possible) < len(PRECISIONS):
        missing = ", ".join(PRECISIONS.keys() - possible.keys())
        print(f"This device cannot train with {missing}: nothing is compared.", file=sys.stderr)
        report("gpu", rows)
        return 0
    exact, half = runs.values()
    apart = 100 * abs(half.loss / exact.loss - 1)
    rows.append(at_most("difference of the held-back losses", apart, "%", _SAME))
    report("gpu", rows)
    return 0 if apart <= _SAME else 1


if __name__ == "__main__":
    raise SystemExit(main())
