"""An incident's graph as a picture: who came from where, as whom, and what was touched, in layers from left to right.

The layout is ours: a layer for addresses, one for each step from credential to credential, one for what was touched and one for
automatic follow-ups. Within a layer, nodes are put near those that they are connected with. What is alike is drawn as one, so
that an incident of thousands of actions stays readable; the list beside the picture leaves nothing out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup, escape

from serving.console.render import count, events_url, object_url, principal_url, visible
from serving.incidents.graph import Edge, Graph, Node
from serving.incidents.links import ANY

_MOST_OBJECTS, _MOST_FOLLOWING, _MOST_OTHERS = 10, 5, 4
_HEIGHT, _ACROSS, _DOWN, _MARGIN = 42, 72, 10, 16
_WIDTHS = {"origin": 144, "principal": 208, "object": 208, "consequence": 168}

#: Height of the gap through which a line passes a layer: without it, it would seem to begin at a box that it
#: passes under.
_WAY = 8

#: Width of a letter of a name, and of what stands under it, in the picture's units: what the widest common font needs on
#: average. What is wider still is cut off at the box.
_LETTER, _SMALL_LETTER = 7.4, 6.3
#: Height of a label beside a line, and how far one that would cover another is moved.
_LABEL = 12
_SWEEPS = 6
_ACCOUNT = "system:serviceaccount:"

#: How the story names the end of a link that may be any of several accounts.
_ALL = f"service accounts {_ACCOUNT}"
_SURE = {"certain": 2, "likely": 1, "possible": 0}
_ROLES = {
    "source": "where it began",
    "suspect": "acted out of habit",
    "reached": "may be acted as now",
    "touched": "",
    "origin": "address",
    "consequence": "automatic follow-up",
}


@dataclass(slots=True)
class _Box:
    """A node of the picture: one of the graph's, or several that are alike."""

    key: str
    kind: str
    role: str
    name: str
    whole: str
    actions: int
    layer: int = 0
    row: float = 0.0
    x: float = 0.0
    y: float = 0.0
    width: int = 0
    height: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    url: str = ""


@dataclass(slots=True)
class _Label:
    """What stands beside a line; `x` is its middle, `y` its base."""

    x: float
    y: float
    text: str


@dataclass(slots=True)
class _GraphLine:
    """An edge of the picture, with all edges of the graph that it stands for."""

    source: str
    target: str
    kind: str
    number: int
    sure: str
    link: bool
    why: str
    ways: list[_Box] = field(default_factory=list)


def draw(graph: Graph, ident: str = "graph") -> Markup:
    """The picture, each box a link to what was done by, from or with it; empty where there is nothing to draw.

    Args:
        graph: of an incident.
        ident: begins the IDs of its title and description.
    """
    boxes, lines = _simplified(graph)
    if not boxes:
        return Markup("")
    layers = _arranged(boxes, lines)
    width, height = _placed(layers)
    by_key = {box.key: box for box in boxes}
    labels: list[_Label] = []
    parts = [_drawn_line(line, by_key[line.source], by_key[line.target], labels) for line in lines]
    parts += [_drawn_box(box) for box in boxes]
    parts += _drawn_labels(labels)  # last, so that no line runs through them
    return Markup(
        '<svg class="graph" role="group" aria-labelledby="{0}-title {0}-text" viewBox="0 0 {1} {2}" width="{1}" height="{2}">'
        '<title id="{0}-title">How it spread</title><desc id="{0}-text">{3}</desc>'
        '<defs><marker id="{0}-tip" class="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 .6L7.4 4 0 7.4z"/></marker></defs>{4}</svg>'
    ).format(ident, round(width), round(height), _described(boxes, lines), Markup("").join(parts))


# -- what is drawn as one -----------------------------------------------------------------------------------------


def _simplified(graph: Graph) -> tuple[list[_Box], list[_GraphLine]]:
    """Boxes and lines, with what is alike drawn as one where there would be too many."""
    inward: dict[str, set[str]] = defaultdict(set)
    for edge in graph.edges:
        inward[edge.target].add(edge.source)
    kinds: dict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        kinds[node.kind].append(node)
    group: dict[str, tuple[str, str]] = {}
    for node in [*kinds["origin"], *kinds["principal"]]:
        group[node.id] = (node.id, _short(node.name))
    leading = {node.id: node.role in ("source", "suspect") for node in kinds["principal"]}
    others = [node for node in kinds["principal"] if not leading[node.id]]
    if len(others) > _MOST_OTHERS:
        for node in others:
            group[node.id] = ("principal:others", f"{len(others):,} more accounts")
    ways: list[Callable[[Node], tuple[str, ...]]] = [
        lambda node: (*_place(node), *sorted(inward[node.id])),
        lambda node: (_place(node)[0], *sorted(inward[node.id])),
    ]
    _group(kinds["object"], _MOST_OBJECTS, group, ways)
    # What followed belongs below what it followed from; of the same kind it is one.
    _group(kinds["consequence"], _MOST_FOLLOWING, group, [lambda node: (node.name,)])

    boxes: dict[str, _Box] = {}
    held: dict[str, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        held[group[node.id][0]].append(node)
    for key, nodes in held.items():
        first, actions = nodes[0], sum(node.actions for node in nodes)
        whole = _and([node.name for node in nodes], 12)
        boxes[key] = _Box(key, first.kind, first.role, group[first.id][1], whole, actions, url=_url(nodes))
    lines: dict[tuple[str, str, str], _GraphLine] = {}
    for edge in graph.edges:
        if edge.source not in group or edge.target not in group:
            continue
        source, target = group[edge.source][0], group[edge.target][0]
        if source == target:
            continue
        link = boxes[source].kind == boxes[target].kind == "principal"
        first_line = _GraphLine(source, target, edge.kind, 0, edge.confidence, link, edge.why)
        line = lines.setdefault((source, target, edge.kind if link else ""), first_line)
        line.number += edge.count
        if _SURE[edge.confidence] > _SURE[line.sure]:
            line.sure, line.why = edge.confidence, edge.why
        outcomes = boxes[target].outcomes
        outcomes[edge.kind] = outcomes.get(edge.kind, 0) + edge.count
    return list(boxes.values()), list(lines.values())


def _url(nodes: Sequence[Node]) -> str:
    """Where a box leads: the page of a principal, or the search of what was done with an object or from an address."""
    first = nodes[0]
    since = min(node.first_seen for node in nodes)
    if first.kind == "principal":
        return "" if len(nodes) > 1 or first.name.endswith(ANY) else principal_url(first.name)
    if first.kind == "origin":
        return events_url(since, address=first.name)
    if first.kind == "consequence":
        return object_url(since, first.name.partition("/")[0])
    places = {_place(node) for node in nodes}
    resource, namespace = _place(first)
    if resource == "path" or len({place[0] for place in places}) > 1:
        return ""
    name = first.name.partition(" ")[2].rpartition("/")[2] if len(nodes) == 1 else ""
    return object_url(since, resource, namespace if len(places) == 1 else "", "" if name == "*" else name)


def _place(node: Node) -> tuple[str, str]:
    """Kind and namespace of an object; "" for one without."""
    resource, _, name = node.name.partition(" ")
    return resource, name.partition("/")[0] if "/" in name else ""


def _group(
    nodes: Sequence[Node],
    most: int,
    group: dict[str, tuple[str, str]],
    ways: Sequence[Callable[[Node], tuple[str, ...]]],
) -> None:
    """Put nodes together by the first of several ways that leaves few enough; after the last one, the least busy are one."""
    if len(nodes) <= most:
        for node in nodes:
            group[node.id] = (node.id, _short(node.name))
        return
    for way in ways:
        together: dict[tuple[str, ...], list[Node]] = defaultdict(list)
        for node in nodes:
            together[way(node)].append(node)
        if len(together) <= most:
            break
    ordered = sorted(together.values(), key=lambda alike: -sum(node.actions for node in alike))
    rest = [node for alike in ordered[most - 1 :] for node in alike] if len(ordered) > most else []
    for alike in ordered[: most - 1] if rest else ordered:
        first = alike[0]
        name = _short(first.name) if len(alike) == 1 else f"{_common(alike)} ({len(alike):,})"
        for node in alike:
            group[node.id] = (first.id, name)
    for node in rest:
        group[node.id] = (rest[0].id, f"{len(rest):,} others")


def _common(nodes: Sequence[Node]) -> str:
    """What several nodes have in common in their names: resource, and namespace if it is one."""
    resource = _place(nodes[0])[0]
    places = {_place(node)[1] for node in nodes}
    place = places.pop() if len(places) == 1 else ""
    return f"{resource} in {place}" if place else resource


def _short(name: str) -> str:
    """A service account as `namespace:name`, all of a namespace in words, anything else as it is."""
    if name.startswith(_ALL):
        place = name.removeprefix(_ALL).removesuffix(ANY).rstrip(":")
        return f"all accounts in {place}" if place else "all service accounts"
    if name.endswith(("/*", " *")):
        kind, _, place = name.removesuffix("*").rstrip("/ ").partition(" ")
        return f"all {kind} in {place}" if place else f"all {kind}"
    return name.removeprefix(_ACCOUNT)


# -- where it stands ----------------------------------------------------------------------------------------------


def _arranged(boxes: Sequence[_Box], lines: Sequence[_GraphLine]) -> list[list[_Box]]:
    """Boxes by layer, in an order within it that keeps connected ones near to each other."""
    by_key = {box.key: box for box in boxes}
    steps = _steps(boxes, lines)
    deepest = max((steps[box.key] for box in boxes if box.role in ("source", "suspect")), default=0)
    for box in boxes:
        # An account that was only reached stands with what was touched: nothing leads on from there.
        kind = "object" if box.kind == "principal" and box.role == "reached" else box.kind
        box.layer = {
            "origin": 0,
            "principal": 1 + steps.get(box.key, 0),
            "object": 2 + deepest,
            "consequence": 3 + deepest,
        }[kind]
    used = sorted({box.layer for box in boxes})
    layers: list[list[_Box]] = [[box for box in boxes if box.layer == layer] for layer in used]
    for box in boxes:
        box.layer = used.index(box.layer)
    near: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        _lead(line, by_key, layers)
        stations = [line.source, *(way.key for way in line.ways), line.target]
        for one, other in pairwise(stations):
            near[one].append(other)
            near[other].append(one)
    for layer in layers:
        _number(layer)
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        for layer in layers if forward else reversed(layers):
            weights: dict[str, float] = {}
            for box in layer:
                rows = [
                    by_key[other].row / max(len(layers[by_key[other].layer]), 1)
                    for other in near[box.key]
                    if (by_key[other].layer < box.layer) == forward and by_key[other].layer != box.layer
                ]
                weights[box.key] = sum(rows) / len(rows) if rows else box.row / max(len(layer), 1)
            layer.sort(key=lambda box: (weights[box.key], box.key))
            _number(layer)
    return layers


def _number(layer: Sequence[_Box]) -> None:
    for row, box in enumerate(layer):
        box.row = float(row)


def _lead(line: _GraphLine, by_key: dict[str, _Box], layers: Sequence[list[_Box]]) -> None:
    """Give a line a gap in each layer that it passes; lines of one source share theirs."""
    for at in range(by_key[line.source].layer + 1, by_key[line.target].layer):
        key = f"way:{at}:{line.source}"
        way = by_key.get(key)
        if way is None:
            way = by_key[key] = _Box(key, "way", "", "", "", 0, layer=at)
            layers[at].append(way)
        line.ways.append(way)


def _steps(boxes: Sequence[_Box], lines: Sequence[_GraphLine]) -> dict[str, int]:
    """How many links each principal is away from where it began; 0 for those that nothing leads to."""
    principals = [box for box in boxes if box.kind == "principal"]
    leads: dict[str, list[str]] = defaultdict(list)
    reached: set[str] = set()
    for line in lines:
        if line.link:
            leads[line.source].append(line.target)
            reached.add(line.target)
    waiting = [box.key for box in principals if box.role == "source" or box.key not in reached]
    steps = dict.fromkeys(waiting, 0)
    for key in waiting:  # grows while it is walked
        for other in leads[key]:
            if other not in steps:
                steps[other] = steps[key] + 1
                waiting.append(other)
    return {box.key: steps.get(box.key, 0) for box in principals}


def _placed(layers: Sequence[Sequence[_Box]]) -> tuple[float, float]:
    """Give every box its place; returns the size of the whole."""
    for layer in layers:
        wide = max(_WIDTHS.get(box.kind, 0) for box in layer)
        for box in layer:
            way = box.kind == "way"
            box.width, box.height = (wide, _WAY) if way else (_WIDTHS[box.kind], _HEIGHT)
    heights = [sum(box.height + _DOWN for box in layer) - _DOWN for layer in layers]
    x = float(_MARGIN)
    for layer, own in zip(layers, heights, strict=True):
        y = _MARGIN + (max(heights) - own) / 2
        for box in layer:
            box.x, box.y = x, y
            y += box.height + _DOWN
        x += max(box.width for box in layer) + _ACROSS
    return x - _ACROSS + _MARGIN, max(heights) + 2 * _MARGIN


# -- how it looks -------------------------------------------------------------------------------------------------


def _drawn_line(line: _GraphLine, source: _Box, target: _Box, labels: list[_Label]) -> Markup:
    """A line; what stands beside it is added to the labels."""
    ahead = target.layer > source.layer
    begin_x, begin_y = source.x + source.width, source.y + source.height / 2
    end_x, end_y = (target.x if ahead else target.x + target.width), target.y + target.height / 2
    path = f"M{begin_x:.0f} {begin_y:.0f}"
    for way in line.ways:
        y = way.y + way.height / 2
        path += curve(begin_x, begin_y, way.x, y) + f"H{way.x + way.width:.0f}"
        begin_x, begin_y = way.x + way.width, y
    if ahead:
        path += curve(begin_x, begin_y, end_x - 2, end_y)
    else:
        out = max(begin_x, end_x) + 46
        path += f"C{out:.0f} {begin_y:.0f} {out:.0f} {end_y:.0f} {end_x + 2:.0f} {end_y:.0f}"
    classes = f"line {line.sure}" + (" tie" if line.link else "") + f" to-{target.kind}"
    if line.link:
        # Nearer to where it leads, as several lines begin at the same place.
        x, y = (begin_x + end_x) / 2, begin_y + 0.72 * (end_y - begin_y)
        if not ahead:
            x = max(begin_x, end_x) + 34
        labels.append(_Label(x, y - 5, line.kind))
    title = (
        f"{source.name} → {target.name}: {line.kind}, {count(line.number, 'time')}, {line.sure}: {line.why}"
    )
    return Markup('<g class="{}"><title>{}</title><path d="{}" marker-end="url(#graph-tip)"/></g>').format(
        classes, visible(title), path
    )


def _drawn_labels(labels: Sequence[_Label]) -> list[Markup]:
    """Labels, moved up where they would cover one another."""
    placed: list[_Label] = []
    for label in sorted(labels, key=lambda one: (-one.y, one.x)):
        while any(_covers(label, other) for other in placed):
            label.y -= _LABEL
        placed.append(label)
    return [
        Markup('<text class="by" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            round(one.x), round(max(one.y, _LABEL)), one.text
        )
        for one in placed
    ]


def _covers(one: _Label, other: _Label) -> bool:
    reach = (len(one.text) + len(other.text)) * _SMALL_LETTER / 2
    return abs(one.x - other.x) < reach and abs(one.y - other.y) < _LABEL


def curve(begin_x: float, begin_y: float, end_x: float, end_y: float) -> str:
    """A curve that begins and ends level, as a part of an SVG path."""
    middle = (begin_x + end_x) / 2
    return f"C{middle:.0f} {begin_y:.0f} {middle:.0f} {end_y:.0f} {end_x:.0f} {end_y:.0f}"


def _drawn_box(box: _Box) -> Markup:
    what = _ROLES.get(box.role, "")
    room = box.width - 24
    if box.kind == "object":
        what = ", ".join(f"{action} {number:,}×" for action, number in list(box.outcomes.items())[:3])
    elif box.kind == "consequence":
        what = f"{what}, {box.actions:,}×"
    elif box.kind == "principal" and box.actions:
        what = f"{what}, {count(box.actions, 'action')}"
    drawn = Markup(
        '<g class="box {} {}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="{}"/>'
        '<svg x="{}" y="{}" width="{}" height="{}"><text class="name" x="0" y="18">{}</text>'
        '<text class="what" x="0" y="33">{}</text></svg></g>'
    ).format(
        f"is-{box.kind}",
        f"is-{box.role}",
        visible(box.whole),
        round(box.x),
        round(box.y),
        box.width,
        box.height,
        box.height // 2 if box.kind == "origin" else 7,
        round(box.x + 14),
        round(box.y),
        round(room),
        box.height,
        fit(visible(box.name), int(room / _LETTER)),
        fit(visible(what), int(room / _SMALL_LETTER)),
    )
    return Markup('<a href="{}">{}</a>').format(box.url, drawn) if box.url else drawn


def fit(text: str, letters: int) -> str:
    """A text that fits: its beginning and its end, which tell more than its middle."""
    if len(text) <= letters:
        return text
    tail = letters // 3
    return text[: letters - tail - 1] + "…" + text[-tail:]


def _described(boxes: Sequence[_Box], lines: Sequence[_GraphLine]) -> Markup:
    origins = [box.name for box in boxes if box.kind == "origin"]
    actors = [box.name for box in boxes if box.kind == "principal" and box.role in ("source", "suspect")]
    ends = (
        (line.source.partition(":")[2], line.target.partition(":")[2], line.kind)
        for line in lines
        if line.link
    )
    links = [f"{source} to {target} ({kind})" for source, target, kind in ends]
    touched = [box.name for box in boxes if box.kind == "object"]
    parts = [
        f"From {_and(origins)}" if origins else "",
        f"as {_and(actors)}" if actors else "",
        f"on to other accounts: {_and(links)}" if links else "",
        f"touching {_and(touched)}" if touched else "",
    ]
    text = "; ".join(part for part in parts if part)
    return escape(visible(f"{text}. The table below says the same in words."))


def _and(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def listed(graph: Graph) -> list[tuple[str, Edge, str]]:
    """Every edge with the names of its ends, in order of time."""
    names = {node.id: node.name for node in graph.nodes}
    return [
        (names.get(edge.source, edge.source), edge, names.get(edge.target, edge.target))
        for edge in sorted(graph.edges, key=lambda edge: edge.first_seen)
    ]
