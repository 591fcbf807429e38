"""`kubehabit demo`: the whole story on the shipped recording, as a newcomer sees it.

It trains and evaluates in this process, and uses serving only as others do: as a command and over HTTP.
"""

from __future__ import annotations

import gzip
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data.errors import KubehabitError
from data.events.reader import open_lines
from data.paths import Recordings
from data.paths import home as kubehabit_home
from kubehabit.client.remote import AnswerError, BusyError, Remote, UnreachableError
from kubehabit.client.send import patiently
from kubehabit.demo_server import Server
from kubehabit.interruption import interruptible
from kubehabit.tables.demo import Played, Story, announce, chapter, farewell, report, short
from kubehabit.tables.screen import VisibleConsole

#: Marks a folder that a demo made, which the next demo may therefore empty.
MARKER = ".kubehabit-demo"
#: Events in one request: what a log pipeline sends every few seconds on a busy cluster.
BATCH_EVENTS = 500
#: Seconds for which a batch is sent again to a busy service.
_PATIENCE = 60.0


def run(
    home: Path | None = None,
    *,
    recordings: Recordings | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> Story:
    """The whole story: build, train, register, serve, play, evaluate.

    Args:
        home: folder for everything the demo makes, emptied first; `demo` in `KUBEHABIT_HOME` if None.
        recordings: what to learn and to play; the shipped ones if None.
        overrides: further options for training, as `kubehabit train` takes them.
        console: where to print.
    """
    console = console or VisibleConsole()
    recordings = recordings or Recordings.shipped()
    home = _fresh(home or kubehabit_home() / "demo")
    kept = f"The next demo begins again; what this one made so far is in {short(home)}."
    with _environment(home), interruptible(kept):
        return _chapters(home, recordings, overrides, console)


def _chapters(home: Path, recordings: Recordings, overrides: Sequence[str], console: Console) -> Story:
    # Imported here: MLflow reads where its store is when it is first used.
    from data.actions.encoder import ActionSettings
    from data.dataset.build import build
    from training.evaluation.evaluate import judge
    from training.evaluation.metrics import named_by, read_labels
    from training.train import train

    began = time.monotonic()
    dataset = home / "dataset"
    config = Path(str(files("configs") / "train.yaml"))

    hops = recordings.TRUSTED_HOPS
    build_command = (
        f"kubehabit data build {short(recordings.normal)} --out {short(dataset)} --trusted-hops {hops}"
    )
    chapter(console, "1/5  Read normal work", build_command)
    summary = build([recordings.normal], dataset, settings=ActionSettings.shipped(trusted_hops=hops))
    console.print(summary.describe(), highlight=False, markup=False)

    chapter(console, "2/5  Learn the habits in it", f"kubehabit train --data {short(dataset)}")
    trained = train(config, dataset, list(overrides))
    console.print(
        f"registered: {trained.model_name} version {trained.version} (champion), MLflow run {trained.run_id}"
    )

    chapter(console, "3/5  Start the API", "kubehabit serve")
    with Server(home) as server:
        console.print(f"listening on {server.url}, ready after {server.seconds_to_ready:.1f} s")
        chapter(console, "4/5  Play a recording with attacks in it", f"POST {server.url}/v1/score")
        played = play(server, recordings.labelled, console)
    chapter(console, "5/5  What was caught", "")
    labels = read_labels(recordings.labels)
    figures = judge(played.alerts, recordings.labelled, labels)
    story = Story(trained.run_id, str(trained.version), played, figures)
    report(story, named_by(labels), console)
    farewell(home, played, time.monotonic() - began, console)
    return story


def play(server: Server, log: Path, console: Console) -> Played:
    """Send a log through `POST /v1/score` in batches, in order, and print alerts as they are raised."""
    service = Remote(server.url)
    total = sum(1 for _ in open_lines(log))
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} events/s, {task.fields[raised]} alerts"),
        TimeRemainingColumn(),
    )
    known: dict[str, str] = {}
    spent = 0.0
    done = 0
    lines = open_lines(log)
    with _quoting(server), Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("playing", total=total, rate="-", raised=0)
        while batch := list(islice(lines, BATCH_EVENTS)):
            body = gzip.compress(b"\n".join(batch), 1)
            began = time.monotonic()
            answer = patiently(_PATIENCE, BusyError)(service.post_events, body, "gzip")
            spent += time.monotonic() - began
            done += len(batch)
            for identity in answer["alerts"]:
                alert = service.get("alerts", identity)
                if known.get(identity) != alert["severity"]:
                    announce(alert, progress.console, again=identity in known)
                known[identity] = alert["severity"]
            progress.update(bar, completed=done, rate=f"{done / spent:,.0f}", raised=len(known))
        alerts = [service.get("alerts", identity) for identity in known]
    return Played(done, spent, alerts)


@contextmanager
def _quoting(server: Server) -> Iterator[None]:
    """Say what the server's log says where a request fails."""
    try:
        yield
    except (UnreachableError, AnswerError) as error:
        server.raise_if_dead()
        answer = f"answered with {error.status}" if isinstance(error, AnswerError) else "stopped answering"
        raise KubehabitError(f"The API {answer}: {error} Its log: {short(server.log)}") from error


def _fresh(home: Path) -> Path:
    """An empty folder for this demo; one that an earlier demo made is emptied, any other is left alone."""
    home = home.absolute()
    if home.exists() and not (home / MARKER).is_file() and any(home.iterdir()):
        raise KubehabitError(
            f"{home} holds something that no demo made, so it stays. Name another folder with --home."
        )
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (home / MARKER).write_text(
        "made by kubehabit demo, which empties this folder when it runs again\n", encoding="utf-8"
    )
    return home


@contextmanager
def _environment(home: Path) -> Iterator[None]:
    """Everything of a demo goes to its own folder, never to the user's own MLflow."""
    before = dict(os.environ)
    os.environ["KUBEHABIT_HOME"] = str(home)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
