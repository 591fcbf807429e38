"""What the demo prints: chapters, alerts as they are raised, and what was caught."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

#: What was new about where a run came from: the address, the client program, both, or nothing.
MODES = {"same": "nothing", "new-ip": "address", "new-ua": "client", "new-ip-and-ua": "both"}
_SEVERITY_STYLES = {"low": "dim", "medium": "yellow", "high": "bold red", "critical": "bold white on red"}


@dataclass(frozen=True, slots=True)
class Played:
    """The result of playing a log through the API."""

    events: int
    seconds: float
    alerts: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Story:
    """What a demo found: the registered version, what was played, and the evaluation of the alerts."""

    run_id: str
    version: str
    played: Played
    figures: dict[str, Any]


def short(path: Path) -> str:
    """A path relative to the working directory where that is possible."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def report(story: Story, named: Set[str], console: Console) -> None:
    """Print what was caught and what was missed, and the rates compared with two detectors that need no model.

    Args:
        story: what was found.
        named: audit IDs that the labels name.
        console: where to print.
    """
    figures = story.figures
    console.print(_runs(figures["runs"]))
    alarmed = {identity for alert in story.played.alerts for identity in alert["auditIDs"]} - named
    normal = figures["normal_person_actions"] + figures["normal_system_actions"]
    silent, alarm = (figures["baselines"][name] for name in ("always silent", "always alarm"))

    table = Table(
        title="Compared with two detectors that need no model",
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
            loud = run["severity"] in {"high", "critical"}
            verdict = (
                "[red]raised[/]" if loud else "[yellow]noted[/]" if run["detected"] else "[green]quiet[/]"
            )
            when = ""
        who = run["principal"].removeprefix("system:serviceaccount:")
        table.add_row(escape(run["scenario"]), escape(who), MODES.get(run["mode"], ""), verdict, when)
    return table


def announce(alert: Mapping[str, Any], console: Console, *, again: bool) -> None:
    """Print an alert that was raised, or whose severity rose."""
    severity = str(alert["severity"])
    when = str(alert["lastSeen" if again else "firstSeen"])[11:19]
    now = "now " if again else ""
    console.print(
        f"{when} [{_SEVERITY_STYLES[severity]}]{now + severity:<12}[/] {escape(str(alert['sentence']))}",
        highlight=False,
    )


def chapter(console: Console, title: str, command: str) -> None:
    """Print the heading of a chapter and the command that does the same."""
    console.print()
    console.rule(f"[bold]{title}[/bold]", align="left")
    if command:
        console.print(f"[dim]$ {escape(command)}[/dim]", highlight=False)


def farewell(home: Path, played: Played, seconds: float, console: Console) -> None:
    """Print how the thresholds were set, and what to look at next."""
    console.print(
        f"{played.events:,} events in {played.seconds:.1f} s over HTTP: "
        f"{played.events / played.seconds:,.0f} events/s. The whole demo took {seconds / 60:.1f} minutes.",
        highlight=False,
    )
    console.print(
        "Thresholds were set on normal work alone, the last part of the first recording, which training had "
        "not seen. The labels were used for this table only.",
        highlight=False,
    )
    command = short(Path(sys.executable).parent)
    console.print(
        "\n[bold]Look at the run[/], its curves and plots, and the registered version:", highlight=False
    )
    console.print(
        f"  {command}/mlflow ui --backend-store-uri sqlite:///{short(home / 'mlflow.db')}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        "[bold]Start the API again[/] and open http://127.0.0.1:8646/docs or /v1/alerts:", highlight=False
    )
    console.print(
        f"  KUBEHABIT_HOME={short(home)} {command}/kubehabit serve --port 8646",
        highlight=False,
        soft_wrap=True,
    )
    console.print("[bold]Your own log[/]: kubehabit data build --help", highlight=False)
