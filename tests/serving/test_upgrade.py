"""A home written by an earlier release goes on where it stopped: `fixtures/home-d7df1a5` was killed while it served events."""

from __future__ import annotations

import json
import tarfile
from itertools import islice
from pathlib import Path

import httpx
import pytest

from data.events.reader import open_lines
from serving.forensics.verify import verify
from tests.conftest import RECORDINGS, ROOT
from tests.serving.scoring.test_restart import Service

pytestmark = pytest.mark.slow


def test_a_home_of_an_earlier_release_goes_on_with_the_same_verdicts(
    registered_before: Path, tmp_path: Path
) -> None:
    with tarfile.open(ROOT / "tests" / "fixtures" / "home-d7df1a5.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    home = tmp_path / "home"
    # What the earlier release answered to the next events, and the alerts that it had then.
    expected = json.loads((home / "expected.json").read_text())
    service = Service(registered_before / "data" / "bundle", home, KUBEHABIT_ALERTS__THRESHOLD_SCALE="0.3")
    service.start()
    try:
        lines = list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 2_000, 2_400))
        answer = httpx.post(service.url + "/v1/score", content=b"\n".join(lines), trust_env=False, timeout=60)
        alerts = service.get("/v1/alerts?limit=500").json()["alerts"]
        kept = service.get("/v1/events?limit=1&order=oldest").json()["events"]
    finally:
        service.kill(15)

    before, now = expected["results"], answer.json()["results"]
    assert [one["status"] for one in now] == [one["status"] for one in before]
    for old, new in zip(before, now, strict=True):
        for key in ("auditID", "principal", "flagged", "severity"):
            assert new.get(key) == old.get(key)
        # Another processor may round differently.
        assert new.get("surprise", 0.0) == pytest.approx(old.get("surprise", 0.0), rel=1e-4, abs=1e-4)
        assert new.get("evidence", 0.0) == pytest.approx(old.get("evidence", 0.0), rel=1e-3, abs=1e-3)
    found = sorted([one["id"], one["principal"], one["severity"], one["actionCount"]] for one in alerts)
    assert found == expected["alerts"]
    assert kept
    report = verify(home / "events")
    assert report.is_sound, report
