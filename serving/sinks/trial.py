"""A made-up alert, sent through sinks to see that it arrives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from serving.schemas import Action, Alert, Check, ObjectReference, ServedModel, Severity, Technique
from serving.sinks.base import DeliveryRefusedError, SinkSettings, UnavailableError, Update


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of the made-up alert at one sink; `outcome` is in the words of `/metrics`."""

    sink: str
    type: str
    outcome: Literal["sent", "failed", "refused", "filtered"]
    sentence: str


def made_up_alert(severity: Severity, moment: datetime) -> Alert:
    """An alert that says in each of its texts that it is a test."""
    action = Action(
        audit_id=f"test-{moment:%Y%m%dT%H%M%S}",
        time=moment,
        description="did nothing: this is a test",
        verb="get",
        object_ref=ObjectReference(resource="secrets", namespace="kubehabit-test", name="test"),
        source_ips=["192.0.2.1"],
        user_agent="kubehabit test-alert",
        severity=severity,
        sensitivity=0,
        evidence=0.0,
        surprise=0.0,
    )
    return Alert(
        id=f"test{moment:%Y%m%d%H%M%S}",
        principal="kubehabit-test",
        kind="human",
        peer_group="test",
        first_seen=moment,
        last_seen=moment,
        severity=severity,
        evidence=0.0,
        sentence="This is a test of kubehabit's alerts: nothing has happened, and nothing has to be done.",
        techniques=[
            Technique(
                id="T1078",
                name="Valid Accounts",
                tactic="Initial Access",
                url="https://attack.mitre.org/techniques/T1078/",
            )
        ],
        actions=[action],
        action_count=1,
        audit_ids=[action.audit_id],
        checks=[Check(kind="look", text="Nothing is to be checked: this is a test.")],
        model=ServedModel(name="kubehabit", version="0"),
    )


def send_test_alert(sinks: Sequence[SinkSettings], severity: Severity) -> Iterator[Delivery]:
    """Send a made-up alert through each sink at once, past the outbox; a sink whose filter leaves it out gets nothing."""
    moment = datetime.now(UTC)
    update = Update(made_up_alert(severity, moment), None, moment)
    for settings in sinks:
        kind = str(getattr(settings, "type", ""))
        if not settings.filter.passes(update.alert):
            sentence = f"Not sent: its filter leaves out such an alert ({severity}, a person, namespace kubehabit-test)."
            yield Delivery(settings.name, kind, "filtered", sentence)
            continue
        try:
            sink = settings.open()
            try:
                sink.send(update)
            finally:
                sink.close()
        except UnavailableError as error:
            yield Delivery(settings.name, kind, "failed", f"It would be tried again: {error}.")
        except DeliveryRefusedError as error:
            yield Delivery(settings.name, kind, "refused", f"It would be dropped: {error}.")
        except OSError as error:
            yield Delivery(settings.name, kind, "failed", f"It would be tried again: {type(error).__name__}.")
        else:
            yield Delivery(settings.name, kind, "sent", f"The receiver has alert {update.alert.id}.")
