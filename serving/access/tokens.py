"""Bearer tokens in a file: made, listed and revoked by `kubehabit token`, checked by the service, hashed at rest."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from data.durable_file import replacing
from data.errors import KubehabitError
from serving.settings import AccessScope

SCOPES: tuple[AccessScope, ...] = ("ingest", "read", "analyst", "admin")

# Prefix of every token made here, for scanners for leaked secrets.
PREFIX = "kubehabit_"
_SECRET_BYTES = 32
# Minimum length of a token made elsewhere: 128 random bits if hexadecimal.
MIN_LENGTH = 32
_MIN_DIFFERENT = 10
_MAX_LENGTH = 512
_MAX_TOKENS = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Token(BaseModel):
    """What is stored of a token: enough to recognise it, not to send it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[AccessScope, ...], Field(min_length=1)]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    requests_per_second: Annotated[float | None, Field(gt=0)] = None
    megabytes_per_second: Annotated[float | None, Field(gt=0)] = None

    def expired(self, now: datetime) -> bool:
        """Whether it has expired."""
        return self.expires is not None and now >= self.expires


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: Annotated[list[Token], Field(max_length=_MAX_TOKENS)] = []


def digest(token: str) -> str:
    """The stored hash of a token: SHA-256, hexadecimal.

    A slow password hash protects guessable passwords; a token has 256 random bits. It would only slow every request and help
    an attacker to overload the service.
    """
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


class Tokens:
    """The tokens of a file, for look-up."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        # Looked up by a hash with a per-process key, so that timing does not reveal which stored hash the sent one resembles;
        # the hash itself is then compared in constant time.
        self._key = secrets.token_bytes(32)
        self._by_hash = {self._keyed(token.sha256): token for token in tokens}

    def __len__(self) -> int:
        return len(self._by_hash)

    def find(self, sent: str) -> Token | None:
        """The token that was sent, even if expired; None for any other text."""
        if not MIN_LENGTH <= len(sent) <= _MAX_LENGTH:
            return None
        return self.hashed(digest(sent))

    def hashed(self, sha256: str) -> Token | None:
        """The token with a hash from `digest`, even if expired; None if there is none."""
        token = self._by_hash.get(self._keyed(sha256))
        return token if token is not None and hmac.compare_digest(token.sha256, sha256) else None

    def _keyed(self, sha256: str) -> bytes:
        return hashlib.blake2b(sha256.encode(), key=self._key, digest_size=16).digest()


def read_tokens(path: Path) -> list[Token]:
    """Read a tokens file; raises KubehabitError, with no hash in it, if it is missing, writable by others, or holds no tokens."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except OSError as error:
        raise KubehabitError(
            f"Cannot read the tokens file {path}: {error.strerror}. Make one with: kubehabit token create"
        ) from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KubehabitError(
            f"Users other than its owner may write {path}, and so give themselves access: chmod go-w {path}"
        )
    try:
        tokens = _File.model_validate_json(content).tokens
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole of it"
        raise KubehabitError(
            f"{path} is no tokens file ({where}: {first['msg']}). Mend it, or make a new one with: kubehabit token create"
        ) from error
    for field in ("name", "sha256"):
        counted = Counter(getattr(token, field) for token in tokens)
        twice = next((token.name for token in tokens if counted[getattr(token, field)] > 1), None)
        if twice is not None:
            raise KubehabitError(f"The token {twice!r} is in {path} twice: take one of them out.")
    return tokens


def scopes_of(names: Sequence[str]) -> list[AccessScope]:
    """Scopes by their names; raises KubehabitError if one is none."""
    wrong = next((name for name in names if name not in SCOPES), None)
    if wrong is not None:
        raise KubehabitError(f"{wrong[:40]!r} is no scope: give {', '.join(SCOPES[:-1])} or {SCOPES[-1]}.")
    return [scope for scope in SCOPES if scope in names]


def create(
    path: Path,
    name: str,
    scopes: Sequence[AccessScope],
    *,
    now: datetime,
    days: float | None = None,
    requests_per_second: float | None = None,
    megabytes_per_second: float | None = None,
    given: str | None = None,
) -> tuple[Token, str]:
    """Add a token to the file, which is created if missing. Returns the stored entry, and the token itself, which is not stored.

    Args:
        days: until it expires; None: never.
        requests_per_second, megabytes_per_second: its rates; None: those of the settings.
        given: a token made elsewhere; None: a new random one.

    Raises:
        KubehabitError: the name is taken or invalid, the given token is too weak, or the file cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise KubehabitError(
            f"{name[:80]!r} is no name for a token: use up to 63 letters, digits, dots, dashes and underscores."
        )
    if given is not None:
        _strong_enough(given)
    secret = given if given is not None else PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    now = now.replace(microsecond=0)
    token = Token(
        name=name,
        sha256=digest(secret),
        scopes=tuple(scope for scope in SCOPES if scope in scopes),
        created=now,
        expires=None if days is None else now + timedelta(days=days),
        requests_per_second=requests_per_second,
        megabytes_per_second=megabytes_per_second,
    )
    with _locked(path):
        tokens = read_tokens(path) if path.exists() else []
        if any(token.name == name for token in tokens):
            raise KubehabitError(
                f"There is a token {name!r} already. Give the new one another name, move its users over, then: "
                f"kubehabit token revoke {name}"
            )
        if any(other.sha256 == token.sha256 for other in tokens):
            raise KubehabitError("That very token is in the file already, under another name.")
        _write(path, [*tokens, token])
    return token, secret


def revoke(path: Path, name: str) -> None:
    """Remove a token from the file, or raise KubehabitError. A running service refuses it within about a second."""
    with _locked(path):
        tokens = read_tokens(path)
        rest = [token for token in tokens if token.name != name]
        if len(rest) == len(tokens):
            raise KubehabitError(
                f"There is no token {name[:80]!r} in {path}. See which there are: kubehabit token list"
            )
        _write(path, rest)


def _strong_enough(token: str) -> None:
    if not MIN_LENGTH <= len(token) <= _MAX_LENGTH or len(set(token)) < _MIN_DIFFERENT:
        raise KubehabitError(
            f"This token could be guessed: give {MIN_LENGTH} to {_MAX_LENGTH} random characters, or let kubehabit make one."
        )
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token):
        raise KubehabitError(
            "A bearer token is made of letters, digits and . _ ~ + / - only (RFC 6750): this one has something else in it."
        )


def _write(path: Path, tokens: list[Token]) -> None:
    """Replace the file atomically.

    A new file is readable by its owner only. An existing one keeps its owner and readers: root may make tokens for a service
    that runs as another user.
    """
    content = _File(tokens=tokens).model_dump_json(indent=2, exclude_none=True) + "\n"
    try:
        before = path.stat() if path.exists() else None
        with replacing(path, 0o600) as file:
            if before is not None:
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            file.write(content.encode())
    except OSError as error:
        raise KubehabitError(
            f"Cannot write {path}: {error.strerror}. Check the folder's permissions."
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep concurrent commands from losing each other's tokens."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise KubehabitError(f"Cannot use the folder {path.parent}: {error.strerror}.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
