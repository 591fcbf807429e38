"""Feedback: confirmed work becomes its principal's habit alone, attacks leave the data, and one click teaches little."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.actions.fields import FIELDS, stable_hash
from data.dataset.table import ActionTable, cut_windows, load
from data.errors import KubehabitError
from data.events.decode import decode_lines
from detection.novelty import HabitTable
from tests.conftest import ROOT, SMALL, Trained
from training.feedback import FeedbackConfig, FeedbackLine, Learned, learn, read_feedback
from training.train import train

CONFIG = FeedbackConfig()
WINDOW = 16


@pytest.fixture(scope="module")
def table(trained: Trained) -> ActionTable:
    return load(trained.dataset)


@pytest.fixture
def busy(table: ActionTable) -> str:
    """The person with the most actions."""
    names, counts = np.unique(table.name[table.kind == "human"].astype(str), return_counts=True)
    return str(names[counts.argmax()])


@pytest.fixture
def log(normal_lines: list[bytes], busy: str, tmp_path: Path) -> tuple[Path, list[str]]:
    """A log of one person's work, later and on a resource never heard of; and its audit IDs."""
    mine = [line for line in normal_lines if f'"username":"{busy}"'.encode() in line][:40]
    lines, ids = [], []
    for number, line in enumerate(mine):
        event = json.loads(line)
        event["auditID"] = f"live-{number}"
        if event.get("objectRef"):
            event["objectRef"] |= {"resource": "gizmos", "apiGroup": "example.com"}
        for key in ("requestReceivedTimestamp", "stageTimestamp"):
            event[key] = event[key].replace("2026-", "2027-")
        lines.append(json.dumps(event))
        ids.append(event["auditID"])
    path = tmp_path / "live.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path, ids


def taught(
    table: ActionTable, log: tuple[Path, list[str]], who: str, config: FeedbackConfig = CONFIG
) -> Learned:
    return learn(table, [FeedbackLine(who, tuple(log[1]), "normal", "new job")], [log[0]], WINDOW, config)


def test_confirmed_values_get_tokens_and_are_trained_on_in_their_context(
    table: ActionTable, log: tuple[Path, list[str]], busy: str
) -> None:
    learned = taught(table, log, busy)
    added = learned.training.windows["train"][len(table.windows["train"]) :]
    assert len(added) == len(learned.weights) == learned.lessons[0].learned > 0
    resource = FIELDS.index("resource")
    assert "example.com/gizmos" not in table.vocabulary.tokens["resource"]
    tokens, lengths = cut_windows(learned.training, added, WINDOW)
    newest = tokens[np.arange(len(added)), lengths - 1, resource]
    names = learned.table.vocabulary.tokens["resource"]
    assert any(names[token] == "example.com/gizmos" for token in newest.tolist())
    assert lengths.max() == min(WINDOW, len(added))
    assert set(learned.training.name[added[:, 0]]) == {busy}
    for name in table.vocabulary.tokens:
        old = table.vocabulary.tokens[name]
        assert learned.table.vocabulary.tokens[name][: len(old)] == old


def test_thresholds_are_never_set_on_feedback(
    table: ActionTable, log: tuple[Path, list[str]], busy: str
) -> None:
    learned = taught(table, log, busy)
    np.testing.assert_array_equal(learned.table.windows["calibration"], table.windows["calibration"])
    assert len(learned.table.time) == len(table.time)


def test_a_habit_is_learned_by_its_principal_and_not_by_its_peers(
    table: ActionTable, log: tuple[Path, list[str]], busy: str
) -> None:
    learned = taught(table, log, busy)
    habits = HabitTable()
    learned.count_into(habits)
    peers = np.array([stable_hash("group:all")] * 2, np.uint64)
    who = np.array([stable_hash(busy), stable_hash("another-principal")], np.uint64)
    known = habits.observe(learned.attributes[[0, 0]], who, peers)
    assert known.own[0].all()
    assert not known.own[1].any()
    # Only what the first just did as a member of that group, and nothing from feedback.
    assert known.peers[1].max() <= 1


def test_one_entry_teaches_no_more_than_its_share_and_the_report_says_so(
    table: ActionTable, log: tuple[Path, list[str]], busy: str
) -> None:
    learned = taught(table, log, busy, FeedbackConfig(actions_per_entry=5, share=0.02, share_per_entry=0.001))
    (lesson,) = learned.lessons
    assert (lesson.learned, lesson.over_limit) == (5, lesson.found - 5)
    assert lesson.share == pytest.approx(0.001)
    assert "one entry teaches only so much" in learned.describe()
    assert "5 actions learned" in learned.describe()
    assert any("gizmos" in what for what in taught(table, log, busy).lessons[0].does or {})
    many = [FeedbackLine(busy, (audit_id,), "normal") for audit_id in log[1]]
    together = learn(table, many, [log[0]], WINDOW, FeedbackConfig(share=0.002, share_per_entry=0.001))
    assert together.weights.sum() == pytest.approx(0.002)


def test_what_was_malicious_leaves_the_data_and_outweighs_a_confirmation(
    table: ActionTable, normal_lines: list[bytes], busy: str, tmp_path: Path
) -> None:
    mine = [line for line in normal_lines if f'"username":"{busy}"'.encode() in line][5:8]
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join(mine) + b"\n")
    ids = tuple(event.auditID for event in decode_lines(mine).events)
    entries = [FeedbackLine(busy, ids, "malicious"), FeedbackLine(busy, ids, "normal")]
    learned = learn(table, entries, [path], WINDOW, CONFIG)
    removed = learned.lessons[0].removed
    assert removed >= 1
    assert learned.lessons[1].learned == 0
    assert len(learned.table.time) == len(table.time) - removed
    for windows in learned.table.windows.values():
        ends, starts = windows[:, 0], windows[:, 0] - windows[:, 1]
        assert (learned.table.name[ends] == learned.table.name[starts]).all()
        first = (starts == 0) | (learned.table.name[starts - 1] != learned.table.name[starts])
        assert first.all()


def test_lines_that_are_no_feedback_are_named(tmp_path: Path, table: ActionTable) -> None:
    path = tmp_path / "feedback.jsonl"
    good = '{"principal": "p", "auditIDs": ["a"], "verdict": "normal"}\n'
    for bad in ("{", '{"principal": "p"}', good.replace("normal", "fine"), "[]"):
        path.write_text(good + bad)
        with pytest.raises(KubehabitError, match="line 2 is no feedback"):
            read_feedback(path)
    path.write_text("")
    with pytest.raises(KubehabitError, match="holds no feedback"):
        read_feedback(path)
    with pytest.raises(KubehabitError, match="--feedback-log"):
        learn(table, [FeedbackLine("p", ("a",), "normal")], [], WINDOW, CONFIG)


def test_audit_ids_that_are_nowhere_are_a_sentence(
    table: ActionTable, log: tuple[Path, list[str]], busy: str
) -> None:
    with pytest.raises(KubehabitError, match="None of the audit IDs"):
        learn(table, [FeedbackLine(busy, ("nowhere",), "normal")], [log[0]], WINDOW, CONFIG)


@pytest.mark.slow
def test_what_was_confirmed_surprises_less_in_the_next_version(
    trained: Trained, log: tuple[Path, list[str]], busy: str, tmp_path: Path
) -> None:
    from detection.bundle import Bundle
    from detection.detector import Detector
    from training.registry import download

    file = tmp_path / "feedback.jsonl"
    file.write_text(json.dumps({"principal": busy, "auditIDs": log[1], "verdict": "normal"}) + "\n")
    options = [f"--data.feedback={file}", f"--data.feedback_logs={json.dumps([str(log[0])])}"]
    result = train(
        ROOT / "configs" / "train.yaml",
        trained.dataset,
        [*SMALL, *options, "--register.alias=taught"],
        warm_start="models:/kubehabit@champion",
    )
    events = decode_lines(log[0].read_bytes().splitlines()).events
    before, after = (
        Detector(Bundle.load(path)).score(events)
        for path in (trained.bundle, download(f"models:/kubehabit/{result.version}"))
    )
    assert after.error.mean() < before.error.mean()
    assert after.novelty.sum() < before.novelty.sum()
