"""Records: one event as the store keeps it, as columns for queries and as bytes to hash."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from data.events.audit_event import API_VERSIONS, UNREADABLE, AuditEvent, ObjectRef, decode_event
from data.principals.identity import Identity
from data.secret_text import without_secrets
from serving.forensics.redaction import redact

# Longest line of the open file for DuckDB, which allocates twice that per thread.
_MAX_LINE_BYTES = 16 << 20
# Longest event text that is kept. The API server takes bodies of 3 MiB, and a line may need two bytes for each.
_MAX_TEXT_BYTES = 6 << 20

# Longest text of a column; the event's own text has it whole.
_MAX_COLUMN = 16_384
_TOO_LONG = b'"[too long]"'
_CREDENTIAL = "authentication.kubernetes.io/credential-id"
_ACCESS_KEY = "accessKeyId"
_ISSUED = "authentication.kubernetes.io/issued-credential-id"


class EventRecord(NamedTuple):
    """One event as stored. Times are microseconds since 1970 UTC; missing texts are empty.

    Attributes:
        number: position in the store, from 0, without gaps.
        time: when the API server got the request, by its clock.
        received: when this service got the event, by its clock.
        cluster: where several clusters send here.
        principal: who acted, folded by the identity rules.
        username, uid: of the user, as logged.
        impersonated: user that the caller acted as.
        path: path and query of the request.
        source_ips: addresses as logged, separated by commas.
        credential: ID of the credential used (`JTI=...`, `X509SHA256=...`, on EKS `AWSAccessKeyId=...`), where it is logged.
        issued: ID of the credential that this request issued.
        alert: first alert that the event was part of.
        redactions: number of values redacted in `event`.
        original: HMAC-SHA256 of the event before redaction, in hexadecimal; empty if nothing was redacted.
        event: the event's JSON as received, redacted; "[too long]", counted as a redaction, if over 6 MiB.

    Other texts are cut off after 16,384 characters, marked by "…".
    """

    number: int
    time: int
    received: int
    cluster: str
    principal: str
    username: str
    uid: str
    impersonated: str
    verb: str
    api_group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    path: str
    code: int
    decision: str
    source_ips: str
    user_agent: str
    audit_id: str
    stage: str
    credential: str
    issued: str
    alert: str
    redactions: int
    original: str
    event: str


COLUMNS = EventRecord._fields
TIMES = ("time", "received")
NUMBERS = {
    "number": "UBIGINT",
    "time": "BIGINT",
    "received": "BIGINT",
    "code": "USMALLINT",
    "redactions": "UINTEGER",
}
_JSON_TYPES = ", ".join(f"{name}: '{NUMBERS.get(name, 'VARCHAR')}'" for name in COLUMNS)

#: Columns of a Parquet file.
SQL_TYPES = {name: "TIMESTAMP" if name in TIMES else NUMBERS.get(name, "VARCHAR") for name in COLUMNS}

_FROM_JSON = ", ".join(f"make_timestamp({name}) AS {name}" if name in TIMES else name for name in COLUMNS)


def _sql_text(name: str) -> str:
    if name in TIMES:
        return f"epoch_us({name})::VARCHAR"
    return f"{name}::VARCHAR" if name in NUMBERS else name


#: `content_of` a row of a Parquet file, in SQL. A single concat: with a chain of `||` DuckDB takes ten times as long to plan and
#: three times as long to run. NULL, which no record holds, becomes nothing at all, and so different content.
CONTENT_SQL = (
    "concat(" + ", ".join(f"strlen({_sql_text(name)}), ':', {_sql_text(name)}, ','" for name in COLUMNS) + ")"
)


def rows_of(files: Sequence[str], *, torn: bool = False, kind: bool = False) -> str:
    """SQL that reads open files (lines of JSON) as rows of a Parquet file, whose times are TIMESTAMP (UTC).

    Args:
        files: quoted paths.
        torn: skip a line that is being written.
        kind: with a last column `kind`, of the principal, which lines of an export hold.
    """
    more, types = (", kind", ", kind: 'VARCHAR'") if kind else ("", "")
    return (
        f"SELECT {_FROM_JSON}{more} FROM read_json([{', '.join(files)}], format = 'newline_delimited', "
        f"columns = {{{_JSON_TYPES}{types}}}, maximum_object_size = {_MAX_LINE_BYTES}, ignore_errors = {str(torn).lower()}, "
        "hive_partitioning = false)"  # a folder may be named like `cluster=prod`
    )


def content_of(record: EventRecord) -> bytes:
    """The bytes to hash: all columns in order as netstrings (`<length in bytes>:<UTF-8>,`), numbers in decimal."""
    texts = list(map(str, record))
    content = "".join([f"{len(text)}:{text}," for text in texts])
    if content.isascii():  # then characters are bytes
        return content.encode()
    return b"".join([b"%d:%b," % (len(text), text) for text in map(str.encode, texts)])


def digest_of_original(raw: bytes, key: bytes) -> str:
    """Keyed, because a plain checksum would allow guessing passwords against the rest of the event."""
    return hmac.digest(key, raw, "sha256").hex()


def what_of(record: dict[str, Any]) -> str:
    """Object of a record's request: `secrets payments/db`, `secrets in payments`, `nodes n1`, or its path."""
    if not record["resource"]:
        return str(record["path"].partition("?")[0])
    kind = "/".join(part for part in (record["resource"], record["subresource"]) if part)
    if record["namespace"] and not record["name"]:
        return f"{kind} in {record['namespace']}"
    name = "/".join(part for part in (record["namespace"], record["name"]) if part)
    return f"{kind} {name}".strip()


def checksum(text: str) -> str:
    """SHA-256 of a stored event's text."""
    return sha256(text.encode()).hexdigest()


class _RecordedUser(msgspec.Struct, gc=False):
    uid: str = ""
    extra: dict[str, list[str]] | None = None


class _More(msgspec.Struct, gc=False):
    """Fields that queries need and detection does not read."""

    user: _RecordedUser | None = None
    annotations: dict[str, str] | None = None


def _credential(extra: Mapping[str, Sequence[str]]) -> str:
    """ID of the credential that was used: by the API server, or the access key that EKS exchanged for a token."""
    known = next(iter(extra.get(_CREDENTIAL, ())), "")
    key = next(iter(extra.get(_ACCESS_KEY, ())), "")
    return known or (f"AWSAccessKeyId={key}" if key else "")


_NO_OBJECT = ObjectRef()
_MORE = msgspec.json.Decoder(_More)


def _more(raw: bytes) -> _More:
    try:
        return _MORE.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # a cloud's record has other fields
        return _More()


def _clean(text: str) -> str:
    """Text without NUL and without lone surrogates, which a client may send."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return _cut(text if text.isascii() else text.encode("utf-8", "replace").decode())


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_COLUMN else text[: _MAX_COLUMN - 1] + "…"


def _without_secrets(event: AuditEvent, text: bytes) -> AuditEvent:
    """Decode the event from its redacted text: a token in its URI or user agent must not return in a column."""
    try:
        cluster = event.cluster
        event = decode_event(text, event.apiVersion or API_VERSIONS[0])
        event.cluster = cluster
        return event
    except UNREADABLE:  # assembled from a cloud's record
        uri, agent = (without_secrets(part, "[redacted]") for part in (event.requestURI, event.userAgent))
        return msgspec.structs.replace(event, requestURI=uri, userAgent=agent)


def record_of(
    event: AuditEvent,
    raw: bytes,
    *,
    number: int,
    time: int,
    received: int,
    alert: str,
    identity: Identity,
    key: bytes,
) -> EventRecord:
    """The record of a decoded event with its JSON, `raw`; `key` is that of `digest_of_original`, the rest as in EventRecord."""
    text, redactions = redact(raw) if len(raw) <= _MAX_TEXT_BYTES else (_TOO_LONG, 0)
    if redactions or text is _TOO_LONG:
        event = _without_secrets(event, text)
    more = _more(raw if text is _TOO_LONG else text)
    shown = text.decode("utf-8", "replace")
    # A byte that is no text takes three as a replacement character.
    if text is _TOO_LONG or ("\ufffd" in shown and len(shown.encode()) > _MAX_TEXT_BYTES):
        shown, redactions = _TOO_LONG.decode(), redactions + 1
    user = more.user or _RecordedUser()
    extra, notes = user.extra or {}, more.annotations or {}
    # JSON holds neither NUL nor a surrogate without an escape, and no text of it is longer than it is.
    clean: Callable[[str], str] = (
        _clean if raw.find(b"\\u") >= 0 else _cut if len(raw) > _MAX_COLUMN // 2 else str
    )
    ref = event.objectRef or _NO_OBJECT
    decision = event.annotations.outcome if event.annotations is not None else ""
    actor = identity.actor(event.user, event.impersonatedUser, event.annotations)
    return EventRecord(
        number=number,
        time=time,
        received=received,
        cluster=clean(event.cluster),
        principal=clean(identity.principal(actor.username, actor.groups).name),
        username=clean(event.user.username),
        uid=clean(user.uid),
        impersonated=clean(event.impersonatedUser.username) if event.impersonatedUser is not None else "",
        verb=clean(event.verb),
        api_group=clean(ref.apiGroup),
        resource=clean(ref.resource),
        subresource=clean(ref.subresource),
        namespace=clean(ref.namespace),
        name=clean(ref.name),
        path=clean(event.requestURI),
        code=event.responseStatus.code % 65536 if event.responseStatus is not None else 0,
        decision=clean(decision),
        source_ips=clean(",".join(event.sourceIPs)),
        user_agent=clean(event.userAgent),
        audit_id=clean(event.auditID),
        stage=clean(event.stage),
        credential=clean(_credential(extra)),
        issued=clean(notes.get(_ISSUED, "")),
        alert=alert,
        redactions=redactions,
        original=digest_of_original(raw, key) if redactions else "",
        event=shown,
    )
