"""Reads an audit log for training and evaluation: damaged records are set aside, an unreadable or empty log is an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from data.events.reader import DeadLetterFile, read_events
from data.paths import home


def read_log(
    log: Path, title: str = "reading", *, progress: bool = False, may_be_empty: bool = False
) -> Iterator[list[AuditEvent]]:
    """Events of a log in chunks; unreadable records go to a dead-letter file in `home()`.

    Raises:
        KubehabitError: the log cannot be read, or holds no event where that is not allowed.
    """
    percent = TextColumn("{task.percentage:>3.0f}%")
    columns = (TextColumn("{task.description}"), BarColumn(), percent, TimeRemainingColumn())
    letters = DeadLetterFile(home() / "dead-letters.jsonl")
    empty = True
    with Progress(*columns, disable=not progress, transient=True) as bar:
        try:
            task = bar.add_task(title, total=log.stat().st_size if log.exists() else None)
            for events in read_events(log, letters, on_bytes=lambda done: bar.update(task, completed=done)):
                empty = empty and not events
                yield events
        except OSError as error:
            raise KubehabitError(
                f"Cannot read the audit log {log}: {error.strerror}. Check the path."
            ) from error
        finally:
            letters.close()
    if empty and not may_be_empty:
        raise KubehabitError(
            f"{log}: no audit event found. Give a log of audit.k8s.io/v1 events, one a line."
        )
