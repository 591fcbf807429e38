"""Reads Azure AKS: diagnostic records whose `properties.log` holds the audit event as a string.

Source of the shape: Azure Monitor resource logs of `Microsoft.ContainerService/managedClusters`, categories `kube-audit` and
`kube-audit-admin`; the legacy table AzureDiagnostics names the string `log_s`.
"""

from __future__ import annotations

import re

import msgspec

from data.events.audit_event import UNREADABLE
from data.events.formats.reading import Reading

AUDIT_CATEGORIES = ("kube-audit", "kube-audit-admin")
_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourcegroups/(?P<group>[^/]+)"
    r"/providers/microsoft\.containerservice/managedclusters/(?P<name>[^/]+)"
)


class _Properties(msgspec.Struct):
    log: str = ""


class _AksRecord(msgspec.Struct):
    category: str
    properties: _Properties | str | None = None
    resourceId: str = ""
    time: str = ""


class _AksRow(msgspec.Struct):
    Category: str
    log_s: str = ""
    resource: str = msgspec.field(default="", name="ResourceId")
    resource_: str = msgspec.field(default="", name="_ResourceId")
    time: str = msgspec.field(default="", name="TimeGenerated")


_RECORD = msgspec.json.Decoder(_AksRecord)
_ROW = msgspec.json.Decoder(_AksRow)
_PROPERTIES = msgspec.json.Decoder(_Properties)


def cluster_of(resource: str) -> str:
    """`subscription/group/cluster` in lower case (Azure writes its ids in either), or the id itself if it is of another shape."""
    match = _ID.match(resource.lower())
    return "/".join(match.groups()) if match else resource.lower()


class AksRecord:
    """One diagnostic record, or one row exported from Log Analytics."""

    name = "AKS"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        try:
            record = _RECORD.decode(raw)
            category, resource, time = record.category, record.resourceId, record.time
            properties = record.properties
        except UNREADABLE:
            try:
                row = _ROW.decode(raw)
            except UNREADABLE:
                return False
            category, resource, time = row.Category, row.resource_ or row.resource, row.time
            properties = _Properties(row.log_s)
        if category.lower() not in AUDIT_CATEGORIES:
            found.skip("Azure record that is not of kube-audit")
            return True
        if isinstance(properties, str):
            try:
                properties = _PROPERTIES.decode(properties)
            except UNREADABLE:
                properties = None
        if properties is None or not properties.log:
            found.lost("not an audit event: properties.log is missing or empty", raw)
            return True
        found.record(properties.log.encode("utf-8", "surrogatepass"), cluster_of(resource), time=time)
        return True
