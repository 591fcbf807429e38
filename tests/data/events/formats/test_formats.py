"""Sources: however an event is wrapped, it becomes the same action; and nothing in a log is lost."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data.actions.encoder import ActionEncoder
from data.actions.fields import STATIC_FIELDS
from data.errors import KubehabitError
from data.events.audit_event import MAX_EVENT_BYTES, MAX_TEXT, Annotations, AuditEvent, DeadLetter
from data.events.decode import decode_body, decode_lines
from data.events.formats.json_stream import Documents
from data.events.formats.registry import Sources
from data.events.reader import STDIN, first_time, log_files, read_events
from tests.conftest import RECORDED
from tests.data import envelopes
from tests.data.samples import event

Wrap = Callable[[Sequence[dict[str, Any]]], bytes]


class Kept:
    """Dead letters in memory."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []

    def add(self, source: str, letter: DeadLetter) -> None:
        self.letters.append(letter)


def read(
    path: Path, sources: Sources | None = None
) -> tuple[list[AuditEvent], list[DeadLetter], dict[str, int]]:
    kept, skipped = Kept(), {}
    events = [
        e for chunk in read_events(path, kept, sources=sources, on_skipped=skipped.update) for e in chunk
    ]
    return events, kept.letters, skipped


def actions(events: list[AuditEvent]) -> list[dict[str, Any]]:
    for e in events:
        e.cluster = ""  # is part of a principal's name, and not in every envelope
    encoder = ActionEncoder(RECORDED)
    batch = encoder.encode(events)
    return [
        {field: encoder.interners[field].values[batch.codes[field][row]] for field in STATIC_FIELDS}
        | {
            "principal": batch.principals[batch.principal[row]].name,
            "kind": batch.principals[batch.principal[row]].kind,
            "time": int(batch.time[row]),
            "id": events[batch.event[row]].auditID,
        }
        for row in range(len(batch))
    ]


@pytest.fixture(scope="module")
def recorded(normal_lines: list[bytes], labelled_lines: list[bytes]) -> list[dict[str, Any]]:
    """800 real events: ordinary work and attacks."""
    return [json.loads(line) for line in [*normal_lines[2_000:2_400], *labelled_lines[3_000:3_400]]]


@pytest.fixture(scope="module")
def native(recorded: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return actions(decode_lines(list(map(envelopes.dumps, recorded))).events)


@pytest.mark.parametrize("wrap", envelopes.LOSSLESS, ids=lambda wrap: wrap.__name__)
def test_a_wrapped_event_is_the_same_action_as_its_native_twin(
    tmp_path: Path, recorded: list[dict[str, Any]], native: list[dict[str, Any]], wrap: Wrap
) -> None:
    log = tmp_path / "log"
    log.write_bytes(wrap(recorded))
    events, dead, skipped = read(log)
    assert (dead, skipped) == ([], {})
    assert len(events) == len(recorded)
    assert actions(events) == native


@pytest.mark.parametrize("wrap", envelopes.GKE, ids=lambda wrap: wrap.__name__)
def test_a_gke_entry_is_the_same_action_but_for_the_query_which_google_does_not_keep(
    tmp_path: Path, recorded: list[dict[str, Any]], native: list[dict[str, Any]], wrap: Wrap
) -> None:
    log = tmp_path / "log"
    log.write_bytes(wrap(recorded))
    events, dead, _ = read(log)
    assert dead == []
    assert {e.cluster for e in events} == {"example-project/europe-west1/shop"}
    found = actions(events)
    asked = {event["auditID"]: event["requestURI"] for event in recorded}
    for mine, theirs in zip(found, native, strict=True):
        if "?" in asked[mine["id"]]:
            mine, theirs = mine | {"uri": ""}, theirs | {"uri": ""}
        assert mine == theirs


@pytest.mark.parametrize(
    "pack", [gzip.compress, zstandard.compress, lambda x: gzip.compress(gzip.compress(x))]
)
def test_compression_and_format_are_found_by_content(
    tmp_path: Path,
    recorded: list[dict[str, Any]],
    native: list[dict[str, Any]],
    pack: Callable[[bytes], bytes],
) -> None:
    log = tmp_path / "misleading.txt"
    log.write_bytes(pack(envelopes.aks_event_hub(recorded)))
    assert actions(read(log)[0]) == native


def test_a_mixed_file_is_read_record_by_record(tmp_path: Path, recorded: list[dict[str, Any]]) -> None:
    parts = [recorded[i : i + 40] for i in range(0, 800, 40)]
    log = tmp_path / "log"
    wraps = [*envelopes.LOSSLESS, envelopes.gke_sink]
    wraps = [wrap for wrap in wraps if "gzip" not in wrap.__name__]
    packed = [wrap(part) for wrap, part in zip(wraps, parts, strict=False)]
    log.write_bytes(b"\n".join(packed))
    events, dead, _ = read(log)
    assert dead == []
    assert [e.auditID for e in events] == [e["auditID"] for part in parts[: len(packed)] for e in part]


def test_what_is_known_of_the_cluster_is_kept() -> None:
    one = [json.loads(event())]
    cases = {
        envelopes.eks_firehose: "111122223333/shop",
        envelopes.gke_sink: "example-project/europe-west1/shop",
        envelopes.aks_blob: "00000000-1111-2222-3333-444444444444/shop-rg/shop",
        envelopes.aks_log_analytics: "00000000-1111-2222-3333-444444444444/shop-rg/shop",
        envelopes.lines: "",
    }
    for wrap, cluster in cases.items():
        assert [e.cluster for e in decode_lines(wrap(one).splitlines()).events] == [cluster]
    assert (
        decode_lines([event(**{"kubehabit.cluster": "east", "cluster": {"any": 1}})]).events[0].cluster
        == "east"
    )


def test_other_logs_of_a_shared_stream_are_left_out_and_counted(tmp_path: Path) -> None:
    good = json.loads(event())
    fetched = json.loads(envelopes.eks_cli([good]))
    fetched["events"] += [
        {"logStreamName": "authenticator-1", "timestamp": 1, "message": 'time="2026" level=info msg=granted'},
        {"logStreamName": "kube-scheduler-1", "timestamp": 1, "message": "I0105 09:30:00.1 1 x.go:1] y"},
        {"timestamp": 1, "message": "I0105 09:30:00.000000       1 trace.go:219] Trace"},
    ]
    entry = envelopes.gke_entry(good)
    google = entry | {"protoPayload": {"serviceName": "container.googleapis.com", "methodName": "x"}}
    records = [
        envelopes.dumps(fetched),
        envelopes.eks_export([good]).strip(),
        b"2026-01-05T09:30:01.123Z I0105 09:30:00.000000       1 controller.go:1] syncing",
        envelopes.dumps(envelopes.eks_subscription([]) | {"messageType": "CONTROL_MESSAGE"}),
        envelopes.dumps(
            {"messageType": "DATA_MESSAGE", "logStream": "authenticator-1", "logEvents": [{"message": "x"}]}
        ),
        envelopes.dumps(google),
        envelopes.dumps({"insertId": "i", "logName": "projects/p/logs/stdout", "textPayload": "x"}),
        envelopes.dumps(
            envelopes.aks_record(good, "kube-apiserver")
            | {"properties": {"log": "I0105 09:30:00.1 1 x.go:1] y"}}
        ),
        envelopes.dumps(envelopes.aks_record(good)),
    ]
    decoded = decode_lines(records)
    assert decoded.dead == []
    assert len(decoded.events) == 3
    assert dict(decoded.skipped) == {
        "EKS log stream that is not the audit log": 5,
        "CloudWatch control message": 1,
        "Google Cloud API call that is not Kubernetes'": 1,
        "Cloud Logging entry that is not an audit log": 1,
        "Azure record that is not of kube-audit": 1,
    }


def gke(**changes: Any) -> dict[str, Any]:
    entry = envelopes.gke_entry(json.loads(event()))
    payload = changes.pop("protoPayload", {})
    return entry | changes | {"protoPayload": entry["protoPayload"] | payload}


def one(record: object) -> AuditEvent:
    decoded = decode_lines([envelopes.dumps(record)])
    assert decoded.dead == []
    (found,) = decoded.events
    return found


METHODS = """
io.k8s.core.v1.pods.exec.create       core/v1/namespaces/a/pods/p/exec         create  pods exec a p
io.k8s.core.v1.namespaces.get         core/v1/namespaces/a                     get     namespaces - a a
io.k8s.core.v1.namespaces.list        core/v1/namespaces                       list    namespaces - - -
io.k8s.core.v1.namespaces.finalize.update  core/v1/namespaces/a/finalize       update  namespaces finalize a a
io.k8s.core.v1.nodes.proxy.get        core/v1/nodes/n/proxy/metrics/cadvisor   get     nodes proxy - n
io.k8s.authorization.rbac.v1.roles.list  rbac.authorization.k8s.io/v1/roles    list    roles - - -
io.k8s.apps.v1.deployments.scale.patch  apps/v1/namespaces/a/deployments/d/scale  patch  deployments scale a d
com.coreos.monitoring.v1.rules.get    monitoring.coreos.com/v1/namespaces/a/rules/r  get  rules - a r
io.k8s.app.v1alpha1.widgets.patch     app.example.com/v1alpha1/namespaces/a/widgets/w  patch  widgets - a w
"""


@pytest.mark.parametrize("case", METHODS.strip().splitlines())
def test_a_gke_method_and_resource_name_are_taken_apart(case: str) -> None:
    method, name, verb, resource, subresource, namespace, object_name = case.replace(" - ", " . ").split()
    found = one(gke(protoPayload={"methodName": method, "resourceName": name}))
    assert found.verb == verb
    ref = found.objectRef
    assert ref is not None
    group = name.partition("/")[0]
    assert ref.apiGroup == ("" if group == "core" else group)
    known = [part or "." for part in (ref.resource, ref.subresource, ref.namespace, ref.name)]
    assert known == [part.replace("-", ".") for part in (resource, subresource, namespace, object_name)]
    root = "/api/" if group == "core" else "/apis/"
    assert found.requestURI == root + name.removeprefix("core/")


def test_a_gke_request_outside_the_resource_api_keeps_its_path() -> None:
    for name in ("readyz", "apis/storage.k8s.io/v1"):
        found = one(gke(protoPayload={"methodName": "io.k8s.get", "resourceName": name}))
        assert (found.verb, found.requestURI, found.objectRef) == ("get", f"/{name}", None)


def test_a_gke_watch_of_one_object_is_asked_by_its_name() -> None:
    name = "core/v1/namespaces/a/pods/p"
    found = one(gke(protoPayload={"methodName": "io.k8s.core.v1.pods.watch", "resourceName": name}))
    assert found.requestURI == "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dp"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"status": {}}, 200),
        ({"status": {"code": 7}}, 403),
        ({"status": {"code": 5}}, 404),
        ({"status": {"code": 16}}, 401),
        ({"status": {"code": 10}}, 409),
        ({"status": {"code": 3}, "response": {"@type": "core.k8s.io/v1.Status", "kind": "Status", "code": 422}}, 422),
        ({"status": {"code": 201}}, 201),
        ({"methodName": "io.k8s.core.v1.pods.exec.create"}, 101),
    ],
)  # fmt: skip
def test_a_grpc_status_becomes_the_http_code(payload: dict[str, Any], code: int) -> None:
    status = one(gke(protoPayload=payload)).responseStatus
    assert status is not None
    assert status.code == code


def test_gke_keeps_impersonation_refusal_and_the_request() -> None:
    found = one(
        gke(
            labels={},
            protoPayload={
                "authenticationInfo": {
                    "principalEmail": "eve@example.com",
                    "authoritySelector": "system:admin",
                },
                "authorizationInfo": [{"permission": "x"}],
                "methodName": "io.k8s.core.v1.pods.create",
                "resourceName": "core/v1/namespaces/a/pods",
                "request": {
                    "@type": "core.k8s.io/v1.Pod",
                    "metadata": {"name": "p"},
                    "spec": {"hostPID": True},
                },
            },
        )
    )
    assert found.user.username == "eve@example.com"
    assert found.impersonatedUser is not None
    assert found.impersonatedUser.username == "system:admin"
    assert found.annotations == Annotations(decision="forbid")
    assert json.loads(bytes(found.requestObject)) == {"metadata": {"name": "p"}, "spec": {"hostPID": True}}
    assert found.objectRef is not None
    assert found.objectRef.name == "p"
    assert found.level == "Request"


def test_both_entries_of_a_long_running_gke_request_are_one_action(tmp_path: Path) -> None:
    operation = {"id": "op-1", "producer": "k8s.io"}
    started = gke(insertId="x", operation=operation | {"first": True})
    ended = gke(insertId="y", operation=operation | {"last": True}, timestamp="2026-01-05T09:45:00Z")
    log = tmp_path / "log"
    log.write_bytes(envelopes.lines([started, ended]))
    events, _, _ = read(log)
    assert [e.stage for e in events] == ["ResponseStarted", "ResponseComplete"]
    assert len(actions(events)) == 1
    assert len(actions(decode_lines([envelopes.dumps(ended)]).events)) == 1  # the end alone is an action too


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (gke(protoPayload={"methodName": ""}), "methodName is missing"),
        (gke(timestamp="soon", receiveTimestamp=""), "RFC 3339"),
        (gke(insertId="", operation={}), "auditID is empty"),
        ({"category": "kube-audit", "properties": {}}, "properties.log is missing"),
        ({"category": "kube-audit", "properties": {"log": "{cut"}}, "not JSON"),
        ({"logEvents": [{"message": '{"kind":"Event"'}], "logStream": "kube-apiserver-audit-1"}, "not JSON"),
        ({"awslogs": {"data": "H4sIAAAAAAAA"}}, "its end is missing"),
        ({"awslogs": {"data": "H4sIAAAAAAAAAAAA////"}}, "damaged"),
    ],
)  # fmt: skip
def test_a_broken_envelope_is_a_dead_letter_with_its_reason(record: dict[str, Any], reason: str) -> None:
    decoded = decode_lines([event(), envelopes.dumps(record), event()])
    assert len(decoded.events) == 2
    assert [letter.line for letter in decoded.dead] == [2]
    assert reason in decoded.dead[0].reason


def test_a_small_record_cannot_unpack_to_a_huge_one() -> None:
    bomb = gzip.compress(b" " * (100 << 20))
    nested = envelopes.dumps({"awslogs": {"data": __import__("base64").b64encode(bomb).decode()}})
    assert "larger than allowed" in decode_lines([nested]).dead[0].reason
    many = decode_body(b"[" + b",".join([nested] * 3) + b"]")
    assert len(many.dead) == 3


def test_envelopes_in_envelopes_end_somewhere() -> None:
    body = event()
    for _ in range(12):
        body = b"[" + body + b"]"
    assert "nested too deep" in decode_lines([body]).dead[0].reason


def test_a_body_with_an_envelope_gives_each_event_its_place_in_the_batch() -> None:
    items = [json.loads(event(auditID=name)) for name in ("a", "b")]
    body = envelopes.dumps(
        {"records": [envelopes.aks_record(items[0]), {"x": 1}, envelopes.aks_record(items[1])]}
    )
    decoded = decode_body(body)
    assert [(e.auditID, line) for e, line in zip(decoded.events, decoded.lines, strict=True)] == [
        ("a", 1),
        ("b", 3),
    ]
    assert [letter.line for letter in decoded.dead] == [2]


def documents(data: bytes, size: int) -> list[bytes]:
    splitter = Documents(1)
    found: list[tuple[int, bytes]] = []
    for at in range(0, len(data), size):
        if splitter.finished:
            break
        found += splitter.feed(data[at : at + size])
    if not splitter.finished:
        found += splitter.end()
    return [record for _, record in found]


PRETTY = ("event_list_pretty", "kubectl_list", "json_stream_pretty", "eks_cli", "gke_cli", "aks_old_blob")


@given(st.integers(1, 4000), st.sampled_from(PRETTY))
@settings(max_examples=60, deadline=None)
def test_where_the_bytes_are_cut_does_not_matter(size: int, wrap: str) -> None:
    strange = {
        "metadata": {"name": 'a"}{"b":[{\\'},
        "spec": {"text": "}\n{\n  {", "list": [[], {}, [{"x": "]"}]]},
    }
    sample = [json.loads(event(auditID=f"id-{i}", requestObject=strange)) for i in range(3)]
    data: bytes = getattr(envelopes, wrap)(sample)
    decoded = decode_lines(documents(data, size))
    assert decoded.dead == []
    assert [e.auditID for e in decoded.events] == ["id-0", "id-1", "id-2"]


DAMAGED = ("event_list_pretty", "gke_cli", "array_one_per_line", "eks_firehose")


@pytest.mark.parametrize("wrap", [getattr(envelopes, name) for name in DAMAGED], ids=DAMAGED)
def test_damage_in_a_document_costs_the_damaged_record_and_no_other(tmp_path: Path, wrap: Wrap) -> None:
    sample = [json.loads(event(auditID=f"id-{i}")) for i in range(40)]
    whole = wrap(sample)
    lost_most = 0
    for at in range(whole.index(b"id-9") - 60, whole.index(b"id-10") + 60, 7):
        log = tmp_path / "log"
        log.write_bytes(whole[:at] + b"\x00\xff" + whole[at + 3 :])
        events, dead, _ = read(log)
        got = {e.auditID for e in events}
        lost_most = max(lost_most, 40 - len({f"id-{i}" for i in range(40)} & got))
        assert {"id-3", "id-38"} <= got
        assert dead or len(events) == 40
    assert lost_most <= (7 if wrap is envelopes.eks_firehose else 2)  # a Firehose record holds seven events


def test_a_list_that_is_cut_off_says_so(tmp_path: Path) -> None:
    log = tmp_path / "log"
    whole = envelopes.kubectl_list([json.loads(event(auditID=f"id-{i}")) for i in range(20)])
    log.write_bytes(whole[: len(whole) // 2])
    events, dead, _ = read(log)
    assert 8 <= len(events) <= 10
    assert len(dead) == 1


def test_a_list_larger_than_any_event_is_read_item_by_item(tmp_path: Path) -> None:
    sample = [json.loads(event(auditID=f"id-{i}", requestObject={"pad": "x" * 90_000})) for i in range(200)]
    for wrap in (
        lambda s: envelopes.dumps(envelopes.event_list(s)),
        envelopes.aks_event_hub,
        envelopes.event_list_pretty,
    ):
        log = tmp_path / "log"
        log.write_bytes(event() + b"\n" + wrap(sample).strip() + b"\n" + event(auditID="last") + b"\n")
        assert log.stat().st_size > 2 * MAX_EVENT_BYTES
        events, dead, _ = read(log)
        assert dead == []
        assert [e.auditID for e in events][1:] == [*(f"id-{i}" for i in range(200)), "last"]


def test_a_damaged_list_on_one_huge_line_is_found_into_again(tmp_path: Path) -> None:
    sample = [
        json.loads(event(auditID=f"id-{i:03d}", requestObject={"pad": "x" * 90_000})) for i in range(300)
    ]
    whole = envelopes.aks_event_hub(sample)
    log = tmp_path / "log"
    log.write_bytes(whole.replace(b"id-003", b'id-003}{{"', 1) + event(auditID="last"))
    events, dead, _ = read(log)
    assert dead
    got = [e.auditID for e in events]
    assert got[:3] == ["id-000", "id-001", "id-002"]
    assert got[-3:] == ["id-298", "id-299", "last"]
    assert len(got) > 200  # what is lost is less than the longest event


def test_nesting_without_end_takes_no_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"[" + b'{"a":' * 4_000_000 + b"\n" + event())
    events, dead, _ = read(log)
    assert len(events) == 1
    assert dead


def test_lines_are_numbered_through_documents(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pretty = envelopes.event_list_pretty([json.loads(event())])
    log.write_bytes(event() + b"\n" + pretty + b"{cut\n" + event() + b"\nnot json\n")
    _, dead, _ = read(log)
    lines = log.read_bytes().split(b"\n")
    assert [letter.line for letter in dead] == [lines.index(b"{cut") + 1, lines.index(b"not json") + 1]


def test_a_cut_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [
        event(auditID="a"),
        event()[:-60],
        b'{"kind":"Event","user":{',
        event(auditID="b"),
        b"{",
        event(auditID="c"),
    ]
    log.write_bytes(b"\n".join(lines))
    events, dead, _ = read(log)
    assert [e.auditID for e in events] == ["a", "b", "c"]
    assert [letter.line for letter in dead] == [2, 3, 5]


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch, recorded: list[dict[str, Any]]) -> None:
    data = io.BufferedReader(io.BytesIO(gzip.compress(envelopes.lines(recorded))))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": data}))
    events, dead, _ = read(STDIN)
    assert (len(events), dead) == (len(recorded), [])


def test_a_folder_is_read_in_the_order_of_time(tmp_path: Path) -> None:
    times = {"m=02/PT1H.json": "11", "m=01/zz.json.gz": "09", "a.log": "10"}
    for name, hour in times.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        sample = [json.loads(event(auditID=hour, stageTimestamp=f"2026-01-05T{hour}:00:00.000000Z"))]
        data = envelopes.aks_blob(sample)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (tmp_path / ".checkpoint").write_text("{}")
    (tmp_path / "empty").touch()
    (tmp_path / "notes.txt").write_text("no event\n")
    seen: list[int] = []
    kept = Kept()
    events = [e for chunk in read_events(tmp_path, kept, on_bytes=seen.append) for e in chunk]
    assert [e.auditID for e in events] == ["09", "10", "11"]
    assert [letter.line for letter in kept.letters] == [1]
    assert [file.name for file in log_files([tmp_path])] == ["zz.json.gz", "a.log", "PT1H.json", "notes.txt"]
    assert seen == sorted(seen)
    assert first_time(tmp_path / "a.log") == "2026-01-05T10:00:00.000000Z"


def test_a_folder_without_files_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(KubehabitError, match="holds no file"):
        log_files([tmp_path])


def test_the_formats_found_are_counted(tmp_path: Path, recorded: list[dict[str, Any]]) -> None:
    log = tmp_path / "log"
    log.write_bytes(envelopes.lines(recorded[:10]) + envelopes.gke_sink(recorded[10:13]))
    sources = Sources()
    read(log, sources)
    assert dict(sources.records) == {"native": 10, "GKE": 3}


KEYS = re.findall(
    r"\w+",
    "items records Records events message logEvents data awslogs kinesis protoPayload insertId logName labels operation"
    " resource status request category properties log Category log_s kind apiVersion methodName",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 600) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=10,
)


@given(JSON)
@settings(max_examples=400, deadline=None)
def test_no_json_of_any_shape_crashes_a_format(value: object) -> None:
    body = json.dumps(value).encode()
    decoded = decode_lines([body, event()])
    assert len(decoded.events) >= 1
    decode_body(body + b"\n" + event())
    documents(body, 3)


@given(st.binary(max_size=400), st.integers(1, 50))
@settings(max_examples=300, deadline=None)
def test_no_bytes_crash_the_splitter(noise: bytes, size: int) -> None:
    documents(noise, size)
    documents(b'[\n{"a":1},' + noise, size)


def test_long_texts_of_a_gke_entry_are_cut() -> None:
    long = "x" * 100_000
    payload = {
        "resourceName": f"core/v1/namespaces/{long}/pods/{long}",
        "authenticationInfo": {"principalEmail": long, "authoritySelector": long},
        "requestMetadata": {"callerIp": long, "callerSuppliedUserAgent": long},
        "request": {"@type": "x", "metadata": {"name": long}},
    }
    found = one(gke(protoPayload=payload, resource={"labels": {"project_id": long, "cluster_name": long}}))
    texts = [found.requestURI, found.user.username, found.userAgent, *found.sourceIPs, found.cluster]
    assert found.impersonatedUser is not None
    assert found.objectRef is not None
    texts += [found.impersonatedUser.username, found.objectRef.name, found.objectRef.namespace]
    assert max(map(len, texts)) <= MAX_TEXT
    assert len(found.user.username) == MAX_TEXT
    assert len(bytes(found.requestObject)) > 100_000


@pytest.mark.parametrize("wrap", [envelopes.eks_subscription, envelopes.aks_record])
def test_a_long_name_of_a_cluster_is_cut(wrap: Any, recorded: list[dict[str, Any]]) -> None:
    record = wrap(recorded[:1] if wrap is envelopes.eks_subscription else recorded[0])
    record |= {"logGroup": "y" * 9000} if "logEvents" in record else {"resourceId": "y" * 9000}
    found = Sources().open(json.dumps(record).encode())
    assert found is not None
    assert [len(event.cluster) for event in found.events] == [MAX_TEXT]


@pytest.mark.parametrize("opening", [b'{"a":"', b"{\n"])
def test_a_document_that_waits_for_its_end_is_not_looked_at_again_and_again(opening: bytes) -> None:
    def seconds(size: int) -> float:
        data = opening + b'"items"  ' * (size // 9)
        begin = time.process_time()
        documents(data, 1 << 16)
        return time.process_time() - begin

    assert seconds(8_000_000) < 25 * max(seconds(800_000), 0.02)


def test_the_format_of_what_wraps_and_of_what_is_wrapped_stays_first() -> None:
    """Each record of a queue asked all others first, as what it held had changed their order meanwhile."""
    sources = Sources()
    decode_lines(envelopes.gke_pubsub([json.loads(event())] * 3).splitlines(), sources=sources)
    assert next(one.name for one, _ in sources._formats) == "GKE"


@pytest.mark.parametrize("odd", [{"data": {}}, {"awslogs": 1}, {"logGroup": None}, {"logEvents": "x"}])
def test_a_cloudwatch_message_beside_members_of_other_types_is_read(odd: dict[str, Any]) -> None:
    record = {"timestamp": 1, "message": event().decode()}
    assert len(decode_body(envelopes.dumps(record | odd)).events) == 1
