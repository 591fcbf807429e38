"""Freed memory goes back to the system where the C library can do that."""

from __future__ import annotations

import ctypes
import gc
import weakref

from serving.process.resources import configure_allocator, freeze_gc, trim_heap


def test_it_says_whether_it_can() -> None:
    assert trim_heap() == hasattr(ctypes.CDLL(None), "malloc_trim")


def test_what_the_start_made_is_not_looked_through_again_and_what_comes_later_is() -> None:
    class Node:
        other: object

    def cycle() -> weakref.ref[Node]:
        one, two = Node(), Node()
        one.other, two.other = two, one
        return weakref.ref(one)

    before = gc.get_freeze_count()
    try:
        configure_allocator()
        assert not gc.isenabled()
        freeze_gc()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before + 1000
        late = cycle()
        gc.collect()
        assert late() is None
    finally:
        gc.unfreeze()
        gc.enable()
