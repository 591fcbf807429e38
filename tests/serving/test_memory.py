"""Freed memory goes back to the system where the C library can do that."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref

import pytest

from serving import memory
from serving.memory import Trimmer, begin, settle, trim


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


def test_what_the_start_made_is_not_looked_through_again_and_what_comes_later_is() -> None:
    class Node:
        other: object

    def cycle() -> weakref.ref[Node]:
        one, two = Node(), Node()
        one.other, two.other = two, one
        return weakref.ref(one)

    before = gc.get_freeze_count()
    try:
        begin()
        assert not gc.isenabled()
        settle()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before + 1000
        late = cycle()
        gc.collect()
        assert late() is None
    finally:
        gc.unfreeze()
        gc.enable()
