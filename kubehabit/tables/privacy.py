"""Where data of one person is, as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from data.visible_text import visible
from serving.privacy.places import PersonReport


def report_screen(found: PersonReport) -> list[Any]:
    """What is kept of a person."""
    table = Table("count", "what", "where", "on erasure")
    for place in found.places:
        table.add_row(f"{place.count:,}", place.what, visible(place.where), place.erasure)
    also = ", ".join(map(visible, found.names[1:]))
    lines: list[Any] = [f"{visible(found.names[0])}{f' (also logged as {also})' if also else ''}"]
    lines += [table] if found.places else ["Nothing is kept of this person."]
    lines += [f"ON HOLD  {visible(why)}" for why in found.on_hold]
    if found.unfinished:
        lines.append(f"An erasure, begun {found.unfinished}, is not finished: call the same command again.")
    return lines
