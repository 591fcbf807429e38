"""The plain model as MLflow's own scoring server serves it: `/invocations`, `/ping`, `/health`, `/version`.

What is sent here is scored from the habits in the bundle alone, as `mlflow.pyfunc` would: it teaches the service nothing, raises
no alert, and equal input gives equal output. Inputs are read without pandas; the signature is one column, `event`, of JSON text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from serving.engine import Loaded
from serving.plain_model import COLUMN, EXAMPLE, PlainModel, predict
from serving.problems import ProblemError

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_SHAPE = 'Send {"dataframe_records": [{"event": "<an audit event as JSON text>"}, …]}, or one of the other formats of MLflow.'


def read_events(body: bytes, content_type: str) -> list[Any]:
    """The column `event` of a request to `/invocations`.

    Args:
        body: as sent.
        content_type: `application/json` or `text/csv`, in UTF-8.

    Raises:
        ProblemError: 415 for another type, 400 for a body that is none of the formats or lacks the column.
    """
    kind, *parameters = (part.strip() for part in content_type.lower().split(";"))
    if any(parameter.replace('"', "") != "charset=utf-8" for parameter in parameters):
        raise ProblemError(415, "Only UTF-8 is read here, and no parameter but charset.")
    if kind == "text/csv":
        return _from_csv(body)
    if kind != "application/json":
        raise ProblemError(415, "Send application/json or text/csv, and say so in Content-Type.")
    try:
        sent = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(400, f"The body is not JSON ({error}). {_SHAPE}") from error
    if not isinstance(sent, dict) or len(found := [name for name in FORMATS if name in sent]) != 1:
        raise ProblemError(400, f"The body must have exactly one of {', '.join(FORMATS)}. {_SHAPE}")
    values = _values(found[0], sent[found[0]])
    if not values:
        raise ProblemError(400, f"There is no column '{COLUMN}' in {found[0]}, or it is empty. {_SHAPE}")
    return values


def _values(form: str, given: Any) -> list[Any] | None:
    if form == "dataframe_split":
        return _from_split(given)
    if isinstance(given, dict) and form == "inputs":
        column = given.get(COLUMN)
        return column if isinstance(column, list) else None if column is None else [column]
    if not isinstance(given, list) or not given:
        return None
    if all(isinstance(row, dict) for row in given):
        return [row.get(COLUMN) for row in given] if any(COLUMN in row for row in given) else None
    # A bare list is the one column; a table of records has to name it.
    return given if form != "dataframe_records" and not any(isinstance(row, dict) for row in given) else None


def _from_split(given: Any) -> list[Any] | None:
    if not isinstance(given, dict):
        return None
    columns, rows = given.get("columns"), given.get("data")
    if not isinstance(columns, list) or not isinstance(rows, list) or COLUMN not in columns:
        return None
    place = columns.index(COLUMN)
    if not all(isinstance(row, list) and len(row) == len(columns) for row in rows):
        return None
    return [row[place] for row in rows]


def _from_csv(body: bytes) -> list[Any]:
    csv.field_size_limit(max(len(body), csv.field_size_limit()))
    try:
        rows = list(csv.DictReader(io.StringIO(body.decode("utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ProblemError(
            400, f"The body is not CSV in UTF-8 ({error}). Its first line names the columns."
        ) from error
    if not rows or COLUMN not in rows[0]:
        raise ProblemError(
            400, f"The CSV has no column '{COLUMN}', or no row. Its first line names the columns."
        )
    return [row[COLUMN] for row in rows]


def install(app: FastAPI, plain: PlainModel) -> None:
    """Add the routes."""

    @app.post(
        "/invocations",
        tags=["model"],
        response_model=dict[str, list[dict[str, Any]]],
        openapi_extra=_request_body(),
    )
    async def invocations(request: Request) -> Response:
        """Score events with the plain model, as MLflow's scoring server does.

        Each request starts from the habits in the bundle and leaves nothing behind: no alert, no journal, no state.
        """
        work = partial(_answer, plain.loaded(), request.headers.get("content-type", ""))
        answer = await plain.ask(request, work)
        return Response(answer, media_type="application/json")

    async def ping() -> Response:
        """Whether a model is served, in MLflow's words: an empty line."""
        plain.service.ready()
        return Response("\n", media_type="application/json")

    app.get("/ping", tags=["operation"])(ping)
    app.get("/health", tags=["operation"])(ping)

    @app.get("/version", tags=["operation"])
    async def mlflow_version() -> Response:
        """The version of MLflow whose conventions these are."""
        return Response(version("mlflow-skinny"), media_type="application/json")


def _answer(loaded: Loaded, content_type: str, body: bytes) -> bytes:
    return msgspec.json.encode({"predictions": predict(loaded, read_events(body, content_type))})


def _request_body() -> dict[str, Any]:
    examples: Mapping[str, Any] = {
        "dataframe_records": {"value": {"dataframe_records": [{COLUMN: EXAMPLE}]}},
        "dataframe_split": {"value": {"dataframe_split": {"columns": [COLUMN], "data": [[EXAMPLE]]}}},
        "instances": {"value": {"instances": [{COLUMN: EXAMPLE}]}},
        "inputs": {"value": {"inputs": {COLUMN: [EXAMPLE]}}},
    }
    content = {
        "application/json": {"schema": {"type": "object"}, "examples": examples},
        "text/csv": {"schema": {"type": "string"}},
    }
    return {"requestBody": {"required": True, "content": content}}
