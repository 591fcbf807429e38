"""Reads OCSF's API Activity (class 6003), put back into the event: what Amazon Security Lake makes of EKS audit logs.

Source of the shape: the Open Cybersecurity Schema Framework, class API Activity. What the schema has no place for, such as bodies
and annotations, is in `unmapped` or lost.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec

from data.events.audit_event import API_VERSIONS, UNREADABLE
from data.events.formats.reading import Reading
from data.events.lenient import decode_changed

_CLASS = 6003
_KUBERNETES = ("kubernetes", "eks", "gke", "aks", "openshift")


class _Named(msgspec.Struct):
    name: str | None = None
    uid: str | None = None


class _User(msgspec.Struct):
    name: str | None = None
    uid: str | None = None
    groups: list[_Named] | None = None


class _Actor(msgspec.Struct):
    user: _User | None = None


class _Response(msgspec.Struct):
    code: int | None = None


class _Api(msgspec.Struct):
    operation: str | None = None
    version: str | None = None
    request: _Named | None = None
    response: _Response | None = None
    group: _Named | None = None


class _Url(msgspec.Struct):
    path: str | None = None
    query_string: str | None = None
    url_string: str | None = None


class _Request(msgspec.Struct):
    url: _Url | None = None
    user_agent: str | None = None


class _Endpoint(msgspec.Struct):
    ip: str | None = None
    intermediate_ips: list[str] | None = None


class _Resource(msgspec.Struct):
    name: str | None = None
    type: str | None = None
    namespace: str | None = None
    version: str | None = None
    group: _Named | None = None


class _Product(msgspec.Struct):
    name: str | None = None
    vendor_name: str | None = None
    feature: _Named | None = None


class _Metadata(msgspec.Struct):
    product: _Product | None = None
    uid: str | None = None
    log_name: str | None = None


class _Cloud(msgspec.Struct):
    account: _Named | None = None


class _Activity(msgspec.Struct):
    class_uid: int
    api: _Api | None = None
    actor: _Actor | None = None
    http_request: _Request | None = None
    src_endpoint: _Endpoint | None = None
    resources: list[_Resource] | None = None
    metadata: _Metadata | None = None
    unmapped: dict[str, Any] | str | list[Any] | None = None
    raw_data: str | None = None
    activity_name: str | None = None
    time: int | str | None = None
    start_time: int | str | None = None
    end_time: int | str | None = None


_ACTIVITY = msgspec.json.Decoder(_Activity, strict=False)
_ENCODE = msgspec.json.Encoder().encode


class OcsfActivity:
    """One API Activity of a Kubernetes API server."""

    name = "OCSF"

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        if b'"class_uid"' not in raw:
            return False
        try:
            activity = _ACTIVITY.decode(raw)
        except UNREADABLE:
            return False
        if activity.class_uid != _CLASS:
            return False
        if activity.raw_data and "{" in activity.raw_data:
            found.record(activity.raw_data.encode("utf-8", "surrogatepass"))
            return True
        if not _is_kubernetes(activity, raw):
            found.skip("OCSF activity of another API than Kubernetes'", raw)
            return True
        try:
            event = decode_changed(_ENCODE(_event(activity)), API_VERSIONS[0])
        except UNREADABLE:
            found.lost("not an audit event: api.operation, api.request.uid or time is missing", raw)
        else:
            event.apiVersion = API_VERSIONS[0]
            found.event(event, raw)
        return True


def _is_kubernetes(activity: _Activity, raw: bytes) -> bool:
    metadata = activity.metadata or _Metadata()
    product = metadata.product or _Product()
    feature = product.feature or _Named()
    named = " ".join(text.lower() for text in (product.name, feature.name, metadata.log_name) if text)
    version = activity.api.version if activity.api is not None else None
    return (
        any(word in named for word in _KUBERNETES)
        or (version or "").startswith("audit.k8s.io/")
        or b"k8s.io/" in raw
    )


def _event(activity: _Activity) -> dict[str, Any]:
    """The event that an activity was made of, with the names of its fields."""
    api = activity.api or _Api()
    user = (activity.actor and activity.actor.user) or _User()
    request = activity.http_request or _Request()
    origin = activity.src_endpoint or _Endpoint()
    event: dict[str, Any] = {
        "auditID": (api.request and api.request.uid) or (activity.metadata and activity.metadata.uid),
        "stage": "ResponseComplete",
        "verb": (api.operation or activity.activity_name or "").lower() or None,
        "requestURI": _uri(request.url),
        "user": {
            "username": user.name or user.uid,
            "groups": [group.name for group in user.groups or () if group.name],
        },
        "sourceIPs": [address for address in (origin.ip, *(origin.intermediate_ips or ())) if address],
        "userAgent": request.user_agent,
        "requestReceivedTimestamp": activity.start_time or activity.time,
        "stageTimestamp": activity.end_time or activity.time,
    }
    if api.response is not None and api.response.code is not None:
        event["responseStatus"] = {"code": api.response.code}
    resource = next((one for one in activity.resources or () if one.type), None)
    if resource is not None:
        group = resource.group or api.group or _Named()
        event["objectRef"] = {
            "resource": resource.type,
            "name": resource.name,
            "namespace": resource.namespace,
            "apiVersion": resource.version,
            "apiGroup": group.name,
        }
    rest = activity.unmapped
    if isinstance(rest, list):  # a map, as some tables write it
        rest = {str(pair.get("key")): pair.get("value") for pair in rest if isinstance(pair, dict)}
    if isinstance(rest, str):
        with suppress(*UNREADABLE):
            rest = msgspec.json.decode(rest)
    known = {name: value for name, value in event.items() if value is not None}
    if isinstance(rest, dict):
        parts = {name.partition(".")[0] for name in rest}
        # What stands in `unmapped` under the event's own names is more than what was mapped of it.
        known = {name: value for name, value in known.items() if name not in parts} | {
            name: value
            for name, value in rest.items()
            if value is not None and name not in ("kind", "apiVersion")
        }
    return known


def _uri(url: _Url | None) -> str | None:
    if url is None:
        return None
    path = url.path
    if path is None and url.url_string:
        parts = urlsplit(url.url_string)
        path, query = parts.path, parts.query
        return f"{path}?{query}" if query else path
    return f"{path}?{url.query_string}" if path and url.query_string else path
