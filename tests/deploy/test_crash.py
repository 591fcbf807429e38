"""Killed in the midst of batches, service and database: what was acknowledged becomes exactly the alerts it should."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.actions.stage_folding import StageFolder
from data.events.decode import decode_lines
from serving.storage.database import AlertStore
from tests.deploy.apiserver import Webhook
from tests.deploy.served import free_port
from tests.serving.conftest import postgres, store_url
from tests.serving.postgres import Postgres
from tests.serving.receivers import DEADLINE, until

__all__ = ["postgres", "store_url"]

ROOT = Path(__file__).parents[2]
BATCH = 400
SERVICE = """
import sys, threading
from pathlib import Path
from serving.alerts.explain.explainer import Explainer
from tests.deploy.served import Served
folder, url, port, out = sys.argv[1:]
sink = {"name": "out", "type": "file", "path": out, "repeat_minutes": 0}
served = Served(Path(folder), Explainer.load(Path("configs/explain.yaml")), store=url, port=int(port), sinks=[sink])
served.start()
print("ready", flush=True)
threading.Event().wait()
"""


class Process:
    """The service in a process of its own, that can be killed."""

    def __init__(self, folder: Path, url: str, out: Path) -> None:
        self.port = free_port()
        self._command = [sys.executable, "-c", SERVICE, str(folder), url, str(self.port), str(out)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."}
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(DEADLINE)


@contextmanager
def running(process: Process) -> Iterator[None]:
    process.start()
    try:
        yield
    finally:
        process.kill()


def unusual(lines: list[bytes]) -> set[str]:
    """Audit IDs of the actions that the detector of the tests flags: whatever touches Secrets."""
    folder = StageFolder()
    events = decode_lines(lines).events
    first = folder.first(events, [event.requestReceivedTimestamp or event.stageTimestamp for event in events])
    return {
        event.auditID
        for event, is_first in zip(events, first, strict=True)
        if is_first and event.objectRef is not None and event.objectRef.resource == "secrets"
    }


def cited(url: str) -> Counter[str]:
    """Audit IDs that the alerts of a store rest on."""
    store = AlertStore(url, retention_days=90, max_alerts=100_000)
    found = Counter(
        name for alert in store.page(limit=10_000).alerts for name in (store.get(alert.id) or alert).audit_ids
    )
    store.close()
    return found


def delivered(out: Path) -> set[str]:
    """Audit IDs in what the sink was sent."""
    if not out.exists():
        return set()
    lines = out.read_text(encoding="utf-8").splitlines()
    return {name for line in lines for name in json.loads(line)["alert"]["auditIDs"]}


@pytest.mark.slow
def test_kill_9_of_the_service_in_mid_batch_loses_and_doubles_nothing(
    store_url: str, normal_lines: list[bytes], tmp_path: Path
) -> None:
    lines = normal_lines[:8000]
    out = tmp_path / "out.jsonl"
    service = Process(tmp_path / "service", store_url, out)
    # As kube-apiserver by default: its patience must outlast a start on a busy machine.
    webhook = Webhook(service.port, initial_backoff=10.0)
    with running(service):
        sending = threading.Thread(
            target=lambda: [webhook.process(lines[at : at + BATCH]) for at in range(0, len(lines), BATCH)]
        )
        sending.start()
        for acknowledged in (4, 11):
            until(lambda wanted=acknowledged: webhook.statuses.count(200) >= wanted)
            service.kill()
            service.start()
        sending.join(DEADLINE)
        assert webhook.dropped == 0
        assert webhook.statuses.count(200) == len(lines) // BATCH
        until(lambda: set(cited(store_url)) == unusual(lines))
        until(lambda: delivered(out) == unusual(lines))
    assert set(cited(store_url).values()) == {1}


@pytest.mark.slow
def test_kill_9_of_the_database_under_way_loses_and_doubles_nothing(
    normal_lines: list[bytes], tmp_path: Path
) -> None:
    lines = normal_lines[:8000]
    database, out = Postgres(), tmp_path / "out.jsonl"
    try:
        database.start()
        url = database.database()
        service = Process(tmp_path / "service", url, out)
        webhook = Webhook(service.port)
        with running(service):
            for at in range(0, len(lines), BATCH):
                assert webhook.process(
                    lines[at : at + BATCH]
                )  # acknowledged all the same: the journal has it
                if at == 8 * BATCH:
                    database.kill()
                if at == 12 * BATCH:
                    database.start()
            assert webhook.statuses == [200] * (len(lines) // BATCH)
            until(lambda: set(cited(url)) == unusual(lines))
            until(lambda: delivered(out) == unusual(lines))
        assert set(cited(url).values()) == {1}
    finally:
        database.stop()
