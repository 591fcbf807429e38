"""Scoring one log file from beginning to end, without a server and without storing anything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data.audit_event import DeadLetter
from data.errors import KubehabitError
from data.reader import read_events
from serving.loader import load_engine
from serving.registry import parse_model
from serving.settings import load_settings

if TYPE_CHECKING:
    from rich.console import Console

    from serving.alerts import Alert
    from serving.engine import Engine

_PAGE = 500
_COLOURS = {"low": "cyan", "medium": "yellow", "high": "red", "critical": "bold red"}


class _Unreadable:
    """Counts records that could not be read and keeps the first, to be told at the end."""

    def __init__(self) -> None:
        self.count = 0
        self.first: DeadLetter | None = None

    def add(self, source: str, letter: DeadLetter) -> None:
        """Note one record."""
        del source  # there is only one
        self.count += 1
        self.first = self.first or letter

    def sentence(self) -> str:
        """What could not be read, and where."""
        assert self.first is not None
        records = "record" if self.count == 1 else "records"
        return (
            f"{self.count:,} {records} could not be read; the first at line {self.first.line}: "
            f"{self.first.reason}. Everything else was scored; correct the log and score it again to have all."
        )


def score_log(log: Path, model_uri: str, as_json: bool = False) -> int:
    """Score a log and print its alerts: a table for people, or one JSON object a line.

    Args:
        log: JSONL, plain, gzip or zstd.
        model_uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or the folder of a bundle.
        as_json: JSON lines on stdout, as `/v1/alerts/{id}` gives them.

    Returns:
        Exit status: 0, or 1 if some of the log could not be read (which is said on stderr).

    Raises:
        KubehabitError: the model cannot be had, or the log cannot be read or holds no event.
    """
    from rich.console import Console

    engine = load_engine(load_settings(), parse_model(model_uri), store_url="sqlite://")
    stderr = Console(stderr=True)
    unreadable = _Unreadable()
    try:
        events, scored = _score(engine, log, unreadable, stderr)
        if not events:
            if unreadable.first is None:
                raise KubehabitError(f"{log} holds no audit events. Check that this is the log you mean.")
            raise KubehabitError(
                f"{log} holds no audit event that can be read; line {unreadable.first.line}: "
                f"{unreadable.first.reason}. A log has one audit.k8s.io/v1 event a line."
            )
        alerts = _alerts(engine)
        if as_json:
            for alert in alerts:
                sys.stdout.write(alert.model_dump_json(by_alias=True) + "\n")
            sys.stdout.flush()
        else:
            _print(alerts, events, scored, engine)
    finally:
        engine.close()
    if unreadable.count:
        stderr.print(f"warning: {unreadable.sentence()}", markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


def _score(engine: Engine, log: Path, unreadable: _Unreadable, console: Console) -> tuple[int, int]:
    """Score all of a log, with a progress bar on a terminal. Returns (events, scored actions)."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    events = scored = 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("scoring", total=log.stat().st_size if log.exists() else None)

        def on_bytes(done: int) -> None:
            progress.update(bar, completed=done)

        for chunk in read_events(log, unreadable, on_bytes=on_bytes):
            batch = engine.score(chunk)
            events += len(chunk)
            scored += batch.scored
    return events, scored


def _alerts(engine: Engine) -> list[Alert]:
    """Every alert, in the order of the log, each with all its audit IDs."""
    found: list[Alert] = []
    cursor: int | None = None
    while True:
        page = engine.store.page(limit=_PAGE, cursor=cursor)
        found += (engine.store.get(alert.id) or alert for alert in page.alerts)
        cursor = page.cursor
        if cursor is None:
            return sorted(found, key=lambda alert: alert.first_seen)


def _print(alerts: list[Alert], events: int, scored: int, engine: Engine) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if alerts:
        table = Table("when (UTC)", "severity", "what happened", expand=True, show_lines=True)
        table.columns[0].no_wrap = True
        for alert in alerts:
            # Text, not markup: names in the log could otherwise colour or hide what is printed.
            table.add_row(
                Text(alert.first_seen.strftime("%Y-%m-%d %H:%M:%S")),
                Text(alert.severity, style=_COLOURS[alert.severity]),
                Text(alert.sentence),
            )
        console.print(table)
    model = engine.model
    console.print(
        f"{events:,} events, {scored:,} actions, {len(alerts):,} alerts; model {model.name} version {model.version}. "
        "Use --json for audit IDs, reasons and next steps.",
        highlight=False,
        markup=False,
    )
