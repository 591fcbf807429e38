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
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from typing import NamedTuple

import msgspec

from data.escapes import without_escaped_quotes
from data.patterns import compile_bytes
from data.secret_text import secret_spans, signs

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

# A body without any of these has nothing to redact; this alone settles most.
_BODY_SIGN = compile_bytes(
    r"""(?i)"(?:data|stringdata|binarydata|env|op)"|last-applied|/original|passw|passphrase|secret|credential|"""
    r"""(?:bearer|token|authorization|cookie)"|\\u00|(?:api|access|private)[-_]?key|connection[-_]?string"""
)
# What an event with a body holds; letters of a name may be escaped.
_PLAIN_NAMES = (b'equestObject"', b'esponseObject"', b'"protoPayload"')
#: A letter of a name may stand as an escape, all of which begin like this.
_ESCAPE = b"\\u00"
_ESCAPED_NAMES = (b"\\u004", b"\\u005", b"\\u006", b"\\u007")
_BODY_NAME = compile_bytes("|".join(re.escape(name.decode()) for name in (*_PLAIN_NAMES, *_ESCAPED_NAMES)))
# Bytes from which on one pass for all is faster, whatever they are.
_LONG = 32 << 10
# Where escaped quotes are masked.
_STRING = rb'"[^"]*+"'
_STRINGS = re.compile(_STRING)
_NAME_END = re.compile(rb"\s*+:")
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
        text, count = _redact_bodies(raw) if _may_have_body(raw) else (raw, 0)
        text, tokens = _redact_tokens(text)
        if count + tokens:
            _ANY_JSON.decode(text)
        return Redacted(text, count + tokens)
    except _UNWORKABLE:
        return _without_bodies(raw)


def _may_have_body(raw: bytes) -> bool:
    if len(raw) >= _LONG:
        return _BODY_NAME.search(raw) is not None
    # Not with `in`, which makes an exception first and drops it.
    return any(raw.find(name) >= 0 for name in _PLAIN_NAMES) or (
        raw.find(_ESCAPE) >= 0 and any(raw.find(name) >= 0 for name in _ESCAPED_NAMES)
    )


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


# -- secrets in strings -----------------------------------------------------------------------------------------


class _Group(NamedTuple):
    """Strings that are examined together: the items of a list and, of a container, also its arguments.

    Attributes:
        name: of the member that they are the value of; empty if they are names themselves.
        spans: of each string, without its quotes.
    """

    name: bytes
    spans: list[tuple[int, int]]


def _groups(raw: bytes) -> Iterator[_Group]:
    """All strings of a record."""
    name, end = b"", 0
    group = _Group(b"", [])
    for string in _STRINGS.finditer(without_escaped_quotes(raw)):
        between = raw[end : string.start()].strip()
        end = string.end()
        span = string.start() + 1, end - 1
        if _NAME_END.match(raw, end) is not None:
            name = raw[slice(*span)]
            if not (name == b"args" and between.startswith(b"]")):
                yield group
                group = _Group(b"", [])
            yield _Group(b"", [span])
        elif between == b"," or (group.spans and name == b"args"):
            group.spans.append(span)
        else:
            yield group
            group = _Group(name if between.startswith(b":") else b"", [span])
    yield group


def _redact_tokens(raw: bytes) -> tuple[bytes, int]:
    """Replace what looks like a secret in any string."""
    places = signs(raw)
    if places == []:
        return raw, 0
    hidden: list[tuple[int, int]] = []
    for group in _groups(raw):
        if group.spans and (
            places is None
            or bisect_left(places, group.spans[0][0]) < bisect_right(places, group.spans[-1][1])
        ):
            hidden += _secrets_in(raw, group)
            if len(hidden) > _MAX_HIDDEN:
                raise ValueError("there are too many tokens")
    return _replaced(raw, hidden, b"[redacted]"), len(hidden)


def _secrets_in(raw: bytes, group: _Group) -> Iterator[tuple[int, int]]:
    """Where the strings of a group hold secrets."""
    if _names_secret(group.name):
        yield from (span for span in group.spans if raw[slice(*span)] not in (b"", MARK[1:-1]))
        return
    texts: list[bytes] = []
    for begin, end in group.spans:
        text = raw[begin:end]
        # one byte for each character
        texts.append(
            _TEXT.decode(raw[begin - 1 : end + 1]).encode("ascii", "replace") if b"\\" in text else text
        )
    spans = secret_spans(b"\n".join(texts))
    at = place = 0
    for (begin, end), text in zip(group.spans, texts, strict=True):
        inner: list[tuple[int, int]] = []
        while place < len(spans) and spans[place][0] < at + len(text):
            first, last = spans[place]
            inner.append((max(first - at, 0), min(last - at, len(text))))
            if last > at + len(text):  # it goes on in the next string
                break
            place += 1
        at += len(text) + 1
        if place < len(spans) and spans[place][1] < at:
            place += 1
        if inner and end - begin > len(text):
            inner = _with_escapes(raw[begin:end], inner)
        yield from ((begin + first, begin + last) for first, last in inner)


def _names_secret(name: bytes) -> bool:
    """Whether a name of a member says that its value is a secret. Kubernetes itself keeps none under a name of its own."""
    return (
        bool(name)
        and b"k8s.io/" not in name
        and b"kubernetes.io/" not in name
        and _is_secret(_key(b'"' + name + b'"')[-_NAME_ENDS:])
    )


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
    if _BODY_SIGN.search(raw) is None:
        return raw, 0
    cloud = raw.find(b'"protoPayload"') >= 0
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
        self._raw, self._masked = raw, without_escaped_quotes(raw)
        self._secretive = secretive
        self._depth = 0
        self._go_to(0)
        self._next()

    def _go_to(self, at: int) -> None:
        self._lexemes = islice(_LEXEME.finditer(self._masked, at), _MAX_LEXEMES)

    def _next(self) -> bytes:
        self._found = found = next(self._lexemes)
        return found[1] if self._masked is self._raw else self._raw[slice(*found.span(1))]

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
