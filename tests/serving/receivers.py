"""Small real receivers on loopback, for the sinks to talk to."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Seconds after which a test stops waiting and fails; reached only when something is broken.
DEADLINE = 60.0


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Arrivals:
    """What came, in order; can be waited for."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._changed = threading.Condition()

    def add(self, item: Any) -> None:
        with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    def wait(self, count: int) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.items) >= count, DEADLINE), self.items
            return list(self.items)


@dataclass
class HttpReceiver:
    """Answers POST with `statuses` one after the other, the last for ever; keeps what it accepted."""

    statuses: list[int] = field(default_factory=lambda: [200])
    port: int = 0
    arrived: Arrivals = field(default_factory=Arrivals)
    attempts: Arrivals = field(default_factory=Arrivals)
    hold: threading.Event | None = None

    def __enter__(self) -> HttpReceiver:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received = Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                status = receiver.statuses.pop(0) if len(receiver.statuses) > 1 else receiver.statuses[0]
                if receiver.hold is not None:
                    receiver.attempts.add(received)
                    receiver.hold.wait(DEADLINE)
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", "5")
                    self.end_headers()
                    self.wfile.write(b"said\n")
                except OSError:
                    return
                if receiver.hold is None:
                    receiver.attempts.add(received)
                if status < 300:
                    receiver.arrived.add(received)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.hold is not None:
            self.hold.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class StreamReceiver:
    """Keeps everything that each TCP (or TLS) connection carried."""

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.arrived = Arrivals()
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                try:
                    reader = (
                        connection
                        if self._context is None
                        else self._context.wrap_socket(connection, server_side=True)
                    )
                    parts = []
                    while part := reader.recv(65536):
                        parts.append(part)
                    reader.close()
                except OSError:
                    continue
            self.arrived.add(b"".join(parts))

    def __enter__(self) -> StreamReceiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that is to become true."""
    pause = threading.Event()
    for _ in range(int(DEADLINE / 0.01)):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError("it never became true")
