"""Limits of HTTP connections: their places, the size of request heads, and the time a head or a body may take."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.access.places import Places, client_of
from serving.access.tls import ClientCertificate, client_certificate
from serving.http.problems import MEDIA_TYPE, Problem

# Request line and headers together; the parser itself has no limit.
MAX_HEAD_BYTES = 32 * 1024
# For the first request to begin and for each head to be complete, against clients that send a byte now and then.
HEAD_SECONDS = 15.0
# For a body: 16 MiB at 280 KB/s. A slower client would hold a place in the queue.
BODY_SECONDS = 60.0
# For the rest of a body that is not read, once its answer is sent: closed at once, the answer could be lost on its way.
LINGER_SECONDS = 2.0
# Answered also on a connection that found no place.
_PROBES = (b"/healthz", b"/readyz")


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits and the client's certificate in the scope of its requests."""

    def __init__(self, places: Places, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._places = places
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = True
        self._fed = 0
        self._refused = False
        self._lingers = False
        # Below TLS, if there is any.
        self._plain: asyncio.Transport = None  # type: ignore[assignment]
        self._certificate: ClientCertificate | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected, its TLS handshake done."""
        super().connection_made(transport)
        if self._plain is None and not self.take_place(transport):
            self._refuse(503, _NO_PLACE)
            return
        self._certificate = client_certificate(transport.get_extra_info("ssl_object"))
        if self._certificate is not None:
            self._places.prove(self, ("certificate", self._certificate.name))
        self._within(HEAD_SECONDS, "The request did not begin, or its headers did not end, in time.")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._stop_clock()
        self.free_place()
        super().connection_lost(exc)

    def take_place(self, transport: asyncio.Transport) -> bool:
        """Hold a place from now on, before a TLS handshake if there is one; False if none can be had."""
        self._plain = transport
        return self._places.enter(self, client_of(transport))

    def free_place(self) -> None:
        """Hold no place any more."""
        self._places.leave(self)

    @property
    def idle(self) -> bool:
        """Whether it waits for a request, or for the end of a request's head."""
        return self._in_head and (self.cycle is None or self.cycle.response_complete)

    def make_room(self) -> None:
        """Close an idle connection for the sake of another."""
        self._refused = True
        self._stop_clock()
        (self.transport or self._plain).close()

    def data_received(self, data: bytes) -> None:
        """Count the bytes of a head, which the parser keeps until it is complete."""
        if self._refused:
            return
        if self._in_head:
            if self._deadline is None:
                self._within(HEAD_SECONDS, "The headers did not end in time.")
            self._fed += len(data)
        super().data_received(data)
        # A piece may also contain the start of the body; then the head was complete and checked in `on_headers_complete`.
        if self._in_head and self._fed > MAX_HEAD_BYTES and not self._refused:
            self._refuse(431, _TOO_LONG)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._in_head = False
        self._fed = 0
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse(431, _TOO_LONG)
        if self._refused:
            return
        credentials = any(name in (b"authorization", b"cookie") for name, _ in self.headers)
        if self._places.is_overflow(self) and self.url not in _PROBES and not credentials:
            self._refuse(503, _NO_PLACE)
            return
        self._places.use(self)
        self._within(BODY_SECONDS, "The body did not end in time: send smaller batches, or compress them.")
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["kubehabit.certificate"] = self._certificate
        scope["kubehabit.prove"] = partial(self._places.prove, self)
        super().on_headers_complete()
        self.cycle.transport = _Lingering(self)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """A piece of the body arrived."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._in_head = True
        self._stop_clock()
        if self._lingers:
            self.transport.close()
        elif not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer malformed HTTP with a problem document, like all errors."""
        self._refuse(400, f"{msg.rstrip('.')}: this is no HTTP/1.1, or not as RFC 9112 wants it.")

    def close_gently(self) -> None:
        """Close after an answer; if the request's body still comes, only once it ended, or was given time to."""
        if self._in_head or self._refused:
            self.transport.close()
        elif not self._lingers:
            self._lingers = True
            self._stop_clock()
            self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _within(self, seconds: float, sentence: str) -> None:
        self._stop_clock()
        self._deadline = self.loop.call_later(seconds, self._refuse, 408, sentence)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int, detail: str) -> None:
        """Answer, unless a response has begun, and close."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_clock()
        cycle = self.cycle
        # Responses go out in the order of the requests: while an earlier one is pending, only closing is possible.
        if self._in_head:
            free = cycle is None or cycle.response_complete
        else:
            free = not self.pipeline and (cycle is None or not cycle.response_started)
        if free:
            self.transport.write(_answer(status, detail))
        self.transport.close()


class _Lingering:
    """The transport as the request's answer sees it: closing it waits for the end of the request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)

    def close(self) -> None:
        """Close the connection once the request has ended."""
        self._connection.close_gently()


_NO_PLACE = "Too many connections are open: close some, or try again later."
_TOO_LONG = f"Request line and headers are longer than {MAX_HEAD_BYTES // 1024} KiB together."


def _answer(status: int, detail: str) -> bytes:
    phrase = HTTPStatus(status).phrase
    body = json.dumps(Problem(title=phrase, status=status, detail=detail).model_dump()).encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
        "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
