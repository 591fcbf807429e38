"""Threads that give way to those that answer."""

from __future__ import annotations

import contextlib
import os
import threading

_NICE = 10


def give_way() -> None:
    """Lower the priority of the calling thread; Linux gives each thread one of its own, elsewhere nothing changes."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
