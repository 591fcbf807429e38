"""Scoring a file offline: what is printed, and with which exit status."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data.errors import KubehabitError
from kubehabit.main import app
from serving.rollout import score_file as score
from serving.scoring.engine import Engine
from tests.serving.fakes import ndjson, raw_event, secret_event


@pytest.fixture(autouse=True)
def fake_engine(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    monkeypatch.setattr(score, "load_engine", lambda *_, **__: engine)


def run(log: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["score", str(log), *options])


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_alerts_are_printed_as_json_lines_with_all_audit_ids(tmp_path: Path) -> None:
    events = [secret_event(number, user=user) for number, user in enumerate(["bob", "alice", "bob"])]
    log = write(tmp_path / "audit.log", ndjson([raw_event(100), *events]))
    scored = run(log, "--json")
    assert scored.exit_code == 0
    alerts = [json.loads(line) for line in scored.stdout.splitlines()]
    assert [(alert["principal"], alert["auditIDs"]) for alert in alerts] == [
        ("bob", ["id-0", "id-2"]),
        ("alice", ["id-1"]),
    ]


def test_alerts_are_printed_for_people(tmp_path: Path) -> None:
    log = write(tmp_path / "audit.log", ndjson([secret_event(0, user="[red]mallory")]))
    scored = run(log)
    assert scored.exit_code == 0
    out = " ".join(scored.stdout.split())
    assert "[red]mallory" in out
    assert "high" in out
    assert "1 events, 1 actions, 1 alerts; model kubehabit version 7." in out


def test_what_was_skipped_is_said_and_no_failure(tmp_path: Path) -> None:
    other = b'{"log":"I0105 09:30:00.000000       1 trace.go:219] Trace"}'
    scored = run(write(tmp_path / "audit.log", ndjson([secret_event(0)]) + b"\n" + other))
    assert scored.exit_code == 0
    assert "0 records unreadable, 1 skipped" in " ".join(scored.stdout.split())
    assert "1 skipped: 1 x line of another program's log" in scored.stderr


def test_a_log_of_which_nothing_is_judged_says_why(tmp_path: Path) -> None:
    log = write(tmp_path / "audit.log", ndjson([raw_event(0, stage="RequestReceived")]))
    assert "omitStages" in run(log).stderr
    nothing = run(write(tmp_path / "other.log", b'{"log":"I0105 09:30:00.000000 1 x.go:1] y"}\n'))
    assert nothing.exit_code == 2
    assert "line of another program's log" in nothing.output


def test_unreadable_lines_cost_only_themselves_and_are_reported(tmp_path: Path) -> None:
    log = write(
        tmp_path / "audit.log", ndjson([secret_event(0)]) + b"\n{broken\n" + ndjson([secret_event(1)])
    )
    scored = run(log, "--json")
    assert scored.exit_code == 1
    assert json.loads(scored.stdout)["actionCount"] == 2
    assert "1 record could not be read; the first at line 2" in scored.stderr


def test_a_cut_off_gzip_is_scored_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = gzip.compress(ndjson([secret_event(number) for number in range(8000)]), 0)
    log = write(tmp_path / "audit.log.gz", whole[: len(whole) // 2])
    scored = run(log, "--json")
    assert scored.exit_code == 1
    assert 0 < json.loads(scored.stdout)["actionCount"] < 4500
    assert "damaged" in scored.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "holds no audit events"), (b"\n\n", "holds no audit events"), (b"x", "line 1: not JSON")],
)
def test_a_log_without_events_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(KubehabitError, match=words):
        score.score_log(write(tmp_path / "audit.log", content), "models:/kubehabit@champion")


def test_a_missing_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KubehabitError, match=r"nowhere\.log"):
        score.score_log(tmp_path / "nowhere.log", "models:/kubehabit@champion")
