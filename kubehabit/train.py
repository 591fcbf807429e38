"""`kubehabit train` and `kubehabit tune`: a dataset to a registered model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from kubehabit import options as opt
from kubehabit.interruption import interruptible

app = opt.room("")
#: What a command does not know goes to Lightning's own command line.
_TO_LIGHTNING = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("train", context_settings=_TO_LIGHTNING)
def train(
    ctx: typer.Context,
    data: Annotated[Path, opt.Dataset],
    config: Annotated[
        Path | None, opt.yaml_option("--config", "train.yaml", "Settings of the training")
    ] = None,
    feedback: Annotated[
        Path | None,
        opt.file_option(
            "--feedback",
            "Verdicts on alerts, one JSON object a line: confirmed normal work is learned, attacks are left out.",
        ),
    ] = None,
    feedback_log: Annotated[
        list[Path] | None,
        opt.file_option(
            "--feedback-log", "Audit log that holds the events of the feedback; may be repeated."
        ),
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            "--warm-start",
            help="Start from the weights of a registered model, such as models:/kubehabit@champion.",
        ),
    ] = None,
    signing_key: Annotated[
        Path | None,
        opt.file_option(
            "--signing-key", "Ed25519 private key (PEM) to sign the bundle with: `kubehabit bundle keygen`."
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            help="Resume a training that was stopped: its MLflow run, or `last`. Its own settings are used.",
        ),
    ] = None,
) -> None:
    """Train the autoencoder, calibrate it on held-back normal data, export it to ONNX and register it.

    Ends with an MLflow run (parameters, curves, plots) and a new version of the registered model "kubehabit".
    Any further option goes to Lightning's own command line and overrides the YAML.
    The first version becomes the champion; later ones are challengers until `kubehabit promote` accepts them.

    Example:  `kubehabit train --data .kubehabit/dataset --trainer.max_steps 500`

    Next:  `kubehabit evaluate` against a labelled recording, or `kubehabit serve`.
    """
    from training.train import train as run_training

    options = list(ctx.args)
    if feedback is not None:
        logs = json.dumps([str(path) for path in feedback_log or []])
        options += [f"--data.feedback={feedback}", f"--data.feedback_logs={logs}"]
    if signing_key is not None:
        options.append(f"--register.signing_key={signing_key.absolute()}")
    began = time.time()
    with interruptible(lambda: _kept(began, resume)):
        result = run_training(
            config or opt.shipped("train.yaml"), data, options, resume=resume, warm_start=warm_start
        )
    for name, value in sorted(result.metrics.items()):
        typer.echo(f"  {name:<40} {value:.6g}")
    typer.echo(f"MLflow run: {result.run_id}")
    typer.echo(f"Registered: {result.model_name} version {result.version} ({result.alias})")
    if result.alias == "challenger":
        typer.echo("Next: kubehabit promote --log LOG --labels LABELS.json --normal LOG")
    else:
        typer.echo("Next: kubehabit serve, or kubehabit evaluate --log LOG --labels LABELS.json")


def _kept(began: float, resumed: str | None) -> str:
    """What is kept of a training that began at a time, in seconds since 1970, maybe by resuming another."""
    from data.errors import KubehabitError
    from training.checkpoints import find

    run = resumed or "last"
    try:
        newest = find(run)
        if resumed or newest.path.stat().st_mtime >= began:
            return f"Step {newest.step} is kept: go on with --resume {run}. Nothing was registered."
    except (KubehabitError, OSError):
        pass
    return "It had no checkpoint yet, so nothing is kept: start it again."


@app.command("starter", context_settings=_TO_LIGHTNING)
def starter(
    ctx: typer.Context,
    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            help="Dataset of one cluster, made by `kubehabit data build`; repeat it for each cluster.",
            exists=True,
            file_okay=False,
        ),
    ],
    out: Annotated[Path, opt.Out],
    config: Annotated[
        Path | None, opt.yaml_option("--config", "train.yaml", "Settings of the training")
    ] = None,
) -> None:
    """Train a starter model on what several clusters have in common, for clusters of which nothing is known yet.

    It knows no principal, and no value of a field that is one cluster's own. A service without a champion serves the one that is
    installed with kubehabit; trainings can start from the folder of this one. Any further option goes to Lightning's own command
    line and overrides the YAML.

    Example:  `kubehabit starter --data west/dataset --data east/dataset --out starter`

    Next:  `kubehabit train --data DIR --warm-start starter`, or `kubehabit score LOG --model starter`.
    """
    from training.starter.starter import train_starter

    with interruptible("Nothing was written."):
        result = train_starter(
            data, out, config=config or opt.shipped("train.yaml"), overrides=list(ctx.args)
        )
    for name, value in sorted(result.metrics.items()):
        typer.echo(f"  {name:<40} {value:.6g}")
    typer.echo(f"Bundle: {result.path} ({result.checksum[:12]})")


@app.command("tune", context_settings=_TO_LIGHTNING)
def tune(
    ctx: typer.Context,
    data: Annotated[Path, opt.Dataset],
    config: Annotated[
        Path | None, opt.yaml_option("--config", "train.yaml", "Settings of the training that are varied")
    ] = None,
    search: Annotated[Path | None, opt.yaml_option("--search", "tune.yaml", "Search space")] = None,
    study: Annotated[
        str, typer.Option("--study", help="Name of the search; the same name resumes it.")
    ] = "kubehabit",
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Database of the trials. Default: tune.db in KUBEHABIT_HOME.",
        ),
    ] = None,
) -> None:
    """Search for better settings on held-back normal data; no labels are used. Resumable.

    A trial is scored by how well it separates held-back windows from the same windows with another principal's action,
    and by its reconstruction. Further options go to every trial's training.

    Example:  `kubehabit tune --data .kubehabit/dataset`

    Next:  put what it prints into a copy of train.yaml, and pass that to `kubehabit train --config`.
    """
    from kubehabit.tables.screen import show
    from kubehabit.tables.training import trials_table
    from training import tune as searching

    with interruptible("Finished trials are kept: the same command goes on with the next."):
        found = searching.tune(
            config or opt.shipped("train.yaml"),
            data,
            searching.TuneConfig.load(search),
            study=study,
            storage=storage,
            overrides=list(ctx.args),
        )
    show(trials_table(found))
    typer.echo("Best settings, for a copy of train.yaml:")
    typer.echo(searching.as_config(found.best_params))
