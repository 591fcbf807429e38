"""Prometheus Alertmanager, API v2: an alert fires until it has not grown for a while, by its `endsAt`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, model_validator

from serving.sinks.base import (
    Secret,
    SinkSettings,
    TlsSettings,
    Update,
    Url,
    namespaces_of,
    read_url,
)
from serving.sinks.http import HttpPost

_NAMESPACES = 10


class AlertmanagerSettings(SinkSettings):
    """Alerts to an Alertmanager; `url` is its root, without /api/v2/alerts."""

    type: Literal["alertmanager"]
    url: Url
    token: Secret | None = None
    tls: TlsSettings = TlsSettings()
    resolve_minutes: Annotated[float, Field(gt=0)] = 120
    labels: Annotated[dict[str, str], Field(default_factory=dict)]

    @model_validator(mode="after")
    def _fires_until_repeated(self) -> AlertmanagerSettings:
        if self.resolve_minutes <= self.repeat_minutes:
            raise ValueError(
                "resolve_minutes must be more than repeat_minutes, or an alert that grows would be resolved in between"
            )
        return self

    def open(self) -> AlertmanagerSink:
        """The sink."""
        return AlertmanagerSink(self)


class AlertmanagerSink:
    """Posts to `/api/v2/alerts`. Alertmanager knows alerts by their labels, so repeats merge there."""

    def __init__(self, settings: AlertmanagerSettings) -> None:
        self._settings = settings
        self._http = HttpPost(settings.timeout_seconds, settings.tls)

    def send(self, update: Update) -> None:
        """Post the alert, and resolve it under its earlier severity."""
        url = read_url(self._settings.url).rstrip("/") + "/api/v2/alerts"
        body = msgspec.json.encode(
            postable(update, timedelta(minutes=self._settings.resolve_minutes), self._settings.labels)
        )
        headers = {"Content-Type": "application/json", "Idempotency-Key": update.key}
        self._http.post(url, body, headers, self._settings.token)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def postable(update: Update, lasts: timedelta, labels: dict[str, str]) -> list[dict[str, Any]]:
    """`postableAlerts` of Alertmanager's OpenAPI description.

    Args:
        lasts: how long the alert fires unless it is sent again.
        labels: further labels.
    """
    alert = update.alert
    annotations = {
        "summary": alert.sentence,
        "techniques": ", ".join(f"{one.id} {one.name}" for one in alert.techniques),
        "next_steps": "\n".join(check.text for check in alert.checks),
        "namespaces": ", ".join(sorted(namespaces_of(alert))[:_NAMESPACES]),
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
            "startsAt": _time(min(alert.first_seen, update.moment)),
            "endsAt": _time(ends),
        }

    posted = [one(alert.severity, update.moment + lasts)]
    if update.sent_severity not in (None, alert.severity):
        posted.append(one(str(update.sent_severity), update.moment))
    return posted
