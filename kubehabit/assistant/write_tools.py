"""Tools that decide, for a server that was started with --allow-writes: verdicts, notes, closing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kubehabit.assistant.quoting import answer, unquote
from kubehabit.assistant.read_tools import AlertID, Answer, IncidentID
from kubehabit.client.remote import Remote

Note = Annotated[
    str, Field(min_length=1, max_length=900, description="Why, for the people who read it later")
]


class WriteTools:
    """Decides in the name of a person, through the API: the token needs the scope `analyst`, and the access log has each call.

    Args:
        service: the running service.
        by: the person for whom the assistant works; kept with each decision.
    """

    def __init__(self, service: Remote, by: str) -> None:
        self._service = service
        self._by = f"{by or 'unknown'}, through an assistant"

    def give_verdict(self, alert_id: AlertID, verdict: Literal["normal", "malicious"], note: Note) -> Answer:
        """Say whether an alert was right. `normal` makes a habit of it at once. Ask the person before."""
        body = {"verdict": verdict, "note": note, "by": self._by}
        return answer(self._service.post("alerts", unquote(alert_id), "feedback", body=body))

    def add_note(self, incident_id: IncidentID, note: Note) -> Answer:
        """Add a note to the history of an incident. It cannot be changed or removed."""
        body = {"note": note, "by": self._by}
        found = self._service.post("incidents", unquote(incident_id), "notes", body=body)
        return answer({"id": found["id"], "trail": found["trail"][-1:], "auditIDs": found["auditIDs"][:10]})

    def close_incident(
        self, incident_id: IncidentID, outcome: Literal["malicious", "normal", "unclear"], note: Note
    ) -> Answer:
        """Close an incident with its outcome; normal and malicious are verdicts on its alerts. Ask the person before."""
        body = {"outcome": outcome, "note": note, "by": self._by}
        found = self._service.post("incidents", unquote(incident_id), "close", body=body)
        return answer(
            {
                "id": found["id"],
                "state": found["state"],
                "trail": found["trail"][-1:],
                "auditIDs": found["auditIDs"][:10],
            }
        )
