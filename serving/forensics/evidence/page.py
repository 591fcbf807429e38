"""Evidence as one page of HTML, from `templates/`: no script, nothing loaded, made to be read, printed and filed."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from data.visible_text import visible
from serving.forensics import clock
from serving.forensics.evidence.export import EMBEDDED, Export, is_page, parse_export, read_export
from serving.forensics.evidence.picture import picture
from serving.forensics.queries import moment_of
from serving.forensics.records import what_of

_TEMPLATES = Path(__file__).parent / "templates"
#: Folders of templates, that of new pages first. A page is checked by making it again, so none is changed once pages are out.
LAYOUTS = ("second", "first")
_ROLES = {
    "flagged": "flagged",
    "contributor": "added up",
    "before": "just before",
    "session": "in between",
    "consequence": "followed",
    "join": "cited by a join",
}
#: Those of `_ROLES` that newer layouts say otherwise.
_PLAIN_ROLES = {"contributor": "contributed"}

_Json = Mapping[str, Any]


def render(export: bytes, show: Callable[[str], str] = visible, layout: str = LAYOUTS[0]) -> str:
    """The page of an evidence file, as `evidence.export` made it; embeds the file, so that the page alone proves its content.

    Args:
        export: the file.
        show: makes each text visible.
        layout: one of `LAYOUTS`.
    """
    found = msgspec.json.decode(export, type=Export)
    noted = max(found.ledger.lines)
    packed = base64.b64encode(gzip.compress(export, mtime=0)).decode()
    content = msgspec.json.decode(found.content, type=dict[str, Any])
    page = (
        environment(show, layout)
        .get_template("page.html")
        .render(
            content=content,
            ledger=found.ledger,
            sha256=found.sha256,
            noted=noted,
            this=msgspec.json.decode(found.ledger.lines[noted].entry, type=dict[str, Any]),
            embedded=Markup(EMBEDDED.decode() + packed),
            picture=picture(content["incident"]["graph"], show) if "incident" in content else "",
            style=Markup("\n" + (_TEMPLATES / layout / "style.css").read_text(encoding="utf-8")),
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
    # Pages made before have the older layout, and the first of them showed what nobody sees as it was.
    for layout in LAYOUTS:
        for show in (visible, str):
            if _without_export(render(export, show, layout).encode()) == _without_export(raw):
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


def _to_second(written: str | None) -> str:
    """A time of the API for a summary, to the second."""
    return _moment(written)[:19].replace("T", " ")


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


def _timeline_rows(
    events: Sequence[_Json], roles: bool, words: Mapping[str, str] = _ROLES
) -> Iterator[tuple[object, ...]]:
    """One row a request, whose other stages have their texts further down; with its role in the incident, if there is one."""
    requests: dict[tuple[str, int], _Json] = {}
    for event in events:
        requests.setdefault((event["record"]["audit_id"], event["record"]["time"]), event)
    for event in requests.values():
        record = event["record"]
        yield (
            clock.written(record["time"]),
            *((words[event["place"]["role"]],) if roles else ()),
            record["username"] + (f" as {record['impersonated']}" if record["impersonated"] else ""),
            f"{record['verb']} {what_of(record)}",
            record["code"] or "",
            record["source_ips"].replace(",", ", "),
            record["user_agent"],
            record["audit_id"],
        )


def _steps(actions: Sequence[_Json]) -> Iterator[tuple[object, ...]]:
    """Rows of the suspicious actions of an incident, for its summary."""
    for action in actions:
        status = action.get("responseStatus") or {}
        yield (
            _to_second(action["time"]),
            action["principal"],
            action["did"],
            status.get("code", ""),
            action["address"],
            action["auditID"],
        )


def _checksum_rows(events: Sequence[_Json]) -> Iterator[tuple[object, ...]]:
    for event in events:
        record, proof = event["record"], event["proof"]
        yield (
            record["number"],
            record["audit_id"],
            event["sha256"],
            proof["leaf"],
            proof["line"] + 1,
            record["redactions"] or "",
        )


def _duration(incident: _Json) -> str:
    """How long an incident took, in the largest unit that fits."""
    seconds = (moment_of(incident["lastSeen"]) - moment_of(incident["firstSeen"])) / 1_000_000
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}s"
    return f"{seconds:.0f} seconds"


def _confidences(spread: Sequence[_Json]) -> str:
    """How sure the steps of an incident's spread are, counted."""
    counts = Counter(step["confidence"] for step in spread)
    named = [name for name in ("certain", "likely", "possible", "decided") if counts[name]]
    steps = "step" if len(spread) == 1 else "steps"
    found = ", ".join(f"{counts[name]} {name}" for name in named)
    return f"{len(spread)} {steps} of its spread: {found}" if spread else "one alert, joined with no other"


def _few(values: Iterable[str]) -> str:
    """The first ten of some values, each once, and how many more there are."""
    found = [*dict.fromkeys(value for value in values if value)]
    return ", ".join(found[:10]) + (f" and {len(found) - 10:,} more" if len(found) > 10 else "")


def _object_rows(touched: Sequence[_Json], mark: str = "counted") -> Iterator[tuple[object, ...]]:
    for one in touched:
        yield (
            *(one[end][:19].replace("T", " ") for end in ("first", "last")),
            one["object"],
            one["did"],
            f"{one['count']:,}",
            mark if one["flagged"] else "",
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


def _template(layout: str, name: str) -> str:
    """A template with its lines joined; what the folder of a layout lacks is taken from the newest."""
    own = _TEMPLATES / layout / name
    path = own if own.exists() else _TEMPLATES / LAYOUTS[0] / name
    return re.sub(r"\n\s*", "", path.read_text(encoding="utf-8"))


_FILTERS: dict[str, Callable[..., Any]] = {
    "anchor": lambda name: name.lower().replace(" ", "-"),
    "by_part": _by_part,
    "checksum_rows": _checksum_rows,
    "columns": lambda rows, *names: [[row[name] for name in names] for row in rows],
    "confidences": _confidences,
    "counted": lambda counts: ", ".join(f"{count:,} {did}" for did, count in counts.items()),
    "duration": _duration,
    "few": _few,
    "indented": _indented,
    "ledger_rows": lambda lines: [
        (number + 1, line.hash, line.signature or "not signed") for number, line in sorted(lines.items())
    ],
    "moment": _moment,
    "object_rows": _object_rows,
    "people": lambda events: _few(event["record"]["principal"] for event in events),
    "scalars": lambda model: [
        (name, value)
        for name, value in model.items()
        if name != "card" and not isinstance(value, dict | list)
    ],
    "sources": lambda events: _few(event["record"]["source_ips"].partition(",")[0] for event in events),
    "span": _span,
    "steps": _steps,
    "techniques": lambda techniques: ", ".join(f"{one['id']} {one['name']}" for one in techniques),
    "thousands": lambda number: f"{number:,}",
    "timeline_rows": _timeline_rows,
    "timeline": partial(_timeline_rows, words=_ROLES | _PLAIN_ROLES),
    "to_second": _to_second,
    "trail_rows": _trail_rows,
    "what_of": what_of,
    "written": clock.written,
}


@cache
def environment(show: Callable[[str], str], layout: str) -> jinja2.Environment:
    """Templates in which every text passes through `show`, by lines where it has some."""

    def finalize(value: Any) -> Any:
        return show(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def lines(text: str) -> Markup:
        return Markup("\n").join(show(line) for line in text.split("\n"))

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(partial(_template, layout)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
    )
    made.filters |= _FILTERS | {"lines": lines}
    return made
