"""Connections of the HTTP server: bounded in number, in the size of what comes before a body, and in the time all of it takes."""

from __future__ import annotations

import asyncio
import json
import ssl
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.problems import MEDIA_TYPE, Problem
from serving.tls import client_certificate

MAX_HEAD_BYTES = 32 * 1024
"""Request line and headers together; the parser itself would take any amount."""
HEAD_SECONDS = 15.0
"""For a first request to begin and for any head to be complete. A client that sends a byte now and then holds no connection."""
BODY_SECONDS = 60.0
"""For a body: a batch of 16 MiB at 280 KB/s. A client that sends slower than that would hold a place among those that wait."""
MAX_CONNECTIONS = 1000
"""At the same time. Each costs a file descriptor, and the store must always be able to have one."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits, and with the client's certificate in the scope of its requests."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = True
        self._fed = 0
        self._refused = False
        self._certificate: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there, its TLS handshake done."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "Too many connections are open: close some, or try again later.")
            return
        secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self._certificate = client_certificate(secured)
        self._within(HEAD_SECONDS, "The request did not begin, or its headers did not end, in time.")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came; those of a head are counted, as the parser keeps them until it is complete."""
        if self._refused:
            return
        if self._in_head:
            if self._deadline is None:
                self._within(HEAD_SECONDS, "The headers did not end in time.")
            self._fed += len(data)
        super().data_received(data)
        # More than a head in one piece may begin a body: then the head is complete by now, and was measured there.
        if self._in_head and self._fed > MAX_HEAD_BYTES and not self._refused:
            self._refuse(431, _TOO_LONG)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        self._fed = 0
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._refuse(431, _TOO_LONG)
        if self._refused:
            return
        self._within(BODY_SECONDS, "The body did not end in time: send smaller batches, or compress them.")
        self.scope["kubehabit.certificate"] = self._certificate  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._in_head = True
        self._stop_clock()
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the form of all other errors."""
        self._refuse(400, f"{msg.rstrip('.')}: this is no HTTP/1.1, or not as RFC 9112 wants it.")

    def _within(self, seconds: float, sentence: str) -> None:
        self._stop_clock()
        self._deadline = self.loop.call_later(seconds, self._refuse, 408, sentence)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int, detail: str) -> None:
        """Answer if nobody else began to, and close."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._stop_clock()
        cycle = self.cycle
        # Answers go out in the order of the requests: while one before is owed, closing has to say it.
        if self._in_head:
            free = cycle is None or cycle.response_complete
        else:
            free = not self.pipeline and (cycle is None or not cycle.response_started)
        if free:
            self.transport.write(_answer(status, detail))
        self.transport.close()


_TOO_LONG = f"Request line and headers are longer than {MAX_HEAD_BYTES // 1024} KiB together."


def _answer(status: int, detail: str) -> bytes:
    phrase = HTTPStatus(status).phrase
    body = json.dumps(Problem(title=phrase, status=status, detail=detail).model_dump()).encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
        "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
