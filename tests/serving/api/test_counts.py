"""Every record of a body is counted once, in the answer and in the metrics, whatever is in it."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from fastapi.testclient import TestClient

from tests.data.events.formats.cases import FOLDER
from tests.data.events.formats.shapes import KLOG, SHAPES
from tests.serving.conftest import settle
from tests.serving.fakes import ndjson, raw_event, secret_event

OUTCOMES = ("scored", "folded", "repeated", "rejected", "skipped")
BODIES = {
    **{name: (FOLDER / name).read_bytes() for name in ("19-rosa-cloudwatch-subscription.json", "63-pretty-one-event.json")},
    **{name: (FOLDER / name).read_bytes() for name in ("83-mixed-native-and-other-streams.jsonl", "81-eks-export-lines.log")},
    **{name: (FOLDER / name).read_bytes() for name in ("46-node-log-prefix.log", "70-must-gather.tar.gz")},
    **{name: SHAPES[name].content for name in ("loki push with a line of another program", "prose, then a document")},
    "every kind": ndjson([raw_event(0), raw_event(0, stage="ResponseStarted"), raw_event(0), secret_event(1)])
    + b"\n{broken\n"
    + json.dumps({"log": KLOG}).encode(),
}  # fmt: skip


def metric(client: TestClient, name: str) -> float:
    values = dict(
        line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#")
    )
    return float(values.get(name, 0))


def counted(client: TestClient) -> Counter[str]:
    return Counter(
        {name: int(metric(client, f'kubehabit_events_total{{outcome="{name}"}}')) for name in OUTCOMES}
    )


@pytest.mark.parametrize("name", BODIES)
def test_the_counts_of_an_answer_add_up_and_are_those_of_the_metrics(client: TestClient, name: str) -> None:
    before = counted(client)
    answer = client.post("/v1/score", content=BODIES[name])
    assert answer.status_code == 200, answer.text
    counts = answer.json()["counts"]
    assert counts["records"] == sum(counts[outcome] for outcome in OUTCOMES) > 0
    assert Counter(result["status"] for result in answer.json()["results"]) == Counter(
        {outcome: counts[outcome] for outcome in OUTCOMES if outcome != "skipped" and counts[outcome]}
    )
    assert sum(answer.json()["skipped"].values()) == counts["skipped"]
    settle(client)
    after = counted(client)
    assert {outcome: after[outcome] - before[outcome] for outcome in OUTCOMES} == {
        o: counts[o] for o in OUTCOMES
    }
    for reason, records in answer.json()["skipped"].items():
        assert metric(client, f'kubehabit_skipped_records_total{{reason="{reason}"}}') == records


def test_every_kind_of_record_has_its_own_count(client: TestClient) -> None:
    counts = client.post("/v1/score", content=BODIES["every kind"]).json()["counts"]
    assert counts == {
        "records": 6, "scored": 2, "folded": 1, "repeated": 1, "rejected": 1, "skipped": 1, "flagged": 1,
    }  # fmt: skip


def test_a_webhook_learns_what_was_kept_and_sending_it_again_counts_as_repeats(client: TestClient) -> None:
    body = BODIES["every kind"]
    for _ in range(2):
        answer = client.post("/v1/audit", content=body).json()
        assert answer["counts"] == {"records": 6, "accepted": 4, "rejected": 1, "skipped": 1}
        assert answer["skipped"] == {"line of another program's log": 1}
        settle(client)
    assert counted(client) == {"scored": 2, "folded": 1, "repeated": 5, "rejected": 2, "skipped": 2}


def test_a_body_in_which_every_record_is_skipped_says_so(client: TestClient) -> None:
    answer = client.post("/v1/score", json=[{"log": KLOG}, {"log": KLOG}]).json()
    assert (answer["counts"]["records"], answer["counts"]["skipped"], answer["results"]) == (2, 2, [])
