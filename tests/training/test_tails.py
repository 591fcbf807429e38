"""Tails of normal work go on where the log ends, and lean on what other clusters showed while a log is short."""

import numpy as np
import pytest

from training.tails import PeakTail, fit_tail

DEFAULT = PeakTail(start=1.5, rate=2e-4, scale=2.0, shape=0.1)


def peaks(count: int, scale: float, shape: float = 0.0) -> np.ndarray:  # type: ignore[type-arg]
    share = (np.arange(count) + 0.5) / count
    return 1.5 + (-scale * np.log(share) if not shape else scale * (share**-shape - 1) / shape)


@pytest.mark.parametrize("shape", [0.0, 0.2])
def test_a_long_log_speaks_for_itself(shape: float) -> None:
    found = fit_tail(peaks(2000, 1.0, shape), 1_000_000, DEFAULT, 10_000)
    true = PeakTail(1.5, 2e-3, 1.0, shape)
    assert found.level(4e-6) == pytest.approx(true.level(4e-6), rel=0.15)


def test_a_short_log_leans_on_the_default() -> None:
    nothing = fit_tail(np.array([0.0]), 5_000, DEFAULT, 100_000)
    quiet = fit_tail(np.array([1.6]), 5_000, DEFAULT, 100_000)
    assert nothing.level(4e-6) == pytest.approx(DEFAULT.level(4e-6), rel=0.3)
    assert quiet.level(4e-6) < nothing.level(4e-6)
    assert fit_tail(np.array([12.0, 14.0]), 5_000, DEFAULT, 100_000).level(4e-6) > nothing.level(4e-6)


def test_the_rarer_the_budget_the_higher_the_threshold() -> None:
    levels = [DEFAULT.level(rate) for rate in (1e-3, 1e-4, 1e-5, 1e-6)]
    assert levels == sorted(levels)
    assert levels[0] == DEFAULT.start


def test_few_peaks_mean_more_caution() -> None:
    few, many = (fit_tail(peaks(count, 1.0), count * 1000) for count in (4, 400))
    assert few.level(1e-6) > many.level(1e-6)


def test_a_few_extreme_peaks_do_not_put_the_threshold_out_of_reach() -> None:
    found = fit_tail(np.array([2.0, 2.1, 30.0]), 10_000)
    assert found.shape <= 0.3
    assert found.level(4e-6) < 200
