"""One life of a service, in a process forked for it: it opens its home, recovers, takes batches in, and may die at any moment."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from data import durable_file
from data.events.decode import decode_body
from serving.forensics import event_store, kept_files, parquet_writer
from serving.history.activity import MOST_SEEN, Principals
from serving.incidents.context import ContextTracker
from serving.registry import client as registry
from serving.registry.client import RegistryUnavailableError
from serving.rollout.loader import load_engine, outbox_of
from serving.runtime import Runtime, Service
from serving.scoring.engine import Engine
from serving.scoring.journal import JournalError, record
from serving.settings import Settings
from serving.storage.database import AlertStore, StoreError
from serving.storage.tables import ALERT_EVENTS, ALERTS
from tests.soak.fault_points import FaultPoints
from tests.soak.material import Material

#: Called with what happened and its details; never fails.
Tell = Callable[..., None]

#: A webhook sends a refused batch again after a pause; here it is short.
_AGAIN_SECONDS = 0.02
#: So that files are merged and removed within a run.
_MERGED, _GRACE_SECONDS = 4, 0.05
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Lifetime:
    """What one process does.

    Attributes:
        home: KUBEHABIT_HOME.
        kind: `ingest`, `reload`, `retention`, `migration` or `postgres`; says what else happens.
        seed: of everything random in it.
        first: number of the first batch that is not known to be acknowledged.
        kill_at: number of the change to a file at which it kills itself.
        store: URL of the alert store; SQLite in the home when empty.
        upto: end of the batches that it sends.
        slow_writer: whether Parquet is written by a process of its own, as the service does, which outlives a kill.
    """

    home: Path
    kind: str
    seed: int
    first: int = 0
    kill_at: int | None = None
    store: str = ""
    upto: int | None = None
    slow_writer: bool = False


def settings_of(life: Lifetime) -> Settings:
    """Settings under which everything happens within seconds that takes hours in life."""
    retention = life.kind == "retention"
    registered = {"watch_seconds": 0.05} if life.kind == "reload" else {}
    return Settings(
        journal={"max_mb": 64},
        state={"snapshot_events": 400, "snapshot_seconds": 3600, "hot_principals": 5},
        events={"seal_seconds": 0.3, "memory_mb": 256, "max_gb": 2e-4 if retention else 1},
        store={"url": life.store or None, "max_alerts": 12 if retention else 100_000},
        model=registered,
        sinks=[{"name": "out", "type": "file", "path": str(life.home / "out.jsonl"), "repeat_minutes": 0}],
    )


def prepare_process(life: Lifetime, *, log: Path) -> None:
    """Make a forked process a service of this home."""
    for name in list(os.environ):
        if name.startswith(("KUBEHABIT_", "MLFLOW_")):
            del os.environ[name]
    os.environ["KUBEHABIT_HOME"] = str(life.home)
    logging.raiseExceptions = False  # the log is on the disk that fails
    logging.basicConfig(filename=log, level=logging.WARNING, force=True)
    kept_files._MERGED, event_store._GRACE_SECONDS = _MERGED, _GRACE_SECONDS
    durable_file._STALE_SECONDS = registry._BEGUN_SECONDS = 0.0
    if not life.slow_writer:
        parquet_writer._answer_of_process = parquet_writer.answer


def live(life: Lifetime, material: Material, tell: Tell) -> None:
    """Run to the end, unless something ends it before: start, send all batches, wait until everything is done, close."""
    points = FaultPoints(life.kill_at, lambda place: tell("killing", place=place))
    points.install()
    runtime, service = start(life, material)
    tell("ready", state=state_of(runtime, life), changes=points.count)
    sender = BatchSender(life, material, runtime, tell)
    for number in range(life.first, len(material.bodies) if life.upto is None else life.upto):
        sender.send(number)
    finish(life, material, runtime, tell)
    service.close()
    tell("closed", changes=points.count)


def start(life: Lifetime, material: Material) -> tuple[Runtime, Service]:
    """Open the home and recover, as `kubehabit serve` does."""
    settings = settings_of(life)
    service = Service(settings)
    if life.kind == "reload":
        serve_registry(life.home, material)
        service.start(load_engine(settings))
    else:
        store = AlertStore.from_settings(settings.store)
        service.start(engine_of(settings, store, material))
    return service.running(), service


def engine_of(settings: Settings, store: AlertStore, material: Material) -> Engine:
    """As `load_engine` makes it, of a detector that was loaded before the fork."""
    loaded = material.loaded
    encoder, gap = loaded.detector.encoder, round(settings.alerts.gap_minutes * 60e6)
    return Engine(
        loaded.detector,
        loaded.model.fields,
        loaded.model,
        store,
        material.explainer,
        settings.alerts,
        principals=Principals(loaded.trained, most=max(MOST_SEEN, 2 * settings.state.hot_principals)),
        context=ContextTracker(
            material.explainer, gap, fold=encoder.identity.fold, place=encoder.settings.place
        ),
        loaded=loaded,
        outbox=outbox_of(settings, store),
    )


def serve_registry(home: Path, material: Material) -> None:
    """Answer for MLflow: the champion is what `champion` in the home names; without that file the registry is down."""

    def ask(what: str, **arguments: str | None) -> dict[str, Any]:
        try:
            version = (home / "champion").read_text()
        except FileNotFoundError:
            raise RegistryUnavailableError("The registry does not answer.") from None
        if what == "locate":
            return {"version": version, "source": f"mlflow-artifacts:/{version}", "registered": int(version)}
        bundle = Path(str(arguments["to"])) / "bundle"
        shutil.copytree(material.bundles[str(arguments["version"])], bundle)
        return {"bundle": str(bundle)}

    registry._ask = ask
    registry._stamp = lambda _: None


class BatchSender:
    """Sends batches as an API server's webhook does, and does in between what an operator or a timer would."""

    def __init__(self, life: Lifetime, material: Material, runtime: Runtime, tell: Tell) -> None:
        self._life, self._bodies, self._runtime, self._tell = life, material.bodies, runtime, tell
        self._random = random.Random(life.seed)

    def send(self, number: int) -> None:
        """Send a batch until it is acknowledged."""
        body = self._bodies[number]
        while not self.post(body):
            time.sleep(_AGAIN_SECONDS)
        self._tell("acknowledged", number=number)
        chance = self._random.random()
        if chance < 0.1:  # an answer that was lost, and a shipper that cuts its batches differently
            self.post(b"\n".join(body.split(b"\n")[len(body) % 7 :]))
        elif chance < 0.3:
            self._maintain()

    def post(self, body: bytes) -> bool:
        try:
            self._runtime.pipeline.append(record("/v1/audit", body, "", body), decode_body(body)).result(
                _PATIENCE
            )
        except JournalError as error:
            self._tell("refused", reason=str(error))
            return False
        return True

    def _maintain(self) -> None:
        runtime, kind = self._runtime, self._life.kind
        try:
            if kind == "retention":
                runtime.engine.store.prune()
            runtime.engine.store.checkpoint()
        except StoreError as error:
            self._tell("refused", reason=str(error))
        if kind == "reload":
            time.sleep(self._random.random() * 0.2)


def settled(runtime: Runtime) -> None:
    """Wait until everything taken in is scored."""
    done: Future[None] = runtime.pipeline.run_on_scoring_thread(lambda: None)
    done.result(_PATIENCE)


def state_of(runtime: Runtime, life: Lifetime) -> dict[str, str]:
    """Every alert as it stands once everything taken in is scored: ID -> digest of its document and the events it cites."""
    settled(runtime)
    return documents(runtime.engine.store, life.kind)


def documents(store: AlertStore, kind: str) -> dict[str, str]:
    """As `state_of`, of a store. Which version judged is left out where versions change, as that depends on the moment."""
    events: dict[int, list[str]] = {}
    with store.reading() as connection:
        rows = connection.execute(sa.select(ALERTS.c.number, ALERTS.c.id, ALERTS.c.document)).all()
        cited = sa.select(ALERT_EVENTS.c.alert, ALERT_EVENTS.c.audit_id, ALERT_EVENTS.c.time)
        for alert, audit_id, moment in connection.execute(cited):
            events.setdefault(alert, []).append(f"{audit_id} {moment}")
    found = {}
    for number, identity, document in rows:
        alert = json.loads(document)
        if kind == "reload":
            del alert["model"]
        content = json.dumps([alert, sorted(events.get(number, ()))], sort_keys=True)
        found[identity] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return found


def finish(life: Lifetime, material: Material, runtime: Runtime, tell: Tell) -> None:
    """Wait until everything is scored, delivered and in the event store; report what is known then."""
    state = state_of(runtime, life)
    report = runtime.engine.principals.report
    found = {name: report(name) for name in material.principals}
    actions = {name: one.actions for name, one in found.items() if one is not None}
    until = time.monotonic() + _PATIENCE
    outbox = runtime.engine.outbox
    while outbox is not None and outbox.depths()["out"][0] and time.monotonic() < until:
        time.sleep(0.01)
    behind = 0 if runtime.ingest is None else runtime.ingest.wait(_PATIENCE)
    waiting = 0 if outbox is None else outbox.depths()["out"][0]
    tell("finished", state=state, actions=actions, behind=behind, waiting=waiting)
