"""Keeps the store's promise of how long alerts are kept when none is added that would: looks now and then."""

from __future__ import annotations

import logging
import threading

from serving.store import AlertStore, StoreError

_log = logging.getLogger("kubehabit.store")
_SECONDS = 3600.0
"""Between two looks. Retention is set in days."""


class Retention(threading.Thread):
    """Forgets what is too old, every hour until closed.

    Args:
        store: what is kept within bounds.
        seconds: time between two looks, for tests.
    """

    def __init__(self, store: AlertStore, seconds: float = _SECONDS) -> None:
        super().__init__(name="retention", daemon=True)
        self._store = store
        self._seconds = seconds
        self._stopping = threading.Event()

    def run(self) -> None:
        """Look until closed."""
        while not self._stopping.wait(self._seconds):
            try:
                gone = self._store.prune()
                if gone:
                    _log.info("alerts forgotten", extra={"alerts": gone})
            except StoreError as error:
                _log.warning("nothing could be forgotten", extra={"reason": str(error)})

    def close(self) -> None:
        """Stop; a look that has begun is finished."""
        self._stopping.set()
        if self.is_alive():
            self.join()
