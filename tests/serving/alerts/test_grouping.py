"""Alerts do not depend on what was scored together: after a crash, several batches are scored as one."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from serving.alerts.grouping import Flagged, group
from serving.schemas import Action, Alert, ServedModel
from serving.settings import AlertSettings
from serving.storage.database import StoredAlert
from tests.serving.fakes import START

GAP = timedelta(minutes=10)
MODEL = ServedModel(name="kubehabit", version="1")


def flagged(number: int, minutes: float) -> Flagged:
    action = Action(
        audit_id=f"id-{number}",
        time=START + timedelta(minutes=minutes),
        description=f"did {number}",
        verb="get",
        severity="low",
        sensitivity=1,
        evidence=1.0,
        surprise=1.0,
    )
    return Flagged("alice", "user", "", action)


def stored(batches: list[list[Flagged]]) -> list[str]:
    """The documents of the alerts that batches leave, each grouped and built by itself."""
    alerts: list[Alert] = []

    def find(_: str, earliest: datetime, latest: datetime) -> StoredAlert | None:
        near = [
            (one.last_seen, number)
            for number, one in enumerate(alerts)
            if one.last_seen >= earliest and one.first_seen <= latest
        ]
        number = max(near)[1] if near else -1
        return StoredAlert(number, alerts[number].model_copy(deep=True)) if near else None

    for batch in batches:
        for growth in group(batch, GAP, MODEL, find):
            growth.build(growth.flagged, [], AlertSettings())
            if growth.number is None:
                alerts.append(growth.alert)
            else:
                alerts[growth.number] = growth.alert
    return [one.model_dump_json() for one in alerts]


def test_what_arrives_out_of_order_makes_the_same_alerts_in_one_batch_as_in_several() -> None:
    chance = random.Random(1)
    for _ in range(20):
        entries = [flagged(number, chance.uniform(0, 60)) for number in range(12)]
        one_by_one = stored([[entry] for entry in entries])
        assert stored([entries]) == one_by_one
        cut = chance.randrange(1, 11)
        assert stored([entries[:cut], entries[cut:]]) == one_by_one
