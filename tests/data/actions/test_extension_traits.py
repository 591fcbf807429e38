"""What Kubernetes 1.36 and widespread extensions bring is read like the rest."""

from __future__ import annotations

import json

import pytest

from data.actions.body_traits import read_traits
from data.actions.encoder import ActionEncoder, ActionSettings
from data.actions.sensitivity import LEVELS, Sensitivity
from data.events.decode import decode_lines
from data.paths import shipped
from tests.data.kubernetes_136 import REQUESTS, Request

SENSITIVITY = Sensitivity(shipped("sensitivity.yaml")["rules"])


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request_: request_.name)
def test_each_request_becomes_the_action_that_it_is(request_: Request) -> None:
    decoded = decode_lines([json.dumps(request_.event).encode()])
    assert not decoded.dead
    encoder = ActionEncoder(ActionSettings.from_dict(shipped("actions.yaml")))
    batch = encoder.encode(decoded.events)
    fields = {name: encoder.interners[name].values[batch.codes[name][0]] for name in batch.codes}
    assert (fields["verb"], fields["resource"]) == (request_.verb, request_.resource)
    assert fields["code"] == "ok"
    found = set(fields["traits"].split(","))
    assert request_.traits <= found
    assert request_.traits or found == {"-"}
    assert LEVELS[SENSITIVITY.levels(batch, encoder)[0]] == request_.level


@pytest.mark.parametrize(
    ("resource", "body", "trait"),
    [
        (
            "referencegrants",
            {"spec": {"from": [{"namespace": "web", "kind": "HTTPRoute"}], "to": [{"kind": "Secret"}]}},
            "grantsTo=Secret",
        ),
        (
            "secretproviderclasses",
            {"spec": {"provider": "vault", "secretObjects": [{"secretName": "a"}]}},
            "secretObjects",
        ),
        (
            "pushsecrets",
            {
                "spec": {
                    "secretStoreRefs": [{"name": "s"}],
                    "data": [{"match": {"remoteRef": {"remoteKey": "k"}}}],
                }
            },
            "reads=k",
        ),
        (
            "clusterexternalsecrets",
            {"spec": {"externalSecretSpec": {"dataFrom": [{"extract": {"key": "all"}}]}}},
            "reads=all",
        ),
        (
            "gateways",
            {"spec": {"listeners": [{"tls": {"certificateRefs": [{"name": "a", "namespace": "b"}]}}]}},
            "certificateIn=b",
        ),
        (
            "httproutes",
            {"spec": {"rules": [{"filters": [{"requestRedirect": {"hostname": "e.example"}}]}]}},
            "redirectTo=e.example",
        ),
        ("ingresses", {"metadata": {"annotations": {"nginx.org/server-snippets": "x"}}}, "snippet"),
        (
            "ingresses",
            {"metadata": {"annotations": {"nginx.ingress.kubernetes.io/auth-url": "x"}}},
            "authURL",
        ),
        (
            "customresourcedefinitions",
            {"spec": {"conversion": {"webhook": {"clientConfig": {"url": "https://x"}}}}},
            "webhookURL",
        ),
    ],
)
def test_what_else_is_read(resource: str, body: object, trait: str) -> None:
    traits, _ = read_traits("create", resource, "", "dev-1", json.dumps(body).encode())
    assert trait in traits.split(",")


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request_: request_.name)
def test_no_shape_of_a_body_is_an_error(request_: Request) -> None:
    """Each value of a body replaced by one of another type."""
    ref = request_.event["objectRef"]
    whole = json.dumps(request_.event.get("requestObject", {}))
    for odd in ("null", "7", '"x"', "[]", "{}", "[[1]]", '{"namespace": 1, "name": []}'):
        for key in set(_keys(json.loads(whole))):
            body = _replaced(json.loads(whole), key, json.loads(odd))
            read_traits(
                "create", ref["resource"], ref.get("subresource", ""), "dev-1", json.dumps(body).encode()
            )


def _keys(value: object) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(key for inner in value.values() for key in _keys(inner))]
    return [key for inner in value for key in _keys(inner)] if isinstance(value, list) else []


def _replaced(value: object, key: str, by: object) -> object:
    if isinstance(value, dict):
        return {name: by if name == key else _replaced(inner, key, by) for name, inner in value.items()}
    return [_replaced(inner, key, by) for inner in value] if isinstance(value, list) else value
