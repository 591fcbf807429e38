"""Terminal tables of an evaluation: every run by itself, and what was raised without an attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def alone_screen(found: Mapping[str, Any]) -> Group:
    """The strict figures (`training.evaluation.alone.judge_alone`) and each false incident with its reason."""
    from training.evaluation.report import alone_rows, false_incident

    table = Table(title="Every run alone", title_justify="left")
    for heading in ("", "runs as they were", "transplants"):
        table.add_column(heading)
    for row in alone_rows(found):
        table.add_row(*row)
    incidents = [false_incident(one) for one in found["false_incidents"]]
    title = f"{len(incidents)} false incidents on the log without attacks"
    return Group(table, Text("\n  ".join([title, *incidents])))
