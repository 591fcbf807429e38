"""The monthly report: counted right, honest about what it did not see, and readable on paper."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data.actions.fields import FIELDS
from data.errors import KubehabitError
from kubehabit.client.month import Month, gather
from kubehabit.main import app as command_line
from kubehabit.options import shipped
from serving.alerts.explain.explainer import Explainer
from serving.forensics.evidence.monthly import render_monthly
from serving.incidents.incidents import Asker, Close
from serving.scoring.engine import Engine
from serving.settings import Settings, read_yaml
from serving.storage.database import AlertStore
from tests.serving.conftest import model_info
from tests.serving.event_stores import body, new_store
from tests.serving.fakes import FakeDetector, decoded, raw_event, secret_event

NOW = datetime(2026, 12, 3, tzinfo=UTC)
NOVEMBER = Month.named("2026-11", NOW)


@pytest.fixture
def home(own_home: Path) -> Iterator[Engine]:
    """A home with alerts of two principals, one incident closed, and the events they rest on."""
    settings = Settings()
    own_home.mkdir(parents=True, exist_ok=True)
    kept = AlertStore.from_settings(settings.store)
    engine = Engine(FakeDetector(), FIELDS, model_info(), kept, Explainer.load(shipped("explain.yaml")))
    events = [raw_event(1), secret_event(2, user="mallory@corp"), secret_event(7000, user="=eve@corp")]
    engine.score(decoded(events))
    engine.flush()
    first = engine.incidents.page().incidents[-1].id
    engine.incidents.decide(first, Close(outcome="malicious", by="kim@corp", note="Revoked."), Asker())
    store = new_store(settings.events.resolved_path)
    store.append(body(events))
    store.close()
    yield engine
    kept.close()


def report(*options: str, out: Path, status: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(command_line, ["report", "monthly", "--out", str(out), *options])
    assert done.exit_code == status, done.output
    found: dict[str, Any] = json.loads(next(out.glob("*.json")).read_text())
    return found


@pytest.mark.usefixtures("home")
def test_a_month_is_counted_and_its_store_is_verified(tmp_path: Path) -> None:
    month = f"{datetime.now(UTC):%Y-%m}"  # decided now; the events are of 2026-11-23
    decided = report("--local", "--month", month, out=tmp_path / "now")
    assert decided["review"]["decisions"] == 1
    assert decided["review"]["people"] == [["kim@corp", 1]]
    assert decided["incidents"]["closed"] == 1
    found = report("--local", "--month", "2026-11", out=tmp_path / "events")
    assert found["alerts"]["total"] == 2
    assert sum(sum(one.values()) for one in found["alerts"]["bySeverity"].values()) == 2
    assert found["coverage"]["days"] == {"2026-11-23": 3}
    assert found["integrity"]["sound"]
    page = (tmp_path / "events" / "log-review-2026-11.html").read_text()
    for shown in (
        "A.8.15",
        "10.4.1",
        "CC7.2",
        "Article 21(2)(b)",
        "All records are as they were written",
        "=eve@corp",
    ):
        assert shown in page
    assert "<script" not in page


@pytest.mark.usefixtures("home")
def test_a_changed_store_is_reported_as_such(tmp_path: Path) -> None:
    next(Settings().events.resolved_path.rglob("*.parquet")).unlink()
    found = report("--local", "--month", "2026-11", out=tmp_path, status=1)
    assert not found["integrity"]["sound"]
    page = (tmp_path / "log-review-2026-11.html").read_text()
    assert "VERIFICATION FAILED" in page
    assert "Events could not be counted" in page


class Documents:
    """Answers from lists, page by page."""

    def __init__(self, incidents: list[dict[str, Any]]) -> None:
        self._incidents = {one["id"]: one for one in incidents}

    def get(self, *path: str, **query: Any) -> Any:
        if path[0] == "alerts":
            return {"alerts": [], "cursor": None}
        if len(path) == 2:
            return self._incidents[path[1]]
        start = query["cursor"] or 0
        page = list(self._incidents.values())[start : start + 1]
        more = start + 1 < len(self._incidents)
        return {"incidents": page, "cursor": str(start + 1) if more else None}


def _incident(name: str, opened: str, closed: str | None, by: str = "kim@corp") -> dict[str, Any]:
    trail = [{"time": opened, "action": "opened", "by": "kubehabit", "caller": "", "note": ""}]
    if closed:
        trail.append({"time": closed, "action": "closed", "by": by, "caller": "", "note": "n"})
    about = {"id": name, "firstSeen": opened, "severity": "high", "sentence": name, "trail": trail}
    return about | {"state": "closed" if closed else "open"}


def test_incidents_count_in_the_month_in_which_they_were_opened_and_decided() -> None:
    found = gather(
        Documents(
            [
                _incident("next", "2026-12-01T00:00:00+00:00", None),
                _incident("late", "2026-11-30T23:00:00+00:00", "2026-12-01T01:00:00+00:00"),
                _incident("quick", "2026-11-10T00:00:00+00:00", "2026-11-10T04:00:00+00:00"),
                _incident("old", "2026-10-31T00:00:00+00:00", "2026-11-02T00:00:00+00:00", "ann@corp"),
                _incident("older", "2026-09-01T00:00:00+00:00", "2026-09-02T00:00:00+00:00"),
                _incident("open", "2026-11-11T00:00:00+00:00", None),
            ]
        ),
        NOVEMBER,
        NOW,
    )
    incidents, review = found["incidents"], found["review"]
    assert [one["id"] for one in incidents["listed"]] == ["quick", "open", "late"]
    assert (incidents["opened"], incidents["closed"], incidents["stillOpen"]) == (3, 2, 1)
    assert incidents["hoursToClose"] == {"median": 4.0, "longest": 4.0}
    assert (review["decisions"], review["daysWithDecisions"], review["days"]) == (2, 2, 30)
    assert dict(review["people"]) == {"kim@corp": 1, "ann@corp": 1}
    assert found["complete"]
    page = render_monthly(found | {"controls": []})
    assert "made from a running service" in page


@pytest.mark.parametrize("name", ["november", "2026-13", "2027-01", "2026-11-01"])
def test_what_is_no_month_is_said(name: str) -> None:
    with pytest.raises(KubehabitError, match=r"no month|not begun"):
        Month.named(name, NOW)


def test_without_a_name_it_is_the_last_month() -> None:
    assert Month.named(None, datetime(2027, 1, 15, tzinfo=UTC)).name == "2026-12"


def test_each_control_says_what_it_asks_where_the_evidence_is_and_what_remains() -> None:
    sections = {"coverage", "alerts", "review", "incidents", "exports", "integrity", "models"}
    controls = read_yaml(shipped("controls.yaml"))["controls"]
    assert {one["framework"].partition(" ")[0] for one in controls} == {"SOC", "ISO/IEC", "PCI", "NIS2"}
    for one in controls:
        assert set(one) == {"framework", "control", "asks", "sections", "yours"}
        assert one["sections"]
        assert set(one["sections"]) <= sections
