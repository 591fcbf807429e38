from __future__ import annotations

import itertools

import pytest
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from data import work_progress
from data.work_progress import WorkProgress


def bar(disable: bool = False) -> WorkProgress:
    return WorkProgress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), disable=disable)


def work(shown: WorkProgress) -> None:
    seconds = itertools.count()
    shown.get_time = lambda: float(next(seconds))
    with shown:
        task = shown.add_task("reading log", total=4)
        shown.advance(task)
        shown.update(task, completed=3)
        shown.update(task, completed=4)


def test_a_log_gets_lines_on_standard_error_until_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(work_progress, "EVERY", 0.0)
    work(bar())
    output, errors = capsys.readouterr()
    assert output == ""
    first, second = errors.splitlines()
    assert first.startswith("reading log 25%")
    assert second.startswith("reading log 75%")
    assert second.endswith(" left")


def test_short_work_says_nothing_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    work(bar())
    assert capsys.readouterr() == ("", "")


def test_what_is_disabled_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(work_progress, "EVERY", 0.0)
    work(bar(disable=True))
    assert capsys.readouterr() == ("", "")
