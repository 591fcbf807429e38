"""Checks of who may use the service: tokens and TLS."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from data.errors import KubehabitError
from kubehabit.diagnosis.check_result import CheckResult
from serving.access.tls import ServerTls
from serving.access.tokens import Token, read_tokens
from serving.settings import Settings

_SOON = timedelta(days=14)


def check_tokens(settings: Settings) -> Iterator[CheckResult]:
    """Callers are asked who they are where others can reach the service, and the tokens are safe and valid."""
    path = settings.access.tokens_path
    if not settings.guarded:
        if settings.on_loopback:
            yield CheckResult(
                "tokens", "ok", "Callers need no token: the service listens on this machine only."
            )
            return
        sentence = f"Anybody who reaches {settings.host} may use the service: make a token with kubehabit token create."
        yield CheckResult("tokens", "error", sentence)
        return
    if not settings.access.has_tokens:
        yield CheckResult("tokens", "ok", "Callers need the one token, or a client certificate.")
        return
    yield from _tokens(path, read_tokens(path))


def _tokens(path: Path, tokens: list[Token]) -> Iterator[CheckResult]:
    now = datetime.now(UTC)
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        yield CheckResult("tokens", "warning", f"Other users may read the hashes in {path}: chmod 600 {path}")
    valid = [token for token in tokens if not token.expired(now)]
    if not valid:
        yield CheckResult(
            "tokens", "error", f"No token in {path} is valid: make one with kubehabit token create."
        )
        return
    soon = [token.name for token in valid if token.expired(now + _SOON)]
    if soon:
        names = ", ".join(sorted(soon))
        yield CheckResult(
            "tokens", "warning", f"Tokens that expire within {_SOON.days} days: {names}. Make new ones."
        )
    if not any("ingest" in token.scopes for token in valid):
        sentence = f"No token in {path} has the scope ingest: without one, no sender can deliver events."
        yield CheckResult("tokens", "warning", sentence)
    yield CheckResult("tokens", "ok", f"{path}: {len(valid)} valid tokens of {len(tokens)}.")


def check_tls(settings: Settings) -> Iterator[CheckResult]:
    """The certificate and the client authority can be used and are valid for a while."""
    tls = settings.tls
    if tls.certificate is None:
        if settings.on_loopback:
            yield CheckResult(
                "tls", "ok", "There is no certificate: the service listens on this machine only."
            )
            return
        sentence = (
            "There is no certificate: tokens and alerts cross the network readable. Name one as tls.certificate, or let nothing "
            "but a TLS proxy on this machine reach the port."
        )
        yield CheckResult("tls", "warning", sentence)
        return
    ServerTls(tls)  # raises what would keep the service from starting
    key = tls.key or tls.certificate
    if key.stat().st_mode & stat.S_IROTH:
        yield CheckResult("tls", "error", f"Every user may read the private key {key}: chmod 600 {key}")
    for name, path in (("tls.certificate", tls.certificate), ("tls.client_ca", tls.client_ca)):
        if path is not None:
            yield from _validity(name, path)


def _validity(name: str, path: Path) -> Iterator[CheckResult]:
    now = datetime.now(UTC)
    try:
        first, *others = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise KubehabitError(f"{path} ({name}) holds no certificate that can be read: {error}.") from error
    # A server's certificate comes first and its authorities after it; of client authorities each counts.
    ends = min(one.not_valid_after_utc for one in (first, *others))
    begins = max(one.not_valid_before_utc for one in (first, *others))
    shown = f"{ends:%Y-%m-%d %H:%M} UTC"
    if ends <= now:
        yield CheckResult("tls", "error", f"{path} ({name}) expired at {shown}: replace it.")
    elif begins > now:
        sentence = (
            f"{path} ({name}) is valid from {begins:%Y-%m-%d %H:%M} UTC only: check the clock, or replace it."
        )
        yield CheckResult("tls", "error", sentence)
    elif ends <= now + _SOON:
        yield CheckResult("tls", "warning", f"{path} ({name}) expires at {shown}: replace it soon.")
    else:
        yield CheckResult("tls", "ok", f"{path} ({name}) is valid until {shown}.")
