"""Optional OpenTelemetry traces of requests; while they are off, the SDK is not imported.

A request is one span with the children `decode`, `score` and `store`. Spans carry counts and sizes, never names or contents of
events; FastAPI's own, whose paths and queries name principals, stay off. OpenTelemetry's variables configure the export
(`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME` ...).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from data.errors import KubehabitError

if TYPE_CHECKING:  # `start` imports it
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

# ASGI's types, which are Starlette's too.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_Result = TypeVar("_Result")
_NOTHING: AbstractContextManager[object] = nullcontext()
# Frequent and uninformative; a stream is one request for hours.
_UNTRACED = frozenset(("/healthz", "/readyz", "/metrics", "/v1/alerts/stream"))

_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def start(exporter: SpanExporter | None = None) -> None:
    """Start tracing, by OTLP over HTTP in the background as the environment says; a test's exporter gets spans at once.

    Raises:
        KubehabitError: the exporter is not installed.
    """
    global _provider, _tracer, trace
    from importlib.metadata import version

    from opentelemetry import trace
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    processor: SpanProcessor
    if exporter is not None:
        processor = SimpleSpanProcessor(exporter)
    else:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ModuleNotFoundError as error:
            raise KubehabitError(
                "Setting 'traces.enabled' needs an exporter that is not installed: pip install 'kubehabit[otel]', "
                "or set it to false."
            ) from error
        processor = BatchSpanProcessor(OTLPSpanExporter())
    ours = {SERVICE_NAME: "kubehabit", SERVICE_VERSION: version("kubehabit")}
    found = Resource.create()
    if not str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        del ours[SERVICE_NAME]  # set in the environment
    # Not the process's global provider: that belongs to an embedding program, and mlflow has its own.
    _provider = TracerProvider(resource=found.merge(Resource(ours)), shutdown_on_exit=False)
    _provider.add_span_processor(processor)
    _tracer = _provider.get_tracer("kubehabit")


def stop() -> None:
    """Send the remaining spans and stop tracing."""
    global _provider, _tracer
    _tracer = None
    if _provider is not None:
        _provider.shutdown()
        _provider = None


def is_on() -> bool:
    """Whether requests are traced."""
    return _tracer is not None


def current() -> object | None:
    """The current span, as a parent for a `span` in another thread; None if there is none."""
    if _tracer is None:
        return None
    found = trace.get_current_span()
    return found if found.get_span_context().is_valid else None


def span(
    name: str, callers: Iterable[object | None] = (), **attributes: int | str
) -> AbstractContextManager[object]:
    """A child span for the duration of the block, with counts and sizes as attributes; nothing while traces are off.

    Of `callers`, spans from `current`, the first becomes the parent, and the others are linked. Default: this thread's span.
    """
    if _tracer is None:
        return _NOTHING
    given = [one for one in callers if isinstance(one, trace.Span)]
    return _tracer.start_as_current_span(
        name,
        context=trace.set_span_in_context(given[0]) if given else None,
        attributes={f"kubehabit.{key}": value for key, value in attributes.items()},
        links=[trace.Link(other.get_span_context()) for other in given[1:]],
    )


def carried(work: Callable[[], _Result]) -> Callable[[], _Result]:
    """The same work, inside the current span when another thread runs it."""
    return work if _tracer is None else partial(copy_context().run, work)


def ids() -> dict[str, str]:
    """`trace_id` and `span_id` of the current span, for log lines; empty if there is none."""
    found: Any = current()
    if found is None:
        return {}
    context = found.get_span_context()
    return {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
    }


class Traced:
    """ASGI middleware that makes a span of each request, in the caller's trace if it sends one (W3C Trace Context)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if _tracer is None or scope["type"] != "http" or scope["path"] in _UNTRACED:
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        given = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        caller = TraceContextTextMapPropagator().extract(given)
        method = scope["method"]
        with _tracer.start_as_current_span(
            method, context=caller, kind=trace.SpanKind.SERVER, attributes={"http.request.method": method}
        ) as current:

            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    current.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        current.set_status(trace.StatusCode.ERROR)
                await send(message)

            try:
                await self._app(scope, receive, note)
            finally:
                # The route: paths name alerts and principals.
                route = getattr(scope.get("route"), "path", None)
                if route is not None:
                    current.update_name(f"{method} {route}")
                    current.set_attribute("http.route", route)
