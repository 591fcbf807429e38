"""The Open Inference Protocol over REST: its forms, as the specification has them, and the numbers of `/invocations` in them.

Specification: github.com/kserve/open-inference-protocol, `inference_rest.md` and `open_inference_rest.yaml`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.fields import FIELDS
from data.reader import open_lines
from serving.app import create_app
from serving.engine import Engine
from serving.load import load_engine
from serving.open_inference import Column, _tensors
from serving.plain_model import PlainModel
from serving.settings import Settings
from serving.tokens import create
from tests.conftest import RECORDINGS
from tests.serving.fakes import raw_event
from tests.serving.test_api import is_problem

EVENTS = [line.decode() for line in islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 9_700, 10_000)]
ODD = [EVENTS[0], "nonsense", EVENTS[0], "{}", EVENTS[1], ""]
NAME, VERSION = "kubehabit", "7"
MODEL = f"/v2/models/{NAME}"
TEXTS = ("auditID", "status", "reason", "principal", "severity")
DATATYPES = (
    dict.fromkeys(TEXTS, "BYTES")
    | {"surprise": "FP32", "evidence": "FP64", "flagged": "BOOL"}
    | {f"nll.{field}": "FP32" for field in FIELDS}
)


# -- the specification's schemas, by hand ------------------------------------------------------------------------


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    pass


class ServerMetadata(Strict):
    name: str
    version: str
    extensions: list[str]


class MetadataTensor(Strict):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Strict):
    name: str
    platform: str
    inputs: list[MetadataTensor]
    outputs: list[MetadataTensor]
    versions: list[str] | None = None


class ResponseOutput(Strict):
    name: str
    shape: list[int]
    datatype: str
    data: list[float | str | bool]  # no null
    parameters: dict[str, str | float | bool] | None = None


class InferenceResponse(Strict):
    model_name: str
    outputs: list[ResponseOutput]
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, str | float | bool] | None = None


class InferenceErrorResponse(msgspec.Struct):
    error: str


# -- the service -------------------------------------------------------------------------------------------------


def make_settings(folder: Path, **more: Any) -> Settings:
    return Settings(
        store={"url": "sqlite://"},
        journal={"path": folder / "journal"},
        state={"path": folder / "state"},
        dead_letters={"path": folder / "dead"},
        events={"path": folder / "events"},
        **more,
    )


def registered(engine: Engine) -> Engine:
    """As if its model had come from a registry."""
    loaded = engine.loaded
    assert loaded is not None
    told = {"name": NAME, "version": VERSION, "source": "registry"}
    engine.loaded = replace(loaded, model=loaded.model.model_copy(update=told))
    return engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("open-inference")


@pytest.fixture(scope="module")
def tokens(folder: Path) -> dict[str, str]:
    now = datetime.now(UTC)
    scopes: dict[str, Any] = {name: [name] for name in ("ingest", "read", "admin")}
    scopes["both"] = ["ingest", "read"]
    return {name: create(folder / "tokens.json", name, chosen, now=now)[1] for name, chosen in scopes.items()}


@pytest.fixture(scope="module")
def ours(tiny_bundle: Path, folder: Path, tokens: dict[str, str]) -> Iterator[TestClient]:
    """The service with a real, small model and tokens; the client has one that may ingest and read."""
    chosen = make_settings(
        folder, access={"tokens": folder / "tokens.json", "log": {"path": folder / "access.jsonl"}}
    )
    app = create_app(chosen, registered(load_engine(chosen, tiny_bundle)))
    headers = {"Authorization": f"Bearer {tokens['both']}"}
    with TestClient(
        app, base_url="http://127.0.0.1:8646", headers=headers, raise_server_exceptions=False
    ) as client:
        yield client


def request(texts: list[Any], **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "event", "shape": [len(texts)], "datatype": "BYTES", "data": texts}]} | more


def with_input(**change: Any) -> dict[str, Any]:
    whole = request(EVENTS[:2])
    whole["inputs"][0] |= change
    return {"inputs": [{key: value for key, value in whole["inputs"][0].items() if value is not ...}]}


def infer(client: TestClient, body: Any, path: str = MODEL, **more: Any) -> InferenceResponse:
    answer = client.post(f"{path}/infer", json=body, **more)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    return msgspec.json.decode(answer.content, type=InferenceResponse)


def is_refused(answer: Any, status: int, *words: str) -> None:
    """Both a problem of RFC 9457 and an error of the protocol."""
    is_problem(answer, status, *words)
    assert msgspec.json.decode(answer.content, type=InferenceErrorResponse).error == answer.json()["detail"]


# -- what it says ------------------------------------------------------------------------------------------------


def expected(row: dict[str, Any], name: str) -> Any:
    """What `/invocations` says of an event, and what stands for nothing."""
    if name.startswith("nll."):
        return row.get("nll", {}).get(name.removeprefix("nll."), -1)
    return row.get(name, "" if name in TEXTS else False if name == "flagged" else -1)


@pytest.mark.parametrize("texts", [EVENTS, ODD], ids=["recorded events", "what is no event"])
def test_each_column_of_invocations_is_a_tensor_with_equal_numbers(
    ours: TestClient, texts: list[str]
) -> None:
    rows = ours.post("/invocations", json={"inputs": texts}).json()["predictions"]
    answer = infer(ours, request(texts))
    assert (answer.model_name, answer.model_version, answer.id) == (NAME, VERSION, None)
    assert {tensor.name: tensor.datatype for tensor in answer.outputs} == DATATYPES
    for tensor in answer.outputs:
        assert tensor.shape == [len(texts)]
        assert tensor.data == [expected(row, tensor.name) for row in rows]
    statuses = {row["status"] for row in rows}
    assert {"scored", "folded" if texts is EVENTS else "rejected"} <= statuses


def test_every_element_is_of_its_tensors_datatype(ours: TestClient) -> None:
    texts = EVENTS[:40] + ODD
    for tensor in infer(ours, request(texts)).outputs:
        kinds = {"BYTES": str, "BOOL": bool, "FP32": float, "FP64": float}
        assert {type(element) for element in tensor.data} == {kinds[tensor.datatype]}
        if tensor.datatype == "FP32":
            assert np.array(tensor.data, np.float32).tolist() == tensor.data


def test_a_number_that_json_has_not_is_told_as_none() -> None:
    row = {"surprise": float("nan"), "evidence": float("inf"), "nll": {"verb": float("-inf")}}
    told = _tensors([row], ["surprise", "evidence", "nll.verb", "nll.resource", "flagged", "reason"])
    assert [tensor["data"] for tensor in told] == [[-1.0], [-1.0], [-1.0], [-1.0], [False], [""]]
    assert Column("FP32", ("surprise",)).value({"surprise": 0.0}) == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2, 1]},
        {"shape": [2, 1], "data": [[text] for text in EVENTS[:2]]},
        {"parameters": {"content_type": "str"}},
        {"parameters": None},
    ],
    ids=["a column, flat", "a column, nested", "with parameters", "null for nothing"],
)
def test_forms_of_the_same_tensor_are_answered_alike(ours: TestClient, change: dict[str, Any]) -> None:
    assert infer(ours, with_input(**change)) == infer(ours, request(EVENTS[:2]))


def test_compressed_bodies_and_those_without_a_type_are_read(ours: TestClient) -> None:
    body = json.dumps(request(EVENTS[:2])).encode()
    plain = ours.post(f"{MODEL}/infer", content=body)
    packed = ours.post(f"{MODEL}/infer", content=gzip.compress(body), headers={"content-encoding": "gzip"})
    assert msgspec.json.decode(plain.content, type=InferenceResponse) == infer(ours, request(EVENTS[:2]))
    assert packed.content == plain.content


def test_no_event_gives_tensors_of_no_element(ours: TestClient) -> None:
    for shape in ([0], [0, 1]):
        answer = infer(ours, {"inputs": [{"name": "event", "shape": shape, "datatype": "BYTES", "data": []}]})
        assert {(tuple(tensor.shape), tuple(tensor.data)) for tensor in answer.outputs} == {((0,), ())}
        assert len(answer.outputs) == len(DATATYPES)


def test_outputs_are_chosen_by_name_and_come_in_that_order(ours: TestClient) -> None:
    names = ["flagged", "nll.verb", "auditID"]
    chosen = [{"name": name, "parameters": {"binary_data": False}} for name in names]
    answer = infer(ours, request(EVENTS[:3], outputs=chosen))
    whole = {tensor.name: tensor for tensor in infer(ours, request(EVENTS[:3])).outputs}
    assert answer.outputs == [whole[name] for name in names]
    twice = infer(ours, request(EVENTS[:3], outputs=[{"name": "flagged"}, {"name": "flagged"}]))
    assert [tensor.name for tensor in twice.outputs] == ["flagged"]
    for every in (None, []):
        assert infer(ours, request(EVENTS[:3], outputs=every)).outputs == list(whole.values())


def test_the_id_comes_back_and_parameters_change_nothing(ours: TestClient) -> None:
    # Triton's Python client asks for all outputs in binary where none is named; the answer is JSON and says so.
    answer = infer(
        ours, request(EVENTS[:2], id="42", parameters={"binary_data_output": True, "a": 1, "b": "c"})
    )
    assert answer.id == "42"
    assert answer.outputs == infer(ours, request(EVENTS[:2])).outputs


def test_the_version_in_the_path_is_the_registered_one(ours: TestClient) -> None:
    path = f"{MODEL}/versions/{VERSION}"
    assert infer(ours, request(EVENTS[:2]), path) == infer(ours, request(EVENTS[:2]))


def test_it_teaches_the_service_nothing_and_answers_the_same_again(ours: TestClient) -> None:
    before = ours.get("/metrics").text
    assert infer(ours, request(EVENTS)) == infer(ours, request(EVENTS))
    after = ours.get("/metrics").text
    names = ("events", "alerts", "flagged", "computed_windows", "cached_windows")
    for name in (*(f"kubehabit_{one}_total" for one in names), "kubehabit_principals", "kubehabit_habits"):
        kept = [[line for line in text.splitlines() if line.startswith(name)] for text in (before, after)]
        assert kept[0] == kept[1]
        assert kept[0]
    assert ours.get("/v1/alerts").json()["alerts"] == []
    counts = ours.post("/v1/score", content="\n".join(EVENTS)).json()["counts"]
    assert counts["scored"] > 100, "the service has not seen them"


# -- what it is --------------------------------------------------------------------------------------------------


def test_the_server_says_what_it_is(ours: TestClient) -> None:
    for path in ("/v2", "/v2/"):
        told = msgspec.json.decode(ours.get(path, follow_redirects=False).content, type=ServerMetadata)
        assert told == ServerMetadata("kubehabit", version("kubehabit"), [])


def test_the_model_says_what_goes_in_and_what_comes_out(ours: TestClient) -> None:
    for path in (MODEL, f"{MODEL}/versions/{VERSION}"):
        told = msgspec.json.decode(ours.get(path).content, type=ModelMetadata)
        assert (told.name, told.versions, told.platform) == (NAME, [VERSION], "mlflow_pyfunc")
        assert told.inputs == [MetadataTensor("event", "BYTES", [-1])]
        assert {tensor.name: tensor.datatype for tensor in told.outputs} == DATATYPES
        assert {tuple(tensor.shape) for tensor in told.outputs} == {(-1,)}
    answered = infer(ours, request(EVENTS[:1])).outputs
    assert [(tensor.name, tensor.datatype) for tensor in answered] == [
        (tensor.name, tensor.datatype) for tensor in told.outputs
    ]


def test_probes_are_answered(ours: TestClient) -> None:
    assert ours.get("/v2/health/live").json() == {"live": True}
    assert ours.get("/v2/health/ready").json() == {"live": True, "ready": True}
    for path in (f"{MODEL}/ready", f"{MODEL}/versions/{VERSION}/ready"):
        assert ours.get(path).json() == {"name": NAME, "ready": True}


@pytest.mark.parametrize("end", ["", "/ready", "/infer"])
def test_another_name_or_version_is_not_found(ours: TestClient, end: str) -> None:
    method = "POST" if end == "/infer" else "GET"
    body = request(EVENTS[:1]) if end == "/infer" else None
    is_refused(ours.request(method, f"/v2/models/other{end}", json=body), 404, "'other'", "'kubehabit'")
    is_refused(
        ours.request(method, f"{MODEL}/versions/6{end}", json=body), 404, "'6'", "version '7' is served"
    )
    is_refused(ours.request(method, f"/v2/models/other/versions/7{end}", json=body), 404, "'other'")
    is_refused(ours.request(method, f"/v2/models/Kubehabit{end}", json=body), 404, "'Kubehabit'")


def test_a_model_from_a_folder_has_no_version(tiny_bundle: Path, tmp_path: Path) -> None:
    chosen = make_settings(tmp_path)
    with TestClient(
        create_app(chosen, load_engine(chosen, tiny_bundle)), base_url="http://127.0.0.1:8646"
    ) as client:
        path = f"/v2/models/{tiny_bundle.name}"
        assert "versions" not in client.get(path).json()
        assert infer(client, request(EVENTS[:1]), path).model_version is None
        is_refused(client.get(f"{path}/versions/-"), 404, "has no version")


def test_before_there_is_a_model_only_the_server_lives(make_client: Callable[..., TestClient]) -> None:
    client = make_client(with_engine=False)
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2").status_code == 200
    for path in ("/v2/health/ready", MODEL, f"{MODEL}/ready", f"{MODEL}/versions/1/ready"):
        is_refused(client.get(path), 503, "being loaded")
    is_refused(client.post(f"{MODEL}/infer", json=request(EVENTS[:1])), 503, "being loaded")


# -- what it refuses ---------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Any, str]] = {
    "a list": ([], "inference request"),
    "null": (None, "inference request"),
    "no inputs": ({}, "inputs"),
    "an empty list of inputs": ({"inputs": []}, "one input, 'event'"),
    "another input": (with_input(name="text"), "one input, 'event'"),
    "two inputs": ({"inputs": 2 * request(EVENTS[:1])["inputs"]}, "one input, 'event'"),
    "no name": (with_input(name=...), "name"),
    "no shape": (with_input(shape=...), "shape"),
    "no datatype": (with_input(datatype=...), "datatype"),
    "no data": (with_input(data=...), "no 'data'"),
    "another datatype": (with_input(datatype="FP32", data=[1.0, 2.0]), "BYTES"),
    "the data of another datatype": (with_input(data=[1.0, 2.0]), "Element 0"),
    "an event that is no text": (with_input(data=[EVENTS[0], json.loads(EVENTS[0])]), "Element 1"),
    "null for an event": (with_input(data=[EVENTS[0], None]), "Element 1"),
    "more than the shape": (with_input(shape=[1]), "2 elements"),
    "less than the shape": (with_input(shape=[3]), "2 elements"),
    "a negative shape": (with_input(shape=[-1]), "2 elements"),
    "no dimension": (with_input(shape=[]), "[n] or [n, 1]"),
    "a row": (with_input(shape=[1, 2]), "[n] or [n, 1]"),
    "three dimensions": (with_input(shape=[2, 1, 1]), "[n] or [n, 1]"),
    "a shape in fractions": (with_input(shape=[2.5]), "shape"),
    "nested data of one dimension": (with_input(data=[[text] for text in EVENTS[:2]]), "Element 0"),
    "rows of two": (with_input(shape=[1, 1], data=[EVENTS[:2]]), "Element 0"),
    "half nested": (with_input(shape=[2, 1], data=[[EVENTS[0]], EVENTS[1]]), "Element 0"),
    "a text for data": (with_input(data=EVENTS[0]), "data"),
    "an output there is not": (request(EVENTS[:1], outputs=[{"name": "score"}]), "'score'"),
    "an output without a name": (request(EVENTS[:1], outputs=[{}]), "name"),
    "a number for an id": (request(EVENTS[:1], id=42), "id"),
    "parameters that are none": (request(EVENTS[:1], parameters=[1]), "parameters"),
    "binary data": (with_input(data=..., parameters={"binary_data_size": 12}), "binary_data=False"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_request_for_this_model_is_refused_with_a_sentence(ours: TestClient, name: str) -> None:
    body, word = BAD[name]
    is_refused(ours.post(f"{MODEL}/infer", json=body), 400, word)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b'{"inputs":"\xff"}', {}, 400),
        (b'{"inputs":[{"name":"event","shape":[1],"datatype":"BYTES","data":["\\ud800"]}]}', {}, 400),
        (b'{"inputs":[{"name":"event","shape":[1],"datatype":"BYTES","data":' + b"[" * 100_000, {}, 400),
        (b"{}\x01\x00\x00\x00a", {"inference-header-content-length": "2"}, 400),
        (b"{}", {"content-encoding": "br"}, 415),
        (b"{}", {"content-encoding": "gzip"}, 400),
        (b" " * (20 << 20), {}, 413),
    ],
    ids=["cut off", "no UTF-8", "half a character", "deep", "binary", "brotli", "no gzip", "large"],
)
def test_other_bodies_are_refused(
    ours: TestClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    is_refused(ours.post(f"{MODEL}/infer", content=content, headers=headers), status)


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(EVENTS[0])),
    lambda inner: st.lists(inner, max_size=3),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {
            "name": st.just("event") | _JSON,
            "shape": st.just([1]) | _JSON,
            "datatype": st.just("BYTES") | _JSON,
        },
        optional={"data": _JSON, "parameters": _JSON},
    ),
    st.none() | _JSON,
)
def test_no_json_makes_it_fail(ours: TestClient, sent: Any, wanted: Any) -> None:
    body = json.dumps({"inputs": [sent], "outputs": wanted})
    answer = ours.post(f"{MODEL}/infer", content=body)
    assert answer.status_code in (200, 400), answer.text


def test_too_many_that_wait_are_told_to_come_again(ours: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.plain_model._WAITING", 0)
    for path, body in ((f"{MODEL}/infer", request(EVENTS[:1])), ("/invocations", {"inputs": EVENTS[:1]})):
        answer = ours.post(path, json=body)
        is_problem(answer, 503, "Too many")
        assert answer.headers["retry-after"] == "1"


def test_what_fails_here_is_an_error_of_the_protocol_too(
    ours: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(PlainModel, "ask", fail)
    is_refused(ours.post(f"{MODEL}/infer", json=request(EVENTS[:1])), 500, "defect")


def test_other_routes_have_no_error_member(ours: TestClient) -> None:
    for path in ("/v1/alerts/none", "/v20", "/nowhere"):
        assert "error" not in ours.get(path).json()
    is_refused(ours.get("/v2/nowhere"), 404, "nothing at this path")
    is_refused(ours.delete(MODEL), 405)


# -- access ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v2", "read"),
        ("GET", "/v2/", "read"),
        ("GET", MODEL, "read"),
        ("GET", f"{MODEL}/versions/{VERSION}", "read"),
        ("POST", f"{MODEL}/infer", "ingest"),
        ("POST", f"{MODEL}/versions/{VERSION}/infer", "ingest"),
    ],
)
def test_each_route_asks_for_its_scope(
    ours: TestClient, tokens: dict[str, str], method: str, path: str, scope: str
) -> None:
    body = request(EVENTS[:1]) if method == "POST" else None
    for held in ("ingest", "read", "admin"):
        answer = ours.request(method, path, json=body, headers={"Authorization": f"Bearer {tokens[held]}"})
        if held == scope:
            assert answer.status_code == 200
        else:
            is_refused(answer, 403, f"the scope '{scope}'")
    is_refused(ours.request(method, path, json=body, headers={"Authorization": "Bearer wrong"}), 401, "token")


def test_probes_need_no_token_and_are_not_in_the_log_of_access(ours: TestClient, folder: Path) -> None:
    stranger = TestClient(ours.app, base_url="http://127.0.0.1:8646")
    for path in (
        *("/v2/health/live", "/v2/health/ready", f"{MODEL}/ready", f"{MODEL}/versions/{VERSION}/ready"),
        *("/v2", MODEL, f"{MODEL}/versions/{VERSION}"),
    ):
        assert stranger.get(path).status_code == (
            200 if "/health/" in path or path.endswith("/ready") else 401
        )
    assert infer(ours, request(EVENTS[:1]))
    noted = [json.loads(line) for line in (folder / "access.jsonl").read_text().splitlines()]
    routes = {entry["route"] for entry in noted if entry["status"] < 400}
    assert "/v2/models/{name}/infer" in routes
    assert not [route for route in routes if "ready" in route or "health" in route]


# -- the description ---------------------------------------------------------------------------------------------


def test_the_examples_of_the_description_are_scored(ours: TestClient) -> None:
    api = ours.get("/openapi.json").json()
    route = api["paths"]["/v2/models/{name}/infer"]["post"]
    assert route["security"] == [{"token": ["ingest"]}]
    examples = route["requestBody"]["content"]["application/json"]["examples"]
    assert len(examples) == 2
    for example in examples.values():
        told = {tensor.name: tensor.data for tensor in infer(ours, example["value"]).outputs}
        assert told["status"] == ["scored"]
    schema = api["components"]["schemas"]["Inference"]
    assert schema["required"] == ["model_name", "outputs"]
    problem = route["responses"]["4XX"]["content"]["application/problem+json"]["schema"]
    assert "error" in problem["required"]


def test_a_raw_event_of_the_service_is_understood(ours: TestClient) -> None:
    (tensor,) = infer(ours, request([json.dumps(raw_event())], outputs=[{"name": "status"}])).outputs
    assert tensor.data == ["scored"]
