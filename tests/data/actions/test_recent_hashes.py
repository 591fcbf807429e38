"""A bounded memory of hashes: what was among the last is known, and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.actions import recent_hashes as remembered
from data.actions.recent_hashes import Remembered


def hashes(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_looking_does_not_remember() -> None:
    memory = Remembered(10)
    assert memory.first(hashes(1, 2, 1)) == [True, True, False]
    assert memory.first(hashes(1)) == [True]
    memory.add(hashes(1))
    assert memory.first(hashes(1, 2)) == [False, True]


def test_what_is_not_counted_is_never_the_first_and_stands_in_nobodys_way() -> None:
    assert Remembered(10).first(hashes(1, 1, 1), [False, True, True]) == [False, True, False]


@given(
    st.integers(1, 40), st.lists(st.lists(st.integers(0, 100), max_size=20), max_size=20), st.integers(1, 16)
)
def test_at_least_the_last_are_known_through_packing_saving_and_copying(
    capacity: int, batches: list[list[int]], live: int
) -> None:
    before = remembered._LIVE
    remembered._LIVE = live
    try:
        memory, seen = Remembered(capacity), list[int]()
        for number, batch in enumerate(batches):
            found = memory.first(hashes(*batch))
            for place, (value, is_first) in enumerate(zip(batch, found, strict=True)):
                assert not (is_first and value in [*seen[-capacity:], *batch[:place]])
                assert is_first or value in [*seen, *batch[:place]]
            copy = memory.copy()
            memory.add(hashes(*batch))
            assert copy.first(hashes(*batch)) == found
            seen += batch
            if number % 3 == 2:
                memory = Remembered.from_arrays(capacity, memory.to_arrays())
        assert sum(map(len, memory.to_arrays())) <= 2 * capacity + 40
    finally:
        remembered._LIVE = before
