"""Following a log that an API server is writing, through rotation and restarts, without loss and without repeats.

A position says which file was read how far: device and inode, the offset behind the last whole line, and a hash of the file's
first bytes, because inodes are used again and files are truncated in place. Whoever stores the position together with what it
made of the lines (one transaction, or one checkpoint file) goes on after a kill exactly where it was.

Rotation by rename, rotation by copy and truncation, and compression of rotated files are understood; between two looks a log
may be rotated several times. Polling only: notifications miss what happens on network mounts and in other mount namespaces.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from data.audit_event import MAX_EVENT_BYTES
from data.decode import decode_lines
from data.errors import KubehabitError
from data.reader import DAMAGE, first_time, open_bytes, time_of

_log = logging.getLogger("kubehabit.follow")

_HEAD_BYTES = 1024
"""First bytes that tell one log from another: they hold the first event's ID and time."""
_BLOCK_BYTES = MAX_EVENT_BYTES + (1 << 20)
"""Read at a time; more than the longest line that is taken."""
_RETRIES = 10
_CHECKPOINT_VERSION = 1
_TIME_BYTES = 1 << 20
_TIME_LINES = 100


@dataclass(frozen=True, slots=True)
class Position:
    """How far a log is read.

    Attributes:
        device: device of the file.
        inode: inode of the file.
        offset: bytes read, up to the end of a line.
        line: lines read.
        head: hash of the first `head_bytes` bytes, hex.
        head_bytes: bytes that `head` covers.
        since: time of the newest rotated file when this one began; files later than that are between the two.
        inside: the line at `offset` is longer than any event; it has been handed over cut short, and its rest is to be passed by.
    """

    device: int = 0
    inode: int = 0
    offset: int = 0
    line: int = 0
    head: str = ""
    head_bytes: int = 0
    since: str = ""
    inside: bool = False


class Batch(NamedTuple):
    """Whole lines that came since the last batch.

    Attributes:
        lines: the lines without their newline; one longer than any event is cut, so that it is found unreadable.
        first_line: number of the first in its file.
        source: the file they were read from.
        position: where the log is read up to with this batch; store it with what was made of the lines.
    """

    lines: list[bytes]
    first_line: int
    source: Path
    position: Position


class Checkpoint:
    """A position in a small file, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> tuple[Position | None, dict[str, Any]]:
        """The stored position and note; none and an empty note before the first `save`.

        Raises:
            KubehabitError: the file cannot be read or is no checkpoint.
        """
        try:
            saved = json.loads(self.path.read_bytes())
            if saved["version"] != _CHECKPOINT_VERSION:
                raise ValueError(f"version {saved['version']}")
            return Position(**saved["position"]), dict(saved["note"])
        except FileNotFoundError:
            return None, {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KubehabitError(
                f"The checkpoint {self.path} cannot be used ({error}). Delete it to read the log from its beginning."
            ) from error

    def save(self, position: Position, note: Mapping[str, Any] | None = None) -> None:
        """Store a position, on disk before this returns.

        Args:
            position: that of the batch that is done with.
            note: anything small that must be stored at the same moment, such as the length of one's own output.
        """
        saved = {"version": _CHECKPOINT_VERSION, "position": asdict(position), "note": dict(note or {})}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f"{self.path.name}.new")
        with fresh.open("wb") as file:
            file.write(json.dumps(saved).encode())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _hash(head: bytes) -> str:
    return hashlib.blake2b(head, digest_size=16).hexdigest()


def _first_bytes(file: Path, count: int) -> bytes:
    """The first bytes of what a file unpacks to; fewer if it is shorter, damaged or gone."""
    head = b""
    try:
        with open_bytes(file) as stream:
            while len(head) < count and (piece := stream.read(count - len(head))):
                head += piece
    except (*DAMAGE, KubehabitError):
        pass
    return head


def _begins(file: Path, position: Position) -> bool:
    """Whether a file begins with what a position was taken in: the same renamed, copied or packed."""
    return _hash(_first_bytes(file, position.head_bytes)) == position.head


class Follower:
    """Reads a growing log.

    Args:
        path: the log that is written to.
        position: where to go on; from the beginning of the log if not given.
        on_gap: called with a sentence when lines must be missing: a rotated file was removed before it was read.
    """

    def __init__(
        self,
        path: Path,
        position: Position | None = None,
        on_gap: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self.position = position or Position()
        self._on_gap = on_gap or _log.warning
        self._file: int | None = None

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def follow(self, stop: threading.Event, seconds: float = 1.0) -> Iterator[Batch]:
        """Batches as they come, until `stop` is set.

        Args:
            stop: ends the following, within `seconds`.
            seconds: time between two looks at a log that does not grow.
        """
        try:
            while not stop.is_set():
                yield from self.poll()
                stop.wait(seconds)
        finally:
            self.close()

    def poll(self) -> Iterator[Batch]:
        """Everything that can be had now, without waiting.

        Raises:
            KubehabitError: the log is there but cannot be read.
        """
        while True:
            if self._file is None and not (yield from self._open_current()):
                return
            yield from self._read_on()
            if not self._is_rotated():
                return
            # The writer had moved on before that check: what is in the old file now is all that it will ever hold.
            yield from self._read_on(last=True)
            self.close()

    def _open_current(self) -> Generator[Batch, None, bool]:
        """Open the log at the position; first read what of older files has not been read. False if there is no log."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise KubehabitError(
                f"Cannot follow the audit log {self.path}: {error.strerror}. Run where it can be read."
            ) from error
        self._file = file
        position, fresh = self.position, self._beginning(file)
        if position.head_bytes and self._is_same_content():  # perhaps on another disk by now
            self.position = replace(position, device=fresh.device, inode=fresh.inode)
        elif not position.inode and not position.head_bytes:
            newest = self._rotated()[-1:]
            self.position = replace(fresh, since=newest[0][0] if newest else "")
        elif position.head_bytes or (position.device, position.inode) != (fresh.device, fresh.inode):
            yield from self._read_older()
        return True

    def _read_on(self, last: bool = False) -> Iterator[Batch]:
        """Whole lines of the open file from the position on; with `last`, what is left without a newline too."""
        assert self._file is not None
        file = self._file
        while True:
            # Copied away and truncated; or it was empty at the last look, and may have been rotated more than once since.
            unknown = not self.position.head_bytes and self._beginning(file).head_bytes
            if unknown or not self._is_same_content():
                yield from self._read_older()
            data = os.pread(file, _BLOCK_BYTES, self.position.offset)
            if not self._is_same_content():  # truncated while it was being read
                continue
            if data and not self.position.head_bytes:
                continue
            ended = last and len(data) < _BLOCK_BYTES
            batch = self._take(data, self.path, lambda count: os.pread(file, count, 0), ended)
            if batch is None:
                return
            yield batch

    def _beginning(self, file: int) -> Position:
        status, head = os.fstat(file), os.pread(file, _HEAD_BYTES, 0)
        return Position(status.st_dev, status.st_ino, head=_hash(head) if head else "", head_bytes=len(head))

    def _time(self) -> str:
        """Time of the open file, as `first_time` tells it; "" while it has none."""
        assert self._file is not None
        lines = os.pread(self._file, _TIME_BYTES, 0).split(b"\n")[:-1]
        return next((time_of(event) for event in decode_lines(lines[:_TIME_LINES]).events), "")

    def _is_same_content(self) -> bool:
        """Whether the open file still begins with what the position was taken in."""
        assert self._file is not None
        position = self.position
        if os.fstat(self._file).st_size < position.offset:
            return False
        return not position.head_bytes or _hash(os.pread(self._file, position.head_bytes, 0)) == position.head

    def _is_rotated(self) -> bool:
        assert self._file is not None
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False  # renamed, and the new one not there yet: the writer may still be writing to the old one
        mine = os.fstat(self._file)
        return (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino)

    def _take(self, data: bytes, source: Path, head: Callable[[int], bytes], last: bool) -> Batch | None:
        """A batch of the lines in `data`, which begins at the position; moves the position behind them.

        Args:
            data: bytes from the position on.
            source: where they are from.
            head: gives the first bytes of that file.
            last: the file ends with `data`, so that what follows the last newline is a line too.
        """
        old = self.position
        line, used, inside = old.line, 0, old.inside
        if inside:  # go on behind the line that was too long
            used = data.find(b"\n") + 1 or len(data)
            inside = not data[:used].endswith(b"\n")
        end = len(data) if last else max(data.rfind(b"\n") + 1, used)
        lines = data[used:end].removesuffix(b"\n").split(b"\n") if end > used else []
        if not lines and not inside and len(data) - used > MAX_EVENT_BYTES:
            lines, end, inside = [data[used : used + MAX_EVENT_BYTES + 1]], len(data), True
        if not end:
            return None
        offset = old.offset + end
        covered = max(min(_HEAD_BYTES, offset), old.head_bytes)
        known = old.head if covered == old.head_bytes else _hash(head(covered))
        self.position = replace(
            old, offset=offset, line=line + len(lines), head=known, head_bytes=covered, inside=inside
        )
        return Batch(lines, line + 1, source, self.position)

    # -- files that were rotated away

    def _read_older(self) -> Iterator[Batch]:
        """The rest of the file of the position, wherever it is by now, and all files between that and the current one.

        Leaves the position at the beginning of the open file.
        """
        assert self._file is not None
        since, failures = self.position.since, 0
        while self.position.head_bytes:
            mine = next(
                ((time, file) for time, file in self._rotated() if _begins(file, self.position)), None
            )
            if mine is None:
                if self.position.offset:
                    self._on_gap(
                        f"{self.path} was rotated and the file that was being read is gone: what followed its byte "
                        f"{self.position.offset} is lost. Keep rotated audit logs longer than kubehabit may be down."
                    )
                break
            if (yield from self._read_rest(mine[1])):
                since = max(since, mine[0])
                break
            failures += 1  # it was packed and removed at this very moment: look for the packed one
            if failures > _RETRIES:
                break
        while True:
            # Looked at anew each time, for rotation goes on meanwhile. The open file's beginning is taken before the others are
            # listed, so that what happens to it later is noticed; and again after, lest a copy of it be taken for older.
            fresh, now = self._beginning(self._file), self._time()
            between = (
                (time, file)
                for time, file in self._rotated()
                if time > since
                and (not now or time < now)
                and not (fresh.head_bytes and _begins(file, fresh))
            )
            time, file = next(between, ("", None))
            if file is None:
                break
            if self._beginning(self._file) != fresh:
                continue
            head = _first_bytes(file, _HEAD_BYTES)
            self.position = Position(0, 0, head=_hash(head), head_bytes=len(head), since=since)
            if head and (yield from self._read_rest(file)):
                since, failures = time, 0
                continue
            failures += 1
            if failures > _RETRIES:
                self._on_gap(f"{file} could not be read and is passed over.")
                since, failures = time, 0
        self.position = replace(fresh, since=since)

    def _rotated(self) -> list[tuple[str, Path]]:
        """Other files of the log, such as `audit.log.1` or `audit-2026-01-05.log.gz`, with their times, oldest first."""
        assert self._file is not None
        mine = os.fstat(self._file)
        prefix = self.path.name.partition(".")[0]
        for _ in range(_RETRIES):
            try:
                files = []
                for file in self.path.parent.iterdir():
                    if not file.name.startswith(prefix) or file.name == self.path.name:
                        continue
                    status = file.stat()
                    if S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) != (
                        mine.st_dev,
                        mine.st_ino,
                    ):
                        time = first_time(file)
                        files += [(time, file)] if time else []
                return sorted(files)
            except (KubehabitError, FileNotFoundError):
                continue  # one was renamed or packed at this moment: the list would lack it under either name
        return sorted(files)

    def _read_rest(self, file: Path) -> Generator[Batch, None, bool]:
        """A file that does not grow any more, from the position to its end. False if it is gone."""
        begin, passed, head, data = self.position.offset, 0, b"", b""
        try:
            with open_bytes(file) as stream:
                while True:
                    block = stream.read(_BLOCK_BYTES)
                    head = (head + block)[:_HEAD_BYTES]
                    data += block[max(begin - passed, 0) :]
                    passed += len(block)
                    before = self.position.offset
                    batch = self._take(data, file, lambda count, head=head: head[:count], last=not block)  # type: ignore[misc]
                    if batch is not None:
                        data = data[batch.position.offset - before :]
                        yield batch
                    if not block:
                        return True
        except KubehabitError:
            return False
        except DAMAGE as error:
            self._on_gap(
                f"{file} cannot be read to its end ({error}): what followed its byte {self.position.offset} is lost."
            )
            return True
