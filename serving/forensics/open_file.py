"""The open file of the event store: records as lines of JSON that are not sealed yet, and what an earlier process left of one."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from serving.forensics.merkle import leaf_of
from serving.forensics.records import EventRecord, content_of

_LINES = msgspec.json.Decoder(dict[str, Any])


class _Numbered(msgspec.Struct):
    number: int


_NUMBERED = msgspec.json.Decoder(_Numbered)


class OpenRecord(NamedTuple):
    """What sealing needs to know of a record in the open file: its hash, the size of its line, time and digest of the event."""

    leaf: bytes
    size: int
    time: int
    digest: int


class RecoveredRecords(NamedTuple):
    """What can be read of an open file.

    Attributes:
        records: up to the first line that cannot be read.
        whole: number of those whose batch is whole.
        size: bytes of these.
        batch: the last batch of the journal that is whole; 0 if none is.
        damaged: whether it ends with a line that is whole and yet cannot be read, which no crash leaves behind.
    """

    records: list[OpenRecord]
    whole: int
    size: int
    batch: int
    damaged: bool


class OpenFile:
    """Takes the lines of the records from some number on.

    Attributes:
        path: of the file; the folder while there is none.
        records: those in it that are not sealed.
        size: bytes in it.
        opened: when it was begun, seconds of the monotonic clock.
    """

    def __init__(self, folder: Path) -> None:
        self.path = self._folder = folder
        self.records: list[OpenRecord] = []
        self.size = 0
        self.opened = 0.0
        self._file: IO[bytes] | None = None

    def write(self, number: int, lines: Sequence[bytes], records: Sequence[OpenRecord]) -> None:
        """Add records, of which a new file has the first as its number; raises OSError if nothing of them was kept."""
        if self._file is None:
            self.path = self._folder / f"open-{number}.ndjson"
            self._file = self.path.open("ab")
            self.path.chmod(0o600)
            self.size = 0
            self.opened = time.monotonic()
        try:
            for line in lines:
                self._file.write(line)
            self._file.flush()
        except OSError:
            # Drop the buffer, and cut off what was half written.
            with contextlib.suppress(OSError):
                self._file.close()
            os.truncate(self.path, self.size)
            self._file = self.path.open("ab")
            raise
        self.records += records
        self.size += sum(map(len, lines))

    def resume(self, path: Path, records: list[OpenRecord], size: int) -> None:
        """Go on with so many bytes of a file that an earlier process left."""
        self.path, self.records, self.size = path, records, size
        self._file = path.open("ab")
        os.ftruncate(self._file.fileno(), size)

    def sync(self) -> None:
        """Flush it to its disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Delete the file, all of which is sealed."""
        if self._file is not None:
            self._file.close()
            self.path.unlink()
        self._file = None
        self.size = 0

    def close(self) -> None:
        """Close the file; the next start finds it."""
        if self._file is not None:
            self._file.close()


def read_open_file(path: Path) -> RecoveredRecords:
    """Read what an earlier process left open, up to the first line that a crash tore."""
    number = first_number(path)
    records: list[OpenRecord] = []
    size = kept = whole = last = 0
    with path.open("rb") as file:
        for line in file:
            try:
                fields = _LINES.decode(line)
                batch, follow = fields.pop("batch"), fields.pop("follow")
                digest = fields.pop("digest", 0)  # missing in what an earlier release wrote
                record = EventRecord(**fields)
            except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
                break
            if not line.endswith(b"\n") or record.number != number + len(records):
                break
            records.append(OpenRecord(leaf_of(content_of(record)), len(line), record.time, digest))
            size += len(line)
            if not follow:
                kept, whole, last = size, len(records), max(batch, last)
        else:
            line = b""
    return RecoveredRecords(records, whole, kept, last, line.endswith(b"\n"))


def first_number(path: Path) -> int:
    """Number of the first record of a file, by its name."""
    digits = re.sub(r"^open-", "", path.name).split(".")[0].split("-")[0]
    return int(digits) if digits.isdecimal() else sys.maxsize


def last_number(path: Path) -> int:
    """Highest number of a record of an open file that can be read; -1 if there is none."""
    number = -1
    with path.open("rb") as file:
        for line in file:
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                number = max(number, _NUMBERED.decode(line).number)
    return number


def is_torn(path: Path) -> bool:
    """Whether an open file holds no whole line."""
    with path.open("rb") as file:
        return not file.readline().endswith(b"\n")
