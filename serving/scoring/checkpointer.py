"""Keeps what is learned: restores it, takes snapshots, moves idle principals to disk, prunes the journal."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from detection.detector import Detector
from serving.history.recorder import Chunk, History
from serving.scoring.deduplication import EventDeduplicator
from serving.scoring.engine import Engine
from serving.scoring.eviction import ColdPrincipalStore
from serving.scoring.journal import Journal
from serving.scoring.snapshots import Snapshot, Snapshots, restore, restore_deduplicator, take_snapshot
from serving.settings import StateSettings
from serving.storage.database import StoreError

_log = logging.getLogger("kubehabit.state")
#: Share of the journal in use from which a snapshot is taken to free it, and the share that must become free.
_PRESSED, _WORTH = 1 / 2, 1 / 8


class Checkpointer:
    """Manages the state of one engine; all but `restore` runs on the scoring thread.

    Args:
        settings: how often, how many, where.
        engine: whose state it is.
        journal: has what came after a snapshot.
        remembered_events: capacity of the memory of events.
        history: is written with each snapshot.
        held: last position that the journal's other reader needs no longer; None without one.

    Attributes:
        deduplicator: the memory of events.
    """

    def __init__(
        self,
        settings: StateSettings,
        engine: Engine,
        journal: Journal,
        remembered_events: int,
        history: History | None = None,
        held: Callable[[], int] | None = None,
    ) -> None:
        self._settings = settings
        self._history = history
        self._held = held
        self._engine = engine
        self._journal = journal
        self._capacity = remembered_events
        self._snapshots = Snapshots(settings.resolved_path)
        self._cold: ColdPrincipalStore | None = None
        self.deduplicator = EventDeduplicator(remembered_events)
        self._oldest = self._needed()
        self._position = 0
        self._events = 0
        self._due = time.monotonic() + settings.snapshot_seconds
        self._writing: threading.Thread | None = None

    def restore(self) -> int:
        """Load the newest good snapshot; returns the position of the journal from which to go on."""
        engine, detector = self._engine, self._engine.detector
        had = bool(self._snapshots.positions())
        snapshot = self._snapshots.newest()
        bundle = detector.bundle.checksum if isinstance(detector, Detector) else ""
        if snapshot is not None:
            self.deduplicator = restore_deduplicator(snapshot, self._capacity)
            self._position = snapshot.position
            restore(snapshot, engine)
            same = snapshot.bundle == bundle
            _log.info("state restored", extra={"position": snapshot.position, "same_model": same})
        elif had:
            _log.error("no snapshot can be read: the model begins with what it learned in training")
        if isinstance(detector, Detector):
            settings, last = self._settings, detector.bundle.warmup.last
            path = settings.resolved_path / "principals.db"
            self._cold = ColdPrincipalStore(path, settings.hot_principals, settings.max_principals)
            position, names = None, sorted(last, key=last.__getitem__)
            if snapshot is not None:
                position, names = snapshot.position, snapshot.meta["names"]
            self._cold.start(detector, engine.principals, position, names)
            self._cold.evict(self._position, self._oldest)
        if self._history is not None:
            self._history.resume(self._position, self._journal.last)
            self._engine.set_history(self._history)
        return self._position

    def attach(self) -> None:
        """Manage the engine's new detector, which has what the one before had in its memory."""
        detector = self._engine.detector
        if self._cold is not None and isinstance(detector, Detector):
            self._cold.attach(detector, self._engine.principals)

    def scored(self, position: int, events: int) -> None:
        """Do what is due once everything up to a position is scored."""
        self._events += events
        if self._history is not None:
            self._history.after(position)
        if self._cold is not None:
            self._cold.evict(position, self._oldest)
        if position <= self._position:
            return
        most = self._journal.max_bytes
        if self._journal.used > _PRESSED * most and self._journal.scored(position) > _WORTH * most:
            if self._is_stored():
                self._wait()
                self._write(*self._snapshot(position), keep=1)
        elif self._events >= self._settings.snapshot_events or time.monotonic() >= self._due:
            is_busy = self._writing is not None and self._writing.is_alive()
            if not is_busy and self._is_stored():
                taken = self._snapshot(position)
                self._writing = threading.Thread(target=self._write, args=taken, name="snapshot")
                self._writing.start()

    def _is_stored(self) -> bool:
        """Whether all alerts so far are on disk: what a snapshot covers is never scored again."""
        if self._engine.has_unsaved:
            return False
        try:
            self._engine.flush()
            self._engine.store.flush()
        except StoreError:
            return False
        return True

    def _snapshot(self, position: int) -> tuple[Callable[[], Snapshot], Chunk | None]:
        hot = None
        if self._cold is not None:
            self._cold.flush()
            hot = self._cold.hot
        snapshot = take_snapshot(self._engine, self.deduplicator, position, hot)
        self._position, self._events = position, 0
        self._due = time.monotonic() + self._settings.snapshot_seconds
        return snapshot, None if self._history is None else self._history.pop(position)

    def _write(self, snapshot: Callable[[], Snapshot], chunk: Chunk | None, keep: int = 2) -> None:
        if self._history is not None and chunk is not None:
            # First: what a snapshot holds is never scored, and so never counted, again.
            self._history.write(chunk)
        try:
            self._snapshots.write(snapshot(), keep)
        except OSError as error:
            _log.error("a snapshot cannot be written", extra={"reason": error.strerror})
        else:
            self._oldest = self._needed(keep)
            self._journal.prune(self._oldest if self._held is None else min(self._oldest, self._held()))

    def _needed(self, keep: int = 2) -> int:
        """Position of the oldest snapshot, after which everything may be needed again; 0 if there are fewer than to be kept."""
        positions = self._snapshots.positions()
        return positions[-keep] if len(positions) >= keep else 0

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.join()

    def close(self, position: int) -> None:
        """Take a last snapshot, so that the next start has nothing to score again."""
        self._wait()
        if position > self._position and self._is_stored():
            self._write(*self._snapshot(position))
        if self._cold is not None:
            self._cold.close()
        if self._history is not None:
            self._history.close()
