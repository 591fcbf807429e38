"""File: one JSON object a line, durable before it counts as sent, rotated by size."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from pydantic import Field

from serving.sinks.base import SinkSettings, UnavailableError, Update


class RotationSettings(SinkSettings):
    """How large a file may become, and how many full ones are kept."""

    max_mb: Annotated[float, Field(gt=0, le=1e9)] = 64
    keep: Annotated[int, Field(ge=1, le=1000)] = 5


class FileSettings(RotationSettings):
    """Alerts in a file."""

    type: Literal["file"]
    path: Path

    def open(self) -> FileSink:
        """The sink."""
        return FileSink(self, self.path, Update.document)


class FileSink:
    """Appends updates to a file that only its owner can read. A full one becomes `<path>.1`, that one `.2`, and so on."""

    def __init__(self, settings: RotationSettings, path: Path, body: Callable[[Update], object]) -> None:
        self._path = path
        self._body = body
        self._max_bytes = int(settings.max_mb * (1 << 20))
        self._keep = settings.keep

    def send(self, update: Update) -> None:
        """Append a line durably; an `UnavailableError` says that the disk is full, or the folder cannot be written."""
        text = msgspec.json.encode(self._body(update)) + b"\n"
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
        full = [self._path.with_name(f"{self._path.name}.{number}") for number in range(1, self._keep + 1)]
        for older, newer in pairwise([*reversed(full), self._path]):
            if newer.exists():
                newer.replace(older)

    def close(self) -> None:
        """Nothing is left open."""
