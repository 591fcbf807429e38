"""`kubehabit backtest`: what a model would have raised in months of old logs, cluster by cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kubehabit import options as opt
from kubehabit.interruption import interruptible

if TYPE_CHECKING:
    from rich.table import Table

    from serving.rollout.backtest import ClusterBacktest, ClusterLogs

app = opt.room("")
#: A cluster's name is also that of a folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SEVERITIES = ("critical", "high", "medium", "low")


@app.command("backtest")
def backtest(
    clusters: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]LOG...",
            help="One log for each cluster: a file, a folder of its files, or the URL of either. Default name: the log's.",
        ),
    ],
    out: Annotated[Path, opt.Out],
    model: opt.Model = opt.CHAMPION,
    since: Annotated[
        str | None, typer.Option("--from", help="Leave out what was before: 2026-01-01, or an RFC 3339 time.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Leave out what was then or later.")] = None,
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            help="Clusters judged at once on this machine, a core and 1 GB each.",
            min=1,
            max=256,
        ),
    ] = 1,
    spark: opt.Spark = None,
    as_json: opt.AsJson = False,
) -> None:
    """Judge months of old logs as the service would have, and count what it would have raised, day by day.

    Each cluster is judged by itself, in the order of time; verdicts are those of one process that reads its log from beginning
    to end. A run that was stopped goes on where it was when the same command is given again, and one that ended goes on with the
    files that a cluster's folder got since. Alerts are in OUT/NAME/alerts.jsonl, the counts in OUT/NAME/progress.json. Exit
    status 1: a cluster could not be judged, or records not be read; all else was.

    Example:  `kubehabit backtest prod=/logs/prod test=/logs/test --model models:/kubehabit@challenger --out backtest`

    Next:  `kubehabit promote`, if the alerts are fewer and better than the champion's.
    """
    from data.errors import KubehabitError
    from serving.rollout.backtest import BacktestOptions
    from serving.rollout.backtest_runners import run_here, run_on_spark

    found = [_cluster(text) for text in clusters]
    names = [one.name for one in found]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise KubehabitError(f"{min(doubled)} is the name of two clusters: write NAME=LOG.")
    options = BacktestOptions(model, str(out.resolve()), opt.moment(since), opt.moment(until))
    done: list[ClusterBacktest] = []
    failed = False
    with (
        interruptible(
            f"What was judged until the last snapshot is kept in {out}: give the same command again to go on."
        ),
        _Bar() as bar,
    ):
        outcomes = (
            run_here(found, options, processes, bar.events)
            if spark is None
            else run_on_spark(found, options, spark)
        )
        for name, outcome in outcomes:
            bar.cluster(len(done) + 1, len(found))
            if isinstance(outcome, str):
                failed = True
                opt.say(f"error: {name}: {outcome}", err=True)
            else:
                done.append(outcome)
    done.sort(key=lambda one: names.index(one.logs.name))
    _print(done, as_json)
    unreadable = sum(one.unreadable for one in done)
    if unreadable:
        opt.say(f"warning: {unreadable:,} records could not be read. Everything else was judged.", err=True)
    raise typer.Exit(1 if failed or unreadable else 0)


def _print(done: list[ClusterBacktest], as_json: bool) -> None:
    if as_json:
        import msgspec

        opt.print_json(msgspec.to_builtins(done))
    elif done:
        from kubehabit.tables.screen import show

        show(_table(done))


def _cluster(text: str) -> ClusterLogs:
    from data.errors import KubehabitError
    from data.events.reader import log_files
    from data.events.remote_log import is_url, log_of
    from serving.rollout.backtest import ClusterLogs

    name, equals, path = ("", "", text) if is_url(text) else text.partition("=")
    log = log_of(path if equals else text)
    name = (
        name
        if equals
        else re.sub(r"[^A-Za-z0-9._-]", "-", log.name.split(".")[0] or Path(str(log)).resolve().name).lstrip(
            ".-_"
        )
    )
    if not _NAME.fullmatch(name):
        raise KubehabitError(f"{name!r} is no name of a cluster: letters, digits, dots and dashes.")
    if isinstance(log, Path) and not log.exists():
        raise KubehabitError(f"There is no log {log}.")
    files = (file.resolve() if isinstance(file, Path) else file for file in log_files([log]))
    return ClusterLogs(name, tuple(map(str, files)))


class _Bar:
    """Progress on a terminal: events judged in this process, and clusters that are done."""

    def __enter__(self) -> _Bar:
        from rich.progress import MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

        from data.work_progress import WorkProgress

        columns = (
            SpinnerColumn(),
            TextColumn("judging"),
            MofNCompleteColumn(),
            TextColumn("clusters{task.fields[events]}"),
            TimeElapsedColumn(),
        )
        self._progress = WorkProgress(*columns, transient=True)
        self._task = self._progress.add_task("", total=None, events="")
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def events(self, count: int) -> None:
        """So many events of the cluster at hand were judged."""
        self._progress.update(self._task, events=f", {count:,} events of the next")

    def cluster(self, done: int, of: int) -> None:
        """So many clusters of all are done."""
        self._progress.update(self._task, completed=done, total=of, events="")


def _table(done: list[ClusterBacktest]) -> Table:
    """Alerts a day, of each cluster; of one cluster, of each day."""
    from rich.table import Table

    rows = [(one.logs.name, one.total(), len(one.days)) for one in done]
    if len(done) == 1:
        rows = [(day, count, 1) for day, count in sorted(done[0].days.items())] + [
            ("all", rows[0][1], rows[0][2])
        ]
    table = Table(box=None, pad_edge=False)
    table.add_column("day" if len(done) == 1 else "cluster", no_wrap=True)
    for name in ("events", "actions", "flagged", *_SEVERITIES, "alerts a day"):
        table.add_column(name, justify="right")
    for name, count, days in rows:
        alerts = [count.alerts.get(severity, 0) for severity in _SEVERITIES]
        table.add_row(
            name,
            *(f"{number:,}" for number in (count.events, count.actions, count.flagged, *alerts)),
            f"{sum(alerts) / max(days, 1):,.1f}",
        )
    return table
