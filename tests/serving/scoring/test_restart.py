"""Killed under load, again and again, with a real model: every acknowledged event is scored once, as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from data.events.decode import decode_lines
from data.events.reader import open_lines
from detection.bundle import seal
from serving.rollout.loader import load_engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from tests.conftest import RECORDINGS, Trained

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
#: `kubehabit serve` of a bundle that is in no registry.
SERVE = """
import sys
from pathlib import Path
import serving.rollout.loader, serving.server
load = serving.rollout.loader.load_engine
serving.rollout.loader.load_engine = lambda settings: load(settings, Path(sys.argv[1]))
serving.server.serve(port=int(sys.argv[2]))
"""

BATCH = 200
WAIT = 60.0


class Service:
    """`kubehabit serve` in a folder of its own, that can be killed."""

    def __init__(self, bundle: Path, folder: Path, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}"
        self.store = f"sqlite:///{folder / 'serving.db'}"
        self._log = folder / "log"
        self._command = [sys.executable, "-c", SERVE, str(bundle), port]
        self._environment = os.environ | {
            "KUBEHABIT_HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "KUBEHABIT_STATE__HOT_PRINCIPALS": "5",
            "KUBEHABIT_STATE__SNAPSHOT_EVENTS": "1500",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log
            )
        self._until(lambda: self.get("/readyz").status_code == 200)

    def _until(self, done: Any) -> None:
        end = time.monotonic() + WAIT
        while True:
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            try:
                if done():
                    return
            except httpx.TransportError:
                pass
            assert time.monotonic() < end, self._log.read_text()[-3000:]
            time.sleep(0.02)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, trust_env=False, timeout=10)

    def send(self, lines: list[bytes]) -> bool:
        """Whether a batch is acknowledged."""
        try:
            answer = httpx.post(
                self.url + "/v1/audit", content=b"\n".join(lines), trust_env=False, timeout=10
            )
        except httpx.TransportError:
            return False
        assert answer.status_code in (200, 503), answer.text
        return answer.status_code == 200

    def settle(self) -> None:
        self._until(lambda: "kubehabit_backlog_batches 0.0" in self.get("/metrics").text)

    def kill(self, how: int = signal.SIGKILL) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(WAIT)

    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 12_000))


@pytest.fixture(scope="module")
def bundle(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that is easily surprised, so that there are many verdicts to compare."""
    copy = tmp_path_factory.mktemp("touchy") / "bundle"
    shutil.copytree(trained.bundle, copy)
    file = copy / "calibration.json"
    calibration = json.loads(file.read_text())
    calibration["person_thresholds"] = [0.5] * len(calibration["horizons"])
    file.write_text(json.dumps(calibration))
    seal(copy)
    return copy


@pytest.fixture
def service(bundle: Path, tmp_path: Path) -> Iterator[Service]:
    made = Service(bundle, tmp_path)
    yield made
    made.kill()


@pytest.fixture(scope="module")
def undisturbed(bundle: Path, lines: list[bytes]) -> tuple[Counter[str], dict[str, set[str]]]:
    """Actions of each principal, and the audit IDs of each alert, when nothing happens under way."""
    engine = load_engine(Settings(), bundle, store_url="sqlite://")
    actions: Counter[str] = Counter()
    for start in range(0, len(lines), BATCH):
        batch = engine.score(decode_lines(lines[start : start + BATCH]).events)
        actions.update(result["principal"] for result in batch.results if result["status"] == "scored")
    alerts = cited(engine.store)
    engine.close()
    assert len(alerts) > 5
    return actions, alerts


def cited(store: AlertStore) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for listed in store.page(limit=500).alerts:
        alert = store.get(listed.id)
        assert alert is not None
        assert len(alert.audit_ids) == alert.action_count
        found[alert.id] = set(alert.audit_ids)
    return found


def counted(service: Service, names: Counter[str]) -> dict[str, int]:
    return {name: service.get(f"/v1/principals/{name}").json()["actions"] for name in names}


def test_kill_9_under_load_leaves_every_verdict_as_it_would_have_been(
    service: Service, lines: list[bytes], undisturbed: tuple[Counter[str], dict[str, set[str]]]
) -> None:
    service.start()
    batches = [lines[start : start + BATCH] for start in range(0, len(lines), BATCH)]
    acknowledged: list[int] = []

    def deliver() -> None:
        for number, batch in enumerate(batches):
            while not service.send(batch):  # as the webhook does, which cannot know whether it was taken
                time.sleep(0.05)
            acknowledged.append(number)
            if number % 7 == 3:  # an answer that was lost, and a shipper that cuts its batches differently
                service.send(batch[BATCH // 2 :])

    sender = threading.Thread(target=deliver)
    sender.start()
    for wanted in (5, 12, 13, 40):
        while len(acknowledged) < wanted:
            time.sleep(0.001)
        service.kill()
        service.start()
    sender.join(WAIT)
    assert acknowledged == list(range(len(batches)))
    service.settle()

    # A verdict that was answered holds, once, even if the process dies before it is applied.
    alert = service.get("/v1/alerts?limit=1").json()["alerts"][0]["id"]
    given = httpx.post(
        f"{service.url}/v1/alerts/{alert}/feedback",
        json={"verdict": "malicious"},
        trust_env=False,
        timeout=10,
    )
    service.kill()
    service.start()
    service.settle()
    assert "a verdict was applied" in service.log()
    assert [json.loads(line) for line in service.get("/v1/feedback").text.splitlines()] == [given.json()]

    actions, alerts = undisturbed
    assert counted(service, actions) == dict(actions)
    service.kill(signal.SIGTERM)
    store = AlertStore(service.store, retention_days=90, max_alerts=1000)
    assert cited(store) == alerts
    store.close()
    assert "state restored" in service.log()
    assert "Traceback" not in service.log()


def test_after_a_clean_end_nothing_is_scored_again_and_repeats_are_still_known(
    service: Service, lines: list[bytes]
) -> None:
    service.start()
    assert service.send(lines[:BATCH])
    service.settle()
    service.kill(signal.SIGTERM)
    service.start()
    assert "batches of the journal are scored first" not in service.log()
    assert service.send(lines[BATCH // 2 : BATCH + BATCH // 2])
    service.settle()
    metrics = service.get("/metrics").text
    assert f'kubehabit_events_total{{outcome="repeated"}} {BATCH // 2}.0' in metrics


def test_a_damaged_snapshot_costs_nothing_but_time(
    service: Service,
    lines: list[bytes],
    undisturbed: tuple[Counter[str], dict[str, set[str]]],
    tmp_path: Path,
) -> None:
    service.start()
    middle = 3 * len(lines) // 4
    for start in range(0, middle, BATCH):
        assert service.send(lines[start : start + BATCH])
    service.settle()
    service.kill(signal.SIGTERM)
    newest = max((tmp_path / "state").glob("*.snapshot"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(bytes(content))
    service.start()
    for start in range(middle, len(lines), BATCH):
        assert service.send(lines[start : start + BATCH])
    service.settle()
    actions, alerts = undisturbed
    assert counted(service, actions) == dict(actions)
    assert "a snapshot is refused" in service.log()
    service.kill(signal.SIGTERM)
    store = AlertStore(service.store, retention_days=90, max_alerts=1000)
    assert cited(store) == alerts
    store.close()
