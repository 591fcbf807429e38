"""Asking a running service, for the commands that do what the console does: JSON in, JSON out, errors as sentences."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from data.errors import KubehabitError, NotFoundError, UnknownPrincipalError

Value = str | int | float | Sequence[str] | None
_TIMEOUT = 60.0
_FILE_TIMEOUT = 600.0
"""An export reads and proves up to 50,000 events."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """A token must not be sent on to somebody else."""


_OPENER = urllib.request.build_opener(_NoRedirects)


class Remote:
    """A service at an address.

    Args:
        url: where it is, such as `http://127.0.0.1:8646`.
        token: proves who asks; empty for a service that asks for none.

    Raises:
        KubehabitError: the URL is none.
    """

    def __init__(self, url: str, token: str = "") -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise KubehabitError(f"{url!r} is no address of a service: give one like http://127.0.0.1:8646.")
        self._url, self._token = url.rstrip("/"), token

    def get(self, *path: str, **query: Value) -> Any:
        """The answer to a GET.

        Args:
            path: segments after `/v1`.
            query: parameters; those that are None or empty lists are left out.

        Raises:
            NotFoundError: there is no such thing.
            KubehabitError: the service cannot be reached, or refuses; the message says why.
        """
        return self._parsed(self.get_bytes(*path, **query))

    def get_bytes(self, *path: str, **query: Value) -> bytes:
        """The answer to a GET, byte for byte; raises as `get`."""
        given = urlencode({name: value for name, value in query.items() if value is not None}, doseq=True)
        return self._ask("GET", path, None, f"?{given}" if given else "")

    def post(self, *path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a POST of JSON; raises as `get`."""
        return self._parsed(self._ask("POST", path, json.dumps(body).encode(), ""))

    def post_for_file(self, *path: str, body: Mapping[str, Any]) -> bytes:
        """The answer to a POST of JSON byte for byte, as checksums are over it; raises as `get`."""
        return self._ask("POST", path, json.dumps(body).encode(), "", _FILE_TIMEOUT)

    def _parsed(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise KubehabitError(f"{self._url} does not answer as kubehabit does ({error}).") from error

    def _ask(
        self,
        method: str,
        path: tuple[str, ...],
        body: bytes | None,
        query: str,
        timeout: float = _TIMEOUT,
    ) -> bytes:
        url = "/".join([self._url, "v1", *(quote(part, safe="") for part in path)]) + query
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            request = urllib.request.Request(url, body, headers, method=method)
            with _OPENER.open(request, timeout=timeout) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from error
        except (OSError, ValueError, HTTPException) as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
            raise KubehabitError(
                f"{self._url} does not answer ({why}). Is `kubehabit serve` running there? Name it with --url."
            ) from error


def _refusal(error: urllib.error.HTTPError) -> KubehabitError:
    """The error that a problem response (RFC 9457) stands for, with its sentence; else with the status."""
    try:
        problem = json.load(error)
        detail, kind = problem.get("detail"), problem.get("type")
    except (ValueError, AttributeError, OSError):
        detail = kind = None
    if not isinstance(detail, str):
        detail = f"The service answers {error.code} {error.reason}."
    if kind == UnknownPrincipalError.problem_type:
        return UnknownPrincipalError(detail)
    return (NotFoundError if error.code == HTTPStatus.NOT_FOUND else KubehabitError)(detail)
