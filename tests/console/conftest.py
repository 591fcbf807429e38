"""A live service on which part of a recorded campaign of attacks is scored, with a small model, and a browser before it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from data.reader import open_lines
from serving.app import create_app
from serving.load import load_engine
from serving.registry import parse_model
from serving.service import Service
from serving.settings import Settings
from serving.tokens import create
from tests.conftest import RECORDINGS, Trained
from tests.console.browser import chromium
from tests.serving.live import Live

EVENTS = 25_000
"""Of the labelled recording: enough for even a small model to raise alerts of every kind."""
LATER = 4_000
"""Sent while somebody looks on."""
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Console:
    """A running service, with tokens.

    Attributes:
        url: of the service.
        admin, reader, pipeline: tokens with all scopes, read only, and ingest only.
        later: lines that were not sent yet.
        tokens: their file.
    """

    url: str
    admin: str
    reader: str
    pipeline: str
    later: list[bytes]
    service: Service
    tokens: Path

    def get(self, path: str) -> Any:
        """Ask the API, as the administrator."""
        answer = httpx.get(
            self.url + path, headers={"Authorization": f"Bearer {self.admin}"}, trust_env=False
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, lines: list[bytes]) -> list[str]:
        """Score lines of a log, as a pipeline does; IDs of the alerts that they raised or let grow."""
        headers = {"Authorization": f"Bearer {self.pipeline}", "Content-Type": "application/x-ndjson"}
        raised: list[str] = []
        with httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=60) as client:
            for start in range(0, len(lines), _BATCH):
                answer = client.post("/v1/score", content=b"\n".join(lines[start : start + _BATCH]))
                assert answer.status_code == 200, answer.text
                raised += answer.json()["alerts"]
        return list(dict.fromkeys(raised))


@pytest.fixture(scope="session")
def campaign() -> list[bytes]:
    """The first part of the labelled recording, with its attacks."""
    return list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), EVENTS + LATER))


@pytest.fixture(scope="session")
def console(
    trained: Trained, campaign: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Console]:
    """The service with alerts and incidents of the campaign; everybody has to sign in."""
    home = tmp_path_factory.mktemp("console")
    before = {name: value for name, value in os.environ.items() if name.startswith("KUBEHABIT_")}
    for name in before:
        del os.environ[name]
    os.environ["KUBEHABIT_HOME"] = str(home)
    try:
        now = datetime.now(UTC)
        file = home / "tokens.json"
        admin = create(file, "on-call", ("ingest", "read", "admin"), now=now, days=1)[1]
        reader = create(file, "dashboard", ("read",), now=now - timedelta(minutes=1))[1]
        pipeline = create(file, "pipeline", ("ingest",), now=now)[1]
        settings = Settings(access={"tokens": file})  # type: ignore[arg-type]
        app = create_app(settings, load_engine(settings, parse_model(str(trained.bundle))))
        with Live(app) as live:
            made = Console(
                f"http://127.0.0.1:{live.port}",
                admin,
                reader,
                pipeline,
                campaign[EVENTS:],
                app.state.service,
                file,
            )
            assert made.send(campaign[:EVENTS])
            made.service.ready().settle()
            yield made
    finally:
        os.environ.pop("KUBEHABIT_HOME")
        os.environ.update(before)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One Chromium for all tests; each takes a context of its own."""
    with chromium() as started:
        yield started
