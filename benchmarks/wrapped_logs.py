"""Logs in what shippers, queues and databases put around audit events: seeds for the fuzzing of everything that opens them."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import zstandard

_TIME = "2026-01-05T09:30:00.123456789Z"


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _lines(records: list[Any]) -> bytes:
    return b"".join(_text(record).encode() + b"\n" for record in records)


def _base64(value: bytes | str) -> str:
    return base64.b64encode(value if isinstance(value, bytes) else value.encode()).decode()


def wrapped(events: list[dict[str, Any]]) -> list[bytes]:
    """One log for each way to wrap some events."""
    texts = [_text(event) for event in events]
    first, text = events[0], texts[0]
    record = [{"key": key, "value": {"stringValue": str(value)}} for key, value in first.items()]
    attributes = {"attributes": [{"key": "k8s.cluster.name", "value": {"stringValue": "c"}}]}
    bodies = [{"body": {"stringValue": one}} for one in texts]
    hits = [
        {"_source": {"event": {"original": one}, "kubernetes": {"audit": event}}}
        for one, event in zip(texts, events, strict=True)
    ]
    rows = [
        [{"field": "@message", "value": one}, {"field": "@log", "value": "1:/aws/eks/c/cluster"}]
        for one in texts
    ]
    azure = {"category": "kube-audit", "resourceId": "/subscriptions/a", "properties": {"log": first}}
    table = {
        "columns": [{"name": "Category"}, {"name": "log_s"}],
        "rows": [["kube-audit", one] for one in texts],
    }
    lower = {key.lower(): value for key, value in first.items()}
    changed = first | {"requestReceivedTimestamp": "2026-01-05 09:30:00", "responseStatus": {"code": "200"}}
    return [
        _lines([{"log": one + "\n", "stream": "stdout", "time": _TIME} for one in texts]),
        _lines([{"message": _text({"message": one})} for one in texts]),
        _lines(
            [{"kubernetes": {"audit": event}, "orchestrator": {"cluster": {"name": "c"}}} for event in events]
        ),
        _lines([{f"kubernetes.audit.{key}": value for key, value in first.items()}]),
        _text({"took": 1, "hits": {"total": 3, "hits": hits}}).encode(),
        json.dumps({"hits": {"hits": hits}}, indent=1).encode(),
        _text({"streams": [{"stream": {"a": "b"}, "values": [["1", one] for one in texts]}]}).encode(),
        _text({"resourceLogs": [{"resource": attributes, "scopeLogs": [{"logRecords": bodies}]}]}).encode(),
        _text({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": record}]}]}]}).encode(),
        _text({"results": rows}).encode(),
        _text({"tables": [table]}).encode(),
        _text({"Records": [{"Data": _base64(one), "PartitionKey": "p"} for one in texts]}).encode(),
        _text(
            {"records": {"t-0": [{"value": _base64(gzip.compress(one.encode(), mtime=0))} for one in texts]}}
        ).encode(),
        _lines([{"schema": {"type": "string"}, "payload": one} for one in texts]),
        _lines([{"ResultSet": {"Rows": [{"Data": [{"VarCharValue": one}]} for one in texts]}}]),
        _lines([azure, azure | {"category": "guard", "properties": {"log": "I0105 09:30:00.1 1 a.go:1] b"}}]),
        _lines([lower, changed, first | {"annotations": None, "sourceIPs": None}]),
        _lines([{"log": "I0105 09:30:00.1 1 a.go:1] b"}, {"event": first, "sourcetype": "x"}]),
        _lines(list(texts)),
        b"".join(f"<133>1 {_TIME} cp1 audit 7 - - {one}\n".encode() for one in texts),
        b"".join(f"[pod/kube-apiserver/a] {one}\n".encode() for one in texts),
        f"{_TIME} stdout P {text[:300]}\n{_TIME} stderr F I0105 09:30:00.1 1 a.go:1] b\n{_TIME} stdout F {text[300:]}\n".encode(),
        f"2026-01-05T09:30:00+00:00 kube-apiserver-audit-1 {text}\nprose\n{json.dumps(first, indent=1)}\n".encode(),
        _text(
            {
                "class_uid": 6003,
                "api": {"operation": "get", "request": {"uid": "1"}, "version": "audit.k8s.io/v1"},
                "actor": {"user": {"name": "a"}},
                "time": 1767605400000,
                "unmapped": {
                    "stage": "ResponseComplete",
                    "annotations.authorization.k8s.io/decision": "allow",
                },
            }
        ).encode(),
        *_packed(_lines(events)),
    ]


def _packed(log: bytes) -> list[bytes]:
    """A log in each packing and encoding."""
    text = log.decode()
    encoded = [text.encode(name) for name in ("utf-8-sig", "utf-16", "utf-16-be")]
    archives = [tar_of([("a.log", log), ("b.log.gz", gzip.compress(log, mtime=0))]), zip_of([("a.log", log)])]
    return [bz2.compress(log), lzma.compress(log), *archives, *encoded]


def tar_of(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A tar archive of (name, content)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def zip_of(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A zip archive of (name, content)."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 1)
    return made.getvalue()


#: Name -> what packs a log, quickly. A log that is not UTF-8 has no other encoding.
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda log: gzip.compress(log, 1, mtime=0),
    "zstd": zstandard.ZstdCompressor(level=1).compress,
    "bzip2": lambda log: bz2.compress(log, 1),
    "xz": lambda log: lzma.compress(log, preset=0),
    "tar": lambda log: tar_of([("a.log", log)]),
    "zip": lambda log: zip_of([("a.log", log)]),
    "zstd in gzip": lambda log: gzip.compress(zstandard.compress(log, 1), 1, mtime=0),
    "utf-8 with a mark": lambda log: log.decode().encode("utf-8-sig"),
    "utf-16": lambda log: log.decode().encode("utf-16"),
    "utf-16-be": lambda log: log.decode().encode("utf-16-be"),
}


def _cloudwatch(texts: Sequence[str]) -> dict[str, Any]:
    group = {"messageType": "DATA_MESSAGE", "owner": "1", "logGroup": "/aws/eks/c/cluster"}
    stream = {"logStream": "kube-apiserver-audit-1"}
    return {**group, **stream, "logEvents": [{"id": "1", "timestamp": 1, "message": text} for text in texts]}


def _log_records(texts: Sequence[str]) -> dict[str, Any]:
    return {"scopeLogs": [{"logRecords": [{"body": {"stringValue": text}} for text in texts]}]}


#: Name -> one document around the texts of any number of records, each of which it holds as a text.
CONTAINERS: dict[str, Callable[[Sequence[str]], bytes]] = {
    "CloudWatch": lambda texts: _text(_cloudwatch(texts)).encode(),
    "CloudWatch, packed": lambda texts: _text(
        {"awslogs": {"data": _base64(gzip.compress(_text(_cloudwatch(texts)).encode(), 1, mtime=0))}}
    ).encode(),
    "Azure": lambda texts: _text(
        {"records": [{"category": "kube-audit", "resourceId": "/a", "properties": {"log": text}} for text in texts]}
    ).encode(),
    "Azure, indented": lambda texts: json.dumps(
        {"records": [{"category": "kube-audit", "resourceId": "/a", "properties": {"log": text}} for text in texts]},
        indent=1,
    ).encode(),
    "Elastic": lambda texts: _text(
        {"took": 1, "hits": {"hits": [{"_source": {"event": {"original": text}}} for text in texts]}}
    ).encode(),
    "Loki": lambda texts: _text(
        {"streams": [{"stream": {"a": "b"}, "values": [["1", text] for text in texts]}]}
    ).encode(),
    "OTLP": lambda texts: _text({"resourceLogs": [_log_records(texts)]}).encode(),
    "CloudWatch Insights": lambda texts: _text(
        {"results": [[{"field": "@message", "value": text}] for text in texts]}
    ).encode(),
    "Log Analytics": lambda texts: _text(
        {"tables": [{"columns": [{"name": "Category"}, {"name": "log_s"}], "rows": [["a", text] for text in texts]}]}
    ).encode(),
    "Kinesis": lambda texts: _text(
        {"Records": [{"Data": _base64(text.encode("utf-8", "surrogatepass")), "PartitionKey": "p"} for text in texts]}
    ).encode(),
    "Kafka": lambda texts: _text({"records": {"t-0": [{"value": text} for text in texts]}}).encode(),
    "Docker": lambda texts: _lines([{"log": text + "\n", "stream": "stdout", "time": _TIME} for text in texts]),
    "a list": lambda texts: _text([{"message": _text({"log": text})} for text in texts]).encode(),
}  # fmt: skip
