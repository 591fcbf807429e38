"""What a detector makes of habitual work at three in the morning: by people who never work then, and by the on-call rota.

    python -m benchmarks.night BUNDLE FOLDER [--days 7] [--cases 300] [--seed 7]

FOLDER is that of `kubehabit data simulate`, and BUNDLE learned from its `normal.jsonl.zst`. For a rota that is woken at night,
set `people.night_pages_a_week` of the simulation. Sessions that people had in that log (same requests, objects, client and
address, so nothing else about them is new) are moved to 03:00 UTC of a night of the weeks after it, and each is replayed alone
(`training.evaluation.strict_replay`). The same sessions at their own hour of the same day tell what of that is the hour's doing.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import Row, at_least, at_most, report
from data.events.audit_event import AuditEvent
from data.events.reader import DeadLetterFile, read_events
from detection.bundle import Bundle
from detection.detector import Detector
from training.evaluation.metrics import Label, named_by
from training.evaluation.strict_replay import FalseIncident, Outcome, StrictReplay
from training.evaluation.transplants import Case, at, received

_HOUR = 3600 * 1_000_000
_DAY = 24 * _HOUR
#: A pause of a person that ends a session, microseconds.
_PAUSE = _HOUR // 2
#: Requests of a session that is replayed.
_FEWEST, _MOST = 3, 200
_NIGHT = 3 * _HOUR
#: Hours of the day, UTC, at which someone who works then is no stranger to the night.
_LATE = range(6)
_HIGH = ("high", "critical")


def log(path: Path, until: int | None = None) -> Iterator[AuditEvent]:
    """Events of a log in its order, up to a time in microseconds since 1970 UTC."""
    letters = DeadLetterFile(path.with_suffix(".dead"))
    for events in read_events(path, letters):
        if until is not None and int(received(events[:1])[0]) > until:
            return
        yield from events


def is_of_rota(event: AuditEvent) -> bool:
    """Whether the author of a simulated event belongs to the rota."""
    return any("sre" in group for group in event.user.groups)


def sessions(folder: Path) -> dict[str, list[tuple[AuditEvent, ...]]]:
    """Each person's sessions in the normal log; of those who worked at night there, the rota's alone."""
    mine: dict[str, list[AuditEvent]] = defaultdict(list)
    for event in log(folder / "normal.jsonl.zst"):
        if not event.user.username.startswith("system:"):
            mine[event.user.username].append(event)
    found = {}
    for name, events in mine.items():
        time = received(events)
        if not is_of_rota(events[0]) and np.isin(time // _HOUR % 24, _LATE).any():
            continue
        cuts = np.flatnonzero(np.diff(time) > _PAUSE) + 1
        parts = [tuple(events[i] for i in part.tolist()) for part in np.split(np.arange(len(events)), cuts)]
        found[name] = [part for part in parts if _FEWEST <= len(part) <= _MOST]
    return {name: parts for name, parts in found.items() if parts}


def moved(session: Sequence[AuditEvent], day: int, hour: int | None, number: int) -> Case:
    """A session on another day, at a time of that day in microseconds or at its own."""
    time = received(session)
    begin = day + (int(time[0]) % _DAY if hour is None else hour)
    events = tuple(
        at(event, begin + int(when - time[0]), f"{event.auditID}-{number}")
        for event, when in zip(session, time, strict=True)
    )
    name = session[0].user.username
    return Case(number, "night", "night", "attack", "habitual", principals=(name,), events=events)


def rows(title: str, outcomes: Sequence[Outcome], *, thief: bool) -> list[Row]:
    """Shares that were noticed, and noticed as high or worse."""
    total = max(len(outcomes), 1)
    seen = 100 * sum(one.seen for one in outcomes) / total
    high = 100 * sum(one.seen and one.severity in _HIGH for one in outcomes) / total
    margin = 196 * float(np.sqrt(seen / 100 * (1 - seen / 100) / total))
    name = f"{title}, noticed (+- {margin:.0f})"
    return [
        at_least(name, seen, "%", 80.0) if thief else Row(name, seen, "%"),
        Row(f"{title}, high", high, "%") if thief else at_most(f"{title}, high", high, "%", 0.0),
        Row(f"{title}, median of the highest evidence over its threshold", _median(outcomes), ""),
    ]


def _median(outcomes: Sequence[Outcome]) -> float:
    return float(np.median([one.peak for one in outcomes])) if outcomes else 0.0


def measure(bundle: Bundle, folder: Path, days: int, count: int, seed: int) -> list[Row]:
    """Rows of the pair, and of the log that the replays stand in."""
    labels = json.loads((folder / "labels.json").read_text())
    named = named_by(labels)
    first = next(log(folder / "labelled.jsonl.zst"))
    start = int(received([first])[0]) // _DAY * _DAY
    clean = [
        event
        for event in log(folder / "labelled.jsonl.zst", start + days * _DAY)
        if event.auditID not in named
    ]
    luck, own = random.Random(seed), sessions(folder)
    rota = {name for name, parts in own.items() if is_of_rota(parts[0][0])}
    cases, asked = list[Case](), list[tuple[bool, bool]]()
    for on_call, names in ((False, sorted(own.keys() - rota)), (True, sorted(rota))):
        for _ in range(count if names else 0):
            session = luck.choice(own[luck.choice(names)])
            day = start + luck.randrange(1, days) * _DAY
            for hour in (_NIGHT, None):
                cases.append(moved(session, day, hour, len(cases)))
                asked.append((on_call, hour is None))
    replayed = StrictReplay(Detector(bundle), clean).run(cases, (), progress=True)
    found = defaultdict(list)
    for key, outcome in zip(asked, replayed.first, strict=True):
        found[key].append(outcome)
    return [
        *rows("others at 03:00", found[False, False], thief=True),
        *rows("the rota at 03:00", found[True, False], thief=False),
        Row("others at their own hour, noticed", 100 * _seen(found[False, True]), "%"),
        Row("the rota at its own hour, noticed", 100 * _seen(found[True, True]), "%"),
        *alarms(replayed.false, labels, days),
        Row("people of the rota", len(rota), ""),
        Row("other people without nights", len(own) - len(rota), ""),
    ]


def alarms(false: Sequence[FalseIncident], labels: Sequence[Label], days: int) -> list[Row]:
    """False incidents a day: all, those that notify, and of these those by principals that no look-alike run has changed before.

    A look-alike goes on after its run: a pipeline that moved stays where it is, and labels do not name what it does there. Nobody
    gives a verdict here, so it is flagged as a repeat until it was done on several days.
    """
    changed = {
        name: np.datetime64(label["start"].rstrip("Z"), "us").astype(int)
        for label in reversed(labels)
        if label["kind"] != "attack"
        for name in label["principals"]
    }
    notify = [one for one in false if one.repeats < one.actions]
    rest = [one for one in notify if one.time < changed.get(one.principal, one.time + 1)]
    return [
        Row("false incidents a day", len(false) / days, "1/day"),
        Row("of them that notify, repeats left out", len(notify) / days, "1/day"),
        Row("of those, by principals after no look-alike run", len(rest) / days, "1/day"),
    ]


def _seen(outcomes: Sequence[Outcome]) -> float:
    return sum(one.seen for one in outcomes) / max(len(outcomes), 1)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--cases", type=int, default=300, help="sessions of others, and as many of the rota")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    report("night", measure(bundle, options.folder, options.days, options.cases, options.seed))


if __name__ == "__main__":
    main()
