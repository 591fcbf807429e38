"""`kubehabit evaluate`, `ablate`, `promote` and `drift`: evaluate models, and choose one."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any

import typer

from kubehabit import options as opt
from kubehabit.interruption import interruptible

app = opt.room("")


@app.command("evaluate")
@interruptible("Nothing was changed, and no figures were written: start it again.")
def evaluate(
    log: Annotated[Path, opt.file_option("--log", "Audit log to evaluate on.")],
    labels: Annotated[Path | None, opt.Labels] = None,
    model: opt.Model = opt.CHAMPION,
    data: Annotated[Path | None, opt.Dataset] = None,
    transplants: opt.Transplants = 0,
    report: Annotated[Path | None, opt.Report] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Evaluate a registered model on a labelled log: attacks caught, false incidents, look-alikes raised.

    The thresholds are those in the model bundle, set on normal data before; nothing is fitted to the labels. Without
    labels every incident counts as false. With --data, the dataset the model was trained on, every baseline is fitted on it
    to compare with, which takes some minutes more. With --transplants 320, every run is judged as well when others do it.

    Example:  `kubehabit evaluate --log dev.jsonl.gz --labels labels.json --json > out.json`

    Next:  `kubehabit serve`, if the figures are good enough to be woken up by.
    """
    from kubehabit.tables.evaluation import evaluation_screen
    from kubehabit.tables.screen import show
    from training.evaluation.evaluate import evaluate as judge_model

    figures = judge_model(model, log, labels, data=data, transplants=transplants, report=report)
    if as_json:
        opt.print_json(figures)
    else:
        show(*evaluation_screen(figures))
    if report is not None:
        typer.echo(f"Report: {report}", err=True)


@app.command("ablate", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@interruptible("Finished variants are kept: the same command goes on with the next.")
def ablate(
    ctx: typer.Context,
    data: Annotated[Path | None, opt.Dataset] = None,
    log: Annotated[
        Path | None,
        opt.file_option("--log", "Labelled audit log to evaluate on. Default: the shipped one."),
    ] = None,
    labels: Annotated[Path | None, opt.Labels] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Run only this variant, beside the shipped one; may be repeated."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", help="Training steps of each variant. Default: those of --config.", min=1),
    ] = None,
    config: Annotated[
        Path | None, opt.yaml_option("--config", "train.yaml", "Settings of the training that are varied")
    ] = None,
    variants: Annotated[Path | None, opt.yaml_option("--variants", "ablate.yaml", "Variants")] = None,
    model: opt.Model = opt.CHAMPION,
    transplants: opt.Transplants = 0,
    report: Annotated[Path | None, opt.Report] = None,
) -> None:
    """Ablation: leave out or change one choice of the detector at a time, and see what each is worth.

    Some variants are trained again (a good minute each on two idle cores), others only evaluated in another way. Each is a
    run of the MLflow experiment `kubehabit-ablation`. Resumable: finished variants are not repeated. Further options go to
    every training. Without --data, --log and --labels the shipped recordings are used; without --report the table goes to
    ablations.md in KUBEHABIT_HOME. With --transplants 320 nothing is trained: variants of the decision are judged around
    --model, each on every run alone and on transplants.

    Example:  `kubehabit ablate --only "no conditioning" --only "novelty alone"`

    Next:  read the table, then change your copy of train.yaml and pass it to `kubehabit train --config`.
    """
    from data.paths import home
    from training.ablation import ablate as ablation
    from training.ablation.variants import AblateConfig

    where = ablation.Where.from_options(data, log, labels)
    given: dict[str, Any] = {
        "config": config or opt.shipped("train.yaml"),
        "variants": AblateConfig.load(variants or opt.shipped("ablate.yaml")),
        "only": only or [],
    }
    if transplants:
        from training.ablation.alone import ablate_alone

        table = report or home() / "decision.md"
        ablate_alone(model, where, **given, transplants=transplants, out=table)
        typer.echo(f"Report: {table}")
        return
    table = report or home() / "ablations.md"
    run_id = ablation.ablate(
        where,
        **given,
        options=[*([f"--trainer.max_steps={steps}"] if steps else []), *ctx.args],
        out=table,
    )
    typer.echo(f"Report: {table}; with its plot in MLflow run {run_id}.")


@app.command("promote")
@interruptible("No decision was made, and the champion is the one from before: start it again.")
def promote(
    log: Annotated[
        list[Path] | None, opt.file_option("--log", "Labelled audit log; may be repeated.")
    ] = None,
    labels: Annotated[
        list[Path] | None, opt.file_option("--labels", "Labels of each --log, in the same order.")
    ] = None,
    normal: Annotated[
        list[Path] | None, opt.file_option("--normal", "Audit log of recent normal work; may be repeated.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the registered model.")] = "kubehabit",
    challenger: Annotated[
        str, typer.Option("--challenger", help="Challenger: a version number or an alias.")
    ] = "challenger",
    version: Annotated[str | None, typer.Option("--version", hidden=True)] = None,
    config: Annotated[
        Path | None, opt.yaml_option("--config", "promote.yaml", "Margins of the comparison")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compare and decide, but change nothing.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Make the previous champion champion again.")
    ] = False,
    by: Annotated[
        str | None, typer.Option("--by", help="Your name; kept with the decision. Default: this account's.")
    ] = None,
    note: Annotated[str, typer.Option("--note", help="Why; kept with the decision.")] = "",
    as_json: opt.AsJson = False,
) -> None:
    """Make a challenger champion, if it is no worse on the same recordings and on recent normal work.

    Exit status 1 says that it was refused. The decision and its numbers are kept in MLflow either way.

    Example:  `kubehabit promote --log dev.jsonl.gz --labels labels.json --normal today.jsonl.gz`

    Next:  `kubehabit serve` follows the champion by itself. To undo it: `kubehabit promote --rollback`.
    """
    from kubehabit.tables.screen import show
    from training.lifecycle import promotion as gate

    by = own_account() if by is None else by
    if rollback:
        now, before = gate.roll_back(name, by=by, note=note)
        if as_json:
            opt.print_json({"champion": now, "previous": before})
        else:
            typer.echo(
                f"Version {now} of {name} is champion again; version {before} is now the previous one."
            )
        return
    if len(log or []) != len(labels or []):
        opt.fail(
            "every --log needs its --labels, in the same order. Logs without labels are given with --normal."
        )
    decision = gate.promote(
        name,
        list(zip(log or [], labels or [], strict=True)),
        normal or [],
        gate.GateConfig.load(config),
        challenger=version or challenger,  # --version is the name it had before
        dry_run=dry_run,
        by=by,
        note=note,
    )
    if as_json:
        opt.print_json(decision.to_dict())
    else:
        show(decision.table(), *decision.sentence().split("\n"))
    raise typer.Exit(0 if decision.promoted else 1)


def own_account() -> str:
    """Name of the account that runs this; "" where it has none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


@app.command("drift")
@interruptible("Nothing was kept: start it again.")
def drift(
    log: opt.Log,
    model: opt.Model = opt.CHAMPION,
    config: Annotated[
        Path | None, opt.yaml_option("--config", "drift.yaml", "Thresholds of the comparison")
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Say whether the cluster still behaves as the model was calibrated, and whether to train again.

    Compares a recent log: unknown values, each principal's surprise, new and vanished principals, incidents
    against the budget. The report and its plot are kept in the model's MLflow run. Exit status 1 says: train again.

    Example:  `kubehabit drift today.jsonl.gz`

    Next:  `kubehabit data build` and `kubehabit train --warm-start models:/kubehabit@champion`, if it says so.
    """
    from kubehabit.tables.screen import show
    from kubehabit.tables.training import drift_screen
    from training.lifecycle.drift import DriftConfig
    from training.lifecycle.drift import drift as compare

    report = compare(log, model, DriftConfig.load(config), progress=not as_json)
    if as_json:
        opt.print_json(report.to_dict())
    else:
        show(drift_screen(report))
    raise typer.Exit(1 if report.retrain else 0)
