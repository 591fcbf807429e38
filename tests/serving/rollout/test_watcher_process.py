"""`kubehabit serve` under load while the registry's champion changes, is spoilt and goes away: no request fails."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path

import httpx
import pytest

from benchmarks.load import moved_on
from data.events.reader import open_lines
from tests.conftest import RECORDINGS
from tests.serving.registries import Registry, lying, touchy

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
THREADS = 4
BATCH = 40
PAUSE = 0.1  # seconds between two batches of a thread: a machine of two cores has some left to look at the registry
DAY = date(2026, 11, 23)  # on which the recording was made


@pytest.fixture
def registry(tmp_path: Path, empty_registry: Path, tiny_bundle: Path) -> Registry:
    return Registry(tmp_path / "registry", empty_registry, tiny_bundle)


@pytest.fixture
def served(registry: Registry, tmp_path: Path) -> Iterator[str]:
    """URL of `kubehabit serve` with a registry of its own, at which it looks all the time."""
    registry.add(alias="champion")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = os.environ | {
        "KUBEHABIT_HOME": str(tmp_path / "home"),
        "MLFLOW_TRACKING_URI": registry.uri,
        "KUBEHABIT_MODEL__WATCH_SECONDS": "0.2",
        "KUBEHABIT_MODEL__CHALLENGER": "challenger",
    }
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "kubehabit", "serve", "--port", port],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def wait_for(url: str, path: str, pattern: str) -> str:
    """What is at a path, once it matches a pattern."""
    until = time.monotonic() + 300  # reached only when something is broken
    text = ""
    while time.monotonic() < until:
        try:
            text = httpx.get(url + path, trust_env=False, timeout=30).text
        except httpx.TransportError:
            text = ""
        if re.search(pattern, text):
            return text
        time.sleep(0.05)
    raise AssertionError(f"{path} never showed {pattern!r}; in the end: {text[:2000]}")


class Load:
    """Threads that send batch after batch until stopped, and keep every answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.statuses: Counter[int | str] = Counter()
        self.versions: Counter[str] = Counter()
        self.slowest = 0.0
        lines = list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 25_000))
        batches = [lines[begin : begin + BATCH] for begin in range(0, len(lines), BATCH)]
        # Sent again as they are they would be repeats, of which no model is asked.
        self._bodies = moved_on([(b"\n".join(batch), len(batch)) for batch in batches], DAY, 0)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, args=(i,)) for i in range(THREADS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self, number: int) -> None:
        with httpx.Client(base_url=self.url, trust_env=False, timeout=60) as client:
            while not self._stop.is_set():
                with self._lock:
                    body, _ = next(self._bodies)
                started = time.monotonic()
                try:
                    answer = client.post("/v1/score" if number else "/v1/audit", content=body)
                    status: int | str = answer.status_code
                except httpx.HTTPError as error:
                    status = repr(error)
                with self._lock:
                    self.slowest = max(self.slowest, time.monotonic() - started)
                    self.statuses[status] += 1
                    if status == 200 and number:
                        self.versions[answer.json()["model"]["version"]] += 1
                self._stop.wait(PAUSE)


def test_no_request_fails_while_models_come_and_go(served: str, registry: Registry, tmp_path: Path) -> None:
    wait_for(served, "/readyz", '"ready"')
    with Load(served) as load:
        second = registry.add(touchy)
        wait_for(served, "/metrics", r'kubehabit_events_total\{outcome="scored"\} [1-9]\d{3}')
        for version in (second, "1", second, "1", second):
            registry.set("champion", version)
            wait_for(served, "/readyz", f'"version":"{version}"')
        bad = registry.add(lying, alias="champion")
        answer = wait_for(served, "/readyz", f"Version {bad} was refused")
        assert f'"version":"{second}"' in answer
        registry.set("challenger", "1")
        registry.set("champion", second)
        # It gets what processor time is left: on a busy machine that may be none, and all it does is count what it missed.
        wait_for(served, "/v1/model", r'"challenger":\{.*"(scored|dropped)":[1-9]')
        registry.database.rename(tmp_path / "away")
        # Who was asking at that very moment finds an empty one: MLflow makes it of a name that is free.
        wait_for(served, "/readyz", "There is no model registry|The registry has no models")
        (tmp_path / "away").rename(registry.database)
        third = registry.add(alias="champion")
        wait_for(served, "/readyz", f'"version":"{third}","notice":null')
        with load._lock:
            before = load.versions[third]
        until = time.monotonic() + 60
        while load.versions[third] < before + 10 and time.monotonic() < until:
            time.sleep(0.05)
    metrics = wait_for(served, "/metrics", "kubehabit_model_swap_seconds")
    print(load.statuses, load.versions, f"slowest {load.slowest:.3f} s")
    print(*(line for line in metrics.splitlines() if "_model_" in line and line[0] != "#"), sep="\n")
    assert set(load.statuses) == {200}
    assert load.statuses[200] >= 200
    assert set(load.versions) == {"1", second, third}
    assert 'kubehabit_model_reload_total{result="swapped"} 6' in metrics
    assert 'kubehabit_model_reload_total{result="refused"} 1' in metrics
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "fails its self-test" in log
