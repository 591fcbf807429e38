"""The card of a registered version: sections that are replaced, never longer than MLflow takes."""

from __future__ import annotations

from training import model_card


def test_a_section_is_added_and_replaced() -> None:
    card = model_card.with_section("# kubehabit\n\nWhat it is.", "Evaluation on dev", "old")
    card = model_card.with_section(card, "Promotion", "refused")
    card = model_card.with_section(card, "Evaluation on dev", "new")
    assert "old" not in card
    assert [line for line in card.splitlines() if line.startswith("#")] == [
        "# kubehabit",
        "## Promotion",
        "## Evaluation on dev",
    ]


def test_a_description_is_cut_where_mlflow_ends_it() -> None:
    card = model_card.with_section("# kubehabit", "Promotion", "x" * 9_000)
    assert len(card) == 5_000
    assert card.endswith("files of the run.)\n")


def test_the_curve_begins_and_ends_where_the_training_did() -> None:
    points = [(step, 40.0 / step) for step in range(10, 1_001, 10)]
    curve = model_card.learning_curve(points)
    steps = curve.splitlines()[0].split(" | ")
    assert (steps[1], steps[-1].rstrip(" |")) == ("10", "1000")
    assert len(steps) <= 9
    assert "No held-back loss" in model_card.learning_curve([])


def test_an_evaluation_becomes_a_table_and_tags() -> None:
    figures = {
        "actions": 1234,
        "runs": [{"kind": "attack"}, {"kind": "benign-lookalike"}],
        "recall": 0.9412,
        "false_per_10k_person_actions": 1.96,
        "false_per_1m_system_actions": 0.0,
        "lookalikes_high": None,
    }
    text, tags = model_card.evaluation(figures)
    assert text.startswith("1,234 actions, 1 attack runs.")
    assert "| attack runs caught | 94% |" in text
    assert tags == {
        "recall": "0.9412",
        "false_per_10k_person_actions": "1.96",
        "false_per_1m_system_actions": "0",
    }
