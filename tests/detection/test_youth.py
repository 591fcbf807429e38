"""A newcomer counts for nothing until its peers have habits; the counts behind that are part of the habits."""

from __future__ import annotations

import numpy as np

from detection.novelty import MATURE, HabitTable
from detection.youth import LONG_HISTORY, SETTLED, ClusterYouth, short_history


def _actions(*counts: int) -> np.ndarray:
    return np.array(counts, np.int64)


def test_a_newcomer_is_young_until_known_principals_of_its_class_have_done_enough() -> None:
    youth = ClusterYouth(HabitTable())
    kinds = ["human"] * (SETTLED + 2)
    actions = _actions(0, *[MATURE] * SETTLED, 0)
    young = youth.young(kinds, actions)
    assert young[0]
    assert not young[1:].any()


def test_what_other_classes_did_does_not_count() -> None:
    habits = HabitTable()
    youth = ClusterYouth(habits)
    youth.count(["node"] * SETTLED, _actions(*[MATURE] * SETTLED))
    assert youth.young(["human", "node"], _actions(0, 0)).tolist() == [True, False]


def test_newcomers_do_not_settle_a_cluster() -> None:
    youth = ClusterYouth(HabitTable())
    youth.count(["human"] * 2 * SETTLED, _actions(*[MATURE - 1] * 2 * SETTLED))
    assert youth.young(["human"], _actions(0)).all()


def test_a_count_can_be_undone_and_is_copied_with_the_habits() -> None:
    habits = HabitTable()
    undo = ClusterYouth(habits).count(["human"] * SETTLED, _actions(*[MATURE] * SETTLED))
    copied = ClusterYouth(habits.copy())
    assert not copied.young(["human"], _actions(0)).any()
    undo()
    assert ClusterYouth(habits).young(["human"], _actions(0)).all()
    assert not copied.young(["human"], _actions(0)).any()


def test_news_counts_for_less_the_shorter_the_history() -> None:
    decades = short_history(_actions(0, MATURE - 1, MATURE, 300, LONG_HISTORY, 10 * LONG_HISTORY))
    assert decades[0] == decades[1] == 0.0
    assert decades[2] == 1.0
    assert 0.5 < decades[3] < 0.53
    assert decades[4] == decades[5] == 0.0
