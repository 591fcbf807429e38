"""Scoring one log file from beginning to end, without a server and without storing anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import KubehabitError
from data.events.audit_event import DeadLetter
from data.events.reader import read_events
from serving.registry.client import parse_model
from serving.rollout.loader import load_engine
from serving.settings import load_settings

if TYPE_CHECKING:
    from serving.schemas import Alert, ModelInfo
    from serving.scoring.engine import Engine

_PAGE = 500


class Unreadable:
    """Counts records that could not be read and keeps the first."""

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


@dataclass(frozen=True, slots=True)
class ScoredLog:
    """Outcome of scoring a log: events read, actions scored of them, and alerts in the order of the log."""

    events: int
    actions: int
    alerts: list[Alert]
    model: ModelInfo
    unreadable: Unreadable


def score_log(log: Path, model_uri: str) -> ScoredLog:
    """Score a log from beginning to end; each alert has all its audit IDs.

    Args:
        log: JSONL, plain, gzip or zstd.
        model_uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or the folder of a bundle.

    Raises:
        KubehabitError: the model cannot be loaded, or the log cannot be read or holds no event.
    """
    engine = load_engine(load_settings(), parse_model(model_uri), store_url="sqlite://")
    unreadable = Unreadable()
    try:
        events, scored = _score(engine, log, unreadable)
        if not events and unreadable.first is None:
            raise KubehabitError(f"{log} holds no audit events. Check that this is the log you mean.")
        if not events and unreadable.first is not None:
            raise KubehabitError(
                f"{log} holds no audit event that can be read; line {unreadable.first.line}: "
                f"{unreadable.first.reason}. A log has one audit.k8s.io/v1 event a line."
            )
        return ScoredLog(events, scored, _alerts(engine), engine.model, unreadable)
    finally:
        engine.close()


def _score(engine: Engine, log: Path, unreadable: Unreadable) -> tuple[int, int]:
    """Score all of a log, with a progress bar on a terminal. Returns (events, scored actions)."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
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
    found: list[Alert] = []
    cursor: int | None = None
    while True:
        page = engine.store.page(limit=_PAGE, cursor=cursor)
        found += (engine.store.get(alert.id) or alert for alert in page.alerts)
        cursor = page.cursor
        if cursor is None:
            return sorted(found, key=lambda alert: alert.first_seen)
