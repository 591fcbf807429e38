"""Rules in the service: alerts with their reason, live reload, verdicts, and the state over a restart."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.actions.fields import FIELDS
from detection.exceptions import HabitException, HabitExceptions
from serving.alerts.explain.explainer import Explainer
from serving.scoring.deduplication import EventDeduplicator
from serving.scoring.engine import Engine
from serving.scoring.habit_verdicts import HabitVerdict
from serving.scoring.rule_alerts import RuleAlerts, RuleFolders
from serving.scoring.snapshots import Snapshot, restore, take_snapshot
from serving.settings import RuleSettings
from serving.storage.allowed import latest
from serving.storage.database import AlertStore
from tests.detection.rules.rules_for_tests import document
from tests.serving.conftest import model_info
from tests.serving.fakes import FakeDetector, decoded, raw_event, secret_event

EXEC = {"resourceRules": [{"apiGroups": [""], "resources": ["pods/exec"]}]}
DAY = 86_400


def exec_event(number: int = 0, **more: Any) -> dict[str, Any]:
    return raw_event(number, **({"verb": "create", "subresource": "exec", "code": 101} | more))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "rules"
    made.mkdir()
    write(
        made, "exec", matchConstraints=EXEC, severity="high", reason="a command in {{ event.objectRef.name }}"
    )
    return made


def write(folder: Path, name: str, **spec: Any) -> None:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(document(name, **spec)))


@pytest.fixture
def make_engine(folder: Path, explainer: Explainer) -> Callable[..., Engine]:
    def make(store: AlertStore | None = None) -> Engine:
        clock = iter(range(0, 10_000, 10))
        rules = RuleFolders(RuleSettings(shipped=False, folder=folder), lambda: float(next(clock)))
        store = store or AlertStore("sqlite://", retention_days=90, max_alerts=1000)
        return Engine(FakeDetector(), FIELDS, model_info(), store, explainer, rules=RuleAlerts(rules.current))

    return make


def test_a_hit_is_an_alert_with_the_reason_severity_and_technique_of_the_rule(
    make_engine: Callable[..., Engine], folder: Path
) -> None:
    write(
        folder,
        "exec",
        matchConstraints=EXEC,
        severity="high",
        techniques=["T1609", "T9999"],
        reason="a command in {{ event.objectRef.name }}",
    )
    batch = make_engine().score(decoded([raw_event(0), exec_event(1)]))
    [alert] = batch.raised
    assert (alert.severity, alert.action_count) == ("high", 1)
    assert "a command in web-0 (rule exec)" in alert.sentence
    assert alert.severity_reasons[0] == "the rule exec gives it the severity high"
    assert [one.id for one in alert.techniques][:2] == ["T1609", "T9999"]
    assert alert.actions[0].rules[0].title == "A test"
    assert [result.get("rules") for result in batch.results] == [None, ["exec"]]
    assert [result["flagged"] for result in batch.results] == [False, True]
    assert batch.flagged == {"high": 1}


def test_what_the_detector_flags_too_has_both_reasons_and_the_worse_severity(
    make_engine: Callable[..., Engine], folder: Path
) -> None:
    write(
        folder,
        "secrets",
        severity="critical",
        matchConstraints={"resourceRules": [{"resources": ["secrets"]}]},
    )
    [alert] = make_engine().score(decoded([secret_event(0)])).raised
    assert alert.severity == "critical"
    assert "it was done (rule secrets). Besides, this person has never" in alert.sentence


def test_an_incident_tells_the_reason_of_the_rule(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    engine.score(decoded([exec_event(0)]))
    [incident] = engine.incidents.page().incidents
    assert "a command in web-0" in incident.model_dump_json(by_alias=True)


def test_later_hits_join_the_alert_and_become_a_habit(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    first = engine.score(decoded([exec_event(0)])).raised[0]
    later = [engine.score(decoded([exec_event(day, seconds=day * DAY)])) for day in range(1, 5)]
    assert [len(batch.raised) for batch in later] == [0, 0, 0, 0]
    assert [len(batch.grown) for batch in later] == [1, 1, 0, 0]
    assert later[0].grown[0].id == first.id
    [figures] = engine.rules.figures() if engine.rules else []
    assert figures["hits"] == {"new": 1, "again": 2, "habit": 2, "over budget": 0, "allowed": 0}


def test_what_people_call_normal_is_not_reported_again(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    [alert] = engine.score(decoded([exec_event(0)])).raised
    times = engine.store.flagged_times(alert)
    engine.apply_verdict(HabitVerdict(alert.id, alert.principal, "normal", times[0], times))
    again = engine.score(decoded([exec_event(1, seconds=7_200)]))
    assert (again.raised, again.grown) == ([], [])


def test_a_changed_file_is_used_at_once_and_a_broken_one_keeps_nothing_from_working(
    make_engine: Callable[..., Engine], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()
    (folder / "broken.yaml").write_text("apiVersion: [")
    write(folder, "gets", matchConstraints={"resourceRules": [{"verbs": ["get"]}]}, severity="low")
    batch = engine.score(decoded([raw_event(0), exec_event(1)]))
    assert [result.get("rules") for result in batch.results] == [["gets"], ["exec"]]
    assert any("broken.yaml" in str(getattr(record, "path", "")) for record in caplog.records)
    for path in folder.iterdir():
        path.unlink()
    assert not engine.score(decoded([raw_event(2), exec_event(3)])).flagged


def test_a_restart_forgets_nothing_of_what_was_reported(
    make_engine: Callable[..., Engine], store: AlertStore
) -> None:
    before = make_engine(store)
    before.score(decoded([exec_event(0)]))
    before.score(decoded([exec_event(1, seconds=DAY)]))
    before.score(decoded([exec_event(2, seconds=2 * DAY)]))
    file = io.BytesIO()
    take_snapshot(before, EventDeduplicator(10), 7)().write(file)
    after = make_engine(store)
    restore(Snapshot.unpack(file.getvalue()), after)
    batch = after.score(decoded([exec_event(3, seconds=3 * DAY)]))
    assert (batch.raised, batch.grown) == ([], [])


def test_a_flood_of_hits_stays_within_the_budget(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    batch = engine.score(decoded([exec_event(number, seconds=0.001 * number) for number in range(300)]))
    assert sum(batch.flagged.values()) == 20
    [figures] = engine.rules.figures() if engine.rules else []
    assert figures["hits"] == {"new": 20, "again": 0, "habit": 0, "over budget": 280, "allowed": 0}


def test_what_an_exception_by_hand_allows_raises_no_alert_and_is_recorded(
    make_engine: Callable[..., Engine], store: AlertStore
) -> None:
    allowed = HabitException(
        "drill", "CHG-1", "2099-01-01", "alice*", verbs=("connect",), resources=("pods/exec",)
    )
    engine = make_engine(store)
    engine.exceptions = lambda: HabitExceptions([allowed])
    batch = engine.score(decoded([exec_event(0), exec_event(1, user="bob@corp")]))
    assert [alert.principal for alert in batch.raised] == ["bob@corp"]
    engine.flush()
    store.flush()
    with store.reading() as connection:
        [(who, action)] = latest(connection, "drill", 10)
    assert (who, action.rules[0].name) == ("alice@corp", "exec")
    [figures] = engine.rules.figures() if engine.rules else []
    assert (figures["hits"]["new"], figures["hits"]["allowed"]) == (1, 1)
