"""Dead letters of the service: kept to be sent again, private to their owner, bounded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from data.events.audit_event import DeadLetter
from data.events.reader import DeadLetterFile

_log = logging.getLogger("kubehabit.dead_letters")


class DeadLetterStore(Protocol):
    """Where dead letters go."""

    def add_all(self, source: str, letters: Iterable[DeadLetter]) -> None:
        """Keep letters; never raises."""

    def is_kept(self) -> bool:
        """Whether all letters so far are where they outlive this process."""


class BoundedDeadLetters:
    """A dead-letter file, made with the first letter, that is rotated to `<path>.1` when it has `max_bytes`."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._file: DeadLetterFile | None = None

    def add_all(self, source: str, letters: Iterable[DeadLetter]) -> None:
        """Keep letters. A full disk is logged and costs the letters, never the events that could be read."""
        with self._lock:
            try:
                for letter in letters:
                    self._open().add(source, letter)
            except OSError as error:
                shown = {"reason": error.strerror, "path": str(self._path)}
                _log.error("dead letters cannot be written", extra=shown)

    def _open(self) -> DeadLetterFile:
        if self._file is not None and self._path.exists() and self._path.stat().st_size >= self._max_bytes:
            self._close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            self._file = DeadLetterFile(self._path)
        return self._file

    def is_kept(self) -> bool:
        """True: each letter is written at once."""
        return True

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
