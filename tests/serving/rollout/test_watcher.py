"""A served model's life: a new champion takes over without a dropped request, a bad one is refused, a challenger only watches."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from data.events.decode import decode_lines
from data.events.reader import open_lines
from detection.bundle import Bundle
from detection.detector import Detector
from detection.version_records import DriftRecord, PromotionRecord, tag_of
from serving.app import create_app
from serving.rollout.loader import load_engine
from serving.rollout.shadow import Shadow
from serving.runtime import Service
from serving.settings import Settings
from tests.conftest import RECORDINGS
from tests.serving.fakes import ndjson, raw_event
from tests.serving.registries import (
    Change,
    Registry,
    corrupted,
    lying,
    no_graph,
    of_another_format,
    touchy,
    untested,
)


@pytest.fixture
def registry(
    tmp_path: Path, empty_registry: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    # As in a process of its own, where it is set before MLflow opens the file for the first time.
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    made = Registry(tmp_path / "registry", empty_registry, tiny_bundle)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    monkeypatch.setenv("KUBEHABIT_RULES__SHIPPED", "false")  # what is compared here are models
    return made


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Applications that serve what the registry has; they look at it on request, not by themselves."""
    opened: list[TestClient] = []

    def make(**model: Any) -> TestClient:
        settings = Settings(
            model={"cache": tmp_path / "cache", "watch_seconds": 0} | model,
            store={"url": "sqlite://"},
            journal={"path": tmp_path / f"journal-{len(opened)}"},
            events={"enabled": False},
        )
        app = create_app(settings, load_engine(settings))
        client = TestClient(app, base_url="http://127.0.0.1:8646")
        client.__enter__()
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.__exit__(None, None, None)


def service_of(client: TestClient) -> Service:
    service = client.app.state.service  # type: ignore[attr-defined]
    assert isinstance(service, Service)
    return service


def figures(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")
    }


def versions(client: TestClient) -> tuple[str, str, str]:
    """As an answer to /v1/score, /readyz and /v1/model tell it."""
    scored = client.post("/v1/score", content=ndjson([raw_event()])).json()
    return (
        scored["model"]["version"],
        client.get("/readyz").json()["version"],
        client.get("/v1/model").json()["version"],
    )


def test_a_new_champion_takes_over(registry: Registry, serve: Callable[..., TestClient]) -> None:
    registry.add(alias="champion")
    client = serve()
    assert versions(client) == ("1", "1", "1")
    shown = client.get("/v1/model").json()
    assert shown["selfTest"]["windows"] >= 64
    assert shown["selfTest"]["worstDifference"] <= shown["selfTest"]["tolerance"]
    answer = client.post("/v1/model/reload").json()
    assert (answer["result"], answer["model"]["watch"]["trouble"]) == ("unchanged", None)

    registry.add(alias="champion")
    assert versions(client) == ("1", "1", "1"), "nobody has looked yet"
    answer = client.post("/v1/model/reload")
    assert answer.status_code == 200
    assert answer.json()["result"] == "swapped"
    assert versions(client) == ("2", "2", "2")
    swap = client.get("/v1/model").json()["watch"]["lastSwap"]
    assert (swap["before"], swap["version"]) == ("1", "2")
    shown = figures(client)
    assert shown['kubehabit_model_reload_total{result="swapped"}'] == 1
    assert shown['kubehabit_model{name="kubehabit",version="2"}'] == 1
    assert 'kubehabit_model{name="kubehabit",version="1"}' not in shown
    assert [name for name in shown if name.startswith("kubehabit_model_info{") and 'version="2"' in name]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (corrupted, "checksum of model.onnx does not match"),
        (no_graph, "no graph that onnxruntime can read"),
        (lying, "fails its self-test"),
        (of_another_format, "another version of kubehabit"),
    ],
)
def test_a_bad_champion_is_refused_once_and_the_old_one_serves_on(
    registry: Registry,
    serve: Callable[..., TestClient],
    caplog: pytest.LogCaptureFixture,
    spoil: Change,
    words: str,
) -> None:
    registry.add(alias="champion")
    client = serve()
    service = service_of(client)
    assert service.watch is not None
    registry.add(spoil, alias="champion")
    tried: list[Any] = []
    load = service.watch._load
    service.watch._load = lambda *given: tried.append(given) or load(*given)  # type: ignore[func-returns-value]
    with caplog.at_level(logging.INFO, "kubehabit.reload"):
        for _ in range(4):
            look = service.watch.look()
            assert look.result == "refused"
            assert words in look.detail
            assert versions(client) == ("1", "1", "1")
    assert len(tried) <= 1, "a version that was refused is not loaded again and again"
    assert figures(client)['kubehabit_model_reload_total{result="refused"}'] == 1
    assert figures(client)["kubehabit_model_refused"] == 1
    assert len([record for record in caplog.records if words in record.getMessage()]) == 1
    notice = client.get("/readyz").json()["notice"]
    assert notice.startswith("Version 2 was refused: ")
    assert words in notice
    assert notice.endswith("Version 1 is served on.")
    watch = client.get("/v1/model").json()["watch"]
    assert [(one["version"], one["alias"]) for one in watch["refused"]] == [("2", "champion")]
    assert words in watch["refused"][0]["reason"]

    answer = client.post("/v1/model/reload")  # a request may try it again
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    assert words in answer.json()["detail"]

    registry.add(alias="champion")
    assert client.post("/v1/model/reload").json()["result"] == "swapped"
    assert versions(client) == ("3", "3", "3")
    assert client.get("/readyz").json()["notice"] is None
    assert figures(client)["kubehabit_model_refused"] == 0


def test_a_bad_champion_at_the_start_is_bridged_by_the_last_good_one(
    registry: Registry, serve: Callable[..., TestClient]
) -> None:
    registry.add(alias="champion")
    serve()
    registry.add(lying, alias="champion")
    client = serve()
    assert versions(client) == ("1", "1", "1")
    assert "fails its self-test" in client.get("/readyz").json()["notice"]


def test_a_registry_that_goes_away_changes_nothing_and_is_found_again(
    registry: Registry, serve: Callable[..., TestClient], tmp_path: Path
) -> None:
    registry.add(alias="champion")
    client = serve()
    registry.database.rename(tmp_path / "away.db")
    for started in (client, serve()):  # one that ran before, and one that starts now
        answer = started.post("/v1/model/reload")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        assert "There is no model registry" in answer.json()["detail"]
        assert versions(started) == ("1", "1", "1")
        assert "There is no model registry" in started.get("/readyz").json()["notice"]
        assert figures(started)["kubehabit_model_registry_up"] == 0
        assert figures(started)['kubehabit_model_reload_total{result="unavailable"}'] == 1
    late = started
    assert late.get("/v1/model").json()["source"] == "cache"
    (tmp_path / "away.db").rename(registry.database)
    assert late.post("/v1/model/reload").json()["result"] == "unchanged"
    assert late.get("/readyz").json()["notice"] is None
    assert late.get("/v1/model").json()["source"] == "registry"
    registry.add(alias="champion")
    assert late.post("/v1/model/reload").json()["result"] == "swapped"
    assert figures(late)["kubehabit_model_registry_up"] == 1


def test_the_first_champion_takes_over_from_the_starter_model_with_what_it_learned(
    registry: Registry, serve: Callable[..., TestClient]
) -> None:
    client = serve()
    assert client.get("/v1/model").json()["source"] == "starter"
    assert "knows no principal of this cluster" in client.get("/readyz").json()["notice"]
    assert client.get("/v1/model").json()["history"]["share"] is None
    events = ndjson([raw_event(number, user="alice@corp") for number in range(150)])
    client.post("/v1/score", content=events)
    history = client.get("/v1/model").json()["history"]
    assert (history["principals"], history["principalsReady"], history["ready"]) == (1, 1, False)
    assert figures(client)['kubehabit_actions_total{history="short"}'] == 100
    assert figures(client)['kubehabit_actions_total{history="enough"}'] == 50
    assert client.get("/v1/principals/alice@corp").json()["knownActions"] == 150
    assert client.get("/v1/principals/alice@corp").json()["ready"]

    answer = client.post("/v1/model/reload").json()
    assert (answer["result"], answer["model"]["watch"]["trouble"]) == ("unchanged", None)
    assert figures(client)["kubehabit_model_registry_up"] == 1
    registry.add(alias="champion")
    assert client.post("/v1/model/reload").json()["result"] == "swapped"
    assert client.get("/v1/model").json()["source"] == "registry"
    client.post("/v1/score", content=ndjson([raw_event(999, user="alice@corp")]))
    assert client.get("/v1/principals/alice@corp").json()["knownActions"] == 151


def test_an_alias_or_files_that_vanish_are_reported_and_tried_again(
    registry: Registry, serve: Callable[..., TestClient], tmp_path: Path
) -> None:
    registry.add(alias="champion")
    client = serve()
    registry.remove("champion")
    answer = client.post("/v1/model/reload")
    assert answer.status_code == 503
    assert "no models:/kubehabit@champion" in answer.json()["detail"]
    version = registry.add(alias="champion")
    files = tmp_path / "registry" / "artifacts" / version
    files.rename(tmp_path / "files")
    answer = client.post("/v1/model/reload")
    assert answer.status_code == 503
    assert "its files cannot be fetched" in answer.json()["detail"]
    assert versions(client) == ("1", "1", "1")
    (tmp_path / "files").rename(files)
    service = service_of(client)
    assert service.watch is not None
    assert service.watch.look().result == "swapped", "what could not be fetched was not refused"


def test_a_bundle_without_a_self_test_serves_with_a_notice(
    registry: Registry, serve: Callable[..., TestClient]
) -> None:
    registry.add(untested, alias="champion")
    client = serve()
    assert versions(client) == ("1", "1", "1")
    assert "before bundles had a self-test" in client.get("/readyz").json()["notice"]
    assert client.get("/v1/model").json()["selfTest"] is None


def test_the_watch_looks_by_itself_and_a_surprise_does_not_end_it(
    registry: Registry, serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add(alias="champion")
    client = serve(watch_seconds=0.01)
    from serving.rollout import watcher

    locate, failed = watcher.locate, threading.Event()

    def failing_once(*given: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise ZeroDivisionError
        return locate(*given)

    monkeypatch.setattr(watcher, "locate", failing_once)
    registry.add(alias="champion")
    assert failed.wait(30)
    until = time.monotonic() + 30
    while client.get("/readyz").json()["version"] != "2" and time.monotonic() < until:
        time.sleep(0.02)
    assert versions(client) == ("2", "2", "2")


def test_a_folder_is_not_followed(serve: Callable[..., TestClient], tiny_bundle: Path) -> None:
    settings = Settings(store={"url": "sqlite://"})
    with TestClient(
        create_app(settings, load_engine(settings, tiny_bundle)), base_url="http://127.0.0.1:8646"
    ) as client:
        answer = client.post("/v1/model/reload")
        assert answer.status_code == 409
        assert "came from a folder" in answer.json()["detail"]
        assert client.get("/v1/model").json()["watch"] is None


@pytest.fixture(scope="module")
def attacked_lines() -> list[bytes]:
    return list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 10_500))


def test_verdicts_over_several_reloads_are_those_of_one_detector(
    registry: Registry, serve: Callable[..., TestClient], tiny_bundle: Path, attacked_lines: list[bytes]
) -> None:
    registry.add(alias="champion")
    client = serve()
    results = []
    for begin in range(0, len(attacked_lines), 1500):
        answer = client.post("/v1/score", content=b"\n".join(attacked_lines[begin : begin + 1500])).json()
        results += [result for result in answer["results"] if result["status"] == "scored"]
        registry.add(alias="champion")
        assert client.post("/v1/model/reload").json()["result"] == "swapped"
    scores = Detector(Bundle.load(tiny_bundle)).score(decode_lines(attacked_lines).events)
    assert scores.flagged.any()
    assert [result["flagged"] for result in results] == scores.flagged.tolist()
    assert [result["evidence"] for result in results] == pytest.approx(scores.evidence.tolist(), abs=1e-4)
    assert client.get("/v1/principals/system:apiserver").json()["actions"] == scores.principal.count(
        "system:apiserver"
    ), "reports on principals go on as well"


# -- the challenger --------------------------------------------------------------------------------------------------


def shadow_of(client: TestClient) -> Shadow:
    watch = service_of(client).watch
    assert watch is not None
    watch.look()
    assert watch._shadow is not None
    return watch._shadow


def drained(shadow: Shadow) -> None:
    until = time.monotonic() + 60
    while not shadow.drained():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_challenger_counts_where_it_differs_and_raises_nothing(
    registry: Registry, serve: Callable[..., TestClient], attacked_lines: list[bytes]
) -> None:
    registry.add(alias="champion")
    registry.add(touchy, alias="challenger")
    client = serve(challenger="challenger")
    shadow = shadow_of(client)
    scored = flagged = 0
    for begin in range(0, len(attacked_lines), 700):
        counts = client.post("/v1/score", content=b"\n".join(attacked_lines[begin : begin + 700])).json()[
            "counts"
        ]
        scored += counts["scored"]
        flagged += counts["flagged"]
    drained(shadow)
    shown = client.get("/v1/model").json()
    assert (shown["version"], shown["challenger"]["version"]) == ("1", "2")
    challenger = shown["challenger"]
    assert (challenger["scored"], challenger["dropped"], challenger["waiting"]) == (scored, 0, 0)
    # The same model with a lower threshold: it flags all that the champion flags, and more.
    assert challenger["flaggedByBoth"] == flagged > 0
    assert challenger["flaggedByChampionOnly"] == 0
    assert challenger["flaggedByChallengerOnly"] > 0
    # What it flagged is no habit to it, and so more often new again.
    assert challenger["meanEvidenceDifference"] > 0
    assert challenger["incidents"]["challenger"] > challenger["incidents"]["champion"] > 0
    latest = challenger["latest"]
    assert 0 < len(latest) <= 20
    assert {one["flaggedBy"] for one in latest} == {"challenger"}
    alerts = client.get("/v1/alerts", params={"limit": 500}).json()["alerts"]
    assert sum(len(alert["auditIDs"]) for alert in alerts) == flagged
    assert {alert["model"]["version"] for alert in alerts} == {"1"}
    metrics = figures(client)
    assert metrics['kubehabit_shadow_events_total{outcome="scored"}'] == scored
    assert metrics['kubehabit_shadow_flagged_total{by="both"}'] == flagged
    assert metrics['kubehabit_shadow_flagged_total{by="challenger"}'] == challenger["flaggedByChallengerOnly"]
    assert (
        metrics['kubehabit_shadow_incidents_total{by="challenger"}'] == challenger["incidents"]["challenger"]
    )
    assert metrics["kubehabit_shadow_evidence_difference_count"] > 0


def test_a_challenger_that_cannot_keep_up_drops_and_counts(
    registry: Registry, serve: Callable[..., TestClient]
) -> None:
    registry.add(alias="champion")
    registry.add(touchy, alias="challenger")
    client = serve(challenger="challenger")
    shadow = shadow_of(client)
    shadow._capacity = 100
    entered, go_on = threading.Event(), threading.Event()
    score = shadow.loaded.detector.score

    def stuck(events: Any) -> Any:
        entered.set()
        assert go_on.wait(60)
        return score(events)

    shadow.loaded.detector.score = stuck  # type: ignore[method-assign]
    for start in range(0, 300, 60):
        answer = client.post("/v1/score", content=ndjson([raw_event(start + i) for i in range(60)]))
        assert answer.json()["counts"]["scored"] == 60, "the champion does not wait for it"
        assert entered.wait(60)
    shown = client.get("/v1/model").json()["challenger"]
    assert (shown["dropped"], shown["waiting"]) == (240, 60)
    assert figures(client)['kubehabit_shadow_events_total{outcome="dropped"}'] == 240
    go_on.set()
    drained(shadow)
    assert client.get("/v1/model").json()["challenger"]["scored"] == 60


def test_a_challenger_that_fails_is_not_asked_again(
    registry: Registry, serve: Callable[..., TestClient]
) -> None:
    registry.add(alias="champion")
    registry.add(touchy, alias="challenger")
    client = serve(challenger="challenger")
    shadow = shadow_of(client)

    def failing(events: Any) -> Any:
        raise ZeroDivisionError

    shadow.loaded.detector.score = failing  # type: ignore[method-assign]
    client.post("/v1/score", content=ndjson([raw_event(1)]))
    drained(shadow)
    assert client.post("/v1/score", content=ndjson([raw_event(2)])).status_code == 200
    shown = client.get("/v1/model").json()["challenger"]
    assert "ZeroDivisionError" in shown["notice"]
    assert (shown["scored"], shown["waiting"]) == (0, 0)


def test_the_challenger_follows_its_alias_and_ends_as_champion(
    registry: Registry, serve: Callable[..., TestClient]
) -> None:
    registry.add(alias="champion")
    client = serve(challenger="challenger")
    watch = service_of(client).watch
    assert watch is not None

    def challenger() -> Any:
        watch.look()
        shown = client.get("/v1/model").json()["challenger"]
        named = [name for name in figures(client) if 'role="challenger"' in name]
        assert len(named) == (shown is not None)
        return shown and shown["version"]

    assert challenger() is None
    registry.add(touchy, alias="challenger")
    assert challenger() == "2"
    registry.add(alias="challenger")
    assert challenger() == "3"
    registry.add(lying, alias="challenger")
    assert challenger() is None
    refused = client.get("/v1/model").json()["watch"]["refused"]
    assert [(one["version"], one["alias"]) for one in refused] == [("4", "challenger")]
    assert client.get("/readyz").json()["notice"] is None, "a bad challenger is no trouble of the champion's"
    registry.set("challenger", "3")
    assert challenger() == "3"
    registry.set("champion", "3")
    assert challenger() is None
    assert client.get("/readyz").json()["version"] == "3"
    registry.remove("challenger")
    assert challenger() is None


def test_the_challenger_begins_with_what_is_known_of_the_principals(
    registry: Registry, serve: Callable[..., TestClient], attacked_lines: list[bytes]
) -> None:
    registry.add(alias="champion")
    client = serve(challenger="challenger")
    half = 5000
    client.post("/v1/score", content=b"\n".join(attacked_lines[:half]))
    registry.add(alias="challenger")
    shadow = shadow_of(client)
    client.post("/v1/score", content=b"\n".join(attacked_lines[half:]))
    drained(shadow)
    shown = client.get("/v1/model").json()["challenger"]
    assert shown["flaggedByBoth"] > 0
    assert (shown["flaggedByChampionOnly"], shown["flaggedByChallengerOnly"]) == (0, 0)
    assert shown["meanEvidenceDifference"] == pytest.approx(0, abs=1e-4)


def test_versions_stand_side_by_side_and_an_advice_to_train_again_holds_everywhere(
    registry: Registry, serve: Callable[..., TestClient]
) -> None:
    registry.add(alias="champion")
    registry.add(alias="challenger")
    now = datetime.now(UTC)
    refused = PromotionRecord(
        now, "refused", "1", "2", "<b>ci</b>", "nightly", ("recall: worse beyond chance.",)
    )
    advice = DriftRecord(now, "today.jsonl", 9000, True, 0.05, 0.0, ("3 principals behave differently.",))
    registry.tag("2", dict([tag_of(refused), ("dev_recall", "0.91"), ("held_back_surprise", "3.5")]))
    registry.tag("1", dict([tag_of(advice), ("dev_recall", "0.97"), ("held_back_surprise", "3.4")]))
    client = serve()
    client.post("/v1/score", content=ndjson([raw_event()]))
    assert client.get("/v1/model/versions").json()["asking"]
    service_of(client).versions.wait(30)

    known = client.get("/v1/model/versions").json()
    assert [(one["version"], one["aliases"], one["served"]) for one in known["versions"]] == [
        ("2", ["challenger"], False),
        ("1", ["champion"], True),
    ]
    assert known["promotions"][0] | {"time": ""} == {
        "time": "",
        "outcome": "refused",
        "before": "1",
        "after": "2",
        "by": "<b>ci</b>",
        "note": "nightly",
        "reasons": ["recall: worse beyond chance."],
    }
    page = client.get("/console/model/versions", headers={"Accept": "text/html"}).text
    assert '91%<span class="under">-6% to the champion</span>' in page
    assert "3.500" in page
    assert "&lt;b&gt;ci&lt;/b&gt;" in page
    one = client.get("/console/model/versions?compare=1", headers={"Accept": "text/html"}).text
    assert "to the champion" not in one

    drift = client.get("/v1/model/drift").json()
    assert (drift["verdict"], drift["compared"]["log"]) == ("changed", "today.jsonl")
    assert "said to train again" in client.get("/console/model", headers={"Accept": "text/html"}).text
    assert client.get("/v1/overview").json()["model"]["drift"] == "changed"


def test_a_model_from_a_folder_has_no_versions_and_the_page_says_so(
    make_client: Callable[..., TestClient],
) -> None:
    client = make_client()
    assert client.get("/v1/model/versions").json()["followed"] is False
    page = client.get("/console/model/versions", headers={"Accept": "text/html"}).text
    assert "there is no registry to ask" in page
