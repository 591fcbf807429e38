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
from typing import Any

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
    tar, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, content in (("a.log", log), ("b.log.gz", gzip.compress(log, mtime=0))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as folder:
        folder.writestr(zipfile.ZipInfo("a.log"), log, zipfile.ZIP_DEFLATED)
    text = log.decode()
    encoded = [text.encode(name) for name in ("utf-8-sig", "utf-16", "utf-16-be")]
    return [bz2.compress(log), lzma.compress(log), tar.getvalue(), zipped.getvalue(), *encoded]
