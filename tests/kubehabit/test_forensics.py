"""The command line's answers: tables for people, JSON for programs, and exit statuses that mean something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest
from typer.testing import CliRunner

from kubehabit.main import app as command_line
from serving.app import create_app
from serving.forensics import clock
from serving.scoring.engine import Engine
from serving.settings import Settings
from tests.serving.event_stores import body, new_store, story
from tests.serving.live import Live


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    store = new_store(path)
    store.append(body(story()))
    store.close()
    return path


def ask(folder: Path, *words: str) -> Any:
    return CliRunner().invoke(command_line, [*words, "--store", str(folder)])


def test_who_touched_a_secret(folder: Path) -> None:
    answer = ask(folder, "who", "touched", "secret", "payments/db", "--since", "2026-11-23")
    assert answer.exit_code == 0, answer.output
    assert "mallory@corp" in answer.output
    assert "list (of all secrets)" in answer.output
    assert "2 principals touched secrets payments/db" in answer.output
    assert "alice" not in answer.output
    as_json = ask(
        folder, "who", "touched", "secrets", "payments/db", "--since", "2026-11-23", "--exact", "--json"
    )
    assert {one["how"] for one in json.loads(as_json.output)["touched"]} == {"direct"}
    nobody = ask(folder, "who", "touched", "secret", "payments/other", "--since", "2026-11-23", "--exact")
    assert "Nobody touched" in nobody.output
    assert "The store begins 2026-11-23 14:00:00" in nobody.output


def test_who_is_new_in_a_namespace(folder: Path) -> None:
    answer = ask(folder, "who", "is", "new", "in", "payments", "--since", "2026-11-23T14:00:25")
    assert "2 principals came to payments" in answer.output
    assert "bob" not in answer.output
    assert "Nobody came" in ask(folder, "who", "is", "new", "in", "payments", "--since", "2026-11-24").output


def test_everything_a_token_did_after_a_moment(folder: Path) -> None:
    answer = ask(folder, "events", "--credential", "3f2a8c1e", "--since", "2026-11-23T14:00:31", "--json")
    (event,) = map(json.loads, answer.output.splitlines())
    assert (event["auditID"], event["code"]) == ("id-31", 403)
    shown = ask(folder, "events", "--verb", "list", "--limit", "1")
    assert "list secrets in payments" in shown.output
    assert "--cursor" in shown.stderr
    original = ask(folder, "events", "--audit-id", "id-30", "--original")
    assert json.loads(original.output) == story()[23]


def test_what_a_principal_did(folder: Path) -> None:
    answer = ask(folder, "principal", "mallory@corp")
    assert "3 events, 1 denied or failed" in answer.output
    assert json.loads(ask(folder, "principal", "mallory@corp", "--json").output)["count"] == 3
    assert ask(folder, "principal", "mallory").exit_code == 2


def test_evidence_is_written_and_verified(folder: Path, tmp_path: Path) -> None:
    made = ask(folder, "evidence", "--principal", "mallory@corp", "--note", "42", "--out", str(tmp_path))
    assert made.exit_code == 0, made.output
    (file,) = tmp_path.glob("*.json")
    assert "mallory@corp" in next(tmp_path.glob("*.html")).read_text()
    checked = CliRunner().invoke(command_line, ["verify", str(file)])
    assert (checked.exit_code, "is as it was made" in checked.output) == (0, True)
    head = checked.output.rsplit("--head ", 1)[1].strip()
    assert ask(folder, "verify", "--head", head).exit_code == 0
    file.write_text(file.read_text().replace("mallory", "alice", 1))
    changed = CliRunner().invoke(command_line, ["verify", str(file), "--json"])
    assert changed.exit_code == 1
    assert json.loads(changed.output)["findings"]


@pytest.mark.parametrize("place", ["file", "s3"])
def test_the_copy_in_object_storage_is_asked_and_verified_as_the_store_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, place: str
) -> None:
    url = f"file://{tmp_path}/archive" if place == "file" else f"{request.getfixturevalue('s3')}/archive"
    with monkeypatch.context() as patch:
        patch.setattr(clock, "now", lambda: 1_767_571_200_000_000)
        store = new_store(tmp_path / "events", archive={"url": url, "cluster": "prod"})
        store.append(body(story()))
        store.seal()
        patch.setattr(clock, "now", lambda: 1_767_671_200_000_000)
        store.ship()
        store.close()
    archive = f"{url}/cluster=prod"
    since = ("--since", "2026-11-23")
    for words in (
        ("who", "touched", "secret", "payments/db", *since),
        ("who", "is", "new", "in", "payments", *since),
        ("events", "--principal", "mallory@corp"),
        ("principal", "mallory@corp"),
    ):
        answer = CliRunner().invoke(command_line, [*words, "--archive", archive])
        assert answer.exit_code == 0, answer.output
        assert "mallory@corp" in answer.output
        assert answer.output == ask(folder, *words).output
    checked = CliRunner().invoke(command_line, ["verify", "--archive", archive])
    assert checked.exit_code == 0, checked.output
    system, root = fsspec.core.url_to_fs(archive)
    (file,) = system.glob(f"{root}/date=2026-01-05/*.parquet")
    system.pipe_file(file, system.cat_file(file)[:-1])
    checked = CliRunner().invoke(command_line, ["verify", "--archive", archive])
    assert checked.exit_code == 1
    assert "VERIFICATION FAILED" in checked.output
    both = CliRunner().invoke(command_line, ["events", "--archive", archive, "--store", str(folder)])
    assert both.exit_code == 2
    assert "not both" in both.output


def test_verify_tells_what_is_not_sound_with_exit_status_1(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    next(copy.rglob("*.parquet")).unlink()
    answer = ask(copy, "verify")
    assert answer.exit_code == 1
    assert "VERIFICATION FAILED" in answer.output
    assert json.loads(ask(folder, "verify", "--json").output)["sound"]


@pytest.mark.parametrize(
    "words", [("events", "--since", "soon"), ("who", "is", "new", "in", "x", "--since", "soon")]
)
def test_a_wrong_time_is_one_sentence(folder: Path, words: tuple[str, ...]) -> None:
    answer = ask(folder, *words)
    assert answer.exit_code == 2
    assert "is no point in time" in answer.stderr


# -- the same of a running service ------------------------------------------------------------------------------


TOKEN = "a-token-of-sixteen-or-more"


@pytest.fixture
def url(engine: Engine, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A service that asks for a token and has had the story; its store is in `own_home`."""
    events = {"enabled": True, "seal_seconds": 3600, "memory_mb": 256}
    monkeypatch.setenv("KUBEHABIT_TOKEN", TOKEN)
    app = create_app(Settings(token=TOKEN, events=events), engine)
    with Live(app) as live:
        address = f"http://127.0.0.1:{live.port}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        httpx.post(f"{address}/v1/score", content=body(story()), headers=headers).raise_for_status()
        app.state.service.wait_for_events(30)
        yield address


QUESTIONS = [
    ("who", "touched", "secret", "payments/db", "--since", "2026-11-23"),
    ("who", "touched", "secret", "payments/db", "--since", "2026-11-23", "--exact"),
    ("who", "touched", "secret", "payments/other", "--since", "2026-11-23", "--exact"),
    ("who", "is", "new", "in", "payments", "--since", "2026-11-23T14:00:25"),
    ("events", "--credential", "3f2a8c1e", "--since", "2026-11-23T14:00:30"),
    ("events", "--verb", "list", "--verb", "get", "--code", "4xx", "--newest"),
    ("events", "--audit-id", "id-30", "--audit-id", "id-31", "--original"),
    ("principal", "mallory@corp", "--since", "2026-11-23"),
]


@pytest.mark.slow
def test_a_service_answers_as_its_files_do(url: str, own_home: Path) -> None:
    for words in QUESTIONS:
        for form in ((), ("--json",)):
            remote = CliRunner().invoke(command_line, [*words, *form, "--url", url])
            assert remote.exit_code == 0, remote.output
            assert remote.stdout == ask(own_home / "events", *words, *form).stdout, words
    page = CliRunner().invoke(command_line, ["events", "--limit", "1", "--url", url])
    assert "--cursor" in page.stderr


def test_what_a_service_cannot_answer_is_a_sentence(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = CliRunner().invoke(command_line, ["principal", "nobody", "--url", url])
    assert (nobody.exit_code, "no event of 'nobody'" in nobody.stderr) == (2, True)
    monkeypatch.setenv("KUBEHABIT_TOKEN", "a-wrong-token-of-this-length")
    refused = CliRunner().invoke(command_line, ["events", "--url", url])
    assert (refused.exit_code, "token" in refused.stderr) == (2, True)


def test_who_names_a_folder_means_it_whatever_the_environment_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEHABIT_URL", "http://127.0.0.1:1")
    assert ask(folder, "events", "--audit-id", "id-30").exit_code == 0
    assert "does not answer" in CliRunner().invoke(command_line, ["events"]).stderr
