"""POST over HTTP(S): the sinks that send JSON to an address, with permanent errors separated from transient ones."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from http import HTTPStatus
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec
import urllib3

from serving.schemas import clean
from serving.sinks.base import (
    DeliveryRefusedError,
    Secret,
    SinkSettings,
    SinkTlsSettings,
    UnavailableError,
    Update,
    read_url,
)

# Statuses that reject the alert itself. Others, such as 401 and 404, are fixed at the receiver or in its token.
_NEVER = frozenset({400, 405, 406, 409, 410, 411, 413, 414, 415, 422, 431})

_SHOWN = 200


class Poster:
    """Posts to one receiver. `HTTPS_PROXY` and `NO_PROXY` are obeyed, redirects are not followed.

    Args:
        settings: of the sink; `timeout_seconds` is to connect, and to wait for each part of the response.
        tls: CA and client certificate.
    """

    def __init__(self, settings: SinkSettings, tls: SinkTlsSettings | None = None) -> None:
        self._timeout = urllib3.Timeout(connect=settings.timeout_seconds, read=settings.timeout_seconds)
        self._tls = tls or SinkTlsSettings()
        self._pools: dict[str | None, urllib3.PoolManager] = {}

    def post(
        self, address: str | Secret, path: str, body: bytes, headers: Mapping[str, str], *, ok: int = 0
    ) -> bytes:
        """Post a body to a path below an address, and return the beginning of the answer; `ok`: another status of success.

        Raises:
            UnavailableError: there was no response, or one that may change.
            DeliveryRefusedError: the receiver will never take it.
        """
        url = read_url(address)
        if path:
            url = url.rstrip("/") + path
        host = urlsplit(url).hostname
        try:
            response = self._pool(url).request(
                "POST",
                url,
                body=body,
                headers={"User-Agent": "kubehabit", **headers},
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                failed = response.status >= HTTPStatus.MULTIPLE_CHOICES
                # Bounded: an endless response must not fill the memory; the rest is dropped with the connection.
                answer: bytes = response.read(_SHOWN + 1 if failed else 1 << 20)
            finally:
                response.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # Not the error's text: it holds the address, which may be secret.
            raise UnavailableError(f"{host} cannot be reached ({type(error).__name__})") from None
        if not failed or response.status == ok:
            return answer
        reason = f"{host} answered {response.status}"
        if response.status in _NEVER:
            # Logged, so it is cleaned like all text from outside.
            text = clean(answer.decode("utf-8", "replace"), _SHOWN).strip()
            raise DeliveryRefusedError(f"{reason}: {text}" if text else reason)
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


class HttpSink:
    """Posts each update to one receiver, with a `Poster`.

    Args:
        settings: of the sink.
        url: the address, or the secret that holds it.
        body: what to send, made into JSON.
        path: appended to the address.
        token: sent as a bearer token.
        tls: CA and client certificate.
        media_type: of the body.
        ok: another status that means success.
    """

    def __init__(
        self,
        settings: SinkSettings,
        url: str | Secret,
        body: Callable[[Update], object],
        *,
        path: str = "",
        token: Secret | None = None,
        tls: SinkTlsSettings | None = None,
        media_type: str = "application/json",
        ok: int = 0,
    ) -> None:
        self._poster = Poster(settings, tls)
        self._url = url
        self._body = body
        self._path = path
        self._token = token
        self._media_type = media_type
        self._ok = ok

    def send(self, update: Update) -> None:
        """Post an update."""
        headers = {"Content-Type": self._media_type, "Idempotency-Key": update.key}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.read()}"
        self._poster.post(
            self._url, self._path, msgspec.json.encode(self._body(update)), headers, ok=self._ok
        )

    def close(self) -> None:
        """Close the connections."""
        self._poster.close()


def client_context(tls: SinkTlsSettings) -> ssl.SSLContext:
    """TLS as a client, which always verifies the receiver; raises OSError for a file that cannot be used."""
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
