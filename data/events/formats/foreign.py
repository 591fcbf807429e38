"""Names what is sent for an audit log and is none, and says how to get one from it."""

from __future__ import annotations

import re

import msgspec

from data.events.audit_event import UNREADABLE

#: How the reason begins for what is no JSON at all.
NO_JSON = ("not JSON", "YAML", "CSV", "legacy text", "Parquet", "Avro", "HTML")
_YAML = "YAML, which is not read: print JSON instead (gcloud logging read --format=json, kubectl get -o json, yq -o json)"
_CSV = "CSV, which is not read: export JSON instead, one record a line"
_LEGACY = (
    "legacy text of the audit log, which says too little: start the API server with --audit-log-format=json"
)
_PARQUET = (
    "Parquet, which is not read: export JSON instead (duckdb -c \"COPY (FROM 'log.parquet') TO 'log.json'\")"
)
_AVRO = "Avro, which is not read: export JSON instead (avro-tools tojson)"
_HTML = "HTML, which is not read: what was saved is a page, perhaps of an error, and not the log"
_KUBERNETES_EVENT = (
    "a Kubernetes Event (kubectl get events), not an audit event: give the audit log, which the API server writes with "
    "--audit-policy-file and --audit-log-path"
)
_REVIEW = (
    "an AdmissionReview (what an admission webhook is asked), not an audit event: give the audit log, which the API server "
    "writes with --audit-policy-file and --audit-log-path"
)
_POLICY = "an audit policy, not an audit event: give the log that the API server writes by it"
_OBJECT = "a Kubernetes object, not an audit event: give the audit log, which the API server writes with --audit-log-path"

_LEGACY_LINE = re.compile(rb'.{0,64}AUDIT: (?:id|ip)="', re.DOTALL)
#: Of one line that is indented, an item, or named as in an audit event: any text may begin with a word and a colon.
_YAML_LINE = re.compile(
    rb"---\s*|(?:\s+|\s*- )'?[A-Za-z@][\w@./-]{0,100}'?:(?:\s.*)?|'?[A-Za-z@][\w@./-]{0,100}'?:\s*"
    rb"|(?:insertId|timestamp|receiveTimestamp|logName|severity|kind|apiVersion|auditID|level|stage|verb|requestURI|userAgent"
    rb"|requestReceivedTimestamp|stageTimestamp):\s.*",
    re.DOTALL,
)
_LOOKED_AT = 1024
#: A row of a table: a field in quotes whose own quotes are doubled, or a heading of names.
_CSV_ROW = re.compile(rb'[^{}\n]{0,400}"\{""')
_CSV_HEAD = re.compile(rb'"?[@\w][\w@ .\[\]/-]{0,60}"?(?:,"?[@\w][\w@ .\[\]/-]{0,60}"?){1,200}\s*')
_COLUMNS = re.compile(
    rb"@message|@timestamp|log_s|TimeGenerated|Category|auditID|message|requestURI|logStream", re.IGNORECASE
)
_AUDIT_KEYS = ("audit.k8s.io/v1", "audit.k8s.io/v1beta1", "audit.k8s.io/v1alpha1")


class _Object(msgspec.Struct):
    kind: str = ""
    apiVersion: str = ""
    involvedObject: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    regarding: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_OBJECT_OF = msgspec.json.Decoder(_Object)


def describe(raw: bytes) -> str:
    """One sentence about a record that no format reads: what it is, and how to get a log that is read; "" if that is unknown."""
    begins = raw.lstrip()[:1]
    return _describe_json(raw) if begins in (b"{", b"[") else _describe_text(raw)


def _describe_json(raw: bytes) -> str:
    try:
        found = _OBJECT_OF.decode(raw)
    except UNREADABLE:
        return ""
    if found.kind == "AdmissionReview":
        return _REVIEW
    if found.apiVersion in _AUDIT_KEYS:
        return _POLICY if found.kind == "Policy" else ""
    if found.kind == "Event" and (
        found.involvedObject is not msgspec.UNSET or found.regarding is not msgspec.UNSET
    ):
        return _KUBERNETES_EVENT
    return (
        _OBJECT
        if found.kind and found.apiVersion and found.kind not in ("Event", "EventList", "List")
        else ""
    )


def _describe_text(raw: bytes) -> str:
    if raw[:4] == b"PAR1":
        return _PARQUET
    if raw[:4] == b"Obj\x01":
        return _AVRO
    raw = raw[:_LOOKED_AT]
    if raw.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return _HTML
    if _LEGACY_LINE.match(raw):
        return _LEGACY
    if _CSV_ROW.match(raw) or (_CSV_HEAD.fullmatch(raw) and _COLUMNS.search(raw)):
        return _CSV
    return _YAML if _YAML_LINE.fullmatch(raw) else ""
