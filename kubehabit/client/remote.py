"""Client of a running service: JSON in, JSON out, errors as sentences."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from data.errors import KubehabitError
from kubehabit.client import THIS_MACHINE

Value = str | int | float | Sequence[str] | None
_LOOPBACK = frozenset(("127.0.0.1", "::1", "localhost"))
_TIMEOUT = 60.0
#: An export reads and proves up to 50,000 events.
_FILE_TIMEOUT = 600.0
#: Answers to a sender that should try again later.
_BUSY = frozenset((HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE))


class AnswerError(KubehabitError):
    """The service refused; the message is its own sentence, `kind` the problem's `type` or ""."""

    def __init__(self, sentence: str, status: int, kind: str = "") -> None:
        super().__init__(sentence)
        self.status = status
        self.kind = kind


class BusyError(AnswerError):
    """429 or 503: the same request can succeed later, after the `seconds` of `Retry-After` if it has one."""

    def __init__(self, sentence: str, status: int, seconds: float | None) -> None:
        super().__init__(sentence, status)
        self.seconds = seconds


class UnreachableError(KubehabitError):
    """There was no answer."""


class Remote:
    """A service at an address. Redirects are not followed, so that a token goes to no other host.

    `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` are obeyed; certificates are verified against the system's, or `SSL_CERT_FILE`.

    Args:
        url: address of the service, such as `http://127.0.0.1:8646`.
        token: proves who asks; empty for a service that asks for none.

    Raises:
        KubehabitError: the URL is not an HTTP address.
    """

    @classmethod
    def at(cls, url: str | None) -> Remote:
        """The service at an address, or on this machine, with the token in KUBEHABIT_TOKEN."""
        return cls(url or THIS_MACHINE, os.environ.get("KUBEHABIT_TOKEN", ""))

    def __init__(self, url: str, token: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise KubehabitError(f"{url!r} is no address of a service: give one like http://127.0.0.1:8646.")
        self.url = url.rstrip("/")
        self._headers = {"Accept": "application/json", "User-Agent": "kubehabit"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        direct = parts.hostname in _LOOPBACK or proxy_bypass(parts.hostname)
        proxy = None if direct else getproxies().get(parts.scheme)
        self._pool = urllib3.PoolManager() if proxy is None else urllib3.ProxyManager(proxy)

    def get(self, *path: str, **query: Value) -> Any:
        """The answer to a GET.

        Args:
            path: segments after `/v1`.
            query: parameters; those that are None or empty lists are left out.

        Raises:
            AnswerError: the service refuses, or does not have it; the message says why.
            UnreachableError: the service does not answer.
        """
        return self._parsed(self.get_bytes(*path, **query))

    def get_bytes(self, *path: str, **query: Value) -> bytes:
        """The answer to a GET, byte for byte; raises as `get`."""
        given = urlencode({name: value for name, value in query.items() if value is not None}, doseq=True)
        return self._ask("GET", path, query=f"?{given}" if given else "")

    def post(self, *path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a POST of JSON; raises as `get`."""
        return self._parsed(self.post_for_file(*path, body=body))

    def post_for_file(self, *path: str, body: Mapping[str, Any]) -> bytes:
        """The answer to a POST of JSON byte for byte, as checksums cover it; raises as `get`."""
        headers = {"Content-Type": "application/json"}
        return self._ask("POST", path, json.dumps(body).encode(), headers, timeout=_FILE_TIMEOUT)

    def post_events(self, body: bytes, encoding: str) -> Any:
        """The answer of `/v1/score` to newline-delimited events.

        Args:
            body: the events.
            encoding: how the body is compressed, as `Content-Encoding`.

        Raises:
            BusyError: try again later.
            AnswerError, UnreachableError: as `get`.
        """
        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": encoding}
        return self._parsed(self._ask("POST", ("score",), body, headers))

    def _parsed(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise KubehabitError(f"{self.url} does not answer as kubehabit does ({error}).") from error

    def _ask(
        self,
        method: str,
        path: tuple[str, ...],
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        query: str = "",
        timeout: float = _TIMEOUT,
    ) -> bytes:
        url = "/".join([self.url, "v1", *(quote(part, safe="") for part in path)]) + query
        try:
            answer = self._pool.request(
                method,
                url,
                body=body,
                headers={**self._headers, **(headers or {})},
                timeout=timeout,
                retries=False,
                redirect=False,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise UnreachableError(
                f"{self.url} does not answer ({_reason(error)}). Is `kubehabit serve` running there? Name it with --url."
            ) from error
        if answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return answer.data
        sentence, kind = _problem(answer)
        if answer.status in _BUSY:
            raise BusyError(sentence, answer.status, _seconds(answer.headers.get("Retry-After")))
        raise AnswerError(sentence, answer.status, kind)


def _reason(error: Exception) -> str:
    """What hindered a request, without the names of objects in memory that urllib3 puts in front."""
    cause = error.__cause__ or error.__context__ or error
    return str(getattr(cause, "strerror", None) or cause) or type(error).__name__


def _seconds(text: str | None) -> float | None:
    try:
        return max(float(text), 0.0) if text else None
    except ValueError:  # a date: our service sends seconds
        return None


def _problem(answer: urllib3.BaseHTTPResponse) -> tuple[str, str]:
    """The sentence and the type of a problem response (RFC 9457); for any other answer its status."""
    try:
        problem = json.loads(answer.data)
        detail, kind = problem.get("detail"), problem.get("type")
    except (ValueError, AttributeError):
        detail = kind = None
    if not isinstance(detail, str):
        detail = f"The service answers {answer.status} {answer.reason}."
    return detail, kind if isinstance(kind, str) else ""
