"""Shapes of logs that no case has: more of what shippers, queues, databases and people make of an audit log."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.data import envelopes
from tests.data.envelopes import AKS_ID, dumps, lines
from tests.data.samples import event

PLAIN = [
    json.loads(event(auditID=f"id-{name}", verb=verb))
    for name, verb in zip("abc", ("get", "list", "create"), strict=True)
]
TEXTS = [dumps(one).decode() for one in PLAIN]
ONE, TEXT = PLAIN[0], TEXTS[0]
KLOG = "I0105 09:30:00.000000       1 trace.go:219] Trace"


class Shape(NamedTuple):
    """A log, and what is in it."""

    content: bytes
    events: int = 3
    skipped: int = 0
    dead: int = 0
    reason: str = ""
    same: bool = True  # its events are the plain ones


def each(wrap: Callable[[dict[str, Any]], object]) -> bytes:
    return lines([wrap(one) for one in PLAIN])  # type: ignore[misc]


def text_of(one: dict[str, Any]) -> str:
    return dumps(one).decode()


def text_lines(before: str, after: str = "") -> bytes:
    return "".join(f"{before}{text}{after}\n" for text in TEXTS).encode()


def b64(value: object) -> str:
    return base64.b64encode(value if isinstance(value, bytes) else dumps(value)).decode()


def tar(files: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def zipped(files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def any_value(value: Any) -> dict[str, Any]:
    """A value as OpenTelemetry types it."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(item) for item in value]}}
    return {
        "kvlistValue": {"values": [{"key": key, "value": any_value(inner)} for key, inner in value.items()]}
    }


def otlp(records: list[dict[str, Any]]) -> bytes:
    resource = {"attributes": [{"key": "k8s.cluster.name", "value": {"stringValue": "shop"}}]}
    return dumps(
        {"resourceLogs": [{"resource": resource, "scopeLogs": [{"scope": {}, "logRecords": records}]}]}
    )


def lower(value: dict[str, Any]) -> dict[str, Any]:
    """Names as Hive and Athena have them."""
    return {
        key.lower(): lower(inner) if isinstance(inner, dict) and key != "annotations" else inner
        for key, inner in value.items()
    }


def activity(one: dict[str, Any]) -> dict[str, Any]:
    reference = one["objectRef"]
    return {
        "class_uid": 6003,
        "activity_name": "Read",
        "time": 1767605400000,
        "metadata": {"product": {"name": "Amazon EKS", "vendor_name": "AWS"}, "version": "1.1.0"},
        "api": {
            "operation": one["verb"],
            "request": {"uid": one["auditID"]},
            "response": {"code": 200},
            "version": "audit.k8s.io/v1",
        },
        "actor": {
            "user": {
                "name": one["user"]["username"],
                "groups": [{"name": "dev:web"}, {"name": "system:authenticated"}],
            }
        },
        "http_request": {"url": {"path": one["requestURI"]}, "user_agent": one["userAgent"]},
        "src_endpoint": {"ip": one["sourceIPs"][0]},
        "resources": [
            {"name": reference["name"], "type": reference["resource"], "namespace": reference["namespace"]}
        ],
        "unmapped": {
            "annotations.authorization.k8s.io/decision": "allow",
            "stage": "ResponseComplete",
            "level": "Metadata",
        },
    }


def gke(**payload: Any) -> dict[str, Any]:
    entry = envelopes.gke_entry(ONE)
    return entry | {"protoPayload": entry["protoPayload"] | payload}


def big_query() -> bytes:
    """Rows of BigQuery's export of Cloud Audit logs: other names, nulls, texts for all that has no schema."""
    rows = []
    for one in PLAIN:
        entry = envelopes.gke_entry(one)
        payload = entry.pop("protoPayload")
        payload |= {
            "status": None,
            "requestJson": None,
            "responseJson": '{"kind":"Status"}',
            "servicedata_v1": None,
        }
        payload["authorizationInfo"] = [{"permission": "x", "granted": "true", "resource": None}]
        entry["operation"] = entry["operation"] | {"first": "true", "last": "true"}
        entry["labels"] = {"authorization_k8s_io_decision": "allow", "authorization_k8s_io_reason": ""}
        rows.append(
            entry
            | {
                "protopayload_auditlog": payload,
                "textPayload": None,
                "timestamp": "2026-01-05 09:30:00.000000 UTC",
            }
        )
    return lines(rows)


HITS = [
    {"_index": "x", "_source": {"event": {"original": text}, "kubernetes": {"audit": one}}}
    for text, one in zip(TEXTS, PLAIN, strict=True)
]
FLAT = {f"kubernetes.audit.{key}": value for key, value in ONE.items() if not isinstance(value, dict)} | {
    f"kubernetes.audit.{part}.{key}": value
    for part in ("user", "objectRef", "responseStatus", "annotations")
    for key, value in ONE[part].items()
    if not isinstance(value, dict)
}
UNDOTTED = ONE | {"annotations": {"authorization": {"k8s": {"io/decision": "allow", "io/reason": ""}}}}
COLUMNS = [{"name": name, "type": "string"} for name in ("TimeGenerated", "Category", "log_s", "_ResourceId")]
CRI = "2026-01-05T09:30:00.123456789+01:00"
JOINED = "".join(
    f"{CRI} stdout P {text[:200]}\n{CRI} stderr F {KLOG}\n{CRI} stdout P {text[200:500]}\n{CRI} stdout F {text[500:]}\n"
    for text in TEXTS
)

SHAPES: dict[str, Shape] = {
    # lists with an item a line, the first behind the bracket
    "json_agg": Shape(b"[" + ", \n ".join(TEXTS).encode() + b"]\n"),
    "items and commas": Shape(",\n".join(TEXTS).encode() + b"\n"),
    "wrapped items and commas": Shape(each(lambda one: {"log": text_of(one)}).replace(b"}\n", b"},\n")),
    "one item damaged": Shape(f"[{TEXTS[0]},\nundefined,\n{TEXTS[1]}]".encode(), 2, dead=1),
    "envelopes, an item a line": Shape(
        b"["
        + each(lambda one: {"category": "kube-audit", "properties": {"log": text_of(one)}})
        .strip()
        .replace(b"}\n", b"},\n")
        + b"]"
    ),
    "an envelope, an item a line": Shape(
        b'{"kind": "EventList", "items": [' + ",\r\n".join(TEXTS).encode() + b"]}"
    ),
    "envelopes with lists, and commas": Shape(
        each(lambda one: {"logEvents": [{"timestamp": 1, "message": text_of(one)}]}).replace(b"}\n", b"},\n")
    ),
    # shippers
    "docker json-file": Shape(
        each(lambda one: {"log": text_of(one) + "\n", "stream": "stdout", "time": "2026-01-05T09:30:00Z"})
    ),
    "fluent bit with klog between": Shape(
        each(lambda one: {"log": text_of(one)}) + lines([{"log": KLOG, "stream": "stderr"}]), skipped=1
    ),
    "filebeat": Shape(
        each(
            lambda one: {
                "@timestamp": "x",
                "agent": {"type": "filebeat"},
                "message": text_of(one),
                "log": {"offset": 1},
            }
        )
    ),
    "filebeat parsed": Shape(
        each(lambda one: {"@timestamp": "x", "json": one, "log": {"file": {"path": "/a"}}})
    ),
    "logstash event.original beside the parts": Shape(
        each(lambda one: {"event": {"original": text_of(one)}, "kubernetes": {"audit": one}})
    ),
    "datadog": Shape(
        each(
            lambda one: {
                "id": "x",
                "content": {"message": "audit", "attributes": {"kubernetes": {"audit": one}}},
            }
        )
    ),
    "splunk export": Shape(
        each(lambda one: {"preview": False, "result": {"_raw": text_of(one), "host": "cp1"}})
    ),
    "sumo": Shape(each(lambda one: {"_messagetime": 1, "_raw": text_of(one)})),
    "graylog": Shape(
        each(
            lambda one: {
                "version": "1.1",
                "host": "cp",
                "short_message": "audit",
                "full_message": text_of(one),
            }
        )
    ),
    "loki answer": Shape(
        dumps(
            {
                "status": "success",
                "data": {
                    "resultType": "streams",
                    "result": [{"stream": {}, "values": [["1", text] for text in TEXTS]}],
                },
            }
        )
    ),
    "loki push with a line of another program": Shape(
        dumps(
            {
                "streams": [
                    {"stream": {}, "values": [["1", TEXT], ["2", KLOG], ["3", TEXTS[1]], ["4", TEXTS[2]]]}
                ]
            }
        ),
        skipped=1,
    ),
    "logcli": Shape(
        each(
            lambda one: {
                "labels": {"job": "audit"},
                "line": text_of(one),
                "timestamp": "2026-01-05T09:30:00Z",
            }
        )
    ),
    "otlp parsed into attributes": Shape(
        otlp(
            [
                {
                    "body": {"stringValue": ""},
                    "attributes": [{"key": k, "value": any_value(v)} for k, v in one.items()],
                }
                for one in PLAIN
            ]
        ),
        same=False,
    ),
    "otlp parsed into the body": Shape(otlp([{"body": any_value(one)} for one in PLAIN]), same=False),
    "otlp with a record of another program": Shape(
        otlp([{"body": {"stringValue": text}} for text in [*TEXTS, "hello"]]), dead=1, same=False
    ),
    "journald": Shape(
        each(
            lambda one: {
                "__CURSOR": "s=1",
                "_SYSTEMD_UNIT": "kube-apiserver.service",
                "MESSAGE": text_of(one),
            }
        )
    ),
    "journal as text": Shape(text_lines("Jan 05 09:30:00 cp1 kube-apiserver[1234]: ")),
    "syslog of RFC 5424 with structured data": Shape(
        text_lines('<134>1 2026-01-05T09:30:00.1Z cp1 audit 77 ID47 [x@1 a="{"] ')
    ),
    "syslog whose message ends in text": Shape(text_lines("<134>Jan  5 09:30:00 cp1 audit: ", " [trailer]")),
    "kubectl logs --timestamps": Shape(text_lines("2026-01-05T09:30:00.123456789Z ")),
    "stern": Shape(text_lines("kube-apiserver-cp1 kube-apiserver ")),
    "aws logs tail": Shape(text_lines("2026-01-05T09:30:00.123000+00:00 kube-apiserver-audit-0f3c ")),
    "aws logs tail of other streams": Shape(
        b'2026-01-05T09:30:00.123000+00:00 authenticator-0f3c time="2026" level=info\n'
        + f"2026-01-05T09:30:00+00:00 kube-scheduler-1 {KLOG}\n".encode(),
        events=0,
        skipped=2,
    ),
    "cri in parts, of two streams": Shape(JOINED.encode(), skipped=3),
    "cri whose end is missing": Shape(
        f"{CRI} stdout P {TEXT[:200]}\n".encode(), events=0, dead=1, reason="not JSON"
    ),
    "cri without a tag": Shape(text_lines(f"{CRI} stdout ")),
    "texts of JSON": Shape(b"".join(dumps(text) + b"\n" for text in TEXTS)),
    "list of texts": Shape(dumps(TEXTS)),
    "vector in vector": Shape(
        each(lambda one: {"message": json.dumps({"message": json.dumps({"message": text_of(one)})})})
    ),
    "dictionary by id": Shape(dumps({one["auditID"]: one for one in PLAIN})),
    # queues
    "kafka connect": Shape(
        each(lambda one: {"schema": {"type": "string", "optional": False}, "payload": text_of(one)})
    ),
    "kafka connect as a struct": Shape(
        each(lambda one: {"schema": {"type": "struct", "fields": []}, "payload": one})
    ),
    "kcat": Shape(
        each(
            lambda one: {
                "topic": "audit",
                "partition": 0,
                "offset": 1,
                "tstype": "create",
                "ts": 1,
                "key": None,
                "payload": text_of(one),
            }
        )
    ),
    "kafka rest": Shape(
        dumps(
            [{"topic": "audit", "key": None, "value": b64(one), "partition": 0, "offset": 1} for one in PLAIN]
        )
    ),
    "msk on lambda": Shape(
        dumps(
            {
                "eventSource": "aws:kafka",
                "records": {"audit-0": [{"topic": "audit", "value": b64(one)} for one in PLAIN]},
            }
        )
    ),
    "kinesis get-records": Shape(
        dumps(
            {
                "Records": [{"SequenceNumber": "1", "Data": b64(one), "PartitionKey": "p"} for one in PLAIN],
                "MillisBehindLatest": 0,
            }
        )
    ),
    "kinesis get-records of CloudWatch": Shape(
        dumps(
            {
                "Records": [
                    {
                        "SequenceNumber": "1",
                        "Data": b64(gzip.compress(dumps(envelopes.eks_subscription(PLAIN)))),
                    }
                ]
            }
        ),
        same=False,
    ),
    "sqs": Shape(dumps({"Records": [{"messageId": "1", "body": text} for text in TEXTS]})),
    "sns in sqs": Shape(
        dumps(
            {"Records": [{"body": json.dumps({"Type": "Notification", "Message": text})} for text in TEXTS]}
        )
    ),
    "event bridge": Shape(each(lambda one: {"version": "0", "detail-type": "audit", "detail": one})),
    "cloud events in base64": Shape(
        each(lambda one: {"specversion": "1.0", "type": "audit", "data_base64": b64(one)})
    ),
    "event grid": Shape(dumps([{"id": "1", "eventType": "x", "data": one} for one in PLAIN])),
    "pull of pub/sub": Shape(
        dumps({"receivedMessages": [{"ackId": "1", "message": {"data": b64(envelopes.gke_entry(ONE))}}]}),
        events=1,
        same=False,
    ),
    # clouds
    "self-hosted log in CloudWatch": Shape(
        dumps(envelopes.eks_subscription(PLAIN) | {"logGroup": "k8s", "logStream": "cp-0/audit.log"}),
        same=False,
    ),
    "CloudWatch messages as objects": Shape(
        dumps({"events": [{"logStreamName": "any", "timestamp": 1, "message": one} for one in PLAIN]})
    ),
    "audit event in another stream of EKS": Shape(
        dumps(envelopes.eks_subscription(PLAIN) | {"logStream": "authenticator-1"}), same=False
    ),
    "self-hosted log in Cloud Logging": Shape(
        each(lambda one: {"logName": "projects/p/logs/k8s-audit", "insertId": "1", "jsonPayload": one})
    ),
    "other log in Cloud Logging": Shape(
        lines([{"logName": "projects/p/logs/stdout", "insertId": "1", "jsonPayload": {"a": 1}}]),
        events=0,
        skipped=1,
    ),
    "a logName alone": Shape(lines([{"logName": "mine", "insertId": "1", "payload": "x"}]), events=0, dead=1),
    "another cloud API that speaks of audit.k8s.io": Shape(
        lines(
            [gke(serviceName="container.googleapis.com", methodName="x", request={"x": "audit.k8s.io/v1"})]
        ),
        events=0,
        dead=1,
        reason="not Kubernetes'",
    ),
    "BigQuery": Shape(big_query(), same=False),
    "Azure's category in a row without a resource": Shape(
        each(lambda one: {"category": "mine", "message": text_of(one)})
    ),
    "AKS log as an object": Shape(
        each(lambda one: {"category": "kube-audit", "resourceId": AKS_ID, "properties": {"log": one}}),
        same=False,
    ),
    "Log Analytics query": Shape(
        dumps(
            {
                "tables": [
                    {
                        "name": "PrimaryResult",
                        "columns": COLUMNS,
                        "rows": [["x", "kube-audit", text, AKS_ID] for text in TEXTS],
                    }
                ]
            }
        ),
        same=False,
    ),
    "Log Analytics query with other categories": Shape(
        dumps(
            {
                "tables": [
                    {
                        "name": "PrimaryResult",
                        "columns": COLUMNS,
                        "rows": [["x", "kube-audit", TEXT, AKS_ID], ["x", "guard", KLOG, AKS_ID]],
                    }
                ]
            }
        ),
        events=1,
        dead=1,
        same=False,
    ),
    "Athena": Shape(each(lower)),
    "Athena results": Shape(
        dumps(
            {
                "ResultSet": {
                    "Rows": [{"Data": [{"VarCharValue": "x"}, {"VarCharValue": text}]} for text in TEXTS]
                }
            }
        )
    ),
    "Security Lake": Shape(each(activity), same=False),
    "Security Lake of another API": Shape(
        lines(
            [
                activity(ONE)
                | {
                    "metadata": {"product": {"name": "CloudTrail"}},
                    "api": {"operation": "DescribeInstances"},
                    "unmapped": {},
                }
            ]
        ),
        events=0,
        skipped=1,
    ),
    "ECS, one level": Shape(lines([FLAT]), events=1),
    "ECS, names split at dots": Shape(lines([{"kubernetes": {"audit": UNDOTTED}}]), events=1),
    "elastic hits": Shape(dumps({"hits": {"total": 3, "hits": HITS}})),
    "elastic hits with another document": Shape(
        dumps({"hits": {"hits": [*HITS, {"_source": {"message": "hello"}}]}}), dead=1
    ),
    "elastic fields": Shape(
        dumps({"hits": {"hits": [{"fields": {"event.original": [text]}} for text in TEXTS]}})
    ),
    # types
    "code as a text": Shape(each(lambda one: one | {"responseStatus": {"code": "200"}})),
    "code as a fraction": Shape(each(lambda one: one | {"responseStatus": {"code": 200.0}})),
    "code as a word": Shape(each(lambda one: one | {"responseStatus": {"code": "OK"}}), events=0, dead=3),
    "nulls everywhere": Shape(
        each(
            lambda one: (
                one
                | {
                    "impersonatedUser": None,
                    "userAgent": None,
                    "sourceIPs": None,
                    "user": {"username": "x", "groups": None},
                }
            )
        ),
        same=False,
    ),
    "times with a space": Shape(
        each(
            lambda one: (
                one
                | {
                    "requestReceivedTimestamp": "2026-01-05 09:30:00",
                    "stageTimestamp": "2026-01-05 09:30:00+00",
                }
            )
        ),
        same=False,
    ),
    "times as numbers": Shape(
        each(lambda one: one | {"requestReceivedTimestamp": 1767605400000, "stageTimestamp": 1767605400.01}),
        same=False,
    ),
    "times that may be in March or in February": Shape(
        each(lambda one: one | {"requestReceivedTimestamp": "3/2/2026 9:30:00"}),
        events=0,
        dead=3,
        reason="RFC 3339",
    ),
    "one group and one address as texts": Shape(
        each(lambda one: one | {"user": {"username": "x", "groups": "dev"}, "sourceIPs": "10.0.0.1"}),
        same=False,
    ),
    "parts as texts": Shape(
        each(
            lambda one: (
                one
                | {name: json.dumps(one[name]) for name in ("user", "objectRef", "annotations")}
                | {"sourceIPs": '["10.1.2.3","127.0.0.1"]'}
            )
        )
    ),
    # packings and encodings
    "bzip2": Shape(bz2.compress(lines(PLAIN))),
    "two xz streams": Shape(lzma.compress(lines(PLAIN[:1])) + lzma.compress(lines(PLAIN[1:]))),
    "xz that is cut": Shape(
        lzma.compress(lines(PLAIN) * 200)[:-8], events=600, dead=1, reason="damaged", same=False
    ),
    "utf-16": Shape(lines(PLAIN).decode().encode("utf-16")),
    "utf-16, big end first, no mark": Shape(lines(PLAIN).decode().encode("utf-16-be")),
    "utf-16 of Windows, indented": Shape(json.dumps(PLAIN, indent=2).replace("\n", "\r\n").encode("utf-16")),
    "utf-32": Shape(lines(PLAIN).decode().encode("utf-32")),
    "marks in the middle": Shape(b"\xef\xbb\xbf" + lines(PLAIN[:1]) + b"\xef\xbb\xbf" + lines(PLAIN[1:])),
    "tar": Shape(tar({"a.log": lines(PLAIN[:1]).rstrip(), "d/b.log": lines(PLAIN[1:])})),
    "tar of pax with hidden and compressed files": Shape(
        tar(
            {
                "a/._x.log": b"\0\1",
                "a/x.log.gz": gzip.compress(lines(PLAIN[:2])),
                "y.json": json.dumps(PLAIN[2], indent=1).encode(),
            },
            tarfile.PAX_FORMAT,
        )
    ),
    "tar that is cut": Shape(
        tar({"a.log": lines(PLAIN), "b.log": lines(PLAIN) * 99})[:20_000], events=-1, dead=-1, same=False
    ),
    "zip of zip": Shape(
        zipped({"in.zip": zipped({"a.log": lines(PLAIN)}, zipfile.ZIP_STORED), "__MACOSX/._a": b"\0"})
    ),
    "zip with a damaged file": Shape(
        zipped({"a.log": lines(PLAIN), "b.log.gz": gzip.compress(lines(PLAIN))[:-9]}, zipfile.ZIP_STORED),
        events=6,
        dead=1,
        reason="b.log.gz",
        same=False,
    ),
    "packed too deep": Shape(
        gzip.compress(gzip.compress(gzip.compress(gzip.compress(gzip.compress(lines(PLAIN)))))),
        events=0,
        dead=1,
        reason="packings",
    ),
    # documents
    "one indented event of Windows": Shape(
        json.dumps(ONE, indent=4).replace("\n", "\r\n").encode(), events=1
    ),
    "indented envelope of CloudWatch": Shape(
        json.dumps(envelopes.eks_subscription(PLAIN), indent=2).encode(), same=False
    ),
    "indented hits": Shape(json.dumps({"hits": {"hits": HITS}}, indent=2).encode()),
    "prose, then records": Shape(b"Reading the log ...\n" + lines(PLAIN), dead=1, reason="not JSON"),
    "prose, then a document": Shape(b"$ kubectl get events\n" + json.dumps(PLAIN, indent=1).encode(), dead=1),
    # what is none
    "kubernetes events": Shape(
        lines([{"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {}, "reason": "x"}]),
        events=0,
        dead=1,
        reason="kubectl get events",
    ),
    "a pod": Shape(
        lines([{"apiVersion": "v1", "kind": "Pod", "metadata": {}}]),
        events=0,
        dead=1,
        reason="a Kubernetes object",
    ),
    "a policy": Shape(
        lines([{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": []}]),
        events=0,
        dead=1,
        reason="an audit policy",
    ),
    "admission review around an event": Shape(
        lines(
            [
                {
                    "apiVersion": "admission.k8s.io/v1",
                    "kind": "AdmissionReview",
                    "request": {"object": {"data": {"message": TEXT}}},
                }
            ]
        ),
        events=0,
        dead=1,
        reason="AdmissionReview",
    ),
    "yaml of an event": Shape(
        b"apiVersion: audit.k8s.io/v1\nkind: Event\nuser:\n  username: x\n", events=0, dead=4, reason="YAML"
    ),
    "parquet": Shape(b"PAR1\x15\x04\x15\x10", events=0, dead=1, reason="Parquet"),
    "a page": Shape(b"<!DOCTYPE html><html>log in</html>", events=0, dead=1, reason="HTML"),
    "csv of events": Shape(b"auditID,verb,requestURI\n1,get,/api\n", events=0, dead=2, reason=""),
    "legacy of 1.7": Shape(
        b'AUDIT: id="5c3b" ip="10.0.0.1" method="GET" user="x"\n', events=0, dead=1, reason="legacy"
    ),
    "nothing but empty lists": Shape(
        b'{"events":[],"searchedLogStreams":[]}\n{"records":[]}\n[]\n', events=0
    ),
}
