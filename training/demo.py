"""`kubehabit demo`: the whole story on the shipped recording, as somebody new to it sees it.

It learns and judges in this process, and meets serving only as others do: as a command and over HTTP.
"""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import httpx
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from data.errors import KubehabitError
from data.paths import Recordings
from data.paths import home as kubehabit_home
from data.reader import open_lines

MARKER = ".kubehabit-demo"
"""Stands in a folder that a demo made, which the next demo may therefore empty."""

BATCH_EVENTS = 500
"""Events in one request: what a log pipeline sends every few seconds on a busy cluster."""

SERVE = (sys.executable, "-m", "kubehabit", "serve")
NDJSON = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
TRIES = 10
START_SECONDS = 90.0
STOP_SECONDS = 10.0
MODES = {"same": "nothing", "new-ip": "address", "new-ua": "client", "new-ip-and-ua": "both"}
"""What was new about where it came from: the address, the client program, both, or nothing."""

SEVERITY_STYLES = {"low": "dim", "medium": "yellow", "high": "bold red", "critical": "bold white on red"}


@dataclass(frozen=True, slots=True)
class Played:
    """What came of playing a log through the API."""

    events: int
    seconds: float
    alerts: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Story:
    """What a demo found: the registered version, what was played, and the judgement of the alerts."""

    run_id: str
    version: str
    played: Played
    figures: dict[str, Any]


def run(
    home: Path | None = None,
    *,
    recordings: Recordings | None = None,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> Story:
    """Tell the whole story: build, train, register, serve, play, judge.

    Args:
        home: folder for everything the demo makes, emptied first; `demo` in `KUBEHABIT_HOME` if not given.
        recordings: what to learn and to play; the shipped ones if not given.
        overrides: further options for training, as `kubehabit train` takes them.
        console: where to tell it.

    Raises:
        KubehabitError: a part is missing or does not work; the sentence says which and what to do.
    """
    console = console or Console()
    recordings = recordings or Recordings.shipped()
    home = _fresh(home or kubehabit_home() / "demo")
    with _environment(home), _termination():
        return _tell(home, recordings, overrides, console)


def _tell(home: Path, recordings: Recordings, overrides: Sequence[str], console: Console) -> Story:
    """The chapters, in order."""
    # Imported here: MLflow reads where its store is when it is first used.
    from data.build import build
    from training.evaluation.evaluate import judge
    from training.evaluation.metrics import read_labels
    from training.train import train

    began = time.monotonic()
    dataset = home / "dataset"
    config = Path(str(files("configs") / "train.yaml"))

    _chapter(
        console,
        "1/5  Read normal work",
        f"kubehabit data build {_short(recordings.normal)} --out {_short(dataset)}",
    )
    console.print(build([recordings.normal], dataset).describe(), highlight=False, markup=False)

    _chapter(console, "2/5  Learn the habits in it", f"kubehabit train --data {_short(dataset)}")
    trained = train(config, dataset, list(overrides))
    console.print(
        f"registered: {trained.model_name} version {trained.version} (champion), MLflow run {trained.run_id}"
    )

    _chapter(console, "3/5  Start the API", "kubehabit serve")
    with Server(home) as server:
        console.print(f"listening on {server.url}, ready after {server.seconds_to_ready:.1f} s")
        _chapter(console, "4/5  Play a recording with attacks in it", f"POST {server.url}/v1/score")
        played = play(server, recordings.labelled, console)
    _chapter(console, "5/5  What was caught", "")
    labels = read_labels(recordings.labels)
    figures = judge(played.alerts, recordings.labelled, labels)
    story = Story(trained.run_id, str(trained.version), played, figures)
    report(story, labels, console)
    _farewell(home, played, time.monotonic() - began, console)
    return story


class Server:
    """`kubehabit serve` as a process group of its own, on a free port of the loopback address.

    Use it as a context: on the way out, however that comes about, the group is ended.
    """

    def __init__(self, home: Path, command: Sequence[str] = SERVE) -> None:
        self._command = command
        self.log = home / "serve.log"
        self.url = ""
        self.seconds_to_ready = 0.0
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBEHABIT_")}
        environment["KUBEHABIT_HOME"] = str(self._home)
        command = [*self._command, "--host", "127.0.0.1", "--port", str(port)]
        began = time.monotonic()
        try:
            with self.log.open("wb") as log, _held_back():
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._wait_until_ready(began + START_SECONDS)
        except BaseException:
            self.stop()
            raise
        self.seconds_to_ready = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Process id of the server; None when it is not running."""
        return self._process.pid if self._process is not None else None

    def _wait_until_ready(self, deadline: float) -> None:
        answer = "no answer"
        while time.monotonic() < deadline:
            self.raise_if_dead()
            try:
                response = httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False)
                if response.status_code == httpx.codes.OK:
                    return
                answer = f"{response.status_code} {response.text[:200]}"
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise KubehabitError(
            f"The API was not ready after {START_SECONDS:.0f} s ({answer}). Its log: {_short(self.log)}"
        )

    def raise_if_dead(self) -> None:
        """Raise a KubehabitError with the server's last words if it has ended."""
        if self._process is not None and (status := self._process.poll()) is not None:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = lines[-1].removeprefix("error: ") if lines else "it said nothing"
            raise KubehabitError(f"The API ended with status {status}: {last} (its log: {_short(self.log)})")

    def stop(self) -> None:
        """End the process group: politely, then for certain."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        with _held_back():
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def play(server: Server, log: Path, console: Console) -> Played:
    """Send a log through `POST /v1/score` in batches, in order, and print alerts as they are raised.

    Raises:
        KubehabitError: the API refused a batch or went away.
    """
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
    with (
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        bar = progress.add_task("playing", total=total, rate="-", raised=0)
        for batch in _batches(open_lines(log)):
            body = gzip.compress(b"\n".join(batch), 1)
            began = time.monotonic()
            answer = _ask(server, client, "POST", "/v1/score", content=body, headers=NDJSON)
            spent += time.monotonic() - began
            done += len(batch)
            for identity in answer["alerts"]:
                alert = _ask(server, client, "GET", f"/v1/alerts/{identity}")
                if known.get(identity) != alert["severity"]:
                    _announce(alert, progress.console, again=identity in known)
                known[identity] = alert["severity"]
            progress.update(bar, completed=done, rate=f"{done / spent:,.0f}", raised=len(known))
        alerts = [_ask(server, client, "GET", f"/v1/alerts/{identity}") for identity in known]
    return Played(done, spent, alerts)


def _batches(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    while batch := list(islice(lines, BATCH_EVENTS)):
        yield batch


def _ask(server: Server, client: httpx.Client, method: str, path: str, **request: Any) -> dict[str, Any]:
    """One request; a server that is busy is asked again."""
    for _ in range(TRIES):
        try:
            response = client.request(method, path, **request)
        except httpx.TransportError as error:
            server.raise_if_dead()
            raise KubehabitError(
                f"The API stopped answering ({error}). Its log: {_short(server.log)}"
            ) from error
        if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(float(response.headers.get("Retry-After", "1")))
    if response.is_error:
        raise KubehabitError(
            f"The API answered {method} {path} with {response.status_code}: {response.text[:300]} "
            f"Its log: {_short(server.log)}"
        )
    answer: dict[str, Any] = response.json()
    return answer


def report(story: Story, labels: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print what was caught and what was missed, and the rates beside two detectors that need no model.

    Args:
        story: what was found.
        labels: what was done in the recording.
        console: where to print.
    """
    from training.evaluation.metrics import named_by

    figures = story.figures
    console.print(_runs(figures["runs"]))
    alarmed = {identity for alert in story.played.alerts for identity in alert["auditIDs"]} - named_by(labels)
    normal = figures["normal_person_actions"] + figures["normal_system_actions"]
    silent, alarm = (figures["baselines"][name] for name in ("always silent", "always alarm"))

    table = Table(
        title="Beside two detectors that need no model",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("")
    for heading in ("kubehabit", "always silent", "always alarm"):
        table.add_column(heading, justify="right")
    columns = (figures, silent, alarm)
    table.add_row("attacks caught", *(_of(row, "recall", "attack_runs") for row in columns))
    table.add_row("false incidents", *(f"{row['false_incidents']:,}" for row in columns))
    table.add_row(
        "  per 10,000 human/pipeline actions",
        *(f"{row['false_per_10k_person_actions']:.1f}" for row in columns),
    )
    table.add_row(
        "  per 1,000,000 system actions",
        *(f"{row['false_per_1m_system_actions']:.1f}" for row in columns),
    )
    # An incident ends after ten quiet minutes, so that crying without pause makes few of them: this row tells.
    table.add_row("normal actions under alarm", f"{len(alarmed):,}", "0", f"{normal:,}")
    table.add_row(
        "look-alikes raised (high, critical)",
        *(f"{row['lookalikes_high']} of {row['lookalikes']}" for row in columns),
    )
    console.print(table)


def _of(row: Mapping[str, Any], share: str, total: str) -> str:
    return f"{round(row[share] * row[total])} of {row[total]}"


def _runs(runs: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each labelled run: attacks by family, then look-alikes."""
    table = Table(
        title="What was done in the recording",
        caption="after: how many of its actions had happened by then",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("scenario", no_wrap=True)
    table.add_column("credential of", min_width=17, overflow="fold")
    table.add_column("new", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("after", no_wrap=True, justify="right")
    family = None
    for run in sorted(runs, key=lambda run: (run["kind"] != "attack", run["family"], not run["detected"])):
        if run["family"] != family:
            family = run["family"]
            table.add_row(f"[bold]{escape(family)}[/]")
        after = run["actions_to_detection"]
        if run["kind"] == "attack":
            verdict = "[green]caught[/]" if run["detected"] else "[red]missed[/]"
            when = str(after) if run["detected"] else ""
        else:
            graver = run["severity"] in {"high", "critical"}
            verdict = (
                "[red]raised[/]" if graver else "[yellow]noted[/]" if run["detected"] else "[green]quiet[/]"
            )
            when = ""
        who = run["principal"].removeprefix("system:serviceaccount:")
        table.add_row(escape(run["scenario"]), escape(who), MODES.get(run["mode"], ""), verdict, when)
    return table


def _announce(alert: Mapping[str, Any], console: Console, *, again: bool) -> None:
    severity = str(alert["severity"])
    when = str(alert["lastSeen" if again else "firstSeen"])[11:19]
    now = "now " if again else ""
    console.print(
        f"{when} [{SEVERITY_STYLES[severity]}]{now + severity:<12}[/] {escape(str(alert['sentence']))}",
        highlight=False,
    )


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


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


@contextmanager
def _termination() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that what was started is ended."""

    def end(number: int, _: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _held_back() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while a process is started or ended: none is ever running unknown."""
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.signal(number, lambda number, _: held.append(number))) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _chapter(console: Console, title: str, command: str) -> None:
    console.print()
    console.rule(f"[bold]{title}[/bold]", align="left")
    if command:
        console.print(f"[dim]$ {escape(command)}[/dim]", highlight=False)


def _short(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _farewell(home: Path, played: Played, seconds: float, console: Console) -> None:
    """Say how the thresholds came about, and where to look next."""
    console.print(
        f"{played.events:,} events in {played.seconds:.1f} s over HTTP: "
        f"{played.events / played.seconds:,.0f} events/s. The whole demo took {seconds / 60:.1f} minutes.",
        highlight=False,
    )
    console.print(
        "Thresholds were set on normal work alone, the last part of the first recording, which training had "
        "not seen. The labels were looked at for this table only.",
        highlight=False,
    )
    command = _short(Path(sys.executable).parent)
    console.print(
        "\n[bold]Look at the run[/], its curves and plots, and the registered version:", highlight=False
    )
    console.print(
        f"  {command}/mlflow ui --backend-store-uri sqlite:///{_short(home / 'mlflow.db')}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        "[bold]Start the API again[/] and open http://127.0.0.1:8646/docs or /v1/alerts:", highlight=False
    )
    console.print(
        f"  KUBEHABIT_HOME={_short(home)} {command}/kubehabit serve --port 8646",
        highlight=False,
        soft_wrap=True,
    )
    console.print("[bold]Your own log[/]: kubehabit data build --help", highlight=False)
