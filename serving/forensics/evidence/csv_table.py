"""The events of an evidence file as CSV, for a spreadsheet: one row each, without their texts."""

from __future__ import annotations

import csv
import io
from typing import Any

import msgspec

from data.visible_text import visible
from serving.forensics import clock
from serving.forensics.evidence.export import Export

_COLUMNS = (
    *(
        "username",
        "impersonated",
        "verb",
        "api_group",
        "resource",
        "subresource",
        "namespace",
        "name",
        "path",
    ),
    *("code", "decision", "source_ips", "user_agent", "audit_id", "credential", "alert", "number"),
)
_HEADS = ("time", "part", "role", "principal", *_COLUMNS, "sha256", "record_hash", "ledger_line")
#: A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_csv(export: bytes) -> str:
    """The table of an evidence file as `evidence.export` made it; an apostrophe precedes what a spreadsheet would run."""
    content = msgspec.json.decode(msgspec.json.decode(export, type=Export).content, type=dict[str, Any])
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(_HEADS)
    for event in content["events"]:
        record, place = event["record"], event.get("place") or {}
        cells = [clock.written(record["time"]), place.get("part", ""), place.get("role", "")]
        cells += [record["principal"], *(record[name] for name in _COLUMNS)]
        cells += [event["sha256"], event["proof"]["leaf"], event["proof"]["line"] + 1]
        table.writerow([_cell(cell) for cell in cells])
    return out.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
