"""A write whose body did not reach the log whole is marked, wherever it was lost; where none are logged, nothing is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from data.actions.encoder import ActionEncoder
from data.actions.sensitivity import LEVELS, Sensitivity
from data.events.decode import decode_lines
from data.paths import shipped
from tests.data.samples import event

POD = {
    "kind": "Pod",
    "metadata": {"name": "x"},
    "spec": {"hostPID": True, "containers": [{"image": "evil.example/x:1"}]},
}
TRUNCATED = {"authorization.k8s.io/decision": "allow", "audit.k8s.io/truncated": "true"}
WHOLE, IMAGE = "containers=1,hostPID", "evil.example/x"


def read(**changes: Any) -> tuple[str, str, str]:
    """Traits, images and sensitivity of a write."""
    reference = {"resource": "pods", "namespace": "shop", "name": "x", "apiVersion": "v1"}
    fields = {"verb": "create", "level": "Request", "objectRef": reference} | changes
    decoded = decode_lines([event(**fields)])
    assert not decoded.dead
    encoder = ActionEncoder()
    batch = encoder.encode(decoded.events)
    level = Sensitivity(shipped("sensitivity.yaml")["rules"]).levels(batch, encoder)[0]
    names = ("traits", "images")
    traits, images = (encoder.interners[name].values[batch.codes[name][0]] for name in names)
    return traits, images, LEVELS[level]


@pytest.mark.parametrize(
    ("changes", "traits", "images"),
    [
        ({"requestObject": POD}, WHOLE, IMAGE),
        # A text in place of the body
        ({"requestObject": json.dumps(POD)}, WHOLE, IMAGE),
        ({"requestObject": json.dumps(POD, indent=1) + "\n"}, WHOLE, IMAGE),
        ({"requestObject": json.dumps(POD)[:-2]}, f"{WHOLE},withheld", IMAGE),
        ({"requestObject": json.dumps(POD) + "[Truncated...]"}, f"{WHOLE},withheld", IMAGE),
        ({"requestObject": "skipped-too-big-size-object"}, "withheld", "-"),
        ({"requestObject": "[Truncated...]"}, "withheld", "-"),
        ({"requestObject": "{"}, "withheld", "-"),
        ({"requestObject": json.dumps(json.dumps(POD))}, "withheld", "-"),
        # Left out, and said so
        ({"annotations": TRUNCATED}, "withheld", "-"),
        ({"annotations": TRUNCATED, "requestObject": POD}, f"{WHOLE},withheld", IMAGE),
        ({"annotations": TRUNCATED | {"audit.k8s.io/truncated": True}}, "withheld", "-"),
        ({"annotations": TRUNCATED, "verb": "patch", "level": "Metadata"}, "withheld", "-"),
        # Left out, though the level says that it was logged
        ({}, "withheld", "-"),
        ({"requestObject": None}, "withheld", "-"),
        ({"level": "RequestResponse", "verb": "update"}, "withheld", "-"),
        # Nothing is missing
        ({"level": "Metadata"}, "-", "-"),
        ({"level": "Metadata", "annotations": TRUNCATED | {"audit.k8s.io/truncated": "false"}}, "-", "-"),
        ({"responseStatus": {"code": 403}}, "-", "-"),
        ({"verb": "delete"}, "-", "-"),
        ({"verb": "get", "annotations": TRUNCATED}, "-", "-"),
        ({"verb": "delete", "requestObject": "text"}, "-", "-"),
    ],
)
def test_a_body_that_is_not_all_there_is_withheld(changes: dict[str, Any], traits: str, images: str) -> None:
    assert read(**changes)[:2] == (traits, images)


@pytest.mark.parametrize(
    ("resource", "subresource", "user", "withheld"),
    [
        ("configmaps", "", "vera", False),  # whose bodies are never looked at
        ("pods", "exec", "vera", False),
        ("pods", "eviction", "vera", False),
        ("pods", "status", "system:node:node-1", False),  # a report, however long
        ("pods", "status", "vera", True),
        ("endpoints", "", "system:serviceaccount:kube-system:endpoint-controller", False),
        ("secrets", "", "vera", True),
        ("pods", "ephemeralcontainers", "vera", True),
        ("workflows", "", "vera", True),
    ],
)
def test_only_bodies_that_say_something_can_be_withheld(
    resource: str, subresource: str, user: str, withheld: bool
) -> None:
    reference = {"resource": resource, "subresource": subresource, "namespace": "shop", "name": "x"}
    found = read(verb="patch", objectRef=reference, user={"username": user}, annotations=TRUNCATED)
    assert (found[0] == "withheld") == withheld


@pytest.mark.parametrize("verb", ["create", "update", "patch"])
@pytest.mark.parametrize(
    ("resource", "group", "body"),
    [
        ("pods", "", POD),
        ("deployments", "apps", {"spec": {"template": {"spec": POD["spec"]}}}),
        ("services", "", {"spec": {"externalIPs": ["192.0.2.1"]}}),
        ("namespaces", "", {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}),
        ("clusterroles", "rbac.authorization.k8s.io", {"rules": [{"verbs": ["escalate"]}]}),
        ("workflows", "argoproj.io", {"spec": {"templates": [POD["spec"]]}}),
        ("ingresses", "networking.k8s.io", {"metadata": {"annotations": {"x/server-snippet": "x"}}}),
        ("secrets", "", {"type": "kubernetes.io/service-account-token"}),
    ],
)
def test_a_write_without_its_body_is_as_sensitive_as_with_the_worst(
    resource: str, group: str, body: dict[str, Any], verb: str
) -> None:
    reference = {"resource": resource, "apiGroup": group, "namespace": "shop", "name": "x"}
    whole = read(verb=verb, objectRef=reference, requestObject=body)[2]
    without = read(verb=verb, objectRef=reference, annotations=TRUNCATED)[2]
    assert LEVELS.index(without) >= LEVELS.index(whole)
    assert without == "high"


def test_a_body_nested_too_deep_to_be_read_is_as_sensitive_as_none() -> None:
    line = event(verb="patch", level="Request", requestObject={"spec": {"hostPID": True, "x": "deep"}})
    decoded = decode_lines([line.replace(b'"deep"', b"[" * 5_000 + b"]" * 5_000)])
    assert not decoded.dead
    encoder = ActionEncoder()
    batch = encoder.encode(decoded.events)
    # What stands before the part that is too deep is still looked at.
    traits = encoder.interners["traits"].values[batch.codes["traits"][0]].split(",")
    assert {"withheld", "hostPID"} <= set(traits)
    assert Sensitivity(shipped("sensitivity.yaml")["rules"]).levels(batch, encoder)[0] == LEVELS.index("high")
