"""The route of exceptions by hand: which there are, and what they allowed."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import FastAPI

from serving.alerts.exceptions import AllowedDeed, ExceptionList, ExceptionReport
from serving.runtime import Service
from serving.storage.allowed import latest, uses

_LATEST = 10


def add_exception_routes(app: FastAPI, service: Service) -> None:
    """Add the route."""

    @app.get("/v1/exceptions", tags=["alerts"])
    def exceptions() -> ExceptionList:
        """List what may be done for a while without an alert, until when and why, and what would have been flagged.

        The file is that of `alerts.exceptions`; `kubehabit allow` adds to it, and the service reads it again when it changes.
        """
        engine = service.ready()
        engine.flush()
        now = datetime.now(UTC)
        found = [ExceptionReport.of(entry, now) for entry in engine.exceptions().entries]
        with engine.store.reading() as connection:
            counted = uses(connection)
            for one in found:
                if one.name in counted:
                    one.uses, one.last_used = counted[one.name].count, counted[one.name].last
                    one.latest = [
                        AllowedDeed(principal=principal, action=action)
                        for principal, action in latest(connection, one.name, _LATEST)
                    ]
        return ExceptionList(exceptions=found)
