"""What the log says of how one principal may come to act as another."""

import base64
from typing import Any

import msgspec
import pytest

from data.events.audit_event import AuditEvent, decode_event
from serving.incidents.links import RunsAs, leads_to, read_links, standing_for


def event(**more: Any) -> AuditEvent:
    body = {
        "apiVersion": "audit.k8s.io/v1",
        "auditID": "id",
        "stage": "ResponseComplete",
        "verb": "get",
        "user": {"username": "alice@corp"},
        "responseStatus": {"code": 200},
        "requestReceivedTimestamp": "2026-11-23T14:00:00.000000Z",
    } | more
    return decode_event(msgspec.json.encode(body))


def pod(name: str, account: str | None = None, **metadata: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "app", "image": "app"}]}
    if account:
        spec["serviceAccountName"] = account
    return {"metadata": {"name": name} | metadata, "spec": spec}


def only(found: AuditEvent, runs_as: RunsAs | None = None) -> tuple[str, str, str]:
    [link] = read_links(found, runs_as or RunsAs())
    return link.kind, link.target, link.confidence


def test_a_token_asked_for_leads_to_its_account_for_certain() -> None:
    ref = {"resource": "serviceaccounts", "subresource": "token", "namespace": "web", "name": "deployer"}
    assert only(event(verb="create", objectRef=ref)) == (
        "token-requested",
        "system:serviceaccount:web:deployer",
        "certain",
    )


def test_what_was_refused_leads_nowhere() -> None:
    ref = {"resource": "serviceaccounts", "subresource": "token", "namespace": "web", "name": "deployer"}
    assert read_links(event(verb="create", objectRef=ref, responseStatus={"code": 403}), RunsAs()) == []


def test_impersonation_leads_to_the_impersonated() -> None:
    found = event(
        impersonatedUser={"username": "bob@corp"}, objectRef={"resource": "pods", "namespace": "web"}
    )
    assert only(found) == ("acted-as", "bob@corp", "certain")


def test_a_pod_leads_to_the_account_that_it_runs_as_unless_that_is_the_default() -> None:
    ref = {"resource": "pods", "namespace": "argocd"}
    assert only(event(verb="create", objectRef=ref, requestObject=pod("dbg", "controller"))) == (
        "runs-as",
        "system:serviceaccount:argocd:controller",
        "likely",
    )
    assert read_links(event(verb="create", objectRef=ref, requestObject=pod("dbg")), RunsAs()) == []


def test_entering_a_pod_leads_to_what_made_it_run() -> None:
    runs_as = RunsAs()
    template = {"spec": {"template": pod("", "ledger")}}
    ref = {"resource": "deployments", "apiGroup": "apps", "namespace": "payments", "name": "ledger"}
    runs_as.learn(event(verb="patch", objectRef=ref, requestObject=template))
    entered = {"resource": "pods", "namespace": "payments", "name": "ledger-689cc8f94f-b6xw2"}
    for subresource, confidence in (("exec", "likely"), ("portforward", "possible")):
        found = event(verb="create", objectRef=entered | {"subresource": subresource})
        assert only(found, runs_as) == ("entered", "system:serviceaccount:payments:ledger", confidence)
    stranger = entered | {"name": "other-1", "subresource": "exec"}
    assert read_links(event(verb="create", objectRef=stranger), runs_as) == []


def test_what_pods_run_as_is_learned_from_names_that_the_server_gives_and_is_bounded() -> None:
    runs_as = RunsAs(capacity=10)
    ref = {"resource": "pods", "namespace": "web"}
    body = pod("", "worker", generateName="web-5d4f8c7b9-")
    runs_as.learn(event(verb="create", objectRef=ref, requestObject=body))
    assert runs_as.account("web", "web-5d4f8c7b9-x2x4z") == "worker"
    for number in range(40):
        runs_as.learn(event(verb="create", objectRef=ref, requestObject=pod(f"p{number}", "other")))
    assert runs_as.account("web", "web-5d4f8c7b9-x2x4z") is None


def test_pods_of_another_cluster_are_other_pods() -> None:
    runs_as = RunsAs()
    ref = {"resource": "pods", "namespace": "web", "name": "web-1"}
    east, west = {"kubehabit.cluster": "east"}, {"kubehabit.cluster": "west"}
    runs_as.learn(event(verb="create", objectRef=ref, requestObject=pod("web-1", "worker"), **east))
    entered = ref | {"subresource": "exec"}
    assert only(event(verb="create", objectRef=entered, **east), runs_as)[0] == "entered"
    assert read_links(event(verb="create", objectRef=entered, **west), runs_as) == []
    assert standing_for("east/system:serviceaccount:web:worker") == [
        "east/system:serviceaccount:web:*",
        "east/system:serviceaccount:*",
    ]


def test_a_secret_leads_to_the_account_whose_token_its_name_says_it_holds() -> None:
    ref = {"resource": "secrets", "namespace": "web", "name": "deployer-token-x7k2p"}
    assert only(event(objectRef=ref)) == ("token-read", "system:serviceaccount:web:deployer", "likely")
    assert read_links(event(objectRef=ref | {"name": "db-creds"}), RunsAs()) == []


@pytest.mark.parametrize(
    ("namespace", "target"), [("web", "system:serviceaccount:web:*"), ("", "system:serviceaccount:*")]
)
def test_a_list_of_secrets_possibly_leads_to_every_account_there(namespace: str, target: str) -> None:
    found = event(verb="list", objectRef={"resource": "secrets", "namespace": namespace})
    assert only(found) == ("token-read", target, "possible")
    assert leads_to(target, "system:serviceaccount:web:worker")
    assert not leads_to(target, "alice@corp")


def test_a_binding_leads_to_those_who_gain_by_it_but_not_to_groups() -> None:
    subjects = [
        {"kind": "User", "name": "mallory@corp"},
        {"kind": "ServiceAccount", "name": "worker", "namespace": "web"},
        {"kind": "Group", "name": "developers"},
    ]
    ref = {"resource": "rolebindings", "namespace": "prod", "name": "tmp"}
    found = read_links(event(verb="create", objectRef=ref, requestObject={"subjects": subjects}), RunsAs())
    assert [link.target for link in found] == ["mallory@corp", "system:serviceaccount:web:worker"]
    assert {link.confidence for link in found} == {"certain"}


def test_a_certificate_asked_for_possibly_leads_to_its_name() -> None:
    name = b"mallory"
    der = b"\x30\x20\x06\x03\x55\x04\x03\x0c" + bytes([len(name)]) + name
    spec = {"request": base64.b64encode(der).decode(), "signerName": "kubernetes.io/kube-apiserver-client"}
    ref = {"resource": "certificatesigningrequests", "name": "m"}
    assert only(event(verb="create", objectRef=ref, requestObject={"spec": spec})) == (
        "certificate",
        "mallory",
        "possible",
    )


@pytest.mark.parametrize(
    "body", [[], "text", 7, {"spec": None}, {"spec": {"template": 3}}, {"subjects": "x"}]
)
def test_no_body_is_too_strange(body: Any) -> None:
    for resource in (
        "pods",
        "deployments",
        "rolebindings",
        "certificatesigningrequests",
        "secrets",
        "cronjobs",
    ):
        found = event(verb="create", objectRef={"resource": resource, "namespace": "a"}, requestObject=body)
        RunsAs().learn(found)
        assert read_links(found, RunsAs()) == []
