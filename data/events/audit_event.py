"""Decodes events of audit.k8s.io one by one, and only the fields that are needed.

Field names are those of the Kubernetes API (`k8s.io/apiserver/pkg/apis/audit/v1`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from data.secret_text import without_secrets
from data.timestamps import is_time

API_VERSIONS = ("audit.k8s.io/v1", "audit.k8s.io/v1beta1")
#: The API server refuses request bodies over 3 MiB; a line over this is no audit event but damage.
MAX_EVENT_BYTES = 8 * 1024 * 1024
#: Bound on what the compressed parts inside one record may unpack to.
MAX_UNPACKED_BYTES = 8 * MAX_EVENT_BYTES
#: Characters of a text that are read; a hash stands for the rest. Names that the API server accepts have 253 at most, the longest
#: paths, user agents and group names of real logs some hundred; but anybody can request a path of 900,000.
MAX_TEXT = 4096
#: Groups and addresses of an event that are read. Directories put a person into 200 groups or so.
MAX_ITEMS = 512
#: One event as an API server writes it: the input example of a registered model.
EXAMPLE_EVENT = (
    '{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"8f6f2f52-0c4c-4d9e-9a0e-6b6c9d1a0001",'
    '"stage":"ResponseComplete","requestURI":"/api/v1/namespaces/payments/secrets?limit=500","verb":"list",'
    '"user":{"username":"system:serviceaccount:web:ci-deployer","groups":["system:serviceaccounts","system:authenticated"]},'
    '"sourceIPs":["10.0.0.7"],"userAgent":"kubectl/v1.30.1 (linux/amd64) kubernetes/6911225",'
    '"objectRef":{"resource":"secrets","namespace":"payments","apiVersion":"v1"},"responseStatus":{"code":200},'
    '"requestReceivedTimestamp":"2026-01-05T09:30:00.000000Z","stageTimestamp":"2026-01-05T09:30:00.010000Z",'
    '"annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}}'
)


#: A text that came from a log. The decoder refuses a longer one, and `decode_bounded` cuts it then.
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Texts = Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_ITEMS)]
#: Kubernetes' own type. A number of any length could be neither hashed nor stored, and would take its whole batch along.
_LEAST_CODE, _MOST_CODE = -(2**31), 2**31 - 1
Code = Annotated[int, msgspec.Meta(ge=_LEAST_CODE, le=_MOST_CODE)]


# The parts of an event are frozen so that they can be keys: most parts of a log repeat, and are looked up, not encoded again.
class Extra(msgspec.Struct, gc=False, frozen=True):
    """What an authenticator notes down about a user, as far as it tells people apart who share a user name."""

    arn: Texts | Text | None = None
    sessionName: Texts | Text | None = None

    def value(self, key: str) -> str:
        """First value of a key; empty if there is none."""
        found: str | tuple[str, ...] | None = getattr(self, key)
        if isinstance(found, str):
            return found
        return found[0] if found else ""


class User(msgspec.Struct, gc=False, frozen=True):
    """Who is logged as the caller. A 401 has an empty user."""

    username: Text = ""
    groups: Texts = ()
    extra: Extra | None = None


class ObjectRef(msgspec.Struct, gc=False, frozen=True):
    """What the request was about. Absent for requests outside the resource API (`/version`)."""

    resource: Text = ""
    namespace: Text = ""
    name: Text = ""
    apiGroup: Text = ""
    apiVersion: Text = ""
    subresource: Text = ""


class Status(msgspec.Struct, gc=False, frozen=True):
    """Answer of the API server."""

    code: Code = 0


class Annotations(
    msgspec.Struct,
    gc=False,
    frozen=True,
    rename={
        "decision": "authorization.k8s.io/decision",
        "reason": "authorization.k8s.io/reason",
        "truncated": "audit.k8s.io/truncated",
        "login": "authentication.openshift.io/username",
        "login_decision": "authentication.openshift.io/decision",
    },
):
    """What the API server noted down: how the request was authorized. Other notes are not read."""

    decision: Text | None = None
    reason: Text | None = None
    truncated: Text | bool | None = None  # set where bodies were left out because the event was too long
    login: Text | None = None  # who logs in, at OpenShift's oauth-server
    login_decision: Text | None = None  # allow, deny or error

    @property
    def outcome(self) -> str:
        """Decision on the request: of a log-in its own (`deny` becomes `forbid`), else that of the authorization."""
        if self.login_decision:
            return "allow" if self.login_decision == "allow" else "forbid"
        return self.decision or ""


class AuditEvent(msgspec.Struct, gc=False):
    """One stage of one request, as the API server wrote it; only the fields kubehabit uses."""

    auditID: Text
    stage: Text
    verb: Text
    requestURI: Text = ""
    apiVersion: Text = ""
    user: User = msgspec.field(default_factory=User)
    impersonatedUser: User | None = None
    sourceIPs: Texts = ()
    userAgent: Text = ""
    objectRef: ObjectRef | None = None
    responseStatus: Status | None = None
    requestObject: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    requestReceivedTimestamp: Text = ""
    stageTimestamp: Text = ""
    annotations: Annotations | None = None
    level: Text = ""
    #: Separates the clusters of a shared log; comes from a cloud's envelope or from a shipper, not from API servers.
    cluster: Text = msgspec.field(default="", name="kubehabit.cluster")


_BODY = re.compile(
    r'"(?:(?:request|response)(?:Object)?|data|stringData|binaryData|env|annotations|managedFields)\\*"\s*:'
)
LEFT_OUT = " (the rest is left out: bodies may hold secrets)"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be read: its line (or position in a list, from 1), why, and what it was.

    `before` is the number of events of the same input that came before it.
    """

    line: int
    reason: str
    raw: bytes
    before: int = 0

    @property
    def text(self) -> str:
        """The record as text up to where a body begins, without secrets: what cannot be decoded may hold some all the same."""
        text = self.raw.decode("utf-8", "backslashreplace")
        body = _BODY.search(text)
        if body is None:
            return without_secrets(text, "[redacted]")
        # The quote may be escaped. To look for that in the pattern would take the square of the time on backslashes.
        return without_secrets(text[: body.start()].rstrip("\\"), "[redacted]") + LEFT_OUT


class Decoded(NamedTuple):
    """What was in an input: the events that could be read, in their order, and the rest."""

    events: list[AuditEvent]
    lines: list[int]  # of each event, from 1; the position in the list if the input was one list
    dead: list[DeadLetter]
    skipped: Mapping[str, int] = MappingProxyType({})  # records left out on purpose, by reason


_EVENT = msgspec.json.Decoder(AuditEvent)
#: The key of an event as all write it, and in how many bytes it is found. What has it not there is opened first: to decode an
#: envelope as an event takes much longer. (It is looked for with `find`: for a text, `in` makes an exception first and drops it.)
ID_KEY = b'"auditID"'
ID_WITHIN = 4 << 10
_STRING, _ARRAY = msgspec.json.Decoder(str), msgspec.json.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODE = msgspec.json.Encoder()
#: Bodies of requests, in events and in GKE's entries: kept as they are, within MAX_EVENT_BYTES.
_BODIES = {"requestObject", "responseObject", "request", "response"}
#: Objects and lists around the texts that are read: `protoPayload.authenticationInfo.principalEmail` is the deepest.
_TEXT_DEPTH = 4
_Decoded = TypeVar("_Decoded")


def cut_text(text: str) -> str:
    """A text within MAX_TEXT; a hash in place of its end keeps different texts different."""
    if len(text) <= MAX_TEXT:
        return text
    end = "...#sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return text[: MAX_TEXT - len(end)] + end


def _cut(raw: msgspec.Raw, key: str = "", depth: int = _TEXT_DEPTH) -> Any:
    """A JSON value with its texts cut, bodies apart. Of a long list the end stays: the addresses that proxies appended."""
    first = bytes(memoryview(raw)[:1])
    if len(memoryview(raw)) <= MAX_TEXT or key in _BODIES or first not in b'"[{' or not depth:
        return raw
    if first == b'"':
        return cut_text(_STRING.decode(raw))
    if first == b"{":
        return {key: _cut(value, key, depth - 1) for key, value in _FIELDS.decode(raw).items()}
    items = _ARRAY.decode(raw)
    if len(items) > MAX_ITEMS:
        rest = hashlib.sha256(b",".join(map(bytes, items[: 1 - MAX_ITEMS]))).hexdigest()[:16]
        items = [msgspec.Raw(_ENCODE.encode("...#sha256:" + rest)), *items[1 - MAX_ITEMS :]]
    return [_cut(item, "", depth - 1) for item in items]


def is_too_long(error: Exception) -> bool:
    """Whether decoding failed only for a text or a list that is longer than what is read, or for a `user.extra` of odd form."""
    return isinstance(error, msgspec.ValidationError) and ("length <=" in str(error) or _is_extra(error))


def _is_extra(error: Exception) -> bool:
    return ".extra" in str(error).rpartition(" - at ")[2]


def _without_extra(raw: msgspec.Raw) -> Any:
    """An event without `user.extra`, which is of another form than an API server's."""
    fields: dict[str, Any] = _FIELDS.decode(raw)
    for key in ("user", "impersonatedUser"):
        if bytes(fields.get(key, b""))[:1] == b"{":
            fields[key] = {
                name: value for name, value in _FIELDS.decode(fields[key]).items() if name != "extra"
            }
    return msgspec.Raw(_ENCODE.encode(fields))


def decode_bounded(decoder: msgspec.json.Decoder[_Decoded], raw: bytes | msgspec.Raw) -> _Decoded:
    """Decode a record, with the texts cut that are too long.

    Raises:
        msgspec.MsgspecError, ValueError, RecursionError: it is not what the decoder reads.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        if not is_too_long(error):
            raise
        whole = msgspec.Raw(bytes(raw).strip())
        if _is_extra(error):
            whole = _without_extra(whole)
    return decoder.decode(_ENCODE.encode(_cut(whole)))


def is_plain(event: AuditEvent) -> bool:
    """Whether a decoded event is as API servers write it, so that `check` would find nothing."""
    return (
        event.apiVersion == API_VERSIONS[0]
        and bool(event.auditID)
        and is_time(event.requestReceivedTimestamp)
    )


def check(event: AuditEvent, version: str = "") -> None:
    """Raise ValueError with the reason if an event cannot be used.

    `version` is the API version of an enclosing list, for an item that has none of its own.
    """
    found = event.apiVersion or version
    if found not in API_VERSIONS:
        raise ValueError(
            f"apiVersion is {found or 'missing'!r}; kubehabit reads {' and '.join(API_VERSIONS)}: "
            "set the audit backend's API version to v1"
        )
    if not event.auditID:
        raise ValueError("auditID is empty, so the event could never be cited as evidence")
    if event.responseStatus is not None and not _LEAST_CODE <= event.responseStatus.code <= _MOST_CODE:
        raise ValueError("responseStatus.code is no 32-bit number")
    if not is_time(event.requestReceivedTimestamp or event.stageTimestamp):
        raise ValueError(
            "neither requestReceivedTimestamp nor stageTimestamp holds an RFC 3339 time in the years 1 to 9999 UTC"
        )


def decode_event(raw: bytes | msgspec.Raw, version: str = "") -> AuditEvent:
    """Decode one event from its JSON; `version` as for `check`.

    Raises:
        msgspec.MsgspecError, ValueError, RecursionError: it is none; `why` puts that into words.
    """
    event = decode_bounded(_EVENT, raw)
    if not is_plain(event):
        check(event, version)
    return event


#: What decoding may raise on bad input.
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def why(error: Exception) -> str:
    """Reason for a dead letter. The part before the first colon is its kind."""
    if isinstance(error, msgspec.ValidationError):
        return f"not an audit event: {error}"
    if isinstance(error, msgspec.DecodeError | UnicodeDecodeError):
        return f"not JSON: {error}"
    if isinstance(error, RecursionError):
        return "not an audit event: nested too deep"
    return str(error)
