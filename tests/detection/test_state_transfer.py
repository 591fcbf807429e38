"""Changing the model under a running detector: principals stay who they were, and what was adding up goes on adding up."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.actions.fields import FIELDS
from data.actions.vocabulary import SPECIALS, UNKNOWN, Vocabulary
from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from data.events.reader import open_lines
from detection.bundle import Bundle
from detection.detector import Detector, Scores
from detection.evidence import Sums
from detection.novelty import HabitTable
from detection.state_transfer import transfer_state, translation
from tests.conftest import RECORDINGS


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


@pytest.fixture(scope="module")
def events() -> list[AuditEvent]:
    lines = list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 11_000))
    return decode_lines(lines).events


@pytest.fixture(scope="module")
def patient(bundle: Bundle) -> Bundle:
    """The same model, but evidence also adds up over an hour and over a day."""
    calibration = replace(
        bundle.calibration,
        horizons=(120.0, 3600.0, 86400.0),
        activity=(),
        person_thresholds=(12.0, 10.0, 9.6),
        system_thresholds=(12.0, 10.0, 9.6),
    )
    return replace(bundle, calibration=calibration)


def slow_attack() -> list[AuditEvent]:
    """A stolen credential that tries something new every twenty minutes."""
    documents = []
    for number, resource in enumerate(
        ("secrets", "clusterroles", "nodes", "serviceaccounts", "rolebindings", "roles", "leases")
    ):
        moment = f"2026-11-23T{8 + number // 3:02d}:{20 * (number % 3):02d}:00.000000Z"
        documents.append(
            {
                "kind": "Event",
                "apiVersion": "audit.k8s.io/v1",
                "level": "Metadata",
                "auditID": f"slow-{number}",
                "stage": "ResponseComplete",
                "requestURI": f"/api/v1/namespaces/security/{resource}",
                "verb": "list",
                "user": {
                    "username": "system:serviceaccount:security:trivy-operator",
                    "groups": ["system:serviceaccounts", "system:authenticated"],
                },
                "sourceIPs": ["198.51.100.23"],
                "userAgent": "curl/8.5.0",
                "objectRef": {"resource": resource, "namespace": f"team-{number}", "apiVersion": "v1"},
                "responseStatus": {"code": 403},
                "requestReceivedTimestamp": moment,
                "stageTimestamp": moment,
            }
        )
    return decode_lines([json.dumps(one).encode() for one in documents]).events


def reloaded(old: Detector, bundle: Bundle) -> Detector:
    new = Detector(bundle, model=old.model)
    transfer_state(old, new)
    return new


def rows(scores: Scores) -> list[tuple[Any, ...]]:
    columns = (scores.principal, scores.evidence.tolist(), scores.flagged.tolist(), scores.severity)
    return list(zip(*columns, strict=True))


def test_after_a_reload_to_the_same_bundle_every_verdict_is_as_if_there_had_been_none(
    bundle: Bundle, events: list[AuditEvent]
) -> None:
    whole = Detector(bundle).score(events)
    detector = Detector(bundle)
    parts = []
    for begin in range(0, len(events), 1000):
        parts.append(detector.score(events[begin : begin + 1000]))
        detector = reloaded(detector, bundle)
    assert whole.flagged.any(), "a recording without anything flagged would prove nothing"
    assert [row[0] for part in parts for row in rows(part)] == whole.principal
    assert [row[2:] for part in parts for row in rows(part)] == [row[2:] for row in rows(whole)]
    for column in ("nll", "evidence", "novelty", "error"):
        got = np.concatenate([getattr(part, column) for part in parts])
        np.testing.assert_allclose(got, getattr(whole, column), rtol=1e-4, atol=1e-4)


def test_a_slow_attack_that_straddles_a_reload_is_flagged_all_the_same(patient: Bundle) -> None:
    attack = slow_attack()
    whole = Detector(patient).score(attack)
    first = int(np.flatnonzero(whole.flagged)[0])
    assert first >= 1, "it must take several actions to be flagged"
    other = replace(patient, vocabulary=shuffled(patient.vocabulary))
    for target in (patient, other):
        before = Detector(patient)
        assert not before.score(attack[:first]).flagged.any()
        after = Detector(target, model=before.model)
        assert not after.score(attack[first : first + 1]).flagged.any(), "alone it is nothing"
        after = reloaded(before, target)
        assert after.score(attack[first : first + 1]).flagged.all()


def test_stages_and_retries_are_recognised_across_a_reload(bundle: Bundle, events: list[AuditEvent]) -> None:
    old = Detector(bundle)
    old.score(events[:500])
    again = reloaded(old, bundle).score(events[:500])
    assert len(again.event) == 0
    assert len(again.folded) == 500


def shuffled(vocabulary: Vocabulary) -> Vocabulary:
    """The same values under other numbers."""
    rng = np.random.default_rng(7)
    tokens = {}
    for field in FIELDS:
        values = vocabulary.tokens[field][len(SPECIALS) :]
        tokens[field] = [*SPECIALS, *(values[i] for i in rng.permutation(len(values)).tolist())]
    return Vocabulary(tokens, vocabulary.uses_hour)


def test_windows_are_translated_by_value(bundle: Bundle, events: list[AuditEvent]) -> None:
    old = Detector(bundle)
    old.score(events[:2000])
    target = replace(bundle, vocabulary=shuffled(bundle.vocabulary))
    new = reloaded(old, target)

    def readable(detector: Detector) -> dict[str, tuple[int, list[list[str]]]]:
        words = [detector.bundle.vocabulary.tokens[field] for field in FIELDS]
        held = detector.windows.contexts()
        return {
            name: (
                last,
                [[words[i][token] for i, token in enumerate(row)] for row in tokens[:length].tolist()],
            )
            for name, last, length, tokens in zip(
                held.names, held.last.tolist(), held.lengths, held.tokens, strict=True
            )
        }

    assert readable(new) == readable(old)
    names = old.windows.contexts().names
    ours, theirs = (detector.windows.contexts(names).tokens for detector in (old, new))
    assert (ours != theirs).any(), "the numbers must differ to test anything"


def test_windows_of_another_length_keep_the_newest(bundle: Bundle, events: list[AuditEvent]) -> None:
    old = Detector(bundle)
    old.score(events[:2000])
    held = old.windows.contexts()
    for window in (5, bundle.window + 7):
        new = Detector(
            replace(bundle, meta=bundle.meta | {"model": bundle.meta["model"] | {"window": window}})
        )
        transfer_state(old, new)
        got = new.windows.contexts(held.names)
        for row in range(len(held.names)):
            mine = held.tokens[row, : held.lengths[row]][-(window - 1) :]
            assert got.lengths[row] == len(mine)
            np.testing.assert_array_equal(got.tokens[row, : len(mine)], mine)
            assert not got.tokens[row, len(mine) :].any()


def test_what_either_vocabulary_does_not_know_is_unknown_or_its_broader_value() -> None:
    def vocabulary(**more: list[str]) -> Vocabulary:
        return Vocabulary({field: [*SPECIALS, *more.get(field, [])] for field in FIELDS}, True)

    old = vocabulary(
        verb=["get", "list"],
        place=["198.51.100.7", "198.51.100.0/24", "10.1.2.0/24", "public"],
        client=["kubectl/v1.29", "kubectl/?"],
        resource=["pods/log", "pods"],
    )
    new = vocabulary(
        verb=["list", "watch"],
        place=["private", "public", "198.51.100.0/24"],
        client=["kubectl/?"],
        resource=["pods", "pods/?"],
    )
    tables = dict(zip(FIELDS, translation(old, new), strict=True))

    def words(field: str) -> list[str]:
        return [new.tokens[field][token] for token in tables[field].tolist()]

    assert tables["verb"][UNKNOWN] == UNKNOWN
    assert words("verb") == [*SPECIALS, "<unknown>", "list"]
    assert words("place") == [*SPECIALS, "198.51.100.0/24", "198.51.100.0/24", "private", "public"]
    assert words("client") == [*SPECIALS, "kubectl/?", "kubectl/?"]
    assert words("resource") == [*SPECIALS, "pods/?", "pods"]


def test_the_windows_of_a_newer_training_win_over_older_live_ones(
    bundle: Bundle, events: list[AuditEvent]
) -> None:
    old = Detector(bundle)
    scores = old.score(events[:2000])
    name = scores.principal[-1]
    last = int(old.windows.contexts([name]).last[0])
    for learned, is_kept in ((last + 1, False), (last - 1, True)):
        warmup = replace(bundle.warmup, last=bundle.warmup.last | {name: learned})
        new = reloaded(old, replace(bundle, warmup=warmup))
        kept = int(new.windows.contexts([name]).last[0])
        assert kept == (last if is_kept else learned)


def test_habits_seen_since_are_kept_and_those_unlearned_are_not_brought_back(
    bundle: Bundle, events: list[AuditEvent]
) -> None:
    def counts(habits: HabitTable) -> dict[int, int]:
        return dict(habits.to_array().tolist())

    old = Detector(bundle)
    old.score(events)
    before, after = counts(bundle.habits), counts(old.habits)
    seen = {key for key, count in after.items() if count != before.get(key)}
    untouched = next(key for key in before if key not in seen)
    counted = next(iter(seen))
    learned = {key: count for key, count in before.items() if key != untouched} | {counted: 10**6}
    other = HabitTable.from_array(np.array(sorted(learned.items()), np.uint64))
    new = counts(reloaded(old, replace(bundle, habits=other)).habits)
    assert untouched not in new
    assert new[counted] == 10**6
    rest = seen - {counted}
    assert {key: new[key] for key in rest} == {key: after[key] for key in rest}


def test_learning_ahead_of_the_change_comes_to_the_same(bundle: Bundle, events: list[AuditEvent]) -> None:
    """However much is counted in between, with and without the table growing."""
    for begin, end in ((2000, 2100), (100, 9000)):
        old, new = Detector(bundle), Detector(bundle)
        old.score(events[:begin])
        copy = old.habits.copy()
        new.habits.learn(copy, bundle.habits)
        old.score(events[begin:end])
        transfer_state(old, new, share=False, learned=copy)
        np.testing.assert_array_equal(new.habits.to_array(), old.habits.to_array())
        assert len(new.habits.own().key) == len(old.habits.own().key)


def test_what_belongs_to_a_principal_can_still_be_taken_out_after_a_reload(
    bundle: Bundle, events: list[AuditEvent]
) -> None:
    old = Detector(bundle)
    old.score(events)
    new = reloaded(old, bundle)
    for one in np.unique(old.habits.own().principal)[:5]:
        before, after = (detector.habits.pop(np.array([one], np.uint64)) for detector in (old, new))
        assert dict(zip(after.key.tolist(), after.count.tolist(), strict=True)) == dict(
            zip(before.key.tolist(), before.count.tolist(), strict=True)
        )


def test_sums_find_their_horizon_in_a_bundle_that_has_others(bundle: Bundle) -> None:
    def over(*horizons: float) -> Detector:
        limits = tuple(50.0 for _ in horizons)
        return Detector(
            replace(
                bundle,
                calibration=replace(
                    bundle.calibration,
                    horizons=horizons,
                    activity=(),
                    person_thresholds=limits,
                    system_thresholds=limits,
                ),
            )
        )

    old = over(120.0, 3600.0)
    old.accumulator.restore(Sums(["alice"], np.array([[5.0, 1.0, 2.0, 3.0, 4.0]])))
    for horizons, sums in {
        (120.0, 3600.0): [1.0, 2.0, 3.0, 4.0],
        (3600.0,): [3.0, 4.0],
        (60.0, 600.0, 86400.0): [0.0, 0.0, 1.0, 2.0, 3.0, 4.0],
    }.items():
        new = over(*horizons)
        transfer_state(old, new)
        held = new.accumulator.sums()
        assert (held.names, held.rows[:, :-1].tolist()) == (["alice"], [[5.0, *sums]])
        assert np.isnan(held.rows[:, -1]).all()  # an earlier release did not count actions


def test_a_copy_for_the_shadow_shares_nothing(bundle: Bundle, events: list[AuditEvent]) -> None:
    old, shadow, control = Detector(bundle), Detector(bundle), Detector(bundle)
    for detector in (old, control):
        detector.score(events[:1500])
    transfer_state(old, shadow, share=False)
    mine = shadow.score(events[1500:3000])
    assert rows(old.score(events[1500:3000])) == rows(control.score(events[1500:3000]))
    assert len(mine.event) > 0
