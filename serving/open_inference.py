"""The plain model by the Open Inference Protocol (KServe's v2), over REST: what KServe, Triton and MLServer speak.

Events go in as one tensor of JSON text; each column of what `/invocations` answers comes back as a tensor. Tensors in binary, an
extension, are not read. Specification: github.com/kserve/open-inference-protocol, `inference_rest.md`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as installed
from typing import Annotated, Any, Literal, NotRequired

import msgspec
from fastapi import FastAPI, Path, Request, Response
from typing_extensions import TypedDict

from data.fields import FIELDS
from serving.engine import Loaded
from serving.plain_model import COLUMN, EXAMPLE, PlainModel, predict
from serving.problems import MEDIA_TYPE, InferenceProblem, ProblemError

Datatype = Literal["BOOL", "FP32", "FP64", "BYTES"]
PLATFORM = "mlflow_pyfunc"
"""In the protocol's form, <project>_<format>: what is asked is the pyfunc with its habits, not the ONNX graph inside."""

NO_NUMBER = -1.0
"""Where an event has no number. The protocol's tensors have no null, JSON no NaN; and none of these numbers is ever as low."""

_BINARY_HEADER = "inference-header-content-length"
_SHAPE = f'Send {{"inputs": [{{"name": "{COLUMN}", "shape": [n], "datatype": "BYTES", "data": ["<event as JSON text>", …]}}]}}.'
_NO_BINARY = "Tensors in binary are not read here: send the events in 'data' (Python clients have binary_data=False for that)."


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the model's output as a tensor: where in a row of `/invocations` its value stands."""

    datatype: Datatype
    path: tuple[str, ...]

    def value(self, row: Mapping[str, Any]) -> str | float | bool:
        """Its value of one event; the datatype's word for nothing where the event has none."""
        found: Any = row
        for name in self.path:
            found = found.get(name) if found is not None else None
        if self.datatype == "BYTES":
            return "" if found is None else str(found)
        if self.datatype == "BOOL":
            return bool(found)
        return NO_NUMBER if found is None or not math.isfinite(found) else float(found)


OUTPUTS: Mapping[str, Column] = {
    "auditID": Column("BYTES", ("auditID",)),
    "status": Column("BYTES", ("status",)),
    "reason": Column("BYTES", ("reason",)),
    "principal": Column("BYTES", ("principal",)),
    "surprise": Column("FP32", ("surprise",)),
    "evidence": Column("FP64", ("evidence",)),
    "flagged": Column("BOOL", ("flagged",)),
    "severity": Column("BYTES", ("severity",)),
} | {f"nll.{field}": Column("FP32", ("nll", field)) for field in FIELDS}
"""The output tensors by name; see `data.pyfunc.AuditModel.predict` for what they mean."""


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Inference(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


class ServerMetadata(TypedDict):
    """What serves here."""

    name: str
    version: str
    extensions: Annotated[list[str], "none"]


class TensorMetadata(TypedDict):
    """A tensor that goes in or comes out."""

    name: str
    datatype: Datatype
    shape: Annotated[list[int], "-1 for as many as there are events"]


class ModelMetadata(TypedDict):
    """What is asked, and how."""

    name: str
    versions: NotRequired[Annotated[list[str], "the one that is served; absent for a model from a folder"]]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerState(TypedDict):
    """An answer to a probe."""

    live: Literal[True]
    ready: NotRequired[Literal[True]]


class ModelState(TypedDict):
    """An answer to a probe of the model."""

    name: str
    ready: Literal[True]


class Tensor(TypedDict):
    """An output, one value for each event in the order sent."""

    name: str
    datatype: Datatype
    shape: list[int]
    data: list[str] | list[float] | list[bool]


class Inference(TypedDict):
    """What the model says."""

    model_name: str
    model_version: NotRequired[str]
    id: NotRequired[str]
    outputs: list[Tensor]


_Name = Annotated[str, Path(description="The served model's, as /v1/model tells it", examples=["kubehabit"])]
_Version = Annotated[str, Path(description="The registered version that is served", examples=["3"])]


def read_request(body: bytes) -> tuple[list[str], Sequence[str], str | None]:
    """The events of an inference request, the names of the outputs it wants, and its id.

    Raises:
        ProblemError: 400 for a body that is no inference request, or one that this model cannot answer.
    """
    try:
        sent = msgspec.json.decode(body, type=_Inference)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(400, f"The body is no inference request ({error}). {_SHAPE}") from error
    if len(sent.inputs) != 1 or sent.inputs[0].name != COLUMN:
        raise ProblemError(400, f"This model has one input, '{COLUMN}', and needs it. {_SHAPE}")
    wanted = dict.fromkeys(output.name for output in sent.outputs or ())
    unknown = next((name for name in wanted if name not in OUTPUTS), None)
    if unknown is not None:
        raise ProblemError(400, f"There is no output {unknown[:80]!r}: there are {', '.join(OUTPUTS)}.")
    return _texts(sent.inputs[0]), list(wanted or OUTPUTS), sent.id


def _texts(given: _Input) -> list[str]:
    """The elements of the input tensor, of shape [n] or [n, 1]."""
    if given.datatype != "BYTES":
        raise ProblemError(400, f"'{COLUMN}' is a tensor of BYTES, not of {given.datatype[:40]!r}. {_SHAPE}")
    if given.data is msgspec.UNSET:
        binary = "binary_data_size" in (given.parameters or {})
        raise ProblemError(400, _NO_BINARY if binary else f"'{COLUMN}' has no 'data'. {_SHAPE}")
    shape, data = given.shape, given.data
    column = len(shape) == 2 and shape[1] == 1
    if not column and len(shape) != 1:
        raise ProblemError(400, f"The shape of '{COLUMN}' must be [n] or [n, 1], not {shape[:8]}. {_SHAPE}")
    if len(data) != shape[0]:
        raise ProblemError(400, f"'{COLUMN}' has the shape {shape} and {len(data)} elements. {_SHAPE}")
    if column and all(isinstance(row, list) and len(row) == 1 for row in data):
        data = [row[0] for row in data]
    odd = next((place for place, text in enumerate(data) if not isinstance(text, str)), None)
    if odd is not None:
        raise ProblemError(
            400, f"Element {odd} of '{COLUMN}' is no text: send each event as JSON text. {_SHAPE}"
        )
    return data


def _tensors(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Tensor]:
    return [
        {
            "name": name,
            "datatype": OUTPUTS[name].datatype,
            "shape": [len(rows)],
            "data": [OUTPUTS[name].value(row) for row in rows],  # type: ignore[typeddict-item]
        }
        for name in names
    ]


def _answer(loaded: Loaded, body: bytes) -> bytes:
    texts, names, request_id = read_request(body)
    answer: Inference = {
        "model_name": loaded.model.name,
        "outputs": _tensors(predict(loaded, texts), names),
    }
    version = _version_of(loaded)
    if version is not None:
        answer["model_version"] = version
    if request_id is not None:
        answer["id"] = request_id
    return msgspec.json.encode(answer)


def _version_of(loaded: Loaded) -> str | None:
    """The registered version; None for a model from a folder, which has none."""
    return None if loaded.model.source == "folder" else loaded.model.version


def _metadata(loaded: Loaded) -> ModelMetadata:
    version = _version_of(loaded)
    told: ModelMetadata = {
        "name": loaded.model.name,
        "platform": PLATFORM,
        "inputs": [{"name": COLUMN, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": name, "datatype": column.datatype, "shape": [-1]} for name, column in OUTPUTS.items()
        ],
    }
    if version is not None:
        told["versions"] = [version]
    return told


def install(app: FastAPI, plain: PlainModel) -> None:
    """Add the routes."""

    def served(name: str, version: str | None = None) -> Loaded:
        """The model, if it has that name and version."""
        loaded = plain.loaded()
        if name != loaded.model.name:
            raise ProblemError(404, f"There is no model {name[:80]!r} here: {loaded.model.name!r} is served.")
        here = _version_of(loaded)
        if version is not None and version != here:
            which = (
                f"version {here!r} is served" if here is not None else "it has no version, ask without one"
            )
            raise ProblemError(404, f"There is no version {version[:80]!r} of {name!r} here: {which}.")
        return loaded

    async def infer(request: Request, loaded: Loaded) -> Response:
        if _BINARY_HEADER in request.headers:
            raise ProblemError(400, _NO_BINARY)
        answer = await plain.ask(request, partial(_answer, loaded))
        return Response(answer, media_type="application/json")

    shared: dict[str, Any] = {"tags": ["Open Inference Protocol"], "responses": _problems()}
    told = shared | {"response_model_exclude_unset": True}
    asked = shared | {"response_model": Inference, "openapi_extra": _request_body()}

    @app.get("/v2", **told)
    @app.get("/v2/", include_in_schema=False)
    async def server() -> ServerMetadata:
        """What serves here, in the words of the Open Inference Protocol."""
        return {"name": "kubehabit", "version": installed("kubehabit"), "extensions": []}

    @app.get("/v2/health/live", **told)
    async def server_live() -> ServerState:
        """Whether the process answers."""
        return {"live": True}

    @app.get("/v2/health/ready", **told)
    async def server_ready() -> ServerState:
        """Whether the model can be asked; 503 with the reason while not."""
        plain.loaded()
        return {"live": True, "ready": True}  # the specification's text has `live` here, its title `ready`

    @app.get("/v2/models/{name}", **told)
    async def model(name: _Name) -> ModelMetadata:
        """What goes in and what comes out of the model that is served."""
        return _metadata(served(name))

    @app.get("/v2/models/{name}/versions/{version}", **told)
    async def model_version(name: _Name, version: _Version) -> ModelMetadata:
        """As without a version; 404 if another one is served."""
        return _metadata(served(name, version))

    @app.get("/v2/models/{name}/ready", **told)
    async def model_ready(name: _Name) -> ModelState:
        """Whether this model can be asked; 404 if another one is served, 503 while none is."""
        return {"name": served(name).model.name, "ready": True}

    @app.get("/v2/models/{name}/versions/{version}/ready", **told)
    async def model_version_ready(name: _Name, version: _Version) -> ModelState:
        """As without a version; 404 if another one is served."""
        return {"name": served(name, version).model.name, "ready": True}

    @app.post("/v2/models/{name}/infer", **asked)
    async def model_infer(request: Request, name: _Name) -> Response:
        """Score events with the plain model: what `/invocations` answers, as one tensor for each column.

        The input is `event`, BYTES of shape [n] or [n, 1], each element one audit event as JSON text. `outputs` chooses tensors,
        all by default. An event that is not scored (`status`) has -1 in numbers, "" in texts and false in `flagged`. Each request
        starts from the habits in the bundle and leaves nothing behind. `parameters` change nothing.
        """
        return await infer(request, served(name))

    @app.post("/v2/models/{name}/versions/{version}/infer", **asked)
    async def model_version_infer(request: Request, name: _Name, version: _Version) -> Response:
        """As without a version; 404 if another one is served."""
        return await infer(request, served(name, version))


def _problems() -> dict[int | str, dict[str, Any]]:
    content = {MEDIA_TYPE: {"schema": InferenceProblem.model_json_schema()}}
    return {
        "4XX": {"description": "What was wrong with the request", "content": content},
        "5XX": {"description": "What is wrong here", "content": content},
    }


def _request_body() -> dict[str, Any]:
    tensor = {"name": COLUMN, "shape": [1], "datatype": "BYTES", "data": [EXAMPLE]}
    examples: Mapping[str, Any] = {
        "all outputs": {"value": {"id": "42", "inputs": [tensor]}},
        "some outputs": {
            "value": {
                "inputs": [tensor | {"shape": [1, 1], "data": [[EXAMPLE]]}],
                "outputs": [{"name": "status"}, {"name": "surprise"}, {"name": "flagged"}],
            }
        },
    }
    content = {"application/json": {"schema": {"type": "object"}, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}
