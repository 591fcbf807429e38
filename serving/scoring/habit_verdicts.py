"""A verdict of people as a record of the journal, which gives it its place between the batches of events.

So it has the same effect whenever the journal is scored again after a crash: on all events that were received after it, and on
none before.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from data.errors import KubehabitError
from serving.scoring.journal import JournalRecord, record

#: Route named by such records; no record of events has it.
SOURCE = "/v1/feedback"


class HabitVerdict(msgspec.Struct, frozen=True):
    """What people say about an alert. Times are microseconds since 1970 UTC.

    Attributes:
        alert, principal: its ID and its principal.
        verdict: unclear: its incident was closed without either; what is done again is raised as something new.
        time: when it was given.
        times: of the alert's flagged actions, and of those that they repeat.
        by, address: who gave it, in the caller's words and as the service saw it.
        document: the feedback that is stored and exported; empty for unclear.
    """

    alert: str
    principal: str
    verdict: Literal["normal", "malicious", "unclear"]
    time: int
    times: list[int]
    by: str = ""
    address: str = ""
    document: str = ""

    def to_record(self) -> JournalRecord:
        """The record of the journal."""
        body = msgspec.json.encode(self)
        return record(SOURCE, body, "", body)

    @classmethod
    def from_body(cls, body: bytes) -> HabitVerdict:
        """Inverse of `to_record`, given its decompressed body; raises KubehabitError."""
        try:
            return msgspec.json.decode(body, type=cls)
        except msgspec.MsgspecError as error:
            raise KubehabitError(f"A verdict in the journal cannot be read: {error}.") from error
