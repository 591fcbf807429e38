"""How long a browser takes to show the console's pages, with 10,000 alerts in the store.

Alerts as large as those of the recording (tens of kilobytes each, in a SQLite file), each joined into incidents as the service
does it. Chromium opens every page on loopback, from the start of the navigation to the end of its `load` event; the first view
is the very first page that the process renders.

Run: python -m benchmarks.bench_console [--alerts 10000] [--repeat 5]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.chromium import chromium
from benchmarks.console_service import serving
from benchmarks.report import Row, at_most, report
from data.actions.fields import FIELDS
from data.events.audit_event import AuditEvent
from detection.detector import Scores
from serving.alerts.explain.explainer import Explainer
from serving.alerts.explain.phrases import ActionPhrase
from serving.app import create_app
from serving.schemas import (
    SEVERITIES,
    Action,
    Alert,
    Alternative,
    FieldSurprise,
    ModelInfo,
    Novelty,
    ObjectReference,
    ResponseStatus,
    ServedModel,
    add_actions,
)
from serving.scoring.engine import Engine
from serving.settings import Settings
from serving.storage.database import AlertStore
from serving.storage.tables import microseconds

#: Seconds; the bar of the first view.
FIRST_VIEW = 1.0

_START = datetime(2026, 9, 1, tzinfo=UTC)
_KINDS = ("secrets", "pods", "configmaps", "deployments", "rolebindings", "serviceaccounts", "pods/exec")
_VERBS = ("get", "list", "create", "delete", "patch")


class _Nobody:
    """A detector that is never asked: the benchmark looks at alerts that are there."""

    def score(self, events: Sequence[AuditEvent]) -> Scores:
        raise RuntimeError(f"The benchmark sends no events, and got {len(events)}.")


def alert_of(number: int, explainer: Explainer, dice: random.Random) -> Alert:
    """An alert in the size and shape of the recording's; half an hour after the one before it."""
    who = f"person-{dice.randrange(900)}@corp.example"
    start = _START + timedelta(minutes=7 * number)
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


def filled(folder: Path, number: int) -> tuple[Engine, list[Alert]]:
    """An engine over a store with so many alerts, each in an incident."""
    explainer = Explainer.load(Settings().explain_path)
    store = AlertStore(f"sqlite:///{folder}/serving.db", retention_days=100_000, max_alerts=10 * number)
    model = ModelInfo(
        name="kubehabit",
        version="1",
        source="folder",
        fields=list(FIELDS),
        loaded=datetime.now(UTC),
        bundle={},
    )
    engine = Engine(_Nobody(), FIELDS, model, store, explainer)
    dice = random.Random(7)
    alerts = [alert_of(at, explainer, dice) for at in range(number)]
    for begin in range(0, number, 500):
        with store.writing() as writer:
            for alert in alerts[begin : begin + 500]:
                writer.save(None, alert, [(one.audit_id, microseconds(one.time)) for one in alert.actions])
                engine.incidents.join(writer.connection, alert, [])
    return engine, alerts


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


def measure(number: int, repeat: int, folder: Path) -> list[Row]:
    """Fill a store, open every page, and report."""
    began = time.perf_counter()
    engine, alerts = filled(folder, number)
    rows = [
        Row("alerts in the store", number, "alerts"),
        Row("size of the store", (folder / "serving.db").stat().st_size / 1e6, "MB"),
        Row("filling it", time.perf_counter() - began, "s"),
    ]
    busiest = max(alerts, key=lambda alert: alert.action_count)
    first = engine.incidents.page(limit=1).incidents[0]
    pages = {
        "overview": "/console/",
        "alerts, the first page": "/console/alerts",
        "alerts, a page in the middle": f"/console/alerts?cursor={number // 2}",
        "alerts, by severity": "/console/alerts?severity=critical",
        "alerts, by namespace": "/console/alerts?namespace=team-7",
        "alerts, a search that finds some": "/console/alerts?q=deleted+Secret",
        "alerts, a search that finds none": "/console/alerts?q=no+alert+has+this+in+it",
        "alerts, nobody has judged yet": "/console/alerts?verdict=none&state=open",
        "an alert": f"/console/alerts/{busiest.id}",
        "incidents": "/console/incidents",
        "an incident": f"/console/incidents/{first.id}",
    }
    app = create_app(Settings(events={"enabled": False}), engine)  # type: ignore[arg-type]
    with serving(app) as url, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        paint, load = shown_in(page, url + pages["alerts, the first page"])
        rows.append(at_most("first view: first paint", paint, "s", FIRST_VIEW))
        rows.append(at_most("first view: loaded", load, "s", FIRST_VIEW))
        for name, path in pages.items():
            times = [shown_in(page, url + path)[1] for _ in range(repeat)]
            rows.append(Row(f"{name}: loaded, median of {repeat}", statistics.median(times), "s"))
    return rows


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alerts", type=int, default=10_000, help="how many are in the store")
    parser.add_argument("--repeat", type=int, default=5, help="how often each page is opened")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KUBEHABIT_HOME"] = folder
        report("console", measure(options.alerts, options.repeat, Path(folder)))


if __name__ == "__main__":
    main()
