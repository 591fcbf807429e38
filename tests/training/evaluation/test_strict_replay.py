"""Runs alone in the log: independent of each other, without a trace in what comes after, and the same every time."""

import json
from dataclasses import replace as replace_field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from data.events.audit_event import AuditEvent, ObjectRef, User
from data.events.decode import decode_lines
from detection.bundle import Bundle
from detection.detector import Detector
from tests.conftest import RECORDINGS
from tests.detection.rules.rules_for_tests import rule
from training.evaluation.alone import figures
from training.evaluation.report import alone_rows, false_incident
from training.evaluation.strict_replay import GAPS, PACES, REHEARSAL, ROWS, TAUGHT, Replayed, StrictReplay
from training.evaluation.transplants import Case, build, originals, received, without_labelled

LINES = 2500


@pytest.fixture(scope="module")
def labels(labelled_lines: list[bytes]) -> list[dict[str, Any]]:
    ids = {json.loads(line)["auditID"] for line in labelled_lines[:LINES]}
    return [r for r in json.loads((RECORDINGS / "labels.json").read_text()) if ids.issuperset(r["audit_ids"])]


@pytest.fixture(scope="module")
def events(labelled_lines: list[bytes]) -> list[AuditEvent]:
    return decode_lines(labelled_lines[:LINES]).events


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    """Four minutes of log set thresholds far out; lower ones give these tests something to see."""
    loaded = Bundle.load(tiny_bundle)
    return replace_field(loaded, calibration=loaded.calibration.scaled(0.4))


@pytest.fixture(scope="module")
def cases(events: list[AuditEvent], labels: list[dict[str, Any]]) -> list[Case]:
    """The runs of the slice, and a stranger with a colleague's name who lists Secrets everywhere and binds a role."""
    runs = [*originals(events, labels), *build(events, labels, attacks=2)]
    someone = next(event for event in events[1200:] if "@" in event.user.username)
    loud = replace(
        someone,
        user=User(someone.user.username, ("devs",)),
        userAgent="hydra/1.0",
        sourceIPs=("198.51.100.7", "127.0.0.1"),
        verb="create",
        objectRef=ObjectRef("clusterrolebindings", "", "x", "rbac.authorization.k8s.io", "v1"),
        requestURI="/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    )
    own = tuple(
        replace(
            loud, auditID=f"loud-{i}", objectRef=ObjectRef("secrets", f"ns-{i}", "", "", "v1"), verb="list"
        )
        for i in range(4)
    )
    case = replace(runs[0], scenario="loud", principals=(loud.user.username,), kind="attack", induced=())
    return [*runs, replace(case, events=(*own, replace(loud, auditID="loud-4")))]


def replayed(
    bundle: Bundle, events: list[AuditEvent], labels: list[dict[str, Any]], cases: list[Case]
) -> Replayed:
    return StrictReplay(Detector(bundle), without_labelled(events, labels)).run(cases)


@pytest.fixture(scope="module")
def found(
    bundle: Bundle, events: list[AuditEvent], labels: list[dict[str, Any]], cases: list[Case]
) -> Replayed:
    return replayed(bundle, events, labels, cases)


def test_a_run_is_judged_the_same_whatever_others_are_replayed(
    bundle: Bundle, events: list[AuditEvent], labels: list[dict[str, Any]], cases: list[Case], found: Replayed
) -> None:
    alone = replayed(bundle, events, labels, cases[-1:])
    assert alone.first == found.first[-1:]
    assert {row: outcomes[0] for row, outcomes in alone.rows.items()} == {
        row: outcomes[-1] for row, outcomes in found.rows.items()
    }
    assert alone.false == found.false


def test_replays_leave_the_log_as_it_is(
    bundle: Bundle, events: list[AuditEvent], labels: list[dict[str, Any]], found: Replayed
) -> None:
    """What is raised on the log without attacks is what the detector raises that never saw one."""
    scores = Detector(bundle).score(without_labelled(events, labels))
    assert sum(found.actions.values()) == len(scores.event)
    flagged = {scores.principal[row] for row in np.flatnonzero(scores.flagged).tolist()}
    assert {one.principal for one in found.false} == flagged
    assert sum(one.actions for one in found.false) == int(scores.flagged.sum())
    assert sum(one.repeats for one in found.false) == int(scores.repeat.sum())


def test_every_question_is_asked(found: Replayed, cases: list[Case]) -> None:
    assert set(found.rows) == set(ROWS) == {*GAPS, *PACES, REHEARSAL, TAUGHT}
    loud = found.first[-1]
    assert (loud.seen, loud.requests) == (True, 5)
    assert loud.after is not None
    assert 1 <= loud.after <= 5
    attacks = [case.is_attack for case in cases]
    for row in (*PACES, REHEARSAL, TAUGHT):
        assert [one is not None for one in found.rows[row]] == attacks
    for row in GAPS:  # only what was seen can be seen again
        seen = [one.seen and attack for one, attack in zip(found.first, attacks, strict=True)]
        assert [one is not None for one in found.rows[row]] == seen
    assert found.rows[REHEARSAL][-1].requests > 5  # type: ignore[union-attr]


def test_what_training_has_met_once_is_nothing_new_unless_it_left_out_what_stands_out(
    bundle: Bundle, events: list[AuditEvent], labels: list[dict[str, Any]], cases: list[Case]
) -> None:
    counted = replace_field(bundle, calibration=replace_field(bundle.calibration, left_out=None))
    everything = replayed(counted, events, labels, cases[-1:])
    first, taught = everything.first[-1], everything.rows[TAUGHT][-1]
    assert taught is not None
    assert taught.peak < first.peak
    assert bundle.calibration.left_out is not None
    careful = replayed(bundle, events, labels, cases[-1:]).rows[TAUGHT][-1]
    assert careful is not None
    assert careful.seen
    assert careful.peak > taught.peak


def test_the_figures_count_what_was_seen(found: Replayed, cases: list[Case]) -> None:
    split = len(cases) - 3
    block = figures(cases[:split], cases[split:], found)
    moved = block["transplants"]
    assert moved["attack_runs"] == sum(case.is_attack for case in cases[split:])
    seen = [one.seen for case, one in zip(cases[split:], found.first[split:], strict=True) if case.is_attack]
    assert moved["recall"] == pytest.approx(np.mean(seen))
    low, high = moved["recall_interval"]
    assert low <= moved["recall"] <= high
    for name in GAPS:
        assert moved["rows"][name]["runs"] == sum(seen)
    titles = [row[0] for row in alone_rows(block)]
    assert len(set(titles)) == len(titles)
    assert all(name in " ".join(titles) for name in ROWS)
    for one in block["false_incidents"]:
        assert one["principal"] in false_incident(one)
    json.dumps(block)


def test_rules_run_beside_the_model_and_leave_no_trace(
    bundle: Bundle, events: list[AuditEvent], labels: list[dict[str, Any]], cases: list[Case], found: Replayed
) -> None:
    """A rule about what only the loud run does: it is named there and nowhere else, and the model's figures stay."""
    about = {"resourceRules": [{"resources": ["secrets"], "verbs": ["list"]}], "namespaces": ["ns-*"]}
    quiet = bundle.calibration.scaled(1e6)
    deaf = replace_field(bundle, calibration=quiet)
    several = rule(
        "lister", matchConstraints=about, history={"seconds": 600}, expression="size(history) == 3"
    )
    replay = StrictReplay(
        Detector(deaf), without_labelled(events, labels), [several, rule("never", expression="false")]
    )
    ruled = replay.run([*cases, cases[-1]], ())
    assert [one.rules for one in ruled.first] == [()] * (len(cases) - 1) + [("lister",)] * 2
    assert not any(one.seen for one in ruled.first)
    assert not ruled.false_with_rules
    block = figures(cases, [], Replayed(ruled.first[:-1], {}, [], ruled.actions, {}))["strict"]
    assert block["recall"] == 0
    assert block["with_rules"]["recall"] == pytest.approx(1 / block["attack_runs"])
    everything = StrictReplay(Detector(bundle), without_labelled(events, labels), [rule("all", habitDays=0)])
    assert sum(everything.run([], ()).false_with_rules.values()) >= len(found.false)
    alone = StrictReplay(Detector(bundle), without_labelled(events, labels)).run([], ())
    assert sum(alone.false_with_rules.values()) == len(found.false)


def test_a_slow_run_takes_its_time(
    bundle: Bundle, events: list[AuditEvent], labels: list[dict[str, Any]], cases: list[Case]
) -> None:
    """Each request at its own time, the stages of one together, the owner's work between them."""
    replay = StrictReplay(Detector(bundle), without_labelled(events, labels))
    shown: list[AuditEvent] = []
    replay.detector.score = lambda given: (shown.extend(given), Detector.score(replay.detector, given))[1]  # type: ignore[method-assign]
    replay.run(cases[-1:], [name for name, pace in PACES.items() if pace == 30 * 60_000_000])
    late = [event for event in shown if event.auditID.startswith("loud")][5:]
    assert np.diff(received(late)).tolist() == [30 * 60_000_000] * 4
    between = [event for event in shown if event.auditID.startswith("own-")]
    assert {event.user.username for event in between} == {cases[-1].principals[0]}
