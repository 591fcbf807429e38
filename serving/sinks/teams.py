"""Microsoft Teams: an Adaptive Card for an incoming webhook made with Teams' Workflows."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from serving.sinks.base import ConsoleLink, SinkSettings, Update, Url, alert_link, namespaces_of
from serving.sinks.http import HttpSink

_COLOURS = {"low": "default", "medium": "warning", "high": "attention", "critical": "attention"}
#: A card may have 28 KB in all.
_MAX_TEXT = 2000
_MAX_CHECKS = 3


class TeamsSettings(SinkSettings):
    """Alerts to a channel, which cannot recognise a repeat; the address is a secret: name it by `env` or `file`."""

    type: Literal["teams"]
    url: Url
    console: ConsoleLink = ""

    def open(self) -> HttpSink:
        """The sink."""
        return HttpSink(self, self.url, partial(card, settings=self))


def _text(text: str, **style: Any) -> dict[str, Any]:
    """A paragraph. Runs of text are shown as they are: a TextBlock would make links of what a client chose."""
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text[:_MAX_TEXT], **style}]}


def card(update: Update, settings: TeamsSettings) -> dict[str, Any]:
    """The message with its card."""
    alert = update.alert
    title = f"{alert.severity.upper()}: {alert.principal}" + ("" if update.change == "raised" else " goes on")
    facts = [
        ("Kind", alert.kind),
        ("Unusual actions", f"{alert.action_count:,}"),
        ("Namespaces", ", ".join(namespaces_of(alert)[:10])),
        ("ATT&CK", ", ".join(f"{one.id} {one.name}" for one in alert.techniques)),
        *(("Check", check.text) for check in alert.checks[:_MAX_CHECKS]),
        ("Alert", f"{alert.id}, update {update.key}"),
    ]
    content: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            _text(f"kubehabit: {title}", weight="bolder", size="large", color=_COLOURS[alert.severity]),
            _text(alert.sentence),
            *(_text(f"{name}: {value}", isSubtle=True) for name, value in facts if value),
        ],
    }
    if link := alert_link(settings.console, alert):
        content["actions"] = [{"type": "Action.OpenUrl", "title": "Open in the console", "url": link}]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": content}
    return {"type": "message", "attachments": [attachment]}
