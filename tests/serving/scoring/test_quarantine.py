"""A batch that ends the process is tried alone, then set aside: it cannot keep the service from starting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from serving.scoring import quarantine
from serving.scoring.quarantine import Quarantine

ROOT = Path(__file__).parents[3]


def killed(folder: Path, first: int, last: int) -> None:
    """A process that dies while it scores some records."""
    Quarantine(folder).begin(first, last)  # never ended


def test_what_was_in_work_is_suspected_and_what_ends_the_process_alone_is_condemned(tmp_path: Path) -> None:
    killed(tmp_path, 5, 7)
    again = Quarantine(tmp_path)
    assert again.condemned is None
    assert [number for number in range(10) if again.is_suspect(number)] == [5, 6, 7]
    again.begin(5, 5)
    again.end()
    again.begin(6, 6)
    last = Quarantine(tmp_path)  # it died again
    assert last.condemned == 6
    assert [number for number in range(10) if last.is_suspect(number)] == [7]


def test_suspects_outlive_a_process_that_dies_before_their_trial(tmp_path: Path) -> None:
    killed(tmp_path, 5, 7)
    again = Quarantine(tmp_path)
    again.begin(3, 4)
    last = Quarantine(tmp_path)
    assert last.condemned is None
    assert all(last.is_suspect(number) for number in range(3, 8))


def test_a_process_that_ends_between_batches_leaves_no_suspect(tmp_path: Path) -> None:
    opened = Quarantine(tmp_path)
    opened.begin(1, 3)
    opened.end()
    assert not Quarantine(tmp_path).is_suspect(2)
    opened.close()


def test_a_damaged_marker_suspects_nothing(tmp_path: Path) -> None:
    killed(tmp_path, 1, 3)
    marker = tmp_path / "in-work"
    marker.write_bytes(marker.read_bytes()[:-1] + b"x")
    assert not Quarantine(tmp_path).is_suspect(2)


def test_a_batch_set_aside_is_kept_privately_and_counted(tmp_path: Path) -> None:
    opened = Quarantine(tmp_path)
    opened.set_aside(3, b"body")
    [path] = tmp_path.glob("*.batch")
    assert path.read_bytes() == b"body"
    assert path.stat().st_mode & 0o077 == 0
    opened = Quarantine(tmp_path)
    assert (len(opened), opened.may_hold(3), opened.may_hold(4)) == (1, True, False)
    assert opened.holds(3, b"body")
    assert not opened.holds(3, b"a batch of another journal")


DEADLY = """
import json, os, signal, sys
from pathlib import Path
from fastapi.testclient import TestClient
from data.actions.fields import FIELDS
from serving.alerts.explain.explainer import Explainer
from serving.app import create_app
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from tests.serving.conftest import model_info, settle
from tests.serving.fakes import FakeDetector, ndjson, raw_event, secret_event

home, step = Path(sys.argv[1]), sys.argv[2]

class Deadly(FakeDetector):
    def score(self, events):
        if step != "mended" and any(event.auditID == "poison" for event in events):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(events)

store = AlertStore(f"sqlite:///{home}/serving.db", retention_days=90, max_alerts=1000)
engine = Engine(Deadly(), FIELDS, model_info(), store, Explainer.load(Path("configs/explain.yaml")))
settings = Settings(
    journal={"path": home / "journal"}, state={"path": home / "state"}, events={"enabled": False},
    dead_letters={"path": home / "dead.jsonl"},
)
with TestClient(create_app(settings, engine), base_url="http://127.0.0.1:8646") as client:
    if step == "send":
        engine._lock.acquire()  # all of it is acknowledged before any of it is scored
        for number in range(3):
            assert client.post("/v1/audit", content=ndjson([secret_event(number)])).status_code == 200
        assert client.post("/v1/audit", content=ndjson([secret_event(9, auditID="poison")])).status_code == 200
        assert client.post("/v1/audit", content=ndjson([secret_event(4)])).status_code == 200
        engine._lock.release()
    settle(client)
    metrics = client.get("/metrics").text
    [alert] = client.get("/v1/alerts").json()["alerts"]
    quarantined = [line.split()[1] for line in metrics.splitlines() if line.startswith("kubehabit_quarantined_batches ")]
    print(json.dumps({"ids": sorted(alert["auditIDs"]), "quarantined": quarantined}))
"""


def run(home: Path, step: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DEADLY, str(home), step], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_a_batch_that_kills_the_process_does_not_stop_the_second_start(tmp_path: Path) -> None:
    assert run(tmp_path, "send").returncode == -signal.SIGKILL
    assert run(tmp_path, "start").returncode == -signal.SIGKILL  # it was tried alone
    for _ in range(2):
        again = run(tmp_path, "start")
        assert again.returncode == 0, again.stderr
        assert '{"ids": ["id-0", "id-1", "id-2", "id-4"], "quarantined": ["1.0"]}' in again.stdout
    [kept] = (tmp_path / "journal" / "quarantine").glob("*.batch")
    assert b'"poison"' in kept.read_bytes()


def test_a_batch_that_was_in_work_when_the_process_was_killed_from_outside_is_scored(tmp_path: Path) -> None:
    assert run(tmp_path, "send").returncode == -signal.SIGKILL
    assert run(tmp_path, "start").returncode == -signal.SIGKILL
    again = run(tmp_path, "mended")  # what killed it is gone, so the batch was not to blame
    assert again.returncode == 0, again.stderr
    assert '"ids": ["id-0", "id-1", "id-2", "id-4", "poison"], "quarantined": ["0.0"]' in again.stdout


def test_what_hangs_is_convicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "_TRIAL_SECONDS", 1)
    tried = Quarantine(tmp_path)
    assert tried.convicts(threading.Event().wait)
    assert tried.convicts(lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert not tried.convicts(lambda: 1 / 0)
