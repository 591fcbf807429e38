"""`kubehabit doctor`: a sound deployment passes, and each thing that can be wrong is found and said."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
import yaml
from typer.testing import CliRunner

from kubehabit.diagnosis import diagnose, host, model
from kubehabit.main import app
from serving.access.tokens import create
from serving.app import create_app
from serving.registry import client
from serving.rollout import loader
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from tests.conftest import Trained
from tests.serving.event_stores import body, new_store, story
from tests.serving.live import Live


class Deployment:
    """Settings of a service in a file, and what the doctor says of it."""

    def __init__(self, folder: Path, home: Path, port: int) -> None:
        self.folder = folder
        self.home = home
        self.settings: dict[str, Any] = {
            "port": port,
            "sinks": [{"name": "lines", "type": "file", "path": str(folder / "alerts.jsonl")}],
        }

    def findings(self) -> list[dict[str, str]]:
        config = self.folder / "serve.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        done = CliRunner().invoke(app, ["doctor", "--config", str(config), "--json"])
        answer = json.loads(done.stdout)
        found: list[dict[str, str]] = answer["findings"]
        assert done.exit_code == (1 if any(one["level"] == "error" for one in found) else 0), done.output
        assert answer["errors"] == sum(one["level"] == "error" for one in found)
        assert answer["warnings"] == sum(one["level"] == "warning" for one in found)
        return found

    def only(self, level: str, check: str) -> str:
        """The one finding that is not ok; it is of this level and check."""
        [found] = [one for one in self.findings() if one["level"] != "ok"]
        assert (found["level"], found["check"]) == (level, check), found
        return found["sentence"]


@pytest.fixture
def sound_model(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a model that is sound, or as given, in place of a real one, which takes a training."""

    def put(notice: str | None = None, tested: bool = True, error: Exception | None = None) -> None:
        test = SimpleNamespace(worst_difference=1e-6, tolerance=1e-3) if tested else None
        said = {"name": "kubehabit", "version": "3", "source": "registry", "notice": notice}
        loaded = SimpleNamespace(model=SimpleNamespace(self_test=test, **said))

        def open_bundle(*_: Any) -> Any:
            if error is not None:
                raise error
            return loaded, None

        monkeypatch.setattr(loader, "open_bundle", open_bundle)

    put()
    return put


@pytest.fixture
def deployment(tmp_path: Path, own_home: Path, sound_model: Any) -> Deployment:
    del sound_model
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    own_home.mkdir()
    return Deployment(tmp_path, own_home, port)


def test_a_sound_deployment_passes_in_every_check(deployment: Deployment) -> None:
    found = deployment.findings()
    assert {one["level"] for one in found} == {"ok"}
    assert {one["check"] for one in found} == {"settings", *diagnose.CHECKS}
    done = CliRunner().invoke(app, ["doctor", "--config", str(deployment.folder / "serve.yaml")])
    assert (done.exit_code, "Nothing to fix." in done.stdout) == (0, True)
    assert not any(deployment.home.iterdir())


# -- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"), [("prot: 8646", "'prot'"), ("port: {", "not valid YAML"), ("port: high", "is wrong")]
)
def test_wrong_settings_end_the_checks(tmp_path: Path, own_home: Path, text: str, words: str) -> None:
    del own_home
    config = tmp_path / "serve.yaml"
    config.write_text(text)
    done = CliRunner().invoke(app, ["doctor", "--config", str(config), "--json"])
    [found] = json.loads(done.stdout)["findings"]
    assert (done.exit_code, found["check"], found["level"]) == (1, "settings", "error")
    assert words in found["sentence"]


# -- the host ---------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_to(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    real = host.tempfile.TemporaryFile

    def refuse(dir: Path) -> Any:  # noqa: A002 - the name of the argument
        if dir == deployment.home:
            raise PermissionError(13, "Permission denied")
        return real(dir=dir)

    monkeypatch.setattr(host.tempfile, "TemporaryFile", refuse)
    errors = [one["sentence"] for one in deployment.findings() if one["level"] == "error"]
    assert any("KUBEHABIT_HOME) cannot be written to (Permission denied)" in one for one in errors)


@pytest.mark.parametrize(("mebibytes", "level"), [(100, "error"), (1000, "warning"), (10_000, "ok")])
def test_a_disk_that_is_nearly_full(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, mebibytes: int, level: str
) -> None:
    usage = SimpleNamespace(free=mebibytes << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    found = [one for one in deployment.findings() if one["check"] == "home"]
    assert {one["level"] for one in found} == {level}
    assert f"{mebibytes:,} MiB free" in found[0]["sentence"]


def test_a_clock_that_is_behind_what_was_written(deployment: Deployment) -> None:
    later = time.time() + 86_400
    file = deployment.home / "serving.jsonl"
    file.touch()
    os.utime(file, (later, later))
    assert f"{file} was written at" in deployment.only("error", "clock")


def test_a_clock_that_was_never_set(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "time", SimpleNamespace(time=lambda: 86_400.0))
    assert "let NTP keep it" in deployment.only("error", "clock")


def test_too_few_open_files(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
    assert "may open 512 files" in deployment.only("error", "open files")


def test_a_port_that_something_else_holds(deployment: Deployment) -> None:
    with socket.create_server(("127.0.0.1", deployment.settings["port"])) as other:
        other.settimeout(0.1)
        assert "choose another port" in deployment.only("error", "port")


def test_a_port_where_the_service_answers(deployment: Deployment, engine: Engine) -> None:
    with Live(create_app(Settings(events={"enabled": False}), engine)) as live:  # type: ignore[arg-type]
        deployment.settings["port"] = live.port
        sentences = [one["sentence"] for one in deployment.findings() if one["check"] == "port"]
    assert sentences == [f"A service answers at 127.0.0.1:{live.port}."]


def test_a_host_that_is_none(deployment: Deployment) -> None:
    deployment.settings |= {"host": "no.such.host.invalid", "token": "a-token-of-sixteen-or-more"}
    errors = {one["check"] for one in deployment.findings() if one["level"] == "error"}
    assert errors == {"port"}


# -- access -----------------------------------------------------------------------------------------------------


def token(path: Path, *scopes: Any, **more: Any) -> None:
    create(path, f"token-{len(scopes)}", scopes, **{"now": datetime.now(UTC)} | more)


def test_a_service_open_to_the_network(deployment: Deployment) -> None:
    deployment.settings["host"] = "0.0.0.0"
    found = {one["check"]: one["sentence"] for one in deployment.findings() if one["level"] != "ok"}
    assert "Anybody who reaches 0.0.0.0" in found["tokens"]
    assert "There is no certificate" in found["tls"]


def test_tokens_that_others_may_change_or_read(deployment: Deployment) -> None:
    path = deployment.home / "tokens.json"
    token(path, "ingest", "read")
    assert all(one["level"] == "ok" for one in deployment.findings())
    path.chmod(0o666)
    assert "chmod go-w" in deployment.only("error", "tokens")
    path.chmod(0o644)
    assert "chmod 600" in deployment.only("warning", "tokens")


def test_tokens_that_expire_or_cannot_send(deployment: Deployment) -> None:
    path = deployment.home / "tokens.json"
    token(path, "read")
    assert "scope ingest" in deployment.only("warning", "tokens")
    token(path, "ingest", "read", days=3)
    assert "within 14 days: token-2" in deployment.only("warning", "tokens")
    path.unlink()
    token(path, "ingest", days=1, now=datetime.now(UTC) - timedelta(days=2))
    assert "No token in" in deployment.only("error", "tokens")


def test_tokens_that_cannot_be_read(deployment: Deployment) -> None:
    deployment.settings["access"] = {"tokens": str(deployment.folder / "gone.json")}
    assert "Cannot read the tokens file" in deployment.only("error", "tokens")


@pytest.fixture
def certificate(deployment: Deployment) -> Callable[..., None]:
    """Give the deployment a certificate that is valid for so long."""

    def give(days: float, authority: bool = True) -> None:
        issued = trustme.CA().issue_cert("localhost", not_after=datetime.now(UTC) + timedelta(days=days))
        chain, key = deployment.folder / "tls.pem", deployment.folder / "tls.key"
        chain.write_bytes(issued.cert_chain_pems[0].bytes())
        key.write_bytes(issued.private_key_pem.bytes())
        key.chmod(0o600)
        deployment.settings["tls"] = {"certificate": str(chain), "key": str(key)}
        if authority:
            trustme.CA().cert_pem.write_to_path(deployment.folder / "ca.pem")
            deployment.settings["tls"]["client_ca"] = str(deployment.folder / "ca.pem")

    return give


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [(90, "ok", "valid until"), (5, "warning", "expires at"), (-1, "error", "expired at")],
)
def test_a_certificate_that_expires(
    deployment: Deployment, certificate: Callable[..., None], days: float, level: str, words: str
) -> None:
    certificate(days)
    found = [one for one in deployment.findings() if "tls.pem" in one["sentence"]]
    assert [one["level"] for one in found] == [level]
    assert words in found[0]["sentence"]


def test_a_key_that_is_another_ones_or_that_others_read(
    deployment: Deployment, certificate: Callable[..., None]
) -> None:
    certificate(90)
    key = deployment.folder / "tls.key"
    key.chmod(0o644)
    assert "may read the private key" in deployment.only("error", "tls")
    key.write_bytes(trustme.CA().issue_cert("other").private_key_pem.bytes())
    assert "belong together" in deployment.only("error", "tls")


# -- what is stored and sent ------------------------------------------------------------------------------------


def test_a_store_of_this_version_of_another_and_none_that_can_be_read(deployment: Deployment) -> None:
    file = deployment.home / "serving.db"
    AlertStore(f"sqlite:///{file}", retention_days=1, max_alerts=1).close()
    assert all(one["level"] == "ok" for one in deployment.findings())
    file.unlink()
    file.touch()
    assert "of another version" in deployment.only("warning", "store")
    file.write_bytes(b"no database" * 1000)
    assert "Cannot open the alert store" in deployment.only("error", "store")


def test_a_ledger_that_was_cut_off_or_rewritten(deployment: Deployment) -> None:
    store = new_store(deployment.home / "events")
    store.append(body(story()))
    store.close()
    assert all(one["level"] == "ok" for one in deployment.findings())
    ledger = deployment.home / "events" / "ledger.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    assert "cut off or rewritten" in deployment.only("error", "events")
    ledger.write_bytes(whole.replace(b'"', b"'", 1))
    assert "cannot be trusted" in deployment.only("error", "events")
    ledger.write_bytes(whole)
    (ledger.parent / "head.json").write_bytes(b"{")
    assert "missing or damaged" in deployment.only("error", "events")
    ledger.unlink()
    assert "it was removed" in deployment.only("error", "events")


def test_events_that_are_not_kept_or_signed_with_no_key(deployment: Deployment) -> None:
    deployment.settings["events"] = {"enabled": False}
    assert "No events are kept" in deployment.only("warning", "events")
    deployment.settings["events"] = {"signing_key": str(deployment.folder / "gone.pem")}
    assert "Cannot read the signing key" in deployment.only("error", "events")


def test_sinks_that_lack_what_they_need(deployment: Deployment) -> None:
    deployment.settings["sinks"] = []
    assert "There is no sink" in deployment.only("warning", "sinks")
    secret = deployment.folder / "url.txt"
    deployment.settings["sinks"] = [{"name": "chat", "type": "slack", "url": {"file": str(secret)}}]
    assert "Sink chat: url:" in deployment.only("error", "sinks")
    secret.write_text("https://chat.example/hook")
    assert all(one["level"] == "ok" for one in deployment.findings())


def test_explanations_that_are_not_there(deployment: Deployment) -> None:
    deployment.settings["explain"] = str(deployment.folder / "gone.yaml")
    assert "gone.yaml" in deployment.only("error", "explanations")


# -- the model --------------------------------------------------------------------------------------------------


def test_a_model_that_is_an_old_download_untested_or_not_there(
    deployment: Deployment, sound_model: Callable[..., None]
) -> None:
    sound_model(
        notice="The registry is out of reach. Until then the last good download is served: version 2."
    )
    assert "last good download" in deployment.only("warning", "model")
    sound_model(tested=False)
    assert "before bundles had a self-test" in deployment.only("warning", "model")
    sound_model(error=client.NoSuchModelError("The registry has no kubehabit."))
    assert deployment.only("warning", "model").startswith("The starter model is served")
    sound_model(error=client.RegistryError("There is no such model. Train one."))
    assert deployment.only("error", "model") == "There is no such model. Train one."


@pytest.mark.slow
def test_a_real_model_is_loaded_and_tested(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEHABIT_HOME", str(trained.home))
    [found] = model.check_model(Settings())
    assert found.level == "ok", found
    assert f"version {trained.version}" in found.sentence
