"""Of a record that a platform cut off, what stands before the cut is read; nothing is made up, and nothing takes long."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.actions.encoder import ActionEncoder
from data.events.audit_event import MAX_EVENT_BYTES, AuditEvent
from data.events.decode import decode_body, decode_lines, decode_originals
from data.events.salvage import Salvaged, complete_json
from data.events.salvage import salvage as salvaged
from tests.data.samples import event

TIME = "2026-03-02T09:31:02Z"
#: The order in which an API server writes the fields.
ORDER = (
    *("kind", "apiVersion", "level", "auditID", "stage", "requestURI", "verb", "user", "sourceIPs"),
    *("userAgent", "objectRef", "responseStatus", "requestObject", "responseObject"),
    *("requestReceivedTimestamp", "stageTimestamp", "annotations"),
)
POD = {"kind": "Pod", "metadata": {"annotations": {"note": "x" * 400}}, "spec": {"hostPID": True}}


def written(**changes: Any) -> bytes:
    """An event as an API server writes it: in its order, without spaces."""
    fields = json.loads(event(**{"verb": "create", "level": "Request", "requestObject": POD} | changes))
    return json.dumps({key: fields[key] for key in ORDER if key in fields}, separators=(",", ":")).encode()


def salvage(raw: bytes, time: str = "") -> AuditEvent | None:
    found = salvaged(raw, time)
    return None if found is None else found.event


WHOLE = written()
BODY = WHOLE.index(b'"requestObject"')


def test_at_every_cut_behind_the_user_who_did_what_is_known_and_nothing_else_is_made_up() -> None:
    whole = decode_lines([WHOLE]).events[0]
    user = WHOLE.index(b'"groups"')
    for cut in range(1, len(WHOLE)):
        found = salvage(WHOLE[:cut], TIME)
        if cut < user - 1:
            assert found is None, WHOLE[:cut]
            continue
        assert found is not None, WHOLE[:cut]
        assert (found.verb, found.user.username, found.auditID) == (
            whole.verb,
            whole.user.username,
            whole.auditID,
        )
        assert found.objectRef == whole.objectRef, WHOLE[:cut]
        assert found.user.groups == whole.user.groups[: len(found.user.groups)]
        assert found.sourceIPs == whole.sourceIPs[: len(found.sourceIPs)]
        assert found.userAgent in ("", whole.userAgent)
        assert found.responseStatus in (None, whole.responseStatus)
        assert found.requestReceivedTimestamp in (TIME, whole.requestReceivedTimestamp)
        assert found.annotations is not None
        assert found.annotations.truncated == "true"


@pytest.mark.parametrize(
    ("uri", "resource", "namespace", "name", "subresource", "group"),
    [
        ("/api/v1/namespaces/web/pods/web-0/exec?command=sh", "pods", "web", "web-0", "exec", ""),
        ("/apis/apps/v1/namespaces/web/deployments/web", "deployments", "web", "web", "", "apps"),
        ("/api/v1/namespaces/web/secrets?limit=500", "secrets", "web", "", "", ""),
        ("/api/v1/namespaces/web", "namespaces", "web", "web", "", ""),
        ("/api/v1/namespaces/web/finalize", "namespaces", "web", "web", "finalize", ""),
        ("/api/v1/nodes/node-1/proxy/run/a/b", "nodes", "", "node-1", "proxy", ""),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", "clusterroles", "", "", "", "rbac.authorization.k8s.io"),
        ("/api/v1/watch/namespaces/web/pods", "pods", "web", "", "", ""),
    ],
)  # fmt: skip
def test_an_object_that_was_cut_off_is_read_from_the_path(
    uri: str, resource: str, namespace: str, name: str, subresource: str, group: str
) -> None:
    line = written(requestURI=uri)
    found = salvage(line[: line.index(b'"objectRef"') + 30], TIME)
    assert found is not None
    assert found.objectRef is not None
    ref = found.objectRef
    assert (ref.resource, ref.namespace, ref.name) == (resource, namespace, name)
    assert (ref.subresource, ref.apiGroup) == (subresource, group)


@pytest.mark.parametrize(
    "uri", ["/healthz", "/apis", "/api", "/api/v1", "/api/v1/", "/openapi/v3/apis/apps/v1"]
)
def test_a_path_outside_the_resource_api_names_no_object(uri: str) -> None:
    line = written(requestURI=uri)
    found = salvage(line[: line.index(b'"objectRef"')], TIME)
    assert found is not None
    assert found.objectRef is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[1,2",
        b'"text',
        b"nothing of the kind",
        WHOLE[:BODY].replace(b"audit.k8s.io/v1", b"audit.k8s.io/v9"),
        WHOLE[:BODY].replace(b'"verb":"create",', b""),
        WHOLE[:BODY].replace(b'"verb":"create"', b'"verb":7'),
        WHOLE[:BODY].replace(b'"kind"', b"kind"),
        b"]" + WHOLE[:BODY],
        WHOLE[: BODY - 1].replace(b"]", b"}", 1),
        b"{" * 5_000,
        b'{"a":' * 5_000,
    ],
)
def test_what_says_not_who_did_what_stays_a_dead_letter(raw: bytes) -> None:
    assert salvage(raw, TIME) is None


def test_without_any_time_nothing_is_salvaged() -> None:
    assert salvage(WHOLE[: BODY + 20]) is None
    assert salvage(WHOLE[: BODY + 20], "no time") is None
    early = json.dumps(
        {"requestReceivedTimestamp": "2026-01-05T09:30:00Z"} | json.loads(WHOLE[: BODY - 1] + b"}")
    )
    found = salvage(early.encode()[:-1] + b',"requestObject":{"ki')
    assert found is not None
    assert found.requestReceivedTimestamp == "2026-01-05T09:30:00Z"


def test_the_part_of_a_body_before_the_cut_is_still_looked_at() -> None:
    body = {"spec": {"hostPID": True}, "metadata": {"annotations": {"note": "x" * 400}}}
    line = written().replace(json.dumps(POD, separators=(",", ":")).encode(), json.dumps(body).encode())
    assert traits(salvaged(line[: line.index(b"xxxx") + 9], TIME)) == "hostPID,withheld"


def test_a_body_that_is_a_text_is_salvaged_inside_it() -> None:
    inner = json.dumps({"spec": {"hostPID": True}, "metadata": {"labels": {"note": 'é"\\' * 50}}})
    line = written(requestObject=None).replace(
        b'"requestObject":null', b'"requestObject":' + json.dumps(inner).encode()
    )
    begin = line.index(b"note")
    for cut in range(begin, begin + 300):
        assert traits(salvaged(line[:cut], TIME)) == "hostPID,withheld", line[:cut]


def traits(found: Salvaged | None) -> str:
    assert found is not None
    encoder = ActionEncoder()
    batch = encoder.encode(decode_lines([found.text]).events)
    return encoder.interners["traits"].values[batch.codes["traits"][0]]


def azure(text: bytes) -> bytes:
    return json.dumps({"category": "kube-audit", "time": TIME, "properties": {"log": text.decode()}}).encode()


def cloudwatch(text: bytes) -> bytes:
    message = text.decode() + "[Truncated...]"
    return json.dumps({"id": "1", "timestamp": 1_772_443_862_000, "message": message}).encode()


def subscription(text: bytes) -> bytes:
    record = {"messageType": "DATA_MESSAGE", "logStream": "kube-apiserver-audit-0f"}
    return json.dumps(record | {"logEvents": [json.loads(cloudwatch(text))]}).encode()


def export(text: bytes) -> bytes:
    return TIME.encode() + b" " + text


@pytest.mark.parametrize("wrap", [azure, cloudwatch, subscription, export])
def test_a_record_that_its_platform_cut_is_an_event_whose_time_is_that_of_the_record(wrap: Any) -> None:
    body = wrap(WHOLE[: BODY + 100])
    decoded = decode_body(body)
    assert not decoded.dead
    (found,) = decoded.events
    assert found.user.username == "dev-1@example.com"
    assert found.requestReceivedTimestamp in (TIME, "2026-03-02T09:31:02.000000Z")
    # What is kept as evidence is JSON, in which secrets can be found and redacted.
    ((again, original),) = decode_originals(body)
    assert json.loads(original)["annotations"]["audit.k8s.io/truncated"] == "true"
    assert again.auditID == found.auditID


def test_a_record_that_was_cut_before_its_user_is_a_dead_letter_as_before() -> None:
    decoded = decode_lines([azure(WHOLE[: WHOLE.index(b'"user"')])])
    assert (len(decoded.events), len(decoded.dead)) == (0, 1)


@pytest.mark.parametrize(
    "value",
    [b"[" * 1_500 + b"]" * 1_500, b'"\\ud800"', b"NaN", b'{"a":' * 100 + b"01" + b"}" * 100],
    ids=["deep", "no Unicode", "no number", "damaged"],
)
@pytest.mark.parametrize("key", ["requestObject", "responseObject"])
def test_a_body_that_cannot_be_read_hides_nothing_else(key: str, value: bytes) -> None:
    line = written(requestObject=None, responseObject=None).replace(
        f'"{key}":null'.encode(), f'"{key}":{{"spec":'.encode() + value + b"}"
    )
    for decoded in (decode_lines([line]), decode_body(line), decode_lines([azure(line)])):
        assert not decoded.dead
        (found,) = decoded.events
        assert (found.verb, found.user.username) == ("create", "dev-1@example.com")
        assert found.requestReceivedTimestamp[:4] == "2026"
        assert found.annotations is not None
        assert found.annotations.truncated == "true"


def test_a_line_that_is_too_long_is_read_up_to_its_body_and_has_its_own_time() -> None:
    line = written(requestObject=None, responseObject=None)
    padding = b'"' + b"\\u003c" * (MAX_EVENT_BYTES // 6 + 10) + b'"'
    line = line.replace(b'"requestObject":null', b'"requestObject":{"metadata":' + padding + b"}")
    assert len(line) > MAX_EVENT_BYTES
    for decoded in (decode_lines([line]), decode_body(line + b"\n" + WHOLE)):
        found = decoded.events[0]
        assert not decoded.dead
        assert found.requestReceivedTimestamp == "2026-01-05T09:30:00.000000Z"
        assert found.annotations is not None
        assert (found.annotations.decision, found.annotations.truncated) == ("allow", "true")
    assert [one.auditID for one, _ in decode_originals(line + b"\n" + WHOLE)] == [found.auditID] * 2


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_cut_of_any_json_is_closed_to_json(data: st.DataObject) -> None:
    value = data.draw(
        st.recursive(
            st.none() | st.booleans() | st.integers(-9, 10**6) | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
            ),
            max_leaves=12,
        ).filter(lambda value: isinstance(value, dict | list))
    )
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "replace")
    cut = text[: data.draw(st.integers(1, len(text)))]
    closed = complete_json(cut)
    assert closed is not None
    read = json.loads(closed[0])
    assert type(read) is type(value)
    assert closed[1] == (cut != text)
    if cut == text:
        assert read == value


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_bytes_are_too_odd(raw: bytes) -> None:
    complete_json(raw)
    complete_json(b'{"a":' + raw)
    assert salvage(raw, TIME) is None or raw.startswith(b"{")


@pytest.mark.parametrize(
    "filling",
    [b'\\"', b"\\", b"[", b'{"a":', b'"",', b'"a":1,', b"\\u00", b"\xff", b"]", b'"'],
    ids=repr,
)
def test_the_worst_bodies_take_linear_time(filling: bytes) -> None:
    def seconds(size: int) -> float:
        raw = WHOLE[:BODY] + b'"requestObject":{"a":["' + filling * (size // len(filling))
        best = 9.0
        for _ in range(2):
            began = time.process_time()
            salvage(raw, TIME)
            best = min(best, time.process_time() - began)
        return best

    small, large = seconds(30_000), seconds(300_000)
    assert large < 0.05 + 25 * small
