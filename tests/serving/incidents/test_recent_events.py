"""The last actions come back as they were, and only so many are kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np

from data.events.decode import decode_lines
from detection.detector import Scores
from serving.incidents.recent_events import RecentEvent, RecentEvents


def test_the_last_actions_of_a_principal_come_back_as_they_were(labelled_lines: list[bytes]) -> None:
    events = decode_lines(labelled_lines[:900]).events
    recent = RecentEvents(capacity=500)
    for begin in range(0, 900, 100):
        acted = events[begin + 1 : begin + 100]  # the first of each batch is no action of its own
        names = [event.user.username for event in acted]
        times = np.arange(begin + 1, begin + 100)
        scores = SimpleNamespace(event=np.arange(1, 100), time=times, principal=names)
        recent.append(events[begin : begin + 100], cast("Scores", scores))
    name = events[851].user.username
    expected = [
        RecentEvent.from_event(event, time)
        for time, event in enumerate(events)
        if time % 100 and event.user.username == name and time >= 300
    ]
    assert len(expected) > 3
    assert recent.of_principal(name, 0, 10_000) == expected
    assert recent.of_principal(name, 851, 851) == [RecentEvent.from_event(events[851], 851)]
