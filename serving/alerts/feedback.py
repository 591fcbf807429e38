"""Feedback on alerts as it is given, stored for good, and exported in the form that `kubehabit train --feedback` reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from serving.schemas import Alert, ApiModel, clean

NO_ALERT = "There is no such alert. It may have been deleted after the retention time."
_MAX_NOTE = 1000
_MAX_NAME = 256


class Feedback(ApiModel):
    """A person's verdict on an alert."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {"verdict": "normal", "note": "Planned migration, CHG-1021.", "by": "alice@corp"}
        },
    )

    verdict: Literal["normal", "malicious"]
    note: Annotated[str, Field(max_length=_MAX_NOTE)] = ""
    by: Annotated[
        str, Field(max_length=_MAX_NAME, description="who gives the verdict, in the caller's words")
    ] = ""


class FeedbackEntry(ApiModel):
    """A verdict as it is stored and exported: one line of a feedback file."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "principal": "system:serviceaccount:web:ci-deployer",
                "auditIDs": ["0abe9025-690a-4c64-ab70-22c373c72194"],
                "verdict": "normal",
                "note": "Planned migration, CHG-1021.",
                "time": "2026-11-23T15:02:00Z",
                "alertID": "7d0c6a1f52b8e934",
                "by": "alice@corp",
                "address": "127.0.0.1",
            }
        }
    )

    principal: str
    audit_ids: Annotated[list[str], Field(description="those that the alert held when the verdict was given")]
    verdict: Literal["normal", "malicious"]
    note: str
    time: datetime
    alert_id: str
    by: str
    address: Annotated[str, Field(description="the sender's address, as the service saw it")]


def feedback_entry(alert: Alert, feedback: Feedback, address: str) -> FeedbackEntry:
    """A verdict on an alert as it is now. Texts are cleaned: a token in a note must not be stored."""
    return FeedbackEntry(
        principal=alert.principal,
        audit_ids=alert.audit_ids,
        verdict=feedback.verdict,
        note=clean(feedback.note, _MAX_NOTE),
        time=datetime.now(UTC),
        alert_id=alert.id,
        by=clean(feedback.by),
        address=address,
    )
