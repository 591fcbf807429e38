"""`kubehabit alerts` and `kubehabit incidents` against a running service, and against the store on this machine."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import uvicorn
from typer.testing import CliRunner

from data.actions.fields import FIELDS
from kubehabit.main import app
from serving.alerts.explain.explainer import Explainer
from serving.app import create_app
from serving.incidents.incidents import Asker, Close
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from tests.serving.conftest import model_info
from tests.serving.fakes import START, FakeDetector, decoded, raw_event, secret_event
from tests.serving.live import Live

TOKEN = "a-token-of-sixteen-or-more"


@pytest.fixture
def url(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A service with two incidents, on a free port, that asks for a token."""
    engine.score(decoded([raw_event(0), secret_event(1), secret_event(2, user="bob@corp")]))
    application = create_app(Settings(token=TOKEN), engine)
    server = uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="on"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        monkeypatch.setenv("KUBEHABIT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("KUBEHABIT_TOKEN", TOKEN)
        monkeypatch.setenv("COLUMNS", "200")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def run(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == status, result.output
    return result.output


def test_alerts_are_listed_and_shown(url: str) -> None:
    table = run("alerts")
    assert "alice@corp (a person) listed Secrets in payments" in table
    [alert] = json.loads(run("alerts", "list", "--principal", "bob@corp", "--json"))["alerts"]
    page = run("alerts", "show", alert["id"])
    assert "the namespace was payments; expected of it instead: team-a (93%) or web (5%)" in page
    assert "kubectl auth can-i --list --as=bob@corp" in page


FILTERS: list[tuple[list[str], list[str]]] = [
    ([], ["carol", "bob", "alice"]),
    (["--namespace", "web"], ["bob"]),
    (["-n", "we"], []),
    (["--text", "LISTED secrets in web"], ["bob"]),
    (["--state", "open"], ["carol", "bob"]),
    (["--state", "closed"], ["alice"]),
    (["--verdict", "none"], ["carol", "alice"]),
    (["--verdict", "normal"], ["bob"]),
    (["--verdict", "malicious"], []),
    (["--severity", "critical"], []),
    (["--principal", "carol", "--severity", "high", "--state", "open", "--verdict", "none"], ["carol"]),
    (["--since", "2026-11-24T00:00:00Z", "--text", "payments"], ["carol"]),
    (["--since", "2026-11-25"], ["carol"]),
    (["--limit", "2"], ["carol", "bob"]),
]


@pytest.fixture
def kept(own_home: Path, explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A store in a file, with three alerts: one of a closed incident, one judged, and one that nobody looked at yet."""
    store = AlertStore(f"sqlite:///{own_home}/serving.db", retention_days=90, max_alerts=1000)
    engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer)
    ids = []
    for number, (user, namespace) in enumerate(
        (("alice", "payments"), ("bob", "web"), ("carol", "payments"))
    ):
        event = secret_event(number, user=user, namespace=namespace, seconds=number * 90_000)
        ids += [alert.id for alert in engine.score(decoded([event])).raised]
    engine.flush()
    engine.incidents.decide(ids[0], Close(outcome="malicious"), Asker())
    store.add_feedback(ids[1], START, "normal", "{}")
    monkeypatch.setenv("COLUMNS", "200")
    yield engine
    store.close()


def test_filters_find_the_same_in_the_store_on_this_machine_and_in_a_service(
    kept: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = [run("alerts", *asked, "--local", "--json") for asked, _ in FILTERS]
    for (asked, names), answer in zip(FILTERS, here, strict=True):
        assert [alert["principal"] for alert in json.loads(answer)["alerts"]] == names, asked
    shown = json.loads(here[0])["alerts"][0]["id"]
    others = [
        ("alerts", "show", shown),
        ("incidents", "list"),
        ("incidents", "list", "--state", "closed"),
        ("incidents", "list", "--limit", "1"),
        ("incidents", "show", shown),
    ]
    found = [json.loads(run(*command, "--local", "--json")) for command in others]
    assert [len(found[1]["incidents"]), len(found[2]["incidents"]), len(found[3]["incidents"])] == [3, 1, 1]
    with Live(create_app(Settings(token=TOKEN, events={"enabled": False}), kept)) as live:  # type: ignore[arg-type]
        monkeypatch.setenv("KUBEHABIT_TOKEN", TOKEN)
        at = ("--url", f"http://127.0.0.1:{live.port}", "--json")
        for (asked, _), answer in zip(FILTERS, here, strict=True):
            assert run("alerts", "list", *asked, *at) == answer, asked
        assert [json.loads(run(*command, *at)) for command in others] == found


def test_what_is_more_than_a_page_is_said_and_found(kept: Engine) -> None:
    for group in ("alerts", "incidents"):
        seen = run(group, "--limit", "2", "--local")
        assert "carol" in seen
        assert "alice" not in seen
        [cursor] = re.findall(r"--cursor (\d+)", seen)
        rest = run(group, "--limit", "2", "--local", "--cursor", cursor)
        assert "alice" in rest
        assert "carol" not in rest
        assert "--cursor" not in rest


def test_settings_name_another_store_and_imply_it(kept: Engine, tmp_path: Path) -> None:
    other = AlertStore(f"sqlite:///{tmp_path}/other.db", retention_days=90, max_alerts=1000)
    [alert] = [alert for alert in kept.store.page().alerts if alert.principal == "bob"]
    with other.writing() as writer:
        writer.save(None, alert, [])
    other.close()
    config = tmp_path / "serve.yaml"
    config.write_text(f"store: {{url: 'sqlite:///{tmp_path}/other.db'}}\n")
    found = json.loads(run("alerts", "--config", str(config), "--json"))["alerts"]
    assert [one["principal"] for one in found] == ["bob"]


def test_a_store_that_is_not_there_is_not_made(own_home: Path) -> None:
    assert "There is no store of alerts" in run("alerts", "--local", status=2)
    assert not (own_home / "serving.db").exists()


def test_what_is_not_in_the_store_is_a_sentence(kept: Engine) -> None:
    assert "There is no alert 'none'" in run("alerts", "show", "none", "--local", status=2)
    assert "There is no incident 'none'" in run("incidents", "show", "none", "--local", status=2)
    for option, value, words in (
        ("--severity", "grave", "'grave' is not one of"),
        ("--state", "merged", "'merged' is not one of"),
        ("--verdict", "unsure", "'unsure' is not one of"),
        ("--since", "soon", "'soon' is no point in time"),
        ("--limit", "0", "--limit"),
        ("--cursor", "-1", "--cursor"),
    ):
        assert words in run("alerts", option, value, "--local", status=2)


def test_every_filter_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "incidents.md").read_text(encoding="utf-8")
    group = typer.main.get_command(app).commands["alerts"]  # type: ignore[attr-defined]
    command = group.commands["list"]
    for option in command.get_params(typer.Context(command)):
        if option.name == "help":
            continue
        assert f"`{option.opts[0]}`" in page, option.opts[0]


def test_incidents_are_listed_shown_merged_noted_split_and_closed(url: str) -> None:
    assert "bob@corp (a person) listed Secrets" in run("incidents")
    second, first = json.loads(run("incidents", "list", "--json"))["incidents"]
    page = run("incidents", "show", first["id"])
    assert "Where it began" in page
    assert "id-1" in page
    merged = run("incidents", "merge", first["id"], second["id"], "--note", "Same laptop.", "--by", "carol")
    assert f"merged {second['id']} by carol: Same laptop." in merged
    assert f"merged into {first['id']}" in run("incidents", "show", second["id"])
    noted = run("incidents", "note", first["id"], "Called Bob: it was not him.", "--by", "carol")
    assert "noted by carol: Called Bob: it was not him." in noted
    story = json.loads(run("incidents", "show", first["id"], "--json"))
    split = json.loads(run("incidents", "split", first["id"], "--alert", story["alerts"][1]["id"], "--json"))
    assert split["principals"] == ["bob@corp"]
    assert "closed" in run("incidents", "close", split["id"], "--outcome", "normal")
    assert split["id"] not in run("incidents", "list", "--state", "open")


def test_what_goes_wrong_is_a_sentence(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "There is no such incident" in run("incidents", "show", "none", status=2)
    assert "no address of a service" in run("incidents", "list", "--url", "nowhere", status=2)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert "does not answer" in run("alerts", "list", "--url", f"http://127.0.0.1:{port}", status=2)
    monkeypatch.setenv("KUBEHABIT_TOKEN", "a-wrong-token-of-this-length")
    assert "token" in run("alerts", status=2)
