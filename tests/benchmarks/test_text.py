"""Every function that meets a log's text takes linear time, and at most some milliseconds for a text as long as texts can be."""

from __future__ import annotations

import pytest

from benchmarks import bench_text
from benchmarks.bench_text import FUNCTIONS, NOISE, growth

SMALL, LARGE = 2_000, 20_000
MOST = 25
#: CPU time of a text nearly five times as long as one that was decoded can be, on a slow machine.
MOST_SECONDS = 0.2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ten_times_the_text_takes_about_ten_times_as_long(name: str) -> None:
    ratio, seconds, unit = growth(name, SMALL, LARGE)
    assert ratio <= MOST or seconds < NOISE, f"{name}: {ratio:.0f} times as long, by {unit!r}"
    assert seconds < MOST_SECONDS


def test_what_is_not_linear_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def quadratic(text: str) -> int:
        return sum(text.count("a", at) for at in range(len(text)))

    monkeypatch.setitem(bench_text.FUNCTIONS, "quadratic", (str, quadratic))
    monkeypatch.setattr(bench_text, "UNITS", ("a",))
    assert growth("quadratic", SMALL, LARGE)[0] > MOST
