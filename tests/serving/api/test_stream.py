"""The stream of alerts, feedback on them, and what is known of principals."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient

from serving.alerts import stream as stream_module
from serving.app import create_app
from serving.history.activity import Principals, Trained
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from tests.serving.api.test_api import is_problem
from tests.serving.fakes import raw_event, secret_event

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9.c2lnbmF0dXJl"


class Server:
    """The application behind a real port: a stream without end cannot be tested without one."""

    def __init__(self, engine: Engine) -> None:
        app = create_app(Settings(), engine)
        self.service = app.state.service
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()

    def post(self, *events: dict[str, object]) -> list[str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/v1/score", json.dumps(events))
        alerts: list[str] = json.loads(connection.getresponse().read())["alerts"]
        connection.close()
        return alerts

    def follow(self, query: str = "", last: str | None = None) -> Follower:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {} if last is None else {"Last-Event-ID": last}
        connection.request("GET", f"/v1/alerts/stream{query}", headers=headers)
        return Follower(connection)

    def close(self) -> None:
        self.service.stream.end()
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()


class Follower:
    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.answer = connection.getresponse()
        self._connection = connection
        assert self.answer.status == 200
        assert self.answer.headers["Content-Type"].startswith("text/event-stream")
        self.first = self.block()

    def block(self) -> dict[str, str]:
        """The fields of the next event, or of the next comment (under "")."""
        fields = {}
        while line := self.answer.readline().decode().rstrip("\n"):
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        return fields

    def alert(self) -> dict[str, object]:
        while (fields := self.block()).get("event") != "alert":
            assert fields, "the stream ended"
        return {"id": fields["id"], **json.loads(fields["data"]), "position": fields["id"]}

    def close(self) -> None:
        self._connection.close()
        self.answer.close()


@pytest.fixture
def server(engine: Engine) -> Iterator[Server]:
    running = Server(engine)
    yield running
    running.close()


def test_an_alert_is_in_the_stream_when_its_request_is_answered_and_again_when_it_grows(
    server: Server,
) -> None:
    follower = server.follow()
    assert follower.first == {"retry": "2000", "id": "0"}
    (alert,) = server.post(secret_event(0))
    first = follower.alert()
    assert (first["id"], first["actionCount"]) == (alert, 1)
    server.post(secret_event(1))
    assert follower.alert()["actionCount"] == 2
    follower.close()


def test_who_comes_back_gets_what_changed_meanwhile_each_alert_once(server: Server) -> None:
    server.post(secret_event(0, user="a"))
    follower = server.follow(last="0")
    seen = follower.alert()
    follower.close()
    server.post(secret_event(1, user="b"), secret_event(2, user="c"))
    server.post(secret_event(3, user="b"))
    again = server.follow(last=str(seen["position"]))
    got = [again.alert(), again.alert()]
    assert [(one["principal"], one["actionCount"]) for one in got] == [("c", 1), ("b", 2)]
    again.close()
    ahead = server.follow(last="999999")  # of another store, perhaps: it begins now
    server.post(secret_event(4, user="d"))
    assert ahead.alert()["principal"] == "d"
    ahead.close()


def test_filters_hold_for_the_stream_too(server: Server) -> None:
    follower = server.follow("?principal=bob&severity=high")
    server.post(secret_event(0, user="alice"), secret_event(1, user="bob"))
    assert follower.alert()["principal"] == "bob"
    follower.close()
    follower = server.follow("?namespace=web&q=LISTED+secrets")
    server.post(
        secret_event(2, user="carol"),
        secret_event(3, user="dave", namespace="web", verb="get", name="db"),
        secret_event(4, user="erin", namespace="web"),
    )
    assert follower.alert()["principal"] == "erin"
    follower.close()


def test_a_silent_stream_gives_signs_of_life(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "HEARTBEAT_SECONDS", 0.05)
    follower = server.follow()
    assert follower.block() == {"": "still here", "id": "0"}
    follower.close()


def test_the_end_of_the_service_ends_streams(engine: Engine) -> None:
    server = Server(engine)
    follower = server.follow()
    server.close()
    assert follower.answer.read() == b""


def test_a_wrong_last_event_id_is_a_400(client: TestClient) -> None:
    for wrong in ("abc", "-1", "9" * 30):
        answer = client.get("/v1/alerts/stream", headers={"Last-Event-ID": wrong})
        is_problem(answer, 400, "Last-Event-ID")


def test_the_new_routes_need_the_token(make_client: Callable[..., TestClient]) -> None:
    client = make_client(token="0123456789abcdef")
    for path in ("/v1/alerts/stream", "/v1/feedback", "/v1/principals/alice"):
        is_problem(client.get(path), 401, "KUBEHABIT_TOKEN")
    is_problem(client.post("/v1/alerts/x/feedback", json={"verdict": "normal"}), 401)


def test_the_description_has_an_example_of_each(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    paths, schemas = described["paths"], described["components"]["schemas"]
    assert "example" in paths["/v1/alerts/stream"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    assert "example" in paths["/v1/feedback"]["get"]["responses"]["200"]["content"]["application/x-ndjson"]
    body = paths["/v1/alerts/{alert_id}/feedback"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["example"]["verdict"] == "normal"
    assert schemas["FeedbackEntry"]["example"]["auditIDs"]
    assert schemas["PrincipalReport"]["example"]["peers"]


# -- feedback -----------------------------------------------------------------------------------------------------


def test_feedback_is_exported_as_training_reads_it(client: TestClient, tmp_path: Path) -> None:
    from training.feedback import read_feedback

    assert client.get("/v1/feedback").text == ""
    (alert,) = client.post("/v1/score", json=[secret_event(0), secret_event(1)]).json()["alerts"]
    given = {"verdict": "normal", "note": f"planned\nBearer {JWT}", "by": "bob@corp"}
    answer = client.post(f"/v1/alerts/{alert}/feedback", json=given)
    assert answer.status_code == 201
    kept = answer.json()
    assert (kept["alertID"], kept["by"], kept["address"]) == (alert, "bob@corp", "testclient")
    client.post(f"/v1/alerts/{alert}/feedback", json={"verdict": "malicious"})
    exported = client.get("/v1/feedback")
    assert exported.headers["content-type"] == "application/x-ndjson"
    assert JWT not in exported.text
    file = tmp_path / "feedback.jsonl"
    file.write_text(exported.text)
    first, second = read_feedback(file)  # both: what was said is never overwritten
    assert (first.principal, first.audit_ids, first.verdict) == ("alice@corp", ("id-0", "id-1"), "normal")
    assert first.note.startswith("planned ")
    assert first.time == kept["time"]
    assert second.verdict == "malicious"


def test_feedback_outlives_its_alert_and_a_restart(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    url = f"sqlite:///{tmp_path}/serving.db"
    store = AlertStore(url, retention_days=1, max_alerts=1)
    for number in range(1001):
        store.add_feedback("gone", datetime(2026, 11, 23, tzinfo=UTC), "normal", f"document {number}")
    store.close()
    again = AlertStore(url, retention_days=1, max_alerts=1)
    assert list(again.feedback()) == [f"document {number}" for number in range(1001)]
    again.close()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ["body"]),
        (b"{}", ["verdict"]),
        (b'{"verdict": "fine"}', ["verdict", "normal"]),
        (b'{"verdict": "normal", "who": "me"}', ["who"]),
        (json.dumps({"verdict": "normal", "note": "x" * 1001}).encode(), ["note"]),
    ],
)
def test_wrong_feedback_is_a_422(client: TestClient, body: bytes, words: list[str]) -> None:
    (alert,) = client.post("/v1/score", json=[secret_event(0)]).json()["alerts"]
    is_problem(client.post(f"/v1/alerts/{alert}/feedback", content=body), 422, *words)


def test_feedback_on_no_alert_is_a_404(client: TestClient) -> None:
    is_problem(client.post("/v1/alerts/none/feedback", json={"verdict": "normal"}), 404, "no such alert")


# -- principals ---------------------------------------------------------------------------------------------------


def test_a_principal_is_shown_with_its_peers_counts_and_recent_surprise(
    client: TestClient, engine: Engine
) -> None:
    peers = {"alice@corp": "group:team-a", "bob@corp": "group:team-a", "carol@corp": "group:team-b"}
    engine.principals = Principals(
        Trained(peers, {"group:team-a": 2, "group:team-b": 1}, {"bob@corp": 1_700_000_000_000_000})
    )
    (alert,) = client.post("/v1/score", json=[raw_event(0), secret_event(1)]).json()["alerts"]
    answer = client.get("/v1/principals/alice@corp").json()
    assert (answer["kind"], answer["peerGroup"], answer["inTraining"]) == ("human", "group:team-a", True)
    assert (answer["peerCount"], answer["peers"]) == (1, ["bob@corp"])
    assert (answer["actions"], answer["flagged"], answer["alerts"]) == (2, 1, [alert])
    assert answer["lastSeen"] == "2026-11-23T14:00:01Z"
    assert [(one["surprise"], one["severity"]) for one in answer["recent"]] == [
        (10.5, "high"),
        (10.5, "none"),
    ]
    quiet = client.get("/v1/principals/bob@corp").json()
    assert (quiet["actions"], quiet["recent"], quiet["lastSeen"]) == (0, [], "2023-11-14T22:13:20Z")


def test_names_with_slashes_are_found_and_strangers_are_a_404(client: TestClient) -> None:
    client.post("/v1/score", json=[raw_event(0, user="https://issuer.example#bob/ci")])
    found = client.get("/v1/principals/https:%2F%2Fissuer.example%23bob%2Fci")
    assert found.json()["principal"] == "https://issuer.example#bob/ci"
    assert found.json()["inTraining"] is False
    is_problem(client.get("/v1/principals/nobody"), 404, "principal")


def test_memory_for_principals_is_bounded() -> None:
    principals = Principals(most=2)
    for name in ("a", "b", "a", "c"):
        principals.record([name], ["human"], ["kind:human"], np.array([1]), np.ones(1), np.zeros(1), ["none"])
    known = [name for name in "abc" if principals.report(name) is not None]
    assert known == ["a", "c"]  # b was idle longest


def test_the_last_twenty_actions_are_listed_newest_first_in_whatever_batches_they_came() -> None:
    principals = Principals()
    severities = ["high" if number % 7 == 0 else "none" for number in range(60)]
    for begin, end in ((0, 1), (1, 31), (31, 31), (31, 60)):
        count = end - begin
        principals.record(
            ["a", "b"] * count,
            ["human"] * 2 * count,
            ["kind:human"] * 2 * count,
            np.repeat(np.arange(begin, end), 2) * 1_000_000,
            np.repeat(np.arange(begin, end), 2).astype(np.float32),
            np.zeros(2 * count),
            [severity for severity in severities[begin:end] for _ in range(2)],
        )
    report = principals.report("a")
    assert report is not None
    assert (report.actions, report.flagged) == (60, severities.count("high"))
    assert [action.surprise for action in report.recent] == list(range(59, 39, -1))
    assert [action.severity for action in report.recent] == severities[:39:-1]
