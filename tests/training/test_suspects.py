"""Suspects: what a training log shows on one occasion and would be flagged by is no habit; what was done twice is."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from data.actions.sensitivity import LEVELS
from data.arrays import Ints
from data.dataset.table import ActionTable, load
from detection.bundle import Bundle
from detection.calibration import Calibration
from detection.novelty import HabitTable
from detection.reconstruction import Nll
from tests.conftest import Trained
from training.suspects import Suspects, elsewhere, find_suspects, occasion

MINUTE = 60_000_000
#: Times of the log are stretched, so that it holds many occasions.
STRETCH = 40


@pytest.fixture(scope="module")
def table(trained: Trained) -> ActionTable:
    """A log of hours by the same principals."""
    found = load(trained.dataset)
    first = int(found.time.min())
    return replace(found, time=first + (found.time - first) * STRETCH)


@pytest.fixture(scope="module")
def calibration(trained: Trained) -> Calibration:
    found = Bundle.load(trained.bundle).calibration
    return replace(found, person_thresholds=(3.0,) * len(found.horizons))


@pytest.fixture(scope="module")
def busy(table: ActionTable) -> Ints:
    """Rows of the busiest pipeline, in the order of the log."""
    names, counts = np.unique(table.name[table.kind == "serviceaccount"], return_counts=True)
    return np.flatnonzero(table.name == names[counts.argmax()])


def with_deed(table: ActionTable, rows: Ints) -> ActionTable:
    """The log, in which these actions are ones that nobody does otherwise, and could do harm."""
    attributes, sensitivity = table.attributes.copy(), table.sensitivity.copy()
    attributes[rows] = np.arange(1, attributes.shape[1] + 1, dtype=np.uint64) * np.uint64(7919)
    sensitivity[rows] = LEVELS.index("high")
    return replace(table, attributes=attributes, sensitivity=sensitivity)


def judged(table: ActionTable, calibration: Calibration, odd: Ints) -> Suspects:
    """Suspects where the model cannot rebuild these rows, and all others perfectly."""

    def errors(rows: Ints) -> Nll:
        return np.where(np.isin(rows, odd)[:, None], 15.0, 0.0).astype(np.float32) * np.ones(
            table.tokens.shape[1], np.float32
        )

    return find_suspects(table, calibration, errors, np.zeros(len(table.time), np.int64))


def known(table: ActionTable, habits: HabitTable, row: int) -> Ints:
    """How often the principal of a row did what it does, by what the habits hold; changes nothing."""
    one = slice(row, row + 1)
    given = table.attributes[one], table.name_hashes[one], table.group_hashes[one]
    found = habits.observe(*given)
    habits.unobserve(*given, found)
    return found.own[0]


def counted(table: ActionTable) -> HabitTable:
    habits = HabitTable()
    habits.observe(table.attributes, table.name_hashes, table.group_hashes)
    return habits


def test_what_was_done_on_one_occasion_is_no_habit(
    table: ActionTable, calibration: Calibration, busy: Ints
) -> None:
    rows = busy[len(busy) // 2 :][:2]
    log = with_deed(table, rows)
    suspects = judged(log, calibration, rows)
    assert set(rows.tolist()) <= set(suspects.rows.tolist())
    habits = counted(log)
    assert known(log, habits, int(rows[0])).tolist() == [2] * log.attributes.shape[1]
    before = known(log, habits, int(busy[0]))
    suspects.leave_out(log, habits)
    assert not known(log, habits, int(rows[0])).any()
    assert known(log, habits, int(busy[0])).tolist() == before.tolist()
    assert str(log.name[rows[0]]) in suspects.describe(log)


def test_what_was_done_on_another_occasion_as_well_is(
    table: ActionTable, calibration: Calibration, busy: Ints
) -> None:
    rows = busy[[len(busy) // 4, 3 * len(busy) // 4]]
    assert np.diff(table.time[rows])[0] > occasion(table.time)
    log = with_deed(table, rows)
    assert not set(rows.tolist()) & set(judged(log, calibration, rows).rows.tolist())


def test_what_is_suspect_on_two_occasions_vouches_for_nothing_that_both_have(
    table: ActionTable, calibration: Calibration, busy: Ints
) -> None:
    rows = busy[[len(busy) // 4, 3 * len(busy) // 4]]
    log = with_deed(table, rows)
    apart = log.attributes.copy()
    apart[rows[1], :-1] += np.uint64(1)  # all but the last are of one occasion
    log = replace(log, attributes=apart)
    suspects = judged(log, calibration, rows)
    assert set(rows.tolist()) <= set(suspects.rows.tolist())
    habits = counted(log)
    assert known(log, habits, int(rows[0]))[-1] == 2
    suspects.leave_out(log, habits)
    assert not known(log, habits, int(rows[0])).any()


def test_what_the_model_rebuilds_and_could_do_no_harm_is_a_habit(
    table: ActionTable, calibration: Calibration, busy: Ints
) -> None:
    rows = busy[len(busy) // 2 :][:1]
    log = with_deed(table, rows)
    harmless = replace(log, sensitivity=np.zeros_like(log.sensitivity))
    high = replace(calibration, person_thresholds=(30.0,) * len(calibration.horizons))
    assert not len(judged(harmless, high, rows).rows)
    assert judged(harmless, high, rows).describe(harmless) == ""


def test_the_rest_of_the_log_is_what_lies_further_away_or_is_done_by_others(table: ActionTable) -> None:
    away = 10 * MINUTE
    rng = np.random.default_rng(3)
    kept = rng.random(len(table.time)) < 0.9
    rows, found = elsewhere(table, away, kept)
    assert (np.diff(table.arrival[rows]) > 0).all()
    for place in rng.choice(len(rows), 25, replace=False).tolist():
        row = rows[place]
        mine = table.name == table.name[row]
        far = np.abs(table.time // 1000 - table.time[row] // 1000) > away // 1000
        assert found.actions[place] == (mine & far).sum()
        for column in (0, 4, 9):
            same = table.attributes[:, column] == table.attributes[row, column]
            own = int((mine & far & same & kept).sum())
            assert found.own[place, column] == own
            if not own:
                others = same & ~mine & kept
                peers = others & (table.group_hashes == table.group_hashes[row])
                assert found.anyone[place, column] == len(set(table.name[others]))
                assert found.peers[place, column] == len(set(table.name[peers]))


def test_an_occasion_is_ten_minutes_of_a_short_log_and_a_day_of_a_long_one() -> None:
    assert occasion(np.array([0, 30 * MINUTE])) == 10 * MINUTE
    assert occasion(np.array([0, 14 * 24 * 60 * MINUTE])) == 24 * 60 * MINUTE
    assert occasion(np.array([0, 365 * 24 * 60 * MINUTE])) == 24 * 60 * MINUTE


def test_names_out_of_the_log_are_made_visible_and_cut() -> None:
    table = SimpleNamespace(name=np.array(["mal\x1b[31m" + "x" * 500] * 2, object))
    found = Suspects(np.arange(2), np.ones((2, 1), bool), np.ones(2, bool))
    sentence = found.describe(table)  # type: ignore[arg-type]
    assert "\x1b" not in sentence
    assert "mal\\x1b[31mxxx" in sentence
    assert len(sentence) < 400
