"""The table of counts says what a dictionary would say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.count_table import CountTable

KEYS = st.lists(st.integers(0, 40).map(lambda small: small * (2**64 // 41)), max_size=60)


def array(keys: list[int]) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(keys, np.uint64)


def held(counts: CountTable) -> dict[int, int]:
    keys, times, _ = counts.entries()
    return dict(zip(keys.tolist(), times.tolist(), strict=True))


@given(st.lists(KEYS, max_size=8))
def test_it_counts_in_order_like_a_dictionary(batches: list[list[int]]) -> None:
    counts, expected = CountTable(), {}
    for keys in batches:
        before = []
        for key in (max(key, 1) for key in keys):
            before.append(expected.get(key, 0))
            expected[key] = before[-1] + 1
        assert counts.add(array(keys)).tolist() == before
    assert held(counts) == expected
    assert len(counts) == len(expected)


@pytest.mark.parametrize("step", [1, 2**40])
def test_it_grows_and_stays_exact(step: int) -> None:
    keys = array([1 + step * number for number in range(3000)])
    counts = CountTable()
    for begin in range(0, len(keys), 500):
        assert not counts.add(keys[begin : begin + 500]).any()
    assert counts.get(keys).tolist() == [1] * len(keys)
    assert counts.add(keys).tolist() == [1] * len(keys)


def test_entries_of_an_owner_can_be_taken_out_and_put_back() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(1, 2**64, 2000, dtype=np.uint64)
    owners = (np.arange(2000) % 5 - 1).astype(np.int32)
    counts = CountTable()
    counts.add(keys, owners)
    before = held(counts)
    taken, times, whose = counts.pop(np.array([False, True, False, True]))
    assert set(taken.tolist()) == set(keys[np.isin(owners, [1, 3])].tolist())
    assert counts.get(keys).tolist() == (~np.isin(owners, [1, 3])).astype(int).tolist()
    counts.merge(taken, times, whose)
    assert held(counts) == before


@given(st.lists(st.tuples(KEYS, st.sets(st.integers(0, 3))), max_size=12))
def test_taking_and_putting_back_again_and_again_changes_nothing(
    steps: list[tuple[list[int], set[int]]],
) -> None:
    counts, expected = CountTable(), {}
    for keys, owners in steps:
        counts.add(array(keys), np.array([key % 4 for key in keys], np.int32))
        for key in (max(key, 1) for key in keys):
            expected[key] = expected.get(key, 0) + 1
        for owner in owners:
            taken, times, whose = counts.pop(np.arange(4) == owner)
            assert not counts.get(taken).any()
            assert len(counts) + len(taken) == len(expected)
            counts.merge(taken, times, whose)
        assert held(counts) == expected
        assert counts.get(array(list(expected))).tolist() == list(expected.values())


def test_room_of_what_was_taken_out_is_used_again() -> None:
    counts = CountTable()
    size = 0
    for number in range(200):
        keys = np.random.default_rng(number).integers(1, 2**63, 500, dtype=np.uint64)
        counts.add(keys, np.zeros(500, np.int32))
        assert len(counts.pop(np.array([True]))[0]) == 500
        size = max(size, counts.nbytes)
    assert len(counts) == 0
    assert size <= 32_000


def test_what_comes_and_goes_again_and_again_finds_its_place() -> None:
    rng = np.random.default_rng(0)
    kept, passing = rng.integers(1, 2**64, (2, 500), dtype=np.uint64)
    counts = CountTable(1000)
    counts.add(kept)
    counts.add(passing)
    for _ in range(50):
        counts.subtract(passing)
        assert not counts.get(passing).any()
        assert counts.take(passing)[0].tolist() == []
        assert len(counts) == len(kept)
        assert set(held(counts)) == set(kept.tolist())
        assert counts.add(passing, np.full(500, 3, np.int32)).tolist() == [0] * 500
    assert counts.entries()[2][np.isin(counts.entries()[0], passing)].tolist() == [3] * 500
    assert counts._removed == 0


def test_every_hash_can_be_a_key() -> None:
    ends = array([0, 1, 2**64 - 2, 2**64 - 1])
    counts = CountTable()
    counts.add(ends, np.zeros(4, np.int32))
    assert counts.get(ends).tolist() == [2, 2, 1, 1]  # 0 is taken for 1
    counts.pop(np.array([True]))
    assert counts.get(ends).tolist() == [0, 0, 0, 0]


def test_what_was_counted_least_is_forgotten_first() -> None:
    counts = CountTable()
    counts.add(array([10, 20, 20, 30, 30, 30, 40]))
    counts.forget_rare(2)
    assert held(counts) == {20: 2, 30: 3}


def test_a_count_stops_at_the_end_of_its_range() -> None:
    counts = CountTable()
    counts.merge(array([7]), np.array([2**32 - 2]), None)
    assert counts.add(array([7, 7, 7])).tolist() == [2**32 - 2, 2**32 - 1, 2**32]
    assert counts.get(array([7])).tolist() == [2**32 - 1]


def test_a_copy_counts_on_its_own() -> None:
    counts = CountTable()
    counts.add(array([1, 2]))
    counts.copy().add(array([1, 3]))
    assert held(counts) == {1: 1, 2: 1}
