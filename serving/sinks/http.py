"""POST over HTTP(S) for sinks, with permanent errors separated from transient ones."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from serving.schemas import clean
from serving.sinks.base import RefusedError, Secret, TlsSettings, UnavailableError

_AGENT = "kubehabit"
# Statuses that reject the alert itself. Others, such as 401 and 404, are fixed at the receiver or in its token.
_NEVER = frozenset({400, 405, 406, 409, 410, 411, 413, 414, 415, 422, 431})

_SHOWN = 200


class HttpPost:
    """Connections to one receiver. `HTTPS_PROXY` and `NO_PROXY` are obeyed, redirects are not followed.

    Args:
        timeout: seconds to connect, and to wait for each part of the response.
        tls: CA and client certificate.
    """

    def __init__(self, timeout: float, tls: TlsSettings | None = None) -> None:
        self._timeout = urllib3.Timeout(connect=timeout, read=timeout)
        self._tls = tls or TlsSettings()
        self._pools: dict[str | None, urllib3.PoolManager] = {}

    def post(
        self, url: str, body: bytes, headers: Mapping[str, str], token: Secret | None = None, ok: int = 0
    ) -> None:
        """Send a body.

        Args:
            ok: another status that means success.

        Raises:
            UnavailableError: no connection, no response, or one that may change.
            RefusedError: the receiver rejects the alert.
        """
        sent = {"User-Agent": _AGENT, **headers}
        if token is not None:
            sent["Authorization"] = f"Bearer {token.read()}"
        host = urlsplit(url).hostname
        try:
            response = self._pool(url).request(
                "POST", url, body=body, headers=sent, retries=False, redirect=False, preload_content=False
            )
            try:
                # Bounded: an endless response must not fill the memory; the rest is dropped with the connection.
                answer = response.read(_SHOWN + 1) if response.status >= HTTPStatus.MULTIPLE_CHOICES else b""
                if response.status < HTTPStatus.MULTIPLE_CHOICES:
                    response.read(1 << 16)
            finally:
                response.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # Not the error's text: it holds the address, which may be secret.
            raise UnavailableError(f"{host} cannot be reached ({type(error).__name__})") from None
        if response.status < HTTPStatus.MULTIPLE_CHOICES or response.status == ok:
            return
        reason = f"{host} answered {response.status}"
        if response.status in _NEVER:
            # Logged, so it is cleaned like all text from outside.
            text = clean(answer.decode("utf-8", "replace"), _SHOWN).strip()
            raise RefusedError(f"{reason}: {text}" if text else reason)
        raise UnavailableError(reason)

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = getproxies().get(parts.scheme)
        if proxy is not None and proxy_bypass(parts.hostname or ""):
            proxy = None
        if proxy not in self._pools:
            context = client_context(self._tls)
            self._pools[proxy] = (
                urllib3.PoolManager(timeout=self._timeout, ssl_context=context)
                if proxy is None
                else urllib3.ProxyManager(proxy, timeout=self._timeout, ssl_context=context)
            )
        return self._pools[proxy]

    def close(self) -> None:
        """Close the connections."""
        for pool in self._pools.values():
            pool.clear()


def client_context(tls: TlsSettings) -> ssl.SSLContext:
    """TLS as a client: certificates are always verified.

    Raises:
        OSError: a named file cannot be read, or is no certificate.
    """
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
