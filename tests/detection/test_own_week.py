"""The hours of a principal's own week: what is strange, and that neither the split of a log nor a trial changes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from data.actions.attributes import ATTRIBUTES, HASHED, attribute_hash
from data.actions.fields import stable_hash
from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from detection.bundle import Bundle
from detection.detector import Detector
from detection.novelty import HabitTable
from detection.own_week import ENOUGH_DAYS, Week, hour_hashes, observe_week
from detection.rarity import CLASSES, OwnRates, Rarity, hours_by_class
from tests.data import samples

MONDAY = datetime(2026, 11, 2, tzinfo=UTC)
OFFICE = [(day, hour) for day in (0, 1, 2, 3, 4, 7, 8, 9, 10, 11) for hour in (9, 10, 11, 14, 16)]
OFTEN = range(0, 60, 10)


def times(hours: Sequence[tuple[float, float]], minutes: Sequence[int] = OFTEN) -> np.ndarray:
    """Microseconds of some minutes of each hour, given as days since a Monday and the hour."""
    begin = [MONDAY + timedelta(days=day, hours=hour) for day, hour in hours]
    found = [one + timedelta(minutes=minute) for one in begin for minute in minutes]
    return np.array([int(one.timestamp()) * 1_000_000 for one in found], np.int64)


def watch(habits: HabitTable, *when: np.ndarray, name: str = "ann", followed: bool = True) -> Week:
    """Observe one principal, one call for each part."""
    weeks, before = [], None
    for part in when:
        pauses = np.diff(part, prepend=part[:1] if before is None else before)
        who = np.full(len(part), stable_hash(name), np.uint64)
        week, _ = observe_week(habits, who, part, pauses, np.full(len(part), followed))
        weeks.append(week)
        before = part[-1:]
    return Week(*(np.concatenate([getattr(one, key) for one in weeks]) for key in ("strange", "days")))


def after_two_weeks(*hours: tuple[float, float], followed: bool = True) -> list[bool]:
    """Whether each of some hours was strange, from its first request to its last, to one who works in an office."""
    habits = HabitTable()
    office = times(OFFICE)
    parts = [office, *(times([hour]) for hour in hours)]
    found = watch(habits, *parts, followed=followed).strange[len(office) :].reshape(len(hours), -1)
    assert (found.all(axis=1) == found.any(axis=1)).all()
    return [bool(part.all()) for part in found]


def test_a_night_is_strange_to_who_works_by_day_and_two_of_them_are_not() -> None:
    assert after_two_weeks((14, 3), (15, 10), (16, 2), (17, 10), (18, 4)) == [True, False, True, False, False]


def test_an_hour_beside_the_usual_ones_is_not_strange() -> None:
    assert after_two_weeks((14, 7), (14, 18), (15, 21), (16, 5)) == [False, False, True, True]


def test_the_first_saturday_is_strange_at_night_alone() -> None:
    assert after_two_weeks((12, 10), (13, 3)) == [False, True]


def test_weekends_do_not_excuse_a_weekday() -> None:
    habits = HabitTable()
    weekends = times([(day, hour) for day in (5, 6, 12, 13, 19, 20) for hour in (22, 23)])
    night = times([(21, 22)])
    assert watch(habits, weekends, night).strange[-len(night) :].all()


def test_nothing_is_strange_before_some_days_were_seen() -> None:
    habits = HabitTable()
    few = times([(day, 9) for day in range(ENOUGH_DAYS)])
    night = times([(ENOUGH_DAYS, 3)])
    assert not watch(habits, few[len(OFTEN) :], night).strange.any()
    habits = HabitTable()
    found = watch(habits, few, times([(ENOUGH_DAYS, 20)]))
    assert found.strange[len(few) :].all()
    assert found.days[-1] == ENOUGH_DAYS


def test_who_works_at_all_hours_and_the_machinery_are_never_strange() -> None:
    around_the_clock = times(
        [(day, (5 * day + step) % 24) for day in range(14) for step in (0, 6, 12, 18)], (0,)
    )
    assert not watch(HabitTable(), np.sort(around_the_clock)).strange[200:].any()
    assert after_two_weeks((14, 3), followed=False) == [False]


def test_the_split_of_a_log_changes_nothing() -> None:
    log = times([*OFFICE, (14, 2.9), (14, 3.9), (15, 9), (16, 3), (17, 9), (18, 4), (19, 3), (20, 22)])
    whole, table = watch(HabitTable(), log), HabitTable()
    for cuts in ([100, 305, 311], range(1, len(log)), [250]):
        table = HabitTable()
        split = watch(table, *np.split(log, cuts))
        assert (split.strange == whole.strange).all()
        assert (split.days == whole.days).all()
    assert whole.strange.any()
    other = HabitTable()
    watch(other, log)
    assert (table.to_array() == other.to_array()).all()


def test_principals_of_one_batch_do_not_disturb_each_other() -> None:
    office, night = times(OFFICE), times([(day, 3) for day in range(12)])
    time = np.concatenate([office, night])
    order = np.argsort(time, kind="stable")
    who = np.array([stable_hash("ann")] * len(office) + [stable_hash("bob")] * len(night), np.uint64)
    pauses = np.concatenate([np.diff(office, prepend=office[:1]), np.diff(night, prepend=night[:1])])
    habits = HabitTable()
    week, _ = observe_week(habits, who[order], time[order], pauses[order], np.ones(len(time), bool))
    assert not week.strange.any()
    later = times([(14, 3)], (0,))
    for name, strange in (("ann", True), ("bob", False)):
        pause = later - (office if name == "ann" else night)[-1]
        one = np.array([stable_hash(name)], np.uint64)
        assert observe_week(habits, one, later, pause, np.ones(1, bool))[0].strange.tolist() == [strange]


def test_what_undoes_a_trial_leaves_nothing_of_it() -> None:
    habits = HabitTable()
    watch(habits, times(OFFICE))
    before = habits.to_array()
    night = times([(14, 3), (15, 4)])
    pauses = np.diff(night, prepend=times(OFFICE)[-1:])
    who = np.full(len(night), stable_hash("ann"), np.uint64)
    _, undo = observe_week(habits, who, night, pauses, np.ones(len(night), bool))
    assert len(habits.to_array()) > len(before)
    undo()
    assert (habits.to_array() == before).all()


def test_what_is_kept_of_hours_goes_with_the_rest_of_a_principal() -> None:
    habits = HabitTable()
    watch(habits, times(OFFICE))
    kept = habits.pop(np.array([stable_hash("ann")], np.uint64))
    assert not len(habits)
    assert {*kept.principal.tolist()} == {stable_hash("ann")}
    habits.restore(kept)
    night = times([(14, 3)], (0,))
    who = np.array([stable_hash("ann")], np.uint64)
    found, _ = observe_week(habits, who, night, night - times(OFFICE)[-1], np.ones(1, bool))
    assert found.strange.tolist() == [True]


@pytest.mark.parametrize(("hour", "strange"), [(3, False), (21, True)])
def test_a_night_that_people_called_normal_is_usual(hour: int, strange: bool) -> None:
    habits = HabitTable()
    office = times(OFFICE)
    watch(habits, office)
    normal = hour_hashes(times([(14, 2)], (0,)))
    assert normal.tolist() == [attribute_hash("hours", ("weekday 00",))]
    habits.grant(stable_hash("ann"), 7, normal, np.ones(1, np.int64))
    later = times([(15, hour)], (0,))
    who = np.array([stable_hash("ann")], np.uint64)
    found, _ = observe_week(habits, who, later, later - office[-1], np.ones(1, bool))
    assert found.strange.tolist() == [strange]


WHO = "dev-9@example.com"


@pytest.fixture(scope="module")
def weekly(tiny_bundle: Path) -> Bundle:
    """A small model as one of a log of weeks: no session of its log was in a strange hour."""
    bundle = Bundle.load(tiny_bundle)
    rarity = bundle.calibration.rarity
    own = OwnRates(rarity.own.row, rarity.own.actions, np.pad(rarity.own.hits, ((0, 0), (0, 1), (0, 0))))
    hits = np.pad(rarity.hits, ((0, 0), (0, 0), (0, 1), (0, 0)))
    hours = np.array([[5_000, 50_000, 0]] * len(CLASSES))
    calibration = replace(bundle.calibration, rarity=Rarity(rarity.actions, hits, own, hours))
    return replace(bundle, meta=bundle.meta | {"attributes": list(ATTRIBUTES)}, calibration=calibration)


def listing(when: int, number: int = 0) -> bytes:
    """A request of WHO at a time in microseconds."""
    return samples.listing(datetime(1970, 1, 1) + timedelta(microseconds=when), WHO, number)


def events_at(when: np.ndarray) -> list[AuditEvent]:
    return decode_lines([listing(int(one)) for one in when]).events


def test_habitual_work_in_a_strange_hour_is_news_until_people_call_it_normal(weekly: Bundle) -> None:
    detector = Detector(weekly)
    detector.score(events_at(times(OFFICE)))
    with detector.fork():
        assert not detector.score(events_at(times([(14, 10)]))).novelty.any()
    night = detector.score(events_at(times([(14, 3)])))
    assert (night.novelty > 3).all()
    reasons = night.novelties[3]
    assert [(one.attribute, one.value) for one in reasons] == [("hours", "weekday 03")]
    assert (reasons[0].times_before, reasons[0].actions_before) == (0, 10)
    assert {*night.severity} <= {"none", "low", "medium"}


def test_a_model_that_knows_no_hours_takes_no_note_of_them(tiny_bundle: Path, weekly: Bundle) -> None:
    bundle = Bundle.load(tiny_bundle)
    assert bundle.attributes == HASHED
    assert "hours" not in bundle.calibration.to_dict()["rarity"]
    log = events_at(times([*OFFICE, (14, 3), (15, 4)]))
    detector = Detector(bundle)
    assert not detector.score(log).novelty[-12:].any()
    other = Detector(weekly)
    other.score(log)
    assert len(detector.habits) < len(other.habits)


def test_hours_are_judged_alike_however_events_are_batched_and_after_an_eviction(weekly: Bundle) -> None:
    log = events_at(times([*OFFICE, (14, 2.5), (14, 3.5), (15, 9), (16, 3), (17, 10)]))
    whole = Detector(weekly).score(log)
    assert whole.novelty[-24:-12].any()
    detector, found = Detector(weekly), []
    for begin in range(0, len(log), 7):
        with detector.fork():
            detector.score(log[begin:])
        found.append(detector.score(log[begin : begin + 7]))
        principal = np.array([stable_hash(WHO)], np.uint64)
        detector.habits.restore(detector.habits.pop(principal))
    for column in ("novelty", "evidence", "flagged"):
        parts = np.concatenate([getattr(one, column) for one in found])
        np.testing.assert_allclose(parts, getattr(whole, column), atol=1e-4)


def test_rarity_of_hours_is_kept_with_the_rest_of_it(weekly: Bundle) -> None:
    rarity = weekly.calibration.rarity
    again = Rarity.from_dict(json.loads(json.dumps(rarity.to_dict())))
    assert again.hours is not None
    assert again.hours.tolist() == [[5_000, 50_000, 0]] * len(CLASSES)
    assert again.to_dict() == rarity.to_dict()


def test_sessions_end_with_a_pause_or_another_principal() -> None:
    minute = 60_000_000
    pauses = np.array([0, minute, 60 * minute, minute, minute, 0, minute, 40 * minute])
    classes = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    judged = np.array([False, True, True, True, True, True, True, True])
    strange = np.array([False, False, True, True, True, False, False, False])
    found = hours_by_class(classes, pauses, judged, strange)
    assert found[:2].tolist() == [[2, 4, 3], [2, 3, 0]]
    assert not found[2:].any()
