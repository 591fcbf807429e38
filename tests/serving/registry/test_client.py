"""Which bundle is served: the registry's champion, or the last good one, or a sentence that says what to do."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.errors import BundleError, KubehabitError
from data.paths import home, tracking_uri
from serving.registry import client as registry
from serving.registry.client import (
    Fetched,
    ModelReference,
    RegistryError,
    RegistryUnavailableError,
    open_bundle,
    parse_model,
)

CHAMPION = ModelReference("kubehabit", alias="champion")


class FakeBundle:
    """Stands for the real format, which has tests of its own: whole if its one file says so."""

    @classmethod
    def load(cls, directory: Path) -> str:
        content = (directory / "bundle.json").read_text()
        if content.startswith("damaged"):
            raise BundleError("The checksum does not match.")
        return content


@pytest.fixture(autouse=True)
def fake_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detection.bundle.Bundle", FakeBundle)


@pytest.fixture
def register(tmp_path: Path, empty_registry: Path) -> Callable[..., str]:
    """Register a version in the default store, as training does but for the model's inside."""

    def make(content: str, alias: str | None = "champion") -> str:
        import mlflow

        home().mkdir(parents=True, exist_ok=True)
        uri = tracking_uri()
        database = Path(uri.removeprefix("sqlite:///"))
        if not database.exists():
            shutil.copy(empty_registry, database)
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        folder = tmp_path / "artifacts" / content / "bundle"
        folder.mkdir(parents=True)
        (folder / "bundle.json").write_text(content)
        with contextlib.suppress(mlflow.exceptions.MlflowException):
            client.create_registered_model("kubehabit")
        version = client.create_model_version("kubehabit", source=folder.parent.as_uri()).version
        if alias:
            client.set_registered_model_alias("kubehabit", alias, version)
        return str(version)

    return make


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def as_it_is(bundle: Any, fetched: Fetched) -> Any:
    return bundle


def opened(cache: Path, wanted: Any = CHAMPION) -> tuple[str, str, str]:
    bundle, fetched = open_bundle(wanted, cache, as_it_is)
    return str(bundle), fetched.version, fetched.source


def test_the_champion_is_fetched_and_followed(register: Callable[..., str], cache: Path) -> None:
    register("first")
    assert opened(cache) == ("first", "1", "registry")
    register("second", alias=None)
    assert opened(cache) == ("first", "1", "registry")
    register("third")
    assert opened(cache) == ("third", "3", "registry")
    assert opened(cache, ModelReference("kubehabit", version="2")) == ("second", "2", "registry")


def test_what_a_process_left_that_was_killed_while_it_downloaded_goes_with_the_next_download(
    register: Callable[..., str], cache: Path
) -> None:
    register("first")
    left, young, busy = (cache / "kubehabit" / f".fetching-{name}" for name in ("left", "young", "busy"))
    for folder in (left, young, busy):
        folder.mkdir(parents=True)
        (folder / "lock").touch()
    for folder in (left, busy):
        os.utime(folder, (0, 0))
    with (busy / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the process that downloads into it
        assert opened(cache) == ("first", "1", "registry")
    assert not left.exists()
    assert young.exists()
    assert busy.exists()


def test_a_sqlite_registry_is_asked_again_only_after_it_changed(
    register: Callable[..., str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = registry.ask

    def counted(what: str, **arguments: str | None) -> dict[str, Any]:
        asked.append(what)
        return ask(what, **arguments)

    monkeypatch.setattr(registry, "ask", counted)
    register("first")
    database = home() / "mlflow.db"
    wanted = ModelReference("kubehabit", alias="champion")

    def aged() -> None:
        os.utime(database, ns=(database.stat().st_mtime_ns, database.stat().st_mtime_ns - 10**10))

    aged()
    assert [registry.locate(wanted, cache).version for _ in range(3)] == ["1", "1", "1"]
    assert asked == ["locate"]
    register("second")
    assert [registry.locate(wanted, cache).version for _ in range(2)] == ["2", "2"]
    assert asked == ["locate"] * 3  # what changed a moment ago may have changed again since
    aged()
    assert [registry.locate(wanted, cache).version for _ in range(2)] == ["2", "2"]
    assert asked == ["locate"] * 4


@pytest.mark.asks_elsewhere
def test_the_client_answers_and_refuses_out_of_a_process_of_its_own(
    register: Callable[..., str], cache: Path
) -> None:
    register("first")
    assert opened(cache) == ("first", "1", "registry")
    with pytest.raises(RegistryError, match="The registry has no models:/other@champion"):
        registry.locate(ModelReference("other", alias="champion"), cache)


@pytest.mark.asks_elsewhere
def test_a_client_that_cannot_be_started_is_reported(
    register: Callable[..., str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("first")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RegistryUnavailableError, match=r"The MLflow client broke off \(status 1\)"):
        registry.locate(ModelReference("kubehabit", alias="champion"), cache)


def test_a_second_start_needs_no_artifact_store(
    register: Callable[..., str], cache: Path, tmp_path: Path
) -> None:
    register("first")
    opened(cache)
    shutil.rmtree(tmp_path / "artifacts")
    assert opened(cache) == ("first", "1", "registry")


def test_a_recreated_registry_is_not_mistaken_for_the_old_one(
    register: Callable[..., str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("old")
    assert opened(cache)[:2] == ("old", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home() / 'new.db'}")
    register("new")
    assert opened(cache) == ("new", "1", "registry")


def test_without_a_registry_nothing_is_made_and_the_sentence_says_what_to_do(cache: Path) -> None:
    with pytest.raises(RegistryUnavailableError, match=r"There is no model registry at .* kubehabit train"):
        opened(cache)
    assert not home().exists()


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "no tables"])
def test_a_missing_or_half_written_registry_is_reported_or_bridged_by_the_last_good_bundle(
    register: Callable[..., str], cache: Path, damage: str
) -> None:
    register("good")
    database = home() / "mlflow.db"
    whole = database.read_bytes()

    def break_it() -> None:
        database.unlink()
        if damage == "empty":
            database.touch()
        elif damage == "text":
            database.write_text("hello " * 5000)
        elif damage == "cut":
            database.write_bytes(whole[: len(whole) // 3])
        elif damage == "no tables":
            with sqlite3.connect(database) as connection:
                connection.execute("CREATE TABLE experiments (id)")

    break_it()
    with pytest.raises(KubehabitError) as raised:
        opened(cache)
    assert str(raised.value).endswith((".", "DIR"))
    assert "kubehabit train" in str(raised.value)
    database.write_bytes(whole)
    opened(cache)
    break_it()
    bundle, fetched = open_bundle(CHAMPION, cache, as_it_is)
    assert (str(bundle), fetched.source, fetched.version) == ("good", "cache", "1")
    assert fetched.notice is not None
    assert "last good download is served: version 1" in fetched.notice


def test_a_missing_model_or_alias_is_an_answer_not_an_outage(
    register: Callable[..., str], cache: Path
) -> None:
    register("first", alias=None)
    with pytest.raises(RegistryError, match=r"no models:/kubehabit@champion.*kubehabit train"):
        opened(cache)
    with pytest.raises(RegistryError, match=r"no models:/other@champion"):
        opened(cache, ModelReference("other", alias="champion"))
    with pytest.raises(RegistryError, match=r"no models:/kubehabit/9"):
        opened(cache, ModelReference("kubehabit", version="9"))


def test_an_alias_taken_away_is_not_bridged(register: Callable[..., str], cache: Path) -> None:
    import mlflow

    register("first")
    opened(cache)
    uri = tracking_uri()
    mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri).delete_registered_model_alias(
        "kubehabit", "champion"
    )
    with pytest.raises(RegistryError, match="champion"):
        opened(cache)


def test_a_bundle_damaged_in_the_registry_is_refused_and_not_kept(
    register: Callable[..., str], cache: Path, tmp_path: Path
) -> None:
    register("damaged-1")
    for _ in range(2):
        with pytest.raises(BundleError, match="checksum"):
            opened(cache)
    (tmp_path / "artifacts" / "damaged-1" / "bundle" / "bundle.json").write_text("mended")
    assert opened(cache)[0] == "mended"


def test_a_bundle_damaged_in_the_registry_is_bridged_by_the_one_before(
    register: Callable[..., str], cache: Path
) -> None:
    register("good")
    opened(cache)
    register("damaged-2")
    for _ in range(2):
        bundle, fetched = open_bundle(CHAMPION, cache, as_it_is)
        assert (bundle, fetched.version, fetched.source) == ("good", "1", "cache")
        assert fetched.notice is not None
        assert "checksum does not match" in fetched.notice
        assert "version 1" in fetched.notice


def test_what_its_check_refuses_is_not_noted_as_good(register: Callable[..., str], cache: Path) -> None:
    def refuse(bundle: Any, fetched: Fetched) -> Any:
        if fetched.version == "2":
            raise BundleError("It fails its self-test.")
        return bundle

    register("good")
    assert open_bundle(CHAMPION, cache, refuse)[0] == "good"
    register("bad")
    assert open_bundle(CHAMPION, cache, refuse)[0] == "good"
    (home() / "mlflow.db").unlink()
    assert open_bundle(CHAMPION, cache, refuse)[1].version == "1"


def test_a_registry_file_put_back_from_a_backup_is_read_again(
    register: Callable[..., str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a process of its own, where `locate` sets it before MLflow opens the file for the first time.
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    register("first")
    backup = (home() / "mlflow.db").read_bytes()
    register("second")
    assert opened(cache)[1] == "2"
    (home() / "mlflow.db").unlink()
    assert opened(cache)[2] == "cache"
    (home() / "mlflow.db").write_bytes(backup)
    assert opened(cache)[1:] == ("1", "registry")


def test_a_bundle_damaged_in_the_cache_is_fetched_again(register: Callable[..., str], cache: Path) -> None:
    register("first")
    _, fetched = open_bundle(CHAMPION, cache, as_it_is)
    (fetched.directory / "bundle.json").write_text("damaged by a bad disk")
    assert opened(cache) == ("first", "1", "registry")


def test_missing_artifacts_are_reported(register: Callable[..., str], cache: Path, tmp_path: Path) -> None:
    register("first")
    shutil.rmtree(tmp_path / "artifacts")
    with pytest.raises(RegistryUnavailableError, match=r"its files cannot be fetched .*kubehabit train"):
        opened(cache)
    assert not list(cache.rglob("bundle.json"))


def test_a_version_without_a_bundle_is_reported(
    register: Callable[..., str], cache: Path, tmp_path: Path
) -> None:
    register("first")
    (tmp_path / "artifacts" / "first" / "bundle" / "bundle.json").rename(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"bundle\.json is missing"):
        opened(cache)


def test_a_registry_that_does_not_answer_is_named_without_its_password(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryUnavailableError, match="does not answer") as raised:
        opened(cache)
    assert "hunter2" not in str(raised.value)


def test_a_folder_is_opened_as_it_is(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "model" / "bundle").mkdir(parents=True)
    (tmp_path / "model" / "bundle" / "bundle.json").write_text("mine")
    assert opened(cache, tmp_path / "model") == ("mine", "-", "folder")
    with pytest.raises(BundleError, match="holds no model bundle"):
        opened(cache, tmp_path / "nowhere")


def test_model_names_are_parsed() -> None:
    assert parse_model("models:/kubehabit@champion") == CHAMPION
    assert parse_model("models:/kubehabit/3") == ModelReference("kubehabit", version="3")
    assert parse_model("some/folder") == Path("some/folder")
    for text in ("models:/kubehabit", "models:/kubehabit/x", "models:kubehabit@champion"):
        with pytest.raises(RegistryError, match="names no model"):
            parse_model(text)


def test_names_cannot_leave_the_cache(cache: Path) -> None:
    for name in ("..", ".", "a/../b", "a\\b", ""):
        assert "/" not in registry.folder_of(name)
        assert registry.folder_of(name) not in ("", ".", "..")
