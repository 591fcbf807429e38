"""Links of the OpenAPI document: which request follows from an answer, for readers and for tests that walk the API."""

from __future__ import annotations

from typing import Any


def leads_to(parameter: str, where: str, *operations: str) -> dict[int | str, dict[str, Any]]:
    """Part of a route's `responses`: a value of the answer is a parameter of other operations.

    Args:
        parameter: of their paths, such as `incident_id`.
        where: JSON pointer into the answer, such as `/incidents/0/id`.
        operations: by the names of their functions and paths, as FastAPI makes them.
    """
    found = {
        operation: {"operationId": operation, "parameters": {parameter: f"$response.body#{where}"}}
        for operation in operations
    }
    return {200: {"links": found}}


ALERT = ("alert_v1_alerts__alert_id__get", "give_feedback_v1_alerts__alert_id__feedback_post")
INCIDENT = tuple(
    f"{name}_v1_incidents__incident_id__{path}"
    for name, path in (
        *(("incident", "get"), ("close", "close_post"), ("note", "notes_post")),
        *(("merge", "merge_post"), ("split", "split_post"), ("incident_evidence", "evidence_post")),
    )
)
PRINCIPAL = tuple(
    f"{name}_v1_{path}__principal__get"
    for name, path in (
        *(("principal_report", "principals"), ("surprise", "surprise"), ("habits", "habits")),
        *(("peers", "peers"), ("life", "events_principals")),
    )
)
