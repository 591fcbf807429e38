"""`kubehabit principal --log`: the habits of one principal out of a log that no service has seen."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kubehabit.main import app
from tests.serving.event_stores import body, new_store, story


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.log.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps(event) for event in story()).encode()))
    return path


def run(*words: str, status: int = 0) -> Any:
    done = CliRunner().invoke(app, ["principal", *words])
    assert done.exit_code == status, done.output
    return done


def test_a_log_answers_as_the_store_of_a_service_does(log: Path, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    store.append(body(story()))
    store.close()
    for form in ((), ("--json",), ("--since", "2026-11-23T14:00:31")):
        of_log = run("mallory@corp", "--log", str(log), *form).stdout
        assert of_log == run("mallory@corp", "--store", str(tmp_path / "store"), *form).stdout
    assert "3 events, 1 denied or failed" in run("mallory@corp", "--log", str(log)).stdout


def test_several_logs_and_documents_are_one_history(log: Path, tmp_path: Path) -> None:
    document = tmp_path / "list.json"
    document.write_text(json.dumps(json.loads(body(story()[:3])), indent=2))
    events = json.loads(run("alice@corp", "--log", str(document), "--json").stdout)
    assert events["count"] == 3
    twice = json.loads(run("alice@corp", "--log", str(log), "--log", str(log), "--json").stdout)
    assert twice["count"] == 21  # an event that stands in both counts once


def test_nothing_of_it_stays(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    run("alice@corp", "--log", str(log))
    assert list(scratch.iterdir()) == []


def test_what_is_not_in_the_log_is_a_sentence(log: Path, tmp_path: Path) -> None:
    assert "Did you mean mallory@corp?" in run("mallory", "--log", str(log), status=2).stderr
    assert "There is no event of 'nobody'" in run("nobody", "--log", str(log), status=2).stderr
    empty = tmp_path / "empty"
    empty.write_text("no audit event\n")
    assert "hold no audit event" in run("alice@corp", "--log", str(empty), status=2).stderr
    refused = run("alice@corp", "--log", str(log), "--local", status=2)
    assert "leave out --local" in " ".join(refused.stderr.split())
