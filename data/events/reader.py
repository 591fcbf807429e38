"""Reads audit logs from files, folders and standard input: plain, gzip or zstd, streamed, with nothing lost silently."""

from __future__ import annotations

import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

import zstandard

from data.errors import KubehabitError
from data.events.audit_event import MAX_EVENT_BYTES, AuditEvent, DeadLetter, Decoded
from data.events.decode import decode_block, decode_numbered
from data.events.formats.json_stream import Documents, opens_document
from data.events.formats.registry import Sources

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from typing_extensions import Buffer

    _Stream: TypeAlias = io.BufferedReader[Any]

_PACKED_BYTES = 1 << 16
#: Bytes decoded at a time: enough to amortise what is done per chunk, small enough that its events stay in a core's cache.
_CHUNK_BYTES = 256 << 10
#: The same where records are not lines, so that little is looked at twice.
_SMALL_BYTES = 64 << 10
_CHUNK_RECORDS = 4096
#: Compression inside compression: Firehose can compress what CloudWatch has compressed already.
_MAX_PACKINGS = 3
#: Stands for standard input.
STDIN = Path("-")
DAMAGE = (EOFError, zlib.error, zstandard.ZstdError, OSError)


class DeadLetters(Protocol):
    """Where unreadable records go."""

    def add(self, source: str, letter: DeadLetter) -> None:
        """Keep one unreadable record."""


class DeadLetterFile:
    """Appends unreadable records to a JSONL file (created with the first one) and counts them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.reasons: Counter[str] = Counter()
        self._file: IO[str] | None = None

    def add(self, source: str, letter: DeadLetter) -> None:
        """Write one record as {source, line, reason, raw}; `raw` keeps undecodable bytes as escapes and no body."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        record = {"source": source, "line": letter.line, "reason": letter.reason, "raw": letter.text}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self.count += 1
        self.reasons[letter.reason.split(":")[0]] += 1

    def close(self) -> None:
        """Close the file if anything was written."""
        if self._file is not None:
            self._file.close()
            self._file = None


class _Frame(Protocol):
    """One compressed frame or member being read, by zlib or zstandard."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Frames(io.RawIOBase):
    """Decompressed bytes of concatenated frames.

    Unlike the libraries' file objects it returns everything before a damage, and notices a missing end.
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


#: First bytes of a compressed file -> what decompresses it.
_PACKINGS: dict[bytes, Callable[[], _Frame]] = {b"\x1f\x8b": _gzip_member, b"\x28\xb5\x2f\xfd": _zstd_frame}


class _ByteRange(io.RawIOBase):
    """The next bytes of a stream, and how many of them were read."""

    def __init__(self, raw: IO[bytes], size: int = sys.maxsize) -> None:
        self._raw = raw
        self._size = size
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer)
        read = self._raw.read1 if isinstance(self._raw, io.BufferedReader) else self._raw.read
        data = read(min(len(target), self._size - self._count))
        target[: len(data)] = data
        self._count += len(data)
        return len(data)

    def tell(self) -> int:
        return self._count


@contextmanager
def _open(path: Path) -> Iterator[tuple[_Stream, Callable[[], int]]]:
    """Open by content, not by name: the decompressed stream, and a function that returns how much of the file is read."""
    stream: _Stream
    if path == STDIN:
        raw: io.RawIOBase = _ByteRange(sys.stdin.buffer)
    else:
        try:
            raw = path.open("rb", buffering=0)
        except OSError as error:
            raise _unreadable(path, error) from error
    stream = io.BufferedReader(raw, 1 << 20)
    try:
        for _ in range(_MAX_PACKINGS):
            magic = b""
            with suppress(*DAMAGE):  # damage met here is met again on reading
                magic = stream.peek(4)[:4]
            frame = next((frame for start, frame in _PACKINGS.items() if magic.startswith(start)), None)
            if frame is None:
                break
            stream = io.BufferedReader(_Frames(stream, frame), 1 << 20)
        yield stream, raw.tell
    finally:
        raw.close()


def _unreadable(path: Path, error: OSError) -> KubehabitError:
    return KubehabitError(f"Cannot read the audit log {path}: {error.strerror}. Check the path.")


def open_lines(
    path: Path,
    *,
    on_bytes: Callable[[int], None] | None = None,
    on_damage: Callable[[int, str], None] | None = None,
) -> Iterator[bytes]:
    """Yield the lines of a plain, gzip or zstd file (`-` is standard input) without their newline.

    A file that cannot be opened, or is damaged and `on_damage` is None, raises KubehabitError.

    Args:
        on_bytes: called now and then with the number of compressed bytes read so far, for progress bars.
        on_damage: called with (line number, reason) after what could be read of a damaged file.
    """
    number = 0
    with _open(path) as (stream, tell):
        try:
            while True:
                line = stream.readline(MAX_EVENT_BYTES + 2)
                if not line:
                    break
                number += 1
                if on_bytes is not None and number % _CHUNK_RECORDS == 0:
                    on_bytes(tell())
                complete = line.endswith(b"\n")
                yield line[:-1] if complete else line
                while not complete and len(line) > MAX_EVENT_BYTES:  # skip the rest of an oversized line
                    rest = stream.readline(1 << 20)
                    complete = not rest or rest.endswith(b"\n")
        except DAMAGE as error:
            reason = f"compressed stream is damaged after line {number}: {error}"
            if on_damage is None:
                raise KubehabitError(f"{path}: {reason}. Ship the file again.") from error
            on_damage(number + 1, reason)
        if on_bytes is not None:
            on_bytes(tell())


class _Input:
    """Bytes of a log in blocks; what was read too far can be put back."""

    def __init__(self, stream: _Stream, interactive: bool) -> None:
        self._stream = stream
        self._unread: list[memoryview] = []
        self._interactive = interactive
        self.damage: Exception | None = None

    def unread(self, data: bytes) -> None:
        if data:
            self._unread.append(memoryview(data))

    def block(self) -> bytes:
        """The next bytes; none at the end, which is also where damage is met."""
        if self._unread:
            data = self._unread.pop()
            if len(data) > _SMALL_BYTES:
                self._unread.append(data[_SMALL_BYTES:])
            return bytes(data[:_SMALL_BYTES])
        pieces: list[bytes] = []
        size = 0
        while self.damage is None and size < _CHUNK_BYTES:
            try:
                piece = self._stream.read1(_CHUNK_BYTES - size)
            except DAMAGE as error:
                self.damage = error
                break
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
            if self._interactive:  # a live log that is piped in is scored at once
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _LogRecords:
    """Cuts the bytes of a log into records and decodes them, chunk by chunk."""

    def __init__(self, data: _Input, sources: Sources) -> None:
        self.line = 1  # the next
        self._input = data
        self._sources = sources
        self._opener: tuple[int, bytes] | None = None

    def _opens(self, number: int, line: bytes) -> bool:
        if not opens_document(line):
            return False
        self._opener = (number, line)
        return True

    def chunks(self) -> Iterator[Decoded]:
        """All of the log."""
        carry = b""
        while True:
            block = self._input.block()
            if not block and self._input.damage is not None:
                yield self._damaged(carry, self._input.damage)
                return
            if not block and not carry:
                return
            data = carry + block if carry else block
            # What follows the last newline is the beginning of a line, or at the end of the log a line of its own.
            end = data.rfind(b"\n") + 1 if block else len(data)
            carry = data[end:]
            first = self.line
            decoded = decode_block(memoryview(data)[:end], first) if end else None
            if decoded is not None:
                self.line += len(decoded.events)
                self._sources.records["native"] += len(decoded.events)
                yield decoded
                continue
            lines = data[:end].removesuffix(b"\n").split(b"\n") if end else []
            self.line = first + len(lines)
            numbered = iter(enumerate(lines, first))
            yield decode_numbered(numbered, self._sources, self._opens)
            if self._opener is not None:
                number, opener = self._opener
                self._opener = None
                self._input.unread(carry)
                rest = [opener, *(line for _, line in numbered), b""] if block else [opener]
                self._input.unread(b"\n".join(rest))
                carry = b""
                yield from self._document(number, one_line=False)
            elif len(carry) > MAX_EVENT_BYTES:
                self._input.unread(carry)
                carry = b""
                yield from self._document(self.line, one_line=True)

    def _damaged(self, cut: bytes, damage: Exception) -> Decoded:
        """The cut-off end of a damaged log, with the reason."""
        decoded = decode_numbered([(self.line, cut)], self._sources)
        reason = f"compressed stream is damaged after line {self.line - 1}: {damage}"
        if not decoded.events:
            return decoded._replace(dead=[DeadLetter(self.line, reason, cut)])
        return decoded._replace(dead=[*decoded.dead, DeadLetter(self.line, reason, b"")])

    def _document(self, line: int, one_line: bool) -> Iterator[Decoded]:
        """Records of a document that is not one record a line."""
        document = Documents(line, one_line)
        records: list[tuple[int, bytes]] = []
        size = 0
        while not document.finished:
            block = self._input.block()
            found = document.feed(block) if block else document.end()
            records += found
            size += sum(len(record) for _, record in found)
            if size >= _CHUNK_BYTES or document.finished or document.damage:
                decoded = decode_numbered(records, self._sources)
                dead = [DeadLetter(at, reason, b"") for at, reason in document.damage]
                document.damage.clear()
                yield decoded._replace(dead=decoded.dead + dead)
                records, size = [], 0
        self._input.unread(document.rest)
        self.line = document.line


def read_events(
    path: Path,
    dead_letters: DeadLetters,
    *,
    on_bytes: Callable[[int], None] | None = None,
    sources: Sources | None = None,
    on_skipped: Callable[[Mapping[str, int]], None] | None = None,
) -> Iterator[list[AuditEvent]]:
    """Yield the events of a log in chunks. A file that cannot be opened or a folder without any raises KubehabitError.

    Args:
        path: a file of any format that docs/sources.md names, plain, gzip or zstd; a folder of such files, which are read in the
            order of their first events; `-` for standard input.
        dead_letters: where unreadable records go, each with its line.
        on_bytes: called now and then with the number of compressed bytes read so far, for progress bars.
        sources: gives the formats found afterwards, and carries GKE's long-running requests over several files.
        on_skipped: called with counts of records left out on purpose, by reason.
    """
    sources, done = sources or Sources(), 0
    for log in log_files([path]):
        for decoded, position in _read(log, sources):
            if events := _report(log, decoded, dead_letters, on_skipped):
                yield events
            if on_bytes is not None:
                on_bytes(done + position)
        done += size_of(log)


def _report(
    log: Path,
    decoded: Decoded,
    dead_letters: DeadLetters,
    on_skipped: Callable[[Mapping[str, int]], None] | None,
) -> list[AuditEvent]:
    """Report what is no event in a chunk; returns the events."""
    for letter in decoded.dead:
        dead_letters.add(str(log), letter)
    if decoded.skipped and on_skipped is not None:
        on_skipped(decoded.skipped)
    return decoded.events


def _read(log: Path, sources: Sources) -> Iterator[tuple[Decoded, int]]:
    """Chunks of one file, each with the compressed bytes read by then."""
    with _open(log) as (stream, tell):
        for decoded in _LogRecords(_Input(stream, interactive=log == STDIN), sources).chunks():
            yield decoded, tell()


def _line_from(raw: IO[bytes], position: int) -> int:
    """Beginning of the first line at or after a position."""
    if position == 0:
        return 0
    raw.seek(position - 1)
    while (rest := raw.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass
    return raw.tell()


def read_range(
    log: Path,
    begin: int,
    end: int,
    dead_letters: DeadLetters,
    *,
    on_skipped: Callable[[Mapping[str, int]], None] | None = None,
    on_lines: Callable[[int], None] | None = None,
) -> Iterator[list[AuditEvent]]:
    """As `read_events`, for the lines that begin in a range of bytes of an uncompressed file.

    A line that crosses the range's end belongs to it, one that crosses its beginning does not; lines are counted from there.
    `on_lines` is called at the end with their number.
    """
    with log.open("rb") as raw:
        first, stop = _line_from(raw, begin), _line_from(raw, end)
        raw.seek(first)
        stream = io.BufferedReader(_ByteRange(raw, stop - first), _CHUNK_BYTES)
        records = _LogRecords(_Input(stream, interactive=False), Sources())
        for decoded in records.chunks():
            if events := _report(log, decoded, dead_letters, on_skipped):
                yield events
        if on_lines is not None:
            on_lines(records.line - 1)


def size_of(log: Path) -> int:
    """Bytes of a log as it lies on disk; 0 for standard input. A missing file raises KubehabitError."""
    try:
        return 0 if log == STDIN else log.stat().st_size
    except OSError as error:
        raise _unreadable(log, error) from error


def first_time(log: Path) -> str:
    """When the first event near the beginning of a file was written, RFC 3339; "" if there is none.

    Not when it was received: a watch that ended after an hour may come first.
    """
    for decoded, _ in islice(_read(log, Sources()), 2):
        for event in decoded.events:
            return event.stageTimestamp or event.requestReceivedTimestamp
    return ""


def log_files(paths: Iterable[Path]) -> list[Path]:
    """The files behind paths that may be folders, those of a folder in the order of their first events.

    Hidden and empty files of a folder are left out; files without an event come last, so that they are reported, not forgotten.
    """
    return [file for path in paths for file in _files_of(path)]


def _files_of(path: Path) -> list[Path]:
    if path == STDIN or not path.is_dir():
        return [path]
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.stat().st_size
    ]
    if not found:
        raise KubehabitError(f"The folder {path} holds no file. Name the folder that the logs are in.")
    # RFC 3339 in UTC sorts as text; API servers and clouds all write UTC.
    return sorted(found, key=lambda file: (first_time(file) or "~", str(file)))
