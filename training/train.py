"""`kubehabit train`: fit, calibrate, export, check, register. One MLflow run holds everything that led to a version."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from data.actions.fields import FIELDS
from data.arrays import Flags
from data.dataset.table import ActionTable
from data.errors import KubehabitError
from data.events.audit_event import EXAMPLE_EVENT
from data.principals.identity import PEOPLE_AND_PIPELINES
from data.signing_keys import load_signing_key
from data.usable_cores import usable_cores
from data.work_progress import WorkProgress
from detection.bundle import Bundle, sign
from training import bundle_writer, checkpoints, model_card, registry, stability, warm_start
from training.calibrate import (
    CalibrationConfig,
    CalibrationResult,
    calibrate,
    calibration_config,
)
from training.datamodule import ActionWindows
from training.evaluation import plots
from training.export import TorchModel, check_newest, check_parity, export, export_newest, parity_check
from training.module import HabitModule
from training.thresholds import count_incidents


@dataclass(frozen=True, slots=True)
class RegisterConfig:
    """Destination of the result.

    Attributes:
        name: registered model.
        alias: alias of the new version; serving follows `champion`. If not given, the first version becomes `champion` and
            every later one `challenger`, for `kubehabit promote` to decide on.
        experiment: MLflow experiment of the run.
        threads: CPU threads for training; 0 uses all cores that this process may use.
        signing_key: Ed25519 private key (PEM) with which the bundle is signed; None leaves it unsigned.
    """

    name: str = "kubehabit"
    alias: str | None = None
    experiment: str = "kubehabit"
    threads: int = 0
    signing_key: Path | None = None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Result of a training run."""

    run_id: str
    model_name: str
    version: str
    model_uri: str
    metrics: dict[str, float]
    alias: str


class ExperimentCLI(LightningCLI):
    """Lightning's command line with the sections that are ours, and sizes linked from the data to the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Sections besides trainer, model and data."""
        parser.add_class_arguments(CalibrationConfig, "calibration")
        parser.add_class_arguments(RegisterConfig, "register")
        for name in ("vocabulary", "kind_sizes", "principals", "groups"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments("data.window", "model.window")


class _Curves(Callback):
    """Keeps the loss curves, (step, value) by metric, for MLflow and for the plot; a resumed training goes on with them."""

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[int, float]]] = {"train_nll": [], "held_back_nll": []}

    def _add(self, trainer: lightning.Trainer, metric: str) -> None:
        self.points[metric].append((trainer.global_step, float(trainer.callback_metrics[metric])))

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step % 20 == 0 and "train_nll" in trainer.callback_metrics:
            self._add(trainer, "train_nll")

    def on_validation_end(self, trainer: lightning.Trainer, _: Any) -> None:
        if not trainer.sanity_checking:
            self._add(trainer, "held_back_nll")

    def state_dict(self) -> dict[str, Any]:
        return {"train": self.points["train_nll"], "held_back": self.points["held_back_nll"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for metric, name in (("train_nll", "train"), ("held_back_nll", "held_back")):
            self.points[metric] = [tuple(point) for point in state_dict[name]]


class _ProgressBar(Callback):
    """Steps done, loss and time left: the stream of batches is endless, so Lightning's own bar would show no end."""

    progress: WorkProgress | None = None

    def on_train_start(self, trainer: lightning.Trainer, _: Any) -> None:
        # Made here and not before: strategies that spawn processes pickle their callbacks, and a bar holds locks.
        self.progress = WorkProgress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[nll]}"),
            TimeRemainingColumn(),
            disable=not trainer.is_global_zero,
        )
        total, done = trainer.max_steps, trainer.global_step
        self.task = self.progress.add_task("training", total=total, nll="", completed=done)
        self.progress.start()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self.progress and trainer.global_step % 10 == 0 and "train_nll" in trainer.callback_metrics:
            text = f"{float(trainer.callback_metrics['train_nll']):.2f} nats"
            self.progress.update(self.task, completed=trainer.global_step, nll=text)

    def on_train_end(self, trainer: lightning.Trainer, _: Any) -> None:
        if self.progress:
            self.progress.update(self.task, completed=trainer.global_step)
            self.progress.stop()
            self.progress = None

    def on_exception(self, *_: Any) -> None:
        if self.progress:
            self.progress.stop()


def parse(config: Path, data: Path, overrides: list[str]) -> ExperimentCLI:
    """Read an experiment and instantiate trainer, model and data; KubehabitError if one of them cannot be used."""
    if not config.is_file():
        raise KubehabitError(f"No training config {config}. Start from the shipped configs/train.yaml.")
    try:
        return ExperimentCLI(
            HabitModule,
            ActionWindows,
            args=["--config", str(config), "--data.path", str(data), *overrides],
            run=False,
            save_config_callback=None,
            parser_kwargs={"exit_on_error": False},
            trainer_defaults=dict.fromkeys(("logger", "enable_model_summary", "enable_progress_bar"), False)
            | {"num_sanity_val_steps": 0},
        )
    except KubehabitError:
        raise
    except Exception as error:
        if isinstance(error.__cause__, KubehabitError):
            raise error.__cause__ from error
        raise KubehabitError(f"{config}: {error}. See kubehabit train --help.") from error


def use_threads(asked: int) -> None:
    """Compute with so many CPU threads; 0 takes all that the cores of this process and `OMP_NUM_THREADS` allow."""
    import torch

    torch.set_num_threads(asked or min(torch.get_num_threads(), usable_cores()))


def quieten_lightning() -> None:
    """Keep Lightning's remarks out of the terminal; errors still show."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


def train(
    config: Path,
    data: Path,
    overrides: list[str] | None = None,
    *,
    resume: str | None = None,
    warm_start: str | None = None,
) -> TrainResult:
    """Train, calibrate, export, check and register.

    Args:
        config: experiment YAML (`configs/train.yaml`).
        data: folder written by `kubehabit data build`.
        overrides: further options of Lightning's CLI, such as `--trainer.max_steps 500`.
        resume: MLflow run of a training that was killed, or "last"; it goes on with its own config, `config` is not read.
        warm_start: registered model whose weights to begin with, such as `models:/kubehabit@champion`.

    Raises:
        KubehabitError: no dataset, a bad option, an unusable MLflow store, nothing to resume or to start from, or an export
            that fails its parity check.
    """
    quieten_lightning()
    resumed = checkpoints.find(resume) if resume is not None else None
    cli = parse(resumed.config if resumed else config, data, list(overrides or []))
    if os.environ.get("LOCAL_RANK", "0") != "0" or os.environ.get("NODE_RANK", "0") != "0":
        # Lightning's `ddp` starts this command again for every further device: those only train.
        _fit(cli, resumed)
        raise SystemExit(0)
    with registry.connected():
        return _train(cli, RegisterConfig(**vars(cli.config.register)), resumed, warm_start)


def _train(
    cli: ExperimentCLI, options: RegisterConfig, resumed: checkpoints.Checkpoint | None, champion: str | None
) -> TrainResult:
    """`train` with parsed options, inside `registry.connected()`."""
    import mlflow

    use_threads(options.threads)
    if options.signing_key is not None:
        load_signing_key(options.signing_key)  # before a long training, not after it
    experiment = registry.experiment_id(options.experiment)
    fingerprint = cli.datamodule.table.card["fingerprint"]
    commit = registry.git_commit()  # asked once: a long training may see its source change
    text = cli.parser.dump(cli.config, skip_none=False)
    curves = _Curves()
    with mlflow.start_run(
        run_id=resumed.run_id if resumed else None,
        experiment_id=None if resumed else experiment,
        run_name=None if resumed else registry.run_name("train", fingerprint),
    ) as run:
        run_id = run.info.run_id
        if resumed:
            checkpoints.same_data(run.data.tags, fingerprint)
        else:
            _log_inputs(cli, text, commit, champion)
        cli.trainer.callbacks.extend(  # type: ignore[attr-defined]
            [curves, *checkpoints.callbacks(run_id, text), _ProgressBar()]
        )
        began = time.monotonic()
        _fit(cli, resumed)
        seconds = time.monotonic() - began
        for name, points in curves.points.items():
            for step, value in points:
                mlflow.log_metric(name, value, step=step)
        steps = cli.trainer.global_step - (resumed.step if resumed else 0)
        speed = {
            "seconds_training": seconds,
            "actions_per_second_training": steps * cli.datamodule.batch_size / seconds,
        }
        result = _finish(cli, options, run_id, commit, curves, speed)
        mlflow.set_tag("registered", result.model_uri)
    checkpoints.discard(run_id)
    return result


def _fit(cli: ExperimentCLI, resumed: checkpoints.Checkpoint | None) -> None:
    """Train; a checkpoint is read as numbers and plain values alone, so that one from another hand cannot run code."""
    path = resumed.path if resumed else None
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=path, weights_only=True)
    except UnpicklingError as error:
        raise KubehabitError(
            f"The checkpoint {path} is damaged, or holds more than numbers: it is not read. Start again without --resume."
        ) from error


def _log_inputs(cli: ExperimentCLI, text: str, commit: str, champion: str | None) -> None:
    """Log what goes into a new training, and start from the champion's weights if one is named."""
    import mlflow

    table: ActionTable = cli.datamodule.table
    mlflow.log_params(_flat(cli.config.as_dict(), skip=("config",)))
    mlflow.set_tags({"data_fingerprint": table.card["fingerprint"], "git_commit": commit})
    mlflow.log_dict(table.card, "data/card.json")
    registry.log_dataset(table.card, "training")
    mlflow.log_text(text, "config/train.yaml")
    if champion is not None:
        carried = warm_start.start_from(champion, cli.model.model, table)
        mlflow.log_dict(asdict(carried), "warm_start.json")
        mlflow.set_tag("warm_start", champion)
        print(carried.describe())


def _say_stage(name: str) -> None:
    """Name what is done after the training, on a terminal."""
    if sys.stderr.isatty():
        print(f"{name} ...", file=sys.stderr)


def _finish(
    cli: ExperimentCLI,
    options: RegisterConfig,
    run_id: str,
    commit: str,
    curves: _Curves,
    speed: dict[str, float],
) -> TrainResult:
    """Calibrate, export, check and register a model that is trained, in the active MLflow run."""
    import mlflow

    table: ActionTable = cli.datamodule.table
    model = cli.model.model.eval().cpu()
    config = calibration_config(vars(cli.config.calibration))
    _say_stage("calibrating on the held-back part")
    fitted = calibrate(table, TorchModel(model), cli.model.config.window, config)
    for shortfall in fitted.shortfalls:
        print(shortfall)
    if fitted.suspects is not None and (said := fitted.suspects.describe(table)):
        print(said)
    learned = cli.datamodule.learned
    if learned is not None:
        learned.count_into(fitted.habits)
        mlflow.log_dict(learned.to_dict(), "feedback.json")
        mlflow.log_metric("feedback_share", float(learned.weights.sum()))
        print(learned.describe())
    with tempfile.TemporaryDirectory() as folder:
        onnx, bundle = Path(folder) / "model.onnx", Path(folder) / "bundle"
        _say_stage("exporting to ONNX, and checking that it computes what torch computes")
        export(model, onnx)
        worst = check_parity(model, onnx)
        newest = Path(folder) / "newest.onnx"
        export_newest(model, newest)
        worst = max(worst, check_newest(model, newest))
        metrics = {
            **figures_of(table, fitted),
            "parity_max_abs_difference": worst,
            "parameters": float(sum(parameter.numel() for parameter in model.parameters())),
            **speed,
        }
        mlflow.log_metrics(metrics)
        checksum = bundle_writer.write(
            bundle,
            table=table,
            model=cli.model.config,
            onnx=onnx,
            newest=newest,
            parity_check=parity_check(model, table),
            fitted=fitted,
            name=options.name,
            git_commit=commit,
            run_id=run_id,
            metrics=metrics,
            weights=warm_start.parameters_of(model),
        )
        _say_stage("registering")
        Bundle.load(bundle)
        if options.signing_key is not None:
            sign(bundle, load_signing_key(options.signing_key))
        _log_plots(table, fitted, curves)
        alias = options.alias or registry.next_alias(options.name)
        version, uri = registry.register(
            bundle,
            name=options.name,
            alias=alias,
            example=[EXAMPLE_EVENT],
            metadata={
                "bundle_sha256": checksum,
                "data_fingerprint": table.card["fingerprint"],
                "git_commit": commit,
            },
        )
        text = (bundle / "card.md").read_text()
        _publish_card(options.name, version, text, curves, metrics, table.card)
    return TrainResult(run_id, options.name, version, uri, metrics, alias)


def _publish_card(
    name: str, version: str, card: str, curves: _Curves, metrics: dict[str, float], data: Mapping[str, Any]
) -> None:
    """Put the model card and the learning curve into the description of a registered version, its data and figures into tags."""
    import mlflow

    client = mlflow.MlflowClient()
    client.update_model_version(name, version, card)
    curve = model_card.learning_curve(curves.points["held_back_nll"])
    tags = {
        key: f"{metrics[key]:.4g}" for key in ("held_back_surprise", "person_threshold", "system_threshold")
    }
    tags |= {f"trained_{key}": str(data[key]) for key in ("actions", "first", "last", "fingerprint")}
    model_card.publish(client, name, version, "Learning curve", curve, tags)


def _log_plots(table: ActionTable, fitted: CalibrationResult, curves: _Curves) -> None:
    """Log the plots, what drift will be measured against, and the table of held-back actions."""
    import mlflow

    for name, figure in {
        "loss": plots.losses(*curves.points.values()),
        "fields": plots.fields(fitted),
        "calibration": plots.calibration(fitted, table),
        "principals": plots.principals(fitted, table),
    }.items():
        mlflow.log_figure(figure, f"plots/{name}.png")
    surprise = fitted.nll.sum(axis=1).astype(np.float64)
    reference = stability.reference(table, fitted.rows, surprise, fitted.flagged)
    mlflow.log_dict(reference, stability.REFERENCE)
    mlflow.log_table(_held_back_table(table, fitted), "evaluation/held_back.json")


def _flat(tree: dict[str, Any], prefix: str = "", skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Nested configuration as dotted parameters; absent values are left out."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key not in skip and value is not None:
            flat[f"{prefix}{key}"] = str(value)[:500]
    return flat


def _incidents(table: ActionTable, fitted: CalibrationResult, chosen: Flags) -> int:
    hit = fitted.flagged & chosen
    names, times = table.name[fitted.rows], table.time[fitted.rows]
    return sum(count_incidents(np.sort(times[hit & (names == name)])) for name in set(names[hit]))


def figures_of(table: ActionTable, fitted: CalibrationResult) -> dict[str, float]:
    """Figures on held-back normal data."""
    figures = {"held_back_surprise": float(fitted.nll.sum(axis=1).mean())}
    figures |= {f"held_back_nll_{field}": float(fitted.nll[:, i].mean()) for i, field in enumerate(FIELDS)}
    person = np.isin(table.kind[fitted.rows], list(PEOPLE_AND_PIPELINES))
    for label, chosen in (("person", person), ("system", ~person)):
        figures[f"held_back_{label}_actions"] = float(chosen.sum())
        figures[f"held_back_{label}_incidents"] = float(_incidents(table, fitted, chosen))
    figures["person_threshold"] = fitted.calibration.person_thresholds[0]
    figures["system_threshold"] = fitted.calibration.system_thresholds[0]
    figures["actions_left_out"] = float(fitted.calibration.left_out or 0)
    return figures


def _held_back_table(table: ActionTable, fitted: CalibrationResult) -> dict[str, list[Any]]:
    """One row a kind of principal: what the thresholds do on held-back normal actions."""
    kinds = table.kind[fitted.rows]
    chosen = {str(kind): kinds == kind for kind in sorted(set(kinds))}
    return {
        "kind": list(chosen),
        "actions": [int(rows.sum()) for rows in chosen.values()],
        "flagged": [int((fitted.flagged & rows).sum()) for rows in chosen.values()],
        "incidents": [_incidents(table, fitted, rows) for rows in chosen.values()],
        "mean_surprise": [float(fitted.nll[rows].sum(axis=1).mean()) for rows in chosen.values()],
    }
