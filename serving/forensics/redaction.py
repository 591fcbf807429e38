"""Redacts secrets in the JSON of an event and leaves every other byte as it was.

Redacted are: values under `data`, `stringData` and `binaryData` of any object, the `value` of environment variables, fields
whose name ends in password, token or the like, the copy of an object that kubectl keeps in an annotation, all but names and
types in the body of a Secret, TokenRequest or TokenReview, and anywhere, also in the URI, what looks like a JSON Web Token, a
bearer token or a private key.

Strings are decoded one at a time and examined without their escapes. Time is linear in the length of an event, and memory a small
multiple of it. Where that is impossible, or the result is not JSON, whole bodies are replaced.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import chain, islice
from typing import NamedTuple

import msgspec

MARK = b'"[redacted]"'

_CLOSED = frozenset({"data", "stringData", "binaryData"})
_NAMED = re.compile(
    r"(?i)(?:passw(?:or)?d|passphrase|secret[-_]?(?:key|value|access[-_]?key)|client[-_]?secret|api[-_]?key"
    r"|access[-_]?key|private[-_]?key|credentials?|bearer|token|authorization|cookie|connection[-_]?string)$"
)
# The end of a field's name that is enough for the pattern above.
_NAME_ENDS = 32
# Fields of pods whose names end like that: a switch, and the description of a volume.
_HARMLESS = frozenset({"automountServiceAccountToken", "serviceAccountToken"})
# (resource, subresource) whose bodies consist of secrets.
_SECRETIVE = frozenset({("secrets", ""), ("serviceaccounts", "token"), ("tokenreviews", "")})
# Fields of such a body that say what it is, not what is in it.
_KEPT = frozenset({
    "apiVersion", "kind", "name", "generateName", "namespace", "uid", "immutable", "op", "path", "from", "resourceVersion",
    "creationTimestamp", "deletionTimestamp", "time", "manager", "operation", "fieldsType", "subresource", "fieldsV1",
    "audiences", "username", "groups", "expirationTimestamp", "reason", "status",
})  # fmt: skip
_BODIES = ("requestObject", "responseObject")
_CLOUD_BODIES = (*_BODIES, "request", "response")
_TYPE = re.compile(
    rb'"(?:Opaque|kubernetes\.io/[a-z-]+|bootstrap\.kubernetes\.io/token|helm\.sh/release\.v1)"'
)
_CLOSED_PATH = re.compile(r"/(?:data|stringData|binaryData|env)(?:/|$)|last-applied|~1original")

# In lower case. A body without any of these, or of those below, has nothing to redact; this alone settles most.
_BODY_SIGNS = (
    b'"data"', b'"stringdata"', b'"binarydata"', b'"env"', b'"op"', b"last-applied", b"/original",
    b"passw", b"passphrase", b"secret", b"credential", b'bearer"', b'token"', b'authorization"', b'cookie"', b"\\u00",
)  # fmt: skip
# What an event with a body holds; letters of a name may be escaped.
_BODY_NAMES = (
    b'equestObject"', b'esponseObject"', b'"protoPayload"', b"\\u004", b"\\u005", b"\\u006", b"\\u007",
)  # fmt: skip
_KEY_SIGNS = re.compile(rb"(?:api|access|private)[-_]?key")
_STRING_SIGNS = re.compile(rb"connection[-_]?string")
# The same for strings. An escape may hide any of them.
_TOKEN_SIGNS = (
    b"eyj", b"private key", b"bearer", b"basic", b"\\u00",
    b"password=", b"passwd=", b"token=", b"secret=", b"api-key=", b"apikey=", b"access-key=",
)  # fmt: skip

# What precedes a secret in lower case, the secret itself, and its least length. All patterns here are literals followed by runs
# of one class, and no byte is matched twice by one of them: they take linear time on any text.
_BEARER = re.compile(rb"[A-Za-z0-9._~+/=-]*+")
_ASSIGNED = re.compile(rb"[^&\s\"',;\\]*+")
_RUNS = (
    *((word + space, _BEARER, 8) for word in (b"bearer", b"basic") for space in (b" ", b"+", b"%20")),
    *((sign, _ASSIGNED, 1) for sign in _TOKEN_SIGNS if sign.endswith(b"=")),
)
_JWT = re.compile(rb"eyJ[A-Za-z0-9_-]{5,}+\.eyJ[A-Za-z0-9_-]{5,}+(?:\.[A-Za-z0-9_-]*+)?")
_JWT_PART = re.compile(rb"[A-Za-z0-9_-]*+")
_KEY_BEGIN = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_END = re.compile(rb"-----END [A-Z ]*PRIVATE KEY-----")

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_STRINGS = re.compile(_STRING, re.DOTALL)
_LEXEME = re.compile(rb"[\s:,]*+(" + _STRING + rb'|[{}\[\]]|[^\s{}\[\],:"]++)', re.DOTALL)
# A run of one kind of characters in a string, each of them 12, 6, 2 or, where it is ASCII, 1 byte long.
_PAIR = rb"\\u[dD][89aAbB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_CHARACTERS = re.compile(
    rb"((?:"
    + _PAIR
    + rb")++)|((?:(?!"
    + _PAIR
    + rb")\\u[0-9a-fA-F]{4})++)|((?:\\[^u])++)|([\x00-\x5b\x5d-\x7f]++)|[^\\]++"
)
_WIDTHS = (0, 12, 6, 2, 1)
# More than bodies of Kubernetes hold: 3 MiB at 6 bytes a lexeme, nested less deeply than this, with fewer secrets.
_MAX_LEXEMES = 500_000
_MAX_DEPTH = 200
_MAX_HIDDEN = 50_000
# In one string; above that it is replaced whole.
_MAX_TOKENS = 1_000


class Redacted(NamedTuple):
    """An event's text without its secrets, and how many values were replaced."""

    text: bytes
    removed: int


class _RequestObject(msgspec.Struct, gc=False):
    resource: str = ""
    subresource: str = ""


class _Outline(msgspec.Struct, gc=False):
    auditID: str = ""
    objectRef: _RequestObject | None = None


class _PatchOperation(msgspec.Struct, gc=False):
    path: str


# An event that is too large for its redaction, or whose parts cannot be decoded.
_UNWORKABLE = (msgspec.MsgspecError, ValueError, StopIteration, RecursionError)
_OUTLINE = msgspec.json.Decoder(_Outline)
_OPERATION = msgspec.json.Decoder(_PatchOperation)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY_JSON = msgspec.json.Decoder(msgspec.Raw)
_TEXT = msgspec.json.Decoder(str)


def redact(raw: bytes) -> Redacted:
    """Redact one event, or a cloud's record of one.

    Args:
        raw: its JSON as received, which the decoder has found valid.

    Returns:
        The same bytes, with secret values replaced by `"[redacted]"`. They are JSON as well.
    """
    try:
        text, count = _redact_bodies(raw) if any(sign in raw for sign in _BODY_NAMES) else (raw, 0)
        text, tokens = _redact_tokens(text)
        if count + tokens:
            _ANY_JSON.decode(text)
        return Redacted(text, count + tokens)
    except _UNWORKABLE:
        return _without_bodies(raw)


def _without_bodies(raw: bytes) -> Redacted:
    """An event without bodies, or nothing of it if even that is impossible."""
    try:
        members = _MEMBERS.decode(raw)
        if "protoPayload" in members:
            return Redacted(MARK, 1)
        hidden = members.keys() & set(_BODIES)
        text = msgspec.json.encode(members | dict.fromkeys(hidden, msgspec.Raw(MARK)))
        text, tokens = _redact_tokens(text)
        _ANY_JSON.decode(text)
        return Redacted(text, len(hidden) + tokens)
    except _UNWORKABLE:
        return Redacted(MARK, 1)


def _replaced(raw: bytes, spans: list[tuple[int, int]], by: bytes) -> bytes:
    """Bytes with other ones at these spans, which are in order."""
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(raw)]
    return by.join([raw[end:start] for end, start in zip(ends, starts, strict=True)])


# -- tokens in strings ------------------------------------------------------------------------------------------


def _redact_tokens(raw: bytes) -> tuple[bytes, int]:
    """Replace what looks like a token in any string."""
    low = raw.lower()
    signs = {sign: at for sign in _TOKEN_SIGNS if (at := low.find(sign)) >= 0}
    nearest = min(signs.values(), default=0)
    hidden: list[tuple[int, int]] = []
    for string in _STRINGS.finditer(raw) if signs else ():
        start, end = string.start() + 1, string.end() - 1
        if end <= nearest:
            continue
        signs = {sign: low.find(sign, end) if 0 <= at < end else at for sign, at in signs.items()}
        nearest = min(at if at >= 0 else len(low) for at in signs.values())
        text = raw[start:end]
        escaped = b"\\" in text
        if escaped:  # one byte for each character
            text = _TEXT.decode(string[0]).encode("ascii", "replace")
        spans = _token_spans(text)
        if spans and escaped:
            spans = _with_escapes(raw[start:end], spans)
        hidden += [(start + begin, start + until) for begin, until in spans]
    if len(hidden) > _MAX_HIDDEN:
        raise ValueError("there are too many tokens")
    return _replaced(raw, hidden, b"[redacted]"), len(hidden)


def _token_spans(text: bytes) -> list[tuple[int, int]]:
    """Where a string holds tokens, passwords or private keys; in order and apart from each other."""
    low = text.lower()
    found: list[tuple[int, int]] = []
    for sign, run, least in _RUNS:
        at = low.find(sign)
        while at >= 0 and len(found) <= _MAX_TOKENS:
            begin = at + len(sign)
            until = _end_of(run, text, begin)
            if until - begin >= least:
                found.append((begin, until))
                begin = until
            at = low.find(sign, begin)
    at = text.find(b"eyJ")
    while at >= 0 and len(found) <= _MAX_TOKENS:
        until = _end_of(_JWT, text, at)
        if until > at:
            found.append((at, until))
        at = text.find(b"eyJ", max(until, _end_of(_JWT_PART, text, at)))
    begun = _KEY_BEGIN.search(text)
    while begun is not None and len(found) <= _MAX_TOKENS:
        ended = _KEY_END.search(text, begun.end())
        until = len(text) if ended is None else ended.end()
        found.append((begun.start(), until))
        begun = _KEY_BEGIN.search(text, until)
    if len(found) > _MAX_TOKENS:
        return [(0, len(text))]
    apart: list[tuple[int, int]] = []
    for begin, until in sorted(found):
        if apart and begin < apart[-1][1]:
            apart[-1] = (apart[-1][0], max(until, apart[-1][1]))
        else:
            apart.append((begin, until))
    return apart


def _end_of(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    """Where a match ends that begins here; here if there is none."""
    found = pattern.match(text, at)
    return at if found is None else found.end()


def _with_escapes(raw: bytes, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where spans of characters stand in a string with escapes."""
    wanted = list(chain.from_iterable(spans))
    found: list[int] = []
    at = 0
    for run in _CHARACTERS.finditer(raw):
        width = _WIDTHS[run.lastindex or 0]
        text = "" if width else run[0].decode("utf-8", "replace")
        size = (run.end() - run.start()) // width if width else len(text)
        while len(found) < len(wanted) and wanted[len(found)] < at + size:
            into = wanted[len(found)] - at
            found.append(run.start() + (into * width if width else len(text[:into].encode())))
        at += size
        if len(found) == len(wanted):
            break
    found += [len(raw)] * (len(wanted) - len(found))
    return list(zip(found[::2], found[1::2], strict=True))


# -- bodies -----------------------------------------------------------------------------------------------------


def _redact_bodies(raw: bytes) -> tuple[bytes, int]:
    low = raw.lower()
    if not (
        any(sign in low for sign in _BODY_SIGNS)
        or (b"key" in low and _KEY_SIGNS.search(low))
        or (b"connection" in low and _STRING_SIGNS.search(low))
    ):
        return raw, 0
    cloud = b'"protoPayload"' in raw
    try:
        outline = _OUTLINE.decode(raw)
        ref = outline.objectRef
        secretive = ref is not None and (ref.resource, ref.subresource) in _SECRETIVE
        cloud = cloud and not outline.auditID  # or the word could be a value
    except msgspec.MsgspecError:
        secretive = True
    words = (b".secrets.", b"serviceaccounts.token", b"tokenreviews")
    secretive |= cloud and any(word in raw for word in words)
    walk = _BodyWalk(raw, secretive)
    walk.event(_CLOUD_BODIES if cloud else _BODIES, cloud)
    return _replaced(raw, walk.hidden, MARK), len(walk.hidden)


@lru_cache(4096)
def _is_secret(name: str) -> bool:
    return _NAMED.search(name) is not None


def _key(text: bytes) -> str:
    return _TEXT.decode(text) if b"\\" in text else text[1:-1].decode("utf-8", "replace")


class _BodyWalk:
    """Walks the lexemes of one record and collects the spans to replace in `hidden`; ends with an error if there are too many."""

    def __init__(self, raw: bytes, secretive: bool) -> None:
        self.hidden: list[tuple[int, int]] = []
        self._raw = raw
        self._secretive = secretive
        self._depth = 0
        self._go_to(0)
        self._next()

    def _go_to(self, at: int) -> None:
        self._lexemes = islice(_LEXEME.finditer(self._raw, at), _MAX_LEXEMES)

    def _next(self) -> bytes:
        self._found = found = next(self._lexemes)
        return found[1]

    def event(self, bodies: tuple[str, ...], nested: bool) -> None:
        """The rest of the outermost object, of which only the bodies are examined; in a cloud's record they may be nested."""
        while (name := self._next()) != b"}":
            key, value = _key(name), self._next()
            if key in bodies:
                self._value(value, key, False, False, self._secretive, patch=True)
            elif nested and value == b"{":
                self._enter()
                self.event(bodies, nested)
                self._depth -= 1
            else:
                self._skip(value)

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("it is nested too deeply")

    def _skip(self, value: bytes) -> None:
        """Skip the rest of a value that begins with this lexeme."""
        depth = int(value in (b"{", b"["))
        while depth:
            value = self._next()
            depth += (value in (b"{", b"[")) - (value in (b"}", b"]"))

    def _hide(self, value: bytes) -> None:
        """Replace a value of any type but null."""
        start = self._found.start(1)
        self._skip(value)
        if value != b"null":
            self.hidden.append((start, self._found.end()))
            if len(self.hidden) > _MAX_HIDDEN:
                raise ValueError("there are too many secrets")

    def _value(
        self, value: bytes, key: str, closed: bool, env: bool, body: bool, patch: bool = False
    ) -> None:
        """One value.

        Args:
            value: its first lexeme.
            key: of the value; items of a list have the list's key.
            closed: every value below is a secret.
            env: the `value` of the objects in this list is a secret.
            body: within the body of a Secret or token.
            patch: the list may be a JSON patch.
        """
        if value == b"{":
            self._object(closed, env, body)
        elif value == b"[":
            self._enter()
            while (item := self._next()) != b"]":
                if patch and item == b"{":
                    self._object(closed, False, body, writes_secret=self._writes_secret(body))
                else:
                    self._value(item, key, closed, env, body)
            self._depth -= 1
        elif (closed and value not in (b"true", b"false")) or (
            body
            and value.startswith(b'"')
            and key not in _KEPT
            and not (key == "type" and _TYPE.fullmatch(value))
        ):
            self._hide(value)

    def _object(self, closed: bool, env: bool, body: bool, writes_secret: bool = False) -> None:
        """The rest of an object."""
        self._enter()
        while (name := self._next()) != b"}":
            key, value = _key(name), self._next()
            copied = "last-applied" in key or key.startswith("kubectl.kubernetes.io/original")
            if copied or (key == "value" and (env or writes_secret)):
                self._hide(value)
            elif key == "fieldsV1":  # names of fields, no values
                self._skip(value)
            else:
                secret = key in _CLOSED or (key not in _HARMLESS and _is_secret(key[-_NAME_ENDS:]))
                self._value(value, key, closed or secret, key == "env", body)
        self._depth -= 1

    def _writes_secret(self, body: bool) -> bool:
        """Whether the operation of a JSON patch that begins here writes a secret."""
        start, at = self._found.span(1)
        self._skip(b"{")
        operation = self._raw[start : self._found.end()]
        self._go_to(at)
        try:
            return body or _CLOSED_PATH.search(_OPERATION.decode(operation).path) is not None
        except msgspec.MsgspecError:
            return body
