"""Redacts secrets in the JSON of an event and leaves every other byte as it was.

Redacted are: values under `data`, `stringData` and `binaryData` of any object, the `value` of environment variables, fields
whose name ends in password, token or the like, the copy of an object that kubectl keeps in an annotation, all but names and
types in the body of a Secret, TokenRequest or TokenReview, and anywhere, also in the URI, what looks like a JSON Web Token, a
bearer token or a private key.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

MARK = b'"[redacted]"'

_CLOSED = frozenset({"data", "stringData", "binaryData"})
_NAMED = re.compile(
    r"(?i)(?:passw(?:or)?d|passphrase|secret[-_]?(?:key|value|access[-_]?key)|client[-_]?secret|api[-_]?key"
    r"|access[-_]?key|private[-_]?key|credentials?|bearer|token|authorization|cookie|connection[-_]?string)$"
)
# Fields of pods whose names end like that: a switch, and the description of a volume.
_HARMLESS = frozenset({"automountServiceAccountToken", "serviceAccountToken"})

_COPY = re.compile(r"last-applied|^kubectl\.kubernetes\.io/original")
# (resource, subresource) whose bodies consist of secrets.
_SECRETIVE = frozenset({("secrets", ""), ("serviceaccounts", "token"), ("tokenreviews", "")})
# Fields of such a body that say what it is, not what is in it.
_KEPT = frozenset({
    "apiVersion", "kind", "name", "generateName", "namespace", "uid", "immutable", "op", "path", "from", "resourceVersion",
    "creationTimestamp", "deletionTimestamp", "time", "manager", "operation", "fieldsType", "subresource", "fieldsV1",
    "audiences", "username", "groups", "expirationTimestamp", "reason", "status",
})  # fmt: skip

_TYPE = re.compile(
    rb'"(?:Opaque|kubernetes\.io/[a-z-]+|bootstrap\.kubernetes\.io/token|helm\.sh/release\.v1)"'
)
_CLOSED_PATH = re.compile(r"/(?:data|stringData|binaryData|env)(?:/|$)|last-applied|~1original")
_TOKENS = re.compile(
    rb"eyJ[A-Za-z0-9_-]{5,}\.eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^\"]*?(?:-----END [A-Z ]*PRIVATE KEY-----|(?=\"))"
    rb"|(?i:(?<=bearer )|(?<=bearer\+)|(?<=bearer%20)|(?<=basic )|(?<=basic\+)|(?<=basic%20))[A-Za-z0-9._~+/=-]{8,}"
    rb"|(?i:(?<=password=)|(?<=passwd=)|(?<=token=)|(?<=secret=)|(?<=api-key=)|(?<=apikey=)|(?<=access-key=))"
    rb"[^&\s\"',;\\]+"
)
_TOKEN_SIGNS = (b"eyj", b"private key", b"bearer", b"basic")
_ASSIGNED = (b"password=", b"passwd=", b"token=", b"secret=", b"api-key=", b"apikey=", b"access-key=")
# In lower case. A body without any of these, or of those below, has nothing to redact; this alone settles most.
_BODY_SIGNS = (
    b'"data"', b'"stringdata"', b'"binarydata"', b'"env"', b'"op"', b"last-applied", b"/original",
    b"passw", b"passphrase", b"secret", b"credential", b'bearer"', b'token"', b'authorization"', b'cookie"', b"\\u00",
)  # fmt: skip
_KEY_SIGNS = re.compile(rb"(?:api|access|private)[-_]?key")
_STRING_SIGNS = re.compile(rb"connection[-_]?string")

_LEXEMES = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]|[^\s{}\[\],:"]++', re.DOTALL)


class Redacted(NamedTuple):
    """An event's text without its secrets, and how many values were replaced."""

    text: bytes
    removed: int


class _RequestObject(msgspec.Struct, gc=False):
    resource: str = ""
    subresource: str = ""


class _Outline(msgspec.Struct, gc=False):
    objectRef: _RequestObject | None = None


class _PatchOperation(msgspec.Struct, gc=False):
    path: str


_OUTLINE = msgspec.json.Decoder(_Outline)
_OPERATION = msgspec.json.Decoder(_PatchOperation)
_TEXT = msgspec.json.Decoder(str)


def redact(raw: bytes) -> Redacted:
    """Redact one event, or a cloud's record of one.

    Args:
        raw: its JSON as received, which the decoder has found valid.

    Returns:
        The same bytes, with secret values replaced by `"[redacted]"`.
    """
    low = raw.lower()
    count = 0
    native = b'equestObject"' in raw or b'esponseObject"' in raw
    if (native or b'"protoPayload"' in raw) and _may_hold_secrets(low):
        raw, count = _redact_bodies(raw, native)
    if any(sign in low for sign in _TOKEN_SIGNS) or (b"=" in low and any(sign in low for sign in _ASSIGNED)):
        raw, tokens = _TOKENS.subn(b"[redacted]", raw)
        count += tokens
    return Redacted(raw, count)


def _may_hold_secrets(low: bytes) -> bool:
    for sign in _BODY_SIGNS:
        if sign in low:
            return True
    return (b"key" in low and _KEY_SIGNS.search(low) is not None) or (
        b"connection" in low and _STRING_SIGNS.search(low) is not None
    )


def _redact_bodies(raw: bytes, native: bool) -> tuple[bytes, int]:
    secretive = False
    if native:
        try:
            ref = _OUTLINE.decode(raw).objectRef
            secretive = ref is not None and (ref.resource, ref.subresource) in _SECRETIVE
        except msgspec.MsgspecError:
            secretive = True
    else:
        secretive = any(word in raw for word in (b".secrets.", b"serviceaccounts.token", b"tokenreviews"))
    walk = _Walk(raw, secretive)
    try:
        walk.event(("requestObject", "responseObject") if native else ("request", "response"), native)
    except (RecursionError, IndexError):
        # Nested deeper than any object of Kubernetes: nothing of it is kept.
        return MARK, 1
    return walk.result()


class _Walk:
    """Walks the lexemes of one record and collects the spans to replace."""

    def __init__(self, raw: bytes, secretive: bool) -> None:
        self._raw = raw
        self._secretive = secretive
        found = list(_LEXEMES.finditer(raw))
        self._spans = [lexeme.span() for lexeme in found]
        self._texts = [lexeme[0] for lexeme in found]
        self._at = 0
        self._hidden: list[tuple[int, int]] = []

    def result(self) -> tuple[bytes, int]:
        """The redacted text and the number of replacements."""
        pieces: list[bytes] = []
        copied = 0
        for start, end in self._hidden:
            pieces += (self._raw[copied:start], MARK)
            copied = end
        pieces.append(self._raw[copied:])
        return b"".join(pieces), len(self._hidden)

    def event(self, bodies: tuple[str, ...], native: bool) -> None:
        """The outermost object, of which only the bodies are examined; in a cloud's record they may be nested."""
        self._at += 1
        while self._texts[self._at] != b"}":
            key = self._key()
            if key in bodies:
                self._value(key, False, False, self._secretive, patch=True)
            elif not native and self._texts[self._at] == b"{":
                self.event(bodies, native)
            else:
                self._skip()
            self._comma()
        self._at += 1

    def _key(self) -> str:
        text = self._texts[self._at]
        self._at += 2  # and the colon
        return _TEXT.decode(text) if b"\\" in text else text[1:-1].decode("utf-8", "replace")

    def _comma(self) -> None:
        if self._texts[self._at] == b",":
            self._at += 1

    def _skip(self) -> None:
        """Skip one value."""
        depth = 0
        while True:
            text = self._texts[self._at]
            self._at += 1
            depth += (text in (b"{", b"[")) - (text in (b"}", b"]"))
            if not depth:
                return

    def _hide(self) -> None:
        """Replace one value of any type but null."""
        first = self._at
        self._skip()
        if self._texts[first] != b"null":
            self._hidden.append((self._spans[first][0], self._spans[self._at - 1][1]))

    def _value(self, key: str, closed: bool, env: bool, body: bool, patch: bool = False) -> None:
        """One value.

        Args:
            key: of the value; items of a list have the list's key.
            closed: every value below is a secret.
            env: the `value` of the objects in this list is a secret.
            body: within the body of a Secret or token.
            patch: the list may be a JSON patch.
        """
        text = self._texts[self._at]
        if text == b"{":
            self._object(closed, env, body)
        elif text == b"[":
            self._at += 1
            while self._texts[self._at] != b"]":
                if patch and self._texts[self._at] == b"{":
                    self._object(closed, False, body, writes_secret=self._writes_secret(body))
                else:
                    self._value(key, closed, env, body)
                self._comma()
            self._at += 1
        elif (closed and text not in (b"true", b"false")) or (
            body
            and text.startswith(b'"')
            and key not in _KEPT
            and not (key == "type" and _TYPE.fullmatch(text))
        ):
            self._hide()
        else:
            self._at += 1

    def _object(self, closed: bool, env: bool, body: bool, writes_secret: bool = False) -> None:
        self._at += 1
        while self._texts[self._at] != b"}":
            key = self._key()
            if _COPY.search(key) or (key == "value" and (env or writes_secret)):
                self._hide()
            elif key == "fieldsV1":  # names of fields, no values
                self._skip()
            else:
                secret = key in _CLOSED or (key not in _HARMLESS and _NAMED.search(key) is not None)
                self._value(key, closed or secret, key == "env", body)
            self._comma()
        self._at += 1

    def _writes_secret(self, body: bool) -> bool:
        """Whether the operation of a JSON patch that begins here writes a secret."""
        first = self._at
        self._skip()
        start, end = self._spans[first][0], self._spans[self._at - 1][1]
        self._at = first
        try:
            path = _OPERATION.decode(self._raw[start:end]).path
        except msgspec.MsgspecError:
            return body
        return body or _CLOSED_PATH.search(path) is not None
