"""The hours of people's weeks in a training log: the same as the service sees, and rare by the session."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from data.actions.attributes import HASHED
from data.actions.encoder import ActionSettings
from data.dataset.build import build
from data.dataset.table import ActionTable, load
from tests.data.samples import listing
from training import calibrate
from training.calibrate import HeldBack

MONDAY = datetime(2026, 11, 2)
#: Hours worked by day, and then a night after the two weeks.
DAYS = [(day, hour) for day in (0, 1, 2, 3, 4, 7, 8, 9, 10, 11) for hour in (9, 10, 11, 14, 16)]


def table_of(folder: Path, hours: list[tuple[int, int]]) -> ActionTable:
    """A dataset in which two people and a controller list pods every ten minutes of some hours, given as day and hour."""
    users = ("ann@example.com", "bob@example.com", "system:serviceaccount:kube-system:job-controller")
    times = [
        MONDAY + timedelta(days=day, hours=hour, minutes=10 * step)
        for day, hour in hours
        for step in range(6)
    ]
    log = folder / "log.jsonl"
    log.write_bytes(b"\n".join(listing(when, user) for when in times for user in users) + b"\n")
    build([log], folder / "dataset", settings=ActionSettings.shipped(), progress=False)
    return load(folder / "dataset")


@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_a_night_of_people_is_news_in_a_log_of_weeks(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "_CHUNK", chunk)
    table = table_of(tmp_path, [*DAYS, (14, 3)])
    held = HeldBack.from_table(table)
    assert table.width == held.deeds.levels.shape[1] == HASHED + 1
    nights = (table.time[held.rows] // 3_600_000_000) % 24 == 3
    people = np.array(held.deeds.kinds) == "human"
    assert nights.sum() == 18
    assert ((held.deeds.levels[:, HASHED] > 0) == (nights & people)).all()
    # Of each of two people three sessions a day from the sixth on, with 18 and twice 6 requests, and the night.
    assert held.rarity.hours is not None
    assert held.rarity.hours[0].tolist() == [2 * (3 * 5 + 1), 2 * (30 * 5 + 6), 2 * 6]


def test_a_log_of_days_knows_no_hours(tmp_path: Path) -> None:
    table = table_of(tmp_path, [*DAYS[:25], (5, 3)])
    held = HeldBack.from_table(table)
    assert table.width == held.deeds.levels.shape[1] == HASHED
    assert held.rarity.hours is None
