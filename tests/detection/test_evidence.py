"""Evidence adds up over a principal's actions and fades, whatever the batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.evidence import FLOOR, Accumulator, Sums, replay

SECOND = 1_000_000
Floats = np.ndarray


def add(accumulator: Accumulator, *rows: tuple[str, float, float, float]) -> Floats:  # type: ignore[type-arg]
    """Rows of (principal, seconds, novelty, error)."""
    who, when, new, wrong = zip(*rows, strict=True)
    return accumulator.add(
        who, (np.array(when) * SECOND).astype(np.int64), np.array(new, float), np.array(wrong, float)
    )


def test_a_burst_weighs_more_than_its_actions() -> None:
    sums = add(Accumulator((60.0,)), *[("alice", 0.1 * i, 2.0, 2.0) for i in range(10)])[:, 0]
    assert sums[0] == pytest.approx(2.0)
    assert sums[-1] == pytest.approx(20.0, rel=0.02)


def test_what_lies_back_fades() -> None:
    accumulator = Accumulator((60.0, 3600.0))
    add(accumulator, ("alice", 0, 4.0, 4.0))
    short, long = add(accumulator, ("alice", 600, 1.0, 1.0))[0]
    assert short == pytest.approx(1.0, rel=0.001)
    assert long == pytest.approx(1 + 4 * np.exp(-1 / 6))


def test_a_trickle_shows_at_the_long_horizon_only() -> None:
    sums = add(Accumulator((60.0, 86_400.0)), *[("alice", 1800 * i, 2.0, 2.0) for i in range(20)])
    assert sums[-1, 0] == pytest.approx(2.0, rel=0.01)
    assert sums[-1, 1] > 25


def test_evidence_that_was_reported_is_not_reported_again() -> None:
    """Past a long horizon's limit every later trifle would be flagged; past a short one's it is the same incident."""
    count, limits = 40, np.array([4.0, 10.0])
    rows = [("alice", 1800.0 * i, 2.0, 2.0) for i in range(count)]
    who, when, new, wrong = zip(*rows, strict=True)
    sums = Accumulator((60.0, 86_400.0)).add(
        who,
        (np.array(when) * SECOND).astype(np.int64),
        np.array(new),
        np.array(wrong),
        np.tile(limits, (count, 1)),
    )
    assert 5 <= (sums[:, 1] >= limits[1]).sum() <= count // 5
    burst = [("alice", 0.1 * i, 5.0, 5.0) for i in range(5)]
    who, when, new, wrong = zip(*burst, strict=True)
    sums = Accumulator((60.0,)).add(
        who, (np.array(when) * SECOND).astype(np.int64), np.array(new), np.array(wrong), np.full((5, 1), 4.0)
    )
    assert (sums >= 4.0).all()


def test_waiting_does_not_help_before_the_account_has_been_used_for_ordinary_work() -> None:
    """Sums fade with time or with the principal's own actions, whichever is slower."""

    def last(actions_between: int, hours: float) -> float:
        accumulator = Accumulator((120.0,), (40.0,))
        for step in range(3):
            when = np.array([round(step * hours * 3600 * SECOND)])
            one = np.array([2.0])
            sums = accumulator.add(["alice"], when, one, one, None, np.array([100 + step * actions_between]))
        return float(sums[0, 0])

    assert last(1, 0.5) == pytest.approx(6.0, rel=0.05)
    assert last(1, 24.0 * 30) == last(1, 0.5)
    assert last(400, 0.5) == pytest.approx(2.0, rel=0.05)
    assert last(400, 0.0001) == pytest.approx(6.0, rel=0.05)  # a burst is a burst


def test_a_sum_that_was_reported_starts_again_once_the_incident_is_over() -> None:
    accumulator = Accumulator((120.0,), (40.0,))
    one, limits = np.array([5.0]), np.array([[4.0]])
    for hour, value in ((0, 5.0), (1, 1.0)):
        when = np.array([hour * 3600 * SECOND])
        found = accumulator.add(["alice"], when, value * one / 5, value * one / 5, limits, np.array([hour]))
        assert found[0, 0] == pytest.approx(value)


def test_sums_of_an_earlier_release_fade_with_time() -> None:
    accumulator = Accumulator((120.0,), (40.0,))
    accumulator.restore(Sums(["alice"], np.array([[0.0, 4.0, 4.0]])))
    one = np.array([1.0])
    found = accumulator.add(["alice"], np.array([120 * SECOND]), one, one, None, np.array([7]))
    assert found[0, 0] == pytest.approx(1 + 4 / np.e)


def test_principals_do_not_add_up_to_each_other() -> None:
    sums = add(Accumulator((60.0,)), ("alice", 0, 5.0, 5.0), ("bob", 1, 1.0, 1.0))[:, 0]
    assert sums.tolist() == pytest.approx([5.0, 1.0])


def test_an_action_that_adds_nothing_has_no_evidence() -> None:
    sums = add(Accumulator((60.0,)), ("alice", 0, 5.0, 5.0), ("alice", 1, 0.0, 0.0))[:, 0]
    assert sums.tolist() == pytest.approx([5.0, 0.0])


def test_both_kinds_of_evidence_are_needed_and_novelty_cannot_be_cancelled() -> None:
    new, wrong, both = (
        add(Accumulator((60.0,)), ("a", 0, *pair))[0, 0] for pair in ((4.0, 0.0), (0.0, 4.0), (4.0, 4.0))
    )
    assert new == pytest.approx((4.0 * FLOOR) ** 0.5)
    assert wrong == 0
    assert both == pytest.approx(4.0)


def test_a_late_event_neither_fades_nor_revives() -> None:
    accumulator = Accumulator((60.0,))
    add(accumulator, ("alice", 600, 2.0, 2.0))
    assert add(accumulator, ("alice", 0, 1.0, 1.0))[0, 0] == pytest.approx(3.0)


def test_a_quiet_principals_sums_can_be_kept_elsewhere() -> None:
    rows = [("alice", 0, 2.0, 3.0), ("bob", 1, 1.0, 1.0)]
    whole, parted = Accumulator((60.0, 600.0)), Accumulator((60.0, 600.0))
    add(whole, *rows)
    add(parted, *rows)
    taken = parted.pop(["alice", "nobody"])
    assert (taken.names, len(parted)) == (["alice"], 1)
    parted.restore(taken)
    later = [("alice", 30, 1.0, 1.0), ("bob", 31, 1.0, 1.0)]
    assert add(parted, *later).tolist() == add(whole, *later).tolist()


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0, 500), st.floats(0, 9), st.floats(0, 9)),
        min_size=2,
        max_size=30,
    ),
    st.integers(1, 29),
)
def test_batches_change_nothing(rows: list[tuple[str, float, float, float]], cut: int) -> None:
    whole = add(Accumulator((60.0, 600.0)), *rows)
    accumulator = Accumulator((60.0, 600.0))
    parts = [add(accumulator, *part) for part in (rows[:cut], rows[cut:]) if part]
    np.testing.assert_allclose(np.concatenate(parts), whole)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detection.evidence._LIMIT", 100)
    accumulator = Accumulator((60.0,))
    add(accumulator, *[(f"p{i}", float(i), 1.0, 1.0) for i in range(1000)])
    assert len(accumulator) <= 100
    assert add(accumulator, ("p999", 999.0, 1.0, 1.0))[0, 0] == pytest.approx(
        2.0
    )  # who was active is remembered


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(-5, 900), st.floats(0, 5), st.floats(0, 5)), max_size=40
    ),
    st.lists(st.floats(0.3, 10), min_size=1, max_size=4),
    st.sampled_from([(), (3.0, 9.0)]),
)
def test_many_thresholds_at_once_are_as_one_after_the_other(
    actions: list[tuple[int, int, float, float]], scales: list[float], activity: tuple[float, ...]
) -> None:
    """Late ones among them: times need not rise."""
    rows = [row for row in actions if row[2] or row[3]]
    horizons = (60.0, 3600.0)
    who = np.array([row[0] for row in rows], np.int64)
    times = np.cumsum([row[1] for row in rows]).astype(np.int64) * SECOND
    new, wrong = (np.array([row[place] for row in rows], float) for place in (2, 3))
    limits = np.tile([3.0, 5.0], (len(rows), 1)) * (1 + who[:, None] % 2)
    done = np.cumsum([1 + row[1] % 3 for row in rows]).astype(np.int64)
    found = replay(who, times, new, wrong, horizons, limits, np.array(scales), activity, done.astype(float))
    assert found.shape == (len(rows), len(scales))
    for case, scale in enumerate(scales):
        mine = limits * scale
        sums = Accumulator(horizons, activity).add([str(one) for one in who], times, new, wrong, mine, done)
        clear = np.abs(sums / mine - 1).min(axis=1, initial=1.0) > 1e-9  # on the very limit rounding decides
        if clear.all():
            assert found[:, case].tolist() == (sums >= mine).any(axis=1).tolist()


def test_a_look_at_what_would_add_up_changes_nothing() -> None:
    accumulator = Accumulator((120.0,))
    args = ["a"], np.array([0]), np.array([4.0]), np.array([4.0])
    accumulator.add(*args)
    before = accumulator.sums().rows.tolist()
    would = accumulator.peek("a", 1_000_000, 4.0, 4.0)
    assert accumulator.sums().rows.tolist() == before
    assert would.tolist() == accumulator.add(["a"], np.array([1_000_000]), *args[2:]).tolist()
    assert would[0, 0] > 7.0
    accumulator.peek("b", 0, 1.0, 1.0)
    assert accumulator.sums().names == ["a"]
