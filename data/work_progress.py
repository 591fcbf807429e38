"""How far long work is: a bar on a terminal, in a log a line a minute."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)

#: Seconds between two lines in a log.
EVERY = 60.0
_TEXTS = (TextColumn, MofNCompleteColumn, DownloadColumn)


class WorkProgress(Progress):
    """rich's progress on standard error, so that output that is piped on stays clean.

    Args:
        columns: of the bar; those of text, counts and bytes make the line of a log.
        transient: whether a terminal forgets the bar at its end.
        disable: show nothing anywhere.
    """

    def __init__(
        self, *columns: str | ProgressColumn, transient: bool = False, disable: bool = False
    ) -> None:
        console = Console(stderr=True)
        super().__init__(
            *columns, console=console, transient=transient, disable=disable or not console.is_terminal
        )
        self._is_log = not disable and not console.is_terminal
        self._due = time.monotonic() + EVERY

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As rich's."""
        super().update(task_id, **changes)
        self._line()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As rich's."""
        super().advance(task_id, advance)
        self._line()

    def _line(self) -> None:
        if not self._is_log or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + EVERY
        for task in self.tasks:
            if not task.finished:
                self.console.print(self._text(task), markup=False, highlight=False, soft_wrap=True)

    def _text(self, task: Task) -> str:
        texts = [str(column.render(task)) for column in self.columns if isinstance(column, _TEXTS)]
        if task.total and not any("%" in text for text in texts):
            texts.append(f"{task.percentage:.0f}%")
        if task.time_remaining is not None:
            texts.append(f"{timedelta(seconds=int(task.time_remaining))} left")
        return " ".join(text for text in texts if text)
