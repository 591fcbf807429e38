"""Body traits: each attack's body differs from the ordinary one."""

import json
from typing import Any

import pytest
from hypothesis import given

from data.traits import magnitude, read_traits, repository
from tests.data.test_events import JSON


def traits(resource: str, body: Any, verb: str = "create", actor: str = "dev-1") -> set[str]:
    return set(read_traits(verb, resource, "", actor, json.dumps(body).encode())[0].split(","))


def pod(**spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "a", "image": "registry.example/a:1"}], **spec}}


PRIVILEGED = {"securityContext": {"privileged": True, "capabilities": {"add": ["SYS_ADMIN"]}}, "image": "x"}


@pytest.mark.parametrize(
    ("resource", "wrap"),
    [
        ("pods", lambda spec: {"spec": spec}),
        ("deployments", lambda spec: {"spec": {"template": {"spec": spec}}}),
        ("daemonsets", lambda spec: {"spec": {"template": {"spec": spec}}}),
        ("jobs", lambda spec: {"spec": {"template": {"spec": spec}}}),
        ("cronjobs", lambda spec: {"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}}),
    ],
)
def test_a_pod_template_is_read_wherever_it_stands(resource: str, wrap) -> None:  # type: ignore[no-untyped-def]
    spec = {
        "containers": [PRIVILEGED],
        "hostPID": True,
        "volumes": [{"hostPath": {"path": "/etc/kubernetes"}}],
    }
    assert {"privileged", "hostPID", "cap=SYS_ADMIN", "hostPath=/etc"} <= traits(resource, wrap(spec))


@pytest.mark.parametrize(
    ("resource", "body", "expected"),
    [
        ("services", {"spec": {"externalIPs": ["8.8.8.8"]}}, "externalIPs"),
        ("services", {"spec": {"type": "NodePort"}}, "type=NodePort"),
        ("clusterroles", {"rules": [{"verbs": ["escalate"], "resources": ["roles"]}]}, "verb=escalate"),
        ("roles", {"rules": [{"verbs": ["*"], "resources": ["*"]}]}, "resource=*"),
        ("roles", {"rules": [{"verbs": ["get"], "resources": ["secrets"]}]}, "resource=secrets"),
        (
            "rolebindings",
            {"roleRef": {"name": "admin"}, "subjects": [{"kind": "User", "name": "dev-1"}]},
            "subject=self",
        ),
        ("clusterrolebindings", {"roleRef": {"name": "cluster-admin"}, "subjects": []}, "role=cluster-admin"),
        (
            "mutatingwebhookconfigurations",
            {"webhooks": [{"clientConfig": {"url": "https://x"}}]},
            "webhookURL",
        ),
        ("horizontalpodautoscalers", {"spec": {"maxReplicas": 200}}, "maxReplicas=128"),
        (
            "certificatesigningrequests",
            {"spec": {"signerName": "s/kube-apiserver-client"}},
            "signer=s/kube-apiserver-client",
        ),
        (
            "pods",
            pod(serviceAccountName="argocd-application-controller"),
            "serviceAccount=argocd-application-controller",
        ),
        ("pods", {"spec": {"containers": [{"envFrom": [{"secretRef": {"name": "x"}}]}]}}, "envSecret"),
    ],
)
def test_what_an_attacker_asks_for_shows(resource: str, body: dict[str, Any], expected: str) -> None:
    assert expected in traits(resource, body)


def test_a_sidecar_shows_in_the_number_of_containers() -> None:
    one = {"spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}}
    two = {"spec": {"template": {"spec": {"containers": [{"image": "a"}, {"image": "b"}]}}}}
    assert traits("deployments", one, "patch") ^ traits("deployments", two, "patch") == {
        "containers=1",
        "containers=2",
    }


def test_a_json_patch_is_read_like_an_object() -> None:
    patch = [
        {"op": "add", "path": "/spec/template/spec/containers/1", "value": {"image": "x"}},
        {"op": "add", "path": "/rules/0"},
    ]
    assert traits("deployments", patch, "patch") == {
        "add spec.template.spec.containers",
        "add rules",
        "containers=1",
    }


def test_patched_paths_are_named_without_their_values() -> None:
    body = {
        "spec": {
            "template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-05"}}}
        }
    }
    assert traits("deployments", body, "patch") == {
        "spec.template.metadata.annotations.kubectl.kubernetes.io/restartedAt"
    }


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("ghcr.io/x/agent:1", "ghcr.io/x/agent"),
        ("host:5000/a/b@sha256:ff", "host:5000/a/b"),
        ("host:5000/a/b:v1", "host:5000/a/b"),
        ("nginx", "nginx"),
        (None, "?"),
    ],
)
def test_images_lose_tag_and_digest(image: Any, name: str) -> None:
    assert repository(image) == name


def test_counts_are_alike_within_a_power_of_two() -> None:
    assert [magnitude(n) for n in (0, 1, 3, 4, 200, "x", True)] == ["0", "1", "2", "4", "128", "?", "?"]


@given(JSON)
def test_no_body_crashes_the_reader(body: object) -> None:
    for resource in (
        "pods",
        "deployments",
        "roles",
        "rolebindings",
        "services",
        "mutatingwebhookconfigurations",
        "cronjobs",
    ):
        for verb in ("create", "patch", "delete"):
            assert read_traits(verb, resource, "", "x", json.dumps(body).encode())[0]
