"""What is written to the event store holds no secret, and is otherwise what came."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.forensics.redaction import redact
from tests.data.test_secrets import LEVELS, OBJECTS, SECRETS, SHAPES, body, leaks, line

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtYWxsb3J5In0.c2lnbmF0dXJl"


def event(resource: str = "pods", subresource: str = "", **bodies: Any) -> bytes:
    ref = {"resource": resource, "subresource": subresource, "namespace": "web", "name": "db"}
    document = {"auditID": "1", "verb": "create", "objectRef": ref, **bodies}
    return json.dumps(document, separators=(",", ":")).encode()


@settings(max_examples=200, deadline=None)
@given(SECRETS, st.sampled_from(SHAPES), st.sampled_from(LEVELS))
def test_nothing_of_a_secret_is_left_in_any_shape_or_level(secret: str, shape: str, level: str) -> None:
    kept = redact(line("secrets", shape, level, secret)).text
    assert not leaks(secret, kept.decode())
    json.loads(kept)


@settings(max_examples=200, deadline=None)
@given(SECRETS, st.sampled_from(OBJECTS), st.sampled_from(SHAPES))
def test_data_and_environment_of_any_object_are_redacted(secret: str, resource: str, shape: str) -> None:
    document = body(resource, shape, secret)
    kept = json.loads(redact(event(resource, requestObject=document)).text)["requestObject"]

    def look(value: Any, hidden: bool) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                look(inner, hidden or key in ("data", "stringData", "binaryData"))
        elif isinstance(value, list):
            for inner in value:
                look(inner, hidden)
        elif hidden:
            assert value == "[redacted]"

    look(kept, False)
    for container in kept.get("spec", {}).get("containers", []) if isinstance(kept, dict) else []:
        assert container["env"][0]["value"] == "[redacted]"
        assert container["env"][1]["valueFrom"]["secretKeyRef"]["name"] == "b"


@pytest.mark.parametrize(
    ("resource", "subresource", "document"),
    [
        ("serviceaccounts", "token", {"status": {"token": JWT, "expirationTimestamp": "2026-01-01T00:00:00Z"}}),
        ("tokenreviews", "", {"spec": {"token": "opaque-hunter2"}, "status": {"authenticated": True}}),
        ("pods", "", {"spec": {"containers": [{"args": ["--password=hunter2", f"--header={JWT}"]}]}}),
        ("configmaps", "", {"data": {"a": "hunter2"}}),
        ("widgets", "", {"spec": {"adminPassword": "hunter2", "auth": {"clientSecret": "hunter2"}}}),
        ("widgets", "", {"spec": {"credentials": {"deep": [{"x": "hunter2"}]}}}),
        ("deployments", "", [{"op": "add", "path": "/spec/template/spec/containers/0/env", "value": ["hunter2"]}]),
        ("secrets", "", [{"op": "add", "path": "/data/x", "value": "hunter2"}, {"op": "remove", "path": "/data/y"}]),
        ("secrets", "", {"stringData": {"x": "hunter2"}, "type": "hunter2"}),
        ("pods", "", {"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{hunter2}"}}}),
        ("pods", "", {"x": "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----\n"}),
    ],
)  # fmt: skip
def test_each_place_where_a_secret_stands(resource: str, subresource: str, document: Any) -> None:
    for name in ("requestObject", "responseObject"):
        kept = redact(event(resource, subresource, **{name: document}))
        assert kept.removed > 0
        assert b"hunter2" not in kept.text
        assert b"c2lnbmF0dXJl" not in kept.text
        json.loads(kept.text)


def test_a_key_hidden_behind_an_escape_is_found() -> None:
    raw = event("widgets", requestObject={"DATA": {"x": "hunter2"}}).replace(b'"DATA"', b'"d\\u0061ta"')
    assert b"hunter2" not in redact(raw).text


@pytest.mark.parametrize("uri", ["/x?token=hunter2abc&y=1", "/x?access_token=hunter2abc", f"/x?q={JWT}"])
def test_tokens_in_a_uri_are_redacted(uri: str) -> None:
    kept = redact(json.dumps({"auditID": "1", "requestURI": uri}).encode())
    assert kept.removed == 1
    assert b"hunter2" not in kept.text
    assert b"eyJ" not in kept.text


def test_the_rest_of_the_text_is_as_it_came_byte_for_byte() -> None:
    raw = (
        b'{ "auditID":"1", "objectRef": {"resource":"secrets"},\n'
        b' "requestObject":{"kind":"Secret","data":{"a":"aHVudGVyMg=="},"z":[1,2.50,null]} }'
    )
    expected = raw.replace(b'"aHVudGVyMg=="', b'"[redacted]"')
    assert redact(raw) == (expected, 1)


def test_an_event_without_secrets_is_not_touched() -> None:
    rng = random.Random(3)
    raw = event(
        "pods",
        requestObject={
            "kind": "Pod",
            "spec": {"automountServiceAccountToken": False, "replicas": rng.randrange(9), "secretName": "db"},
        },
    )
    assert redact(raw) == (raw, 0)


def test_a_body_nested_deeper_than_any_object_is_left_out_whole() -> None:
    deep: Any = {"data": "hunter2"}
    for _ in range(900):
        deep = {"a": deep}
    assert redact(event(requestObject=deep)) == (b'"[redacted]"', 1)
