"""Contradictions to roles and bindings as alerts: each once, never a flood, and over restarts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from fastapi.testclient import TestClient

from data.actions.fields import FIELDS
from data.errors import KubehabitError
from data.principals.person import Person
from serving.alerts.explain.explainer import Explainer
from serving.authorization.monitor import AuthorizationMonitor
from serving.authorization.open import open_monitor
from serving.schemas import Alert
from serving.scoring.deduplication import EventDeduplicator
from serving.scoring.engine import Engine
from serving.scoring.erasure import is_in_snapshot, without_person
from serving.scoring.habit_verdicts import HabitVerdict
from serving.scoring.rule_alerts import RuleAlerts, RuleFolders
from serving.scoring.snapshots import restore, take_snapshot
from serving.settings import AuthorizationSettings, RuleSettings
from serving.storage.database import AlertStore
from serving.storage.tables import microseconds
from tests.detection.rules.rules_for_tests import document
from tests.serving.conftest import model_info, settle
from tests.serving.fakes import FakeDetector, decoded, ndjson, raw_event
from tests.serving.hostile import EVIL

RULES = [{"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get"]}]
ITEMS = [
    {"kind": "ClusterRole", "metadata": {"name": "reader"}, "rules": RULES},
    {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "readers"},
        "roleRef": {"kind": "ClusterRole", "name": "reader"},
        "subjects": [{"kind": "User", "name": "alice@corp"}],
    },
]
BY_READERS = 'RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to User "alice@corp"'


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    file = tmp_path / "rbac.json"
    file.write_text(json.dumps({"kind": "List", "items": ITEMS}))
    return file


@pytest.fixture
def monitor(snapshot: Path) -> AuthorizationMonitor:
    made = open_monitor(AuthorizationSettings(snapshot=snapshot))
    assert made is not None
    return made


@pytest.fixture
def engine(store: AlertStore, explainer: Explainer, monitor: AuthorizationMonitor) -> Engine:
    return Engine(FakeDetector(), FIELDS, model_info(), store, explainer, authorization=monitor)


def allowed(number: int, *, reason: str = "", decision: str | None = "allow", **more: Any) -> dict[str, Any]:
    notes = {"authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": reason}
    return raw_event(number, **({"annotations": notes if decision else None} | more))


def alerts(engine: Engine) -> list[Alert]:
    found = [engine.store.get(one.id) for one in engine.store.page(limit=100).alerts]
    return [one for one in found if one is not None]


def test_what_nothing_allows_is_an_alert_that_says_so(engine: Engine) -> None:
    batch = engine.score(
        decoded([allowed(0, reason=BY_READERS), allowed(1, verb="delete"), allowed(2, code=404)])
    )
    (one,) = alerts(engine)
    assert [raised.id for raised in batch.raised] == [one.id]
    assert one.severity == "critical"
    assert one.principal == "alice@corp"
    assert "no role or binding as of that moment allows it" in one.sentence
    assert one.techniques[0].id == "T1068"
    assert any("can-i" in (check.command or "") for check in one.checks)
    (action,) = one.actions
    assert action.contradiction is not None
    assert action.contradiction.request == "delete pods web-0 in team-a"
    results = batch.results
    assert [result.get("alertID") for result in results] == [None, one.id, None]
    assert results[1]["flagged"]


def test_one_that_is_unusual_as_well_is_one_action_of_one_alert(engine: Engine) -> None:
    # The fake detector flags Secrets; a list of them is allowed by nothing.
    engine.score(decoded([allowed(0, verb="list", resource="secrets", name="")]))
    (one,) = alerts(engine)
    (action,) = one.actions
    assert action.habits
    assert action.contradiction is not None
    assert action.evidence == 5


@pytest.mark.parametrize(
    ("changes", "outcome", "technique"),
    [
        (
            {"reason": BY_READERS.replace('"readers"', '"gone"'), "verb": "get"},
            "binding does not grant it",
            "T1098.006",
        ),
        ({"user": "system:anonymous", "verb": "get"}, "anonymous success by no rule", "T1190"),
        ({"decision": "forbid", "verb": "get"}, "decision contradicts the response", "T1068"),
    ],
)
def test_every_contradiction_has_its_words_and_technique(
    engine: Engine, changes: dict[str, Any], outcome: str, technique: str
) -> None:
    engine.score(decoded([allowed(0, **changes)]))
    (one,) = alerts(engine)
    assert one.actions[0].contradiction is not None
    assert one.actions[0].contradiction.outcome == outcome
    assert one.techniques[0].id == technique


def test_a_binding_that_gives_more_than_its_writer_has_is_an_alert(
    store: AlertStore, explainer: Explainer, snapshot: Path
) -> None:
    group = "rbac.authorization.k8s.io"
    binds = {"apiGroups": [group], "resources": ["clusterrolebindings"], "verbs": ["create"]}
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    reader = ITEMS[0] | {"rules": [*RULES, binds]}
    admin = {"kind": "ClusterRole", "metadata": {"name": "all"}, "rules": [everything]}
    snapshot.write_text(json.dumps({"kind": "List", "items": [reader, ITEMS[1], admin]}))
    monitor = open_monitor(AuthorizationSettings(snapshot=snapshot))
    engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer, authorization=monitor)
    for number, role in enumerate(("reader", "all")):
        body = ITEMS[1] | {
            "metadata": {"name": f"b{number}"},
            "roleRef": {"kind": "ClusterRole", "name": role},
        }
        request = {"verb": "create", "resource": "clusterrolebindings", "namespace": "", "name": f"b{number}"}
        uri = f"/apis/{group}/v1/clusterrolebindings"
        event = allowed(number, reason=BY_READERS, requestURI=uri, requestObject=body, **request)
        event["objectRef"]["apiGroup"] = group
        engine.score(decoded([event]))
    (one,) = alerts(engine)
    assert one.actions[0].contradiction is not None
    assert one.actions[0].contradiction.outcome == "more than its writer had"
    assert "gives more rights than its writer had" in one.sentence
    assert one.severity == "critical"
    assert one.techniques[0].id == "T1068"


def test_a_request_that_was_scored_at_its_start_is_compared_at_its_end(engine: Engine) -> None:
    begun = allowed(0, verb="watch", stage="ResponseStarted")
    ended = allowed(0, verb="watch")
    batch = engine.score(decoded([begun, ended]))
    assert batch.scored == 1
    (one,) = alerts(engine)
    assert one.audit_ids == ["id-0"]


def test_a_log_without_decisions_is_no_contradiction_but_one_missing_is(engine: Engine) -> None:
    assert engine.authorization is not None
    engine.score(decoded([allowed(number, decision=None, verb="list") for number in range(30)]))
    assert alerts(engine) == []
    assert engine.authorization.figures.withheld["log without decisions"] == 30
    for part in range(2):
        engine.score(decoded([allowed(1000 * part + 100 + n, reason=BY_READERS) for n in range(700)]))
    engine.score(decoded([allowed(5000, decision=None, verb="list")]))
    (one,) = alerts(engine)
    assert one.severity == "medium"


def test_what_is_done_again_joins_its_alert_and_a_verdict_ends_it(engine: Engine) -> None:
    def delete(seconds: float, number: int) -> None:
        engine.score(decoded([allowed(number, verb="delete", seconds=seconds)]))

    delete(0, 1)
    delete(60, 2)  # within ten minutes: reported already
    delete(3600, 3)
    (one,) = alerts(engine)
    assert (one.action_count, one.times_again) == (2, 1)
    times = [microseconds(action.time) for action in one.actions]
    engine.apply_verdict(HabitVerdict(one.id, one.principal, "normal", times[-1], times))
    delete(9000, 4)
    (one,) = alerts(engine)
    assert one.action_count == 2
    assert engine.authorization is not None
    withheld = engine.authorization.figures.withheld
    assert (withheld["reported already"], withheld["accepted"], withheld.total()) == (1, 1, 2)


def test_a_flood_is_bounded_and_counted(engine: Engine) -> None:
    flood = [
        allowed(number, user=f"user-{number % 50}", verb="delete", resource=f"kind{number}")
        for number in range(2_000)
    ]
    engine.score(decoded(flood))
    found = alerts(engine)
    raised = sum(one.action_count for one in found)
    assert 100 < raised < 140
    assert max(one.action_count for one in found) <= 16
    assert engine.authorization is not None
    assert engine.authorization.figures.withheld["too many"] == 2_000 - raised
    assert engine.authorization.figures.outcomes["allowed by nothing"] == 2_000


def test_changes_in_the_log_count_and_outlive_a_restart(
    engine: Engine, snapshot: Path, explainer: Explainer
) -> None:
    gone = {
        "verb": "delete",
        "resource": "clusterrolebindings",
        "namespace": "",
        "name": "readers",
        "requestURI": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/readers",
    }
    root = {"username": "root", "groups": ["system:masters"]}
    event = allowed(1, **gone) | {"user": root}
    event["objectRef"]["apiGroup"] = "rbac.authorization.k8s.io"
    engine.score(decoded([event, allowed(60, reason=BY_READERS)]))
    assert len(alerts(engine)) == 1
    saved = take_snapshot(engine, EventDeduplicator(100), 7)()
    packed = msgspec.msgpack.decode(msgspec.msgpack.encode(saved.meta))

    def restarted(file: Path) -> Engine:
        monitor = open_monitor(AuthorizationSettings(snapshot=file))
        again = Engine(FakeDetector(), FIELDS, model_info(), engine.store, explainer, authorization=monitor)
        restore(type(saved)(saved.position, saved.bundle, packed, saved.arrays), again)
        return again

    again = restarted(snapshot)
    assert again.authorization is not None
    assert again.authorization.figures.changes == 1
    again.score(decoded([allowed(100, reason=BY_READERS)]))
    assert again.authorization.figures.withheld["reported already"] == 1
    again.score(decoded([allowed(4000, verb="list", reason="")]))
    assert again.authorization.figures.outcomes["allowed by nothing"] == 1
    # Another file begins with its own content, but what was raised stays raised.
    snapshot.write_text(snapshot.read_text() + "\n")
    again = restarted(snapshot)
    assert again.authorization is not None
    again.score(decoded([allowed(5000, reason=BY_READERS)]))
    assert again.authorization.figures.outcomes["agrees"] == 2
    assert again.authorization.figures.changes == 0


def test_erasing_a_person_forgets_what_was_raised_and_keeps_the_rules(engine: Engine) -> None:
    engine.score(decoded([allowed(0, verb="delete"), allowed(1, verb="delete", user="bob@corp")]))
    saved = take_snapshot(engine, EventDeduplicator(100), 7)()
    meta = msgspec.msgpack.decode(msgspec.msgpack.encode(saved.meta))
    held = type(saved)(saved.position, saved.bundle, meta, saved.arrays)
    alice = Person("alice@corp")
    assert is_in_snapshot(held, alice)
    gone = without_person(held, alice, "erased-1")
    assert [one[3] for one in gone.meta["authorization"]["known"]] == ["bob@corp"]
    assert gone.meta["authorization"]["rules"] == meta["authorization"]["rules"]
    assert not is_in_snapshot(gone, alice)


def test_only_events_of_the_snapshots_cluster_and_time_are_compared(snapshot: Path) -> None:
    settings = AuthorizationSettings(snapshot=snapshot, taken="2026-11-23T15:00:30+01:00", cluster="blue")
    monitor = open_monitor(settings)
    assert monitor is not None
    events = decoded(
        [
            allowed(0, verb="delete") | {"kubehabit.cluster": "blue"},
            allowed(60, verb="delete") | {"kubehabit.cluster": "blue"},
            allowed(61, verb="delete"),
        ]
    )
    said = monitor.compare(events)
    assert [one is not None for one in said] == [False, True, False]
    counted = {name: count for name, count in monitor.figures.outcomes.items() if count}
    assert counted == {"before the snapshot": 1, "another cluster": 1, "allowed by nothing": 1}


def test_an_alert_says_that_its_binding_is_young(
    store: AlertStore, explainer: Explainer, snapshot: Path
) -> None:
    young = [dict(one) for one in ITEMS]
    young[1]["metadata"] = {"name": "readers", "creationTimestamp": "2026-11-23T13:55:00Z"}
    snapshot.write_text(json.dumps({"kind": "List", "items": young}))
    monitor = open_monitor(AuthorizationSettings(snapshot=snapshot))
    engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer, authorization=monitor)
    engine.score(decoded([allowed(0, reason=BY_READERS, resource="secrets")]))
    (one,) = alerts(engine)
    assert one.actions[0].allowed_by == 'ClusterRoleBinding "readers" of ClusterRole "reader"'
    assert any("made only 5 minutes before" in reason for reason in one.severity_reasons)


def test_rules_see_what_roles_and_bindings_say(
    store: AlertStore, explainer: Explainer, monitor: AuthorizationMonitor, tmp_path: Path
) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    rule = document(
        "by-readers",
        expression="authorization.outcome == 'agrees' && authorization.binding.contains('readers')",
        reason="allowed by {{ authorization.binding }}",
    )
    (folder / "rule.yaml").write_text(yaml.safe_dump(rule))
    rules = RuleAlerts(RuleFolders(RuleSettings(shipped=False, folder=folder)).current)
    engine = Engine(
        *(FakeDetector(), FIELDS, model_info(), store, explainer), authorization=monitor, rules=rules
    )
    engine.score(decoded([allowed(0, reason=BY_READERS)]))
    (one,) = alerts(engine)
    assert 'allowed by ClusterRoleBinding "readers" (rule by-readers)' in one.sentence
    assert one.actions[0].contradiction is None


def test_hostile_names_are_visible_in_the_alert(engine: Engine) -> None:
    engine.score(decoded([allowed(0, verb="delete", user=EVIL, name=EVIL)]))
    (one,) = alerts(engine)
    assert one.actions[0].contradiction is not None
    for text in (one.sentence, one.actions[0].contradiction.user, one.actions[0].contradiction.request):
        assert "\x1b" not in text
        assert "\n" not in text


def test_a_missing_or_empty_snapshot_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KubehabitError, match="kubectl get"):
        open_monitor(AuthorizationSettings(snapshot=tmp_path / "none.json"))
    assert open_monitor(AuthorizationSettings()) is None


def test_the_service_counts_what_it_compared(make_client: Callable[..., TestClient]) -> None:
    client = make_client()
    assert client.post("/v1/audit", content=ndjson([allowed(0, verb="delete")])).status_code == 200
    settle(client)
    metrics = client.get("/metrics").text
    assert 'kubehabit_authorization_requests_total{outcome="allowed by nothing"} 1.0' in metrics
    (one,) = client.get("/v1/alerts").json()["alerts"]
    shown = client.get(f"/v1/alerts/{one['id']}").json()
    assert shown["actions"][0]["contradiction"]["outcome"] == "allowed by nothing"
