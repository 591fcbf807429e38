"""Reads an audit log for training and evaluation: damaged records are set aside, an unreadable or empty log is an error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from data.errors import KubehabitError
from data.events.audit_event import AuditEvent, DeadLetter
from data.events.left_out import LeftOut
from data.events.reader import DeadLetterFile, DeadLetters, read_events
from data.paths import home
from data.visible_text import visible
from data.work_progress import WorkProgress

#: Logs of which it was said what was left out: evaluations read a log several times.
_said: set[Path] = set()


class _Both:
    """Keeps unreadable records in a file and counts them."""

    def __init__(self, *takers: DeadLetters) -> None:
        self._takers = takers

    def add(self, source: str, letter: DeadLetter) -> None:
        """Keep one."""
        for taker in self._takers:
            taker.add(source, letter)


def _say(log: Path, left_out: LeftOut, letters: Path) -> None:
    sentence = left_out.sentence()
    if sentence and log not in _said:
        _said.add(log)
        kept = f" Unreadable records are in {letters}." if left_out.unreadable else ""
        print(visible(f"{log}: {sentence}{kept}"), file=sys.stderr)


def read_log(
    log: Path, title: str = "reading", *, progress: bool = False, may_be_empty: bool = False
) -> Iterator[list[AuditEvent]]:
    """Events of a log in chunks; unreadable records go to a dead-letter file in `home()`.

    What was left out is said on standard error, once for each log.

    Raises:
        KubehabitError: the log cannot be read, or holds no event where that is not allowed.
    """
    percent = TextColumn("{task.percentage:>3.0f}%")
    columns = (TextColumn("{task.description}"), BarColumn(), percent, TimeRemainingColumn())
    letters, left_out = DeadLetterFile(home() / "dead-letters.jsonl"), LeftOut()
    empty = True
    with WorkProgress(*columns, disable=not progress, transient=True) as bar:
        try:
            task = bar.add_task(title, total=log.stat().st_size if log.exists() else None)
            chunks = read_events(
                log,
                _Both(letters, left_out),
                on_bytes=lambda done: bar.update(task, completed=done),
                on_skipped=left_out.skip,
            )
            for events in chunks:
                empty = empty and not events
                yield events
        except OSError as error:
            raise KubehabitError(
                f"Cannot read the audit log {log}: {error.strerror}. Check the path."
            ) from error
        finally:
            letters.close()
    _say(log, left_out, letters.path)
    if empty and not may_be_empty:
        raise KubehabitError(
            f"{log}: no audit event found. Give a log of audit.k8s.io/v1 events, one a line."
        )
