"""Takes verdicts on alerts in: each is journalled, stored, and then changes what the service takes for a habit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from data.errors import NotFoundError
from serving.alerts.feedback import NO_ALERT, Feedback, FeedbackEntry, feedback_entry
from serving.scoring.habit_verdicts import HabitVerdict
from serving.scoring.pipeline import Pipeline
from serving.storage.database import AlertStore
from serving.storage.tables import microseconds

_log = logging.getLogger("kubehabit.api")
_JOURNAL_SECONDS = 30.0


def give_feedback(
    store: AlertStore, pipeline: Pipeline, alert_id: str, feedback: Feedback, address: str
) -> FeedbackEntry:
    """Take in a verdict on an alert as it is now, and log it.

    When this returns, the verdict is durable, and it holds for all events that are received from now on.

    Raises:
        NotFoundError: there is no such alert.
        JournalError: it cannot be kept; nothing was stored.
        StoreError: it holds, but the alert store does not show it yet.
    """
    alert = store.get(alert_id)
    if alert is None:
        raise NotFoundError(NO_ALERT)
    entry = feedback_entry(alert, feedback, address)
    document = entry.model_dump_json(by_alias=True)
    verdict = HabitVerdict(
        alert.id,
        alert.principal,
        entry.verdict,
        microseconds(entry.time),
        store.flagged_times(alert),
        entry.by,
        address,
        document,
    )
    pipeline.append_verdict(verdict).result(_JOURNAL_SECONDS)
    store.add_feedback(alert.id, entry.time, entry.verdict, document)
    _log.info("feedback", extra={"alert": alert.id, "verdict": entry.verdict, "address": address})
    return entry


def close_alerts(
    store: AlertStore,
    pipeline: Pipeline,
    alert_ids: Sequence[str],
    outcome: Literal["normal", "malicious", "unclear"],
    *,
    note: str,
    by: str,
    address: str,
) -> None:
    """Take in the outcome of an incident as a verdict on each of its alerts; raises as `give_feedback`.

    After "unclear" what is done again is raised as something new: nobody looks at a closed incident.
    """
    for alert_id in alert_ids:
        if outcome != "unclear":
            given = Feedback(verdict=outcome, note=note, by=by)
            give_feedback(store, pipeline, alert_id, given, address)
            continue
        alert = store.get(alert_id)
        if alert is not None:
            times, now = store.flagged_times(alert), microseconds(datetime.now(UTC))
            verdict = HabitVerdict(alert.id, alert.principal, outcome, now, times, by, address)
            pipeline.append_verdict(verdict).result(_JOURNAL_SECONDS)
