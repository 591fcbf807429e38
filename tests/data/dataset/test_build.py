"""Datasets: everything accounted for, split by time, the same every time."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data.actions.attributes import attribute_hashes
from data.actions.breadth import SPANS
from data.actions.encoder import ActionEncoder, ActionSettings
from data.actions.fields import FIELDS, GAPS
from data.actions.sensitivity import HARMLESS, Sensitivity
from data.actions.vocabulary import HOUR_NEEDS_DAYS, MASK, PAD, SPECIALS, UNKNOWN, Vocabulary
from data.dataset import parts
from data.dataset.build import build
from data.dataset.table import load
from data.errors import KubehabitError
from data.events.decode import decode_lines
from data.paths import shipped
from tests.conftest import ROOT, Trained
from tests.data.samples import event


def write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_every_event_is_accounted_for(tmp_path: Path, normal_lines: list[bytes]) -> None:
    log = write(tmp_path / "log", [*normal_lines[:3000], b"{broken", b'{"kind": 0}'])
    card = build([log], tmp_path / "out", progress=False).card
    assert card["events"] == card["actions"] + card["folded"] + card["dropped"] == 3000
    assert card["dead_letters"] == 2
    assert len((tmp_path / "out" / "dead-letters.jsonl").read_text().splitlines()) == 2
    assert card["train_actions"] + card["calibration_actions"] == card["actions"]


def test_two_builds_are_the_same(tmp_path: Path, normal_lines: list[bytes]) -> None:
    log = write(tmp_path / "log", normal_lines[:3000])
    first, second = (build([log], tmp_path / name, progress=False).card for name in ("a", "b"))
    assert first == second


def test_one_log_or_two_halves_are_the_same(tmp_path: Path, normal_lines: list[bytes]) -> None:
    whole = write(tmp_path / "log", normal_lines[:3000])
    halves = [write(tmp_path / "1", normal_lines[:1500]), write(tmp_path / "2", normal_lines[1500:3000])]
    prints = [
        build(logs, tmp_path / out, progress=False).card["fingerprint"]
        for logs, out in (([whole], "a"), (halves, "b"))
    ]
    assert prints[0] == prints[1]


def test_the_split_is_by_time_and_windows_cover_every_action_once(trained: Trained) -> None:
    table = load(trained.dataset)
    fit, held_back = table.windows["train"][:, 0], table.windows["calibration"][:, 0]
    assert table.time[fit].max() < table.time[held_back].min()
    assert sorted([*fit.tolist(), *held_back.tolist()]) == list(range(len(table.tokens)))


def test_own_work_counts_for_nothing_in_a_dataset_as_in_the_detector(
    trained: Trained, normal_lines: list[bytes]
) -> None:
    table = load(trained.dataset)
    encoder = ActionEncoder(table.settings)
    batch = encoder.encode(decode_lines(normal_lines).events)
    levels = Sensitivity(table.rules).levels(batch, encoder)
    assert table.sensitivity[np.argsort(table.arrival)].tolist() == levels.tolist()
    assert np.flatnonzero(levels == HARMLESS).tolist() == sorted(batch.own_work) != []


def test_a_dataset_counts_what_people_read_as_the_detector_does(
    trained: Trained, normal_lines: list[bytes]
) -> None:
    table = load(trained.dataset)
    encoder = ActionEncoder(table.settings)
    batch = encoder.encode(decode_lines(normal_lines).events)
    np.testing.assert_array_equal(
        table.attributes[np.argsort(table.arrival)], attribute_hashes(batch, encoder)
    )
    assert all(len(np.unique(batch.codes[span])) > 1 for span in SPANS)


def test_a_window_never_reaches_into_another_principal(trained: Trained) -> None:
    table = load(trained.dataset)
    for end, history in np.concatenate(list(table.windows.values())).tolist():
        assert table.name[end - history] == table.name[end]
        assert end == history or table.name[end - history - 1] != table.name[end]
    first = [row for row in range(len(table.name)) if row == 0 or table.name[row] != table.name[row - 1]]
    gap = FIELDS.index("gap")
    assert set(table.tokens[first, gap].tolist()) == {len(SPECIALS) + GAPS.index("first")}
    assert (table.arrival[1:] > table.arrival[:-1])[table.name[1:] == table.name[:-1]].all()


def test_the_vocabulary_knows_nothing_of_the_held_back_part(
    tmp_path: Path, normal_lines: list[bytes]
) -> None:
    last = json.loads(normal_lines[2999])
    late = [
        json.dumps(
            last
            | {
                "auditID": f"late-{i}",
                "objectRef": {"resource": "surprises", "apiGroup": "new.example", "namespace": "later"},
            }
        ).encode()
        for i in range(5)
    ]
    log = write(tmp_path / "log", [*normal_lines[:3000], *late])
    build([log], tmp_path / "out", progress=False)
    vocabulary = load(tmp_path / "out").vocabulary
    assert "later" not in vocabulary.tokens["namespace"]
    assert vocabulary.token("namespace", "later") == UNKNOWN


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "no audit event found"),
        ([b"hello", b"{}"], "2 unreadable records"),
        (
            [event(auditID=f"{i}", requestReceivedTimestamp=f"2026-01-05T09:30:{i:02d}Z") for i in range(30)],
            "one principal only",
        ),
    ],
    ids=["empty", "nothing readable", "one principal"],
)
def test_a_log_to_learn_nothing_from_is_a_sentence(tmp_path: Path, lines: list[bytes], sentence: str) -> None:
    with pytest.raises(KubehabitError, match=sentence):
        build([write(tmp_path / "log", lines)], tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "card.json").exists()


def test_a_dataset_is_not_built_from_standard_input(tmp_path: Path) -> None:
    with pytest.raises(KubehabitError, match="built from files"):
        build([Path("-")], tmp_path / "out", progress=False)


def test_a_dataset_is_not_overwritten(trained: Trained) -> None:
    with pytest.raises(KubehabitError, match="already holds a dataset"):
        build([Path("log")], trained.dataset, progress=False)


def test_loading_nothing_says_how_to_build(tmp_path: Path) -> None:
    with pytest.raises(KubehabitError, match="kubehabit data build"):
        load(tmp_path)


def card_of(log: Path, out: Path, **options: int) -> dict[str, object]:
    return build([log], out, progress=False, **options).card


def test_cutting_the_work_into_parts_changes_nothing(
    tmp_path: Path, normal_lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many parts and ranges, several processes or one: the same dataset, byte for byte of what is fingerprinted."""
    bad = [*normal_lines[:2000], b"{broken", *normal_lines[2000:4000], b"[]", *normal_lines[4000:6000]]
    log = write(tmp_path / "log", bad)
    whole = card_of(log, tmp_path / "whole", workers=1)
    letters = (tmp_path / "whole" / "dead-letters.jsonl").read_text()
    monkeypatch.setattr(parts, "RANGE_BYTES", 1 << 20)
    cut = card_of(log, tmp_path / "cut", workers=1)
    monkeypatch.setattr(parts, "PART_ACTIONS", 700)
    small = card_of(log, tmp_path / "small", workers=1)
    assert whole == cut == small
    assert [json.loads(line)["line"] for line in letters.splitlines()] == [2001]
    assert letters == (tmp_path / "small" / "dead-letters.jsonl").read_text()
    assert card_of(log, tmp_path / "parallel", workers=2) == whole


def test_a_request_whose_stages_lie_far_apart_is_one_action(
    tmp_path: Path, normal_lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ACTIONS", 500)
    watch = {
        "auditID": "long",
        "verb": "watch",
        "requestURI": "/api/v1/pods?watch=true",
        "requestReceivedTimestamp": "2026-11-23T14:00:00Z",
    }
    begun, ended = event(stage="ResponseStarted", **watch), event(**watch)
    log = write(tmp_path / "log", [begun, *normal_lines[:4000], ended])
    card = card_of(log, tmp_path / "out", workers=1)
    without = card_of(
        write(tmp_path / "without", [begun, *normal_lines[:4000]]), tmp_path / "out2", workers=1
    )
    assert card["actions"] == without["actions"]
    assert card["fingerprint"] == without["fingerprint"]
    assert card["events"] == card["actions"] + card["folded"] + card["dropped"]  # type: ignore[operator]


@pytest.mark.slow
def test_a_killed_build_continues_where_it_stopped(tmp_path: Path, normal_lines: list[bytes]) -> None:
    log = write(tmp_path / "log", normal_lines)
    script = (
        "import sys; from pathlib import Path; from data.dataset import parts; from data.dataset.build import build\n"
        "parts.RANGE_BYTES = 1 << 20\n"
        "build([Path(sys.argv[1])], Path(sys.argv[2]), workers=1, progress=False)\n"
    )
    command = [sys.executable, "-c", script, str(log), str(tmp_path / "out")]
    folder = tmp_path / "out" / "parts"
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None and len(list(folder.glob("*.done"))) < 3:
        time.sleep(0.02)
    process.kill()
    assert process.wait() != 0, "the build ended before it could be killed"
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*.done")}
    assert finished
    (folder / "000099-000000.draft").mkdir()  # what a kill in mid-write leaves
    build_again = subprocess.Popen(command, cwd=ROOT)
    kept: set[Path] = set()
    while build_again.poll() is None:
        for path, written in finished.items():
            with contextlib.suppress(FileNotFoundError):
                assert path.stat().st_mtime_ns == written, "a finished part was done again"
                kept.add(path)
        time.sleep(0.02)
    assert build_again.returncode == 0
    assert kept == set(finished)
    whole = card_of(log, tmp_path / "whole", workers=1)
    assert json.loads((tmp_path / "out" / "card.json").read_text()) == whole
    assert not folder.exists()


@pytest.mark.slow
def test_spark_builds_the_same_files(
    tmp_path: Path, normal_lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyspark", reason="pip install 'kubehabit[spark]', and Java 17")
    monkeypatch.setattr(parts, "RANGE_BYTES", 1 << 20)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    logs = [
        write(tmp_path / "1", [*normal_lines[:3000], b"{broken"]),
        write(tmp_path / "2", normal_lines[3000:6000]),
    ]
    assert len(parts.plan(logs)) > 4
    build(logs, tmp_path / "here", progress=False, workers=1)
    build(logs, tmp_path / "spark", progress=False, spark="local[2]")
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / out).rglob("*") if path.is_file()}
        for out in ("here", "spark")
    )
    assert here == there
    assert len(here) > 3


def test_a_build_without_spark_says_what_to_install(tmp_path: Path, normal_lines: list[bytes]) -> None:
    log = write(tmp_path / "log", normal_lines[:2000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pyspark.sql", None)
        with pytest.raises(KubehabitError, match=r"pip install 'kubehabit\[spark\]'"):
            build([log], tmp_path / "out", progress=False, spark="local[2]")


def test_parts_of_other_settings_are_not_used(tmp_path: Path, normal_lines: list[bytes]) -> None:
    log = write(tmp_path / "log", normal_lines[:2000])
    jobs = parts.plan([log])
    rules = Sensitivity(shipped("sensitivity.yaml")["rules"])
    first = parts.encode_all(jobs, tmp_path / "parts", ActionSettings(), rules, progress=False)
    written = (first[0].path / "part.json").stat().st_mtime_ns
    parts.encode_all(jobs, tmp_path / "parts", ActionSettings(), rules, progress=False)
    assert (first[0].path / "part.json").stat().st_mtime_ns == written
    parts.encode_all(jobs, tmp_path / "parts", ActionSettings(trusted_hops=1), rules, progress=False)
    assert (first[0].path / "part.json").stat().st_mtime_ns != written


def test_what_was_left_out_on_purpose_stands_on_the_card(tmp_path: Path, normal_lines: list[bytes]) -> None:
    record = {
        "category": "kube-scheduler",
        "resourceId": "/subscriptions/0",
        "properties": {"log": "no audit event"},
    }
    other = json.dumps(record).encode()
    log = write(tmp_path / "log", [*normal_lines[:1000], other, *normal_lines[1000:2000], other])
    for options in ({}, {"workers": 1}):
        summary = build([log], tmp_path / f"out{len(options)}", progress=False, **options)
        assert sum(summary.card["skipped"].values()) == 2
        assert summary.card["dead_letters"] == 0
        assert "left out: 2 x" in summary.describe()


def test_a_rare_value_falls_back_on_a_broader_one() -> None:
    counts: dict[str, dict[str, int]] = {field: {"-": 5} for field in FIELDS}
    counts["client"] = {"kubectl/1.30 linux": 4, "kubectl/1.29 darwin": 1}
    counts["place"] = {"10.1.2.3": 9, "10.1.2.4": 1}
    vocabulary = Vocabulary.fit(counts, span_days=1, limit=50)
    client, place = vocabulary.tokens["client"], vocabulary.tokens["place"]
    assert client[vocabulary.token("client", "kubectl/1.30 linux")] == "kubectl/1.30 linux"
    assert client[vocabulary.token("client", "kubectl/9.99 plan9")] == "kubectl/?"
    assert vocabulary.token("client", "curl/8.5") == UNKNOWN
    assert place[vocabulary.token("place", "10.1.2.99")] == "10.1.2.0/24"
    assert place[vocabulary.token("place", "10.9.9.9")] == "private"
    assert vocabulary.token("place", "203.0.113.9") == UNKNOWN
    assert Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))).tokens == vocabulary.tokens


def test_hours_count_only_once_every_weekday_was_seen() -> None:
    counts = {field: {"weekday 09": 5} for field in FIELDS}
    short, long = (Vocabulary.fit(counts, span_days=days, limit=50) for days in (1, HOUR_NEEDS_DAYS))
    assert short.token("hour", "weekday 09") == UNKNOWN
    assert long.token("hour", "weekday 09") > MASK > PAD


def test_a_watch_that_began_before_the_log_does_not_move_the_split(
    tmp_path: Path, normal_lines: list[bytes]
) -> None:
    lines = normal_lines[:2000]
    watch = json.loads(next(line for line in lines if b'"verb":"watch"' in line))
    last = max(json.loads(line)["requestReceivedTimestamp"] for line in lines)
    before = {
        "auditID": "00000000-0000-4000-8000-000000000000",
        "stage": "ResponseComplete",
        "stageTimestamp": last,
    }
    early = json.dumps(watch | before | {"requestReceivedTimestamp": "2020-01-01T00:00:00.000000Z"}).encode()
    cards = [
        build([write(tmp_path / f"log{number}", log)], tmp_path / f"{number}", workers=1, progress=False).card
        for number, log in enumerate((lines, [*lines, early]))
    ]
    assert cards[0]["first"] == cards[1]["first"]
    assert cards[0]["split_at"] == cards[1]["split_at"]
    assert cards[0]["train_actions"] + 1 == cards[1]["train_actions"]
    assert cards[0]["calibration_actions"] == cards[1]["calibration_actions"]
