"""Routes for operation: whether the process answers, whether it serves a model, and its metrics."""

from __future__ import annotations

from typing import Literal

from fastapi import FastAPI, Response

from serving.runtime import Service
from serving.schemas import ApiModel


class Health(ApiModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(ApiModel):
    """A model is served."""

    status: Literal["ready"] = "ready"
    model: str
    version: str
    notice: str | None = None


def add_health_routes(app: FastAPI, service: Service) -> None:
    """Add the routes."""

    @app.get("/healthz", tags=["operation"])
    def healthz() -> Health:
        """Whether the process answers."""
        return Health()

    @app.get("/readyz", tags=["operation"])
    def readyz() -> Readiness:
        """Whether a model is served; 503 with the reason while none is."""
        engine = service.ready()
        of_model = engine.model.notice if service.watch is None else service.watch.notice
        notice = " ".join(filter(None, (of_model, service.events_notice))) or None
        return Readiness(model=engine.model.name, version=engine.model.version, notice=notice)

    @app.get("/metrics", tags=["operation"], response_class=Response)
    def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")
