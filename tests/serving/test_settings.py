"""Settings: the file, the environment, and refusals that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from data.errors import KubehabitError
from serving.settings import Settings, is_loopback, load_settings


def test_the_shipped_file_names_every_setting_with_its_default() -> None:
    shipped = yaml.safe_load((Path(__file__).parents[2] / "configs" / "serve.yaml").read_text())
    assert shipped == Settings().model_dump()


def test_the_environment_wins_over_the_file_and_options_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("port: 1000\nstore: {retention_days: 7, max_alerts: 5}\n")
    monkeypatch.setenv("KUBEHABIT_PORT", "2000")
    monkeypatch.setenv("KUBEHABIT_STORE__RETENTION_DAYS", "8")
    settings = load_settings(file)
    assert (settings.port, settings.store.retention_days, settings.store.max_alerts) == (2000, 8, 5)
    assert load_settings(file, port=3000, host=None).port == 3000


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.1.2.3", "kubehabit.example"])
def test_an_open_address_needs_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KubehabitError, match="KUBEHABIT_TOKEN"):
        load_settings(host=host)
    monkeypatch.setenv("KUBEHABIT_TOKEN", "0123456789abcdef")
    assert load_settings(host=host).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_none(host: str) -> None:
    assert is_loopback(host)
    assert load_settings(host=host).token is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot: 1", ["prot", "is no setting"]),
        ("store: {days: 1}", ["store.days", "is no setting"]),
        ("port: http", ["port", "is wrong"]),
        ("port: 70000", ["port", "is wrong"]),
        ("limits: {body_mb: 0}", ["limits.body_mb", "is wrong"]),
        ("- a", ["'name: value'"]),
        ("a: [", ["not valid YAML", "line"]),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(KubehabitError) as raised:
        load_settings(file)
    for word in words:
        assert word in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KubehabitError, match=r"nowhere\.yaml"):
        load_settings(tmp_path / "nowhere.yaml")


def test_a_short_token_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEHABIT_TOKEN", "hunter2")
    with pytest.raises(KubehabitError) as raised:
        load_settings()
    assert "token" in str(raised.value)
    assert "hunter2" not in str(raised.value)
    monkeypatch.setenv("KUBEHABIT_TOKEN", "hunter2-hunter2-hunter2")
    assert "hunter2" not in repr(load_settings())
