"""From alerts to incidents, judged on the labelled recording: origin, credential, completeness of the evidence, reasons.

Every event of `labelled.jsonl.zst` goes into an event store and through the engine of the service, with a model trained on
`normal.jsonl.zst`; each incident that holds a flagged action of an attack is exported as evidence, and the export is verified.
Then each attack run that raised an alert is looked up in its incident and in the export. Labels are used for judging only.

Run: make bench-incidents, or python -m benchmarks.bench_incidents [--home DIR] [--model URI] [--runs FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.report import Row, at_least, at_most, report
from data.actions.encoder import ActionSettings
from data.events.audit_event import DeadLetter
from data.events.reader import open_lines, read_events
from data.paths import Recordings
from serving.forensics.event_store import EventStore
from serving.forensics.evidence.export import Subject, check, export
from serving.forensics.ledger import Ledger
from serving.forensics.queries import EventQueries
from serving.incidents.report import Incident
from serving.incidents.sessions import IncidentSession
from serving.registry.client import parse_model
from serving.rollout.loader import load_engine
from serving.scoring.engine import Engine
from serving.settings import EventSettings, load_settings

RECORDINGS = Path(__file__).resolve().parent.parent / "data" / "recordings"
CONFIG = RECORDINGS.parent.parent / "configs" / "train.yaml"

#: The first malicious action must be among this many first listed actions of its session, or of the session where the
#: incident began.
FIRST = 5

_BATCH = 500

#: What a reason is about -> the signal of the threat catalogue that it names.
NEEDS: Mapping[str, str] = {
    "verb_resource": "RV",
    "verb": "RV",
    "resource": "RV",
    "namespace": "NS",
    "resource_namespace": "NS",
    "verb_resource_namespace": "NS",
    "object": "NAME",
    "name": "NAME",
    "traits": "BODY",
    "images": "BODY",
    "image_of": "BODY",
    "client": "CLIENT",
    "place": "CLIENT",
    "code": "CODE",
    "refusals": "CODE",
    "pace": "RATE",
    "uri": "URI",
    "impersonates": "IMP",
}

#: How a run was made -> what else differs in it, by the recording's own label of where the attacker came from.
MODES: Mapping[str, frozenset[str]] = {
    "same": frozenset(),
    "new-ip": frozenset({"place"}),
    "new-ua": frozenset({"client"}),
    "new-ip-and-ua": frozenset({"place", "client"}),
}


@dataclass(frozen=True, slots=True)
class Judged:
    """One attack run that raised an alert, against the incident that holds it.

    Attributes:
        scenario, principal: of the label.
        incident: that holds it.
        begins_right: its first action is among the first five listed of its session.
        source_right: the incident names an action of it as where it all began.
        opens: its first action is among the first five listed of the session that the incident names as its beginning.
        earliest: of the detected runs in its incident it is the first.
        names_principal: the session is of the principal whose credential was stolen.
        cited: share of its audit IDs that the incident's export holds with their original event, as a suspect's.
        induced: requests of the machinery that it brought about.
        followed: those of them that are reported as consequences.
        suspected: those of them that were flagged, or that an export holds as a suspect's.
        reason: what the first reason is about.
        needed: that is what the catalogue says it takes.
        differs: so it is, or it is the address or client that the attacker changed.
    """

    scenario: str
    principal: str
    incident: str
    begins_right: bool
    source_right: bool
    opens: bool
    earliest: bool
    names_principal: bool
    cited: float
    induced: int
    followed: int
    suspected: int
    reason: str
    needed: bool
    differs: bool


class _NoLetters:
    def add(self, source: str, letter: DeadLetter) -> None:
        raise ValueError(f"{source} line {letter.line}: {letter.reason}")


def replay(engine: Engine, log: Path) -> tuple[int, float]:
    """Every event of a log through the engine; (events, seconds)."""
    events, started = 0, time.perf_counter()
    for chunk in read_events(log, _NoLetters()):
        engine.score(chunk)
        events += len(chunk)
    engine.flush()
    return events, time.perf_counter() - started


def stories(engine: Engine) -> tuple[list[Incident], dict[str, str]]:
    """All incidents with their stories, and flagged audit ID -> incident."""
    found: list[Incident] = []
    of_flagged: dict[str, str] = {}
    cursor: int | None = None
    while True:
        page = engine.incidents.page(limit=100, cursor=cursor)
        for one in page.incidents:
            reported = engine.incidents.get(one.id)
            if reported is None or not reported.alerts:
                continue
            found.append(reported)
            for joined in reported.alerts:
                alert = engine.store.get(joined.id)
                if alert is not None:
                    of_flagged |= dict.fromkeys(alert.audit_ids, reported.id)
        if page.cursor is None:
            return found, of_flagged
        cursor = int(page.cursor)


def _session(reported: Incident, ids: set[str]) -> IncidentSession | None:
    """The session that lists most of a run's actions."""
    return max(
        reported.sessions,
        key=lambda session: sum(action.audit_id in ids for action in session.actions),
        default=None,
    )


@dataclass(frozen=True, slots=True)
class Exported:
    """What an incident's file of evidence holds.

    Attributes:
        suspects, consequences: audit IDs of events that it holds as the deed of a suspect, or as what followed from it.
        missing: audit IDs that it names and does not hold.
        findings: what `kubehabit verify` says is wrong with it.
    """

    suspects: frozenset[str]
    consequences: frozenset[str]
    missing: int
    findings: list[str]


def keep(log: Path, folder: Path) -> None:
    """Put every event of a log into an event store, as the service does."""
    store = EventStore(EventSettings(path=folder, retention_days=36_500))
    lines = open_lines(log)
    while batch := list(islice(lines, _BATCH)):
        store.append(b"\n".join(batch))
    store.close()


def export_incident(engine: Engine, reported: Incident, store: Path, file: Path) -> Exported:
    """Export an incident, write the file, and verify it as a reader without anything else would."""
    questions = EventQueries(store)
    incident = reported.model_dump(mode="json", by_alias=True)
    kept = [alert for one in reported.alerts if (alert := engine.store.get(one.id)) is not None]
    made = export(
        questions,
        Ledger(store),
        Subject(incident=reported.id, alerts=tuple(alert.id for alert in kept)),
        by="benchmark",
        incident=incident,
        alerts=[alert.model_dump(mode="json", by_alias=True) for alert in kept],
        words=engine.incidents.words,
    )
    questions.close()
    file.write_bytes(made)
    content = json.loads(made)["content"]
    parts: dict[str, set[str]] = defaultdict(set)
    for event in content["events"]:
        parts[event["place"]["part"]].add(event["record"]["audit_id"])
    return Exported(
        frozenset(parts["suspect"]),
        frozenset(parts["consequence"]),
        len(content["missing"]),
        check(file).findings,
    )


def _began(reported: Incident) -> IncidentSession | None:
    """The session that an incident names as its beginning."""
    return next(
        (
            session
            for session in reported.sessions
            if reported.source is not None
            and any(action.audit_id == reported.source.audit_id for action in session.actions)
        ),
        None,
    )


def judge(
    run: Mapping[str, Any],
    reported: Incident,
    exported: Exported,
    suspects: frozenset[str],
    followed: frozenset[str],
    earliest: bool = True,
) -> Judged:
    """A detected run against its incident.

    Args:
        run: its label.
        reported: the incident that holds a flagged action of it.
        exported: that incident's file of evidence.
        suspects: audit IDs that any incident counts against a principal.
        followed: those that any incident tells as consequences; what the clean-up after a run brings about may be its.
        earliest: of the detected runs in the incident it is the first.
    """
    ids = run["audit_ids"]
    session, opening = _session(reported, set(ids)), _began(reported)
    listed = [] if session is None else [action.audit_id for action in session.actions[:FIRST]]
    opened = [] if opening is None else [action.audit_id for action in opening.actions[:FIRST]]
    induced = run["induced_audit_ids"]
    reason = "" if session is None else session.top_attribute
    needed = NEEDS.get(reason, "") in run["needs"]
    return Judged(
        scenario=run["scenario"],
        principal=run["principal"],
        incident=reported.id,
        begins_right=ids[0] in listed,
        source_right=reported.source is not None and reported.source.audit_id in ids,
        opens=ids[0] in opened,
        earliest=earliest,
        names_principal=session is not None and session.principal == run["principal"],
        cited=sum(name in exported.suspects for name in ids) / len(ids),
        induced=len(induced),
        followed=sum(name in followed for name in induced),
        suspected=sum(name in suspects for name in induced),
        reason=reason,
        needed=needed,
        differs=needed or reason in MODES[run["mode"]],
    )


def rows_of(judged: Sequence[Judged], runs: int, incidents: int) -> list[Row]:
    """The bars, over all detected runs."""
    count = max(len(judged), 1)
    induced = sum(one.induced for one in judged)
    held = max(len({one.incident for one in judged}), 1)
    return [
        Row("attack runs", runs, "runs"),
        Row("attack runs that raised an alert", len(judged), "runs"),
        Row("incidents of the recording", incidents, "incidents"),
        at_least(
            f"first malicious action among the first {FIRST} listed of its session",
            sum(one.begins_right for one in judged) / count,
            "of detected runs",
            1.0,
        ),
        Row(
            "incidents that name an action of an attack as where it began",
            len({one.incident for one in judged if one.source_right}) / held,
            f"of {held} incidents that hold one",
        ),
        Row(
            f"incidents that list the first action of their earliest attack in the first {FIRST} of where it began",
            len({one.incident for one in judged if one.opens and one.earliest}) / held,
            f"of {held} incidents that hold one",
        ),
        at_least(
            "right principal", sum(one.names_principal for one in judged) / count, "of detected runs", 1.0
        ),
        at_least(
            "audit IDs of the attack in the incident's export, worst run",
            min((one.cited for one in judged), default=0.0),
            "of its audit IDs",
            0.95,
        ),
        at_most(
            "induced requests of controllers held against a principal",
            sum(one.suspected for one in judged),
            "requests",
            0,
        ),
        Row(
            "induced requests reported as consequences",
            sum(one.followed for one in judged) / max(induced, 1),
            f"of {induced:,}",
        ),
        at_least(
            "top reason names what truly differs (Needs of the catalogue, or the address or client changed)",
            sum(one.differs for one in judged) / count,
            "of detected runs",
            0.90,
        ),
        at_least(
            "top reason names one of the catalogue's Needs",
            sum(one.needed for one in judged) / count,
            "of detected runs",
            0.90,
        ),
    ]


def measure(engine: Engine, log: Path, labels: Path, folder: Path) -> tuple[list[Row], list[Judged]]:
    """Replay a labelled log and judge its incidents.

    Args:
        engine: scores.
        log: what is replayed.
        labels: what was done in it.
        folder: for the event store and the exports; empty.
    """
    keep(log, folder / "events")
    events, seconds = replay(engine, log)
    reported, of_flagged = stories(engine)
    by_id = {one.id: one for one in reported}
    runs = [run for run in json.loads(labels.read_text()) if run["kind"] == "attack"]
    held: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        place = next((of_flagged[name] for name in run["audit_ids"] if name in of_flagged), None)
        if place is not None:
            held[place].append(run)
    exports = {
        name: export_incident(engine, by_id[name], folder / "events", folder / f"{name}.json")
        for name in held
    }
    suspects = frozenset(action.audit_id for one in reported for action in one.timeline).union(
        *(one.suspects for one in exports.values())
    )
    followed = frozenset(name for one in reported for name in one.consequence_audit_ids)
    judged = [
        judge(run, by_id[name], exports[name], suspects, followed, earliest=run is _earliest(mine))
        for name, mine in held.items()
        for run in mine
    ]
    rows = rows_of(judged, len(runs), len(reported))
    rows += [
        at_most(
            "exports that do not verify offline",
            sum(bool(one.findings) for one in exports.values()),
            f"of {len(exports)}",
            0,
        ),
        at_most(
            "audit IDs that an export names and does not hold",
            sum(one.missing for one in exports.values()),
            "requests",
            0,
        ),
        Row(
            "events in exports",
            sum(len(one.suspects) + len(one.consequences) for one in exports.values()),
            "",
        ),
        Row("replay with incidents", events / seconds, "events/s"),
    ]
    return rows, judged


def _earliest(runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The run that began first; labels give the time of each."""
    return min(runs, key=lambda run: run["start"])


def trained(home: Path) -> str:
    """Build a dataset of the normal recording, train on it, and name the model, in a folder of its own."""
    os.environ["KUBEHABIT_HOME"] = str(home)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)
    from data.dataset.build import build
    from training.train import train

    dataset = home / "dataset"
    build(
        [RECORDINGS / "normal.jsonl.zst"],
        dataset,
        settings=ActionSettings.shipped(trusted_hops=Recordings.TRUSTED_HOPS),
    )
    return train(CONFIG, dataset).model_uri


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--home", type=Path, help="keep dataset, models and MLflow store in this empty folder"
    )
    parser.add_argument(
        "--model", help="a registered model or the folder of a bundle, instead of training one"
    )
    parser.add_argument("--runs", type=Path, help="also write what was found of each run to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or trained(options.home or Path(folder))
        engine = load_engine(load_settings(), parse_model(model), store_url="sqlite://")
        try:
            scratch = Path(folder) / "scratch"
            scratch.mkdir()
            rows, judged = measure(
                engine, RECORDINGS / "labelled.jsonl.zst", RECORDINGS / "labels.json", scratch
            )
        finally:
            engine.close()
    if options.runs is not None:
        options.runs.write_text(json.dumps([asdict(one) for one in judged], indent=1) + "\n")
    report("incidents", rows)


if __name__ == "__main__":
    main()
