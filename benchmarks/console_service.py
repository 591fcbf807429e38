"""The console behind the real server on loopback, in a thread: for its benchmark and its pictures."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from serving.server import server_config


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve an application for the time of a `with` block; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(app))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        app.state.service.stream.end()  # the browser follows alerts to the end
        server.should_exit = True
        thread.join(30)
        listener.close()
