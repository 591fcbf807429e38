"""Evidence as one page of HTML, from `templates/`: no script, nothing loaded, made to be read, printed and filed."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from data.visible_text import visible
from serving.forensics import clock
from serving.forensics.evidence.export import EMBEDDED, Export, is_page, parse_export, read_export
from serving.forensics.queries import moment_of
from serving.forensics.records import what_of

_TEMPLATES = Path(__file__).parent / "templates"
_ROLES = {
    "flagged": "flagged",
    "contributor": "added up",
    "before": "just before",
    "session": "in between",
    "consequence": "followed",
    "join": "cited by a join",
}

_Json = Mapping[str, Any]


def render(export: bytes, show: Callable[[str], str] = visible) -> str:
    """The page of an evidence file, as `evidence.export` made it; embeds the file, so that the page alone proves its content."""
    found = msgspec.json.decode(export, type=Export)
    noted = max(found.ledger.lines)
    packed = base64.b64encode(gzip.compress(export, mtime=0)).decode()
    page = (
        _environment(show)
        .get_template("page.html")
        .render(
            content=msgspec.json.decode(found.content, type=dict[str, Any]),
            ledger=found.ledger,
            sha256=found.sha256,
            noted=noted,
            this=msgspec.json.decode(found.ledger.lines[noted].entry, type=dict[str, Any]),
            embedded=Markup(EMBEDDED.decode() + packed),
            style=Markup("\n" + (_TEMPLATES / "style.css").read_text(encoding="utf-8")),
        )
    )
    return f"{page}\n"


def check_page(path: Path) -> list[str]:
    """Sentences about where an evidence page differs from the export embedded in it; none for a file that is not a page.

    Raises EvidenceError if the page embeds no export.
    """
    raw = path.read_bytes()
    if not is_page(raw):
        return []
    export = read_export(path)
    _, content = parse_export(export, path)
    # Pages made before showed what nobody sees as it was.
    if any(_without_export(render(export, show).encode()) == _without_export(raw) for show in (visible, str)):
        return []
    made, here = content.get("product"), f"kubehabit {version('kubehabit')}"
    if made != here:
        return [
            f"The page was made by {made}, and this is {here}, which cannot tell whether the page shows what its export says. "
            "Use the version that made it, or read the JSON file."
        ]
    return ["The page does not say what the export in it says: it was changed."]


def _without_export(page: bytes) -> tuple[bytes, bytes]:
    """What stands before and after the export in a page; another machine may compress it to other bytes."""
    # Quotes have two spellings in HTML: pages that were not yet made with Jinja have the other one.
    page = page.replace(b"&quot;", b"&#34;").replace(b"&#x27;", b"&#39;")
    before, _, after = page.partition(EMBEDDED)
    return before, after.partition(b'"')[2]


# -- what templates use -----------------------------------------------------------------------------------------


def _moment(written: str | None) -> str:
    """A time of the API, spelled as the page spells all of them."""
    return clock.written(moment_of(written)) if written else ""


def _indented(text: str) -> str:
    """JSON spread over lines, for the eye; the checksums are over the text without that."""
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except ValueError:
        return text


def _span(events: Sequence[_Json]) -> str:
    times = [event["record"]["time"] for event in events]
    return f"{clock.written(min(times))} to {clock.written(max(times))}" if times else ""


def _by_part(events: Sequence[_Json]) -> dict[str, list[_Json]]:
    """Events of an incident by their part in it."""
    parts = ("suspect", "join", "consequence")
    return {part: [event for event in events if event["place"]["part"] == part] for part in parts}


def _timeline_rows(events: Sequence[_Json], roles: bool) -> Iterator[tuple[object, ...]]:
    """One row a request, whose other stages have their texts further down; with its role in the incident, if there is one."""
    requests: dict[tuple[str, int], _Json] = {}
    for event in events:
        requests.setdefault((event["record"]["audit_id"], event["record"]["time"]), event)
    for event in requests.values():
        record = event["record"]
        yield (
            clock.written(record["time"]),
            *((_ROLES[event["place"]["role"]],) if roles else ()),
            record["username"] + (f" as {record['impersonated']}" if record["impersonated"] else ""),
            f"{record['verb']} {what_of(record)}",
            record["code"] or "",
            record["source_ips"].replace(",", ", "),
            record["user_agent"],
            record["audit_id"],
        )


def _object_rows(touched: Sequence[_Json]) -> Iterator[tuple[object, ...]]:
    for one in touched:
        yield (
            *(one[end][:19].replace("T", " ") for end in ("first", "last")),
            one["object"],
            one["did"],
            f"{one['count']:,}",
            "counted" if one["flagged"] else "",
            one["sensitivity"],
            ", ".join(one["by"]),
        )


def _trail_rows(trail: Sequence[_Json]) -> Iterator[tuple[object, ...]]:
    for entry in trail:
        yield (
            _moment(entry["time"]),
            f"{entry['action']} {entry['incident'] or ''}".strip(),
            entry["by"],
            ", ".join(part for part in (entry["caller"], entry["address"]) if part),
            entry["note"],
        )


def _right_rows(found: _Json) -> Iterator[tuple[object, ...]]:
    for one in found["requests"]:
        yield one["user"], one["request"], "; ".join(one["allowedBy"]), one["notStopped"]


def _template(name: str) -> str:
    """A template with its lines joined, so that its indentation is not in the page."""
    return re.sub(r"\n\s*", "", (_TEMPLATES / name).read_text(encoding="utf-8"))


_FILTERS: dict[str, Callable[..., Any]] = {
    "anchor": lambda name: name.lower().replace(" ", "-"),
    "by_part": _by_part,
    "columns": lambda rows, *names: [[row[name] for name in names] for row in rows],
    "counted": lambda counts: ", ".join(f"{count:,} {did}" for did, count in counts.items()),
    "indented": _indented,
    "ledger_rows": lambda lines: [
        (number + 1, line.hash, line.signature or "not signed") for number, line in sorted(lines.items())
    ],
    "moment": _moment,
    "object_rows": _object_rows,
    "right_rows": _right_rows,
    "scalars": lambda model: [
        (name, value)
        for name, value in model.items()
        if name != "card" and not isinstance(value, dict | list)
    ],
    "span": _span,
    "techniques": lambda techniques: ", ".join(f"{one['id']} {one['name']}" for one in techniques),
    "thousands": lambda number: f"{number:,}",
    "timeline_rows": _timeline_rows,
    "trail_rows": _trail_rows,
    "what_of": what_of,
    "written": clock.written,
}


@cache
def _environment(show: Callable[[str], str]) -> jinja2.Environment:
    """Templates in which every text passes through `show`, by lines where it has some."""

    def finalize(value: Any) -> Any:
        return show(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def lines(text: str) -> Markup:
        return Markup("\n").join(show(line) for line in text.split("\n"))

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
    )
    made.filters |= _FILTERS | {"lines": lines}
    return made
