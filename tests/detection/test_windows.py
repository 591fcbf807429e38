"""Windows hold the last actions of one principal, newest last, however the actions come."""

import itertools
from operator import attrgetter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.actions.fields import FIELDS, GAPS, gap_codes
from data.actions.vocabulary import SPECIALS
from detection.windows import Cut, Windows

ACTIONS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 10**8)), min_size=1, max_size=40)


def columns(actions: list[tuple[str, int]]) -> tuple[list[str], np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    tokens = np.zeros((len(actions), len(FIELDS)), np.int32)
    tokens[:, 0] = np.arange(1, len(actions) + 1)
    return [name for name, _ in actions], tokens, np.array([time for _, time in actions], np.int64)


@given(ACTIONS, st.lists(st.integers(0, 40), max_size=4), st.integers(1, 5))
def test_each_window_is_what_its_principal_did_last(
    actions: list[tuple[str, int]], cuts: list[int], window: int
) -> None:
    names, tokens, times = columns(actions)
    windows = Windows(window)
    edges = sorted({0, len(actions), *(cut for cut in cuts if cut < len(actions))})
    parts = [windows.cut(names[a:b], tokens[a:b], times[a:b]) for a, b in itertools.pairwise(edges)]
    cut, lengths, pauses = (
        np.concatenate([getter(part) for part in parts])
        for getter in (Cut.tokens, attrgetter("lengths"), attrgetter("pauses"))
    )
    history: dict[str, list[list[int]]] = {}
    last: dict[str, int] = {}
    for row, (name, time) in enumerate(actions):
        gap = gap_codes(np.array([max(time - last[name], 0) if name in last else -1]))[0]
        assert pauses[row] == max(time - last.get(name, time), 0)
        last[name] = time
        history.setdefault(name, []).append([row + 1, *([0] * (len(FIELDS) - 2)), int(gap) + len(SPECIALS)])
        expected = history[name][-window:]
        assert lengths[row] == len(expected)
        assert cut[row, : lengths[row]].tolist() == expected
        assert not cut[row, lengths[row] :].any()


def test_a_quiet_principals_context_can_be_kept_elsewhere() -> None:
    names, tokens, times = columns([(name, 10**7 * i) for i, name in enumerate("abacabad" * 3)])
    whole, parted = Windows(4), Windows(4)
    whole.append(names, tokens.copy(), times)
    parted.append(names, tokens.copy(), times)
    taken = parted.pop(["a", "d", "nobody"])
    assert (taken.names, len(parted)) == (["a", "d"], 2)
    assert "a" not in parted
    for one in (whole, parted):
        one.append(["e"], tokens[:1].copy(), times[:1])
    parted.restore(taken)
    more = columns([("a", 10**9), ("d", 10**9), ("e", 10**9)])
    for one, other in zip(whole.append(*more), parted.append(*more), strict=True):
        assert one.tolist() == other.tolist()


def test_the_first_action_of_all_has_no_gap() -> None:
    names, tokens, times = columns([("a", 0), ("a", 5)])
    Windows(3).append(names, tokens, times)
    assert [GAPS[token - len(SPECIALS)] for token in tokens[:, -1]] == ["first", "<10ms"]
