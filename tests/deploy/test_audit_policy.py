"""The audit policy of deploy/: what it writes is all that the model looks at, and much less than there is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from data.actions.encoder import ActionEncoder, ActionSettings
from data.actions.fields import STATIC_FIELDS
from data.events.audit_policy import AuditPolicy
from data.events.decode import decode_lines
from data.events.reader import open_lines

ROOT = Path(__file__).parents[2]
PATH = ROOT / "deploy" / "kube-apiserver" / "audit-policy.yaml"
POLICY = AuditPolicy.from_file(PATH)
RECORDING = ROOT / "data" / "recordings"

#: What identifies a request, as in the encoder.
Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Filtered:
    """A recording as it is, and as it would be under the policy."""

    before: list[bytes]
    after: list[bytes]
    bodies: list[dict[str, Any]]
    actions_before: dict[Key, dict[str, str]]
    actions_after: dict[Key, dict[str, str]]


@pytest.fixture(scope="module")
def filtered() -> Filtered:
    before = list(open_lines(RECORDING / "labelled.jsonl.zst"))
    kept = [event for line in before if (event := POLICY.written(msgspec.json.decode(line))) is not None]
    after = [msgspec.json.encode(event) for event in kept]
    bodies = [event for event in kept if "requestObject" in event]
    return Filtered(before, after, bodies, actions(before), actions(after))


def actions(lines: list[bytes]) -> dict[Key, dict[str, str]]:
    """The fields of every action by its request."""
    decoded = decode_lines(lines)
    assert not decoded.dead
    encoder = ActionEncoder(ActionSettings())
    batch = encoder.encode(decoded.events)
    found = {}
    for row, index in enumerate(batch.event.tolist()):
        event = decoded.events[index]
        key = (event.auditID, event.requestReceivedTimestamp, event.requestURI, event.user.username)
        found[key] = {
            field: encoder.interners[field].values[batch.codes[field][row]] for field in STATIC_FIELDS
        }
    return found


@pytest.mark.slow
def test_what_it_writes_becomes_the_same_actions_field_by_field(filtered: Filtered) -> None:
    before, after = filtered.actions_before, filtered.actions_after
    assert len(after) > 40_000
    assert {key: fields for key, fields in after.items() if before[key] != fields} == {}
    traits = sum(fields["traits"] != "-" for fields in after.values())
    assert traits > 3000  # so that the line above says something


@pytest.mark.slow
def test_no_action_of_any_attack_is_left_out(filtered: Filtered) -> None:
    labels = json.loads((RECORDING / "labels.json").read_text(encoding="utf-8"))
    attacks = {name for run in labels if run["kind"] == "attack" for name in run["audit_ids"]}
    before = {key[0] for key in filtered.actions_before} & attacks
    after = {key[0] for key in filtered.actions_after} & attacks
    assert len(before) > 250
    assert after == before


@pytest.mark.slow
def test_no_body_with_credentials_is_written(filtered: Filtered) -> None:
    kinds = {
        (event["objectRef"]["resource"], event["objectRef"].get("subresource", ""))
        for event in filtered.bodies
    }
    assert ("pods", "") in kinds
    assert not {("secrets", ""), ("configmaps", ""), ("tokenreviews", "")} & kinds
    assert all("responseObject" not in msgspec.json.decode(line) for line in filtered.after)


@pytest.mark.slow
def test_the_readme_tells_the_measured_share(filtered: Filtered) -> None:
    events = len(filtered.after) / len(filtered.before)
    size = sum(map(len, filtered.after)) / sum(map(len, filtered.before))
    text = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    assert f"{events:.0%} of the events and {size:.0%} of the bytes" in text


def event(verb: str, resource: str, **more: Any) -> dict[str, Any]:
    ref: dict[str, str] = {"resource": resource, "namespace": "team-a", **more.pop("ref", {})}
    return {
        "level": "RequestResponse",
        "stage": "ResponseComplete",
        "verb": verb,
        "requestURI": "/api/v1/x",
        "user": {"username": "alice@corp", "groups": ["system:authenticated"]},
        "objectRef": ref,
        "requestObject": {"metadata": {"name": "x", "managedFields": [{"manager": "kubectl"}]}},
        "responseObject": {"data": {"password": "hunter2"}},
    } | more


NODE = {"user": {"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]}}
CONTROLLER = {
    "user": {
        "username": "system:serviceaccount:kube-system:endpoint-controller",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system"],
    }
}
OPERATOR = {
    "user": {
        "username": "system:serviceaccount:web:operator",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:web"],
    }
}


@pytest.mark.parametrize(
    ("level", "request_"),
    [
        # credentials: never a body, for any caller and any verb
        ("Metadata", event("create", "secrets")),
        ("Metadata", event("patch", "secrets")),
        ("Metadata", event("get", "secrets")),
        ("Metadata", event("delete", "configmaps")),
        ("Metadata", event("create", "tokenreviews", ref={"apiGroup": "authentication.k8s.io"})),
        # what traits are read from
        ("Request", event("create", "pods")),
        ("Request", event("patch", "deployments", ref={"apiGroup": "apps"})),
        ("Request", event("create", "rolebindings", ref={"apiGroup": "rbac.authorization.k8s.io"})),
        ("Request", event("create", "serviceaccounts", ref={"subresource": "token"})),
        ("Request", event("create", "selfsubjectrulesreviews", ref={"apiGroup": "authorization.k8s.io"})),
        ("Request", event("patch", "pods", ref={"subresource": "ephemeralcontainers"})),
        ("Request", event("deletecollection", "pods")),
        ("Request", event("create", "workflows", ref={"apiGroup": "argoproj.io"})),
        ("Request", event("create", "endpoints")),
        ("Request", event("update", "nodes", ref={"subresource": "status"})),
        ("Request", event("create", "endpointslices", ref={"apiGroup": "discovery.k8s.io"}, **CONTROLLER)),
        # a node or a controller as ever: without a body, or not at all
        ("Metadata", event("patch", "nodes", ref={"subresource": "status"}, **NODE)),
        ("Metadata", event("create", "serviceaccounts", ref={"subresource": "token"}, **NODE)),
        ("Metadata", event("update", "endpoints", **CONTROLLER)),
        ("None", event("update", "leases", ref={"apiGroup": "coordination.k8s.io"}, **OPERATOR)),
        ("None", event("create", "events", **NODE)),
        (
            "None",
            event("update", "deployments", ref={"apiGroup": "apps", "subresource": "status"}, **CONTROLLER),
        ),
        # the same credential out of its way
        ("Metadata", event("list", "secrets", **NODE)),
        ("Metadata", event("delete", "leases", ref={"apiGroup": "coordination.k8s.io"}, **OPERATOR)),
        ("Metadata", event("create", "events", **OPERATOR)),
        ("Request", event("create", "pods", **NODE)),
        # probes and discovery
        ("None", event("get", "", requestURI="/readyz?verbose", objectRef=None)),
        ("Metadata", event("get", "", requestURI="/openapi/v2", objectRef=None)),
        ("None", event("get", "", requestURI="/apis/apps/v1", objectRef=None, **CONTROLLER)),
        # what decides what runs, where traffic goes, which secrets are read
        ("Request", event("create", "externalsecrets", ref={"apiGroup": "external-secrets.io"})),
        ("Request", event("patch", "clustersecretstores", ref={"apiGroup": "external-secrets.io"})),
        ("Request", event("create", "httproutes", ref={"apiGroup": "gateway.networking.k8s.io"})),
        ("Request", event("update", "virtualservices", ref={"apiGroup": "networking.istio.io"})),
        ("Request", event("create", "nodepools", ref={"apiGroup": "karpenter.sh"})),
        ("Request", event("create", "ec2nodeclasses", ref={"apiGroup": "karpenter.k8s.aws"})),
        ("Request", event("patch", "clusterpolicies", ref={"apiGroup": "kyverno.io"})),
        (
            "Request",
            event("create", "mutatingadmissionpolicies", ref={"apiGroup": "admissionregistration.k8s.io"}),
        ),
        ("Request", event("patch", "pods", ref={"subresource": "resize"})),
        # their status, objects that may hold credentials, and kinds that nobody named
        (
            "Metadata",
            event(
                "patch", "httproutes", ref={"apiGroup": "gateway.networking.k8s.io", "subresource": "status"}
            ),
        ),
        ("Metadata", event("create", "helmreleases", ref={"apiGroup": "helm.toolkit.fluxcd.io"})),
        ("Metadata", event("create", "middlewares", ref={"apiGroup": "traefik.io"})),
        ("Metadata", event("create", "widgets", ref={"apiGroup": "example.com"})),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value['verb']}-{value['requestURI']}",
)
def test_the_level_of_a_request(level: str, request_: Mapping[str, Any]) -> None:
    assert POLICY.decide(request_).level == level
    kept = POLICY.written(request_)
    assert (kept is None) == (level == "None")
    if kept is not None:
        assert kept["level"] == level
        assert ("requestObject" in kept) == (level == "Request")
        assert "hunter2" not in json.dumps(kept)
        assert "managedFields" not in json.dumps(kept)


def test_a_watch_is_written_when_it_begins_and_exec_at_both_ends() -> None:
    for stage, there in (("RequestReceived", False), ("ResponseStarted", True), ("ResponseComplete", False)):
        assert (POLICY.written(event("watch", "pods", stage=stage)) is not None) == there
    for stage, there in (("RequestReceived", False), ("ResponseStarted", True), ("ResponseComplete", True)):
        execution = event("create", "pods", stage=stage, ref={"subresource": "exec"})
        assert (POLICY.written(execution) is not None) == there


def test_it_is_a_policy_that_the_api_server_accepts() -> None:
    """By the rules of k8s.io/apiserver/pkg/apis/audit/validation that `AuditPolicy` does not check itself."""
    document = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    assert document["apiVersion"] == "audit.k8s.io/v1"
    for rule in document["rules"]:
        for path in rule.get("nonResourceURLs", ()):
            assert path.startswith("/")
            assert "*" not in path[:-1]
        for group in rule.get("resources", ()):
            for resource in group.get("resources", ()):
                assert resource.count("*") + resource.count("/") <= 2
                assert resource != "*"
    assert document["rules"][-1] == {"level": "Metadata"}  # nothing falls through
