"""Webhook: each alert as a CloudEvent 1.0 in structured JSON mode (the CloudEvents HTTP protocol binding)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from serving.sinks.base import Secret, SinkSettings, TlsSettings, Update, Url, read_url
from serving.sinks.http import HttpPost


class WebhookSettings(SinkSettings):
    """Alerts to any HTTP endpoint."""

    type: Literal["webhook"]
    url: Url
    token: Secret | None = None
    source: str = "/kubehabit"
    tls: TlsSettings = TlsSettings()

    def open(self) -> WebhookSink:
        """The sink."""
        return WebhookSink(self)


class WebhookSink:
    """Posts CloudEvents."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        self._http = HttpPost(settings.timeout_seconds, settings.tls)

    def send(self, update: Update) -> None:
        """Post one event. `id` (with `source`) and the header `Idempotency-Key` identify repeats."""
        body = msgspec.json.encode(cloud_event(update, self._settings.source))
        headers = {
            "Content-Type": "application/cloudevents+json; charset=utf-8",
            "Idempotency-Key": update.key,
        }
        self._http.post(read_url(self._settings.url), body, headers, self._settings.token)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def cloud_event(update: Update, source: str) -> dict[str, Any]:
    """The alert in its envelope."""
    return {
        "specversion": "1.0",
        "id": update.key,
        "source": source,
        "type": f"kubehabit.alert.{update.change}",
        "subject": update.alert.id,
        "time": update.alert.last_seen.isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": update.alert.model_dump(mode="json", by_alias=True),
    }
