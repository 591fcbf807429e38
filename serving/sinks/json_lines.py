"""One JSON object a line: what the sinks to stdout and to a file write."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.sinks.base import Update


def document(update: Update) -> dict[str, Any]:
    """The update: `key` tells repeats, `change` says whether it is new, `alert` is as `GET /v1/alerts/{id}` gives it."""
    return {
        "key": update.key,
        "change": update.change,
        "alert": update.alert.model_dump(mode="json", by_alias=True),
    }


def line(value: object) -> bytes:
    """A value as one line of JSON."""
    return msgspec.json.encode(value) + b"\n"
