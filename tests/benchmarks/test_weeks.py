"""Attacks of all weeks are ranked against the normal work of each."""

import numpy as np

from benchmarks.weeks import by_week


def test_a_week_whose_normal_work_looks_odder_has_less_area() -> None:
    week = np.array([0, 0, 0, 1, 1, 1, 1])
    score = np.array([0.0, 1.0, 9.0, 0.0, 9.5, 7.0, 99.0])
    kind = np.array([0, 0, 1, 0, 0, 1, 2], np.int8)
    assert by_week(week, score, kind) == [(2, 1.0), (2, 0.5)]
