"""Pictures tell what their figures say, to who sees them and to who does not, and nothing in them can become markup."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from serving.alerts.overview import AlertsAt
from serving.console import charts

START = datetime(2026, 11, 23, tzinfo=UTC)
SVG = "{http://www.w3.org/2000/svg}"


def week(**counts: int) -> list[list[int]]:
    """A week in which something happened in some hours, written d3h14=5."""
    made = [[0] * 24 for _ in range(7)]
    for place, count in counts.items():
        day, hour = map(int, re.fullmatch(r"d(\d)h(\d+)", place).groups())  # type: ignore[union-attr]
        made[day][hour] = count
    return made


def drawing(figure: str) -> ElementTree.Element:
    """The picture in a figure, as a browser's parser would take it."""
    found = re.search(r"<svg class=\"drawing.*?</svg>", figure, re.DOTALL)
    assert found is not None
    return ElementTree.fromstring(found[0].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def bars(count: int = 3, **more: float) -> list[charts.ChartBar]:
    return [
        charts.ChartBar(
            START + timedelta(days=n), more.get(f"h{n}", 0.25), 0.5, 1 if more.get(f"h{n}", 0) >= 1 else 0, 10
        )
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "most", "level"),
    [(0, 0, 0), (0, 100, 0), (1, 100, 1), (1, 1, 4), (100, 100, 4), (30, 100, 3), (5, 100, 1)],
)
def test_what_happened_is_never_shown_as_nothing_and_most_is_darkest(
    count: int, most: int, level: int
) -> None:
    assert charts.level(count, most) == level


def test_a_heat_map_has_a_cell_for_each_hour_and_its_figures_as_a_table() -> None:
    figure = charts.heat_map("week", week(d0h9=4, d0h10=16, d6h23=1))
    svg = drawing(figure)
    cells = svg.findall(f"{SVG}rect")
    assert len(cells) == 7 * 24
    darkest = [cell for cell in cells if "heat-4" in (cell.get("class") or "")]
    assert [cell.findtext(f"{SVG}title") for cell in darkest] == ["Monday, 10:00 to 11:00 UTC: 16 events"]
    assert cells[-1].findtext(f"{SVG}title") == "Sunday, 23:00 to 00:00 UTC: 1 event"
    assert "Most on Mondays and between 10:00 and 11:00 UTC; active in 3 of 24 hours" in figure
    assert "5% at weekends" in figure
    assert figure.count("<tr>") == 8
    assert '<th scope="row">Monday</th>' in figure


def test_a_week_without_anything_is_said_and_drawn() -> None:
    assert "did nothing" in charts.heat_map("week", week())


def test_every_picture_has_a_name_and_a_description() -> None:
    until = START + timedelta(days=2)
    for figure in (
        charts.heat_map("one", week(d0h0=1)),
        charts.surprise_bars("two", bars(), title="Nearest", step=timedelta(days=1), until=until),
        charts.lines(
            "three", [charts.ChartLine("alerts", "one", [3.0, 1.0])], title="Alerts", summary="Fewer.", places=["1", "2"],
            ticks=["1", "2"], mark=0, marked="now", rows=[("1", 3), ("2", 1)], heads=("Threshold", "Alerts"), shown=str,
        ),
    ):  # fmt: skip
        svg = drawing(figure)
        assert svg.get("role") == "img"
        names = str(svg.get("aria-labelledby")).split()
        texts = {child.get("id"): child.text for child in svg if child.get("id")}
        assert all(texts[name] for name in names)
        assert "<table>" in figure
        assert "style=" not in figure  # the console's policy allows none


def test_a_bar_that_was_an_alert_reaches_over_the_line_and_says_so() -> None:
    until = START + timedelta(days=2)
    figure = charts.surprise_bars(
        "s", bars(3, h1=1.5, h2=9.0), title="Nearest", step=timedelta(days=1), until=until
    )
    svg = drawing(figure)
    drawn = svg.findall(f"{SVG}rect")
    assert [bar.get("class") for bar in drawn] == ["bar under", "bar over", "bar over"]
    # The axis grows up to eight thresholds; beyond that a bar is cut, and marked as cut.
    assert [float(str(bar.get("height"))) for bar in drawn] == [3.125, 18.75, 100.0]
    assert len([path for path in svg.findall(f"{SVG}path") if path.get("class") == "cut"]) == 1
    assert "<span>800%</span>" in figure
    assert "Nearest 25 Nov, with 900% of the threshold. 2 of 3 days with alerts." in figure
    assert "900%" in figure[figure.index("<table>") :]
    quiet = charts.surprise_bars("s", bars(), title="Nearest", step=timedelta(days=1), until=until)
    assert "No alert in this time." in quiet
    assert 'class="cut"' not in quiet
    assert "<span>200%</span>" in quiet


def test_alerts_over_time_are_parted_by_severity_and_add_up() -> None:
    steps = [
        AlertsAt(at=START),
        AlertsAt(at=START + timedelta(hours=1), low=2, high=3, critical=1),
        AlertsAt(at=START + timedelta(hours=2), medium=1),
    ]
    figure = charts.severity_bars("a", steps, title="Alerts", step=timedelta(hours=1), zone=UTC)
    parts = [
        (str(bar.get("class")), float(str(bar.get("y"))), float(str(bar.get("height"))))
        for bar in drawing(figure).findall(f"{SVG}rect")
        if str(bar.get("class")).startswith("rated")
    ]
    # The top of the axis is the next number that can be halved; parts stand on one another without a gap.
    assert [one[0] for one in parts] == ["rated low", "rated high", "rated critical", "rated medium"]
    assert [one[2] for one in parts] == pytest.approx([100 / 3, 50, 100 / 6, 100 / 6], abs=1e-3)
    assert [one[1] for one in parts] == pytest.approx([200 / 3, 100 / 6, 0, 500 / 6], abs=1e-3)
    assert "7 alerts; most in the hour of" in figure
    assert "No alert in this time." in charts.severity_bars(
        "b", steps[:1], title="Alerts", step=timedelta(hours=1), zone=UTC
    )


def test_time_without_actions_leaves_a_gap() -> None:
    apart = [bars()[0], charts.ChartBar(START + timedelta(days=9), 0.1, 0.1, 0, 1)]
    figure = charts.surprise_bars("s", apart, title="t", step=timedelta(days=1), until=apart[-1].at)
    places = [float(str(bar.get("x"))) for bar in drawing(figure).findall(f"{SVG}rect")]
    assert places == [0.12, 9.12]


def test_lines_are_scaled_to_the_greatest_value_and_nothing_is_no_error() -> None:
    def made(values: list[float]) -> str:
        return charts.lines(
            "l", [charts.ChartLine("alerts", "one", values)], title="t", summary="w", places=["a", "b"], ticks=["a", "b"],
            mark=None, marked="", rows=[], heads=("x", "y"), shown=lambda value: f"{value:g}",
        )  # fmt: skip

    points = drawing(made([8.0, 4.0])).find(f"{SVG}polyline")
    assert points is not None
    assert points.get("points") == "0,2.000 1,50.000"
    assert drawing(made([0.0, 0.0])).find(f"{SVG}polyline") is not None


def test_texts_are_escaped_everywhere() -> None:
    evil = "<script>alert(1)</script>"
    figure = charts.lines(
        "l", [charts.ChartLine(evil, "one", [1.0])], title=evil, summary=evil, places=[evil], ticks=[evil], mark=0, marked=evil,
        rows=[(evil, evil)], heads=(evil, "y"), shown=lambda _value: evil,
    )  # fmt: skip
    assert "<script" not in figure


def test_a_small_bar_stays_within_its_length() -> None:
    assert 'width="100.0"' in charts.bar(7.0)
    assert 'class="part" width="0.0"' in charts.bar(-1.0)
    assert 'class="part" width="25.0"' in charts.bar(0.25)
