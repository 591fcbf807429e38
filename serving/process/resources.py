"""The process as the system sees it: heap, garbage collector and thread priorities."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading

#: Numbers of glibc's mallopt.
_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1
#: Bytes from which an allocation is mapped, and given back, by itself; glibc raises its own limit to 32 MB.
_LARGE = 1 << 20
_NICE = 10


def configure_allocator() -> None:
    """Keep the heap small; to be called before there are threads, and before anything large is imported.

    One pool serves all threads, which mostly wait for the interpreter anyway; and no cycles are collected until `freeze_gc`.
    """
    gc.disable()
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _LARGE)):
            library.mallopt(option, value)


def freeze_gc() -> None:
    """Exclude everything made so far from collections: each pass over it would hold up every thread for 70 ms."""
    gc.freeze()
    gc.enable()


def trim_heap() -> bool:
    """Give free memory back to the system; False where the C library cannot do that (it is glibc's call)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        return True
    return False


def lower_priority() -> None:
    """Lower the priority of the calling thread. Only Linux gives each thread its own; elsewhere nothing changes."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
