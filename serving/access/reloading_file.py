"""Files that may change while the service runs: reloaded when they do; a bad change leaves the last good value in use."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from data.errors import KubehabitError

_log = logging.getLogger("kubehabit.access")
_SECONDS_BETWEEN_LOOKS = 1.0
T = TypeVar("T")
Signature = tuple[tuple[int, int, int] | None, ...]


class ReloadingFile(Generic[T]):
    """A value read from files; `current()` checks whether one of them changed, by default at most once a second.

    Polling needs no thread and no library, and sees what inotify does not, such as a Secret that the kubelet swaps by renaming
    a folder. A file counts as changed when its time, size or inode changes, links followed. `what` names the files in the log;
    `on_change` is called after each read, with True if they could not be used. The first `read` raises its KubehabitError;
    later ones are logged, and the value stays.
    """

    def __init__(
        self,
        what: str,
        paths: Sequence[Path],
        read: Callable[[], T],
        on_change: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        seconds: float | None = None,
    ) -> None:
        self._what = what
        self._paths = paths
        self._read = read
        self._on_change = on_change
        self._clock = clock
        self._seconds = _SECONDS_BETWEEN_LOOKS if seconds is None else seconds
        # Before reading, so that a change in between is read once more.
        self._seen = self._signature()
        self._value = read()
        self._next = clock() + self._seconds
        on_change(False)

    def current(self) -> T:
        """The value of the files as they are, or as they were when last usable."""
        now = self._clock()
        if now < self._next:
            return self._value
        self._next = now + self._seconds
        signature = self._signature()
        if signature == self._seen:
            return self._value
        self._seen = signature
        try:
            self._value = self._read()
        except KubehabitError as error:
            self._on_change(True)
            _log.error(
                f"{self._what} changed and cannot be used; the one before stays in use",
                extra={"reason": str(error)},
            )
        else:
            self._on_change(False)
            _log.info(f"{self._what} was reloaded")
        return self._value

    def _signature(self) -> Signature:
        return tuple(_stat(path) for path in self._paths)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
