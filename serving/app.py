"""The HTTP side: thin routes over `serving.engine`, and the process that serves them."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, TextIO

import msgspec
import uvicorn
from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from typing_extensions import TypedDict

from data.errors import KubehabitError
from serving import invocations, memory, model_routes, open_inference, problems, tracing
from serving.access import Access, Gate, add_security
from serving.alert_list import AlertPage, Wanted, whole
from serving.alerts import Alert, Model
from serving.api_docs import add_docs
from serving.asked import Asked, AskedHappening
from serving.connections import Connection
from serving.console.routes import add_console
from serving.engine import Engine, ModelInfo
from serving.feedback import Feedback, FeedbackEntry, entry_of
from serving.forensics import routes as forensics
from serving.history import routes as history
from serving.history.routes import Records
from serving.incident_routes import add_incident_routes
from serving.logs import configure
from serving.plain_model import PlainModel
from serving.principals import PrincipalReport
from serving.problems import Problem, ProblemError
from serving.service import Service, merge
from serving.settings import Settings, load_settings
from serving.stream_routes import stream_of
from serving.tls import ServerTls
from serving.verdicts import EventResult

_log = logging.getLogger("kubehabit.api")

_SHUTDOWN_SECONDS = 10
_KEEP_ALIVE_SECONDS = 75
_SWITCH_SECONDS = 0.0005
"""Longer than the pauses between a webhook's batches: Go does not send a POST again on a connection that just closed."""

_LOADING_ENDS_SECONDS = 3.0
"""How long an end waits for a model that is being loaded: a thread that is cut off within onnxruntime aborts the process."""

_MAX_FILES = 65_536
"""File descriptors asked for, if the system grants them: many a shell starts with 1,024, which connections alone can use up."""

_EXAMPLE_EVENT = {
    "kind": "Event",
    "apiVersion": "audit.k8s.io/v1",
    "level": "Metadata",
    "auditID": "0abe9025-690a-4c64-ab70-22c373c72194",
    "stage": "ResponseComplete",
    "requestURI": "/api/v1/namespaces/payments/secrets",
    "verb": "list",
    "user": {
        "username": "system:serviceaccount:web:ci-deployer",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:web", "system:authenticated"],
    },
    "sourceIPs": ["10.244.1.40"],
    "userAgent": "kubectl/v1.29.3 (linux/amd64) kubernetes/6813625",
    "objectRef": {"resource": "secrets", "namespace": "payments", "apiVersion": "v1"},
    "responseStatus": {"metadata": {}, "code": 200},
    "requestReceivedTimestamp": "2026-11-23T14:31:12.575126Z",
    "stageTimestamp": "2026-11-23T14:31:12.586453Z",
    "annotations": {"authorization.k8s.io/decision": "allow"},
}
_EXAMPLE_LIST = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [_EXAMPLE_EVENT]}


_NO_ALERT = "There is no such alert. It may have been deleted after the retention time."
_EXAMPLE_STREAM = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "example": 'id: 42\nevent: alert\ndata: {"id":"7d0c6a1f52b8e934","severity":"high","sentence":"…"}\n\n',
    }
}
_EXAMPLE_FEEDBACK = msgspec.json.encode(FeedbackEntry.model_config["json_schema_extra"]["example"]).decode()  # type: ignore[index]


class Counts(TypedDict):
    """How many events met which fate."""

    scored: int
    folded: int
    rejected: int
    flagged: int


class ScoreResponse(TypedDict):
    """Verdicts on a batch."""

    model: dict[str, str]
    counts: Counts
    alerts: Annotated[list[str], "IDs of alerts that this batch raised or let grow"]
    results: Annotated[list[EventResult], "one for each event, in the order sent"]


class Health(Model):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Model):
    """A model is served."""

    status: Literal["ready"] = "ready"
    model: str
    version: str
    notice: str | None = None


def create_app(
    settings: Settings,
    engine: Engine | None = None,
    load: Callable[[], Engine] | None = None,
    on_loaded: Callable[[BaseException | None], None] | None = None,
) -> FastAPI:
    """The ASGI application.

    Args:
        settings: limits, token, paths.
        engine: serves at once, if given.
        load: else makes the engine, in the background, once the application runs.
        on_loaded: called on the event loop when `load` is done, with its error or None.
    """
    service = Service(settings)
    tls = None
    if settings.tls.certificate is not None:
        tls = ServerTls(settings.tls, lambda bad: service.metrics.access_file("tls", bad))
    access = Access(settings, service.metrics, tls)
    if engine is not None:
        service.use(engine)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.stream.attach()
        loading = None
        if service.engine is None and load is not None:
            loading = _load_in_background(service, load, on_loaded)
        yield
        if loading is not None:
            await asyncio.to_thread(loading.join, _LOADING_ENDS_SECONDS)
        await asyncio.to_thread(service.close)
        access.close()

    app = FastAPI(
        title="kubehabit",
        version="1",
        summary="Learns the habits of every principal in a Kubernetes cluster, and says when a credential breaks them.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # Else it begins by itself once anything in the process sets a global provider; see `serving.tracing`.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        responses={
            "4XX": {"description": "What was wrong with the request", "content": _problem_content()},
            "5XX": {"description": "What is wrong here", "content": _problem_content()},
        },
    )
    app.state.service = service
    app.state.access = access
    problems.install(app)
    app.state.tls = tls
    app.add_middleware(Gate, access=access, metrics=service.metrics)
    if tracing.is_on():
        app.add_middleware(tracing.Traced)  # around the gate, whose log lines belong to the trace
    _add_routes(app, service)
    add_incident_routes(app, service)
    app.state.records = Records(service)
    history.add_routes(app, service)
    model_routes.install(app, service)
    plain = PlainModel(service)
    invocations.install(app, plain)
    open_inference.install(app, plain)
    forensics.add_routes(app, service)
    if settings.console.enabled:
        add_console(app)
    add_docs(app)
    add_security(app)
    access.protect(app.routes)
    return app


def _problem_content() -> dict[str, Any]:
    return {problems.MEDIA_TYPE: {"schema": Problem.model_json_schema()}}


def _load_in_background(
    service: Service, load: Callable[[], Engine], on_loaded: Callable[[BaseException | None], None] | None
) -> threading.Thread:
    loop = asyncio.get_running_loop()

    def done(error: BaseException | None) -> None:
        if error is not None:
            service.reason = str(error)
        if on_loaded is not None:
            on_loaded(error)

    def work() -> None:
        try:
            service.use(load())
        except BaseException as error:  # whatever it is, somebody must be told
            loop.call_soon_threadsafe(done, error)
        else:
            loop.call_soon_threadsafe(done, None)

    # A daemon: a registry that does not answer must not hold up the end of the process.
    loading = threading.Thread(target=work, name="loading", daemon=True)
    loading.start()
    return loading


def _events_body(examples: Mapping[str, Any], *, ndjson: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {}, "examples": examples}}
    if ndjson:
        line = msgspec.json.encode(_EXAMPLE_EVENT).decode()
        content["application/x-ndjson"] = {"schema": {"type": "string"}, "example": line}
    return {"requestBody": {"required": True, "content": content}}


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _add_routes(app: FastAPI, service: Service) -> None:
    """Every route, in the order of the documentation."""
    one = {"one event": {"value": _EXAMPLE_EVENT}}
    several = {"list": {"value": [_EXAMPLE_EVENT]}, "EventList": {"value": _EXAMPLE_LIST}}

    @app.post(
        "/v1/score",
        response_model=ScoreResponse,
        tags=["events"],
        openapi_extra=_events_body(one | several, ndjson=True),
    )
    async def score(request: Request) -> Response:
        """Score audit events, for a log pipeline.

        Send a JSON list, NDJSON, an EventList or one event; `Content-Encoding` may be gzip or zstd. Every event gets a
        result, in the order sent. Events that cannot be read are reported as `rejected` with their line (or position)
        and kept in the dead-letter file; the others are scored all the same. `folded` events belong to an action that
        was scored at an earlier stage, or are left out by the model's settings.
        """
        decoded, batch = await service.score(request, "/v1/score")
        scored = batch.scored
        judge = batch.model or service.ready().model
        answer: ScoreResponse = {
            "model": {"name": judge.name, "version": judge.version},
            "counts": {
                "scored": scored,
                "folded": batch.events - scored,
                "rejected": len(decoded.dead),
                "flagged": sum(batch.flagged.values()),
            },
            "alerts": [alert.id for alert in (*batch.raised, *batch.grown)],
            "results": merge(decoded, batch),
        }
        return _json(answer)

    @app.post(
        "/v1/audit",
        tags=["events"],
        response_model=dict[str, str],
        openapi_extra=_events_body({"EventList": {"value": _EXAMPLE_LIST}}, ndjson=False),
    )
    async def audit(request: Request) -> Response:
        """Take a batch from kube-apiserver's audit webhook.

        The answer is an empty object, sent when the batch is durable: its events are scored whatever happens then. Events that
        are sent again are recognised, by all they say, and are scored once.
        """
        await service.take(request, "/v1/audit")
        return _json({})

    @app.get("/v1/alerts", tags=["alerts"])
    def alerts(
        wanted: Asked,
        since: Annotated[
            datetime | None, Query(description="Only alerts still going on at or after this time")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        cursor: Annotated[str | None, Query(description="That of the page before", max_length=32)] = None,
    ) -> AlertPage:
        """List alerts, newest raised first. All that is given must hold."""
        after = problems.position_of(cursor)
        return AlertPage.of(whole(service.ready().store, wanted, since=since, limit=limit, cursor=after))

    @app.get(
        "/v1/alerts/stream",
        tags=["alerts"],
        response_class=StreamingResponse,
        responses={200: {"description": "Server-sent events", "content": _EXAMPLE_STREAM}},
    )
    async def follow(
        wanted: AskedHappening,
        last_event_id: Annotated[
            str | None, Header(description="Go on after this event; browsers send it by themselves")
        ] = None,
    ) -> Response:
        """Follow alerts as they are raised and grow, as server-sent events.

        Each event is named `alert`, and its data is the alert as it stands. Without `Last-Event-ID` only what happens from
        now on is told; with it, everything that changed since that event, each alert once. A comment is sent as a sign of
        life when there is nothing to tell.
        """
        return await stream_of(service, last_event_id, wanted.matches)

    @app.post(
        "/v1/alerts/{alert_id}/feedback",
        tags=["feedback"],
        status_code=201,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": Feedback.model_json_schema()}},
            }
        },
    )
    async def give_feedback(alert_id: str, request: Request) -> FeedbackEntry:
        """Say that an alert was normal, or malicious.

        Nothing is changed or removed by it: what people say is kept with who said it and when, also when they disagree,
        and is learned when the model is next trained with `kubehabit train --feedback`.
        """
        store = service.ready().store
        body = await service.body(request)
        try:
            given = Feedback.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "body"
            raise ProblemError(
                422,
                f'\'{name}\' is wrong: {first["msg"]}. Send {{"verdict": "normal"}} or malicious, with a note.',
            ) from error
        found = await asyncio.to_thread(store.get, alert_id)
        if found is None:
            raise ProblemError(404, _NO_ALERT)
        kept = entry_of(found, given, request.client.host if request.client is not None else "")
        await asyncio.to_thread(
            store.add_feedback, found.id, kept.time, kept.verdict, kept.model_dump_json(by_alias=True)
        )
        _log.info(
            "feedback", extra={"alert": kept.alert_id, "verdict": kept.verdict, "address": kept.address}
        )
        return kept

    @app.get(
        "/v1/feedback",
        tags=["feedback"],
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "One JSON object a line, oldest first",
                "content": {"application/x-ndjson": {"example": _EXAMPLE_FEEDBACK}},
            }
        },
    )
    def feedback() -> Response:
        """All feedback, as lines that `kubehabit train --feedback` reads."""
        documents = service.ready().store.feedback()
        first = next(documents, None)  # a store that cannot be read is told as such, not by half an answer
        lines = (document + "\n" for document in chain([] if first is None else [first], documents))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    @app.get("/v1/principals/{principal:path}", tags=["principals"])
    def principal_report(principal: str) -> PrincipalReport:
        """Who a principal is, whom it is compared with, and what it did since counting began."""
        engine = service.ready()
        report = engine.principals.report(principal)
        if report is None:
            raise ProblemError(
                404,
                "This principal is not in the model's training and did nothing since counting began.",
            )
        page = whole(engine.store, Wanted(principal=report.principal), limit=20)
        report.alerts = [alert.id for alert in page.alerts]
        return report

    @app.get("/v1/alerts/{alert_id}", tags=["alerts"])
    def alert(alert_id: str) -> Alert:
        """One alert, with every auditID it rests on."""
        found = service.ready().store.get(alert_id)
        if found is None:
            raise ProblemError(404, _NO_ALERT)
        return found

    @app.get("/healthz", tags=["operation"])
    def healthz() -> Health:
        """Whether the process answers."""
        return Health()

    @app.get("/readyz", tags=["operation"])
    def readyz() -> Readiness:
        """Whether a model is served; 503 with the reason while none is."""
        engine = service.ready()
        notice = engine.model.notice if service.watch is None else service.watch.notice
        return Readiness(model=engine.model.name, version=engine.model.version, notice=notice)

    @app.get("/metrics", tags=["operation"], response_class=Response)
    def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Server(uvicorn.Server):
    """uvicorn that ends quietly, with status 0, on the signals that ask for it."""

    def __init__(self, config: uvicorn.Config, leaving: Callable[[], None]) -> None:
        super().__init__(config)
        self._leaving = leaving

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End streams first: uvicorn waits for every answer to be complete, and theirs never is."""
        self._leaving()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM without raising them again afterwards."""
        wanted = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything slow happens.

    Raises:
        KubehabitError: the address cannot be had; the message says what to do.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise KubehabitError(
            f"{host!r} is no address to listen on ({error.strerror}). Correct --host."
        ) from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise KubehabitError(
                f"Port {port} on {host} is in use: stop what listens there, or choose another one with --port."
            ) from error
        raise KubehabitError(
            f"Cannot listen on {host}:{port} ({error.strerror}). Correct --host or --port."
        ) from error
    return listener


def server_config(app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves the application: with limits on connections, and TLS if the settings have it."""
    tls: ServerTls | None = app.state.tls
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        ssl_context_factory=None if tls is None else lambda *_: tls.context,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def _allow_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(_MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve(settings_path: Path | None = None, host: str | None = None, port: int | None = None) -> None:
    """Run the service until SIGINT or SIGTERM.

    Args:
        settings_path: YAML file; the shipped one when None.
        host: overrides the file and the environment.
        port: the same; 0 picks a free one.

    Raises:
        KubehabitError: bad settings, tokens or certificates; address in use; no registry and no earlier download; a
            damaged bundle.
    """
    settings = load_settings(settings_path, host=host, port=port)
    listener = _listen(settings.host, settings.port)
    configure(settings.log)
    if settings.traces.enabled:
        tracing.start()
    failure: list[BaseException] = []

    def loaded(error: BaseException | None) -> None:
        if error is not None:
            failure.append(error)
            server.should_exit = True
            return
        shown, number = listener.getsockname()[:2]
        shown = f"[{shown}]" if ":" in shown else shown
        # Standard output belongs to the alerts if they go there.
        lines = any(sink.type == "stdout" for sink in settings.sinks)
        scheme = "http" if tls is None else "https"
        _announce(service.ready().model, f"{scheme}://{shown}:{number}", sys.stderr if lines else sys.stdout)
        memory.settle()

    from serving.load import load_engine

    app = create_app(settings, load=partial(load_engine, settings), on_loaded=loaded)
    service: Service = app.state.service
    tls: ServerTls | None = app.state.tls
    if tls is None and not settings.on_loopback:
        _log.warning(
            "Tokens and alerts cross the network readable by whoever listens in: name a certificate as tls.certificate, or let "
            "nothing but a TLS proxy on this machine reach this port."
        )
    _allow_files()
    server = _Server(
        server_config(app),
        service.stream.end,
    )
    # An answer passes through four threads: at Python's 5 ms, each could wait that long for one that is busy beside them.
    sys.setswitchinterval(_SWITCH_SECONDS)
    with listener:
        server.run(sockets=[listener])
    tracing.stop()
    if failure:
        if isinstance(failure[0], KubehabitError):
            raise failure[0]
        raise KubehabitError(
            f"The model could not be loaded: {failure[0]!r}. This is a defect."
        ) from failure[0]


def _announce(model: ModelInfo, url: str, to: TextIO) -> None:
    if model.notice:
        _log.warning(model.notice)
        print(f"Note: {model.notice}", file=to, flush=True)
    print(
        f"kubehabit serves {model.name} version {model.version} on {url}  (API docs: {url}/docs, console: {url}/console/)",
        file=to,
        flush=True,
    )
