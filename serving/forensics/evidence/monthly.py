"""The monthly report on log review as a page of HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from data.visible_text import visible
from serving.forensics.evidence.page import environment

_STYLE = Path(__file__).parent / "templates" / "second" / "style.css"
_Json = Mapping[str, Any]


def render_monthly(report: _Json) -> str:
    """The page of a month: what `kubehabit.client.month` gathered, with `controls`; every text of it is made visible."""
    made = environment(visible, "monthly")
    made.filters |= _FILTERS
    style = Markup("\n" + _STYLE.read_text(encoding="utf-8"))
    return made.get_template("page.html").render(report=report, style=style) + "\n"


def _verdict_rows(by_severity: _Json) -> Iterator[tuple[object, ...]]:
    for severity, found in by_severity.items():
        yield severity, found["none"], found["normal"], found["malicious"]


def _incident_rows(listed: Sequence[_Json]) -> Iterator[tuple[object, ...]]:
    for one in listed:
        opened, closed = ((one[name] or "")[:19].replace("T", " ") for name in ("opened", "closed"))
        yield (
            one["id"],
            opened,
            one["severity"],
            one["sentence"],
            one["state"],
            closed,
            one["closedBy"] or "",
            one["note"],
        )


def _control_rows(controls: Sequence[_Json], names: Mapping[str, str]) -> Iterator[tuple[object, ...]]:
    for one in controls:
        evidence = ", ".join(dict.fromkeys(names[section] for section in one["sections"]))
        yield one["framework"], one["control"], one["asks"], evidence, one["yours"]


_FILTERS = {
    "control_rows": _control_rows,
    "counts": lambda counted: ", ".join(f"{name} ({count})" for name, count in counted),
    "incident_rows": _incident_rows,
    "verdict_rows": _verdict_rows,
}
