"""Sets aside batches that end the process, so that no batch can keep the service from starting.

A marker names the records that are being scored. It is written without an fsync: it survives the end of the process, however
sudden, but not that of the machine, for which no record is to blame. Records that it still names at the next start are tried one
by one. If the process ends again during such a trial, a copy of the next process tries the record once more, and if the copy ends
as well, the record is set aside in a file of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import signal
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from data.durable_file import clear_drafts, write_durably
from data.errors import KubehabitError

_log = logging.getLogger("kubehabit.quarantine")
#: First and last record in work, the last one that is suspected, whether a suspect was tried, and a checksum.
_MARKER = struct.Struct("<QQQB")
_CHECKSUM = struct.Struct("<I")
_BYTES = _MARKER.size + _CHECKSUM.size
_TRIAL_SECONDS, _LOOK_SECONDS = 60, 0.01
#: Of Linux's prctl: the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1
_SUFFIX = ".batch"


class QuarantineError(KubehabitError):
    """The quarantine cannot be used."""


class Quarantine:
    """Batches that were set aside, and the marker of those in work.

    Args:
        folder: for both, created if missing, private to its owner; one process at a time uses it.

    Attributes:
        condemned: record with which the process ended when it was tried alone; None if there is none.

    Raises:
        QuarantineError: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            clear_drafts(folder)
            self._file = os.open(folder / "in-work", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise QuarantineError(
                f"The folder {folder} cannot be used ({error.strerror}). Check journal.path and its permissions."
            ) from error
        first, last, suspected, tried = self._read()
        names = [path.name.partition("-")[0] for path in folder.glob("*-*" + _SUFFIX)]
        self._numbers = {int(name) for name in names if name.isdecimal()}
        self.condemned = first if tried else None
        self._first_suspect = first + 1 if tried else first
        self._last_suspect = max(last, suspected)

    def _read(self) -> tuple[int, int, int, bool]:
        content = os.pread(self._file, _BYTES, 0)
        packed, checksum = content[: _MARKER.size], content[_MARKER.size :]
        if len(content) < _BYTES or _CHECKSUM.unpack(checksum)[0] != zlib.crc32(packed):
            return 0, 0, 0, False
        first, last, suspected, tried = _MARKER.unpack(packed)
        return first, last, suspected, bool(tried)

    def convicts(self, trial: Callable[[], object]) -> bool:
        """As `ends_process`."""
        return ends_process(trial)

    def is_suspect(self, sequence: int) -> bool:
        """Whether a record was in work when the process before this one ended, and was not tried since."""
        return 0 < self._first_suspect <= sequence <= self._last_suspect

    def begin(self, first: int, last: int) -> None:
        """Mark the records that are scored now; a suspect must be alone."""
        tried = self.is_suspect(first)
        if tried:
            self._first_suspect = first + 1
        self._write(first, last, tried)

    def end(self) -> None:
        """Mark that nothing is in work, except suspects that wait for their trial."""
        waiting = self._first_suspect <= self._last_suspect
        self._write(*((self._first_suspect, self._last_suspect) if waiting else (0, 0)), False)

    def _write(self, first: int, last: int, tried: bool) -> None:
        suspected = self._last_suspect if self._first_suspect <= self._last_suspect else 0
        packed = _MARKER.pack(first, last, suspected, tried)
        with contextlib.suppress(OSError):  # scoring matters more
            os.pwrite(self._file, packed + _CHECKSUM.pack(zlib.crc32(packed)), 0)

    def set_aside(self, sequence: int, body: bytes) -> None:
        """Keep the body of a record that is not to be scored, durably; raises OSError."""
        path = self._path(sequence, body)
        write_durably(path, body, 0o600)
        _log.error(
            "a batch ended the process twice and is not scored any more",
            extra={"record": sequence, "path": str(path)},
        )

    def may_hold(self, sequence: int) -> bool:
        """Whether a record of this number was set aside, or is condemned."""
        return sequence == self.condemned or sequence in self._numbers

    def holds(self, sequence: int, body: bytes) -> bool:
        """Whether a record was set aside. Of another journal, one may have the same number."""
        return self._path(sequence, body).exists()

    def __len__(self) -> int:
        """Number of batches that were set aside and are still here."""
        try:
            with os.scandir(self.folder) as entries:  # each scrape asks
                return sum(entry.name.endswith(_SUFFIX) for entry in entries)
        except FileNotFoundError:
            return 0

    def _path(self, sequence: int, body: bytes) -> Path:
        return self.folder / f"{sequence:020d}-{hashlib.sha256(body).hexdigest()[:16]}{_SUFFIX}"

    def close(self) -> None:
        """Close the marker, which says then that nothing is in work."""
        self.end()
        os.close(self._file)


def ends_process(trial: Callable[[], object]) -> bool:
    """Whether a trial ends, or holds up, a copy of this process. What kills from outside is no fault of the record."""
    child = os.fork()
    if child == 0:
        _run_and_exit(trial)
    until = time.monotonic() + _TRIAL_SECONDS
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status != 0
        time.sleep(_LOOK_SECONDS)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def _run_and_exit(trial: Callable[[], object]) -> NoReturn:
    """Run a trial in a forked process, which never outlives its parent: it would keep the journal locked."""
    try:
        signal.alarm(_TRIAL_SECONDS + 1)
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, this process goes first
        with contextlib.suppress(Exception):  # an error is dealt with when the record is scored
            trial()
    finally:
        os._exit(0)
