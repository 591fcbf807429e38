"""Files the service writes besides its store: dead letters and its log."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from data.events.audit_event import DeadLetter
from serving.scoring.dead_letters import BoundedDeadLetters
from serving.telemetry.logging import JsonFormatter


def test_a_full_dead_letter_file_is_set_aside_once(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "dead.jsonl"
    letters = BoundedDeadLetters(path, max_bytes=2000)
    for number in range(60):
        letters.add_all("test", [DeadLetter(number, "reason", b"x" * 100)])
    letters.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["dead.jsonl", "dead.jsonl.1"]
    kept = [
        json.loads(line)["line"]
        for file in (path.with_name("dead.jsonl.1"), path)
        for line in file.read_text().splitlines()
    ]
    assert kept == list(range(kept[0], 60))
    assert len(kept) >= 12
    for file in path.parent.iterdir():
        assert file.stat().st_size < 2300
        assert file.stat().st_mode & 0o077 == 0


def test_dead_letters_that_cannot_be_written_are_logged_and_cost_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    letters = BoundedDeadLetters(tmp_path / "file" / "dead.jsonl", max_bytes=2000)
    letters.add_all("test", [DeadLetter(1, "reason", b"x")])
    assert "dead letters cannot be written" in caplog.text


def test_a_log_line_is_one_json_object() -> None:
    record = logging.makeLogRecord(
        {
            "name": "kubehabit.api",
            "levelno": 20,
            "levelname": "INFO",
            "msg": "re\nquest",
            "route": "/v1/score",
        }
    )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["logger"], found["message"]) == ("info", "kubehabit.api", "re\nquest")
    assert found["route"] == "/v1/score"
    assert found["time"].endswith("+00:00")
