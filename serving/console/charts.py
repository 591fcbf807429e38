"""Pictures of figures, drawn on the server: pure functions from data to SVG, with the same figures as a table beneath.

A picture is stretched to the width there is; what is written beside it is text of the page, as large as all other text.
Colours are classes of `charts.css`, so that they follow the theme. Colour alone never carries meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any

from markupsafe import Markup

from serving.alerts.overview import AlertsAt
from serving.console.render import environment
from serving.console.when import zone_name

#: Shades of a heat map; 0 is nothing at all.
LEVELS = 5

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_HOURS = 24

#: Height of every drawing, in its own units.
_HIGH = 100.0


@dataclass(frozen=True, slots=True)
class ChartBar:
    """One stretch of time in a picture of surprise.

    Attributes:
        at: when it began.
        height: share of the threshold that was reached.
        middle: what is typical in it, as a share of what is usual.
        flagged: unusual actions in it.
        count: all actions in it.
    """

    at: datetime
    height: float
    middle: float
    flagged: int
    count: int


@dataclass(frozen=True, slots=True)
class ChartLine:
    """One line of a picture.

    Attributes:
        name: for the legend and the table.
        kind: its class in the style sheet: one, or two.
        values: one for each place on the axis.
    """

    name: str
    kind: str
    values: Sequence[float]


def level(count: int, most: int) -> int:
    """Shade of a count relative to the greatest: by its root, so that rare ones stay visible."""
    if not count:
        return 0
    return min(LEVELS - 1, 1 + int((LEVELS - 1) * (count / max(most, 1)) ** 0.5 * 0.999))


def _figure(name: str, title: str, summary: str, shapes: Iterable[Markup], **values: Any) -> Markup:
    """A chart out of `figure.html`, which says what further values it takes."""
    template = environment().get_template("figure.html")
    drawn = Markup("").join(shapes)
    return Markup(
        template.render(name=name, title=title, summary=summary, shapes=drawn, height=_HIGH, **values)
    )


# -- when ---------------------------------------------------------------------------------------------------------


def heat_map(name: str, week: Sequence[Sequence[int]]) -> Markup:
    """When a principal acts: days of the week by hours of the day, darker where there is more.

    Args:
        name: unique on the page.
        week: counts, seven days of twenty-four hours, Monday first, in UTC.
    """
    most = max(max(day) for day in week)
    high = _HIGH / len(_DAYS)
    cells = (
        Markup(
            '<rect class="heat heat-{}" x="{}" y="{:.3f}" width="0.92" height="{:.3f}">'
            "<title>{}, {:02d}:00 to {:02d}:00 UTC: {}</title></rect>"
        ).format(
            *(level(count, most), hour, row * high, high * 0.9),
            *(_DAYS[row], hour, (hour + 1) % 24, _events(count)),
        )
        for row, day in enumerate(week)
        for hour, count in enumerate(day)
    )
    rows = [(_DAYS[row], *(f"{count:,}" if count else "" for count in day)) for row, day in enumerate(week)]
    return _figure(
        name,
        "Hours of the week",
        _busiest(week),
        cells,
        plot="week",
        left=("days", _DAYS),
        below=("hours", ("0", "6", "12", "18")),
        kind="heat-map",
        width=_HOURS,
        shades=LEVELS,
        most=most,
        heads=("Day", *(f"{hour:02d}" for hour in range(_HOURS))),
        rows=rows,
    )


def _busiest(week: Sequence[Sequence[int]]) -> str:
    """What a map of hours shows, in a sentence."""
    total = sum(map(sum, week))
    if not total:
        return "It did nothing in this time."
    of_hours = [sum(day[hour] for day in week) for hour in range(_HOURS)]
    of_days = [sum(day) for day in week]
    weekend = sum(of_days[5:]) / total
    hour = max(range(_HOURS), key=of_hours.__getitem__)
    day = max(range(len(_DAYS)), key=of_days.__getitem__)
    active = sum(1 for count in of_hours if count)
    return (
        f"Most on {_DAYS[day]}s and between {hour:02d}:00 and {(hour + 1) % 24:02d}:00 UTC; active in {active} of 24 hours of "
        f"the day; {weekend:.0%} at weekends."
    )


def _events(count: int) -> str:
    return f"{count:,} event" + ("" if count == 1 else "s")


# -- how unusual --------------------------------------------------------------------------------------------------

#: Shares of the threshold that can be at the top of the picture: the least that is enough. What is higher than the last is cut
#: off, and marked as cut; the table has its height.
_TOPS = (2.0, 4.0, 8.0)


def surprise_bars(
    name: str, bars: Sequence[ChartBar], *, title: str, step: timedelta, until: datetime
) -> Markup:
    """How near a principal came to its threshold over time; a bar at or over the line was an alert.

    Args:
        name: unique on the page.
        bars: by time, at most one for each `step`.
        title: short.
        step: duration of a bar.
        until: end of the axis.
    """
    begin = bars[0].at
    places = max(int((until - begin) / step) + 1, 8)
    hourly = step < timedelta(days=1)
    nearest = max(bar.height for bar in bars)
    top = next((one for one in _TOPS if nearest <= one), _TOPS[-1])
    shapes = [
        _level_line(1.0 / top, places, "limit"),
        *(_level_line(share, places, "guide") for share in (0.25, 0.5, 0.75) if share != 1.0 / top),
    ]
    for bar in bars:
        place = int((bar.at - begin) / step)
        high = max(_HIGH * min(bar.height, top) / top, 0.8)
        words = (
            f"{_when(bar.at, hourly)}: reached {bar.height:.0%} of its threshold, {bar.flagged:,} unusual of "
            f"{bar.count:,} actions"
        )
        shapes.append(
            Markup(
                '<rect class="bar {}" x="{:.3f}" y="{:.3f}" width="0.76" height="{:.3f}"><title>{}</title></rect>'
            ).format("over" if bar.flagged else "under", place + 0.12, _HIGH - high, high, words)
        )
        if bar.height > top:
            shapes.append(Markup('<path class="cut" d="M{:.3f} 5l0.92 -3"/>').format(place + 0.04))
        middle = _HIGH - _HIGH * min(bar.middle, top) / top
        shapes.append(Markup('<path class="middle" d="M{:.3f} {:.3f}h0.92"/>').format(place + 0.04, middle))
    over = sum(1 for bar in bars if bar.flagged)
    greatest = max(bars, key=lambda bar: bar.height)
    alerts = (
        f"{over} of {len(bars)} {'hours' if hourly else 'days'} with alerts."
        if over
        else "No alert in this time."
    )
    moments = (begin, begin + step * (places // 2), begin + step * (places - 1))
    rows = [
        (
            _when(bar.at, hourly),
            f"{bar.height:.0%}",
            f"{bar.middle:.0%}",
            f"{bar.flagged:,}",
            f"{bar.count:,}",
        )
        for bar in reversed(bars)
    ]
    swatches = {
        "under": "nearest to an alert",
        "over": "alert",
        "middle": "typical action",
        "limit": "threshold",
    }
    return _figure(
        name,
        title,
        f"Nearest {_when(greatest.at, hourly)}, with {greatest.height:.0%} of the threshold. {alerts}",
        shapes,
        plot="over-time",
        left=("levels", [f"{top * part:.0%}" for part in (1, 0.75, 0.5, 0.25)] + ["0"]),
        below=("moments", [_when(at, hourly) for at in moments]),
        kind="surprise",
        width=places,
        legend=swatches.items(),
        heads=("Hour (UTC)" if hourly else "Day (UTC)", "Nearest", "Typical", "Unusual actions", "Actions"),
        rows=rows,
    )


def _level_line(share: float, width: float, kind: str) -> Markup:
    return Markup('<path class="{}" d="M0 {:.3f}H{:g}"/>').format(kind, _HIGH * (1 - share), width)


def _when(at: datetime, hourly: bool) -> str:
    return f"{at.day} {at:%b %H:%M}" if hourly else f"{at.day} {at:%b}"


# -- how many -----------------------------------------------------------------------------------------------------

#: From the bottom of a bar upwards.
_BY_SEVERITY = ("low", "medium", "high", "critical")


def severity_bars(
    name: str, steps: Sequence[AlertsAt], *, title: str, step: timedelta, zone: tzinfo
) -> Markup:
    """Alerts over time, each bar parted by severity, the most severe on top.

    Args:
        name: unique on the page.
        steps: one for each stretch of time, also those without an alert.
        title: short.
        step: length of a stretch.
        zone: in which hours are written; days are those of UTC, by which they were counted.
    """
    hourly = step < timedelta(days=1)
    most = max((one.total for one in steps), default=0)
    top = _round_up(most)
    shapes = [
        Markup('<path class="guide" d="M0 {:.3f}H{:g}"/>').format(_HIGH * part, len(steps))
        for part in (0.0, 0.5, 1.0)
    ]
    names = []
    for place, one in enumerate(steps):
        at = one.at.astimezone(zone) if hourly else one.at
        names.append(_when(at, hourly))
        words = ", ".join(f"{getattr(one, key)} {key}" for key in reversed(_BY_SEVERITY) if getattr(one, key))
        below = _HIGH
        for key in _BY_SEVERITY:
            if number := getattr(one, key):
                high = _HIGH * number / top
                below -= high
                shapes.append(
                    Markup(
                        '<rect class="rated {}" x="{:.3f}" y="{:.3f}" width="0.76" height="{:.3f}"/>'
                    ).format(key, place + 0.12, below, high)
                )
        title_of = f"{names[-1]}: {words or 'no alert'}"
        shapes.append(
            Markup('<rect class="feel" x="{}" y="0" width="1" height="{:g}"><title>{}</title></rect>').format(
                place, _HIGH, title_of
            )
        )
    total = sum(one.total for one in steps)
    busiest = max(range(len(steps)), key=lambda place: steps[place].total) if steps else 0
    unit = "hour" if hourly else "day"
    summary = (
        f"{total:,} alert{'' if total == 1 else 's'}; most in the {unit} of {names[busiest]}: {most:,}."
        if total
        else "No alert in this time."
    )
    head = f"Hour ({zone_name(zone)})" if hourly else "Day (UTC)"
    return _figure(
        name,
        title,
        summary,
        shapes,
        plot="over-time",
        left=("levels", (f"{top:,}", f"{top / 2:,g}", "0")),
        below=("moments", [names[0], names[len(names) // 2], names[-1]] if len(names) > 2 else names),
        kind="severities",
        width=max(len(steps), 1),
        legend=[(f"rated {key}", key) for key in reversed(_BY_SEVERITY)],
        heads=(head, *reversed(_BY_SEVERITY)),
        rows=[
            (names[place], *(getattr(one, key) or "" for key in reversed(_BY_SEVERITY)))
            for place, one in reversed(list(enumerate(steps)))
            if one.total
        ],
    )


def _round_up(number: int) -> int:
    """The next number of 2, 4, 6, 10, 20, 40 and so on, which can be halved on an axis."""
    size = 1
    while number > 10 * size:
        size *= 10
    return next(step * size for step in (2, 4, 6, 10) if number <= step * size)


# -- how much ------------------------------------------------------------------------------------------------------


def bar(share: float, kind: str = "") -> Markup:
    """A small bar beside a number that says the same; `share` of its whole length is filled."""
    return Markup(
        '<svg class="share {}" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        '<rect class="rest" width="100" height="8"/><rect class="part" width="{:.1f}" height="8"/></svg>'
    ).format(kind, 100 * max(0.0, min(share, 1.0)))


def lines(
    name: str,
    drawn: Sequence[ChartLine],
    *,
    title: str,
    summary: str,
    places: Sequence[str],
    ticks: Sequence[str],
    mark: int | None,
    marked: str,
    rows: Iterable[Sequence[object]],
    heads: Sequence[str],
    shown: Callable[[float], str],
) -> Markup:
    """Lines over places that are evenly spread, such as thresholds.

    Args:
        name: unique on the page.
        drawn: what is drawn.
        title, summary: short, and what can be seen.
        places: names of the places.
        ticks: of them, evenly spread, those that are written.
        mark: place at which something is marked, and
        marked: what.
        rows, heads: the table.
        shown: how a value is written on the axis.
    """
    most = max((max(line.values, default=0.0) for line in drawn), default=0.0) or 1.0
    width = max(len(places) - 1, 1)
    legend = [(f"line {line.kind}", line.name) for line in drawn]
    shapes = [
        Markup('<path class="guide" d="M0 {:.3f}H{}"/>').format(_HIGH * part, width)
        for part in (0.02, 0.5, 0.98)
    ]
    if mark is not None:
        shapes.append(Markup('<path class="limit" d="M{} 0V{:g}"/>').format(mark, _HIGH))
        legend.append(("limit", marked))
    for line in drawn:
        points = " ".join(
            f"{place},{_HIGH * (0.98 - 0.96 * value / most):.3f}" for place, value in enumerate(line.values)
        )
        shapes.append(Markup('<polyline class="line {}" points="{}"/>').format(line.kind, points))
    # Invisible, and wide enough to be found with a pointer.
    for place, where in enumerate(places):
        values = ", ".join(f"{line.name} {shown(line.values[place])}" for line in drawn)
        shapes.append(
            Markup(
                '<rect class="feel" x="{:.2f}" y="0" width="1" height="{:g}"><title>{}: {}</title></rect>'
            ).format(place - 0.5, _HIGH, where, values)
        )
    return _figure(
        name,
        title,
        summary,
        shapes,
        plot="over-time",
        left=("levels", (shown(most), shown(most / 2), "0")),
        below=("moments", ticks),
        kind="lines",
        width=width,
        legend=legend,
        heads=heads,
        rows=rows,
    )
