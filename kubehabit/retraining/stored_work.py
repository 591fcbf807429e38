"""The normal work that an event store holds, as logs to learn from: without what was flagged and nobody called normal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from data.errors import KubehabitError
from kubehabit.client.event_export import EventPages
from kubehabit.client.events import EventAnswers
from serving.forensics.queries import EventFilter

_LEVEL = 3


@dataclass(slots=True)
class StoredWork:
    """What was written.

    Attributes:
        events: number in the log.
        flagged: number left out, because they were part of an alert that nobody called normal.
    """

    events: int = 0
    flagged: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def called_normal(feedback: Iterable[str]) -> frozenset[str]:
    """Audit IDs of actions whose last verdict is that they are normal.

    Args:
        feedback: entries as JSON, oldest first.
    """
    verdicts: dict[str, str] = {}
    for line in feedback:
        entry = msgspec.json.decode(line)
        verdicts.update(dict.fromkeys(entry["auditIDs"], entry["verdict"]))
    return frozenset(audit_id for audit_id, verdict in verdicts.items() if verdict == "normal")


def write_log(
    answers: EventAnswers,
    to: Path,
    *,
    since: int,
    until: int,
    normal: Collection[str],
    on_events: Callable[[int], object] = lambda _: None,
) -> StoredWork:
    """Write the stored events of a span of time to a compressed log, oldest first.

    Args:
        to: the log; one that a kill left half-written is replaced.
        since, until: half-open span of the API server's time, microseconds since 1970 UTC.
        normal: audit IDs of flagged actions that are to be learned all the same.
        on_events: called now and then with the number of events read.

    Raises:
        KubehabitError: the store cannot be read, or the log cannot be written.
    """
    pages = EventPages(answers, EventFilter(since=since, until=until), limit=None, cursor=None, newest=False)
    found = StoredWork()
    draft = to.with_name(f"{to.name}.part")
    try:
        with draft.open("wb") as file, zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file) as log:
            draft.chmod(0o600)
            for record in pages.records():
                if record.alert and record.audit_id not in normal:
                    found.flagged += 1
                elif record.event.startswith("{"):  # a text that was too long was not kept
                    log.write(record.event.encode() + b"\n")
                    found.events += 1
                if (found.events + found.flagged) % 1_000 == 0:
                    on_events(found.events + found.flagged)
        draft.rename(to)
    except OSError as error:
        raise KubehabitError(
            f"{to} cannot be written: {error.strerror}. Check the folder and its free space."
        ) from error
    return found
