"""Webhook: each alert as a CloudEvent 1.0 in structured JSON mode (the CloudEvents HTTP protocol binding)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from serving.sinks.base import Secret, SinkSettings, SinkTlsSettings, Update, Url, rfc3339
from serving.sinks.http import HttpSink


class WebhookSettings(SinkSettings):
    """Alerts to any HTTP endpoint; `id` (with `source`) and the header `Idempotency-Key` identify repeats."""

    type: Literal["webhook"]
    url: Url
    token: Secret | None = None
    source: str = "/kubehabit"
    tls: SinkTlsSettings = SinkTlsSettings()

    def open(self) -> HttpSink:
        """The sink."""
        media_type = "application/cloudevents+json; charset=utf-8"
        body = partial(cloud_event, source=self.source)
        return HttpSink(self, self.url, body, token=self.token, tls=self.tls, media_type=media_type)


def cloud_event(update: Update, source: str) -> dict[str, Any]:
    """The alert in its envelope."""
    return {
        "specversion": "1.0",
        "id": update.key,
        "source": source,
        "type": f"kubehabit.alert.{update.change}",
        "subject": update.alert.id,
        "time": rfc3339(update.alert.last_seen),
        "datacontenttype": "application/json",
        "data": update.alert.model_dump(mode="json", by_alias=True),
    }
