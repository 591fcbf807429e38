"""The table of strict figures: every recording in columns of its own, never mixed."""

from typing import Any

from benchmarks.transplants import curve, markdown, show
from training.evaluation.alone import figures
from training.evaluation.plots import learning_curve
from training.evaluation.strict_replay import FalseIncident, Outcome, Replayed
from training.evaluation.transplants import Case


def judged(seen: int, of: int, false: int) -> dict[str, Any]:
    """Figures of a recording with so many runs seen, as they were and as transplants, and so many false incidents."""
    cases = [
        Case(run, f"scenario {run}", "family", "attack", "generic", "same", (f"who-{run}",))
        for run in range(of)
    ]
    outcomes = [Outcome(run < seen, 1 if run < seen else None, 1.0, "high", 1) for run in range(of)]
    incidents = [FalseIncident("ann", "human", 0, 1, 0, "low", "get pods", 1.5, 2.0, 2.0, [], [])] * false
    found = Replayed(
        [*outcomes, *outcomes], {}, incidents, {"human": 10_000, "node": 1_000_000}, {"human": false}
    )
    return figures(cases, cases, found)


def test_recordings_stand_side_by_side() -> None:
    table = markdown({"first": judged(3, 4, 2), "second": judged(1, 4, 0)})
    lines = [line.split(" | ") for line in table.splitlines()]
    assert "first: runs alone | first: transplants | second: runs alone | second: transplants" in table
    assert {len(line) for line in lines} == {5}
    recall = next(line for line in lines if line[0] == "| recall")
    assert [cell[:3] for cell in recall[1:]] == ["75%", "75%", "25%", "25%"]
    assert "| strict false incidents per 10,000 | 2.00 | - | 0.00 | - |" in table


def test_a_learning_curve_is_drawn_of_figures_by_minutes() -> None:
    found = {
        f"dev, {minutes} minutes of log": judged(seen, 4, false)
        for minutes, seen, false in ((2, 1, 3), (30, 4, 1))
    }
    rows = curve(found)
    assert rows == {"dev": [(2.0, 0.25, 0.25, 3.0), (30.0, 1.0, 1.0, 1.0)]}
    recall, false = learning_curve(rows).axes
    assert [list(line.get_ydata()) for line in recall.lines] == [[0.25, 1.0], [0.25, 1.0]]
    assert list(false.lines[0].get_ydata()) == [3.0, 1.0]


def test_each_false_incident_is_listed(capsys: Any) -> None:
    show({"first": judged(1, 1, 2)})
    assert (
        capsys.readouterr().out.count("low: ann, 1970-01-01T00:00:00Z, 1 flagged, 1.50 times the threshold")
        == 2
    )
