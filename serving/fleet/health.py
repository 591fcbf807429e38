"""What a worker answers over HTTP: whether it lives, whether it scores, and its figures for Prometheus."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from data.errors import KubehabitError

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = 10.0
#: Connections at the same time; an orchestrator and a scraper need two.
_MOST = 32


class HealthServer:
    """Listens until closed, on threads of its own.

    Args:
        host, port: where; port 0 takes a free one.
        token: that a scraper has to give as `Authorization: Bearer`; None for none.
        is_alive, why_not_ready, metrics: what to answer.

    Raises:
        KubehabitError: the address cannot be used.
    """

    def __init__(
        self,
        host: str,
        port: int,
        token: str | None,
        is_alive: Callable[[], bool],
        why_not_ready: Callable[[], str],
        metrics: Callable[[], bytes],
    ) -> None:
        places = threading.BoundedSemaphore(_MOST)

        class Handler(BaseHTTPRequestHandler):
            """One connection."""

            timeout = _SECONDS
            server_version, sys_version = "kubehabit", ""

            def do_GET(self) -> None:
                """Answer a GET."""
                path = self.path.partition("?")[0]
                if path == "/healthz":
                    alive = is_alive()
                    self._answer(200 if alive else 503, b"ok\n" if alive else b"stuck\n")
                elif path == "/readyz":
                    reason = why_not_ready()
                    self._answer(503 if reason else 200, (reason or "ok").encode() + b"\n")
                elif path != "/metrics":
                    self._answer(404, b"Here are /healthz, /readyz and /metrics.\n")
                elif self._may_read():
                    self._answer(200, metrics(), _METRICS_TYPE)
                else:
                    self._answer(401, b"Give the token as Authorization: Bearer.\n")

            def _may_read(self) -> bool:
                if token is None:
                    return True
                given = self.headers.get("authorization", "")
                return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())

            def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.send_header("connection", "close")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing: probes come every few seconds."""

            def handle(self) -> None:
                """Serve the connection if there is room for it."""
                if not places.acquire(blocking=False):
                    return
                try:
                    super().handle()
                except OSError:  # the caller went away
                    pass
                finally:
                    places.release()

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise KubehabitError(
                f"Cannot listen on {host}:{port} ({error.strerror}). Correct worker.host or worker.port."
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
