"""Other errors in the product's decision: counts that fork, windows that are turned round, and a detector that is calibrated."""

import numpy as np
import pytest

from data.actions.fields import FIELDS
from data.dataset.table import ActionTable, load
from data.events.decode import decode_lines
from detection.bundle import Bundle
from tests.conftest import Trained
from training.baselines.in_decision import (
    ErrorModel,
    FieldCounts,
    InDecision,
    NoErrors,
    TrigramCounts,
    padded_in_front,
)
from training.baselines.witten_bell import WittenBell
from training.calibrate import CalibrationConfig, HeldBack
from training.stretch import window_inputs, windows_in_order


@pytest.fixture(scope="module")
def table(trained: Trained) -> ActionTable:
    return load(trained.dataset)


def test_interpolated_counts_trust_what_they_have_seen() -> None:
    counts = WittenBell()
    contexts = ("anyone", ("ann",))
    first = counts.likelihood(contexts, "list", 0.5)
    assert first == 0.5  # no context has been seen
    again = counts.likelihood(contexts, "list", 0.5)
    assert again == pytest.approx(
        (1 + (1 + 0.5) / 2) / 2
    )  # Witten-Bell by hand: one kind in one action, twice over
    assert counts.likelihood(contexts, "delete", 0.5) < first


def test_counting_on_trial_leaves_no_trace() -> None:
    counts, plain = WittenBell(), WittenBell()
    for one in (counts, plain):
        one.likelihood(("a", "b"), 1, 0.1)
    with counts.fork():
        counts.likelihood(("a", "c"), 2, 0.1)
        with counts.fork():
            counts.likelihood(("a", "b"), 3, 0.1)
    assert vars(counts) == vars(plain)


def test_windows_are_turned_round() -> None:
    tokens = np.arange(1, 13).reshape(2, 3, 2)
    tokens[1, 2] = 0
    turned = padded_in_front(tokens, np.array([3, 2]))
    assert turned[0].tolist() == tokens[0].tolist()
    assert turned[1].tolist() == [[0, 0], tokens[1, 0].tolist(), tokens[1, 1].tolist()]


@pytest.mark.parametrize("errors", [FieldCounts(), TrigramCounts()], ids=lambda one: one.title)
def test_an_error_model_that_forks_goes_on_as_before(errors: ErrorModel, table: ActionTable) -> None:
    windows = windows_in_order(table, "train")
    parts = [window_inputs(table, windows[begin : begin + 150], 16) for begin in (0, 150, 300)]
    errors.nll(*parts[0])
    with errors.fork():
        errors.nll(*parts[2])
        trial = errors.nll(*parts[1])
    after = errors.nll(*parts[1])
    assert not np.array_equal(trial, after)
    with errors.fork():
        pass
    assert np.isfinite(after).all()
    assert not after[:, FIELDS.index("gap")].any()
    fresh = type(errors)()
    fresh.nll(*parts[0])
    np.testing.assert_array_equal(fresh.nll(*parts[1]), after)


def test_the_decision_is_calibrated_for_the_errors_in_it(
    trained: Trained, table: ActionTable, labelled_lines: list[bytes]
) -> None:
    bundle, held = Bundle.load(trained.bundle), HeldBack.from_table(table)
    swapped = InDecision.fitted(bundle, NoErrors(), table, held, CalibrationConfig())
    detector = swapped.detector()
    events = decode_lines(labelled_lines[:600]).events
    scores = detector.score(events)
    assert not scores.nll.any()
    assert scores.error_evidence.tolist() == scores.novelty_evidence.tolist()
    assert (scores.evidence > 0).any()
    with detector.fork():
        detector.score(decode_lines(labelled_lines[600:700]).events)
    again = swapped.detector().score(events)
    assert again.evidence.tolist() == scores.evidence.tolist()
