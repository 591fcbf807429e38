"""How every benchmark reports: a table on the screen and rows in `benchmarks/results/NAME.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        name: what was measured.
        value: the figure.
        unit: its unit.
        bar: what it is held to, in words; empty if it only informs.
        ok: whether it meets the bar; None without one.
    """

    name: str
    value: float
    unit: str
    bar: str = ""
    ok: bool | None = None


def at_least(name: str, value: float, unit: str, bar: float) -> Row:
    """A figure that should not be smaller than `bar`."""
    return Row(name, value, unit, f">= {bar:g}", value >= bar)


def at_most(name: str, value: float, unit: str, bar: float) -> Row:
    """A figure that should not be larger than `bar`."""
    return Row(name, value, unit, f"<= {bar:g}", value <= bar)


def report(name: str, rows: Sequence[Row]) -> None:
    """Print the rows and write them."""
    table = Table(title=name, title_justify="left")
    for heading in ("", "value", "unit", "bar", ""):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for row in rows:
        verdict = "" if row.ok is None else "[green]ok[/]" if row.ok else "[red]missed[/]"
        table.add_row(row.name, f"{row.value:,.4g}", row.unit, row.bar, verdict)
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
