"""A live service on which part of a recorded campaign of attacks is scored, with a small model, and a browser before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from data.events.reader import open_lines
from serving.access.gate import Access
from serving.access.tokens import create
from serving.app import create_app
from serving.registry.client import parse_model
from serving.rollout.loader import load_engine
from serving.runtime import Service
from serving.settings import Settings
from tests.conftest import RECORDINGS, Trained
from tests.console.browser import chromium
from tests.serving.live import Live

#: Events sent before a page is opened; later ones of the recording are sent while a page is open.
ALERTS = 8
SCALE = 0.6
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Console:
    """A running service, with tokens.

    Attributes:
        url: of the service.
        admin, reader, pipeline: tokens with all scopes, read only, and ingest only.
        rest: lines of the recording that were not sent yet.
        tokens: their file.
    """

    url: str
    admin: str
    reader: str
    pipeline: str
    rest: Iterator[bytes]
    service: Service
    service_access: Access
    tokens: Path

    def get(self, path: str) -> Any:
        """Ask the API, as the administrator."""
        headers = {"Authorization": f"Bearer {self.admin}"}
        answer = httpx.get(self.url + path, headers=headers, trust_env=False, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def alerts(self) -> list[str]:
        """IDs of all alerts, newest first."""
        return [alert["id"] for alert in self.get("/v1/alerts?limit=500")["alerts"]]

    @property
    def later(self) -> list[bytes]:
        """The next line of the recording, which was not sent yet; taking it leaves it out."""
        return list(islice(self.rest, 1))

    def send(self, lines: list[bytes]) -> list[str]:
        """Score lines of a log, as a pipeline does; IDs of the alerts that they raised or let grow."""
        headers = {"Authorization": f"Bearer {self.pipeline}", "Content-Type": "application/x-ndjson"}
        content = b"\n".join(lines)
        answer = httpx.post(
            self.url + "/v1/score", content=content, headers=headers, trust_env=False, timeout=120
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["alerts"]  # type: ignore[no-any-return]

    def send_until(self, number: int) -> list[str]:
        """Score the recording further, as a pipeline does, until there are so many alerts; IDs of all of them, newest first."""
        while len(found := self.alerts()) < number:
            batch = list(islice(self.rest, _BATCH))
            assert batch, f"The whole recording raised {len(found)} alerts only"
            self.send(batch)
        self.service.ready().flush()
        return found


@pytest.fixture(scope="session")
def console(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """The service with alerts and incidents of the campaign; every caller has to sign in."""
    home = tmp_path_factory.mktemp("console")
    now = datetime.now(UTC)
    file = home / "tokens.json"
    admin = create(file, "on-call", ("ingest", "read", "admin"), now=now, days=1)[1]
    reader = create(file, "dashboard", ("read",), now=now - timedelta(minutes=1))[1]
    pipeline = create(file, "pipeline", ("ingest",), now=now)[1]
    # A model of a minute's training finds less than a real one: held to lower thresholds, it tells as much.
    # Every path is given: the environment stays as it was for the tests that run while this service lives.
    settings = Settings(
        access={"tokens": file, "log": {"path": home / "access.jsonl"}},
        alerts={"threshold_scale": SCALE},
        store={"url": f"sqlite:///{home / 'serving.db'}"},
        journal={"path": home / "journal"},
        state={"path": home / "state"},
        dead_letters={"path": home / "dead-letters.jsonl"},
        events={"path": home / "events"},
        history={"path": home / "history.db"},
        authorization={"snapshot": RECORDINGS / "rbac.json.gz"},
        worker={"state": str(home / "fleet")},
    )
    app = create_app(settings, load_engine(settings, parse_model(str(trained.bundle))))
    with Live(app) as live:
        made = Console(
            f"http://127.0.0.1:{live.port}",
            admin,
            reader,
            pipeline,
            iter(open_lines(RECORDINGS / "labelled.jsonl.zst")),
            app.state.service,
            app.state.access,
            file,
        )
        made.send_until(ALERTS)
        yield made


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One Chromium for all tests; each takes a context of its own."""
    with chromium() as started:
        yield started
