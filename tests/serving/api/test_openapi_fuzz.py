"""Calls generated from the OpenAPI document: each is answered with a status that the document has, and none with a 5xx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.actions.fields import FIELDS
from serving.alerts.explain.explainer import Explainer
from serving.app import create_app
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from tests.serving.conftest import model_info
from tests.serving.fakes import FakeDetector, secret_event

pytestmark = pytest.mark.slow

#: Does not end by itself.
_STREAM = "/v1/alerts/stream"

_number = st.one_of(
    st.integers(), st.floats(), st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**19, 10**400])
)
_text = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["", "\0", "%", "_", "'", "\\", "a" * 3000, "null", "7d", "999999w", "9999-12-31T23:59:59-23:59"]
    ),
    _number.map(str),
)
_value = st.recursive(
    st.one_of(st.none(), st.booleans(), _number, _text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_text, inner, max_size=3)),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, explainer: Explainer) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("fuzz")
    store = AlertStore("sqlite://", retention_days=90, max_alerts=1000)
    engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBEHABIT_HOME", str(home))
        patch.setattr("serving.forensics.parquet_writer._answer_of_process", _written_here)
        app = create_app(
            Settings(limits={"body_mb": 0.1}, access={"rates": {"requests_per_second": 1e6}}), engine
        )
        with TestClient(app, base_url="http://127.0.0.1:8646", raise_server_exceptions=False) as opened:
            opened.post(
                "/v1/score", json=[secret_event(number, user=f"user-{number}") for number in range(5)]
            )
            yield opened


def _written_here(request: dict[str, Any]) -> dict[str, Any]:
    from serving.forensics import parquet_writer

    return parquet_writer.answer(request)


def value_for(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Mostly what a schema allows, sometimes anything."""
    choices: list[Any] = [choice for one in schema.get("anyOf", [schema]) for choice in one.get("enum", [])]
    fitting = [st.sampled_from(choices)] if choices else []
    kinds = {one.get("type") for one in schema.get("anyOf", [schema])}
    if kinds & {"integer", "number"}:
        fitting.append(st.integers(1, 400))
    if "boolean" in kinds:
        fitting.append(st.booleans())
    return st.one_of(*fitting, _text)


@st.composite
def call(draw: st.DrawFn, method: str, path: str, operation: dict[str, Any]) -> dict[str, Any]:
    query: dict[str, Any] = {}
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            known = st.sampled_from(["user-1", "alice@corp", "system:serviceaccount:web:ci"])
            name = "{" + parameter["name"] + "}"
            path = path.replace(name, _quoted(draw(st.one_of(known, _text))))
        elif parameter["in"] == "query" and draw(st.booleans()):
            query[parameter["name"]] = draw(value_for(parameter.get("schema", {})))
    if draw(st.integers(0, 9)) == 0:
        query[draw(_text)] = draw(_text)
    request: dict[str, Any] = {"method": method.upper(), "url": path, "params": query}
    if method == "post":
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        names = list(content.get("schema", {}).get("properties", {})) or ["kind", "items"]
        bodies = st.dictionaries(st.sampled_from(names), _value, max_size=len(names))
        request |= draw(
            st.one_of(
                st.one_of(bodies, _value).map(lambda body: {"content": _json(body)}),
                st.binary(max_size=200).map(lambda body: {"content": body}),
            )
        )
        encoding = draw(st.sampled_from(["", "", "", "gzip", "zstd", "br", "\x7f"]))
        request["headers"] = {"Content-Encoding": encoding} if encoding else {}
    return request


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "replace"), safe="") or "x"


def _json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "replace")


def test_no_generated_call_is_a_5xx_or_undocumented(client: TestClient) -> None:
    described = client.app.openapi()  # type: ignore[attr-defined]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            if path != _STREAM:
                fuzz(client, method, path, operation)


def fuzz(client: TestClient, method: str, path: str, operation: dict[str, Any]) -> None:
    documented = {status.removesuffix("XX") for status in operation["responses"]}

    @settings(
        max_examples=20,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(call(method, path, operation))
    def check(request: dict[str, Any]) -> None:
        answer = client.request(**request)
        status = str(answer.status_code)
        assert status < "500", (request, answer.text)
        assert documented & {status, status[0]}, (request, status)
        if status >= "400":
            assert answer.headers["content-type"] == "application/problem+json"

    check()
