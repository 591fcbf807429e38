"""Scoring one log file from beginning to end, without a server and without storing anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import KubehabitError
from data.events.left_out import LeftOut
from data.events.reader import read_events
from serving.registry.client import parse_model
from serving.rollout.loader import load_engine
from serving.settings import load_settings

if TYPE_CHECKING:
    from serving.schemas import Alert, ModelInfo
    from serving.scoring.engine import Engine

_PAGE = 500
_RECEIVED = "RequestReceived"
_ONLY_RECEIVED = (
    "Nothing was judged: all events are of the stage RequestReceived, which knows no outcome. Take omitStages: "
    "[ResponseComplete] out of the audit policy."
)
_ALL_DROPPED = (
    "Nothing was judged: every event is a later stage, a repeat, or left out by the model's settings."
)


@dataclass(frozen=True, slots=True)
class ScoredLog:
    """Outcome of scoring a log: events read, actions scored of them, and alerts in the order of the log.

    Attributes:
        left_out: records that are no events.
        why_nothing: why no event became an action; "" if some did.
    """

    events: int
    actions: int
    alerts: list[Alert]
    model: ModelInfo
    left_out: LeftOut
    why_nothing: str


def score_log(log: Path, model_uri: str) -> ScoredLog:
    """Score a log from beginning to end; each alert has all its audit IDs.

    Args:
        log: a file of any format that docs/sources.md names.
        model_uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or the folder of a bundle.

    Raises:
        KubehabitError: the model cannot be loaded, or the log cannot be read or holds no event.
    """
    from rich.console import Console

    with Console(stderr=True).status("loading the model"):
        engine = load_engine(load_settings(), parse_model(model_uri), store_url="sqlite://")
    left_out = LeftOut()
    try:
        events, scored, stages = _score(engine, log, left_out)
        if not events and left_out.first is not None:
            raise KubehabitError(
                f"{log} holds no audit event that can be read; line {left_out.first.line}: "
                f"{left_out.first.reason}. docs/sources.md lists the formats that can be read."
            )
        if not events:
            skipped = f" ({left_out.reasons()})" if left_out.skipped else ""
            raise KubehabitError(
                f"{log} holds no audit events{skipped}. Check that this is the log you mean."
            )
        why_nothing = "" if scored else _ONLY_RECEIVED if stages == {_RECEIVED} else _ALL_DROPPED
        return ScoredLog(events, scored, _alerts(engine), engine.model, left_out, why_nothing)
    finally:
        engine.close()


def _score(engine: Engine, log: Path, left_out: LeftOut) -> tuple[int, int, set[str]]:
    """Score all of a log, with a progress bar. Returns (events, scored actions, stages of the events)."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

    from data.work_progress import WorkProgress

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    events = scored = 0
    stages: set[str] = set()
    with WorkProgress(*columns, transient=True) as progress:
        bar = progress.add_task("scoring", total=log.stat().st_size if log.exists() else None)

        def on_bytes(done: int) -> None:
            progress.update(bar, completed=done)

        for chunk in read_events(log, left_out, on_bytes=on_bytes, on_skipped=left_out.skip):
            batch = engine.score(chunk)
            events += len(chunk)
            scored += batch.scored
            stages.update(event.stage for event in chunk)
    return events, scored, stages


def _alerts(engine: Engine) -> list[Alert]:
    found: list[Alert] = []
    cursor: int | None = None
    while True:
        page = engine.store.page(limit=_PAGE, cursor=cursor)
        found += (engine.store.get(alert.id) or alert for alert in page.alerts)
        cursor = page.cursor
        if cursor is None:
            return sorted(found, key=lambda alert: alert.first_seen)
