"""`kubehabit retrain`: the next model from what the service has stored."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kubehabit import options as opt
from kubehabit.interruption import interruptible

if TYPE_CHECKING:
    from kubehabit.client.events import EventAnswers
    from kubehabit.retraining.progress import Progress

app = opt.room("")


@app.command("retrain", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def retrain(
    ctx: typer.Context,
    days: Annotated[
        float, typer.Option("--days", help="Days of stored work to learn from, at most.", min=0.001)
    ] = 14,
    recent: Annotated[
        float,
        typer.Option(
            "--recent", help="Share of them, the newest, on which the models are compared.", min=0.01, max=0.9
        ),
    ] = 0.2,
    least_hours: Annotated[
        float, typer.Option("--least-hours", help="Train nothing on less stored work than this.", min=0)
    ] = 24,
    log: Annotated[
        list[Path] | None,
        opt.file_option("--log", "Labelled audit log to compare on besides; may be repeated."),
    ] = None,
    labels: Annotated[
        list[Path] | None, opt.file_option("--labels", "Labels of each --log, in the same order.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the registered model.")] = "kubehabit",
    training: Annotated[
        Path | None, opt.yaml_option("--training", "train.yaml", "Settings of the training")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="Folder for its files. Default: retrain in KUBEHABIT_HOME.", file_okay=False
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train and compare, but leave the champion as it is.")
    ] = False,
    new: Annotated[
        bool, typer.Option("--new", help="Begin again, even if a retraining was stopped before its end.")
    ] = False,
    url: opt.Url = None,
    local: opt.Local = False,
    config: opt.ServiceConfig = None,
    store: opt.Store = None,
    as_json: opt.AsJson = False,
) -> None:
    """Train the next model on the events that a service has stored, compare it with the champion, and promote it or say why not.

    Flagged actions are learned only with the verdict normal. Training starts from the weights of the champion or starter model;
    one that was stopped goes on. Further options go to it. Exit status: 0 promoted (or would be), 1 refused, 3 too little work.

    Asks a running service, or with --local reads its files.

    Example:  `kubehabit retrain --local --config /etc/kubehabit/serve.yaml --days 14`

    Next:  `kubehabit serve` follows the champion by itself. To undo it: `kubehabit promote --rollback`.
    """
    from data.paths import home
    from kubehabit.client.events import answers_of
    from kubehabit.retraining.retraining import Retraining, RetrainPlan
    from serving.settings import read_settings

    if len(log or []) != len(labels or []):
        opt.fail("every --log needs its --labels, in the same order.")
    root = folder or home() / "retrain"
    answers = answers_of(url, local, config, store)
    plan = RetrainPlan(
        root=root,
        name=name,
        config=training or opt.shipped("train.yaml"),
        options=list(ctx.args),
        labelled=list(zip(log or [], labels or [], strict=True)),
        trusted_hops=read_settings(config).model.starter_trusted_hops,
        dry_run=dry_run,
    )
    progress = _progress(root, answers, (days, recent, least_hours), new=new)
    with interruptible("What is done is kept: the same command goes on from there."):
        result = Retraining(plan, progress, answers, lambda: _feedback(url, local, config), _say).run()
    if as_json:
        opt.print_json(result.to_dict())
    else:
        _say(result.sentence, err=False)
    raise typer.Exit(0 if result.decision["promoted"] else 1)


def _progress(root: Path, answers: EventAnswers, span: tuple[float, float, float], *, new: bool) -> Progress:
    """The retraining that was stopped, or one that begins; `span` is days, share of recent work, and least hours."""
    from kubehabit.retraining.progress import Progress
    from kubehabit.retraining.retraining import span_of_work
    from serving.forensics.queries import EventFilter

    now = time.time_ns() // 1000
    found = None if new else Progress.unfinished(root, now)
    if found is not None:
        opt.say(f"Going on with the retraining in {found.folder}.", err=True)
        return found
    newest = answers.events(EventFilter(), limit=1, newest=True, texts=False).records
    until = newest[0].time + 1 if newest else now
    since, split = span_of_work(answers.earliest(), until, *span)
    return Progress.begin(root, since, split, until)


def _say(text: str, *, err: bool = True) -> None:
    for line in text.splitlines():
        opt.say(line, err=err)


def _feedback(url: str | None, local: bool, config: Path | None) -> Iterable[str]:
    """Verdicts on alerts as JSON, oldest first."""
    if not local and config is None:
        return opt.remote(url).get_bytes("feedback").decode().splitlines()
    from kubehabit.client.local import LocalStore

    return LocalStore(config).feedback()
