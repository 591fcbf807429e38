"""Keeps the process small: the C library would keep a pool for each thread, and what was freed between things still in use."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading

_SECONDS = 30
_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1
"""Numbers of glibc's mallopt."""

_LARGE = 1 << 20
"""Bytes from which a piece is got from the system and given back to it by itself; glibc raises its own limit to 32 MB."""


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


def begin() -> None:
    """To be called before there are threads, and before all that is imported.

    Have one pool for all threads, as most wait for the interpreter anyway; and look for no unreachable cycles until `settle`.
    """
    gc.disable()
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _LARGE)):
            library.mallopt(option, value)


def settle() -> None:
    """Leave alone from now on what was made so far: each look through it would hold up every thread for 70 ms."""
    gc.freeze()
    gc.enable()


def trim() -> bool:
    """Give back what is free; whether that can be done here."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        return True
    return False
