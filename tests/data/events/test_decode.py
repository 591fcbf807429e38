"""Decoding: what is good is read, what is not is kept with its reason, and nothing raises."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.errors import KubehabitError
from data.events.audit_event import (
    LEFT_OUT,
    MAX_EVENT_BYTES,
    MAX_ITEMS,
    MAX_TEXT,
    AuditEvent,
    DeadLetter,
)
from data.events.decode import decode_block, decode_body, decode_lines
from data.events.formats.registry import Sources
from tests.data.samples import event


def test_a_line_is_decoded() -> None:
    decoded = decode_lines([event(auditID="a1")])
    assert [e.auditID for e in decoded.events] == ["a1"]
    assert decoded.dead == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"kind":"Event"', "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not an audit event"),
        (b'{"kind": 0}', "not an audit event"),
        (event(apiVersion="audit.k8s.io/v1alpha1"), "apiVersion is 'audit.k8s.io/v1alpha1'"),
        (event(apiVersion=""), "apiVersion is 'missing'"),
        (event(auditID=""), "auditID is empty"),
        (event(stageTimestamp="yesterday", requestReceivedTimestamp=""), "RFC 3339"),
        (event(requestReceivedTimestamp="2026-02-31T09:30:00Z"), "RFC 3339"),
        (event(requestReceivedTimestamp="2026-13-45T99:99:99Z"), "RFC 3339"),
        (event(responseStatus={"code": "ALLOW"}), "not an audit event"),
        (event(responseStatus={"code": 2**64}), "not an audit event"),
        (event(auditID="x" * 5_000, responseStatus={"code": -(2**63) - 1}), "not an audit event"),
        (b" " + b"x" * MAX_EVENT_BYTES + b" ", "longer than"),
    ],
)
def test_a_bad_line_is_a_dead_letter_with_its_reason_and_costs_no_other_line(
    line: bytes, reason: str
) -> None:
    decoded = decode_lines([event(auditID="before"), line, event(auditID="after")], first_line=10)
    assert [e.auditID for e in decoded.events] == ["before", "after"]
    assert [letter.line for letter in decoded.dead] == [11]
    assert reason in decoded.dead[0].reason


def test_blank_lines_are_no_records() -> None:
    decoded = decode_lines([b"", b"  ", event()])
    assert (len(decoded.events), decoded.dead) == (1, [])


def test_v1beta1_is_read() -> None:
    assert decode_lines([event(apiVersion="audit.k8s.io/v1beta1")]).dead == []


def test_an_event_list_gives_its_version_to_its_items() -> None:
    items = [json.loads(event(auditID=name, apiVersion="")) for name in ("a", "b")]
    for item in items:
        del item["apiVersion"]
    body = json.dumps(
        {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [*items, {"kind": 0}]}
    ).encode()
    for decoded in (decode_body(body), decode_lines([body])):
        assert [e.auditID for e in decoded.events] == ["a", "b"]
        assert len(decoded.dead) == 1


def test_a_body_may_be_a_list_one_event_or_lines() -> None:
    one = event(auditID="x")
    for body in (one, b"[" + one + b"]", one + b"\n" + b"{broken\n", b"[" + one + b',{"a":1}]'):
        assert [e.auditID for e in decode_body(body).events] == ["x"]


ITEMS = st.lists(
    st.sampled_from(
        [
            {"apiVersion": ""},
            {"apiVersion": "audit.k8s.io/v1"},
            {"apiVersion": "audit.k8s.io/v1beta1"},
            {"apiVersion": "audit.k8s.io/v2"},
            {"auditID": ""},
            {"requestReceivedTimestamp": "2026-01-05T09:30:00Z"},
            {"requestReceivedTimestamp": "", "stageTimestamp": ""},
            {"requestReceivedTimestamp": "2026-02-31T09:30:00.000000Z"},
            {"verb": 7},
            {"kubehabit.cluster": "west"},
            {"records": []},
        ]
    ),
    max_size=5,
)


@given(
    ITEMS,
    st.sampled_from(["EventList", "List", "", "Other"]),
    st.sampled_from(["audit.k8s.io/v1", "audit.k8s.io/v1beta1", "audit.k8s.io/v9", ""]),
)
def test_a_list_read_at_once_is_read_as_item_by_item(
    changes: list[dict[str, object]], kind: str, version: str
) -> None:
    items = [json.loads(event(auditID=f"a{n}")) | change for n, change in enumerate(changes)]
    body = json.dumps({"kind": kind, "apiVersion": version, "metadata": {}, "items": items}).encode()
    assert decode_body(body) == decode_body(body, Sources())
    lines = b"\n".join(json.dumps(item).encode() for item in items) + b"\n"
    if items:
        assert decode_body(lines) == decode_body(lines, Sources())


@pytest.mark.parametrize("body", [b"", b"  \n ", b"hello", b"\x00\x01"])
def test_a_body_that_is_no_json_says_what_to_send(body: bytes) -> None:
    with pytest.raises(KubehabitError, match="send audit events"):
        decode_body(body)


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_decoder(noise: bytes) -> None:
    decoded = decode_lines([noise, event()])
    assert decoded.events
    assert len(decoded.dead) <= 1


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(list(json.loads(event()))), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(JSON)
def test_no_json_crashes_the_decoder(value: object) -> None:
    body = json.dumps(value).encode()
    assert decode_lines([body]).lines is not None
    assert decode_body(body).dead is not None


LINES = st.lists(
    st.sampled_from(
        [
            *(event(auditID=name) for name in "abc"),
            event(auditID="v1beta1", apiVersion="audit.k8s.io/v1beta1"),
            event(auditID="no-fraction", requestReceivedTimestamp="2026-01-05T09:30:00Z"),
            event(auditID="other-zone", requestReceivedTimestamp="2026-01-05T09:30:00.000000+01:00"),
            event(auditID="no-such-day", requestReceivedTimestamp="2026-02-31T09:30:00.000000Z"),
            event(auditID="no-such-hour", requestReceivedTimestamp="2026-01-05T25:30:00.000000Z"),
            event(auditID="time-of-stage", requestReceivedTimestamp=""),
            event(auditID=""),
            event(user={"username": 7}),
            event(objectRef=[]),
            event(auditID="two") + event(auditID="on one line"),
            event(auditID="cut")[:-9],
            *(b"", b"  ", b"{}", b"\xff", b"[]"),
        ]
    ),
    min_size=1,
    max_size=6,
)


@given(LINES, st.booleans())
@example([event(auditID="two") + event(auditID="on one line"), b""], False)
@example([event(auditID="two") + event(auditID="on one line"), b" ", event()], True)
def test_a_block_decodes_as_its_lines_do_or_not_at_all(lines: list[bytes], ends: bool) -> None:
    slow = decode_lines(lines, 5)
    fast = decode_block(b"\n".join(lines) + (b"\n" if ends or not lines[-1] else b""), 5)
    if fast is None:
        assert len(set(lines) - {event(auditID=name) for name in "abc"})
    else:
        assert fast == slow


def test_what_api_servers_write_is_decoded_in_blocks(normal_lines: list[bytes]) -> None:
    lines = normal_lines[:2000]
    block = b"\n".join(lines)
    decoded = decode_block(block)
    assert decoded == decode_lines(lines)
    assert decode_block(memoryview(block + b"\n")) == decoded


LONG = {
    "requestURI": lambda text: {"requestURI": f"/api/v1/namespaces/x/pods/{text}"},
    "userAgent": lambda text: {"userAgent": text},
    "verb": lambda text: {"verb": text},
    "username": lambda text: {"user": {"username": text, "groups": ["a"]}},
    "group": lambda text: {"user": {"username": "u", "groups": ["a", text]}},
    "name": lambda text: {"objectRef": {"resource": "pods", "name": text, "namespace": "web"}},
    "sourceIP": lambda text: {"sourceIPs": [text, "127.0.0.1"]},
    "annotation": lambda text: {"annotations": {"authorization.k8s.io/reason": text, "other": text}},
    "impersonated": lambda text: {"impersonatedUser": {"username": text}},
    "cluster": lambda text: {"kubehabit.cluster": text},
    "auditID": lambda text: {"auditID": text},
}


def texts_of(value: Any) -> Iterator[str]:
    """Every text that an event keeps, its body apart."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for inner in value:
            yield from texts_of(inner)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from texts_of(getattr(value, name))


def decoded_in_every_way(record: bytes) -> list[AuditEvent]:
    """The event of a record among good ones: in a block, line by line, in a list, as an item, in Azure's envelope."""
    good = event(auditID="good")
    listed = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[%b,%b]}' % (good, record)
    azure = json.dumps({"category": "kube-audit", "resourceId": "/x", "properties": {"log": record.decode()}})
    bodies = [good + b"\n" + record, listed, b"[" + record + b"]", good + b"\n" + azure.encode()]
    found = []
    for body in bodies:
        decoded = decode_body(body)
        assert decoded.dead == []
        found.append(decoded.events[-1])
    found += decode_lines([good, record]).events[1:]
    return found


@pytest.mark.parametrize("field", sorted(LONG))
@pytest.mark.parametrize("character", ["a", "\u20ac", "\\"])
def test_a_long_text_is_cut_and_stays_different_from_others(field: str, character: str) -> None:
    """A long path takes no credentials to write, and would be kept many times over."""
    first, second = (event(**LONG[field](character * 90_000 + end)) for end in ("1", "2"))
    for one, other in zip(decoded_in_every_way(first), decoded_in_every_way(second), strict=True):
        assert max(map(len, texts_of(one))) == MAX_TEXT
        assert any(re.search(r"\.\.\.#sha256:[0-9a-f]{16}$", text) for text in texts_of(one))
        assert [*texts_of(one)] != [*texts_of(other)]
    assert len({repr([*texts_of(found)]) for found in decoded_in_every_way(first)[:3]}) == 1


def test_a_text_of_the_longest_length_is_left_as_it_is() -> None:
    (found,) = decode_lines([event(userAgent="a" * MAX_TEXT)]).events
    assert found.userAgent == "a" * MAX_TEXT


def test_a_body_is_kept_whole() -> None:
    body = {"metadata": {"name": "x" * 2 * MAX_TEXT}}
    for found in decoded_in_every_way(event(userAgent="a" * 2 * MAX_TEXT, requestObject=body)):
        assert json.loads(bytes(found.requestObject)) == body


def test_many_groups_and_addresses_are_bounded_and_the_nearest_addresses_stay() -> None:
    addresses = [f"10.0.{i // 256}.{i % 256}" for i in range(20_000)]
    groups = [f"group-{i}" for i in range(20_000)]
    record = event(sourceIPs=addresses, user={"username": "u", "groups": groups})
    for found in decoded_in_every_way(record):
        assert len(found.sourceIPs) == len(found.user.groups) == MAX_ITEMS
        assert found.sourceIPs[-2:] == tuple(addresses[-2:])
        assert found.sourceIPs[0].startswith("...#sha256:")


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00.000000+00:01"]
)
def test_a_time_outside_the_calendar_is_a_dead_letter(time: str) -> None:
    for changes in (
        {"requestReceivedTimestamp": time},
        {"requestReceivedTimestamp": "", "stageTimestamp": time},
    ):
        decoded = decode_lines([event(auditID="before"), event(**changes), event(auditID="after")])
        assert [found.auditID for found in decoded.events] == ["before", "after"]
        assert "RFC 3339" in decoded.dead[0].reason


def test_a_dead_letter_of_backslashes_is_written_at_once() -> None:
    letter = DeadLetter(1, "not JSON", b"\\" * 1_000_000 + b'x\\\\"data\\\\": secret')
    begin = time.process_time()
    text = letter.text
    assert time.process_time() - begin < 1
    assert text.endswith("x" + LEFT_OUT)


@pytest.mark.parametrize("before", [b"", b'{"category":"kube-audit","properties":{"log":%s}}\n'])
def test_an_event_is_read_wherever_its_audit_id_stands(before: bytes) -> None:
    """It is looked for first where API servers write it; what has it not there is opened as an envelope before."""
    written = json.loads(event(requestObject={"data": "x" * 20_000}))
    turned = dict(reversed(written.items()))
    wrapped = before and before % json.dumps(json.dumps(written)).encode()
    for body in (wrapped + json.dumps(turned).encode(), wrapped + json.dumps(turned, indent=1).encode()):
        found = decode_body(body + b"\n")
        assert not found.dead
        assert [found.auditID for found in found.events] == [written["auditID"]] * (1 + bool(before))
        expected = decode_body(json.dumps(written).encode()).events[0]
        assert msgspec.structs.replace(found.events[-1], requestObject=msgspec.Raw()) == (
            msgspec.structs.replace(expected, requestObject=msgspec.Raw())
        )
