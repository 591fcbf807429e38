"""The answer that follows alerts, for the API and for the console."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from fastapi.responses import StreamingResponse

from serving.http.problems import ProblemError, is_number
from serving.runtime import Service
from serving.schemas import Alert

#: Callers that follow the alerts at the same time; each costs a connection and a read of the store for every change.
_MAX_STREAMS = 100


async def stream_of(
    service: Service,
    last_event_id: str | None,
    wanted: Callable[[Alert], bool],
    goes_on: Callable[[], bool] = lambda: True,
) -> StreamingResponse:
    """Follow the alerts that are `wanted` after an event, by default from now on, until `goes_on` is false before an event.

    Raises:
        ProblemError: 400, the event is none of ours; 503, no model is served, or too many follow already.
    """
    store = service.ready().store
    latest = await asyncio.to_thread(store.latest)
    after = latest
    if last_event_id:
        if not is_number(last_event_id):
            raise ProblemError(
                400, "'Last-Event-ID' is not one of ours: send the id of the last event you got, or none."
            )
        after = min(int(last_event_id), latest)
    if service.stream.followers >= _MAX_STREAMS:
        detail = f"{_MAX_STREAMS} callers follow the alerts already: end some, or ask GET /v1/alerts instead."
        raise ProblemError(503, detail, {"Retry-After": "10"})
    return StreamingResponse(
        _counted(service, service.stream.follow(store, after, wanted), goes_on),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _counted(
    service: Service, events: AsyncGenerator[str], goes_on: Callable[[], bool]
) -> AsyncIterator[str]:
    """The events, with the number of followers kept in the metrics."""
    try:
        async for event in events:
            if not goes_on():
                return
            service.metrics.streams(service.stream.followers)
            yield event
    finally:
        await events.aclose()
        service.metrics.streams(service.stream.followers)
