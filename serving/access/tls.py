"""TLS of the service: certificate, key and client authority, all replaceable while it runs."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import KubehabitError
from serving.access.reloading_file import ReloadingFile
from serving.settings import TlsSettings


@dataclass(frozen=True)
class ClientCertificate:
    """A verified client certificate. `common_name` is None if the subject has none, or several."""

    common_name: str | None
    uris: tuple[str, ...]
    expires: float
    authority: int

    @property
    def name(self) -> str:
        """Its name in logs."""
        return self.common_name or (self.uris[0] if self.uris else "without a name")


class _Context(ssl.SSLContext):
    """A context with the generation of the client authority's files that it trusts."""

    authority: int = 0


class ServerTls:
    """The TLS side of the listener; new connections use the files as they are then.

    The server gets `context` once. At each handshake its server-name callback, which OpenSSL calls even if the client names no
    server, replaces it by the current context. So removing an authority takes effect, too, which changing a context in use
    could not achieve. `on_change` is called after each read, with True if the files could not be used.

    Raises:
        KubehabitError: a file is missing or does not fit.
    """

    def __init__(
        self,
        settings: TlsSettings,
        on_change: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert settings.certificate is not None
        self._certificate = settings.certificate
        self._key = settings.key or settings.certificate
        self._client_ca, self._client_crl = settings.client_ca, settings.client_crl
        self._authorities: bytes = b""
        self._authority = 0
        paths = [self._certificate, self._key, self._client_ca, self._client_crl]
        self._context = ReloadingFile(
            "the TLS certificate, key, client authority or its revocations",
            [path for path in paths if path is not None],
            self._read,
            on_change,
            clock,
        )
        self.context = self._context.current()
        self.context.sni_callback = self._exchange

    @property
    def authority(self) -> int:
        """Generation of the client authority's files now; a connection may have been made under an older one."""
        return self._context.current().authority

    def _exchange(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._context.current()

    def _read(self) -> _Context:
        context = _Context(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        try:
            # Without a password argument, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")
        except OSError as error:  # ssl.SSLError is one
            raise KubehabitError(
                f"The certificate {self._certificate} and the key {self._key} cannot be used ({_reason(error)}): give PEM files "
                "that belong together, the key without a passphrase."
            ) from error
        if self._client_ca is not None:
            self._trust(context, self._client_ca)
        return context

    def _trust(self, context: _Context, path: Path) -> None:
        try:
            content = path.read_bytes()
            context.load_verify_locations(cadata=content.decode("ascii"))
        except (OSError, ValueError) as error:
            raise KubehabitError(
                f"The client authority {path} cannot be used ({_reason(error)}): give certificates of it as PEM."
            ) from error
        if self._client_crl is not None:
            content += self._revoke(context, self._client_crl)
        # A client without a certificate may send a token: the gate decides. A bad certificate ends the handshake.
        context.verify_mode = ssl.CERT_OPTIONAL
        # A resumed session is not verified again. TLS 1.3 without tickets resumes none.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        if content != self._authorities:
            self._authorities = content
            self._authority += 1
        context.authority = self._authority

    def _revoke(self, context: _Context, path: Path) -> bytes:
        """Reject certificates that the lists revoke, and those of an authority without a current list."""
        before = context.cert_store_stats()
        try:
            content = path.read_bytes()
            context.load_verify_locations(cafile=path)
        except OSError as error:
            raise KubehabitError(
                f"The revocations {path} cannot be used ({_reason(error)}): give the authority's lists (CRL) as PEM."
            ) from error
        after = context.cert_store_stats()
        if after["crl"] == 0 or after["x509"] != before["x509"]:
            raise KubehabitError(
                f"The revocations {path} must be lists of revoked certificates (CRL) as PEM and nothing else; "
                "certificates of authorities belong into tls.client_ca."
            )
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return content


def client_certificate(connection: ssl.SSLObject | None) -> ClientCertificate | None:
    """The client's verified certificate, if it sent one."""
    found: Any = None if connection is None else connection.getpeercert()
    if connection is None or not found:  # none was sent; an unverified one ends the handshake
        return None
    names = [value for part in found["subject"] for key, value in part if key == "commonName"]
    return ClientCertificate(
        common_name=names[0] if len(names) == 1 else None,
        uris=tuple(value for kind, value in found.get("subjectAltName", ()) if kind == "URI"),
        expires=float(ssl.cert_time_to_seconds(found["notAfter"])),
        authority=getattr(connection.context, "authority", 0),
    )


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
