"""File: one JSON object a line, durable before it counts as sent, rotated by size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from serving.sinks.base import SinkSettings, UnavailableError, Update
from serving.sinks.json_lines import document, line


class FileSettings(SinkSettings):
    """Alerts in a file."""

    type: Literal["file"]
    path: Path
    max_mb: Annotated[float, Field(gt=0)] = 64
    keep: Annotated[int, Field(ge=1, le=1000)] = 5

    def open(self) -> FileSink:
        """The sink."""
        return FileSink(RotatedFile(self.path, int(self.max_mb * (1 << 20)), self.keep))


class RotatedFile:
    """A line file readable by its owner only. A full one becomes `<path>.1`, that one `.2`, and so on.

    Args:
        max_bytes: maximum size, except for a single longer line.
        keep: number of full files kept.
    """

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep

    def add(self, text: bytes) -> None:
        """Append a line durably.

        Raises:
            UnavailableError: the disk is full, or the folder cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            size = self._path.stat().st_size if self._path.exists() else 0
            if size and size + len(text) > self._max_bytes:
                self._rotate()
            # Opened for each alert: it may have been moved or deleted, and alerts are rare.
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                    text = b"\n" + text  # keep a truncated line separate
                rest = memoryview(text)
                while rest:
                    rest = rest[os.write(file.fileno(), rest) :]
                os.fsync(file.fileno())
        except OSError as error:
            raise UnavailableError(f"{self._path} cannot be written ({error.strerror})") from error

    def _rotate(self) -> None:
        def numbered(number: int) -> Path:
            return self._path.with_name(f"{self._path.name}.{number}") if number else self._path

        for number in range(self._keep - 1, -1, -1):
            if numbered(number).exists():
                numbered(number).replace(numbered(number + 1))


class FileSink:
    """Appends alerts to a file."""

    def __init__(self, file: RotatedFile) -> None:
        self._file = file

    def send(self, update: Update) -> None:
        """Append one line."""
        self._file.add(line(document(update)))

    def close(self) -> None:
        """Nothing is left open."""
