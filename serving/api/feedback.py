"""Routes of feedback: what people say about alerts."""

from __future__ import annotations

import asyncio
from itertools import chain

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from serving.alerts.feedback import Feedback, FeedbackEntry
from serving.http.body import documented, read_model
from serving.runtime import Service
from serving.scoring.feedback import give_feedback as take_in

_EXAMPLE_FEEDBACK = msgspec.json.encode(FeedbackEntry.model_config["json_schema_extra"]["example"]).decode()  # type: ignore[index]


def add_feedback_routes(app: FastAPI, service: Service) -> None:
    """Add the routes."""

    @app.post(
        "/v1/alerts/{alert_id}/feedback",
        tags=["feedback"],
        status_code=201,
        openapi_extra=documented(Feedback),
    )
    async def give_feedback(alert_id: str, request: Request) -> FeedbackEntry:
        """Record a verdict on an alert: normal or malicious.

        It holds for all events received from now on: what was normal is a habit at once and does not notify again; what was
        malicious never becomes one, and is a new alert when it is done again. What people say is kept with who said it and
        when, also when they disagree; the last one holds. `kubehabit train --feedback` teaches it to the next model.
        """
        running = service.running()
        given = await read_model(request, Feedback)
        address = request.client.host if request.client is not None else ""
        with service.intake.turn():
            return await asyncio.to_thread(
                take_in, running.engine.store, running.pipeline, alert_id, given, address
            )

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
        first = next(documents, None)  # a store that cannot be read is an error, not half an answer
        lines = (document + "\n" for document in chain([] if first is None else [first], documents))
        return StreamingResponse(lines, media_type="application/x-ndjson")
