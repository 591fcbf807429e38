"""A backup taken of a running service, restored elsewhere: the same alerts, a sound event store, and nothing of the original."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.artifact_paths import relocate
from data.errors import KubehabitError
from kubehabit.backup.copying import back_up
from kubehabit.backup.manifest import MANIFEST
from kubehabit.backup.parts import ServiceParts
from kubehabit.backup.restoring import restore
from kubehabit.main import app
from serving.settings import Settings
from tests.soak import fork_server
from tests.soak.expected import Expected, expect, judge, look_at
from tests.soak.material import Material
from tests.soak.service import BatchSender, Lifetime, Tell, live, prepare_process, start

pytest_plugins = ["tests.soak.conftest"]


def places_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> ServiceParts:
    monkeypatch.setenv("KUBEHABIT_HOME", str(home))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    return ServiceParts.from_settings(Settings())


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Path]:
    """A home with a file of each kind."""
    home = tmp_path / "original"
    for name in (
        "journal/00000000000000000001.journal",
        "state/00000000000000000007.snapshot",
        "tokens.json",
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    (home / "journal" / "instance").write_text("0" * 32)
    (home / "journal" / "lock").touch()
    (home / "dead-letters.jsonl.1").write_text("old")
    store = sqlite3.connect(home / "serving.db")
    store.execute("PRAGMA journal_mode = WAL")
    store.execute("CREATE TABLE alerts (id TEXT)")
    store.execute("INSERT INTO alerts VALUES ('in the log of the file')")
    store.commit()
    assert (home / "serving.db-wal").stat().st_size
    yield home
    store.close()


@pytest.mark.slow
def test_a_service_restored_from_a_backup_of_a_running_one_goes_on_with_the_same_alerts(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: Expected = expect(material, tmp_path / "undisturbed", "ingest")
    home, copy, to = tmp_path / "home", tmp_path / "copy", tmp_path / "elsewhere" / "home"
    life = Lifetime(home, "ingest", seed=1)
    home.mkdir()

    def serve_and_back_up(tell: Tell) -> None:
        prepare_process(life, log=home / "log")
        runtime, _ = start(life, material)
        sender = BatchSender(Lifetime(home, "", seed=1), material, runtime, tell)
        middle = len(material.bodies) // 2
        for number in range(middle):
            sender.send(number)
        back_up(ServiceParts.from_settings(Settings()), copy)
        for number in range(middle, len(material.bodies)):
            sender.send(number)
        os.kill(os.getpid(), 9)

    ended = fork_server.run(serve_and_back_up)
    assert ended.how == "killed", ended.messages
    restore(copy, places_in(to, monkeypatch))
    if (home / "out.jsonl").exists():  # what a sink has got lies elsewhere, and is in no backup
        shutil.move(home / "out.jsonl", to / "out.jsonl")
    shutil.rmtree(home)
    shutil.rmtree(copy)
    restored = Lifetime(
        to, "ingest", seed=2
    )  # senders do not know how far the backup is: all batches come again

    def go_on(tell: Tell) -> None:
        prepare_process(restored, log=to / "log")
        live(restored, material, tell)

    ended = fork_server.run(go_on)
    assert ended.how == "closed", ended.messages
    assert judge(restored, ended, look_at(restored), expected) == []
    assert str(home) not in (to / "log").read_text()


def test_a_backup_holds_what_is_in_sqlites_log_and_nothing_of_the_process(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = places_in(original, monkeypatch)
    made = back_up(places, tmp_path / "copy")
    names = {file.name for file in made.files}
    assert {"alerts.db", "tokens.json", "dead-letters.jsonl.1", "state/00000000000000000007.snapshot"} < names
    assert not [name for name in names if name.endswith(("instance", "lock", "-wal", "-shm"))]
    assert (tmp_path / "copy").stat().st_mode & 0o077 == 0
    restore(tmp_path / "copy", places_in(tmp_path / "new", monkeypatch))
    found = sqlite3.connect(tmp_path / "new" / "serving.db").execute("SELECT id FROM alerts").fetchall()
    assert found == [("in the log of the file",)]
    assert (tmp_path / "new" / "serving.db").stat().st_mode & 0o077 == 0


def _missing(copy: Path) -> None:
    (copy / "tokens.json").unlink()


def _changed(copy: Path) -> None:
    (copy / "tokens.json").write_text("TOKENS.json")


def _more(copy: Path) -> None:
    (copy / "state" / "00000000000000000009.snapshot").touch()


def _unfinished(copy: Path) -> None:
    (copy / MANIFEST).unlink()


def _foreign(copy: Path) -> None:
    text = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(text.replace("kubehabit.backup/1", "kubehabit.backup/9"))


def _outside(copy: Path) -> None:
    text = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(text.replace('"tokens.json"', '"../tokens.json"'))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_missing, "differ in tokens.json"),
        (_changed, "tokens.json .* was changed or is damaged"),
        (_more, "differ in state/00000000000000000009.snapshot"),
        (_unfinished, "no complete backup"),
        (_foreign, "another version"),
        (_outside, "outside the backup"),
    ],
)
def test_a_damaged_backup_is_refused_and_nothing_is_restored(
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    words: str,
) -> None:
    copy = tmp_path / "copy"
    back_up(places_in(original, monkeypatch), copy)
    damage(copy)
    with pytest.raises(KubehabitError, match=words):
        restore(copy, places_in(tmp_path / "new", monkeypatch))
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = places_in(original, monkeypatch)
    back_up(places, tmp_path / "copy")
    with pytest.raises(KubehabitError, match="is not empty"):
        back_up(places, tmp_path / "copy")
    with pytest.raises(KubehabitError, match="exists already: restore into an empty"):
        restore(tmp_path / "copy", places)


def test_the_commands_say_what_they_did(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    environment = {"KUBEHABIT_HOME": str(original), "KUBEHABIT_STORE__URL": "postgresql://db/kubehabit"}
    made = CliRunner().invoke(app, ["backup", "--out", str(copy)], env=environment)
    assert made.exit_code == 0, made.output
    assert "4 files" in made.output
    assert "dump it now" in made.output
    put = CliRunner().invoke(
        app, ["restore", str(copy)], env=environment | {"KUBEHABIT_HOME": str(tmp_path / "b")}
    )
    assert put.exit_code == 0, put.output
    assert "Restored 4 files" in put.output
    monkeypatch.setenv("KUBEHABIT_HOME", str(tmp_path / "none"))
    nothing = CliRunner().invoke(app, ["backup", "--out", str(tmp_path / "another")])
    assert nothing.exit_code == 2
    assert "nothing to back up" in nothing.output


def registry(home: Path, artifacts: Path) -> Path:
    """An MLflow store with one run, whose files are in a folder."""
    home.mkdir(parents=True)
    (home / "mlartifacts" / "run" / "artifacts").mkdir(parents=True)
    file = home / "mlflow.db"
    store = sqlite3.connect(file)
    store.execute("CREATE TABLE experiments (experiment_id INTEGER, artifact_location TEXT)")
    store.execute("CREATE TABLE runs (run_uuid TEXT, artifact_uri TEXT)")
    store.execute("CREATE TABLE model_versions (source TEXT, storage_location TEXT)")
    store.execute("INSERT INTO experiments VALUES (1, ?)", (artifacts.as_uri(),))
    for run in ("run", "another"):
        store.execute("INSERT INTO runs VALUES (?, ?)", (run, f"{artifacts.as_uri()}/{run}/artifacts"))
    store.execute("INSERT INTO model_versions VALUES ('models:/m-1', 's3://bucket/mlartifacts/run')")
    store.commit()
    store.close()
    return file


def paths(file: Path) -> list[str]:
    store = sqlite3.connect(file)
    return [
        value
        for query in (
            "SELECT artifact_location FROM experiments",
            "SELECT artifact_uri FROM runs ORDER BY run_uuid",
            "SELECT source FROM model_versions",
            "SELECT storage_location FROM model_versions",
        )
        for (value,) in store.execute(query)
    ]


def test_a_registry_that_was_copied_refers_to_its_own_artifacts(tmp_path: Path) -> None:
    elsewhere = tmp_path / "first home" / "mlartifacts"
    file = registry(tmp_path / "copied home", elsewhere)
    assert relocate(file) == 2
    own = (tmp_path / "copied home" / "mlartifacts").as_uri()
    # What was not copied along stays where it is.
    kept = [f"{elsewhere.as_uri()}/another/artifacts", "models:/m-1", "s3://bucket/mlartifacts/run"]
    assert paths(file) == [own, kept[0], f"{own}/run/artifacts", *kept[1:]]
    assert relocate(file) == 0


def test_a_registry_without_artifacts_beside_it_is_left_alone(tmp_path: Path) -> None:
    file = registry(tmp_path / "home", tmp_path / "other" / "mlartifacts")
    shutil.rmtree(tmp_path / "home" / "mlartifacts")
    before = file.read_bytes()
    assert relocate(file) == 0
    assert file.read_bytes() == before
