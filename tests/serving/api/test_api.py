"""What callers of the HTTP API can rely on."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.app import create_app
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import StoreError
from tests.serving.conftest import settle
from tests.serving.fakes import ndjson, raw_event, secret_event

MEDIA_TYPE = "application/problem+json"


def is_problem(response: object, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    for word in words:
        assert word in body["detail"], body


def counts(**named: int) -> dict[str, int]:
    """Counts of an answer, zero but for those named."""
    outcomes = ("records", "scored", "folded", "repeated", "rejected", "skipped", "flagged")
    return dict.fromkeys(outcomes, 0) | named


# -- scoring ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        json.dumps([raw_event(0), secret_event(1)]).encode(),
        ndjson([raw_event(0), secret_event(1)]),
        json.dumps(
            {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [raw_event(0), secret_event(1)]}
        ).encode(),
    ],
    ids=["list", "ndjson", "EventList"],
)
def test_every_accepted_form_gives_one_result_an_event_in_order(client: TestClient, body: bytes) -> None:
    answer = client.post("/v1/score", content=body)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["auditID"] for result in results] == ["id-0", "id-1"]
    assert [result["status"] for result in results] == ["scored", "scored"]
    assert [result["flagged"] for result in results] == [False, True]
    assert "alertID" not in results[0]
    assert results[1]["alertID"] == answer.json()["alerts"][0]
    assert results[1]["severity"] == "high"
    assert results[1]["fields"][0] == {"field": "namespace", "nll": 7.5}
    assert len(results[1]["fields"]) == 3
    assert answer.json()["counts"] == counts(records=2, scored=2, flagged=1)
    assert answer.json()["skipped"] == {}
    assert answer.json()["model"] == {"name": "kubehabit", "version": "7"}


def test_one_event_alone_is_scored(client: TestClient) -> None:
    assert client.post("/v1/score", json=raw_event()).json()["counts"]["scored"] == 1


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
        ("gzip", lambda body: gzip.compress(body[:100]) + gzip.compress(body[100:])),
        ("zstd", lambda b: zstandard.compress(b[:100]) + zstandard.compress(b[100:])),
        ("gzip", lambda b: gzip.compress(b[:100]) + bytes(40_000) + gzip.compress(b[100:]) + bytes(40_000)),
        ("gzip", lambda b: b"".join(gzip.compress(b[at : at + 7], 0) for at in range(0, len(b), 7))),
    ],
    ids=["gzip", "zstd", "gzip members", "zstd frames", "gzip members with padding", "small gzip members"],
)
def test_compressed_bodies_are_read(
    client: TestClient, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    body = compress(ndjson([raw_event(number) for number in range(50)]))
    answer = client.post("/v1/score", content=body, headers={"Content-Encoding": encoding})
    assert answer.json()["counts"]["scored"] == 50


def test_later_stages_of_a_request_are_folded(client: TestClient) -> None:
    started = raw_event(0, stage="ResponseStarted")
    results = client.post("/v1/score", json=[started, raw_event(0)]).json()["results"]
    assert [result["status"] for result in results] == ["scored", "folded"]


def test_malformed_events_cost_only_themselves(client: TestClient, own_home: Path) -> None:
    lines = [
        json.dumps(raw_event(0)).encode(),
        b"{not json",
        b"",
        json.dumps(raw_event(1) | {"apiVersion": "audit.k8s.io/v9"}).encode(),
        json.dumps(secret_event(2)).encode(),
    ]
    answer = client.post("/v1/score", content=b"\n".join(lines))
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["status"] for result in results] == ["scored", "rejected", "rejected", "scored"]
    assert [result.get("line") for result in results] == [None, 2, 4, None]
    assert "audit.k8s.io/v9" in results[2]["reason"]
    assert answer.json()["counts"] == counts(records=4, scored=2, rejected=2, flagged=1)
    letters = [json.loads(line) for line in (own_home / "dead-letters.jsonl").read_text().splitlines()]
    assert [letter["line"] for letter in letters] == [2, 4]
    assert letters[0]["raw"] == "{not json"
    assert (own_home / "dead-letters.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("body", [b"", b"   ", b"hello", b"\xff\xfe\x00", b"{"])
def test_a_body_with_nothing_readable_is_a_400_that_says_what_to_send(
    client: TestClient, body: bytes
) -> None:
    is_problem(client.post("/v1/score", content=body), 400, "send audit events")


def test_damaged_and_cut_off_compression_is_a_400(client: TestClient) -> None:
    for encoding, whole in (
        ("gzip", gzip.compress(ndjson([raw_event()]))),
        ("zstd", zstandard.compress(ndjson([raw_event()]))),
    ):
        for body in (whole[:-8], whole[: len(whole) // 2], b"nonsense" + whole):
            answer = client.post("/v1/score", content=body, headers={"Content-Encoding": encoding})
            is_problem(answer, 400, "send it again")


def test_an_unknown_encoding_is_a_415(client: TestClient) -> None:
    answer = client.post("/v1/score", content=b"x", headers={"Content-Encoding": "br"})
    is_problem(answer, 415, "gzip")


def test_bodies_over_the_limits_are_413(make_client: Callable[..., TestClient]) -> None:
    client = make_client(limits={"body_mb": 0.01, "decompressed_mb": 0.02})
    is_problem(client.post("/v1/score", content=b"[" + b" " * 20_000), 413, "limits.body_mb")

    def unannounced() -> object:
        for _ in range(20):
            yield b" " * 1000

    is_problem(client.post("/v1/score", content=unannounced()), 413, "limits.body_mb")
    for encoding, bomb in (
        ("gzip", gzip.compress(b" " * 1_000_000)),
        ("zstd", zstandard.compress(b" " * 1_000_000)),
    ):
        answer = client.post("/v1/score", content=bomb, headers={"Content-Encoding": encoding})
        is_problem(answer, 413, "limits.decompressed_mb")


@pytest.mark.parametrize(
    ("encoding", "part"),
    [
        ("gzip", gzip.compress(b"")),
        ("zstd", zstandard.compress(b"")),
        ("zstd", b"\x50\x2a\x4d\x18\x00\x00\x00\x00"),
    ],
    ids=["gzip members", "zstd frames", "zstd skippable frames"],
)
def test_a_body_of_very_many_parts_of_nothing_is_a_413(
    client: TestClient, encoding: str, part: bytes
) -> None:
    answer = client.post("/v1/score", content=part * 10_001, headers={"Content-Encoding": encoding})
    is_problem(answer, 413, "compressed parts")


@pytest.mark.parametrize(
    "body",
    [
        b"1\n" * 10_001,
        b"[" + b"1," * 10_000 + b"1]",
        b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[' + b"{}," * 10_000 + b"{}]}",
        b"[" + b"1," * 600_000 + b"1]",
    ],
    ids=["lines", "list", "EventList", "large list"],
)
def test_a_body_of_very_many_things_that_are_no_events_is_refused_as_a_whole(
    client: TestClient, body: bytes, own_home: Path
) -> None:
    is_problem(client.post("/v1/score", content=body), 400, "nothing of it was taken")
    assert not (own_home / "dead-letters.jsonl").exists()


def test_ten_thousand_that_cannot_be_read_cost_only_themselves(client: TestClient) -> None:
    body = ndjson([raw_event()]) + b"\r\n" + b"1\n" * 10_000
    assert client.post("/v1/score", content=body).json()["counts"] == counts(
        records=10_001, scored=1, rejected=10_000
    )


@pytest.mark.parametrize("moment", ["junk", "2026-13-45T99:99:99Z"])
def test_an_impossible_time_costs_only_its_own_event(client: TestClient, moment: str) -> None:
    broken = raw_event(1, requestReceivedTimestamp=moment)
    answer = client.post("/v1/score", json=[raw_event(0), broken, raw_event(2)])
    assert [result["status"] for result in answer.json()["results"]] == ["scored", "rejected", "scored"]


MUTABLE = sorted(raw_event())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
            lambda inner: (
                st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
            ),
            max_leaves=10,
        ).map(lambda value: json.dumps(value).encode()),
        st.dictionaries(
            st.sampled_from(MUTABLE), st.none() | st.integers() | st.text(max_size=20), max_size=4
        ).map(lambda change: json.dumps(raw_event() | change).encode()),
    ),
    encoding=st.sampled_from(["", "gzip", "zstd", "identity", "x"]),
    path=st.sampled_from(["/v1/score", "/v1/audit"]),
)
def test_no_body_makes_the_service_fail(client: TestClient, body: bytes, encoding: str, path: str) -> None:
    answer = client.post(path, content=body, headers={"Content-Encoding": encoding})
    assert answer.status_code in (200, 400, 413, 415)
    if answer.status_code != 200:
        is_problem(answer, answer.status_code)


# -- webhook ----------------------------------------------------------------------------------------------------


def test_the_webhook_learns_what_was_in_its_batch_and_its_alerts_follow(client: TestClient) -> None:
    batch = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": [secret_event()]}
    answer = client.post("/v1/audit?timeout=30s", json=batch)
    received = {"records": 1, "accepted": 1, "rejected": 0, "skipped": 0}
    assert (answer.status_code, answer.json()) == (200, {"counts": received, "skipped": {}})
    settle(client)
    assert client.get("/v1/alerts").json()["alerts"][0]["auditIDs"] == ["id-0"]


def test_a_batch_sent_again_raises_nothing_twice(client: TestClient) -> None:
    batch = {
        "kind": "EventList",
        "apiVersion": "audit.k8s.io/v1",
        "items": [secret_event(0), secret_event(1)],
    }
    for _ in range(3):
        assert client.post("/v1/audit", json=batch).status_code == 200
    settle(client)
    [alert] = client.get("/v1/alerts").json()["alerts"]
    assert alert["actionCount"] == 2


# -- alerts -----------------------------------------------------------------------------------------------------


def test_an_alert_has_kubernetes_names_and_no_request_contents(client: TestClient) -> None:
    event = secret_event(
        requestURI="/api/v1/namespaces/payments/secrets?labelSelector=password%3Dhunter2",
        requestObject={"kind": "Secret", "data": {"password": "aHVudGVyMg=="}},
        userAgent="curl/8 eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9.c2lnbmF0dXJl",
        impersonatedUser={"username": "system:serviceaccount:team-b:payments"},
    )
    client.post("/v1/score", json=event)
    answer = client.get("/v1/alerts")
    [alert] = answer.json()["alerts"]
    [action] = alert["actions"]
    assert action["auditID"] == "id-0"
    assert action["objectRef"]["resource"] == "secrets"
    assert action["responseStatus"] == {"code": 200}
    assert action["sourceIPs"] == ["203.0.113.7", "127.0.0.1"]
    assert action["impersonatedUser"] == {"username": "system:serviceaccount:team-b:payments"}
    assert action["habits"][0]["actionsBefore"] == 1197
    assert action["fields"][0]["expected"][0] == {"value": "team-a", "probability": 0.93}
    assert alert["techniques"][0]["id"] == "T1552.007"
    assert alert["model"] == {"name": "kubehabit", "version": "7"}
    for secret in ("hunter2", "aHVudGVyMg", "c2lnbmF0dXJl", "eyJhbGci"):
        assert secret not in answer.text


def test_alerts_are_listed_newest_first_in_pages_and_filtered(client: TestClient) -> None:
    for number, user in enumerate(["a", "b", "c", "a"]):
        client.post("/v1/score", json=secret_event(number, user=user, seconds=number * 3600))
    everything = client.get("/v1/alerts").json()
    assert [alert["principal"] for alert in everything["alerts"]] == ["a", "c", "b", "a"]
    assert everything["cursor"] is None
    first = client.get("/v1/alerts", params={"limit": 3}).json()
    rest = client.get("/v1/alerts", params={"limit": 3, "cursor": first["cursor"]}).json()
    assert first["alerts"] + rest["alerts"] == everything["alerts"]
    assert rest["cursor"] is None
    assert len(client.get("/v1/alerts", params={"principal": "a"}).json()["alerts"]) == 2
    assert len(client.get("/v1/alerts", params={"since": "2026-11-23T16:00:00Z"}).json()["alerts"]) == 2
    assert client.get("/v1/alerts", params={"severity": "critical"}).json()["alerts"] == []
    assert len(client.get("/v1/alerts", params={"severity": "medium"}).json()["alerts"]) == 4
    one = everything["alerts"][1]
    assert client.get(f"/v1/alerts/{one['id']}").json() == one


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"namespace": "web"}, ["bob"]),
        ({"namespace": "we"}, []),
        ({"q": "LISTED secrets in web"}, ["bob"]),
        ({"q": "alice"}, ["alice"]),
        ({"state": "open"}, ["carol", "bob"]),
        ({"state": "closed"}, ["alice"]),
        ({"verdict": "none"}, ["carol", "alice"]),
        ({"verdict": "normal"}, ["bob"]),
        ({"verdict": "malicious"}, []),
        ({"severity": "high", "q": "payments", "state": "open", "since": "2026-11-24T00:00:00Z"}, ["carol"]),
        ({"q": "", "namespace": "", "state": "", "verdict": "", "severity": ""}, ["carol", "bob", "alice"]),
    ],
)
def test_alerts_are_filtered_as_the_console_filters_them(
    client: TestClient, asked: dict[str, str], found: list[str]
) -> None:
    ids = {}
    for number, (user, namespace) in enumerate(
        (("alice", "payments"), ("bob", "web"), ("carol", "payments"))
    ):
        event = secret_event(number, user=user, namespace=namespace, seconds=number * 90_000)
        [ids[user]] = client.post("/v1/score", json=event).json()["alerts"]
    client.post(f"/v1/alerts/{ids['bob']}/feedback", json={"verdict": "normal"})
    assert client.post(f"/v1/incidents/{ids['alice']}/close", json={}).status_code == 200
    answer = client.get("/v1/alerts", params=asked)
    assert answer.status_code == 200, answer.text
    assert [alert["principal"] for alert in answer.json()["alerts"]] == found
    page = client.get("/console/alerts", params=asked).text
    listed = [user for user in ("carol", "bob", "alice") if f"/console/alerts/{ids[user]}" in page]
    assert listed == found


def test_a_listing_cites_at_most_a_thousand_audit_ids_and_an_alert_all(client: TestClient) -> None:
    client.post("/v1/score", json=[secret_event(number, seconds=number / 10) for number in range(1200)])
    [alert] = client.get("/v1/alerts").json()["alerts"]
    assert (alert["actionCount"], len(alert["auditIDs"]), len(alert["actions"])) == (1200, 1000, 100)
    assert len(client.get(f"/v1/alerts/{alert['id']}").json()["auditIDs"]) == 1200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/alerts/none", 404),
        ("/nowhere", 404),
        ("/v1/alerts?limit=0", 422),
        ("/v1/alerts?limit=x", 422),
        ("/v1/alerts?severity=grave", 422),
        ("/v1/alerts?since=yesterday", 422),
        ("/v1/alerts?state=merged", 422),
        ("/v1/alerts?verdict=unsure", 422),
        ("/v1/alerts?cursor=-1", 400),
        ("/v1/alerts?cursor=%F0%9F%98%80", 400),
        ("/v1/alerts?cursor=99999999999999999999", 400),
    ],
)
def test_wrong_questions_get_problems(client: TestClient, path: str, status: int) -> None:
    is_problem(client.get(path), status)


def test_a_wrong_method_is_a_problem(client: TestClient) -> None:
    is_problem(client.get("/v1/score"), 405, "/docs")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    since=st.datetimes().map(str) | st.text(max_size=20),
    principal=st.text(max_size=600),
    cursor=st.text(max_size=40) | st.integers().map(str),
    limit=st.integers().map(str) | st.text(max_size=5),
    q=st.text(max_size=600),
)
def test_no_filter_makes_the_service_fail(
    client: TestClient, since: str, principal: str, cursor: str, limit: str, q: str
) -> None:
    for name, value in (
        ("since", since),
        ("principal", principal),
        ("cursor", cursor),
        ("limit", limit),
        ("q", q),
        ("namespace", q),
    ):
        try:
            value.encode()
        except UnicodeEncodeError:
            continue
        answer = client.get("/v1/alerts", params={name: value})
        assert answer.status_code in (200, 400, 422), answer.text


# -- operation --------------------------------------------------------------------------------------------------


def test_without_a_model_the_service_lives_but_is_not_ready(make_client: Callable[..., TestClient]) -> None:
    client = make_client(with_engine=False)
    assert client.get("/healthz").json() == {"status": "ok"}
    for answer in (client.get("/readyz"), client.post("/v1/score", json=[]), client.get("/v1/model")):
        is_problem(answer, 503, "being loaded")
        assert answer.headers["retry-after"]


def test_an_end_waits_for_a_model_that_is_being_loaded(engine: Engine) -> None:
    began, done = threading.Event(), threading.Event()

    def load() -> Engine:
        began.set()
        time.sleep(0.3)
        done.set()
        return engine

    with TestClient(create_app(Settings(), load=load), base_url="http://localhost"):
        assert began.wait(10)
    assert done.is_set()
    with pytest.raises(StoreError):
        engine.store.latest()  # what was loaded was given back as well


def test_the_model_is_loaded_in_the_background_and_a_failure_is_reported(engine: Engine) -> None:
    outcomes: list[BaseException | None] = []
    done = threading.Event()

    def tell(error: BaseException | None) -> None:
        outcomes.append(error)
        done.set()

    def fail() -> Engine:
        raise StoreError("Mend the store.")

    with TestClient(create_app(Settings(), load=fail, on_loaded=tell), base_url="http://localhost") as client:
        assert done.wait(10)
        is_problem(client.get("/readyz"), 503, "Mend the store.")
        assert isinstance(outcomes[0], StoreError)
    done.clear()
    app = create_app(Settings(), load=lambda: engine, on_loaded=tell)
    with TestClient(app, base_url="http://localhost") as client:
        assert done.wait(10)
        ready = client.get("/readyz").json()
        assert (ready["status"], ready["model"], ready["version"]) == ("ready", "kubehabit", "7")
        assert outcomes[1] is None


def test_metrics_count_events_alerts_and_requests(client: TestClient) -> None:
    client.post("/v1/score", content=ndjson([raw_event(0), secret_event(1), secret_event(1)]) + b"\nnonsense")
    text = client.get("/metrics").text
    for line in (
        'kubehabit_events_total{outcome="scored"} 2.0',
        'kubehabit_events_total{outcome="folded"} 0.0',
        'kubehabit_events_total{outcome="repeated"} 1.0',
        'kubehabit_events_total{outcome="rejected"} 1.0',
        'kubehabit_alerts_total{severity="high"} 1.0',
        "kubehabit_scoring_seconds_count 1.0",
        'kubehabit_model{name="kubehabit",version="7"} 1.0',
        'kubehabit_requests_total{route="/v1/score",status="200"} 1.0',
        "kubehabit_ready 1.0",
    ):
        assert line in text.splitlines()


def test_a_store_that_cannot_be_written_is_a_503_and_the_alert_comes_later(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(engine.store, "writing", full)
        answer = client.post("/v1/score", json=secret_event(0))
        is_problem(answer, 503, "The disk is full.")
    # The retry is folded, as the detector has seen the action; its alert must not be lost for that.
    assert client.post("/v1/score", json=secret_event(0)).json()["counts"]["repeated"] == 1
    assert client.get("/v1/alerts").json()["alerts"][0]["auditIDs"] == ["id-0"]


def test_an_unforeseen_error_is_a_500_problem_without_its_inside(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(engine.store, "get", fail)
    answer = client.get("/v1/alerts/7d0c6a1f52b8e934")
    is_problem(answer, 500)
    assert "hunter2" not in answer.text


def test_more_waiting_batches_than_allowed_are_sent_away(
    make_client: Callable[..., TestClient], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(limits={"waiting_requests": 1})
    entered, leave = threading.Event(), threading.Event()
    score = engine.score

    def slow(events: object) -> object:
        entered.set()
        assert leave.wait(10)
        return score(events)

    monkeypatch.setattr(engine, "score", slow)
    statuses: list[int] = []
    first = threading.Thread(
        target=lambda: statuses.append(client.post("/v1/score", json=raw_event()).status_code)
    )
    first.start()
    assert entered.wait(10)
    busy = client.post("/v1/score", json=raw_event(1))
    assert client.get("/healthz").status_code == 200
    leave.set()
    first.join()
    is_problem(busy, 503, "again later")
    assert busy.headers["retry-after"] == "1"
    assert statuses == [200]


def test_the_documentation_describes_every_route_with_examples(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200
    api = client.get("/openapi.json").json()
    assert set(api["paths"]) == {
        "/v1/score",
        "/v1/audit",
        "/v1/alerts",
        "/v1/alerts/{alert_id}",
        "/v1/alerts/{alert_id}/feedback",
        "/v1/alerts/stream",
        "/v1/feedback",
        "/v1/exceptions",
        "/v1/rules",
        "/v1/incidents",
        "/v1/incidents/{incident_id}",
        "/v1/incidents/{incident_id}/elsewhere",
        "/v1/incidents/{incident_id}/merge",
        "/v1/incidents/{incident_id}/split",
        "/v1/incidents/{incident_id}/close",
        "/v1/incidents/{incident_id}/notes",
        "/v1/incidents/{incident_id}/acknowledge",
        "/v1/incidents/{incident_id}/assign",
        "/v1/incidents/{incident_id}/reopen",
        "/v1/incidents/{incident_id}/outcome",
        "/v1/overview",
        "/v1/fleet",
        "/v1/names",
        "/v1/incidents/{incident_id}/evidence",
        "/v1/incidents/{incident_id}/containment",
        "/v1/rbac/report",
        "/v1/rbac/who-can",
        "/v1/rbac/paths",
        "/v1/glossary",
        "/v1/principals",
        "/v1/principals/{principal}",
        "/v1/surprise/{principal}",
        "/v1/habits/{principal}",
        "/v1/peers/{principal}",
        "/v1/events",
        "/v1/events/touched",
        "/v1/events/newcomers",
        "/v1/events/principals/{principal}",
        "/v1/evidence",
        "/v1/model",
        "/v1/model/preview",
        "/v1/model/drift",
        "/v1/model/versions",
        "/v1/model/reload",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    examples = api["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        assert client.post("/v1/score", json=example["value"]).json()["counts"]["rejected"] == 0
    assert "auditIDs" in api["components"]["schemas"]["Alert"]["properties"]
    for path, names in (
        (
            "/v1/alerts",
            {"severity", "principal", "namespace", "technique", "state", "verdict", "q", "since", "until"},
        ),
        ("/v1/alerts/stream", {"severity", "principal", "namespace", "technique", "q"}),
    ):
        described = {
            one["name"]
            for one in api["paths"][path]["get"]["parameters"]
            if one["in"] == "query" and one.get("description")
        }
        assert names <= described


# -- access -----------------------------------------------------------------------------------------------------

TOKEN = "a-token-of-sixteen-or-more"


def test_a_token_guards_everything_but_probes_and_documentation(
    make_client: Callable[..., TestClient],
) -> None:
    client = make_client(token=TOKEN, base_url="http://kubehabit.example")
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    for path in ("/v1/alerts", "/v1/model", "/metrics", "/nowhere"):
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": ""},
        ):
            answer = client.get(path, headers=headers)
            is_problem(answer, 401, "Bearer")
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert client.get("/v1/alerts", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.post("/v1/score", json=raw_event()).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_on_loopback_other_host_names_are_refused(client: TestClient, host: str) -> None:
    is_problem(client.get("/v1/alerts", headers={"Host": host}), 421, "loopback")


@pytest.mark.parametrize("host", ["localhost:8646", "127.0.0.1", "[::1]:8646"])
def test_on_loopback_its_own_names_are_accepted(client: TestClient, host: str) -> None:
    assert client.get("/v1/alerts", headers={"Host": host}).status_code == 200


def test_web_pages_of_other_sites_cannot_write(client: TestClient) -> None:
    answer = client.post("/v1/score", json=secret_event(), headers={"Origin": "https://evil.example"})
    is_problem(answer, 403)
    assert client.get("/v1/alerts").json()["alerts"] == []
    assert (
        client.post("/v1/score", json=raw_event(), headers={"Origin": "http://127.0.0.1:8646"}).status_code
        == 200
    )
