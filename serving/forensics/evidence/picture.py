"""The graph of an incident as a picture in SVG: addresses, credentials, what was touched, what followed, from left to right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

_Json = Mapping[str, Any]

_COLUMNS = {
    "origin": "Source IP",
    "principal": "Credential of",
    "object": "What was touched",
    "consequence": "Automatic",
}
_WIDTH, _HEIGHT, _PITCH_X, _PITCH_Y, _TOP = 205, 40, 250, 50, 26
#: Boxes of a column; the rest are counted in one more.
_MOST = 7
_LONGEST = 29
_CONFIDENCES = ("certain", "likely", "possible")


class _Box:
    """A box of the picture, and the nodes that it stands for."""

    def __init__(self, kind: str, column: int, row: int, lines: Sequence[str], *, source: bool) -> None:
        self.kind = kind
        self.x, self.y = column * _PITCH_X, _TOP + row * _PITCH_Y
        self.lines = lines
        self.source = source

    def svg(self, show: Callable[[str], str]) -> Markup:
        """The box with its texts."""
        texts = Markup("").join(
            Markup('<text x="{}" y="{}">{}</text>').format(self.x + 9, self.y + 17 + 15 * place, show(line))
            for place, line in enumerate(self.lines)
        )
        return Markup('<g class="{}"><rect x="{}" y="{}" width="{}" height="{}" rx="5"/>{}</g>').format(
            "source" if self.source else self.kind, self.x, self.y, _WIDTH, _HEIGHT, texts
        )


def picture(graph: _Json, show: Callable[[str], str]) -> Markup:
    """The picture of a graph as the API gives it; no text without nodes.

    Args:
        graph: `nodes` and `edges`.
        show: makes each text visible.
    """
    boxes = _boxes(graph["nodes"])
    if not boxes:
        return Markup("")
    drawn = _edges(graph["edges"], boxes)
    bottom = max(box.y for box in boxes.values()) + _HEIGHT + 2
    heads = (
        Markup('<text class="head" x="{}" y="12">{}</text>').format(place * _PITCH_X, name)
        for place, name in enumerate(_COLUMNS.values())
    )
    width = (len(_COLUMNS) - 1) * _PITCH_X + _WIDTH
    return Markup(
        '<svg viewBox="-1 0 {} {}" role="img" aria-label="Graph of the incident">{}{}{}</svg>'
    ).format(
        width + 2,
        bottom,
        Markup("").join(heads),
        Markup("").join(drawn),
        Markup("").join(box.svg(show) for box in dict.fromkeys(boxes.values())),
    )


def _boxes(nodes: Sequence[_Json]) -> dict[str, _Box]:
    """ID of each node -> its box. Of a full column the last box stands for all that found no place."""
    columns: dict[str, list[_Json]] = defaultdict(list)
    for node in nodes:
        columns[node["kind"]].append(node)
    found: dict[str, _Box] = {}
    for column, kind in enumerate(_COLUMNS):
        # Python's sort is stable: within a rank the order of time stays.
        ordered = sorted(columns[kind], key=lambda node: (node["role"] != "source", -_rank(node)))
        own = ordered if len(ordered) <= _MOST else ordered[: _MOST - 1]
        for row, node in enumerate(own):
            first, _, last = node["name"].rpartition("/") if kind == "object" else ("", "", node["name"])
            lines = [_short(first), _short(last)] if first else [_short(last), _count(node)]
            found[node["id"]] = _Box(kind, column, row, lines, source=node["role"] == "source")
        if rest := ordered[len(own) :]:
            box = _Box(
                kind, column, len(own), [f"and {len(rest):,} more", "listed in the annex"], source=False
            )
            found |= {node["id"]: box for node in rest}
    return found


def _rank(node: _Json) -> int:
    return (
        ("", "low", "medium", "high").index(node["sensitivity"])
        if node["sensitivity"] in ("low", "medium", "high")
        else 0
    )


def _count(node: _Json) -> str:
    if node["role"] == "reached":
        return "treat as exposed"
    return f"{node['actions']:,} request{'' if node['actions'] == 1 else 's'}" if node["actions"] else ""


def _short(text: str) -> str:
    """The end of a text that does not fit its box: names differ at their ends."""
    return text if len(text) <= _LONGEST else "…" + text[1 - _LONGEST :]


def _edges(edges: Sequence[_Json], boxes: Mapping[str, _Box]) -> list[Markup]:
    """A line for each two boxes with an edge between them, drawn as the surest of their edges."""
    surest: dict[tuple[_Box, _Box], str] = {}
    for edge in edges:
        pair = boxes.get(edge["source"]), boxes.get(edge["target"])
        if pair[0] is None or pair[1] is None or pair[0] is pair[1]:
            continue
        known = surest.get((pair[0], pair[1]), "possible")
        surest[pair[0], pair[1]] = min(known, edge["confidence"], key=_CONFIDENCES.index)
    return [
        Markup('<path class="{}" d="{}"/>').format(escape(confidence), _line(source, target))
        for (source, target), confidence in surest.items()
    ]


def _line(source: _Box, target: _Box) -> str:
    """A curve from one box to another; around the right side where both are in one column."""
    y1, y2 = source.y + _HEIGHT // 2, target.y + _HEIGHT // 2
    if source.x == target.x:
        x = source.x + _WIDTH
        return f"M{x} {y1}C{x + 34} {y1} {x + 34} {y2} {x} {y2}"
    forward = target.x > source.x
    x1, x2 = (source.x + _WIDTH, target.x) if forward else (source.x, target.x + _WIDTH)
    middle = (x1 + x2) // 2
    return f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"
