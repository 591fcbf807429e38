"""The history of a running service over HTTP and on the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from detection.calibration import Calibration, Tail
from detection.rarity import Rarity
from kubehabit.main import app as command_line
from serving.app import create_app
from serving.history.activity import Trained
from serving.history.recorder import Judge
from serving.runtime import Service
from serving.scoring.engine import Engine
from serving.settings import Settings
from tests.serving.conftest import settle
from tests.serving.event_stores import body
from tests.serving.fakes import raw_event, secret_event
from tests.serving.live import Live

JUDGE = Judge("7", (120.0,), (4.0,), (4.0,))
TRAINED = Trained({"carol@corp": "group:team-a", "alice@corp": "group:team-a"}, {"group:team-a": 2}, {})


def seconds_ago(hours: float) -> float:
    """Seconds from the beginning of the made-up events to so many hours before now."""
    from tests.serving.fakes import START

    return (datetime.now(UTC) - timedelta(hours=hours) - START).total_seconds()


def story() -> list[dict[str, Any]]:
    """Alice works for two days, and lists Secrets twice; bob works."""
    return [
        *(raw_event(n, seconds=seconds_ago(50 - n)) for n in range(48)),
        *(raw_event(100 + n, user="bob@corp", seconds=seconds_ago(30 - n)) for n in range(5)),
        secret_event(200, seconds=seconds_ago(40)),
        secret_event(201, seconds=seconds_ago(2)),
    ]


def kept(get: Callable[..., Any], url: str = "") -> None:
    """Wait until the event store has everything."""
    for _ in range(200):
        if len(get(f"{url}/v1/events", params={"limit": 1000}).json()["events"]) == len(story()):
            return
        time.sleep(0.05)
    raise AssertionError("the event store lacks events")


def prepared(service: Service) -> None:
    service.running().history.set_judge(JUDGE, TRAINED)


@pytest.fixture
def client(make_client: Callable[..., TestClient]) -> TestClient:
    client = make_client(events={"enabled": True, "seal_seconds": 3600, "memory_mb": 256})
    prepared(client.app.state.service)  # type: ignore[attr-defined]
    client.post("/v1/audit", content=body(story()))
    settle(client)
    return client


def test_principals_are_listed_with_how_near_they_came(client: TestClient) -> None:
    page = client.get("/v1/principals", params={"order": "nearest"}).json()
    assert [(row["principal"], row["actions"], row["flagged"]) for row in page["principals"]] == [
        ("alice@corp", 50, 2),
        ("bob@corp", 5, 0),
        ("carol@corp", 0, 0),
    ]
    assert page["principals"][0]["nearest"] == 1.25
    assert client.get("/v1/principals", params={"search": "bob"}).json()["total"] == 1
    assert client.get("/v1/principals", params={"order": "size"}).status_code == 422


def test_surprise_over_time_is_shown_at_once_and_not_only_with_the_next_snapshot(client: TestClient) -> None:
    answer = client.get("/v1/surprise/alice@corp").json()
    assert sum(day["actions"] for day in answer["days"]) == 50
    assert sum(hour["flagged"] for hour in answer["hours"]) == 2
    assert client.get("/v1/surprise/nobody").status_code == 404


def test_a_service_that_ends_and_begins_again_goes_on_with_its_history(
    make_client: Callable[..., TestClient], engine: Engine
) -> None:
    first = make_client()
    first.post("/v1/audit", content=body(story()))
    settle(first)
    first.__exit__(None, None, None)
    second = make_client()
    second.post("/v1/audit", content=body([raw_event(900, seconds=seconds_ago(1))]))
    settle(second)
    answer = second.get("/v1/surprise/alice@corp").json()
    assert sum(day["actions"] for day in answer["days"]) == 51


def test_habits_and_peers_come_from_the_event_store(client: TestClient) -> None:
    kept(client.get)
    habits = client.get("/v1/habits/alice@corp").json()
    assert habits["count"] == 50
    assert sum(map(sum, habits["week"])) == 50
    assert client.get("/v1/habits/nobody").status_code == 404
    peers = client.get("/v1/peers/alice@corp").json()
    assert "carol@corp" in peers["peers"]
    assert [(one["verb"], one["resource"]) for one in peers["onlyIt"]][-1] == ("list", "secrets")


def test_without_an_event_store_habits_say_so_and_the_history_is_there_all_the_same(
    make_client: Callable[..., TestClient],
) -> None:
    client = make_client()
    client.post("/v1/audit", content=body(story()))
    settle(client)
    assert "events.enabled" in client.get("/v1/habits/alice@corp").json()["detail"]
    assert client.get("/v1/surprise/alice@corp").status_code == 200


def test_a_preview_tells_what_other_thresholds_would_have_given_and_how_to_set_one(
    client: TestClient,
) -> None:
    answer = client.get("/v1/model/preview", params={"days": 7, "scale": 2}).json()
    assert answer["now"]["alerts"] == 2
    assert answer["now"]["incidents"] == 2
    assert answer["wanted"]["alerts"] == 0
    assert 1.9 < answer["coveredDays"] < 2.2
    assert "KUBEHABIT_ALERTS__THRESHOLD_SCALE=2" in answer["setting"]
    wanted = client.get("/v1/model/preview", params={"days": 7, "perDay": 0.1}).json()["wanted"]
    assert 1.2 < wanted["scale"] <= 1.3
    assert client.get("/v1/model/preview", params={"scale": 0.1}).status_code == 422
    alerts = client.get("/v1/alerts").json()["alerts"]
    assert len(alerts) == answer["now"]["alerts"]


def test_before_anything_was_scored_there_is_nothing_to_preview(
    make_client: Callable[..., TestClient],
) -> None:
    client = make_client()
    assert client.get("/v1/model/preview").status_code == 404
    assert client.get("/v1/model/drift").status_code == 404
    assert client.get("/v1/principals").json() == {"principals": [], "total": 0, "cursor": None}


def test_a_history_that_cannot_be_read_is_a_problem_that_says_what_to_do(
    client: TestClient, own_home: Path
) -> None:
    client.get("/v1/principals")
    for left in (own_home / "state").glob("history.db*"):
        left.unlink()
    answer = client.get("/v1/principals")
    assert answer.status_code == 503
    assert "history.path" in answer.json()["detail"]


def test_drift_is_reported(client: TestClient) -> None:
    answer = client.get("/v1/model/drift").json()
    assert (answer["verdict"], answer["actions"]) == ("too few", 55)


def calibration() -> Calibration:
    import numpy as np

    rarity = Rarity(np.ones((3, 4), np.int64), np.zeros((3, 4, 2, 4), np.int64))
    return Calibration(
        scored_fields=("verb",),
        tails={"kind:any": Tail(1.0, 1.0, 10)},
        shrinkage=10,
        rarity=rarity,
        sensitivity_weights=(1.0,),
        gate=1.0,
        horizons=(120.0,),
        person_thresholds=(4.0,),
        system_thresholds=(8.0,),
        budget={},
    )


def test_thresholds_are_scaled_and_the_judge_knows_what_they_were() -> None:
    scaled = calibration().scaled(0.5)
    assert (scaled.person_thresholds[0], scaled.system_thresholds[0], scaled.scale) == (2.0, 4.0, 0.5)
    assert scaled.scaled(2.0).person_thresholds[0] == 8.0
    as_set = calibration()
    assert as_set.scaled(1.0) is as_set
    assert "scale" not in scaled.to_dict()
    judge = Judge.from_calibration("3", scaled)
    assert (judge.person, judge.system, judge.scale) == ((4.0,), (8.0,), 0.5)


@pytest.mark.parametrize("scale", ["0.2", "11", "much"])
def test_a_scale_out_of_range_is_refused_with_the_name_of_the_setting(
    scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data.errors import KubehabitError
    from serving.settings import read_settings

    monkeypatch.setenv("KUBEHABIT_ALERTS__THRESHOLD_SCALE", scale)
    with pytest.raises(KubehabitError, match=r"alerts\.threshold_scale"):
        read_settings()


# -- on the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def url(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Any:
    app = create_app(Settings(events={"seal_seconds": 3600, "memory_mb": 256}), engine)  # type: ignore[arg-type]
    monkeypatch.setenv("COLUMNS", "200")
    with Live(app) as live:
        address = f"http://127.0.0.1:{live.port}"
        service: Service = app.state.service
        prepared(service)
        import httpx

        httpx.post(f"{address}/v1/audit", content=body(story()), trust_env=False)
        service.running().pipeline.run_on_scoring_thread(lambda: None).result(30)
        with httpx.Client(trust_env=False) as asking:
            kept(asking.get, address)
        monkeypatch.setenv("KUBEHABIT_URL", address)
        yield address


def run(*words: str, status: int = 0) -> str:
    result = CliRunner().invoke(command_line, list(words))
    assert result.exit_code == status, result.output
    return result.output


def test_principals_are_listed_and_one_is_shown_beside_the_running_service(url: str) -> None:
    listed = run("principals", "--order", "nearest")
    assert "alice@corp" in listed
    assert "125%" in listed
    assert "Next: kubehabit principal alice@corp" in listed
    assert json.loads(run("principals", "bob", "--json"))["total"] == 1
    assert "No such principal" in run("principals", "nobody")
    shown = run("principal", "alice@corp")
    for part in (
        "When it acts",
        "From which addresses",
        "How unusual it was",
        "125%",
        "only this principal: list secrets",
    ):
        assert part in shown
    answer = json.loads(run("principal", "alice@corp", "--json"))
    assert (answer["count"], answer["habits"]["count"], answer["surprise"]["principal"]) == (
        50,
        50,
        "alice@corp",
    )
    assert "carol@corp" in answer["peers"]["peers"]


def test_the_model_and_its_preview_are_shown(url: str) -> None:
    shown = run("model")
    for part in ("version 7", "alerts.threshold_scale", "Too few actions (55)"):
        assert part in shown
    assert json.loads(run("model", "--json"))["model"]["version"] == "7"
    preview = run("model", "--per-day", "0.1", "--days", "28")
    assert "This changes nothing" in preview
    assert "for at most 0.1 alerts a day: 0 alerts and 0 incidents" in preview
    assert "threshold_scale: 1.3" in preview
    assert json.loads(run("model", "--preview", "--json"))["now"]["alerts"] == 2
