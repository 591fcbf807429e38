"""Incoming webhooks of Slack, Mattermost, Rocket.Chat and Discord (address ending in /slack)."""

from __future__ import annotations

from typing import Any, Literal

from serving.sinks.base import SinkSettings, Update, Url, namespaces_of
from serving.sinks.http import HttpSink

_COLOURS = {"low": "#6b7280", "medium": "#d97706", "high": "#dc2626", "critical": "#7f1d1d"}
_MAX_TEXT = 2500
_MAX_CHECKS = 3


class SlackSettings(SinkSettings):
    """Alerts to a chat, which cannot recognise a repeat; the address is a secret: name it by `env` or `file`."""

    type: Literal["slack"]
    url: Url

    def open(self) -> HttpSink:
        """The sink."""
        return HttpSink(self, self.url, message)


def escape(text: str) -> str:
    """Text that a chat shows literally, without links or mentions (`<!channel>`)."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("@", "@\u200b")


def message(update: Update) -> dict[str, Any]:
    """A message with one attachment, the form that all of these chats support."""
    alert = update.alert
    title = f"{alert.severity.upper()}: {alert.principal}" + ("" if update.change == "raised" else " goes on")
    fields = [
        ("Kind", alert.kind),
        ("Unusual actions", f"{alert.action_count:,}"),
        ("Namespaces", ", ".join(namespaces_of(alert)[:10])),
        ("ATT&CK", ", ".join(f"{one.id} {one.name}" for one in alert.techniques)),
        ("What to look at", "\n".join(check.text for check in alert.checks[:_MAX_CHECKS])),
    ]
    return {
        "text": escape(f"kubehabit: {title}"),
        "attachments": [
            {
                "fallback": escape(alert.sentence[:_MAX_TEXT]),
                "color": _COLOURS[alert.severity],
                "text": escape(alert.sentence[:_MAX_TEXT]),
                "fields": [
                    {"title": name, "value": escape(value[:_MAX_TEXT]), "short": len(value) < 40}
                    for name, value in fields
                    if value
                ],
                "footer": f"alert {alert.id} · update {update.key}",
                "ts": int(alert.last_seen.timestamp()),
                "mrkdwn_in": [],
            }
        ],
    }
