"""The service with a real, small model: a process of its own, the real recording, and no skew against the detector."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import httpx
import pytest

from data.events.decode import decode_lines
from data.events.reader import open_lines
from detection.bundle import Bundle
from detection.detector import Detector
from serving.incidents.incidents import Asker, Merge
from serving.rollout.loader import load_engine
from serving.settings import Settings
from tests.conftest import RECORDINGS, Trained

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BATCH = 400


@pytest.fixture(scope="module")
def attacked_lines() -> list[bytes]:
    """Enough of the labelled recording for even a small model to raise alerts."""
    return list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 25_000))


@pytest.fixture
def served(trained: Trained, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`kubehabit serve` on a free port, with a store of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = os.environ | {
        "KUBEHABIT_HOME": str(trained.home),
        "KUBEHABIT_RULES__SHIPPED": "false",  # what is compared here is the model
        "KUBEHABIT_STORE__URL": f"sqlite:///{tmp_path / 'serving.db'}",
        "KUBEHABIT_MODEL__CACHE": str(tmp_path / "models"),
        "KUBEHABIT_JOURNAL__PATH": str(tmp_path / "journal"),
        "KUBEHABIT_STATE__PATH": str(tmp_path / "state"),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "kubehabit", "serve", "--port", port],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None
            try:
                if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield process, url
    finally:
        process.kill()
        process.wait()


def test_the_process_scores_a_recording_exactly_as_the_detector_does_and_ends_cleanly(
    served: tuple[subprocess.Popen[str], str], trained: Trained, attacked_lines: list[bytes]
) -> None:
    process, url = served
    results = []
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        for start in range(0, len(attacked_lines), BATCH):
            answer = client.post("/v1/score", content=b"\n".join(attacked_lines[start : start + BATCH]))
            assert answer.status_code == 200, answer.text
            results += answer.json()["results"]
        alerts = client.get("/v1/alerts", params={"limit": 500}).json()["alerts"]
        model = client.get("/v1/model").json()
    assert len(results) == len(attacked_lines)
    events = decode_lines(attacked_lines).events
    scores = Detector(Bundle.load(trained.bundle)).score(events)
    scored = [result for result in results if result["status"] == "scored"]
    assert [result["auditID"] for result in scored] == [events[index].auditID for index in scores.event]
    assert [result["flagged"] for result in scored] == scores.flagged.tolist()
    assert [result["severity"] for result in scored] == scores.severity
    assert [result["evidence"] for result in scored] == pytest.approx(scores.evidence.tolist(), abs=1e-4)
    assert (model["name"], model["version"], model["source"]) == ("kubehabit", trained.version, "registry")

    flagged = sorted(result["auditID"] for result in scored if result["flagged"])
    assert flagged, "the recording has attacks; a model that flags nothing tests nothing"
    assert sorted(audit_id for alert in alerts for audit_id in alert["auditIDs"]) == flagged
    for alert in alerts:
        assert "$" not in alert["sentence"]
        assert "None" not in alert["sentence"]
        assert alert["sentence"].endswith(".")
        assert alert["actions"][0]["habits"] or alert["actions"][0]["fields"]

    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out.startswith(f"kubehabit serves kubehabit version {trained.version} on {url}")
    assert f"{url}/docs" in out


def test_what_was_acknowledged_is_there_after_a_kill(
    served: tuple[subprocess.Popen[str], str], tmp_path: Path, attacked_lines: list[bytes]
) -> None:
    process, url = served
    ids = []
    for start in range(0, len(attacked_lines), BATCH):
        body = b"\n".join(attacked_lines[start : start + BATCH])
        ids += httpx.post(f"{url}/v1/score", content=body, trust_env=False, timeout=60).json()["alerts"]
    process.kill()
    process.wait()
    from serving.storage.database import AlertStore

    store = AlertStore(f"sqlite:///{tmp_path / 'serving.db'}", retention_days=1, max_alerts=1000)
    assert ids
    assert {alert.id for alert in store.page(limit=500).alerts} == set(ids)
    store.close()


def test_a_changed_bundle_is_refused_with_a_sentence(trained: Trained, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "bundle"
    shutil.copytree(trained.bundle, copy)
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"x")
    log = tmp_path / "audit.log"
    log.write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "kubehabit", "score", str(log), "--model", str(copy)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "checksum of model.onnx does not match" in done.stderr
    assert "Traceback" not in done.stderr


def test_alerts_say_nothing_of_request_bodies(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, attacked_lines: list[bytes]
) -> None:
    monkeypatch.setenv("KUBEHABIT_HOME", str(trained.home))
    marked = []
    for line in attacked_lines:
        event = json.loads(line)
        event["requestObject"] = (event.get("requestObject") or {}) | {"data": {"password": "MARKED-CONTENT"}}
        event["requestURI"] += ("&" if "?" in event["requestURI"] else "?") + "token=MARKED-CONTENT"
        marked.append(json.dumps(event).encode())
    engine = load_engine(Settings(), trained.bundle, store_url="sqlite://")
    batch = engine.score(decode_lines(marked).events)
    assert batch.raised
    for alert in batch.raised:
        assert "MARKED-CONTENT" not in alert.model_dump_json()
    assert "MARKED-CONTENT" not in json.dumps(batch.results)
    engine.close()


def test_incidents_of_the_recording_are_listed_as_their_own_pages_tell_them(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, attacked_lines: list[bytes]
) -> None:
    monkeypatch.setenv("KUBEHABIT_HOME", str(trained.home))
    # A model of a minute's training finds less than a real one: held to lower thresholds, it tells as much.
    lower = Settings(alerts={"threshold_scale": 0.5})  # type: ignore[arg-type]
    engine = load_engine(lower, trained.bundle, store_url="sqlite://")
    for start in range(0, len(attacked_lines), BATCH):
        engine.score(decode_lines(attacked_lines[start : start + BATCH]).events)
    engine.flush()
    first, *others = engine.incidents.page(limit=200).incidents
    for other in others[:4]:
        engine.incidents.decide(first.id, Merge(incident=other.id), Asker())
    listed = engine.incidents.page(limit=200).incidents
    assert max(one.alert_count for one in listed) > 4
    for one in listed:
        whole = engine.incidents.get(one.id)
        assert whole is not None
        assert one.model_dump() == {name: getattr(whole, name) for name in type(one).model_fields}
    engine.close()
