"""JSON lines of the sinks stdout and file."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.sinks.base import Update


def document(update: Update) -> dict[str, Any]:
    """The update: `key` identifies repeats, `alert` is that of `GET /v1/alerts/{id}`."""
    return {
        "key": update.key,
        "change": update.change,
        "alert": update.alert.model_dump(mode="json", by_alias=True),
    }


def line(value: object) -> bytes:
    """A value as one line of JSON."""
    return msgspec.json.encode(value) + b"\n"
