"""The ASGI application: every route, behind the gate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from data.errors import KubehabitError
from serving.access.gate import Access, Gate
from serving.access.scopes import add_security
from serving.access.tls import ServerTls
from serving.api import forensics
from serving.api import model as model_routes
from serving.api import principals as history
from serving.api.alerts import add_alert_routes
from serving.api.authorization import add_authorization_routes
from serving.api.exceptions import add_exception_routes
from serving.api.feedback import add_feedback_routes
from serving.api.fleet import add_fleet_routes
from serving.api.fresh_rights import FreshRights
from serving.api.health import add_health_routes
from serving.api.incidents import add_incident_routes
from serving.api.names import add_name_routes
from serving.api.overview import add_overview_routes
from serving.api.principals import FreshHistory
from serving.api.rules import add_rule_routes
from serving.api.score import add_score_routes
from serving.api.versions import add_version_routes
from serving.console.render import problem_page
from serving.console.routes import add_console
from serving.fleet.state_files import StateFilesError
from serving.history.schema import HistoryError
from serving.http import problems
from serving.http.docs import add_docs
from serving.http.problems import Problem
from serving.runtime import Service
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import StoreError
from serving.telemetry import tracing

#: How long shutdown waits for a model that is being loaded: a thread that is cut off within onnxruntime aborts the process.
_LOADING_ENDS_SECONDS = 3.0


def create_app(
    settings: Settings,
    engine: Engine | None = None,
    load: Callable[[], Engine] | None = None,
    on_loaded: Callable[[BaseException | None], None] = lambda _: None,
) -> FastAPI:
    """The ASGI application.

    Args:
        settings: of the service.
        engine: serves at once, if given; else `load` makes it in the background once the application runs.
        on_loaded: called on the event loop when `load` is done, with its error or None.
    """
    service = Service(settings)
    tls = None
    if settings.tls.certificate is not None:
        tls = ServerTls(settings.tls, lambda bad: service.metrics.access_file("tls", bad))
    access = Access(settings, service.metrics, tls)
    if engine is not None:
        service.start(engine)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.stream.attach()
        loading = service.load(load, on_loaded) if engine is None and load is not None else None
        yield
        service.ending.set()
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
        # Else it begins by itself once anything in the process sets a global provider; see `serving.telemetry.tracing`.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        responses={
            "4XX": {"description": "What was wrong with the request", "content": _problem_content()},
            "5XX": {"description": "What is wrong here", "content": _problem_content()},
        },
    )
    app.state.service = service
    app.state.access = access
    failures: dict[type[KubehabitError], str]
    failures = {
        StoreError: "the alert store failed",
        HistoryError: "the history failed",
        StateFilesError: "the state of the fleet cannot be read",
    }
    problems.install(app, failures, problem_page)
    app.state.tls = tls
    app.add_middleware(Gate, access=access, metrics=service.metrics)
    if tracing.is_on():
        app.add_middleware(tracing.Traced)  # around the gate, whose log lines belong to the trace
    app.state.records = FreshHistory(service)
    app.state.rights = FreshRights(service)
    # In the order of the documentation.
    add_score_routes(app, service)
    add_alert_routes(app, service)
    add_feedback_routes(app, service)
    add_exception_routes(app, service)
    add_rule_routes(app, service)
    add_health_routes(app, service)
    add_overview_routes(app, service)
    add_fleet_routes(app, service)
    add_name_routes(app, service)
    add_incident_routes(app, service)
    add_authorization_routes(app, service)
    history.add_routes(app, service)
    model_routes.install(app, service)
    add_version_routes(app, service)
    forensics.add_routes(app, service)
    if settings.console.enabled:
        add_console(app)
    add_docs(app)
    add_security(app)
    access.routes.protect(app.routes)
    return app


def _problem_content() -> dict[str, Any]:
    return {problems.MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
