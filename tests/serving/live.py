"""The application behind the real server on loopback, as `kubehabit serve` runs it, in a thread of the test."""

from __future__ import annotations

import socket
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI

from serving.server import server_config


class Live:
    """A server for the time of a `with` block."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._server = uvicorn.Server(server_config(app))
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)

    def __enter__(self) -> Live:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self._listener.close()

    def connect(self) -> socket.socket:
        """A connection that a test speaks on byte by byte."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
