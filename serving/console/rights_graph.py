"""Whom a user or group can become, as a picture: in steps from left to right, with what is reached in the same way as one box."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from markupsafe import Markup, escape

from detection.authorization.escalation import ADMIN, EscalationStep, RightsHolder
from detection.authorization.rbac import SERVICE_ACCOUNT
from serving.console.graph import curve, fit
from serving.console.render import count, visible

_WIDTH, _HEIGHT, _ACROSS, _DOWN, _MARGIN = 256, 44, 56, 10, 16
#: Boxes of one step, and users that are drawn each as a box of their own.
_MOST, _APART = 9, 2
_LETTER, _SMALL_LETTER = 7.4, 5.9
Paths = Mapping[RightsHolder, Sequence[EscalationStep]]


@dataclass(slots=True)
class _ReachBox:
    """A box of the picture: an identity, or several that are reached in the same way."""

    name: str
    how: str
    title: str
    look: str
    parent: _ReachBox | None = None
    url: str = ""
    x: float = 0.0
    y: float = 0.0


def subject_url(one: RightsHolder) -> str:
    """The page of the rights of a user or a group; empty for what has none."""
    return (
        "/console/rights/subject?" + urlencode([(one.kind, one.name)])
        if one.kind in ("user", "group")
        else ""
    )


def draw_paths(start: RightsHolder, paths: Paths) -> Markup:
    """The picture, each box of a user or group a link to its rights; empty if nobody else can be become."""
    if not paths:
        return Markup("")
    layers = _layers(start, paths)
    height = max(len(layer) for layer in layers) * (_HEIGHT + _DOWN) - _DOWN + 2 * _MARGIN
    for depth, layer in enumerate(layers):
        top = (height - len(layer) * (_HEIGHT + _DOWN) + _DOWN) / 2
        for row, box in enumerate(layer):
            box.x, box.y = _MARGIN + depth * (_WIDTH + _ACROSS), top + row * (_HEIGHT + _DOWN)
    width = len(layers) * (_WIDTH + _ACROSS) - _ACROSS + 2 * _MARGIN
    boxes = [box for layer in layers for box in layer]
    parts = [_line(box) for box in boxes if box.parent is not None] + [_drawn(box) for box in boxes]
    return Markup(
        '<svg class="graph" role="group" aria-labelledby="reach-title reach-text" viewBox="0 0 {0} {1}" width="{0}" height="{1}">'
        '<title id="reach-title">Whom it can become</title><desc id="reach-text">{2}</desc>'
        '<defs><marker id="reach-tip" class="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 .6L7.4 4 0 7.4z"/></marker></defs>{3}</svg>'
    ).format(width, round(height), _described(paths), Markup("").join(parts))


def _layers(start: RightsHolder, paths: Paths) -> list[list[_ReachBox]]:
    """Boxes by the number of steps that lead to them."""
    first = _ReachBox(short(start), "has these rights", start.name, "is-principal is-source")
    apart = {step.end for step in paths.get(ADMIN, ())}
    box_of: dict[RightsHolder, _ReachBox] = {start: first}
    layers = [[first]]
    by_depth: dict[int, list[EscalationStep]] = defaultdict(list)
    for path in paths.values():
        by_depth[len(path)].append(path[-1])
    for depth in range(1, max(by_depth) + 1):
        layer: list[_ReachBox] = []
        groups: dict[tuple[int, str, str], list[EscalationStep]] = defaultdict(list)
        for step in sorted(by_depth[depth], key=lambda one: (one.end not in apart, one.end)):
            parent = box_of[step.start]
            if step.end in apart:
                layer.append(_single(step, parent, box_of))
            else:
                groups[id(parent), step.how, step.end.kind].append(step)
        ordered = sorted(groups.values(), key=lambda alike: (-len(alike), alike[0].end))
        room = _MOST - len(layer)
        for alike in ordered[: room - 1] if len(ordered) > room else ordered:
            parent = box_of[alike[0].start]
            if len(alike) <= _APART:
                layer += [_single(step, parent, box_of) for step in alike]
            else:
                layer.append(_several(alike, parent, box_of, alike[0].how))
        if len(ordered) > room:
            rest = [step for alike in ordered[room - 1 :] for step in alike]
            layer.append(_several(rest, box_of[rest[0].start], box_of, "in several ways"))
        layers.append(layer)
    return layers


def _single(step: EscalationStep, parent: _ReachBox, box_of: dict[RightsHolder, _ReachBox]) -> _ReachBox:
    look = {"everything": "is-source", "user": "is-principal", "group": "is-principal"}.get(
        step.end.kind, "is-object"
    )
    title = f"{step.source} → {step.target}: {step.how}" + (
        f", by {step.grant.binding}" if step.grant else ""
    )
    box = box_of[step.end] = _ReachBox(short(step.end), step.how, title, look, parent, subject_url(step.end))
    return box


def _several(
    steps: Sequence[EscalationStep], parent: _ReachBox, box_of: dict[RightsHolder, _ReachBox], how: str
) -> _ReachBox:
    places = {place_of(step.end) for step in steps}
    where = (
        f"in {next(iter(places))}"
        if len(places) == 1 and "" not in places
        else f"in {len(places):,} namespaces"
    )
    kind = "account" if "" not in places else "other"
    name = f"{count(len(steps), kind)} {where if kind == 'account' else ''}".strip()
    title = ", ".join(short(step.end) for step in steps[:12]) + (
        f" and {len(steps) - 12:,} more" if len(steps) > 12 else ""
    )
    box = _ReachBox(name, how, title, "is-principal is-reached", parent)
    box_of.update((step.end, box) for step in steps)
    return box


def place_of(one: RightsHolder) -> str:
    """Namespace of a service account; empty for anything else."""
    return (
        one.name.removeprefix(SERVICE_ACCOUNT).partition(":")[0]
        if one.name.startswith(SERVICE_ACCOUNT)
        else ""
    )


def short(one: RightsHolder) -> str:
    """Its name as people say it."""
    if one == ADMIN:
        return "everything in the cluster"
    name = one.name.removeprefix(SERVICE_ACCOUNT)
    return f"group {name}" if one.kind == "group" else name


def _line(box: _ReachBox) -> Markup:
    source = box.parent
    assert source is not None
    begin_x, begin_y = source.x + _WIDTH, source.y + _HEIGHT / 2
    path = f"M{begin_x:.0f} {begin_y:.0f}" + curve(begin_x, begin_y, box.x - 2, box.y + _HEIGHT / 2)
    look = "line tie" if "is-source" in box.look else "line"
    return Markup('<g class="{}"><title>{}</title><path d="{}" marker-end="url(#reach-tip)"/></g>').format(
        look, visible(box.title), path
    )


def _drawn(box: _ReachBox) -> Markup:
    room = _WIDTH - 28
    drawn = Markup(
        '<g class="box {}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="7"/>'
        '<svg x="{}" y="{}" width="{}" height="{}"><text class="name" x="0" y="18">{}</text>'
        '<text class="what" x="0" y="34">{}</text></svg></g>'
    ).format(
        box.look,
        visible(box.title),
        *(round(box.x), round(box.y), _WIDTH, _HEIGHT),
        *(round(box.x + 14), round(box.y), room, _HEIGHT),
        fit(visible(box.name), int(room / _LETTER)),
        fit(visible(box.how), int(room / _SMALL_LETTER)),
    )
    return Markup('<a href="{}">{}</a>').format(box.url, drawn) if box.url else drawn


def _described(paths: Paths) -> Markup:
    way = paths.get(ADMIN)
    text = f"{count(len(paths), 'other')} can be become. "
    if way:
        text += (
            "The shortest way to everything: "
            + "; ".join(f"{short(one.end)} ({one.how})" for one in way)
            + ". "
        )
    return escape(visible(text + "The table below says the same in words."))
