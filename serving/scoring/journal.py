"""Keeps batches on disk from before they are acknowledged until a snapshot of the state covers them.

A folder of segments. Each begins with a magic line and a mark of eight random bytes; each record is

    mark 8s | sequence u64 | arrived u64 | stored u32 | size u32 | checksum u32 | encoding u8 | source u8 | header checksum u32
    source | body, compressed

little-endian. A record truncated by a crash is the last one, was never acknowledged, and is removed at the next start. Damage
followed by good records is logged as an error, and the good records are read. The random mark prevents a body from containing
what looks like a record.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import zstandard

from data.durable_file import sync_folder
from data.errors import KubehabitError

_log = logging.getLogger("kubehabit.journal")

_MAGIC = b"kubehabit journal 1\n"
_MARK_BYTES = 8
_BODY = len(_MAGIC) + _MARK_BYTES
_HEADER = struct.Struct("<8sQQIIIBB")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_ENCODINGS = ("", "gzip", "zstd")
# zstd's: 15 times smaller for 1 us an event; higher levels gain nothing on audit events.
_LEVEL = 1

_LEAST_COMPRESSED = 256
_SEGMENT_BYTES = 16 << 20
# Minimum number of segments in a full journal: space is freed a segment at a time.
_SEGMENTS = 8

_SUFFIX = ".journal"


class JournalError(KubehabitError):
    """The journal cannot be opened, read or written."""


class JournalFullError(JournalError):
    """The journal is full until more of it is scored."""


@dataclass(frozen=True, slots=True)
class JournalPosition:
    """Where a record is.

    Attributes:
        sequence: number of the record, from 1, never reused.
        segment: number of its segment's first record.
        offset: of its header in the segment.
        stored: bytes of source and body.
        arrived: microseconds since 1970 UTC.
    """

    sequence: int
    segment: int
    offset: int
    stored: int
    arrived: int

    @property
    def end(self) -> int:
        """Offset of what follows it."""
        return self.offset + _HEADER_BYTES + self.stored


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """A received batch.

    Attributes:
        source: route that received it.
        arrived: microseconds since 1970 UTC.
        encoding: Content-Encoding of `body`, which has `size` bytes when decoded.
    """

    source: str
    arrived: int
    encoding: str
    size: int
    body: bytes


def record(source: str, body: bytes, encoding: str, plain: bytes) -> JournalRecord:
    """The record of a batch that arrives now; `plain` is the decoded `body`."""
    name = encoding.strip().lower().removeprefix("x-")
    if name not in ("gzip", "zstd"):
        name = ""
        if len(plain) >= _LEAST_COMPRESSED:
            name, body = "zstd", zstandard.ZstdCompressor(level=_LEVEL).compress(plain)
    return JournalRecord(source, time.time_ns() // 1000, name, len(plain), body)


@dataclass(slots=True)
class _PendingAppend:
    record: JournalRecord
    then: Callable[[JournalPosition], None]
    done: Future[JournalPosition]
    bytes: int


class Journal:
    """Appends batches durably; batches that wait at the same time share one write and one fsync.

    Args:
        folder: created if missing, private to its owner.
        max_bytes: maximum size of all segments together.

    Attributes:
        last: sequence of the last durable record; 0 before the first.

    Raises:
        JournalError: the folder cannot be used, or another process uses it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, max(max_bytes // _SEGMENTS, _BODY))
        self._sizes: dict[int, int] = {}
        self._pending: list[_PendingAppend] = []
        self._pending_bytes = 0
        self._wake = threading.Condition()
        self._closing = False
        self._file, self._active, self._mark = -1, 0, b""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._lock)
                raise JournalError(
                    f"Another process uses the journal in {folder}: stop it, or name another folder as journal.path."
                ) from error
            self.last = self._recover()
        except OSError as error:
            raise JournalError(
                f"The journal in {folder} cannot be opened ({error.strerror}). Check journal.path and its permissions."
            ) from error
        self._writer = threading.Thread(target=self._run, name="journal", daemon=True)
        self._writer.start()

    @property
    def used(self) -> int:
        """Size of all segments, bytes."""
        with self._wake:
            return sum(self._sizes.values())

    def append(
        self, taken: JournalRecord, then: Callable[[JournalPosition], None] = lambda _: None
    ) -> Future[JournalPosition]:
        """Make a batch durable; the future fails with JournalError if it could not be written.

        Args:
            taken: the batch.
            then: called when it is durable, before the future is done, in the order of the journal.

        Raises:
            JournalFullError: there is no room for it.
            JournalError: the journal is closed.
        """
        size = _HEADER_BYTES + len(taken.source.encode()) + len(taken.body)
        waiting = _PendingAppend(taken, then, Future(), size)
        waiting.done.set_running_or_notify_cancel()  # a cancelled wait does not cancel the batch
        with self._wake:
            if self._closing:
                raise JournalError("The service is ending: send the batch again.")
            if sum(self._sizes.values()) + self._pending_bytes + waiting.bytes > self.max_bytes:
                raise JournalFullError(
                    "The journal is full: more arrives than can be scored. Send the batch again later; "
                    "if this goes on, raise journal.max_mb or serve with more processors."
                )
            self._pending.append(waiting)
            self._pending_bytes += waiting.bytes
            self._wake.notify()
        return waiting.done

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                group, self._pending = self._pending, []
            try:
                places = self._commit(group)
            except OSError as error:
                self._give_up()
                _log.error("the journal cannot be written", extra={"reason": error.strerror})
                message = (
                    f"The journal cannot be written ({error.strerror}): check the disk of journal.path. "
                    "Nothing of this batch was kept: send it again later."
                )
                for waiting in group:
                    waiting.done.set_exception(JournalError(message))
            else:
                for waiting, place in zip(group, places, strict=True):
                    waiting.then(place)
                    waiting.done.set_result(place)
            finally:
                with self._wake:
                    self._pending_bytes -= sum(waiting.bytes for waiting in group)

    def _commit(self, group: list[_PendingAppend]) -> list[JournalPosition]:
        if self._file < 0 or self._sizes[self._active] >= self._segment_bytes:
            self._begin_segment()
        size = offset = self._sizes[self._active]
        sequence = self.last
        out = bytearray()
        places = []
        for waiting in group:
            sequence += 1
            taken = waiting.record
            source = taken.source.encode()
            checksum = zlib.crc32(taken.body, zlib.crc32(source))
            stored, code = len(source) + len(taken.body), _ENCODINGS.index(taken.encoding)
            sizes = stored, taken.size, checksum, code, len(source)
            head = _HEADER.pack(self._mark, sequence, taken.arrived, *sizes)
            out += head + _CHECKSUM.pack(zlib.crc32(head)) + source + taken.body
            places.append(JournalPosition(sequence, self._active, offset, stored, taken.arrived))
            offset = places[-1].end
        view = memoryview(out)
        while view:
            view = view[os.pwrite(self._file, view, size + len(out) - len(view)) :]
        os.fdatasync(self._file)
        self.last = sequence
        with self._wake:
            self._sizes[self._active] = offset
        return places

    def _begin_segment(self) -> None:
        self._end_segment()
        number = self.last + 1
        mark = secrets.token_bytes(_MARK_BYTES)
        file = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(file, _MAGIC + mark)
            os.fsync(file)
            sync_folder(self.folder)
        except OSError:
            os.close(file)
            raise
        self._file, self._mark, self._active = file, mark, number
        with self._wake:
            self._sizes[number] = _BODY

    def _end_segment(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _give_up(self) -> None:
        """After a failed write the file's end is unknown: truncate it, and begin another segment next time."""
        if self._file < 0:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, self._sizes[self._active])
        if self._sizes[self._active] > _BODY:  # the successor of an empty one would have the same name
            self._end_segment()

    def positions(
        self, after: int, upto: int | None = None, last: JournalPosition | None = None
    ) -> Iterator[JournalPosition]:
        """Positions of the records after one and up to another, in order. Safe during appends.

        Args:
            after: sequence before the first.
            upto: sequence of the last; must be durable. The last of all by default.
            last: position of `after`, if known; else its segment is read from the beginning.
        """
        upto = self.last if upto is None else upto
        with self._wake:
            numbers = sorted(self._sizes)
        for number, following in pairwise([*numbers, upto + 1]):
            if following - 1 <= after or number > upto:
                continue
            begin = _BODY
            if last is not None and last.segment == number:
                begin = last.end
            for place in _read_positions(self._path(number), number, begin, upto):
                if after < place.sequence <= upto:
                    yield place

    def read(self, place: JournalPosition) -> JournalRecord:
        """Read a record; raises JournalError if it is damaged or gone."""
        try:
            with self._path(place.segment).open("rb") as file:
                file.seek(place.offset)
                found = _parse(file.read(_HEADER_BYTES + place.stored), 0, None, place.segment)
        except OSError as error:
            raise JournalError(f"JournalRecord {place.sequence} cannot be read: {error.strerror}.") from error
        if found is None or found[0].sequence != place.sequence:
            raise JournalError(f"JournalRecord {place.sequence} is damaged.")
        return found[1]

    def follow_on(self, sequence: int) -> None:
        """Continue numbering after a sequence, if the journal's last one is lower."""
        self.last = max(self.last, sequence)

    def scored(self, upto: int) -> int:
        """Bytes of the segments that `prune` would delete."""
        with self._wake:
            return sum(self._sizes[number] for number in self._gone(upto))

    def _gone(self, upto: int) -> list[int]:
        numbers = sorted(self._sizes)
        gone = [number for number, following in pairwise(numbers) if following - 1 <= upto]
        # The newest one goes, too, once it is full: else there might be no room to begin another.
        is_idle = not self._pending_bytes and self.last <= upto
        if numbers and is_idle and self._sizes[numbers[-1]] >= self._segment_bytes:
            gone.append(numbers[-1])
        return gone

    def prune(self, upto: int) -> None:
        """Delete the segments whose records are all at or before a sequence."""
        with self._wake:
            gone = self._gone(upto)
            if self._active in gone:
                self._end_segment()
            for number in gone:
                del self._sizes[number]
        for number in gone:
            self._path(number).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all records; the numbers go on. Nothing may wait to be scored or written."""
        with self._wake:
            gone = list(self._sizes)
            self._end_segment()
            self._sizes.clear()
        for number in gone:
            self._path(number).unlink(missing_ok=True)
        for damaged in self.folder.glob("*.damaged"):
            damaged.unlink()

    def close(self) -> None:
        """Write what is pending and release the folder."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._writer.join()
        self._end_segment()
        os.close(self._lock)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:020d}{_SUFFIX}"

    def _recover(self) -> int:
        """List the segments and remove a truncated last record. Returns the last sequence used."""
        paths = sorted(self.folder.glob("*" + _SUFFIX))
        numbers = [int(path.stem) for path in paths if path.stem.isdecimal()]
        self._sizes = {number: self._path(number).stat().st_size for number in numbers}
        if not numbers:
            return 0
        number = numbers[-1]
        places, end = _scan(self._path(number), number)
        torn = self._sizes[number] - end
        if torn:
            path = self._path(number)
            shown = {"bytes": torn, "segment": path.name}
            _log.warning("cut off an unfinished record that was never acknowledged", extra=shown)
            with path.open("rb+") as file:
                file.truncate(end)
                os.fsync(file.fileno())
        if not places:
            if end > _BODY:  # keep it for inspection
                self._path(number).rename(self._path(number).with_suffix(".damaged"))
            else:
                self._path(number).unlink()
            del self._sizes[number]
            return number - 1
        self._sizes[number] = end
        return places[-1].sequence


def _parse(
    data: bytes | mmap.mmap, offset: int, mark: bytes | None, segment: int
) -> tuple[JournalPosition, JournalRecord] | None:
    """What is at an offset of a segment, or None if that is no intact record."""
    body = offset + _HEADER_BYTES
    if body > len(data):
        return None
    head = data[offset : offset + _HEADER.size]
    if _CHECKSUM.unpack(data[body - _CHECKSUM.size : body])[0] != zlib.crc32(head):
        return None
    found, sequence, arrived, stored, size, checksum, code, source = _HEADER.unpack(head)
    if (mark is not None and found != mark) or body + stored > len(data) or code >= len(_ENCODINGS):
        return None
    whole = data[body : body + stored]
    if zlib.crc32(whole) != checksum:
        return None
    name = whole[:source].decode(errors="replace")
    taken = JournalRecord(name, arrived, _ENCODINGS[code], size, bytes(whole[source:]))
    return JournalPosition(sequence, segment, offset, stored, arrived), taken


def _read_positions(path: Path, number: int, begin: int, upto: int) -> Iterator[JournalPosition]:
    """Positions in a segment from an offset on, one by one; a damaged segment is scanned as a whole."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            mark, offset = data[len(_MAGIC) : _BODY], begin
            while offset < len(data) and (found := _parse(data, offset, mark, number)) is not None:
                yield found[0]
                if found[0].sequence >= upto:
                    return
                offset = found[0].end
            if offset >= len(data):
                return
    except (FileNotFoundError, ValueError):  # deleted meanwhile, or empty
        return
    yield from (place for place in _scan(path, number)[0] if place.offset > offset)


def _scan(path: Path, number: int) -> tuple[list[JournalPosition], int]:
    """Positions of a segment's intact records, and the end of the last. Damage between them is logged as an error."""
    places: list[JournalPosition] = []
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _BODY:
            return places, 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            mark = data[len(_MAGIC) : _BODY]
            offset = end = _BODY
            if data[: len(_MAGIC)] != _MAGIC:
                shown = {"segment": path.name, "bytes": size}
                _log.error("a segment of the journal is damaged: what it held cannot be scored", extra=shown)
                return places, size
            while offset < size:
                found = _parse(data, offset, mark, number)
                if found is None or found[0].sequence < (places[-1].sequence + 1 if places else number):
                    offset = data.find(mark, offset + 1)
                    if offset < 0:
                        break
                    continue
                if offset != end:
                    shown = {"segment": path.name, "from": end, "to": offset}
                    _log.error("a part of the journal is damaged: what it held cannot be scored", extra=shown)
                places.append(found[0])
                offset = end = found[0].end
    return places, end
