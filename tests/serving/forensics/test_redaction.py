"""What is written to the event store holds no secret, and is otherwise what came."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
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


@pytest.mark.parametrize("depth", [300, 900])
def test_a_body_nested_deeper_than_any_object_is_left_out_and_the_rest_stays(depth: int) -> None:
    deep: Any = {"data": "hunter2"}
    for _ in range(depth):
        deep = {"a": deep}
    kept = redact(event(requestURI="/x?token=hunter2abc", requestObject=deep))
    assert kept.removed == 2
    assert json.loads(kept.text) == json.loads(
        event(requestURI="/x?token=[redacted]", requestObject="[redacted]")
    )


@pytest.mark.parametrize(
    "item",
    ['{"data":%s}', '{"kind":"Secret","x":[%s]}', '{"data":1,"x":[%s]}'],
)
def test_a_body_of_more_parts_than_any_object_is_left_out_and_the_rest_stays(item: str) -> None:
    parts = ",".join(['"hunter2"'] * 200_000)
    body = json.loads(item.replace("%s", f"[[{parts}],[{parts}],[{parts}]]"))
    resource = "secrets" if "kind" in body else "pods"
    kept = redact(event(resource, requestObject=body))
    assert json.loads(kept.text) == json.loads(event(resource, requestObject="[redacted]"))


# -- JSON stays JSON --------------------------------------------------------------------------------------------

TOKENS = st.sampled_from([
    f"{JWT}", "Bearer hunter2hunter2", "basic+hunter2hunter2", "bearer%20hunter2hunter2", "password=hunter2", "x&TOKEN=hunter2",
    "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----hunter2",
    "Bearer bearer basic hunter2hunter2", "secret=token=hunter2", "api-key=a.hunter2/b",
])  # fmt: skip
AROUND = st.text(st.sampled_from("ab\"\\/\n\t\x00\x1f\x7f<>&' é漢😀"), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | AROUND,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(AROUND, inner, max_size=3),
    max_leaves=8,
)


def spelled(value: Any, rng: random.Random) -> str:
    """JSON in a spelling of its own: spaces, and escapes where none are needed."""
    space = rng.choice(["", " ", "\n\t"])
    if isinstance(value, str):
        return f'"{"".join(_character(one, rng) for one in value)}"{space}'
    if isinstance(value, list):
        return f"[{space}{','.join(spelled(one, rng) for one in value)}]{space}"
    if isinstance(value, dict):
        return f"{{{space}{','.join(f'{spelled(key, rng)}:{space}{spelled(one, rng)}' for key, one in value.items())}}}"
    return json.dumps(value)


def _character(one: str, rng: random.Random) -> str:
    plain = json.dumps(one, ensure_ascii=False)[1:-1]
    escaped = json.dumps(one)[1:-1]
    if len(escaped) == 1 and rng.random() < 0.2:
        escaped = rng.choice([f"\\u{ord(one):04x}", f"\\u{ord(one):04X}"])
    return rng.choice([plain, escaped, "\\/" if one == "/" else escaped])


@settings(max_examples=300, deadline=None)
@given(AROUND, TOKENS, AROUND, st.integers(0, 1 << 32))
def test_a_token_between_any_characters_and_in_any_spelling_goes_and_the_text_stays_json(
    before: str, token: str, after: str, seed: int
) -> None:
    document = {
        "auditID": "1",
        "requestURI": f"{before} {token}",
        "userAgent": f"{token}{after}",
        "x": [before, after],
    }
    kept = redact(spelled(document, random.Random(seed)).encode())
    found = json.loads(kept.text)
    assert kept.removed >= 2
    assert "hunter2" not in json.dumps(found)
    assert found["x"] == document["x"]
    assert found["requestURI"].startswith(before)
    assert set(found) == set(document)


@settings(max_examples=300, deadline=None)
@given(VALUES, VALUES, TOKENS, st.integers(0, 1 << 32))
def test_values_that_are_no_secrets_are_equal_and_their_bytes_the_same(
    value: Any, other: Any, token: str, seed: int
) -> None:
    rng = random.Random(seed)
    pieces = [
        f'{{"auditID":"1","objectRef":{{"resource":"pods"}}, "x":{spelled(value, rng)},"userAgent":"a ',
        json.dumps(token)[1:-1],
        f'","requestObject":{{"spec":{spelled({"y": other}, rng)},"data":',
        spelled({"a": token}, rng),
        f'}},"z":{spelled(other, rng)}}}',
    ]
    raw = "".join(pieces).encode()
    before, kept = json.loads(raw), json.loads(redact(raw).text)
    assert "hunter2" not in json.dumps(kept)
    before.pop("userAgent"), kept.pop("userAgent")
    assert kept["requestObject"].pop("data") == {"a": "[redacted]"}
    before["requestObject"].pop("data")
    assert kept == before
    text = redact(raw).text
    for piece in (pieces[0], pieces[4]):
        assert piece.encode() in text


def test_a_private_key_before_an_escaped_quote_leaves_json() -> None:
    raw = event(requestURI='/x?y=-----BEGIN PRIVATE KEY-----hunter2"&z=1', userAgent="curl")
    kept = redact(raw)
    assert b"hunter2" not in kept.text
    assert json.loads(kept.text)["userAgent"] == "curl"


def test_a_token_behind_escapes_is_found_and_other_escapes_stay() -> None:
    raw = rb'{"auditID":"1","userAgent":"\u0062earer\u0020hunter2\u0068unter2 \/ \ud83d\ude00 \u0041","n":1}'
    assert redact(raw) == (
        rb'{"auditID":"1","userAgent":"\u0062earer\u0020[redacted] \/ \ud83d\ude00 \u0041","n":1}',
        1,
    )


def test_a_native_event_in_the_name_of_a_clouds_object_hides_nothing_from_redaction() -> None:
    raw = json.dumps(
        {"protoPayload": {"resourceName": "requestObject", "request": {"data": {"a": "hunter2"}}}}
    )
    assert b"hunter2" not in redact(raw.encode()).text


def test_a_word_of_a_clouds_record_in_a_native_event_hides_no_more_of_it() -> None:
    document = {"spec": {"args": ["curl evil"], "data": {"a": "hunter2"}}}
    raw = event(userAgent="protoPayload", requestURI="/.secrets.", requestObject=document)
    expected = {"spec": {"args": ["curl evil"], "data": {"a": "[redacted]"}}}
    assert json.loads(redact(raw).text)["requestObject"] == expected


def test_a_body_whose_name_is_escaped_is_redacted_too() -> None:
    raw = event(requestObject={"data": {"a": "hunter2"}}).replace(b"requestObject", rb"request\u004fbject")
    assert b"hunter2" not in redact(raw).text


REPEATED = [
    "eyJ", "eyJaaaaaa.", "eyJaaaaa", "bearer ", "bearer+", "basic a", "token=", "token=&", "-----BEGIN ", "A ", '"', "\\",
    "-----BEGIN PRIVATE KEY-----", "-----END ", "password=x ", "é", "\n", "secret=\\u0061", "-", ".", "%20bearer",
]  # fmt: skip


@pytest.mark.parametrize("unit", REPEATED)
@pytest.mark.parametrize("where", ["requestURI", "key", "body"])
def test_time_is_linear_and_memory_bounded_whatever_is_repeated(unit: str, where: str) -> None:
    def raw(size: int) -> bytes:
        text = unit * (size // len(unit)) + ". eyJ bearer -----BEGIN "
        if where == "requestURI":
            return event(requestURI=text)
        return event(requestObject={"spec": {text: "x"} if where == "key" else {"data": 1, "x": [text]}})

    def seconds(size: int) -> float:
        document, best = raw(size), 60.0
        for _ in range(3):
            began = time.process_time()
            json.loads(redact(document).text)
            best = min(best, time.process_time() - began)
        return best

    # A quadratic pattern takes a hundred times as long for ten times the text.
    assert seconds(300_000) < 30 * seconds(30_000) + 0.1
    document = raw(300_000)
    tracemalloc.start()
    redact(document)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(document)
