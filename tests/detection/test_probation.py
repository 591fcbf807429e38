"""What was flagged is no habit: it is flagged again later, as a repeat, until people say so or days have passed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.actions.fields import stable_hash
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from detection.bundle import Bundle
from detection.detector import Detector, Scores
from detection.exceptions import HabitExceptions
from detection.judging import ActionJudge
from detection.novelty import HabitTable
from detection.probation import Probation, pack_records, unpack_records
from detection.state_transfer import transfer_state

START = datetime(2026, 11, 23, 15)
WHO = "dev-9@example.com"
HOUR, DAY = 3600.0, 86_400.0


@pytest.fixture(scope="module")
def touchy(tiny_bundle: Path) -> Bundle:
    """A small model that flags what is a little unusual."""
    bundle = Bundle.load(tiny_bundle)
    limits = (1.0,) * len(bundle.calibration.horizons)
    return replace(bundle, calibration=replace(bundle.calibration, person_thresholds=limits))


def done(
    seconds: float, resource: str = "secrets", verb: str = "list", user: str = WHO, **more: Any
) -> bytes:
    """A request for what nobody reads otherwise."""
    time = (START + timedelta(seconds=seconds)).isoformat(timespec="microseconds") + "Z"
    return json.dumps(
        {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": f"{user}-{resource}-{verb}-{seconds}",
            "stage": "ResponseComplete",
            "requestURI": f"/api/v1/namespaces/vault/{resource}",
            "verb": verb,
            "user": {"username": user, "groups": ["dev:web", "system:authenticated"]},
            "sourceIPs": ["203.0.113.7"],
            "userAgent": "kubectl/v1.29.3 (linux/amd64) kubernetes/6813625",
            "objectRef": {"resource": resource, "namespace": "vault", "apiVersion": "v1"},
            "responseStatus": {"code": 200},
            "requestReceivedTimestamp": time,
            "stageTimestamp": time,
        }
        | more
    ).encode()


def score(detector: Detector, *lines: bytes) -> Scores:
    return detector.score(decode_lines(list(lines)).events)


def moment(seconds: float) -> int:
    """Microseconds since 1970 UTC."""
    return int(np.datetime64(START + timedelta(seconds=seconds), "us").astype(np.int64))


def counts(detector: Detector) -> bytes:
    """All habits."""
    return detector.habits.to_array().tobytes()


def state(detector: Detector) -> tuple[bytes, bytes, bytes]:
    """All that verdicts depend on, but for windows."""
    sums = detector.accumulator.sums()
    order = np.argsort(np.array(sums.names, object))
    records = dict(sorted(detector.probation.records().items()))
    return counts(detector), pack_records(records), sums.rows[order].tobytes()


@pytest.mark.parametrize("later", [2 * HOUR, DAY, 7 * DAY])
def test_what_was_flagged_is_flagged_again_as_a_repeat(touchy: Bundle, later: float) -> None:
    detector = Detector(touchy)
    first = score(detector, done(0))
    assert (first.flagged.tolist(), first.repeat.tolist()) == ([True], [False])
    assert np.isnat(first.first_flagged[0])
    again = score(detector, done(later))
    assert (again.flagged.tolist(), again.repeat.tolist()) == ([True], [True])
    assert again.first_flagged.tolist() == first.time.tolist()
    assert again.evidence[0] >= again.threshold[0]
    assert again.severity[0] == first.severity[0]
    # It was counted once: nothing else becomes suspicious because of it.
    assert (again.novelty_evidence[0], again.error_evidence[0]) == (0.0, 0.0)


def test_within_ten_minutes_it_is_reported_once(touchy: Bundle) -> None:
    detector = Detector(touchy)
    scores = score(detector, *(done(second) for second in range(0, 600, 60)))
    assert scores.flagged.tolist() == [True] + [False] * 9
    assert score(detector, done(601)).repeat.tolist() == [True]


def test_it_gives_no_familiarity_to_peers_nor_to_anybody(touchy: Bundle) -> None:
    detector = Detector(touchy)
    before = len(detector.habits)
    alone = score(Detector(touchy), done(30, user="dev-8@example.com"))
    score(detector, done(0))
    assert len(detector.habits) == before
    after = score(detector, done(30, user="dev-8@example.com"))
    assert after.novelty.tolist() == alone.novelty.tolist()
    assert after.repeat.tolist() == [False]


def test_flags_of_several_in_one_batch_give_what_they_give_one_by_one(touchy: Bundle) -> None:
    users = [f"dev-{number}@example.com" for number in (7, 8, 9)]
    lines = [
        done(10 * turn + number, resource=resource, user=user)
        for turn, resource in enumerate(("secrets", "configmaps", "secrets", "pods", "secrets"))
        for number, user in enumerate(users)
    ]
    together, apart = Detector(touchy), Detector(touchy)
    before = state(together)
    with together.fork():
        score(together, *lines)
    assert state(together) == before
    scores = score(together, *lines)
    parts = [score(apart, line) for line in lines]
    assert len({scores.principal[row] for row in scores.flagged.nonzero()[0]}) == len(users)
    for column in ("flagged", "repeat", "own_actions", "novelty"):
        assert getattr(scores, column).tolist() == [getattr(part, column)[0] for part in parts], column
    assert scores.novelties == {row: part.novelties[0] for row, part in enumerate(parts) if part.novelties}
    assert (counts(together), pack_records(together.probation.records())) == (
        counts(apart),
        pack_records(apart.probation.records()),
    )


def test_another_deed_with_something_of_it_is_no_repeat(touchy: Bundle) -> None:
    detector = Detector(touchy)
    score(detector, done(0))
    other = done(2 * HOUR, objectRef={"resource": "secrets", "namespace": "bank", "apiVersion": "v1"})
    scores = score(detector, other)
    assert (scores.flagged.tolist(), scores.repeat.tolist()) == ([True], [False])


def test_what_led_up_to_a_flag_is_on_probation_too(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    count = len(bundle.calibration.horizons)
    alone = score(Detector(bundle), done(0, resource="configmaps"))
    single = np.sqrt(alone.novelty_evidence[0] * max(alone.error_evidence[0], 0.1))
    limits = (float(single) * 1.05,) * count
    patient = Detector(replace(bundle, calibration=replace(bundle.calibration, person_thresholds=limits)))
    empty = len(patient.habits)
    mild = score(patient, done(0, resource="configmaps"))
    assert (mild.flagged.tolist(), mild.novelty_evidence[0] > 0) == ([False], True)
    assert score(patient, done(10)).flagged.tolist() == [True]
    assert len(patient.habits) == empty + 1  # that one action was taken; what it was is no habit


def test_a_normal_verdict_ends_it_for_good(touchy: Bundle) -> None:
    detector = Detector(touchy)
    first = score(detector, done(0))
    detector.apply_verdict(WHO, {moment(0)}, "normal")
    once = state(detector)
    detector.apply_verdict(WHO, {moment(0)}, "normal")
    assert state(detector) == once
    for later in (60, 2 * HOUR, DAY, 30 * DAY):
        again = score(detector, done(later))
        assert again.flagged.tolist() == [False]
        assert again.novelty.tolist() == [0.0] < first.novelty.tolist()
    # To others it is what anything is that one of their peers does.
    peers = score(detector, done(31 * DAY, user="dev-8@example.com"))
    alone = score(Detector(touchy), done(31 * DAY, user="dev-8@example.com"))
    assert peers.novelty[0] < alone.novelty[0]


def test_a_malicious_verdict_takes_it_out_of_the_habits_again(touchy: Bundle) -> None:
    detector, never = Detector(touchy), Detector(touchy)
    for one in (detector, never):
        score(one, done(0))
    before = counts(detector)
    detector.apply_verdict(WHO, {moment(0)}, "normal")
    assert counts(detector) != before
    detector.apply_verdict(WHO, {moment(0)}, "malicious")
    assert counts(detector) == before
    again = score(detector, done(2 * HOUR))
    # What people called malicious is raised as something of its own.
    assert (again.flagged.tolist(), again.repeat.tolist()) == ([True], [False])


def test_after_an_unclear_end_it_is_raised_once_more_and_then_repeats_that(touchy: Bundle) -> None:
    detector = Detector(touchy)
    score(detector, done(0))
    detector.apply_verdict(WHO, {moment(0)}, "unclear")
    assert score(detector, done(2 * HOUR)).repeat.tolist() == [False]
    third = score(detector, done(4 * HOUR))
    assert third.repeat.tolist() == [True]
    assert third.first_flagged.astype(np.int64).tolist() == [moment(2 * HOUR)]


@pytest.mark.parametrize(("resource", "becomes"), [("widgets", True), ("secrets", False)])
def test_only_what_could_do_little_harm_becomes_a_habit_by_itself(
    touchy: Bundle, resource: str, becomes: bool
) -> None:
    detector = Detector(touchy, probation_days=3)
    first = score(detector, done(0, resource=resource))
    assert (first.flagged[0], first.sensitivity[0] == 3) == (True, not becomes)
    for day in (1, 2, 3):
        assert score(detector, done(day * DAY, resource=resource)).repeat.tolist() == [True]
        assert score(detector, done(day * DAY + HOUR, resource=resource)).repeat[0] == (
            not becomes or day < 3
        )
    assert score(detector, done(4 * DAY, resource=resource)).flagged[0] != becomes


def test_when_scoring_fails_it_is_as_before(touchy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(touchy)
    score(detector, done(0), done(5, resource="configmaps"))
    before = state(detector)

    def fail(*_: object) -> None:
        raise ValueError("this one")

    with monkeypatch.context() as broken:
        broken.setattr(Detector, "_explain", fail)
        with pytest.raises(ValueError, match="this one"):
            score(
                detector,
                done(2 * HOUR),
                done(2 * HOUR + 1, verb="get"),
                done(3 * DAY, user="dev-8@example.com"),
                done(9 * DAY, resource="configmaps"),
            )
    assert state(detector) == before
    assert score(detector, done(2 * HOUR)).repeat.tolist() == [True]


@pytest.fixture(scope="module")
def nervous(touchy: Bundle) -> Bundle:
    """A small model that flags everything that is new."""
    limits = (0.2,) * len(touchy.calibration.horizons)
    calibration = replace(touchy.calibration, person_thresholds=limits, system_thresholds=limits, gate=0.5)
    return replace(touchy, calibration=calibration)


@pytest.fixture(scope="module")
def twice(labelled_lines: list[bytes]) -> list[AuditEvent]:
    """What people did in a stretch of the recording, and the same again a day later."""
    kept = [line for line in labelled_lines if b"@corp.example" in line][:120]
    return decode_lines([*kept, *(line.replace(b"-11-23T", b"-11-24T") for line in kept)]).events


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(sizes=st.lists(st.integers(1, 100), min_size=1, max_size=8))
def test_how_events_are_batched_changes_nothing(
    nervous: Bundle, twice: list[AuditEvent], whole: tuple[Scores, bytes], sizes: list[int]
) -> None:
    detector = Detector(nervous, cached_windows=10_000)
    edges = [0, *itertools.accumulate(sizes)]
    edges = [edge for edge in edges if edge < len(twice)] + [len(twice)]
    parts = [detector.score(twice[a:b]) for a, b in itertools.pairwise(edges)]
    together, final = whole
    for column in ("flagged", "repeat"):
        assert (
            np.concatenate([getattr(part, column) for part in parts]).tolist()
            == getattr(together, column).tolist()
        )
    firsts = np.concatenate([part.first_flagged for part in parts])
    assert firsts.astype(np.int64).tolist() == together.first_flagged.astype(np.int64).tolist()
    for column in ("evidence", "novelty", "error"):
        parted = np.concatenate([getattr(part, column) for part in parts])
        np.testing.assert_allclose(parted, getattr(together, column), rtol=1e-4, atol=1e-4)
    assert counts(detector) == final


@pytest.fixture(scope="module")
def whole(nervous: Bundle, twice: list[AuditEvent]) -> tuple[Scores, bytes]:
    detector = Detector(nervous, cached_windows=10_000)
    scores = detector.score(twice)
    assert scores.flagged.sum() > 20
    assert scores.repeat.sum() > 5
    return scores, counts(detector)


def test_it_outlives_a_change_of_the_model_even_of_one_that_learned_it(touchy: Bundle) -> None:
    old = Detector(touchy)
    score(old, done(0))
    taught = Detector(touchy)
    taught.probation = Probation()
    score(taught, done(0))
    taught.apply_verdict(WHO, {moment(0)}, "normal")
    knowing = replace(touchy, habits=HabitTable.from_array(taught.habits.to_array()))
    assert score(Detector(knowing), done(2 * HOUR)).novelty.tolist() == [0.0]
    new = Detector(knowing)
    transfer_state(old, new)
    assert score(new, done(2 * HOUR)).repeat.tolist() == [True]


def test_who_does_ever_new_things_cannot_keep_the_judge_busy(
    nervous: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, weigh = [], ActionJudge._weigh
    monkeypatch.setattr(ActionJudge, "_weigh", lambda *given: passes.append(1) or weigh(*given))
    monkeypatch.setattr("detection.probation.CLOSELY", 8)
    flood = [done(second, resource=f"kind-{second}") for second in range(60)]
    later = [done(HOUR, resource="kind-50"), done(HOUR + 60, resource="kind-0")]
    together = Detector(nervous)
    scores = score(together, *flood)
    assert scores.flagged.all()
    assert len(passes) <= 10
    one_by_one = Detector(nervous)
    parts = [score(one_by_one, line) for line in flood]
    assert np.concatenate([part.evidence for part in parts]) == pytest.approx(scores.evidence, rel=1e-4)
    assert state(one_by_one) == state(together)
    # What was done in the crowd is no habit, and no repeat either; what came before it is one.
    assert score(together, *later).flagged.tolist() == [True, True]
    assert score(one_by_one, *later).repeat.tolist() == [False, True]


def test_records_survive_being_saved(touchy: Bundle) -> None:
    detector = Detector(touchy)
    score(detector, done(0), done(5, resource="configmaps"), done(10, user="dev-8@example.com"))
    detector.apply_verdict("dev-8@example.com", {moment(10)}, "normal")
    records = detector.probation.records()
    assert unpack_records(detector.probation.to_bytes()) == records
    taken = detector.probation.pop([WHO])
    assert len(detector.probation) < sum(len(one.attributes) for one in records.values())
    detector.probation.restore(taken)
    assert detector.probation.records() == records


def flood(hold: Callable[..., Any], count: int, ratio: float, name: str = "flood") -> None:
    for number in range(count):
        key = stable_hash(f"{name}-{number}")
        hold(name, 1, number, [key], [key], (key, ratio, number))


def test_of_too_much_the_worst_stays() -> None:
    probation = Probation()
    flood(probation.hold, 5, 9.0)
    worst = set(probation.records()["flood"].attributes)
    flood(probation.hold, 6_000, 1.1, name="flood")
    held = probation.records()["flood"]
    assert worst <= set(held.attributes)
    assert max(len(held.attributes), len(held.deeds), len(probation)) <= 2_048


def test_a_flood_of_principals_pushes_out_the_mildest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detection.probation._LIMIT", 100)
    probation = Probation()
    flood(probation.hold, 3, 9.0, name="burglar")
    for number in range(400):
        flood(probation.hold, 1, 1.1, name=f"p{number}")
        assert len(probation) <= 100
    assert len(probation.records()["burglar"].attributes) == 3
    assert len(probation) == sum(len(one.attributes) for one in probation.records().values())


MIGRATION = {
    "name": "migration",
    "reason": "CHG-1021",
    "expires": "2026-11-24",
    "principal": WHO,
    "verbs": ["list"],
    "resources": ["secrets"],
    "namespaces": ["vau*"],
}


def test_an_exception_allows_a_deed_until_it_expires(touchy: Bundle) -> None:
    detector = Detector(touchy)
    alone = score(Detector(touchy), done(0))
    detector.exceptions = HabitExceptions.from_list([MIGRATION])
    before = len(detector.habits)
    scores = score(detector, done(0), done(20, verb="get"), done(30))
    assert scores.flagged.tolist() == [False, True, False]
    assert set(scores.allowed) == {0}
    assert scores.allowed[0].exception == "migration"
    assert scores.allowed[0].evidence == pytest.approx(alone.evidence[0])
    assert (scores.allowed[0].threshold, scores.allowed[0].severity) == (
        alone.threshold[0],
        alone.severity[0],
    )
    assert (scores.evidence[0], scores.novelty_evidence[0]) == (0.0, 0.0)
    assert len(detector.habits) == before + 1
    assert set(score(detector, done(DAY)).allowed) == {0}
    # Then it is as if it had never been done, and its own first time from there on.
    assert score(detector, done(2 * DAY)).repeat.tolist() == [False]
    assert score(detector, done(2 * DAY + HOUR)).repeat.tolist() == [True]


def test_mild_actions_that_an_exception_allowed_add_up_after_it_as_if_never_done(touchy: Bundle) -> None:
    allowed, never = Detector(touchy), Detector(touchy)
    deeds = [done(2 * DAY), done(2 * DAY + 2, verb="watch")]
    apart = [score(Detector(touchy), deed).evidence[0] for deed in deeds]
    calibration = replace(
        touchy.calibration, person_thresholds=(1.01 * max(apart),) * len(touchy.calibration.horizons)
    )
    for detector in (allowed, never):
        detector.bundle = replace(touchy, calibration=calibration)
        for number in range(40):
            score(detector, done(number, resource="pods"))
    allowed.exceptions = HabitExceptions.from_list(
        [MIGRATION | {"verbs": ["list", "watch"], "resources": ["secrets"]}]
    )
    assert not score(allowed, done(HOUR), done(HOUR + 2, verb="watch")).evidence.any()
    for detector in (allowed, never):
        for number in range(40):
            score(detector, done(DAY + number, resource="pods"))
    expected, found = score(never, *deeds), score(allowed, *deeds)
    assert expected.flagged.any()
    assert found.flagged.tolist() == expected.flagged.tolist()


@pytest.mark.parametrize(
    "other",
    [
        done(0, user="dev-8@example.com"),
        done(0, resource="configmaps"),
        done(0, objectRef={"resource": "secrets", "namespace": "bank", "apiVersion": "v1"}),
    ],
)
def test_an_exception_allows_nothing_else(touchy: Bundle, other: bytes) -> None:
    detector = Detector(touchy)
    detector.exceptions = HabitExceptions.from_list([MIGRATION])
    expected = score(Detector(touchy), other)
    scores = score(detector, other)
    assert (scores.flagged.tolist(), scores.allowed) == (expected.flagged.tolist(), {})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"principal": "*"}, "would hide attacks"),
        ({"verbs": [], "resources": [], "namespaces": ["*"]}, "needs a deed"),
        ({"reason": " "}, "needs a reason"),
        ({"resources": ["se*ts"]}, "at its end only"),
        ({"name": "a b"}, "at most 64 letters"),
        ({"expires": "soon"}, "is no day"),
        ({"verb": "get"}, "cannot be understood"),
    ],
)
def test_an_exception_that_says_too_little_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(KubehabitError, match=says):
        HabitExceptions.from_list([MIGRATION | change])
    with pytest.raises(KubehabitError, match="a name of its own"):
        HabitExceptions.from_list([MIGRATION, MIGRATION])
