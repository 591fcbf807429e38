"""Lists on a terminal of each width, and in a pipe."""

from __future__ import annotations

import io

import pytest

from kubehabit.tables.alerts import alerts_table, incidents_table
from kubehabit.tables.screen import VisibleConsole

SENTENCE = "mallory@corp listed Secrets in payments: " + "it has never done so before, " * 6
ALERTS = {
    "alerts": [
        {
            "id": f"7d0c6a1f52b8e93{number}",
            "firstSeen": "2026-11-23T14:00:30.5Z",
            "severity": "high",
            "sentence": SENTENCE,
            "actionCount": 1200,
        }
        for number in range(3)
    ],
    "cursor": None,
}
INCIDENTS = {
    "incidents": [one | {"state": "open", "alertCount": 2, "mergedInto": None} for one in ALERTS["alerts"]],
    "cursor": "7",
}


def printed(part: object, width: int, *, terminal: bool) -> list[str]:
    out = io.StringIO()
    console = VisibleConsole(file=out, width=width, force_terminal=terminal, color_system=None)
    console.print(part, crop=False)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("table", [alerts_table(ALERTS), incidents_table(INCIDENTS)])
def test_a_pipe_gets_one_line_for_each_item_with_its_text_last(table: object) -> None:
    lines = [line for line in printed(table, 80, terminal=False) if "2026-11-23" in line]
    assert len(lines) == 3
    for number, line in enumerate(lines):
        assert line.endswith(SENTENCE)
        assert f"7d0c6a1f52b8e93{number}" in line[:60]
        assert not set("│┃━") & set(line)


@pytest.mark.parametrize("table", [alerts_table(ALERTS), incidents_table(INCIDENTS)])
def test_eighty_columns_are_enough(table: object) -> None:
    lines = printed(table, 80, terminal=True)
    assert max(map(len, lines)) <= 80
    widest = max(len(line.rstrip()) for line in lines if "never done" in line)
    assert widest > 60  # the sentence has the width, not a column of twenty
    assert " ".join(" ".join(lines).split()).count(" ".join(SENTENCE.split())) == 3


def test_a_wide_terminal_gets_a_framed_table() -> None:
    lines = printed(alerts_table(ALERTS), 140, terminal=True)
    assert {len(line) for line in lines} == {140}
    assert "what happened" in lines[1]
