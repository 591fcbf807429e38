"""Routes about the model itself: what is served, and following the registry at once."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import FastAPI

from serving.http.problems import ProblemError
from serving.rollout.watcher import ModelStatus
from serving.runtime import Service
from serving.schemas import ApiModel, ModelInfo


class Reloaded(ApiModel):
    """Result of a check of the registry."""

    result: Literal["swapped", "unchanged"]
    detail: str
    model: ModelStatus


def install(app: FastAPI, service: Service) -> None:
    """Add the routes."""

    def status() -> ModelStatus:
        engine = service.ready()
        if service.watch is not None:
            return service.watch.status()
        shown = {name: getattr(engine.model, name) for name in ModelInfo.model_fields}
        return ModelStatus(**shown, history=engine.readiness.status())

    @app.get("/v1/model", tags=["model"])
    def model() -> ModelStatus:
        """The model that is served, where it came from, what it was trained on, and how it follows the registry.

        `history` says which share of recent actions is by principals with enough history. `watch` has the last look, the
        refused versions and why, and the last change; `challenger`, where one runs in shadow, how its verdicts differ.
        """
        return status()

    @app.post(
        "/v1/model/reload",
        tags=["model"],
        responses={
            409: {"description": "The registry's champion was refused; `detail` says why"},
            503: {"description": "The registry or its files are unreachable"},
        },
    )
    async def reload() -> Reloaded:
        """Check the registry now, and serve its champion if it changed.

        A version that was refused before is tried once more. Answers when the new model serves; requests go on meanwhile.
        """
        service.ready()
        watch = service.watch
        if watch is None:
            raise ProblemError(409, "The model that is served came from a folder, not from a registry.")
        look = await asyncio.to_thread(lambda: watch.look(again=True))
        if look.result == "refused":
            raise ProblemError(409, look.detail)
        if look.result == "unavailable":
            raise ProblemError(503, look.detail, {"Retry-After": "30"})
        return Reloaded(result=look.result, detail=look.detail, model=status())
