"""What an undisturbed service makes of the batches, and whether another one made the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from serving.forensics.store_place import SET_ASIDE
from serving.forensics.verify import verify
from serving.storage.database import AlertStore
from serving.storage.tables import MEMBERS
from tests.soak import fork_server
from tests.soak.fork_server import Ended
from tests.soak.material import Material
from tests.soak.service import (
    BatchSender,
    Lifetime,
    Tell,
    finish,
    prepare_process,
    settings_of,
    start,
    state_of,
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What an undisturbed service says.

    Attributes:
        states: alerts after so many batches; the first is that before any.
        actions: principal -> actions counted at the end.
        records: events that the event store has had at the end.
        incidents: alerts of each incident at the end.
    """

    states: list[dict[str, str]]
    actions: dict[str, int]
    records: int
    incidents: list[list[str]]


def expect(material: Material, home: Path, kind: str) -> Expected:
    """Run undisturbed, and look at everything after each batch."""
    life = Lifetime(home, kind, seed=0)

    def work(tell: Any) -> None:
        prepare_process(life, log=home / "log")
        runtime, service = start(life, material)
        sender = BatchSender(Lifetime(home, "", seed=0), material, runtime, lambda *_, **__: None)
        tell("state", state=state_of(runtime, life))
        for number in range(len(material.bodies)):
            sender.post(material.bodies[number])
            tell("state", state=state_of(runtime, life))
        finish(life, material, runtime, tell)
        service.close()
        tell("home", **look(life))

    home.mkdir(parents=True)
    if kind == "reload":
        (home / "champion").write_text("1")
    ended = fork_server.run(work)
    if ended.how != "closed":
        raise RuntimeError(
            f"the undisturbed run {ended.how}: {ended.last('failed')}\n{(home / 'log').read_text()}"
        )
    finished, found = ended.last("finished"), ended.last("home")
    assert finished is not None
    assert found is not None
    return Expected(
        [one["state"] for one in ended.all("state")],
        finished["actions"],
        found["records"] + found["dropped"],
        found["incidents"],
    )


def look(life: Lifetime) -> dict[str, Any]:
    """What lies in a home whose service has ended in order."""
    settings = settings_of(life)
    store = AlertStore.from_settings(settings.store)
    with store.reading() as connection:
        members = connection.execute(sa.select(MEMBERS.c.alert, MEMBERS.c.incident)).all()
    store.close()
    joined: dict[str, list[str]] = {}
    for alert, incident in members:
        joined.setdefault(incident, []).append(alert)
    report = verify(life.home / "events")
    return {
        "records": report.records,
        "dropped": report.dropped,
        "findings": [f"{one.kind} {one.where}: {one.what}" for one in report.findings],
        "incidents": sorted(sorted(alerts) for alerts in joined.values()),
        "strange": sorted(_strange(life.home)),
        "sent": sent(life.home),
    }


def _strange(home: Path) -> Iterator[str]:
    """Files that nothing should have left behind."""
    patterns = (
        *("**/*.part", "**/*.tmp", "**/*.damaged", "journal/quarantine/*.batch", "dead-letters*"),
        f"events/{SET_ASIDE}/*",
        "models/*/.fetching-*/lock",
    )
    for pattern in patterns:
        yield from (path.relative_to(home).as_posix() for path in home.glob(pattern))


def sent(home: Path) -> dict[str, Any]:
    """What a sink got: the actions of each alert when it was sent last, and how often the same was sent again."""
    path = home / "out.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    alerts = [json.loads(line)["alert"] for line in text.splitlines()]
    times = Counter((one["id"], one["actionCount"]) for one in alerts)
    return {
        "last": {one["id"]: one["actionCount"] for one in alerts},
        "again": sum(count - 1 for count in times.values()),
    }


def look_at(life: Lifetime) -> dict[str, Any] | None:
    """What `look` finds, in a process of its own; None if the home cannot be looked at."""

    def work(tell: Tell) -> None:
        prepare_process(life, log=life.home / "log")
        tell("home", **look(life))

    return fork_server.run(work).last("home")


def judge(life: Lifetime, ended: Ended, found: dict[str, Any] | None, expected: Expected) -> list[str]:
    """What is not as it must be of a service that got everything done and ended in order."""
    finished = ended.last("finished")
    if found is None or finished is None:
        return ["the home cannot be looked at"]
    problems = [f"the event store: {one}" for one in found["findings"]]
    problems += [f"left behind: {one}" for one in found["strange"]]
    if finished["behind"] or finished["waiting"]:
        problems.append(f"not done: {finished['behind']} batches, {finished['waiting']} alerts")
    if finished["actions"] != expected.actions:
        problems.append(f"actions: {difference(expected.actions, finished['actions'])}")
    if found["records"] + found["dropped"] != expected.records:
        problems.append(
            f"events kept: {found['records']} and {found['dropped']} dropped of {expected.records}"
        )
    if life.kind == "retention":
        return problems  # alerts were deleted
    if finished["state"] != expected.states[-1]:
        problems.append(f"alerts at the end: {difference(expected.states[-1], finished['state'])}")
    if life.kind == "migration":
        return problems  # the older store had neither incidents nor an outbox
    if found["incidents"] != expected.incidents:
        problems.append(f"incidents: {found['incidents']}, not {expected.incidents}")
    if set(found["sent"]["last"]) != set(expected.states[-1]):
        problems.append("sent: " + difference(dict.fromkeys(expected.states[-1]), found["sent"]["last"]))
    return problems


def difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """What two mappings do not have in common, in short."""
    lost, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    changed = [
        f"{key}: {found[key]} for {expected[key]}"
        for key in sorted(expected.keys() & found.keys())
        if found[key] != expected[key]
    ]
    return f"lost {lost[:5]}, more {more[:5]}, changed {changed[:5]}"
