"""The process that serves the application: uvicorn, its socket, signals and limits."""

from __future__ import annotations

import errno
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TextIO

import uvicorn
from fastapi import FastAPI

from data.errors import KubehabitError
from serving.access.connection_limits import Connection
from serving.access.places import Places
from serving.access.tls import ServerTls
from serving.access.tls_entrance import tls_entrance
from serving.app import create_app
from serving.process import resources as process
from serving.runtime import Service
from serving.schemas import ModelInfo
from serving.settings import load_settings
from serving.telemetry import tracing
from serving.telemetry.logging import configure

_log = logging.getLogger("kubehabit.api")
_SHUTDOWN_SECONDS = 10
#: Longer than the pauses between a webhook's batches: Go does not send a POST again on a connection that just closed.
_KEEP_ALIVE_SECONDS = 75
_SWITCH_SECONDS = 0.0005
#: File descriptors asked for, if the system grants them: many a shell starts with 1,024, which connections alone can use up.
_MAX_FILES = 65_536


class _UvicornServer(uvicorn.Server):
    """uvicorn that ends quietly, with status 0, on SIGINT and SIGTERM."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End streams first: uvicorn waits for every response to be complete, and theirs never is."""
        self._end_streams()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals without raising them again afterwards."""
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything slow happens; raises KubehabitError, which says what to do."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        message = f"{host!r} is no address to listen on ({error.strerror}). Correct --host."
        raise KubehabitError(message) from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        message = f"Cannot listen on {host}:{port} ({error.strerror}). Correct --host or --port."
        if error.errno == errno.EADDRINUSE:
            message = f"Port {port} on {host} is in use: stop what listens there, or choose another one with --port."
        raise KubehabitError(message) from error
    return listener


def server_config(app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves the application: with limits on connections, and TLS if the settings have it."""
    tls: ServerTls | None = app.state.tls
    service: Service = app.state.service
    places = Places(service.settings.limits, service.metrics.connection_closed)
    return uvicorn.Config(
        app,
        http=partial(Connection, places) if tls is None else partial(tls_entrance, tls, places),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(_MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve(settings_path: Path | None = None, host: str | None = None, port: int | None = None) -> None:
    """Run the service until SIGINT or SIGTERM.

    Args:
        settings_path: YAML file; the shipped one when None.
        host, port: override the file and the environment; port 0 picks a free one.

    Raises:
        KubehabitError: bad settings, tokens or certificates; address in use; no registry and no earlier download; a
            damaged bundle.
    """
    settings = load_settings(settings_path, host=host, port=port)
    listener = _listen(settings.host, settings.port)
    configure(settings.log)
    if settings.traces.enabled:
        tracing.start()
    failure: list[BaseException] = []

    def loaded(error: BaseException | None) -> None:
        if error is not None:
            failure.append(error)
            server.should_exit = True
            return
        shown, number = listener.getsockname()[:2]
        shown = f"[{shown}]" if ":" in shown else shown
        # Standard output belongs to the alerts if they go there.
        lines = any(sink.type == "stdout" for sink in settings.sinks)
        scheme = "http" if tls is None else "https"
        _announce(service.ready().model, f"{scheme}://{shown}:{number}", sys.stderr if lines else sys.stdout)
        process.freeze_gc()

    from serving.rollout.loader import load_engine

    app = create_app(settings, load=partial(load_engine, settings), on_loaded=loaded)
    service: Service = app.state.service
    tls: ServerTls | None = app.state.tls
    if tls is None and not settings.on_loopback:
        _log.warning(
            "Tokens and alerts cross the network readable by eavesdroppers: name a certificate as tls.certificate, or let "
            "nothing but a TLS proxy on this machine reach this port."
        )
    _allow_files()
    server = _UvicornServer(server_config(app), service.stream.end)
    # A response passes through four threads: at Python's 5 ms, each could wait that long for a busy one.
    sys.setswitchinterval(_SWITCH_SECONDS)
    with listener:
        server.run(sockets=[listener])
    tracing.stop()
    if failure:
        if isinstance(failure[0], KubehabitError):
            raise failure[0]
        raise KubehabitError(
            f"The model could not be loaded: {failure[0]!r}. This is a defect."
        ) from failure[0]


def _announce(model: ModelInfo, url: str, to: TextIO) -> None:
    if model.notice:
        _log.warning(model.notice)
        print(f"Note: {model.notice}", file=to, flush=True)
    places = f"(console: {url}/console/, API docs: {url}/docs)"
    print(f"kubehabit serves {model.name} version {model.version} on {url}  {places}", file=to, flush=True)
