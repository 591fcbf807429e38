"""Encoding: one action per request, whatever its stages, and only what matters in it."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.actions.encoder import ActionEncoder, ActionSettings
from data.actions.fields import STATIC_FIELDS, gap_codes
from data.actions.vocabulary import Vocabulary
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from data.timestamps import parse_times
from tests.data.samples import event


def decode(*lines: bytes) -> list[AuditEvent]:
    decoded = decode_lines(lines)
    assert not decoded.dead, decoded.dead
    return decoded.events


def values(*lines: bytes, encoder: ActionEncoder | None = None) -> list[dict[str, str]]:
    encoder = encoder or ActionEncoder()
    batch = encoder.encode(decode(*lines))
    return [
        {f: encoder.interners[f].values[c[row]] for f, c in batch.codes.items()} for row in range(len(batch))
    ]


def test_fields_of_an_ordinary_read() -> None:
    (found,) = values(event(), encoder=ActionEncoder(ActionSettings(trusted_hops=1)))
    assert found == {
        "verb": "get",
        "resource": "pods",
        "namespace": "web",
        "name": "web-*",
        "code": "ok",
        "client": "kubectl/1.30 linux",
        "place": "10.1.2.3",
        "binding": "-",
        "impersonates": "-",
        "traits": "-",
        "images": "-",
        "uri": "-",
        "owner": "-",
        "hour": "weekday 09",
        "burst": "-",
        "spread": "-",
    }


def test_stages_of_one_request_are_one_action() -> None:
    watch = {"verb": "watch", "requestURI": "/api/v1/pods?watch=true"}
    encoder = ActionEncoder()
    batch = encoder.encode(
        decode(
            event(stage="RequestReceived", **watch),
            event(stage="ResponseStarted", **watch),
            event(stage="ResponseComplete", **watch),
        )
    )
    assert batch.event.tolist() == [1]
    assert batch.folded.tolist() == [0, 2]
    assert encoder.encode(decode(event(stage="ResponseComplete", **watch))).folded.tolist() == [0]


def test_a_reused_audit_id_hides_nothing() -> None:
    first = event(auditID="same")
    for other in (
        event(auditID="same", requestReceivedTimestamp="2026-01-05T09:30:01.000000Z"),
        event(auditID="same", requestURI="/api/v1/namespaces/web/secrets"),
        event(auditID="same", user={"username": "someone-else@example.com"}),
    ):
        assert len(values(first, other)) == 2


def test_exec_is_one_deed_whichever_verb_the_client_used() -> None:
    target = {"resource": "pods", "subresource": "exec", "namespace": "web", "name": "web-0"}
    uri = "/api/v1/namespaces/web/pods/web-0/exec?command=sh&stdin=true"
    old, new = (values(event(verb=verb, objectRef=target, requestURI=uri))[0] for verb in ("create", "get"))
    assert old == new
    assert (old["verb"], old["resource"], old["uri"]) == ("connect", "pods/exec", "command&stdin sh")


def test_a_request_without_identity_or_object_is_an_action() -> None:
    (found,) = values(event(user={}, objectRef=None, requestURI="/version", responseStatus={"code": 401}))
    assert (found["resource"], found["code"], found["namespace"]) == ("/version", "401", "-")


def test_impersonation_keeps_both_identities() -> None:
    encoder = ActionEncoder()
    batch = encoder.encode(decode(event(impersonatedUser={"username": "system:serviceaccount:web:app"})))
    assert batch.principals[batch.principal[0]].name == "dev-1@example.com"
    assert (
        encoder.interners["impersonates"].values[batch.codes["impersonates"][0]]
        == "system:serviceaccount:web:app"
    )


def test_what_lies_behind_a_proxy_is_part_of_the_action() -> None:
    target = {"resource": "nodes", "subresource": "proxy", "name": "node-1"}
    usual, cover = (
        values(event(objectRef=target, requestURI=f"/api/v1/nodes/node-1/proxy/{path}"))[0]["uri"]
        for path in ("metrics/cadvisor", "exec/web/web-0/app?command=id&x=metrics")
    )
    assert usual == "metrics/cadvisor?"
    assert cover.startswith("exec/web/")


@pytest.mark.parametrize("resource", ["secrets", "configmaps"])
def test_contents_of_secrets_enter_no_action_at_any_audit_level(resource: str) -> None:
    body = {
        "data": {"password": "aHVudGVyMg=="},
        "stringData": {"token": "hunter2"},
        "metadata": {"name": "db"},
    }
    found = values(
        event(
            verb="create",
            level="RequestResponse",
            requestObject=body,
            objectRef={"resource": resource, "namespace": "web"},
        )
    )
    assert "hunter2" not in json.dumps(found)
    assert "aHVudGVyMg" not in json.dumps(found)


def test_dropped_principals_leave_no_trace() -> None:
    encoder = ActionEncoder(ActionSettings(drop_principals=("dev-1@example.com",)))
    batch = encoder.encode(decode(event()))
    assert (len(batch), batch.dropped.tolist()) == (0, [0])


def test_settings_reject_what_they_do_not_know() -> None:
    with pytest.raises(KubehabitError, match="Unknown encoding setting"):
        ActionSettings.from_dict({"trusted_hop": 1})
    with pytest.raises(KubehabitError, match="whole number"):
        ActionSettings.from_dict({"trusted_hops": -1})


def test_times_of_every_zone_are_utc_microseconds() -> None:
    same = ["2026-01-05T09:30:00.5Z", "2026-01-05T10:30:00.500000+01:00", "2026-01-05T04:00:00.500-05:30"]
    assert len(set(parse_times(same).tolist())) == 1
    assert parse_times(["1970-01-01T00:00:01.000002999Z"]).tolist() == [1_000_002]


def test_gaps_fall_into_their_buckets() -> None:
    assert gap_codes(np.array([-1, 0, 9_999, 10_000, 999_999, 10**11])).tolist() == [0, 1, 1, 2, 3, 9]


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=6))
def test_how_a_log_is_cut_into_calls_changes_nothing(normal_lines: list[bytes], cuts: list[int]) -> None:
    events = decode(*normal_lines[:400])
    whole = values(*normal_lines[:400])
    encoder = ActionEncoder()
    edges = [0, *sorted(cuts), len(events)]
    parts = []
    for begin, end in itertools.pairwise(edges):
        batch = encoder.encode(events[begin:end])
        parts += [
            {f: encoder.interners[f].values[c[row]] for f, c in batch.codes.items()}
            for row in range(len(batch))
        ]
    assert parts == whole


def test_a_recording_loses_nothing(normal_lines: list[bytes]) -> None:
    decoded = decode_lines(normal_lines)
    batch = ActionEncoder().encode(decoded.events)
    assert len(batch) + len(batch.folded) + len(decoded.dead) == len(normal_lines)


@given(st.lists(st.integers(0, 1500), max_size=6))
@settings(max_examples=20, deadline=None)
def test_what_is_appended_in_blocks_is_flushed_as_if_encoded_at_once(
    labelled_lines: list[bytes], edges: list[int]
) -> None:
    events = decode(*labelled_lines[:1500])
    whole, blocks = ActionEncoder(), ActionEncoder()
    expected = whole.encode(events)
    cuts = [0, *sorted(edges), len(events)]
    kept = [event for a, b in itertools.pairwise(cuts) for event in blocks.append(events[a:b])]
    taken = blocks.flush()
    assert [events[i] for i in expected.event.tolist()] == kept
    for column in ("event", "time", "folded", "dropped"):
        assert getattr(taken, column).tolist() == getattr(expected, column).tolist()
    assert [taken.principals[i] for i in taken.principal] == [
        expected.principals[i] for i in expected.principal
    ]
    for field, codes in expected.codes.items():
        mine, theirs = blocks.interners[field].values, whole.interners[field].values
        assert [mine[code] for code in taken.codes[field]] == [theirs[code] for code in codes]
    assert len(blocks.flush()) == 0


def test_memos_that_overflow_change_nothing(
    labelled_lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    events = decode(*labelled_lines[:1500])
    roomy = ActionEncoder()
    expected = roomy.encode(events)
    monkeypatch.setattr("data.actions.encoder._MEMO_LIMIT", 10)
    monkeypatch.setattr("data.actions.encoder._INTERNED_LIMIT", 100)
    tight = ActionEncoder()
    found: dict[str, list[str]] = {field: [] for field in expected.codes}
    for begin in range(0, len(events), 100):
        batch = tight.encode(events[begin : begin + 100])
        for field, codes in batch.codes.items():
            found[field] += [tight.interners[field].values[code] for code in codes]
    for field, codes in expected.codes.items():
        if field != "owner":
            assert found[field] == [roomy.interners[field].values[code] for code in codes]


def test_encoders_that_share_a_vocabulary_do_not_share_codes() -> None:
    one, other = ActionEncoder(), ActionEncoder()
    vocabulary = Vocabulary.fit(
        {field: {"get": 2, "delete": 2} for field in STATIC_FIELDS}, span_days=1, limit=9
    )
    tokens = []
    for encoder, verbs in ((one, ("get", "delete")), (other, ("delete", "get")), (one, ("get", "delete"))):
        lines = [event(verb=verb, auditID=f"{verb}-{len(tokens)}") for verb in verbs]
        column = vocabulary.encode(encoder.encode(decode(*lines)), encoder)[:, 0]
        tokens.append([vocabulary.tokens["verb"][token] for token in column])
    assert tokens == [["get", "delete"], ["delete", "get"], ["get", "delete"]]


def test_what_is_remembered_of_raw_values_is_bounded_in_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody who reaches the API server can choose long paths, and new ones for ever."""
    monkeypatch.setattr("data.actions.encoder._MEMO_CHARACTERS", 200_000)
    monkeypatch.setattr("data.actions.encoder._INTERNED_CHARACTERS", 200_000)
    encoder = ActionEncoder()
    generations = set()
    for number in range(200):
        path = "/" + "".join("ghijklmnop"[int(digit)] for digit in str(number)) + "w" * 3000
        encoder.encode(decode(event(requestURI=path, objectRef=None, auditID=f"a{number}", userAgent=path)))
        generations.add(encoder.generation)
        assert encoder._memo_characters < 210_000
        assert (
            sum(len(value) for interner in encoder.interners.values() for value in interner.values) < 220_000
        )
    assert len(generations) > 2
