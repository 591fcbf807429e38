"""The service as others meet it: over HTTP, on a port of its own, with a detector that notes what it is given."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn

from data.actions.fields import FIELDS
from data.events.audit_event import AuditEvent
from detection.detector import Scores
from serving.alerts.explain.explainer import Explainer
from serving.app import create_app
from serving.rollout.loader import outbox_of
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from tests.serving.conftest import model_info
from tests.serving.fakes import FakeDetector
from tests.serving.receivers import DEADLINE, until


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


class Noting(FakeDetector):
    """Keeps the audit ID and the stage of every event it is given, in order."""

    def __init__(self, seen: list[tuple[str, str]]) -> None:
        super().__init__()
        self._seen = seen

    def score(self, events: Sequence[AuditEvent]) -> Scores:
        self._seen += [(event.auditID, event.stage) for event in events]
        return super().score(events)


class Served:
    """The service; what it is given is in `seen`, over restarts."""

    def __init__(
        self, folder: Path, explainer: Explainer, *, store: str = "", port: int = 0, **settings: Any
    ) -> None:
        self.port = port or free_port()
        self._store = store or f"sqlite:///{folder}/serving.db"
        self.seen: list[tuple[str, str]] = []
        self.detector = Noting(self.seen)
        self._folder = folder
        self._explainer = explainer
        self._settings = settings
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        settings = Settings(**({"journal": {"path": self._folder / "journal"}} | self._settings))
        store = AlertStore(self._store, retention_days=90, max_alerts=10_000)
        engine = Engine(
            self.detector, FIELDS, model_info(), store, self._explainer, outbox=outbox_of(settings, store)
        )
        app = create_app(settings, engine)
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", self.port))
        arguments = {"sockets": [listener]}
        self._thread = threading.Thread(target=self._server.run, kwargs=arguments, daemon=True)
        self._thread.start()
        until(self._ready)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(DEADLINE)
            assert not self._thread.is_alive()
        self._server = self._thread = None

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.loads(answer.read())

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, as Prometheus gets them."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
        }
