"""Gives memory back to the system that the process has freed: the C library keeps what lies between things still in use."""

from __future__ import annotations

import contextlib
import ctypes
import threading

_SECONDS = 30


class Trimmer:
    """Trims the heap now and then; does nothing where the C library has no such call (it is glibc's)."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        while trim() and not self._stop.wait(self._seconds):
            pass

    def close(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()


def trim() -> bool:
    """Give back what is free; whether that can be done here."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        return True
    return False
