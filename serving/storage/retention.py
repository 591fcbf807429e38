"""Maintains the alert store beside its writers: deletes old alerts, and moves SQLite's log into its file."""

from __future__ import annotations

import logging
import time

from serving.process.worker import Worker
from serving.storage.database import AlertStore, StoreError

_log = logging.getLogger("kubehabit.store")

#: Between two deletions of old alerts. Retention is set in days.
_SECONDS = 3600.0

#: Often enough that no writer, scoring among them, finds the log so long that it has to do it.
_CHECKPOINT_SECONDS = 2.0


class Retention:
    """Deletes old alerts every hour, and takes checkpoints, until closed. `seconds`: between two deletions, for tests."""

    def __init__(self, store: AlertStore, seconds: float = _SECONDS) -> None:
        self._store = store
        self._seconds = seconds
        self._due = time.monotonic() + seconds
        pause = min(seconds, _CHECKPOINT_SECONDS)
        self._worker = Worker("retention", self._step, seconds=pause, pause_first=True)
        self.start, self.close = self._worker.start, self._worker.close

    def _step(self) -> None:
        try:
            self._store.checkpoint()
            if time.monotonic() < self._due:
                return
            self._due += self._seconds
            if gone := self._store.prune():
                _log.info("alerts deleted", extra={"alerts": gone})
        except StoreError as error:
            _log.warning("the store could not be maintained", extra={"reason": str(error)})
