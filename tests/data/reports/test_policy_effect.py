"""What an audit policy would leave of a log: its checks, its shares, and what of detection it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data.errors import KubehabitError
from data.events.audit_policy import AuditPolicy
from data.reports.policy_effect import PolicyEffect, policy_effect
from kubehabit.main import app


def event(number: int, verb: str, resource: str, user: str = "alice@corp", **more: Any) -> dict[str, Any]:
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Request",
        "auditID": f"id-{number}",
        "stage": "ResponseComplete",
        "requestURI": f"/api/v1/namespaces/web/{resource}",
        "verb": verb,
        "user": {"username": user, "groups": ["system:authenticated"]},
        "sourceIPs": ["203.0.113.7"],
        "userAgent": "kubectl/v1.31.0",
        "objectRef": {"resource": resource, "namespace": "web", "name": "x", "apiVersion": "v1"},
        "responseStatus": {"code": 200},
        "requestReceivedTimestamp": f"2026-01-05T0{number % 10}:00:00.000000Z",
        "stageTimestamp": f"2026-01-05T0{number % 10}:00:00.010000Z",
        "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""},
    } | more


POD = {"spec": {"containers": [{"image": "registry.example/web:1", "securityContext": {"privileged": True}}]}}
EVENTS = [
    event(0, "get", "secrets"),
    event(1, "get", "pods"),
    event(2, "create", "pods", requestObject=POD),
    event(3, "update", "leases", "system:serviceaccount:web:elector"),
    event(9, "get", "pods"),
]
RULES = [
    {"level": "None", "verbs": ["update"], "resources": [{"group": "", "resources": ["leases"]}]},
    {"level": "None", "verbs": ["get"], "resources": [{"group": "", "resources": ["secrets"]}]},
    {"level": "Metadata"},
]


def policy(*rules: Any, **more: Any) -> AuditPolicy:
    return AuditPolicy({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": list(rules)} | more)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "audit.log"
    lines = [json.dumps(one) for one in EVENTS]
    path.write_text("\n".join([lines[0], "no event", '{"user": 1}', *lines[1:]]) + "\n")
    return path


@pytest.fixture(scope="module")
def effect(log: Path) -> PolicyEffect:
    return policy_effect([log], policy(*RULES))


def test_every_line_is_counted_by_the_rule_that_decides_it(effect: PolicyEffect, log: Path) -> None:
    assert [(rule.events, rule.kept_events) for rule in effect.rules] == [(1, 0), (1, 0), (3, 3), (0, 0)]
    size = log.stat().st_size - len('no event\n{"user": 1}\n')
    assert effect.totals().bytes == size
    assert effect.foreign == 2
    # What stays as it is costs what it cost; the one body is gone.
    assert effect.rules[2].kept_bytes < effect.rules[2].bytes
    assert policy_effect([log], policy({"level": "RequestResponse"})).totals().kept_bytes == size


def test_what_detection_loses_is_named(effect: PolicyEffect) -> None:
    assert effect.actions == 5
    assert dict(effect.lost) == {("human", "get", "secrets"): 1, ("serviceaccount", "update", "leases"): 1}
    assert set(effect.changed) == {"traits", "images"}
    assert {lack["suffers"].partition(",")[0] for lack in effect.new_lacks()} == {
        "privileged pods",
        "theft of secrets",
    }


def test_a_policy_that_drops_nothing_costs_nothing(log: Path) -> None:
    found = policy_effect([log], policy({"level": "RequestResponse"}))
    assert (found.lost.total(), dict(found.changed), found.new_lacks()) == (0, {}, [])


def test_the_command_prices_a_day(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": RULES}))
    arguments = ["data", "inspect", str(log), "--policy", str(path), "--price", "1000000"]
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["cost_per_day"] == pytest.approx(found["bytes"] / 1e9 * 1e6 * 24 / 9)
    assert found["cost_per_day_under_policy"] < found["cost_per_day"]
    shown = CliRunner().invoke(app, arguments).output
    assert "2 of 5 actions would leave no trace" in shown
    assert max(map(len, shown.splitlines())) <= 200
    alone = CliRunner().invoke(app, ["data", "inspect", str(log), "--price", "1"])
    assert alone.exit_code == 2


def test_a_log_of_a_managed_cluster_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "gke.json"
    path.write_text('{"protoPayload": {}}\n')
    with pytest.raises(KubehabitError, match="decided by its provider"):
        policy_effect([path], policy({"level": "Metadata"}))


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "is no audit policy"),
        ({"kind": "Pod"}, "is no audit policy"),
        ({"kind": "Policy"}, "has no rules"),
        ({"kind": "Policy", "rules": ["x"]}, "is no mapping"),
        ({"kind": "Policy", "rules": [{"level": "All"}]}, "must be one of None, Metadata"),
        ({"kind": "Policy", "rules": [{"level": "None", "verb": ["get"]}]}, r"rules\[0\].verb is no field"),
        ({"kind": "Policy", "rules": [{"level": "None", "verbs": "get"}]}, "must be a list of texts"),
        ({"kind": "Policy", "rules": [{"level": "None"}], "omitStages": ["Start"]}, "stages are"),
        (
            {"kind": "Policy", "rules": [{"level": "None", "nonResourceURLs": ["/x"], "namespaces": ["a"]}]},
            "split it into two rules",
        ),
    ],
)
def test_a_mistake_in_a_policy_is_named(document: Any, sentence: str) -> None:
    with pytest.raises(KubehabitError, match=sentence):
        AuditPolicy(document)
