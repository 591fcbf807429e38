"""Trains the starter model and writes its bundle; it knows no principal, and no value that is one cluster's own."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from data.dataset.table import ActionTable, load
from data.errors import KubehabitError
from detection.bundle import Bundle
from detection.calibration import Calibration
from detection.novelty import HabitTable
from detection.rarity import Rarity
from training import bundle_writer, registry
from training.calibrate import CalibrationResult, calibrate, calibration_config
from training.export import TorchModel, check_newest, check_parity, export, export_newest, parity_check
from training.starter.pooling import pool
from training.train import figures_of, parse, quieten_lightning, use_threads
from training.warm_start import parameters_of


@dataclass(frozen=True, slots=True)
class StarterResult:
    """The bundle that was written, its checksum, and its figures on the held-back data of all clusters."""

    path: Path
    checksum: str
    metrics: dict[str, float]


#: What thresholds set on the pool are multiplied by. Normal work of a cluster that is not in it is odder than that of those that
#: are: without it, the recorded cluster raised more than twice the false incidents of the budget.
CAUTION = 1.5


def without_principals(calibration: Calibration) -> Calibration:
    """The calibration for another cluster: without tails and rates of novelty of single principals, and more cautious."""
    tails = {name: tail for name, tail in calibration.tails.items() if name.startswith("kind:")}
    rarity = Rarity(calibration.rarity.actions, calibration.rarity.hits)
    return replace(calibration.scaled(CAUTION), tails=tails, rarity=rarity, scale=1.0)


def train_starter(
    datasets: list[Path],
    out: Path,
    *,
    config: Path,
    name: str = "starter",
    overrides: list[str] | None = None,
) -> StarterResult:
    """Train a model on what several clusters have in common, and write its bundle.

    Args:
        datasets: folders written by `kubehabit data build`, one a cluster.
        out: folder of the bundle.
        config: experiment YAML (`configs/train.yaml`).
        name: of the model.
        overrides: further options of Lightning's CLI.

    Raises:
        KubehabitError: `out` is in use, an unusable dataset or option, or an export that fails its parity check.
    """
    if (out / "bundle.json").exists():
        raise KubehabitError(f"{out} already holds a bundle. Choose another folder, or delete it first.")
    quieten_lightning()
    with tempfile.TemporaryDirectory() as scratch:
        pooled = Path(scratch) / "pooled"
        pool([load(path) for path in datasets], pooled)
        cli = parse(config, pooled, list(overrides or []))
        use_threads(cli.config.register.threads)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        table: ActionTable = cli.datamodule.table
        model = cli.model.model.eval().cpu()
        settings = calibration_config(vars(cli.config.calibration))
        fitted = calibrate(table, TorchModel(model), cli.model.config.window, settings)
        onnx, newest = Path(scratch) / "model.onnx", Path(scratch) / "newest.onnx"
        export(model, onnx)
        worst = check_parity(model, onnx)
        export_newest(model, newest)
        worst = max(worst, check_newest(model, newest))
        metrics = figures_of(table, fitted) | {"parity_max_abs_difference": worst}
        fitted = for_anybody(fitted)
        checksum = bundle_writer.write(
            out,
            table=table,
            model=cli.model.config,
            onnx=onnx,
            newest=newest if newest.is_file() else None,
            parity_check=parity_check(model, table),
            fitted=fitted,
            name=name,
            git_commit=registry.git_commit(),
            run_id="",
            metrics=metrics,
            weights=parameters_of(model),
            starter=True,
        )
    Bundle.load(out)
    return StarterResult(out, checksum, metrics)


def for_anybody(fitted: CalibrationResult) -> CalibrationResult:
    """A calibration result with nothing in it of the principals on which it was fitted."""
    return replace(fitted, calibration=without_principals(fitted.calibration), habits=HabitTable())
