"""Looking into a log: the figures are right, what is missing is named with what it costs, and nothing is changed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from data.errors import KubehabitError
from data.reports.log_summary import BoundedCounter, Inspection, inspect
from kubehabit.main import app
from tests.data import envelopes
from tests.data.samples import event


def write(tmp_path: Path, *lines: bytes) -> Path:
    log = tmp_path / "audit.log"
    log.write_bytes(b"\n".join(lines) + b"\n")
    return log


def sample(**changes: Any) -> bytes:
    return event(**changes)


def binding(**changes: Any) -> bytes:
    where = {
        "apiGroup": "rbac.authorization.k8s.io",
        "resource": "rolebindings",
        "namespace": "web",
        "name": "x",
    }
    return event(verb="create", objectRef=where | {"apiVersion": "v1"}, **changes)


def text_of(found: Inspection, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(found.screen())
    return out.getvalue()


def test_a_recording_is_summed_up(tmp_path: Path, labelled_lines: list[bytes]) -> None:
    log = write(tmp_path, *labelled_lines)
    found = inspect([log])
    figures = found.to_dict()
    raw = [json.loads(line) for line in labelled_lines]
    assert figures["events"] == len(raw)
    assert figures["formats"] == {"native": len(raw)}
    assert figures["verbs"]["get"] == sum(e["verb"] == "get" for e in raw)
    assert figures["codes"]["409"] == sum(e["responseStatus"]["code"] == 409 for e in raw)
    assert figures["levels"] == {
        level: sum(e["level"] == level for e in raw) for level in ("Metadata", "Request")
    }
    assert sum(figures["principals"].values()) == len({e["user"].get("username", "") for e in raw})
    assert figures["first"] == min(e["requestReceivedTimestamp"] for e in raw)[:19] + "Z"
    assert figures["last"] == max(e["requestReceivedTimestamp"] for e in raw)[:19] + "Z"
    assert figures["dead_letters"] == 0
    assert not any("request body" in lack["what"] for lack in figures["lacks"])


def test_the_screen_fits_and_shows_names_as_they_are(tmp_path: Path) -> None:
    long = "system:serviceaccount:observability-and-more:a-very-long-name-indeed"
    log = write(tmp_path, sample(user={"username": "[red]eve[/red]"}), sample(user={"username": long}))
    shown = text_of(inspect([log]))
    assert "[red]eve[/red]" in shown
    assert "a-very-long-name-indeed" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert len(shown.splitlines()) < 40


def test_writes_without_bodies_name_the_detections_that_suffer(tmp_path: Path) -> None:
    found = inspect([write(tmp_path, *[binding()] * 3, binding(requestObject={"roleRef": {"name": "view"}}))])
    (lack,) = [lack for lack in found.lacks() if "role bindings" in lack.what]
    assert lack.what.startswith("3 of 4 writes")
    assert "cluster-admin" in lack.suffers
    assert "level Request" in lack.remedy
    assert "3 of 4 writes" in text_of(found)


def test_a_complete_log_lacks_nothing(tmp_path: Path) -> None:
    secret = {"resource": "secrets", "namespace": "web", "name": "s", "apiVersion": "v1"}
    found = inspect([write(tmp_path, binding(requestObject={"a": 1}), sample(objectRef=secret))])
    assert found.lacks() == []
    assert "tells everything" in text_of(found)


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([binding(requestObject={"a": 1})], "no get, list or watch"),
        ([sample()], "no read of a Secret"),
        ([sample(stage="RequestReceived")], "only the stage RequestReceived"),
        ([sample(annotations={})], "no authorization decision"),
        ([sample(userAgent="")], "no user agent"),
        ([sample(sourceIPs=[])], "no client address"),
        ([sample(user={"username": "a"})], "no groups"),
        (
            [
                sample(
                    verb="update",
                    objectRef={"resource": "secrets"},
                    requestObject={"data": {"a": "c2VjcmV0"}},
                )
            ],
            "carry their contents",
        ),
    ],
)
def test_each_lack_is_found(tmp_path: Path, lines: list[bytes], what: str) -> None:
    found = inspect([write(tmp_path, *lines)])
    assert any(what in lack.what for lack in found.lacks())
    assert "c2VjcmV0" not in json.dumps(found.to_dict())


def test_the_summary_names_formats_clusters_and_what_was_left_out(tmp_path: Path) -> None:
    one = json.loads(event())
    records = [
        envelopes.dumps(envelopes.gke_entry(one)),
        envelopes.dumps(envelopes.aks_record(one, "guard") | {"properties": {"log": "no audit event"}}),
        b"{broken",
        b"\xff\xfe",
    ]
    figures = inspect([write(tmp_path, event(), *records)]).to_dict()
    assert figures["formats"] == {"native": 1, "GKE": 1, "AKS": 1}
    assert figures["clusters"] == {"example-project/europe-west1/shop": 1}
    assert figures["skipped"] == {"Azure record that is not of kube-audit": 1}
    assert figures["dead_letter_reasons"] == {"not JSON": 2}
    assert ":4: not JSON" in figures["dead_letter_examples"]["not JSON"]
    assert {path.name for path in tmp_path.iterdir()} == {"audit.log"}  # no dead-letter file is written


def test_a_log_without_events_says_what_was_found_instead(tmp_path: Path) -> None:
    with pytest.raises(KubehabitError, match=r"docs/sources\.md"):
        inspect([write(tmp_path, b"hello", b"world")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(KubehabitError, match="holds no file"):
        inspect([tmp_path / "empty"])
    missing = CliRunner().invoke(app, ["data", "inspect", str(tmp_path / "nowhere")])
    assert missing.exit_code == 2
    assert "Check the path" in missing.output


def test_counting_stays_in_bounds_and_says_when_it_is_no_longer_exact() -> None:
    tally = BoundedCounter(limit=100)
    for start in range(0, 1000, 10):
        tally.update([*(f"rare-{i}" for i in range(start, start + 10)), "often", "often"])
    assert len(tally.counts) <= 110
    assert not tally.exact
    assert tally.top(1) == [("often", 200)]


def test_the_command_prints_a_screen_or_json(tmp_path: Path) -> None:
    log = write(tmp_path, event(), b"{broken")
    shown = CliRunner().invoke(app, ["data", "inspect", str(log)])
    assert shown.exit_code == 0
    assert "1 records could not be read" in shown.output
    printed = CliRunner().invoke(app, ["data", "inspect", str(tmp_path), "--json"])
    assert printed.exit_code == 0
    assert json.loads(printed.output)["events"] == 1


def test_standard_input_is_inspected() -> None:
    found = CliRunner().invoke(
        app, ["data", "inspect", "-", "--json"], input=event() + b"\n" + event() + b"\n"
    )
    assert found.exit_code == 0
    assert json.loads(found.output)["events"] == 2
