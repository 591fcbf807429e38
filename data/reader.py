"""Reading an audit log from disk: plain, gzip or zstd, streamed, with nothing lost silently."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

import zstandard

from data.errors import KubehabitError
from data.events import MAX_EVENT_BYTES, AuditEvent, DeadLetter, decode_lines

if TYPE_CHECKING:
    from typing_extensions import Buffer

_PACKED_BYTES = 1 << 16
CHUNK_LINES = 4096
"""Lines decoded at a time: enough to amortise the loop, small enough to keep memory flat."""


class DeadLetters(Protocol):
    """Where unreadable records go."""

    def add(self, source: str, letter: DeadLetter) -> None:
        """Keep one unreadable record."""


class DeadLetterFile:
    """Appends unreadable records to a JSONL file (created with the first one) and counts them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.reasons: dict[str, int] = {}
        self._file: IO[str] | None = None

    def add(self, source: str, letter: DeadLetter) -> None:
        """Write one record as {source, line, reason, raw}; `raw` keeps undecodable bytes as escapes."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        raw = letter.raw.decode("utf-8", "backslashreplace")
        record = {"source": source, "line": letter.line, "reason": letter.reason, "raw": raw}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self.count += 1
        kind = letter.reason.split(":")[0]
        self.reasons[kind] = self.reasons.get(kind, 0) + 1

    def close(self) -> None:
        """Close the file if anything was written."""
        if self._file is not None:
            self._file.close()
            self._file = None


class _Frame(Protocol):
    """One compressed frame or member being read; zlib's and zstandard's objects are alike in this."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Frames(io.RawIOBase):
    """Decompressed bytes of concatenated frames.

    Unlike the libraries' own file objects it hands over everything that could be read before damage, and notices a missing end.
    """

    def __init__(self, raw: IO[bytes], new: Callable[[], _Frame]) -> None:
        self._raw = raw
        self._new = new
        self._frame = new()
        self._inside = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        while not self._ready:
            packed = self._frame.unused_data if self._frame.eof else b""
            if not self._inside:
                packed = packed.lstrip(b"\0")  # padding after a gzip member is allowed
            packed = packed or self._raw.read(_PACKED_BYTES)
            if not packed:
                if self._inside:
                    raise EOFError("its end is missing")
                return 0
            if self._frame.eof:
                self._frame = self._new()
            self._ready = memoryview(self._frame.decompress(packed))
            self._inside = not self._frame.eof
        target = memoryview(buffer)
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _zstd_frame() -> _Frame:
    # Long-distance windows are common in archived logs; the default limit would refuse them.
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


def _gzip_member() -> _Frame:
    return zlib.decompressobj(wbits=31)


def _open(path: Path) -> tuple[IO[bytes], IO[bytes]]:
    """Open by content, not by name: returns the decompressed stream and the raw file below it."""
    try:
        raw = path.open("rb")
        magic = raw.read(4)
    except OSError as error:
        raise KubehabitError(
            f"Cannot read the audit log {path}: {error.strerror}. Check the path."
        ) from error
    raw.seek(0)
    if magic[:2] == b"\x1f\x8b":
        return io.BufferedReader(_Frames(raw, _gzip_member), 1 << 20), raw
    if magic == b"\x28\xb5\x2f\xfd":
        return io.BufferedReader(_Frames(raw, _zstd_frame), 1 << 20), raw
    return io.BufferedReader(raw, 1 << 20), raw


def open_lines(
    path: Path,
    *,
    on_bytes: Callable[[int], None] | None = None,
    on_damage: Callable[[int, str], None] | None = None,
) -> Iterator[bytes]:
    """Yield the lines of a log without their newline.

    Args:
        path: plain, gzip or zstd file.
        on_bytes: called now and then with the number of compressed bytes read so far, for progress bars.
        on_damage: called with (line number, reason) when the file ends in the middle of its compressed stream;
            what could be read has been yielded. Without it the damage raises.

    Raises:
        KubehabitError: the file cannot be opened, or is damaged and `on_damage` is None.
    """
    stream, raw = _open(path)
    number = 0
    with raw:
        try:
            while True:
                line = stream.readline(MAX_EVENT_BYTES + 2)
                if not line:
                    break
                number += 1
                if on_bytes is not None and number % CHUNK_LINES == 0:
                    on_bytes(raw.tell())
                complete = line.endswith(b"\n")
                yield line[:-1] if complete else line
                while not complete and len(line) > MAX_EVENT_BYTES:  # skip the rest of an oversized line
                    rest = stream.readline(1 << 20)
                    complete = not rest or rest.endswith(b"\n")
        except (EOFError, zlib.error, zstandard.ZstdError, OSError) as error:
            reason = f"compressed stream is damaged after line {number}: {error}"
            if on_damage is None:
                raise KubehabitError(f"{path}: {reason}. Ship the file again.") from error
            on_damage(number + 1, reason)
        if on_bytes is not None:
            on_bytes(raw.tell())


def read_events(
    path: Path, dead_letters: DeadLetters, *, on_bytes: Callable[[int], None] | None = None
) -> Iterator[list[AuditEvent]]:
    """Yield the events of a log in chunks; records that cannot be read go to `dead_letters`.

    Raises:
        KubehabitError: the file cannot be opened.
    """

    def damaged(line: int, reason: str) -> None:
        dead_letters.add(str(path), DeadLetter(line, reason, b""))

    lines = open_lines(path, on_bytes=on_bytes, on_damage=damaged)
    first = 1
    while True:
        chunk = [line for _, line in zip(range(CHUNK_LINES), lines, strict=False)]
        if not chunk:
            return
        decoded = decode_lines(chunk, first)
        for letter in decoded.dead:
            dead_letters.add(str(path), letter)
        if decoded.events:
            yield decoded.events
        first += len(chunk)
