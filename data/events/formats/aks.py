"""Reads Azure AKS: diagnostic records whose `properties.log` holds the audit event as a string.

Source of the shape: Azure Monitor resource logs of `Microsoft.ContainerService/managedClusters`, categories `kube-audit` and
`kube-audit-admin`; the legacy table AzureDiagnostics names the string `log_s`; the tables AKSAudit and
AKSAuditAdmin have columns in place of the event's fields.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache

import msgspec

from data.events.audit_event import API_VERSIONS, UNREADABLE, cut_text
from data.events.formats.reading import AUDIT_GROUP, Reading
from data.events.lenient import decode_changed

AUDIT_CATEGORIES = ("kube-audit", "kube-audit-admin")
_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourcegroups/(?P<group>[^/]+)"
    r"/providers/microsoft\.containerservice/managedclusters/(?P<name>[^/]+)"
)


class _Properties(msgspec.Struct):
    log: str = ""


class _ObjectProperties(msgspec.Struct):
    """With the event as an object: some shippers parse it."""

    log: msgspec.Raw


class _ObjectRecord(msgspec.Struct):
    category: str
    properties: _ObjectProperties
    resourceId: str | None = None
    time: str | int | float | None = None


class _AksRecord(msgspec.Struct):
    category: str
    properties: _Properties | str | None = None
    resourceId: str | None = None
    time: str | int | float | None = None


class _AksRow(msgspec.Struct):
    Category: str
    log_s: str | None = None
    resource: str | None = msgspec.field(default=None, name="ResourceId")
    resource_: str | None = msgspec.field(default=None, name="_ResourceId")
    time: str | int | float | None = msgspec.field(default=None, name="TimeGenerated")


class _AuditRow(msgspec.Struct):
    """A row of the resource-specific tables AKSAudit and AKSAuditAdmin: the fields of the event are its columns."""

    AuditId: str
    Verb: str
    resource: str | None = msgspec.field(default=None, name="_ResourceId")


_RECORD = msgspec.json.Decoder(_AksRecord)
_ROW = msgspec.json.Decoder(_AksRow)
_AUDIT_ROW = msgspec.json.Decoder(_AuditRow)
_PROPERTIES = msgspec.json.Decoder(_Properties)
_OBJECT_RECORD = msgspec.json.Decoder(_ObjectRecord)
#: Characters of an id whose cluster is remembered: a log has few ids, and Azure's have 200 or so.
_ID_LENGTH = 512


def cluster_of(resource: str) -> str:
    """`subscription/group/cluster` in lower case (Azure writes its ids in either), or the id itself if it is of another shape."""
    return _short_cluster(resource) if len(resource) <= _ID_LENGTH else resource.lower()


@lru_cache(maxsize=256)
def _short_cluster(resource: str) -> str:
    match = _ID.match(resource.lower())
    return "/".join(match.groups()) if match else resource.lower()


class AksRecord:
    """One diagnostic record, or one row exported from Log Analytics."""

    name = "AKS"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        record = _record(raw)
        if record is None:
            return _read_row(raw, found)
        category, resource, log, time = record
        if category.lower() not in AUDIT_CATEGORIES and not AUDIT_GROUP.search(log):
            # Any record may have a category; only Azure's have an Azure resource.
            if not resource.lower().startswith("/subscriptions/"):
                return False
            found.skip("Azure record that is not of kube-audit", raw)
            return True
        if not log or log == b"null":
            found.lost("not an audit event: properties.log is missing or empty", raw)
            return True
        found.record(log, cluster_of(resource), time=time)
        return True


def _record(raw: bytes) -> tuple[str, str, bytes, str | int | float | None] | None:
    """Category, resource, `log` and time of a diagnostic record, or of a row of AzureDiagnostics; None if it is neither."""
    try:
        record = _RECORD.decode(raw)
    except UNREADABLE:
        return _other_record(raw)
    properties = record.properties
    if isinstance(properties, str):
        try:
            properties = _PROPERTIES.decode(properties)
        except UNREADABLE:
            properties = None
    text = properties.log if properties is not None else ""
    return record.category, record.resourceId or "", text.encode("utf-8", "surrogatepass"), record.time


def _other_record(raw: bytes) -> tuple[str, str, bytes, str | int | float | None] | None:
    with suppress(*UNREADABLE):
        parsed = _OBJECT_RECORD.decode(raw)
        return parsed.category, parsed.resourceId or "", bytes(parsed.properties.log), parsed.time
    with suppress(*UNREADABLE):
        row = _ROW.decode(raw)
        text = row.log_s or ""
        return (
            row.Category,
            row.resource_ or row.resource or "",
            text.encode("utf-8", "surrogatepass"),
            row.time,
        )
    return None


def _read_row(raw: bytes, found: Reading) -> bool:
    """Read a row of AKSAudit, which names no API version."""
    try:
        row = _AUDIT_ROW.decode(raw)
        event = decode_changed(raw, API_VERSIONS[0])
    except UNREADABLE:
        return False
    event.cluster = event.cluster or cut_text(cluster_of(row.resource or ""))
    event.apiVersion = event.apiVersion or API_VERSIONS[0]
    found.event(event, raw)
    return True
