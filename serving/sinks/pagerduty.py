"""PagerDuty (Events API v2): one PagerDuty alert for each alert, which grows with it."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from serving.sinks.base import (
    ConsoleLink,
    Secret,
    SinkSettings,
    Update,
    Url,
    alert_link,
    namespaces_of,
    rfc3339,
)
from serving.sinks.http import HttpSink

_SEVERITIES = {"low": "info", "medium": "warning", "high": "error", "critical": "critical"}
#: Characters that PagerDuty takes of a summary.
_MAX_SUMMARY = 1024
_MAX_AUDIT_IDS = 20


class PagerDutySettings(SinkSettings):
    """Alerts to a service of PagerDuty, whose integration key is `routing_key`; `dedup_key` is the alert."""

    type: Literal["pagerduty"]
    routing_key: Secret
    url: Url = "https://events.pagerduty.com/v2/enqueue"
    source: str = "kubernetes"
    console: ConsoleLink = ""

    def open(self) -> HttpSink:
        """The sink."""
        return HttpSink(self, self.url, partial(event, settings=self))


def event(update: Update, settings: PagerDutySettings) -> dict[str, Any]:
    """The event that opens the alert there, or updates it."""
    alert = update.alert
    link = alert_link(settings.console, alert)
    return {
        "routing_key": settings.routing_key.read(),
        "event_action": "trigger",
        "dedup_key": f"kubehabit-{alert.id}",
        "client": "kubehabit",
        **({"client_url": link} if link else {}),
        "payload": {
            "summary": alert.sentence[:_MAX_SUMMARY],
            "source": settings.source,
            "severity": _SEVERITIES[alert.severity],
            "timestamp": rfc3339(alert.last_seen),
            "component": alert.principal,
            "group": ", ".join(namespaces_of(alert))[:_MAX_SUMMARY],
            "class": "unusual behaviour",
            "custom_details": {
                "update": update.key,
                "kind": alert.kind,
                "unusual actions": alert.action_count,
                "first seen": rfc3339(alert.first_seen),
                "ATT&CK": [f"{one.id} {one.name}" for one in alert.techniques],
                "what to check": [check.text for check in alert.checks],
                "audit IDs": alert.audit_ids[:_MAX_AUDIT_IDS],
            },
        },
    }
