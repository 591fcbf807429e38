"""The page of one request: every event that was logged of it, as fields and as redacted JSON."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response

from serving.console.render import page
from serving.forensics import clock
from serving.forensics.queries import EventFilter, EventQueries
from serving.forensics.records import EventRecord, what_of
from serving.forensics.service import ForensicsService
from serving.http.problems import ProblemError
from serving.storage.tables import microseconds

router = APIRouter(include_in_schema=False)

_MOST_STAGES = 20
#: Characters of one event that are shown; `kubehabit events --audit-id` gives all.
_MOST_TEXT = 200_000
#: How far around the time that a link names its events are looked for.
_AROUND = timedelta(days=1)


@router.get("/console/event")
def event(
    request: Request,
    audit_id: Annotated[str, Query(alias="auditID", min_length=1, max_length=512)],
    at: Annotated[datetime | None, Query()] = None,
) -> Response:
    """The events of one audit ID, in order of time."""
    desk: ForensicsService = request.app.state.desk
    wanted = EventFilter(
        audit_ids=(audit_id,),
        since=None if at is None else microseconds(at - _AROUND),
        until=None if at is None else microseconds(at + _AROUND),
    )

    def ask(queries: EventQueries) -> list[EventRecord]:
        return queries.events(wanted, limit=_MOST_STAGES, texts=True).records

    found = desk.ask(ask)
    if not found:
        raise ProblemError(
            404,
            "No event of this audit ID is kept. It may be older than the event store keeps events, or the store was off then.",
        )
    return page(request, "event.html", audit_id=audit_id, events=[_shown(record) for record in found])


def _shown(record: EventRecord) -> dict[str, Any]:
    """An event as its page shows it."""
    return {
        "record": record,
        "time": clock.written(record.time),
        "received": clock.written(record.received),
        "what": what_of(record._asdict()),
        "addresses": [one for one in record.source_ips.split(",") if one],
        "json": _laid_out(record.event),
    }


def _laid_out(text: str) -> str:
    """JSON with a line for each value; the beginning of one that is too long for a page, and other text as it is."""
    with contextlib.suppress(msgspec.MsgspecError, RecursionError):
        text = msgspec.json.format(text, indent=2)
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + "\n…"
