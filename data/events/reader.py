"""Reads audit logs from files, folders, archives and standard input, compressed or not, streamed, with nothing lost silently."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from data.errors import KubehabitError
from data.events.audit_event import MAX_EVENT_BYTES, AuditEvent, DeadLetter, Decoded
from data.events.decode import CHUNK_BYTES, SMALL_BYTES, LogRecords
from data.events.formats.registry import Sources
from data.events.packing import DAMAGE, Blocks, unpacked
from data.events.remote_log import RemoteLog

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from data.events.packing import Stream

_CHUNK_RECORDS = 4096
#: Stands for standard input.
STDIN = Path("-")
#: A log on this machine, or elsewhere by URL.
LogPath = Path | RemoteLog


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
def _open(path: LogPath) -> Iterator[tuple[Stream, Callable[[], int]]]:
    """Open by content, not by name: the unpacked stream, and a function that returns how much of the file is read."""
    if path == STDIN:
        raw: io.RawIOBase = _ByteRange(sys.stdin.buffer)
    else:
        try:
            raw = path.raw() if isinstance(path, RemoteLog) else path.open("rb", buffering=0)
        except OSError as error:
            raise _unreadable(path, error) from error
    packed = io.BufferedReader(raw, 1 << 20)  # which closes `raw` when nobody has it any more
    try:
        yield unpacked(packed), raw.tell
    finally:
        raw.close()


def _unreadable(path: LogPath, error: OSError) -> KubehabitError:
    return KubehabitError(f"Cannot read the audit log {path}: {error.strerror}. Check the path.")


def open_lines(
    path: LogPath,
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


def read_events(
    path: LogPath,
    dead_letters: DeadLetters,
    *,
    on_bytes: Callable[[int], None] | None = None,
    sources: Sources | None = None,
    on_skipped: Callable[[Mapping[str, int]], None] | None = None,
) -> Iterator[list[AuditEvent]]:
    """Yield the events of a log in chunks. A file that cannot be opened or a folder without any raises KubehabitError.

    Args:
        path: a file of any format that docs/sources.md names, plain, gzip or zstd; a folder of such files, which are read in the
            order of their first events; `-` for standard input; a log elsewhere (`data.events.remote_log`).
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
    log: LogPath,
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


def _blocks(stream: Stream, *, interactive: bool = False) -> Blocks:
    return Blocks(stream, CHUNK_BYTES, SMALL_BYTES, interactive=interactive)


def _read(log: LogPath, sources: Sources) -> Iterator[tuple[Decoded, int]]:
    """Chunks of one file, each with the compressed bytes read by then."""
    with _open(log) as (stream, tell):
        for decoded in LogRecords(_blocks(stream, interactive=log == STDIN), sources).chunks():
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
    log: LogPath,
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
        stream = io.BufferedReader(_ByteRange(raw, stop - first), CHUNK_BYTES)
        records = LogRecords(_blocks(stream), Sources())
        for decoded in records.chunks():
            if events := _report(log, decoded, dead_letters, on_skipped):
                yield events
        if on_lines is not None:
            on_lines(records.line - 1)


def size_of(log: LogPath) -> int:
    """Bytes of a log as it is stored; 0 for standard input. A missing file raises KubehabitError."""
    if isinstance(log, RemoteLog):
        return log.size()
    try:
        return 0 if log == STDIN else log.stat().st_size
    except OSError as error:
        raise _unreadable(log, error) from error


def first_time(log: LogPath) -> str:
    """When the first event near the beginning of a file was written, RFC 3339; "" if there is none.

    Not when it was received: a watch that ended after an hour may come first.
    """
    for decoded, _ in islice(_read(log, Sources()), 2):
        for event in decoded.events:
            return event.stageTimestamp or event.requestReceivedTimestamp
    return ""


def log_files(paths: Iterable[LogPath]) -> list[LogPath]:
    """The files behind paths that may be folders, those of a folder in the order of their first events.

    Hidden and empty files of a folder are left out; files without an event come last, so that they are reported, not forgotten.
    """
    return [file for path in paths for file in _files_of(path)]


def _files_of(path: LogPath) -> list[LogPath]:
    if isinstance(path, RemoteLog):
        found: list[LogPath] = [*path.files()]
        return found if len(found) == 1 else _by_time(found)
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
    return _by_time(found)


def _by_time(files: list[LogPath]) -> list[LogPath]:
    # RFC 3339 in UTC sorts as text; API servers and clouds all write UTC.
    return sorted(files, key=lambda file: (first_time(file) or "~", str(file)))
