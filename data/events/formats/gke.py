"""Reads Google GKE: Cloud Audit log entries, put back into the event that the API server wrote.

Source of the shape: Cloud Logging's LogEntry with `protoPayload` of type google.cloud.audit.AuditLog, service `k8s.io`, and
BigQuery's export of it. It keeps less than the event had: no groups, no query of the URI, one address, a gRPC status.
docs/sources.md says what that costs.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from typing import Any

import msgspec

from data.events.audit_event import (
    API_VERSIONS,
    UNREADABLE,
    Annotations,
    AuditEvent,
    ObjectRef,
    Status,
    Text,
    User,
    cut_text,
    decode_bounded,
)
from data.events.formats.eks import read_packed
from data.events.formats.reading import Reading, holds_event
from data.timestamps import rfc3339

#: Long-running requests whose start is remembered, with at most so many characters of its time: 6 MB.
_STARTED_LIMIT, _TIME_LENGTH = 50_000, 64
_VERSION = re.compile(r"v\d+(?:(?:alpha|beta)\d+)?")
#: HTTP status of each gRPC status code (google.rpc.Code); 10, ABORTED, is what a Conflict becomes.
_CODES = dict(enumerate((499, 500, 400, 504, 404, 409, 403, 429, 412, 409, 400, 501, 500, 503, 500, 401), 1))
_CONNECT = ("exec", "attach", "portforward")
_BY_SELECTOR = ("list", "watch", "deletecollection")


class _CallerIdentity(msgspec.Struct):
    principalEmail: Text = ""
    principalSubject: Text = ""  # of workforce and workload identities, which have no e-mail address
    authoritySelector: Text = ""


class _RequestMetadata(msgspec.Struct):
    callerIp: Text = ""
    callerSuppliedUserAgent: Text = ""


class _Permission(msgspec.Struct):
    granted: bool = False


class _GrpcStatus(msgspec.Struct):
    code: int = 0


class _Payload(msgspec.Struct):
    serviceName: Text = ""
    methodName: Text = ""
    resourceName: Text = ""
    authenticationInfo: _CallerIdentity | None = None
    authorizationInfo: list[_Permission] | None = None
    requestMetadata: _RequestMetadata | None = None
    status: _GrpcStatus | None = None
    request: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    response: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _Operation(msgspec.Struct):
    id: Text = ""
    producer: Text = ""
    first: bool = False
    last: bool = False


class _Labels(msgspec.Struct):
    project_id: Text = ""
    location: Text = ""
    cluster_name: Text = ""


class _Resource(msgspec.Struct):
    labels: _Labels | None = None


class _LogEntry(msgspec.Struct):
    protoPayload: _Payload
    insertId: Text = ""
    timestamp: Text = ""
    receiveTimestamp: Text = ""
    labels: dict[str, Text] | None = None
    resource: _Resource | None = None
    operation: _Operation | None = None


class _OtherEntry(msgspec.Struct):
    """An entry of another log of Cloud Logging: which one, and that its payload is not an audit log's."""

    logName: str
    insertId: str
    textPayload: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    jsonPayload: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _PubSubMessage(msgspec.Struct):
    data: str


class _PubSub(msgspec.Struct):
    message: _PubSubMessage


class _Answer(msgspec.Struct):
    kind: str = ""
    code: int = 0


class _ObjectMetadata(msgspec.Struct):
    name: Text = ""
    namespace: Text = ""


class _Body(msgspec.Struct):
    metadata: _ObjectMetadata | None = None


_ENTRY = msgspec.json.Decoder(_LogEntry)
_LENIENT_ENTRY = msgspec.json.Decoder(_LogEntry, strict=False)
_LOG_NAME = re.compile(r"(?:projects|folders|organizations|billingAccounts)/[^/]{1,200}/logs/(?!cloudaudit)")
#: What BigQuery calls the payload, and the texts that it makes of objects without a schema.
_RENAMED = {"protopayload_auditlog": "protoPayload", "requestJson": "request", "responseJson": "response"}
_TEXT = msgspec.json.Decoder(str)
_ANY = msgspec.json.Decoder()
_OTHER = msgspec.json.Decoder(_OtherEntry)
_PUBSUB = msgspec.json.Decoder(_PubSub)
_ANSWER = msgspec.json.Decoder(_Answer)
_BODY = msgspec.json.Decoder(_Body)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODE = msgspec.json.Encoder()


def _changed_entry(raw: bytes) -> _LogEntry | None:
    """A log entry as BigQuery, Athena and the like export it: with nulls, other names, and texts for objects and numbers."""
    if b"rotopayload" not in raw and b"rotoPayload" not in raw:
        return None
    try:
        entry = _without_nulls(_FIELDS.decode(raw))
        payload = _without_nulls(_FIELDS.decode(entry["protoPayload"]))
        for name, value in payload.items():
            if name in ("request", "response"):
                if bytes(memoryview(value)[:1]) == b'"':
                    payload[name] = msgspec.Raw(_ENCODE.encode(_ANY.decode(_TEXT.decode(value))))
            else:
                payload[name] = _plain(value)
        for name, value in entry.items():
            entry[name] = _plain(value)
        if "labels" in entry:
            entry["labels"] = _labels(entry["labels"])
        entry["protoPayload"] = msgspec.Raw(_ENCODE.encode(payload))
        return decode_bounded(_LENIENT_ENTRY, _ENCODE.encode(entry))
    except (*UNREADABLE, KeyError, AttributeError, TypeError):
        return None


def _without_nulls(fields: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """Fields by Cloud Logging's names, those that are null left out."""
    return {
        _RENAMED.get(name, name): value
        for name, value in fields.items()
        if bytes(memoryview(value)[:5]) not in (b"null", b'""')
    }


def _plain(raw: msgspec.Raw) -> msgspec.Raw:
    """A value without the nulls in it."""
    if b"null" not in bytes(raw):
        return raw

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cleaned(inner) for key, inner in value.items() if inner is not None}
        return [cleaned(inner) for inner in value if inner is not None] if isinstance(value, list) else value

    return msgspec.Raw(_ENCODE.encode(cleaned(_ANY.decode(raw))))


def _labels(raw: msgspec.Raw) -> msgspec.Raw:
    """Labels by their own names: BigQuery has `authorization_k8s_io_decision`, or a list of keys and values."""
    labels = _ANY.decode(raw)
    if isinstance(labels, list):
        labels = {pair["key"]: pair["value"] for pair in labels}
    named = {
        f"authorization_k8s_io_{name}": f"authorization.k8s.io/{name}" for name in ("decision", "reason")
    }
    return msgspec.Raw(_ENCODE.encode({named.get(name, name): value for name, value in labels.items()}))


def _split_method(method: str, name: str) -> tuple[str, str, str]:
    """(verb, resource, subresource) of `io.k8s.core.v1.pods.exec.create`; no resource for `io.k8s.get`."""
    group, _, rest = name.partition("/")
    return _split_known(method, group, rest.partition("/")[0])


@lru_cache(maxsize=256)
def _split_known(method: str, group: str, version: str) -> tuple[str, str, str]:
    domain = group if "." in group else f"{group}.k8s.io"  # core and the first groups have no domain
    prefix = ".".join([*reversed(domain.split(".")), version, ""])
    head, _, verb = method.rpartition(".")
    if version and head.startswith(prefix):
        middle = head[len(prefix) :]
    else:
        parts = head.split(".")
        at = next((i for i, part in enumerate(parts) if _VERSION.fullmatch(part)), None)
        middle = "" if at is None else ".".join(parts[at + 1 :])
    resource, _, subresource = middle.partition(".")
    return verb, resource, subresource


def _locate(resource: str, subresource: str, name: str) -> tuple[ObjectRef, str]:
    """The object of `core/v1/namespaces/web/pods/x/proxy/metrics`, and the path behind its subresource (`/metrics`)."""
    group, version, *rest = [*name.split("/"), ""] if "/" not in name else name.split("/")
    namespace = ""
    if rest[:1] == ["namespaces"] and resource != "namespaces" and len(rest) > 1:
        namespace, rest = rest[1], rest[2:]
    if rest[:1] == [resource]:
        rest = rest[1:]
    named = rest[0] if rest else ""
    behind = rest[1:]
    if subresource and behind[:1] == [subresource]:
        behind = behind[1:]
    if resource == "namespaces":
        namespace = named  # the API server counts a namespace as being in itself
    group = "" if group == "core" else group
    return ObjectRef(resource, namespace, named, group, version, subresource), "".join(
        f"/{part}" for part in behind
    )


def _uri(verb: str, reference: ObjectRef, behind: str) -> str:
    """The request's path, which the entry does not have; of the query, only a name to select by is known."""
    uri = (f"/apis/{reference.apiGroup}" if reference.apiGroup else "/api") + f"/{reference.apiVersion}"
    if reference.namespace and reference.resource != "namespaces":
        uri += f"/namespaces/{reference.namespace}"
    uri += f"/{reference.resource}"
    if verb in _BY_SELECTOR and reference.name and not reference.subresource:
        return f"{uri}?fieldSelector=metadata.name%3D{reference.name}"
    if reference.name and (verb != "create" or reference.subresource):
        uri += f"/{reference.name}"
    if reference.subresource:
        uri += f"/{reference.subresource}"
    return uri + behind


def _body(raw: msgspec.Raw) -> msgspec.Raw:
    """A request or response object without the type that protobuf adds to it; a JSON patch is unwrapped."""
    if not raw:
        return raw
    data = bytes(raw)
    if data.find(b'"@type"') < 0:
        return raw
    try:
        fields = _FIELDS.decode(data)
    except UNREADABLE:
        return raw
    fields.pop("@type", None)
    if fields.keys() == {"value"} and bytes(fields["value"]).lstrip()[:1] == b"[":
        return fields["value"]
    return msgspec.Raw(_ENCODE.encode(fields))


def _without_type(subject: str) -> str:
    """A subject of Google's IAM without what sort of member it is: `user:ada@example.com` -> `ada@example.com`."""
    sort, colon, name = subject.partition(":")
    return name if colon and sort in ("user", "serviceAccount") else subject


def _code(payload: _Payload, verb: str, subresource: str, refused: bool) -> int:
    """HTTP status: that of the answer's Status object if it is there, else from the gRPC status."""
    if payload.response:
        with suppress(*UNREADABLE):
            answer = _ANSWER.decode(payload.response)
            if answer.kind == "Status" and answer.code:
                return answer.code
    code = payload.status.code if payload.status is not None else 0
    if code:
        return code if code >= 100 else _CODES.get(code, 500)
    if refused:
        return 403
    if subresource in _CONNECT:
        return 101
    return 201 if verb == "create" else 200


class GkeEntry:
    """One LogEntry, or the Pub/Sub message that carries it. Remembers the start of long-running requests."""

    name = "GKE"

    def __init__(self) -> None:
        self._started: dict[int, str] = {}  # hash of cluster and audit ID -> time

    def read(self, raw: bytes, found: Reading) -> bool:
        """See `Format`."""
        try:
            entry = decode_bounded(_ENTRY, raw)
        except UNREADABLE:
            changed = _changed_entry(raw)
            if changed is None:
                return self._read_other(raw, found)
            entry = changed
        payload = entry.protoPayload
        if payload.serviceName not in ("k8s.io", "") and not payload.methodName.startswith("io.k8s."):
            found.skip("Google Cloud API call that is not Kubernetes'", raw)
            return True
        if payload.methodName:
            found.event(self._event(entry, payload), raw)
        else:
            found.lost("not an audit event: methodName is missing", raw)
        return True

    def _read_other(self, raw: bytes, found: Reading) -> bool:
        with suppress(*UNREADABLE):
            if read_packed(_PUBSUB.decode(raw).message.data, found):
                return True
        with suppress(*UNREADABLE):
            other = _OTHER.decode(raw)
            # A log that a shipper of one's own writes may be the audit log.
            if (
                _LOG_NAME.match(other.logName)
                and not holds_event(raw)
                and (other.textPayload or other.jsonPayload)
            ):
                found.skip("Cloud Logging entry that is not an audit log", raw)
                return True
        return False

    def _event(self, entry: _LogEntry, payload: _Payload) -> AuditEvent:
        verb, resource, subresource = _split_method(payload.methodName, payload.resourceName)
        reference: ObjectRef | None = None
        request = _body(payload.request)
        if resource:
            reference, behind = _locate(resource, subresource, payload.resourceName)
            uri = _uri(verb, reference, behind)
            if request and verb == "create" and not reference.name:
                reference = msgspec.structs.replace(reference, name=_name_in(request))
        else:
            uri = "/" + payload.resourceName
        labels = entry.labels or {}
        decision = labels.get("authorization.k8s.io/decision")
        if decision is None and payload.authorizationInfo:
            granted = all(permission.granted for permission in payload.authorizationInfo)
            decision = "allow" if granted else "forbid"
        annotations = Annotations(
            decision, labels.get("authorization.k8s.io/reason"), labels.get("audit.k8s.io/truncated")
        )
        refused = decision == "forbid"
        caller = payload.authenticationInfo or _CallerIdentity()
        origin = payload.requestMetadata or _RequestMetadata()
        place = (entry.resource and entry.resource.labels) or _Labels()
        parts = (place.project_id, place.location, place.cluster_name)
        cluster = cut_text("/".join(filter(None, parts))) if place.cluster_name else ""
        audit_id, stage, received = self._stage(entry, cluster)
        return AuditEvent(
            auditID=audit_id,
            stage=stage,
            verb=verb,
            requestURI=cut_text(uri),
            apiVersion=API_VERSIONS[0],
            user=User(username=caller.principalEmail or _without_type(caller.principalSubject)),
            impersonatedUser=User(username=caller.authoritySelector) if caller.authoritySelector else None,
            sourceIPs=(origin.callerIp,) if origin.callerIp else (),
            userAgent=origin.callerSuppliedUserAgent,
            objectRef=reference,
            responseStatus=Status(code=_code(payload, verb, subresource, refused)),
            requestObject=request,
            requestReceivedTimestamp=received,
            stageTimestamp=_time(entry),
            annotations=annotations,
            level="RequestResponse" if payload.response else "Request" if payload.request else "Metadata",
            cluster=cluster,
        )

    def _stage(self, entry: _LogEntry, cluster: str) -> tuple[str, str, str]:
        """(audit ID, stage, time of the request). Both entries of a long-running request get the time of the first."""
        time = _time(entry)
        operation = entry.operation or _Operation()
        # The operation is the request; where it is not the API server's, only the entry's own id is left.
        audit_id = operation.id if operation.id and operation.producer == "k8s.io" else entry.insertId
        if operation.first == operation.last:
            return audit_id, "ResponseComplete", time
        key = hash((cluster, audit_id))
        if operation.first:
            if len(self._started) >= _STARTED_LIMIT:
                del self._started[next(iter(self._started))]
            self._started[key] = time[:_TIME_LENGTH]
            return audit_id, "ResponseStarted", time
        return audit_id, "ResponseComplete", self._started.pop(key, time)


def _time(entry: _LogEntry) -> str:
    time = entry.timestamp or entry.receiveTimestamp
    return time if time[10:11] == "T" else rfc3339(time)


def _name_in(body: msgspec.Raw) -> str:
    try:
        metadata = _BODY.decode(body).metadata
    except UNREADABLE:
        return ""
    return metadata.name if metadata else ""
