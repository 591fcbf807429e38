"""Remembers which events a store holds, over restarts: a service that was down gets some of them again when a file fills the gap.

    recent/<n>.digests    8 bytes for each event of the segment that begins with record n, little-endian

The files are an aid: without them events may be kept twice, and nothing else. They are no part of what the ledger proves.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np

from data.actions.recent_hashes import Hashes, Remembered
from data.durable_file import write_durably
from data.events.audit_event import AuditEvent
from serving.scoring.deduplication import KEY_BYTES, event_digests

_SUFFIX = ".digests"


class StoredDigests:
    """Digests of the last events of a store.

    Args:
        folder: of the store.
        key: secret of the store, or a client could make an event that is taken for another.
        capacity: events remembered at the least; a third more at the most.
    """

    def __init__(self, folder: Path, key: bytes, capacity: int) -> None:
        self._folder = folder / "recent"
        self._folder.mkdir(exist_ok=True, mode=0o700)
        self._key = hmac.digest(key, b"digests of recent events", "sha256")[:KEY_BYTES]
        self._capacity = capacity
        self._remembered = Remembered(capacity)

    def load(self, segments: Container[int]) -> None:
        """Remember the events of the segments that begin with these records.

        Those of others are forgotten: files that the ledger does not name were set aside, and their events have to be kept when
        they are sent again.
        """
        for path in self._files():
            if int(path.stem) not in segments:
                path.unlink()
        for path in self._newest():
            content = path.read_bytes()
            self.add(np.frombuffer(content[: len(content) // 8 * 8], "<u8").astype(np.uint64))

    def _files(self) -> list[Path]:
        """Oldest first."""
        files = [path for path in self._folder.glob(f"*{_SUFFIX}") if path.stem.isdecimal()]
        return sorted(files, key=lambda path: int(path.stem))

    def _newest(self) -> list[Path]:
        """The files that hold the events to remember, oldest first."""
        files, held = self._files(), 0
        for place in range(len(files) - 1, -1, -1):
            if held >= self._capacity:
                return files[place + 1 :]
            held += files[place].stat().st_size // 8
        return files

    def of(self, events: Sequence[AuditEvent]) -> Hashes:
        """Digest of each event, uint64 [N]; the same for its copies from a webhook and from a log."""
        return event_digests(events, self._key)

    def first(self, digests: Hashes) -> list[bool]:
        """Whether each event is new."""
        return self._remembered.first(digests)

    def add(self, digests: Hashes) -> None:
        """Remember events, until the process ends."""
        self._remembered.add(digests)

    def sealed(self, first: int, digests: Sequence[int]) -> None:
        """Keep the digests of a segment that begins with a record, and delete files that hold too old ones."""
        content = np.array(digests, "<u8").tobytes()
        with contextlib.suppress(OSError):  # an aid is no reason to stop
            write_durably(self._folder / f"{first}{_SUFFIX}", content, 0o600)
            kept = set(self._newest())
            for path in self._files():
                if path not in kept:
                    path.unlink()
