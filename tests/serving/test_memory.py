"""Freed memory goes back to the system where the C library can do that."""

from __future__ import annotations

import ctypes
import threading

import pytest

from serving import memory
from serving.memory import Trimmer, trim


def test_it_says_whether_it_can() -> None:
    assert trim() == hasattr(ctypes.CDLL(None), "malloc_trim")


def test_it_trims_again_and_again_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, enough = [], threading.Event()

    def counted() -> bool:
        calls.append(1)
        if len(calls) == 3:
            enough.set()
        return True

    monkeypatch.setattr(memory, "trim", counted)
    trimmer = Trimmer(seconds=0.001)
    trimmer.start()
    assert enough.wait(10)
    trimmer.close()
    assert not trimmer._thread.is_alive()
