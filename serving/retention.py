"""Looks after the store beside those who write: forgets what is too old, and moves what SQLite has logged into its file."""

from __future__ import annotations

import logging
import threading
import time

from serving.store import AlertStore, StoreError

_log = logging.getLogger("kubehabit.store")

#: Between two looks for what is too old. Retention is set in days.
_SECONDS = 3600.0

#: Often enough that no writer, scoring among them, finds the log so long that it has to do it.
_CHECKPOINT_SECONDS = 2.0


class Retention(threading.Thread):
    """Forgets what is too old every hour, and takes checkpoints, until closed.

    Args:
        store: what is kept within bounds.
        seconds: time between two looks for what is too old, for tests.
    """

    def __init__(self, store: AlertStore, seconds: float = _SECONDS) -> None:
        super().__init__(name="retention", daemon=True)
        self._store = store
        self._seconds = seconds
        self._stopping = threading.Event()

    def run(self) -> None:
        """Look until closed."""
        due = time.monotonic() + self._seconds
        while not self._stopping.wait(min(self._seconds, _CHECKPOINT_SECONDS)):
            try:
                self._store.checkpoint()
                if time.monotonic() < due:
                    continue
                due += self._seconds
                gone = self._store.prune()
                if gone:
                    _log.info("alerts forgotten", extra={"alerts": gone})
            except StoreError as error:
                _log.warning("the store could not be looked after", extra={"reason": str(error)})

    def close(self) -> None:
        """Stop; a look that has begun is finished."""
        self._stopping.set()
        if self.is_alive():
            self.join()
