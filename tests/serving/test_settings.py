"""Settings: the file, the environment, and refusals that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

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
        ("a: " + "[" * 5000, ["not valid YAML"]),
        ("\tport: 1", ["not valid YAML", "line 1"]),
        ("port: 1\nport: 2", ["not valid YAML", "line 2", "'port' is given twice"]),
        ("log: {level: info, level: debug}", ["'level' is given twice"]),
        ("1: 2", ["'1'", "is no setting"]),
        ('"\\e[2J": 2', ["'\\x1b[2J'", "is no setting"]),
        ("null: 2", ["'None'", "is no setting"]),
        ("limits: null", ["limits", "is wrong"]),
        ("limits: [1]", ["limits", "is wrong"]),
        ("host: 5", ["host", "is wrong"]),
        ("host: null", ["host", "is wrong"]),
        ("port: 1.5", ["port", "is wrong"]),
        ("port: -1", ["port", "is wrong"]),
        ("token: short", ["token", "is wrong"]),
        ("console: {enabled: sometimes}", ["console.enabled", "is wrong"]),
        ("console: {idle_minutes: 0}", ["console.idle_minutes", "is wrong"]),
        ("log: {level: loud}", ["log.level", "'debug'"]),
        ("log: {format: xml}", ["log.format", "'json'"]),
        ("limits: {body_mb: .inf}", ["limits.body_mb", "is wrong"]),
        ("limits: {body_mb: .nan}", ["limits.body_mb", "is wrong"]),
        ("limits: {body_mb: 1e305}", ["limits.body_mb", "is wrong"]),
        ("limits: {waiting_requests: 0}", ["limits.waiting_requests", "is wrong"]),
        ("limits: {connections: 0}", ["limits.connections", "is wrong"]),
        ("limits: {body_md: 1}", ["limits.body_md", "is no setting", "Did you mean 'body_mb'?"]),
        ("store: {retention_days: 1e300}", ["store.retention_days", "is wrong"]),
        ("store: {retention_days: -1}", ["store.retention_days", "is wrong"]),
        ("store: {max_alerts: 1e30}", ["store.max_alerts", "is wrong"]),
        ("alerts: {threshold_scale: 0.2}", ["alerts.threshold_scale", "0.3"]),
        ("alerts: {first_actions: 0}", ["alerts.first_actions", "is wrong"]),
        ("alerts: {gap_minutes: 0}", ["alerts.gap_minutes", "is wrong"]),
        ("model: {threads: 0}", ["model.threads", "is wrong"]),
        ("model: {watch_seconds: -1}", ["model.watch_seconds", "is wrong"]),
        ("model: {challenger: champion}", ["model", "is wrong", "served already"]),
        ("model: {challenger: ''}", ["model.challenger", "is wrong"]),
        ("journal: {max_mb: 0}", ["journal.max_mb", "is wrong"]),
        ("state: {snapshot_events: 0}", ["state.snapshot_events", "is wrong"]),
        ("events: {memory_mb: 1}", ["events.memory_mb", "256"]),
        ("history: {retention_days: 0.5}", ["history.retention_days", "is wrong"]),
        ("access: {log: {files: 1}}", ["access.log.files", "is wrong"]),
        ("access: {rates: {requests_per_second: 0}}", ["access.rates.requests_per_second", "is wrong"]),
        ("access: {certificates: [{common_name: a, scopes: [root]}]}", ["access.certificates.0.scopes.0"]),
        ("access: {certificates: [{scopes: [read]}]}", ["access.certificates.0", "by common_name or by uri"]),
        (
            "access: {certificates: [{common_name: a, uri: b, scopes: [read]}]}",
            ["access.certificates.0", "one of them"],
        ),
        ("access: {certificates: [{common_name: a, scopes: []}]}", ["access.certificates.0.scopes"]),
        ("access: {certificates: [{common_name: a, scopes: [read]}]}", ["needs tls.client_ca"]),
        ("tls: {key: a}", ["tls", "need a certificate"]),
        ("tls: {client_ca: a}", ["tls", "need a certificate"]),
        ("tls: {certificate: a, client_crl: b}", ["tls", "client_crl needs client_ca"]),
        ("journal: {path: /a}\nstate: {path: /a}", ["journal.path and state.path are the same"]),
        (
            "access: {log: {path: /a}}\nsinks: [{name: a, type: file, path: /a}]",
            ["access.log.path and path of the sink a are the same"],
        ),
        (
            "sinks: [{name: a, type: file, path: /a}, {name: b, type: file, path: /a}]",
            ["sink a", "sink b", "are the same"],
        ),
        (
            "store: {url: 'sqlite:////a/serving.db'}\nhistory: {path: /a/serving.db}",
            ["history.path and store.url are the same"],
        ),
        ("sinks: [{name: a, type: pigeon}]", ["sinks.0", "is wrong"]),
        ("sinks: [{name: a, type: file}]", ["sinks.0.file.path", "is wrong"]),
        ("sinks: [{name: a, type: stdout, repeat_minutes: .inf}]", ["sinks.0.stdout.repeat_minutes"]),
        ("sinks: [{name: a, type: stdout, max_queued: 0}]", ["sinks.0.stdout.max_queued", "is wrong"]),
        ("sinks: {name: a}", ["sinks", "is wrong"]),
        ("sinks: [a]", ["sinks.0", "is wrong"]),
        ("traces: {enabled: 7}", ["traces.enabled", "is wrong"]),
        ("explain: 5", ["explain", "is wrong"]),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(KubehabitError) as raised:
        load_settings(file)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("KUBEHABIT_PORT", "http", ["port", "is wrong"]),
        ("KUBEHABIT_PORT", "tcp://10.0.0.1:8646", ["port", "enableServiceLinks: false"]),
        ("KUBEHABIT_SINKS", "[{", ["KUBEHABIT_SINKS", "not valid JSON"]),
        ("KUBEHABIT_LIMITS", "16", ["limits", "is wrong"]),
        ("KUBEHABIT_LIMITS__BODY_MD", "16", ["limits.body_md", "is no setting", "body_mb"]),
        ("KUBEHABIT_LIMITS__BODY_MB", "lots", ["limits.body_mb", "is wrong"]),
        ("KUBEHABIT_LIMIT__BODY_MB", "16", ["KUBEHABIT_LIMIT__BODY_MB", "mean KUBEHABIT_LIMITS?"]),
        ("KUBEHABIT_TOKNE", "0123456789abcdef", ["KUBEHABIT_TOKNE", "mean KUBEHABIT_TOKEN?"]),
    ],
)
def test_wrong_variables_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: list[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(KubehabitError) as raised:
        load_settings()
    for word in words:
        assert word in str(raised.value)
    assert "0123456789abcdef" not in str(raised.value)


def test_variables_that_a_cluster_sets_for_a_service_of_our_name_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "PORT_8646_TCP", "PORT_8646_TCP_ADDR", "SERVICE_PORT_HTTP"):
        monkeypatch.setenv(f"KUBEHABIT_{name}", "10.0.0.1")
    assert load_settings().port == 8646


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


def _named(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, type[BaseModel] | None]]:
    """Dotted name of each setting, and of each group of settings with its class."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        group = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        yield f"{above}{name}", group
        if group is not None:
            yield from _named(group, f"{above}{name}.")


def _nested(name: str, value: object) -> dict[str, object]:
    for part in reversed(name.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def test_every_setting_says_what_is_wrong_with_a_value_of_another_kind(tmp_path: Path) -> None:
    names = dict(_named(Settings))
    assert len(names) > 70
    file = tmp_path / "serve.yaml"
    for name, group in names.items():
        wrong: object = ["a list"] if group is not None else {"a": "mapping"}
        if name == "kafka.properties":  # which is a mapping
            wrong = "a text"
        file.write_text(yaml.safe_dump(_nested(name, wrong)))
        with pytest.raises(KubehabitError) as raised:
            load_settings(file)
        assert f"Setting '{name}" in str(raised.value), name
        assert "Correct it" in str(raised.value), name


def test_every_group_of_settings_names_what_it_does_not_know(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    for name, group in _named(Settings):
        if group is not None:
            file.write_text(yaml.safe_dump(_nested(f"{name}.unheard_of", 1)))
            with pytest.raises(KubehabitError, match=rf"'{name}\.unheard_of' .* is no setting"):
                load_settings(file)


@pytest.mark.parametrize("name", ["journal", "state", "events", "model.cache"])
def test_a_file_where_a_folder_must_be_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    file = tmp_path / "serve.yaml"
    setting = name if "." in name else f"{name}.path"
    for place in ("file", "file/below"):
        file.write_text(yaml.safe_dump(_nested(setting, str(tmp_path / place))))
        with pytest.raises(KubehabitError, match=rf"{setting} needs a folder .*file is a file"):
            load_settings(file)


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"dead_letters": {"path": "PLACE"}}, "dead_letters.path"),
        ({"access": {"log": {"path": "PLACE"}}}, "access.log.path"),
        ({"sinks": [{"name": "soc", "type": "file", "path": "PLACE"}]}, "path of the sink soc"),
    ],
)
def test_a_folder_where_a_file_must_be_is_named(
    tmp_path: Path, setting: dict[str, object], word: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    file = tmp_path / "serve.yaml"
    for place, words in (("folder", "which is a folder"), ("file/a.jsonl", "file is a file")):
        file.write_text(yaml.safe_dump(setting).replace("PLACE", str(tmp_path / place)))
        with pytest.raises(KubehabitError, match=f"{word} .*{words}"):
            load_settings(file)
