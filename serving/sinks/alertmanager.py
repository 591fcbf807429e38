"""Prometheus Alertmanager, API v2: an alert fires until it has not grown for a while, by its `endsAt`."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from serving.sinks.base import Secret, SinkSettings, SinkTlsSettings, Update, Url, namespaces_of, rfc3339
from serving.sinks.http import HttpSink

_NAMESPACES = 10


class AlertmanagerSettings(SinkSettings):
    """Alerts to an Alertmanager, which knows them by their labels, so repeats merge there.

    `url` is its root, without /api/v2/alerts.
    """

    type: Literal["alertmanager"]
    url: Url
    token: Secret | None = None
    tls: SinkTlsSettings = SinkTlsSettings()
    resolve_minutes: Annotated[float, Field(gt=0, le=1e8)] = 120
    labels: Annotated[dict[str, str], Field(default_factory=dict)]

    @model_validator(mode="after")
    def _fires_until_repeated(self) -> AlertmanagerSettings:
        if self.resolve_minutes <= self.repeat_minutes:
            raise ValueError(
                "resolve_minutes must be more than repeat_minutes, or an alert that grows would be resolved in between"
            )
        return self

    def open(self) -> HttpSink:
        """The sink."""
        body = partial(postable, lasts=timedelta(minutes=self.resolve_minutes), labels=self.labels)
        return HttpSink(self, self.url, body, path="/api/v2/alerts", token=self.token, tls=self.tls)


def postable(update: Update, lasts: timedelta, labels: dict[str, str]) -> list[dict[str, Any]]:
    """`postableAlerts` of Alertmanager's OpenAPI description.

    The alert fires for as long as it `lasts` unless it is sent again, and is resolved under its earlier severity.
    """
    alert = update.alert
    annotations = {
        "summary": alert.sentence,
        "techniques": ", ".join(f"{one.id} {one.name}" for one in alert.techniques),
        "next_steps": "\n".join(check.text for check in alert.checks),
        "namespaces": ", ".join(namespaces_of(alert)[:_NAMESPACES]),
        "actions": str(alert.action_count),
        "update": update.key,
    }

    def one(severity: str, ends: datetime) -> dict[str, Any]:
        return {
            "labels": {
                **labels,
                "alertname": "KubehabitUnusualBehaviour",
                "alert_id": alert.id,
                "principal": alert.principal,
                "kind": alert.kind,
                "severity": severity,
            },
            "annotations": {name: text for name, text in annotations.items() if text},
            # Never after the end, even if the cluster's clock is ahead: Alertmanager would refuse it.
            "startsAt": rfc3339(min(alert.first_seen, update.moment)),
            "endsAt": rfc3339(ends),
        }

    posted = [one(alert.severity, update.moment + lasts)]
    if update.sent_severity not in (None, alert.severity):
        posted.append(one(str(update.sent_severity), update.moment))
    return posted
