"""Two weeks of everyday work for pictures of habits: pieces of the normal recording, put into hours before the labelled one.

Only the hours are invented: a recording of forty minutes has no weekdays.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from data.events.reader import open_lines

RECORDINGS = Path(__file__).resolve().parent.parent / "data" / "recordings"
_OFFICE, _WEEKEND = range(7, 19), (9, 15)
#: Mean number of events of a piece.
_PIECE = 500

_LONGEST = 700
_TIMES = ("requestReceivedTimestamp", "stageTimestamp")


def moment_of(event: dict[str, object]) -> datetime:
    """When an event was written: a watch that ends was asked for long before."""
    return datetime.fromisoformat(str(event["stageTimestamp"]))


def moved(lines: Sequence[bytes], to: datetime, mark: str) -> list[bytes]:
    """The same events as if they had begun at another moment, with audit IDs of their own.

    Args:
        lines: of a log.
        to: when the first of them happens.
        mark: hexadecimal, in the place of the last signs of each audit ID.
    """
    by: timedelta | None = None
    made = []
    for line in lines:
        event = json.loads(line)
        if by is None:
            by = to - moment_of(event)
        for name in _TIMES:
            if event.get(name):
                event[name] = (datetime.fromisoformat(event[name]) + by).isoformat().replace("+00:00", "Z")
        event["auditID"] = event["auditID"][: -len(mark)] + mark
        made.append(json.dumps(event).encode())
    return made


def weeks(days: int = 14, seed: int = 5) -> Iterator[list[bytes]]:
    """Everyday work of the days before the labelled recording, piece by piece in the order of time.

    Args:
        days: how many.
        seed: the same one gives the same events.
    """
    chance = random.Random(seed)
    everyday = list(open_lines(RECORDINGS / "normal.jsonl.zst"))
    (first,) = islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 1)
    midnight = moment_of(json.loads(first)).replace(hour=0, minute=0, second=0, microsecond=0)
    number = 0
    for ago in range(days, 0, -1):
        day = midnight - timedelta(days=ago)
        for hour in _OFFICE if day.weekday() < 5 else _WEEKEND:
            number += 1
            begin = chance.randrange(len(everyday) - _LONGEST)
            size = int(_PIECE * (0.4 + chance.random())) if hour != 12 else _PIECE // 4
            at = day + timedelta(hours=hour, minutes=20 * chance.random())
            yield moved(everyday[begin : begin + min(size, _LONGEST)], at, f"{number:06x}")
