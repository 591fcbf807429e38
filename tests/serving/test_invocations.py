"""The plain model over HTTP gives what MLflow's own scoring server gives for the same model and the same request."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.reader import open_lines
from serving.app import create_app
from serving.load import load_engine
from serving.settings import Settings
from tests.conftest import RECORDINGS, Trained

EVENTS = [line.decode() for line in islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 9_700, 10_000)]


@pytest.fixture(scope="module")
def mlflow_server(trained: Trained) -> TestClient:
    """MLflow's scoring server with the trained model."""
    import mlflow
    from mlflow.pyfunc import scoring_server

    uri = f"sqlite:///{trained.home / 'mlflow.db'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        source = client.get_model_version("kubehabit", trained.version).source
        mlflow.set_tracking_uri(uri)
        try:
            model = mlflow.pyfunc.load_model(source)
        finally:
            mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        with pytest.MonkeyPatch.context() as patch:  # it leaves a mark in the environment
            patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
            return TestClient(scoring_server.init(model))


@pytest.fixture(scope="module")
def ours(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("invocations")
    chosen = Settings(
        store={"url": "sqlite://"},
        journal={"path": folder / "journal"},
        state={"path": folder / "state"},
        dead_letters={"path": folder / "dead"},
        events={"path": folder / "events"},
    )
    app = create_app(chosen, load_engine(chosen, tiny_bundle))
    with TestClient(app, base_url="http://127.0.0.1:8646", raise_server_exceptions=False) as client:
        yield client


def table(texts: list[Any]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["event", "more"])
    writer.writerows([text, 1] for text in texts)
    return out.getvalue()


def records(texts: list[Any]) -> list[dict[str, Any]]:
    return [{"event": text} for text in texts]


GOOD: dict[str, Any] = {
    "dataframe_split": {"dataframe_split": {"columns": ["event"], "data": [[text] for text in EVENTS]}},
    "split with an index and another column": {
        "dataframe_split": {
            "index": list(range(5, 305)),
            "columns": ["x", "event"],
            "data": [[1, text] for text in EVENTS],
        }
    },
    "dataframe_records": {"dataframe_records": records(EVENTS)},
    "records with another field": {"dataframe_records": [{"event": text, "x": 2} for text in EVENTS]},
    "instances, records": {"instances": records(EVENTS)},
    "instances, a list": {"instances": EVENTS},
    "inputs, columns": {"inputs": {"event": EVENTS}},
    "inputs, one": {"inputs": {"event": EVENTS[0]}},
    "inputs, records": {"inputs": records(EVENTS)},
    "inputs, a list": {"inputs": EVENTS},
    "with params": {"dataframe_records": records(EVENTS[:1]), "params": {"a": 1}},
    "what is no event": {"inputs": [EVENTS[0], "nonsense", EVENTS[0], "{}", EVENTS[1]]},
    "what is no text": {"dataframe_records": records([3])},
    "null": {"dataframe_records": records([None])},
    "an event that is no text": {"dataframe_records": records([json.loads(EVENTS[0])])},
}
BAD: dict[str, Any] = {
    "no column": {"dataframe_split": {"columns": ["x"], "data": [["1"]]}},
    "a bare text": {"inputs": EVENTS[0]},
    "nothing": {"dataframe_records": []},
    "two formats": {"inputs": EVENTS, "instances": EVENTS},
    "none": {"x": 1},
    "a list": EVENTS,
}


@pytest.mark.parametrize("name", GOOD)
def test_every_format_gives_what_mlflow_gives(ours: TestClient, mlflow_server: TestClient, name: str) -> None:
    answers = [client.post("/invocations", json=GOOD[name]) for client in (mlflow_server, ours)]
    assert [answer.status_code for answer in answers] == [200, 200]
    expected, got = (answer.json()["predictions"] for answer in answers)
    assert [row["status"] for row in got] == [row["status"] for row in expected]
    for mine, theirs in zip(got, expected, strict=True):
        numbers = {"surprise", "evidence", "nll"}
        assert {k: v for k, v in mine.items() if k not in numbers} == {
            k: v for k, v in theirs.items() if k not in numbers
        }
        if mine["status"] == "scored":
            assert mine["nll"] == pytest.approx(theirs["nll"], abs=1e-5)
            assert mine["evidence"] == pytest.approx(theirs["evidence"], abs=1e-5)
    if len(got) > 100:
        assert sum(row["status"] == "scored" for row in got) > 100


def test_csv_is_read_as_mlflow_reads_it(ours: TestClient, mlflow_server: TestClient) -> None:
    headers = {"content-type": "text/csv; charset=utf-8"}
    expected, got = (
        client.post("/invocations", content=table(EVENTS[:20]), headers=headers).json()["predictions"]
        for client in (mlflow_server, ours)
    )
    assert [row["auditID"] for row in got] == [row["auditID"] for row in expected]
    assert {row["status"] for row in got} == {"scored"}


@pytest.mark.parametrize("name", BAD)
def test_what_mlflow_refuses_is_refused_with_a_sentence(
    ours: TestClient, mlflow_server: TestClient, name: str
) -> None:
    assert mlflow_server.post("/invocations", json=BAD[name]).status_code == 400
    answer = ours.post("/invocations", json=BAD[name])
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert "event" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe", "text/csv", 400),
        (b"x\n1\n", "text/csv", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/vnd.apache.parquet", 415),
        (b"{}", "application/json; charset=latin1", 415),
        (b"[" * 100_000, "application/json", 400),
    ],
)
def test_other_bodies_are_refused(ours: TestClient, content: bytes, kind: str, status: int) -> None:
    assert ours.post("/invocations", content=content, headers={"content-type": kind}).status_code == status


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=8), st.just(EVENTS[0])),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["event", "columns", "data", "inputs", "instances", "dataframe_split", "x"]),
                inner,
                max_size=3,
            ),
        ),
    )
)
def test_no_json_makes_it_fail(ours: TestClient, sent: Any) -> None:
    body = json.dumps({"inputs": sent}) if not isinstance(sent, dict) else json.dumps(sent)
    answer = ours.post("/invocations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400)


def test_it_teaches_the_service_nothing_and_answers_the_same_again(ours: TestClient) -> None:
    body = {"inputs": EVENTS}
    before = ours.get("/metrics").text
    first, again = (ours.post("/invocations", json=body).json() for _ in range(2))
    assert first == again
    after = ours.get("/metrics").text
    for name in ("kubehabit_events_total", "kubehabit_alerts_total", "kubehabit_flagged_total"):
        kept = [[line for line in text.splitlines() if line.startswith(name)] for text in (before, after)]
        assert kept[0] == kept[1]
    counts = ours.post("/v1/score", content="\n".join(EVENTS)).json()["counts"]
    assert counts["scored"] > 100, "the service has not seen them"


def test_the_examples_of_the_description_are_scored(ours: TestClient) -> None:
    api = ours.get("/openapi.json").json()
    content = api["paths"]["/invocations"]["post"]["requestBody"]["content"]
    examples = content["application/json"]["examples"]
    assert len(examples) == 4
    for example in examples.values():
        (row,) = ours.post("/invocations", json=example["value"]).json()["predictions"]
        assert row["status"] == "scored"


def test_health_and_version_are_told_as_mlflow_does(ours: TestClient, mlflow_server: TestClient) -> None:
    for path in ("/ping", "/health", "/version"):
        answers = [client.get(path) for client in (mlflow_server, ours)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].text == answers[1].text
