"""What the demo prints: chapters, alerts as they are raised, and what was caught."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from data.visible_text import visible
from kubehabit.tables.alerts import SEVERITY_STYLES
from kubehabit.tables.screen import Json, line, new_table

#: What was new about where a run came from: the address, the client program, both, or nothing.
MODES = {"same": "nothing", "new-ip": "address", "new-ua": "client", "new-ip-and-ua": "both"}
_FRAME: dict[str, Any] = {"title_justify": "left", "box": box.SIMPLE_HEAD, "collapse_padding": True}


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
    detectors = (figures, figures["baselines"]["always silent"], figures["baselines"]["always alarm"])

    def row(head: str, cell: Callable[[Json], str]) -> tuple[str, ...]:
        return (head, *map(cell, detectors))

    rows = [
        row(
            "attacks caught",
            lambda one: f"{round(one['recall'] * one['attack_runs'])} of {one['attack_runs']}",
        ),
        row("false incidents", lambda one: f"{one['false_incidents']:,}"),
        row("  per 10,000 human/pipeline actions", lambda one: f"{one['false_per_10k_person_actions']:.1f}"),
        row("  per 1,000,000 system actions", lambda one: f"{one['false_per_1m_system_actions']:.1f}"),
        # An incident ends after ten quiet minutes, so an alarm that never stops makes few of them: this row shows it.
        ("normal actions under alarm", f"{len(alarmed):,}", "0", f"{normal:,}"),
        row(
            "look-alikes raised (high, critical)",
            lambda one: f"{one['lookalikes_high']} of {one['lookalikes']}",
        ),
    ]
    heads = ("", "kubehabit", "always silent", "always alarm")
    title = "Compared with two detectors that need no model"
    console.print(new_table(*heads, rows=rows, right=(1, 2, 3), title=title, **_FRAME))


def _runs(runs: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each labelled run: attacks by family, then look-alikes."""
    rows: list[tuple[RenderableType, ...]] = []
    family = None
    for run in sorted(runs, key=lambda run: (run["kind"] != "attack", run["family"], not run["detected"])):
        if run["family"] != family:
            family = run["family"]
            rows.append((line(family, "bold"),))
        attack, detected = run["kind"] == "attack", run["detected"]
        if attack:
            verdict = line("caught", "green") if detected else line("missed", "red")
        elif run["severity"] in ("high", "critical"):
            verdict = line("raised", "red")
        else:
            verdict = line("noted", "yellow") if detected else line("quiet", "green")
        after = str(run["actions_to_detection"]) if attack and detected else ""
        who = run["principal"].removeprefix("system:serviceaccount:")
        rows.append((run["scenario"], who, MODES.get(run["mode"], ""), verdict, after))
    table = new_table(
        *("scenario", "credential of", "new", "", "after"),
        rows=rows,
        right=(4,),
        title="What was done in the recording",
        caption="after: how many of its actions had happened by then",
        caption_justify="left",
        **_FRAME,
    )
    for place, column in enumerate(table.columns):
        column.no_wrap, column.min_width = place != 1, 17 if place == 1 else None
    return table


def announce(alert: Mapping[str, Any], console: Console, *, again: bool) -> None:
    """Print an alert that was raised, or whose severity rose."""
    severity = str(alert["severity"])
    when = str(alert["lastSeen" if again else "firstSeen"])[11:19]
    level = (f"{('now ' if again else '') + severity:<12}", SEVERITY_STYLES[severity])
    console.print(Text.assemble(visible(when), " ", level, " ", visible(str(alert["sentence"]))))


def chapter(console: Console, title: str, command: str) -> None:
    """Print the heading of a chapter and the command that does the same."""
    console.print()
    console.rule(Text(visible(title), style="bold"), align="left")
    if command:
        console.print(line(f"$ {command}", "dim"))


def farewell(home: Path, played: Played, seconds: float, console: Console) -> None:
    """Print how the thresholds were set, and what to look at next."""
    command = short(Path(sys.executable).parent)
    database, folder = short(home / "mlflow.db"), short(home)
    console.print(
        f"{played.events:,} events in {played.seconds:.1f} s over HTTP: {played.events / played.seconds:,.0f} events/s. "
        f"The whole demo took {seconds / 60:.1f} minutes.\nThresholds were set on normal work alone, the last part of the first "
        "recording, which training had not seen. The labels were used for this table only.\n",
        highlight=False,
    )
    for head, text in (
        ("See the alerts in the console", ": start the service again, and open http://127.0.0.1:8646"),
        ("", f"  KUBEHABIT_HOME={folder} {command}/kubehabit serve --port 8646"),
        ("Look at the run", ", its curves and plots, and the registered version:"),
        ("", f"  {command}/mlflow ui --backend-store-uri sqlite:///{database}"),
        ("Your own log", ": kubehabit data build --help"),
    ):
        console.print(Text.assemble((head, "bold"), visible(text)), soft_wrap=True)
