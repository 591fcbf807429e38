"""How long a browser takes to show the console's pages, with 10,000 alerts in the store.

Alerts as large as those of the recording (tens of kilobytes each, in a SQLite file), each joined into incidents as the service
does it; a history of four weeks, with half as many principals as alerts; and an event store with two weeks of everyday work,
scored by the starter model. Chromium opens every page on loopback, from the start of the navigation to the end of its `load`
event; the first view is the very first page that the process renders. Processor time is that of the service and of the main
thread of the page in Chromium together: what a page takes on a machine that does nothing else.

Run: python -m benchmarks.bench_console [--alerts 10000] [--events 60000] [--repeat 5]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from benchmarks.chromium import chromium
from benchmarks.console_service import serving
from benchmarks.console_weeks import weeks
from benchmarks.report import Row, at_most, report
from data.actions.fields import FIELDS
from serving.alerts.explain.explainer import Explainer
from serving.alerts.explain.phrases import ActionPhrase
from serving.app import create_app
from serving.console.render import NAVIGATION
from serving.history.schema import BINS, DAY, HOUR
from serving.registry.client import parse_model
from serving.rollout.loader import load_engine
from serving.schemas import (
    SEVERITIES,
    Action,
    Alert,
    Alternative,
    FieldSurprise,
    Novelty,
    ObjectReference,
    ResponseStatus,
    ServedModel,
    add_actions,
)
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.tables import microseconds

#: Seconds; the bar of every page.
MOST_SECONDS = 1.0

#: Of the history.
_DAYS = 28
_APART = timedelta(minutes=7)
_BATCH = 500
_KINDS = ("secrets", "pods", "configmaps", "deployments", "rolebindings", "serviceaccounts", "pods/exec")
_VERBS = ("get", "list", "create", "delete", "patch")


def alert_of(number: int, person: int, start: datetime, explainer: Explainer, dice: random.Random) -> Alert:
    """An alert in the size and shape of the recording's."""
    who = f"person-{person}@corp.example"
    actions = [_action(number, at, start, explainer, dice) for at in range(dice.choice((1, 3, 6, 9, 14)))]
    alert = Alert(
        id=hashlib.sha256(f"{number}".encode()).hexdigest()[:16],
        principal=who,
        kind="human",
        peer_group=f"group:dev:team-{dice.randrange(40)}",
        first_seen=actions[0].time,
        last_seen=actions[0].time,
        severity="low",
        evidence=0.0,
        sentence="",
        model=ServedModel(name="kubehabit", version="1"),
    )
    add_actions(alert, actions, first=50, top=50)
    explainer.renew(alert)
    return alert


def _action(number: int, at: int, start: datetime, explainer: Explainer, dice: random.Random) -> Action:
    resource, _, subresource = dice.choice(_KINDS).partition("/")
    verb, namespace = dice.choice(_VERBS), f"team-{dice.randrange(60)}"
    fields = [
        FieldSurprise(
            field=name,
            value=f"value-{dice.randrange(500)}",
            nll=dice.random() * 8,
            expected=[Alternative(value=f"usual-{one}", probability=0.4) for one in range(3)],
            expected_of_peers=[Alternative(value=f"theirs-{one}", probability=0.3) for one in range(3)],
        )
        for name in FIELDS[:6]
    ]
    habits = [
        Novelty(
            attribute=name,
            value=f"{verb} {resource} {namespace}",
            times_before=0,
            actions_before=dice.randrange(50, 9000),
            peers_with=0,
            peers=12,
            anyone_with=dice.randrange(3),
        )
        for name in ("verb_resource_namespace", "resource_namespace", "namespace", "object", "binding")
    ]
    action = Action(
        audit_id=f"{number:08x}-{at:04x}-4000-8000-000000000000",
        time=start + timedelta(seconds=4 * at),
        did="",
        verb=verb,
        object_ref=ObjectReference(
            resource=resource,
            subresource=subresource,
            namespace=namespace,
            name=f"object-{dice.randrange(90)}",
        ),
        response_status=ResponseStatus(code=200),
        source_ips=[f"10.20.{dice.randrange(200)}.{dice.randrange(200)}"],
        user_agent="kubectl/v1.29.3 (linux/amd64) kubernetes/6813625",
        severity=dice.choice(SEVERITIES[1:]),  # type: ignore[arg-type]
        sensitivity=dice.randrange(4),
        evidence=4 + dice.random() * 6,
        surprise=10 + dice.random() * 20,
        fields=fields,
        habits=habits,
    )
    action.description = explainer.describe(ActionPhrase.from_summary(action))
    return action


def fill_alerts(engine: Engine, number: int, people: int) -> Alert:
    """Store so many alerts of so many people, each in an incident, the last of them from just now; returns the longest."""
    dice = random.Random(7)
    begin = datetime.now(UTC) - number * _APART
    longest: Alert | None = None
    for first in range(0, number, 500):
        with engine.store.writing() as writer:
            for at in range(first, min(first + 500, number)):
                person = dice.randrange(people)
                alert = alert_of(at, person, begin + at * _APART, engine.explainer, dice)
                writer.save(None, alert, [(one.audit_id, microseconds(one.time)) for one in alert.actions])
                engine.incidents.join(writer.connection, alert, [])
                if longest is None or alert.action_count > longest.action_count:
                    longest = alert
    assert longest is not None
    return longest


def fill_history(path: Path, principals: int, people: int, additions: int) -> None:
    """Add principals to a history, and four weeks of what people among them did, so many of their actions with evidence."""
    dice = random.Random(11)
    now = microseconds(datetime.now(UTC))
    today, this_hour = now // HOUR // DAY, now // HOUR

    def sums() -> tuple[float, ...]:
        bins = [dice.randrange(30) for _ in range(BINS)]
        return (sum(bins), dice.random() < 0.02, dice.random(), *bins)

    with closing(sqlite3.connect(path, timeout=60)) as file, file:
        first = file.execute("SELECT coalesce(max(id), 0) + 1 FROM principals").fetchone()[0]
        numbers = range(first, first + principals)
        acting = numbers[:people]
        file.executemany(
            "INSERT INTO principals (id, name, kind, peers, last, actions, trained) VALUES (?, ?, 'human', ?, ?, ?, 1)",
            (
                (number, f"person-{number - first}@corp.example", f"group:dev:team-{number % 40}", now, 5000)
                for number in numbers
            ),
        )
        marks = ", ".join("?" * (BINS + 5))
        for table, spans in (
            ("days", range(today - _DAYS, today)),
            ("hours", range(this_hour - 8 * DAY, this_hour, 3)),
        ):
            rows = ((number, span, *sums()) for number in acting for span in spans)
            file.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        horizons = [120.0, 3600.0, 86_400.0]
        judge = file.execute(
            "INSERT INTO judges (version, horizons, person, system, scale) VALUES ('1', ?, '[6, 8, 10]', '[9, 12, 15]', 1) "
            "RETURNING id",
            (json.dumps(horizons),),
        ).fetchone()[0]
        moments = sorted(now - dice.randrange(_DAYS * DAY * HOUR) for _ in range(additions))
        file.executemany(
            "INSERT INTO additions (principal, time, judge, person, new, wrong, reached) VALUES (?, ?, ?, 1, ?, ?, ?)",
            (
                (dice.choice(acting), at, judge, *(dice.expovariate(1) * 2 for _ in "ab"), dice.random())
                for at in moments
            ),
        )


def send_work(url: str, events: int) -> None:
    """Score so many events of everyday work."""
    lines = islice(chain.from_iterable(weeks()), events)
    with httpx.Client(base_url=url, trust_env=False, timeout=120) as client:
        while batch := list(islice(lines, _BATCH)):
            client.post("/v1/score", content=b"\n".join(batch)).raise_for_status()


def shown_in(page: Any, url: str) -> tuple[float, float]:
    """Seconds from the start of a navigation to its first paint with content, and to the end of its load event."""
    page.goto(url, wait_until="load")
    # Not `wait_for_function`, which the policy of these pages forbids: it would evaluate a text.
    while True:
        paint, load = page.evaluate(
            "[performance.getEntriesByName('first-contentful-paint')[0]?.startTime || 0, "
            "performance.getEntriesByType('navigation')[0].loadEventEnd]"
        )
        if paint and load:
            break
        page.wait_for_timeout(5)
    return paint / 1000, load / 1000


def busy(devtools: Any) -> float:
    """Seconds that the main thread of the page that is open has worked since it was opened."""
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


def pages_of(engine: Engine, busiest: Alert, number: int, audit_id: str) -> dict[str, str]:
    """The pages that are opened, by what they show."""
    largest = max(engine.incidents.page(limit=100).incidents, key=lambda one: one.alert_count)
    asked = {
        "who touched something": {"ask": "touched", "resource": "secret", "since": "520w"},
        "who is new": {"ask": "newcomers", "namespace": "payments", "since": "520w"},
        "any events": {"ask": "events", "since": "520w"},
        "denied requests": {"ask": "events", "code": "403", "since": "520w", "newest": "1"},
    }
    lists = {
        "overview, 28 days": "/console/?days=28",
        "alerts, a page in the middle": f"/console/alerts?cursor={number // 2}",
        "alerts, most severe first": "/console/alerts?order=severity",
        "alerts, by severity": "/console/alerts?severity=critical",
        "alerts, by namespace": "/console/alerts?namespace=team-7",
        "alerts, a search that finds some": "/console/alerts?q=deleted+Secret",
        "alerts, a search that finds none": "/console/alerts?q=no+alert+has+this+in+it",
        "alerts, nobody has judged yet": "/console/alerts?verdict=none&state=open",
        "incidents, most severe first": "/console/incidents?order=severity",
        "incidents, a search that finds none": "/console/incidents?q=no+alert+has+this+in+it",
        "principals, nearest to an alert first": "/console/principals?order=nearest",
        "principals, by part of a name": "/console/principals?q=person-77",
        "names that a field completes": "/console/names?kind=principal&q=son-77",
    }
    return {
        **{place.name.lower(): place.path for place in NAVIGATION},
        **lists,
        "an alert": f"/console/alerts/{busiest.id}",
        "an incident": f"/console/incidents/{largest.id}",
        "a principal": "/console/principals/" + quote(busiest.principal) + "?days=all",
        **{f"search: {name}": "/console/search?" + urlencode(query) for name, query in asked.items()},
        "an event": f"/console/event?auditID={audit_id}",
        "model, a preview": "/console/model?days=28&per_day=2",
    }


def measure(number: int, events: int, repeat: int, folder: Path) -> list[Row]:
    """Fill the stores, open every page, and report."""
    began = time.perf_counter()
    settings = Settings(store={"retention_days": 3650})  # type: ignore[arg-type]
    engine = load_engine(settings, parse_model("starter"))
    app = create_app(settings, engine)
    with serving(app) as url, chromium() as browser:
        send_work(url, events)
        people = max(number // 11, 2)
        busiest = fill_alerts(engine, number, people)
        history = settings.history.resolved_path(settings.state.resolved_path)
        fill_history(history, number // 2, people, 8 * number)
        app.state.service.wait_for_events(120)
        newest = httpx.get(f"{url}/v1/events?limit=1&since=520w", trust_env=False, timeout=60).json()
        pages = pages_of(engine, busiest, number, newest["events"][0]["auditID"])
        rows = [
            Row("alerts in the store", number, "alerts"),
            Row("size of the store", (folder / "serving.db").stat().st_size / 1e6, "MB"),
            Row("filling all stores", time.perf_counter() - began, "s"),
        ]
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        devtools = page.context.new_cdp_session(page)
        devtools.send("Performance.enable")
        before = time.process_time()
        paint, load = shown_in(page, url + pages["alerts"])
        both = time.process_time() - before + busy(devtools)
        rows.append(at_most("first view: first paint", paint, "s", MOST_SECONDS))
        rows.append(at_most("first view: loaded", load, "s", MOST_SECONDS))
        rows.append(at_most("first view: processor time", both, "s", MOST_SECONDS))
        for name, path in pages.items():
            times, spent, drawn = [], [], []
            for _ in range(repeat):
                before = time.process_time()
                times.append(shown_in(page, url + path)[1])
                spent.append(time.process_time() - before)
                drawn.append(busy(devtools))
            typical = statistics.median(times)
            rows.append(at_most(f"{name}: loaded, median of {repeat}", typical, "s", MOST_SECONDS))
            # The first of them finds nothing cached. On a busy machine processor time says more than waiting does.
            both = spent[0] + drawn[0]
            rows.append(at_most(f"{name}: processor time, first time", both, "s", MOST_SECONDS))
            rows.append(Row(f"{name}: of that Chromium", drawn[0], "s"))
            rows.append(Row(f"{name}: of the service, median", statistics.median(spent), "s"))
    return rows


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alerts", type=int, default=10_000, help="how many are in the store")
    parser.add_argument("--events", type=int, default=60_000, help="how many are in the event store")
    parser.add_argument("--repeat", type=int, default=5, help="how often each page is opened")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KUBEHABIT_HOME"] = folder
        report("console", measure(options.alerts, options.events, options.repeat, Path(folder)))


if __name__ == "__main__":
    main()
