"""Values taken for unseen in training: how often, and what then stands in their place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.actions.fields import FIELDS
from data.actions.vocabulary import UNKNOWN
from data.dataset.table import ActionTable, load
from tests.conftest import Trained
from training.stretch import window_inputs
from training.unseen import UnseenValues

NAME = FIELDS.index("name")


@pytest.fixture(scope="module")
def table(trained: Trained) -> ActionTable:
    return load(trained.dataset)


def chance_of(unseen: UnseenValues, table: ActionTable, field: str, value: str) -> float:
    at = unseen.offsets[FIELDS.index(field)] + table.vocabulary.tokens[field].index(value)
    return float(unseen.chance[at])


def test_the_fewer_occasions_the_more_often_a_value_is_unseen(table: ActionTable) -> None:
    unseen = UnseenValues.fit(table, 0.5)
    rows = table.windows["train"][:, 0]
    tokens, counts = np.unique(table.tokens[rows, NAME], return_counts=True)
    usual = int(tokens[np.argmax(np.where(tokens == table.vocabulary.token("name", "-"), 0, counts))])
    rare = int(tokens[np.argmin(np.where(tokens < 3, len(rows), counts))])
    known = table.vocabulary.tokens["name"]
    assert (
        0
        < chance_of(unseen, table, "name", known[usual])
        < chance_of(unseen, table, "name", known[rare])
        <= 0.5
    )


def test_what_has_no_value_and_fixed_sets_are_never_unseen(table: ActionTable) -> None:
    unseen = UnseenValues.fit(table, 100.0)
    tokens, *_ = window_inputs(table, table.windows["train"][:512], 16)
    hidden = unseen.hide(tokens, np.random.default_rng(1))
    changed = hidden != tokens
    assert changed.any()
    for field in ("verb", "code", "hour", "gap"):
        assert not changed[..., FIELDS.index(field)].any()
    for column, field in enumerate(FIELDS):
        known = table.vocabulary.tokens[field]
        was = {known[token] for token in np.unique(tokens[..., column][changed[..., column]]).tolist()}
        assert not was & {"-", "denied", "<pad>", "<mask>"}


def test_what_stands_in_a_value_s_place_is_what_an_unseen_one_falls_back_on(table: ActionTable) -> None:
    unseen = UnseenValues.fit(table, 1e9)  # everything is unseen, so it is replaced as often as it can be
    tokens, *_ = window_inputs(table, table.windows["train"][:512], 16)
    hidden = unseen.hide(tokens, np.random.default_rng(1))
    names = {table.vocabulary.tokens["name"][token] for token in np.unique(hidden[..., NAME]).tolist()}
    assert names <= {"<pad>", "<unknown>", "-"}
    owner = FIELDS.index("images")
    images = np.unique(hidden[..., owner]).tolist()
    assert set(images) <= {0, UNKNOWN, table.vocabulary.token("images", "-")}


def test_a_value_is_unseen_in_a_whole_window_or_not_at_all(table: ActionTable) -> None:
    unseen = UnseenValues.fit(table, 20.0)
    tokens, *_ = window_inputs(table, table.windows["train"][:512], 16)
    hidden = unseen.hide(tokens, np.random.default_rng(1))
    for before, after in zip(tokens[..., NAME], hidden[..., NAME], strict=True):
        pairs = set(zip(before.tolist(), after.tolist(), strict=True))
        assert len(pairs) == len({value for value, _ in pairs})


def test_none_unseen_changes_nothing_and_a_seed_decides(table: ActionTable) -> None:
    tokens, *_ = window_inputs(table, table.windows["train"][:64], 16)
    none = UnseenValues.fit(table, 0.0)
    assert np.array_equal(none.hide(tokens, np.random.default_rng(1)), tokens)
    some = UnseenValues.fit(table, 20.0)
    one, same, other = (some.hide(tokens, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_held_back_values_count_for_nothing(table: ActionTable) -> None:
    late = table.windows["calibration"][:, 0]
    tokens = np.array(table.tokens)
    tokens[late] = UNKNOWN
    here, there = UnseenValues.fit(table, 1.0), UnseenValues.fit(replace(table, tokens=tokens), 1.0)
    assert np.array_equal(here.chance, there.chance)
