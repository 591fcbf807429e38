"""`kubehabit alerts` and `kubehabit incidents` against a running service."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from typer.testing import CliRunner

from kubehabit import app
from serving.app import create_app
from serving.engine import Engine
from serving.settings import Settings
from tests.serving.fakes import decoded, raw_event, secret_event

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
