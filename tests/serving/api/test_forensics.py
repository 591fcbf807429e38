"""From a request to the store and back: events are kept beside scoring, asked over HTTP, and exported."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.forensics import ingest
from serving.forensics.evidence.export import check
from serving.forensics.ingest import EventIngest
from serving.forensics.queries import EventFilter, EventQueries
from serving.forensics.verify import verify
from serving.scoring.journal import Journal, record
from tests.serving.event_stores import body, new_store, story
from tests.serving.fakes import raw_event, secret_event

EVENTS = {"enabled": True, "seal_seconds": 3600, "memory_mb": 256}


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client(events=EVENTS)


def kept(client: TestClient, count: int, **query: Any) -> list[dict[str, Any]]:
    """Events that the store tells of, once there are so many."""
    for _ in range(200):
        found: list[dict[str, Any]] = client.get("/v1/events", params={"limit": 1000, **query}).json()[
            "events"
        ]
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{len(found)} of {count} events")


def test_every_event_is_kept_with_its_alert(client: TestClient) -> None:
    answer = client.post("/v1/score", content=body(story())).json()
    found = kept(client, 27)
    assert [event["auditID"] for event in found] == [event["auditID"] for event in story()]
    listed = next(event for event in found if event["auditID"] == "id-30")
    assert listed["alertID"] in answer["alerts"]
    assert listed["credentialID"] == "JTI=3f2a8c1e"
    assert listed["objectRef"]["resource"] == "secrets"
    original = client.get("/v1/events", params={"auditID": "id-30", "original": True}).json()["events"][0][
        "original"
    ]
    assert original == story()[23]


def test_the_webhooks_events_are_kept_too(client: TestClient) -> None:
    assert client.post("/v1/audit", content=body(story())).status_code == 200
    assert len(kept(client, 27)) == 27


def test_questions_over_http(client: TestClient) -> None:
    client.post("/v1/score", content=body(story()))
    kept(client, 27)
    where = {"resource": "secret", "namespace": "payments", "name": "db"}
    touched = client.get("/v1/events/touched", params=where).json()["touched"]
    assert {(one["principal"], one["verb"], one["how"]) for one in touched} == {
        ("bob@corp", "get", "direct"),
        ("mallory@corp", "get", "direct"),
        ("mallory@corp", "list", "list"),
    }
    new = client.get(
        "/v1/events/newcomers", params={"namespace": "payments", "since": "2026-11-23T14:00:25"}
    ).json()
    assert [one["principal"] for one in new["newcomers"]] == ["alice@corp", "mallory@corp"]
    assert new["storeBegins"] == "2026-11-23T14:00:00.000000Z"
    assert client.get("/v1/events/principals/mallory@corp").json()["count"] == 3
    assert client.get("/v1/events/principals/nobody").status_code == 404
    page = client.get("/v1/events", params={"credential": "3f2a8c1e", "limit": 1}).json()
    rest = client.get("/v1/events", params={"credential": "3f2a8c1e", "cursor": page["cursor"]}).json()
    assert [event["auditID"] for event in page["events"] + rest["events"]] == ["id-30", "id-31"]
    assert rest["cursor"] is None


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"since": "yesterday"}, 400),
        ({"cursor": "' OR 1"}, 400),
        ({"code": "all"}, 400),
        ({"limit": 10_001}, 422),
        ({"decision": "maybe"}, 422),
        ({"principal": "x" * 600}, 422),
    ],
)
def test_wrong_questions_are_refused(client: TestClient, query: dict[str, Any], status: int) -> None:
    answer = client.get("/v1/events", params=query)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_evidence_of_an_alert_over_http(client: TestClient, tmp_path: Path) -> None:
    (alert,) = client.post("/v1/score", content=body(story()[:25])).json()["alerts"][-1:]
    kept(client, 25)
    wanted = {"alerts": [alert], "note": "Incident 42", "by": "kim"}
    answer = client.post("/v1/evidence", json=wanted)
    assert answer.status_code == 200, answer.text
    path = tmp_path / "evidence.json"
    path.write_bytes(answer.content)
    checked = check(path)
    assert checked.findings == []
    assert checked.by.endswith("who says to be 'kim'")
    content = answer.json()["content"]
    ids = client.get(f"/v1/alerts/{alert}").json()["auditIDs"]
    assert {event["record"]["audit_id"] for event in content["events"]} == set(ids)
    assert content["models"][0]["version"] == "7"
    page = client.post("/v1/evidence", params={"form": "html"}, json=wanted)
    assert page.headers["content-type"].startswith("text/html")
    assert "Incident 42" in page.text
    assert client.post("/v1/evidence", json={"alerts": ["none"]}).status_code == 404
    assert client.post("/v1/evidence", json={"principal": "nobody"}).status_code == 404


def test_without_a_store_the_routes_say_so(make_client: Callable[..., TestClient]) -> None:
    answer = make_client().get("/v1/events")
    assert answer.status_code == 404
    assert "events.enabled" in answer.json()["detail"]


def test_a_restart_goes_on_where_it_was(make_client: Callable[..., TestClient], own_home: Path) -> None:
    client = make_client(events=EVENTS)
    client.post("/v1/score", content=body(story()[:10]))
    client.__exit__(None, None, None)
    assert verify(own_home / "events").records == 10


# -- from the journal -------------------------------------------------------------------------------------------


def append(journal: Journal, events: list[dict[str, Any]]) -> int:
    plain = body(events)
    return journal.append(record("/v1/audit", plain, "", plain)).result().sequence


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened")


def test_batches_of_an_earlier_process_are_taken_in_and_the_journal_keeps_them_until_then(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal", 1 << 24)
    for number in range(3):
        append(journal, [raw_event(number)])
    store = new_store(tmp_path / "store")
    scored = 2
    follower = EventIngest(lambda: store, journal, lambda: scored)
    assert follower.held() == 0
    follower.start()
    wait_for(lambda: store.position == 2)
    assert follower.behind() == 0
    assert append(journal, [raw_event(7)]) == 4
    scored = 4
    wait_for(lambda: store.position == 4)
    follower.close()
    journal.close()
    found = EventQueries(tmp_path / "store").events(EventFilter()).records
    assert [one.audit_id for one in found] == ["id-0", "id-1", "id-2", "id-7"]


def test_an_event_that_is_sent_again_after_a_restart_is_kept_once(tmp_path: Path) -> None:
    """As by a webhook whose answer was lost when the service was killed; the events may be cut into other batches."""
    journal = Journal(tmp_path / "journal", 1 << 24)
    sent = [raw_event(number) for number in range(4)]
    for batches in ([sent[:2], sent[2:]], [sent[1:], [raw_event(9)]]):
        for events in batches:
            append(journal, events)
        follower = EventIngest(lambda: new_store(tmp_path / "store"), journal, lambda: journal.last)
        follower.start()
        wait_for(lambda it=follower: it.behind() == 0)
        follower.close()
    journal.close()
    found = EventQueries(tmp_path / "store").events(EventFilter()).records
    assert [one.audit_id for one in found] == ["id-0", "id-1", "id-2", "id-3", "id-9"]


def test_the_journal_keeps_the_newest_batches_although_the_store_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what comes again, but waits to be copied when its first copy is forgotten, would be kept twice after a kill."""
    journal = Journal(tmp_path / "journal", 1 << 24)
    sizes = []
    for number in range(6):
        append(journal, [raw_event(number)])
        sizes = [place.stored for place in journal.positions(0)]
    monkeypatch.setattr(ingest, "_RECENT_BYTES", sum(sizes[-2:]))
    store = new_store(tmp_path / "store")
    follower = EventIngest(lambda: store, journal, lambda: journal.last)
    follower.start()
    wait_for(lambda: follower.behind() == 0 and store.position == 6)
    assert follower.held() == 4
    assert EventIngest(lambda: store, journal, lambda: 6).held() == 0, "until it has read them again"
    follower.close()
    journal.close()


def test_what_waits_to_be_scored_goes_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", 1 << 24)
    store = new_store(tmp_path / "store")
    asked = []

    def busy() -> bool:
        asked.append(len(EventQueries(tmp_path / "store").events(EventFilter()).records))
        return len(asked) < 4

    follower = EventIngest(lambda: store, journal, lambda: journal.last, busy)
    append(journal, [raw_event(1)])
    follower.start()
    wait_for(lambda: store.position == 1)
    follower.close()
    journal.close()
    assert asked == [0, 0, 0, 0]


def test_a_journal_that_was_thrown_away_does_not_hide_new_batches(tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    store.append(body([raw_event(0)]), batch=50)
    store.sync()
    journal = Journal(tmp_path / "journal", 1 << 24)
    follower = EventIngest(lambda: store, journal, lambda: journal.last)
    assert append(journal, [raw_event(1)]) == 51
    follower.start()
    wait_for(lambda: store.position == 51)
    follower.close()
    journal.close()


def test_what_cannot_be_written_waits_in_the_journal_and_is_kept_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal", 1 << 24)
    store = new_store(tmp_path / "store")
    real, attempts = store.append, []

    def failing(*arguments: Any, **more: Any) -> int:
        attempts.append(more["batch"])
        if len(attempts) < 3:
            raise OSError(28, "No space left on device")
        return real(*arguments, **more)

    monkeypatch.setattr(store, "append", failing)
    follower = EventIngest(lambda: store, journal, lambda: journal.last)
    append(journal, [raw_event(1)])
    follower.start()
    wait_for(lambda: store.position == 1)
    follower.close()
    journal.close()
    assert attempts == [1, 1, 1]


def test_batches_that_the_journal_lost_are_noted_in_the_ledger(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", 1 << 24)
    sequences = [append(journal, [secret_event(number)]) for number in range(3)]
    places = list(journal.positions(0, 3))
    path = next((tmp_path / "journal").glob("*.journal"))
    damaged = bytearray(path.read_bytes())
    damaged[places[1].offset + 60] ^= 1
    path.write_bytes(damaged)
    store = new_store(tmp_path / "store")
    follower = EventIngest(lambda: store, journal, lambda: journal.last)
    follower.start()
    wait_for(lambda: store.position == sequences[-1])
    follower.close()
    journal.close()
    (gap,) = [gap for gap in verify(tmp_path / "store").gaps if "could not be kept" in gap.why]
    assert "1 batches" in gap.why
    assert len(EventQueries(tmp_path / "store").events(EventFilter()).records) == 2


def test_the_journals_places_are_read_on_while_it_grows(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", 1 << 22)
    for number in range(40):
        append(journal, [raw_event(number, userAgent="x" * 20_000 + str(number))])
    whole = list(journal.positions(0, 40))
    assert [place.sequence for place in whole] == list(range(1, 41))
    assert list(journal.positions(17, 33, whole[16])) == whole[17:33]
    assert list(journal.positions(40, 40, whole[-1])) == []
    assert json.loads(body([raw_event(1)]))["items"]
    journal.close()


def test_a_damaged_store_keeps_nothing_from_being_scored_and_its_events_come_later(
    tmp_path: Path, make_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_REOPEN_SECONDS", 0.1)
    folder = tmp_path / "store"
    store = new_store(folder)
    store.append(body(story()[:5]))
    store.close()
    whole = (folder / "ledger.jsonl").read_bytes()
    (folder / "ledger.jsonl").write_bytes(whole.splitlines(keepends=True)[0])
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    client = make_client(events=EVENTS | {"path": folder})
    answer = client.post("/v1/score", content=body(story()))
    assert answer.status_code == 200
    assert answer.json()["alerts"]
    notice = client.get("/readyz").json()["notice"]
    assert "Events are not kept" in notice
    assert "kubehabit verify" in notice
    assert client.get("/v1/events").status_code == 503
    metrics = client.get("/metrics").text
    assert "kubehabit_event_store_usable 0.0" in metrics
    assert "kubehabit_event_store_behind_batches 1.0" in metrics
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    (folder / "ledger.jsonl").write_bytes(whole)
    wait_for(lambda: client.get("/v1/events").status_code == 200)
    # The five that it had are known again, and kept once.
    assert len(kept(client, len(story()))) == len(story())
    assert client.get("/readyz").json()["notice"] is None
    assert "kubehabit_event_store_usable 1.0" in client.get("/metrics").text


def test_files_that_were_set_aside_are_named_to_the_operator(
    tmp_path: Path, make_client: Callable[..., TestClient]
) -> None:
    folder = tmp_path / "store"
    new_store(folder).close()
    (folder / "2026-11-24").mkdir()
    (folder / "2026-11-24" / "7.parquet").write_bytes(b"evidence")
    client = make_client(events=EVENTS | {"path": folder})
    assert "does not account for 1 files" in client.get("/readyz").json()["notice"]
    assert "kubehabit_event_store_set_aside_files 1.0" in client.get("/metrics").text
    assert [path.read_bytes() for path in folder.glob("set-aside/*/*.parquet")] == [b"evidence"]


def test_a_store_that_is_put_right_takes_in_a_journal_that_is_newer_than_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_REOPEN_SECONDS", 0.05)
    store = new_store(tmp_path / "store")
    store.append(body([raw_event(0)]), batch=50)
    store.close()
    head = (tmp_path / "store" / "head.json").read_bytes()
    ledger = (tmp_path / "store" / "ledger.jsonl").read_bytes()
    (tmp_path / "store" / "ledger.jsonl").write_bytes(b"damaged\n")
    journal = Journal(tmp_path / "journal", 1 << 24)
    follower = EventIngest(lambda: new_store(tmp_path / "store"), journal, lambda: journal.last)
    assert follower.notice is not None
    assert append(journal, [raw_event(1)]) == 1
    follower.start()
    (tmp_path / "store" / "head.json").write_bytes(head)
    (tmp_path / "store" / "ledger.jsonl").write_bytes(ledger)
    wait_for(lambda: follower.store is not None and follower.store.position == 1)
    follower.close()
    journal.close()
    found = EventQueries(tmp_path / "store").events(EventFilter()).records
    assert [one.audit_id for one in found] == ["id-0", "id-1"]
