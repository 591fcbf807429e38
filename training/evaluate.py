"""Judging a detector on a labelled log: what it caught, how soon, and what it cost in false incidents.

Definitions (docs/evaluation.md): an incident is the flagged actions of one principal at most ten minutes apart; it is false if it
holds no action of a labelled run, of what a run made controllers do, or of the clean-up after it. A run is detected if an alert
holds one of its own actions. Labels are read here and nowhere else.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from data.actions import ActionEncoder, ActionSettings
from data.bundle import Bundle
from data.detector import SEVERITIES, Detector
from data.errors import KubehabitError
from data.events import AuditEvent
from data.habits import ATTRIBUTES, Habits, attribute_hashes, novelty_levels
from data.home import home, registry_uri, tracking_uri
from data.principals import PEOPLE_AND_PIPELINES
from data.reader import DeadLetterFile, read_events
from data.shipped import shipped
from training.calibrate import INCIDENT_GAP, novelty_count
from training.registry import download

Label = Mapping[str, Any]
Rows = npt.NDArray[np.int64]
RATES = (1, 3, 10)
HIGH = ("high", "critical")
_TUPLE = list(ATTRIBUTES).index("verb_resource_namespace")


@dataclass(slots=True)
class Actions:
    """The actions of a log as columns in arrival order: who (principal, kind), when (microseconds), and which audit ID."""

    audit_id: list[str]
    principal: npt.NDArray[np.object_]
    kind: npt.NDArray[np.object_]
    time: Rows
    events: int = 0

    @property
    def person(self) -> npt.NDArray[np.bool_]:
        """Which are by people and pipelines."""
        return np.isin(self.kind, list(PEOPLE_AND_PIPELINES))


@dataclass(frozen=True, slots=True)
class _Run:
    """A labelled run and the rows of its own actions, in order."""

    label: Label
    rows: Rows


@dataclass(frozen=True, slots=True)
class _Truth:
    """Labels joined with a log: which rows belong to any run, and the runs themselves."""

    labelled: npt.NDArray[np.bool_]
    runs: list[_Run]


def _read(log: Path, take: Callable[[list[AuditEvent]], None], progress: bool, title: str) -> int:
    """Pass a log's events on in chunks; unreadable records go to a dead-letter file in `home()`."""
    letters = DeadLetterFile(home() / "dead-letters.jsonl")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    count = 0
    with Progress(*columns, disable=not progress, transient=True) as bar:
        try:
            task = bar.add_task(title, total=log.stat().st_size)
        except OSError as error:
            raise KubehabitError(
                f"Cannot read the audit log {log}: {error.strerror}. Check the path."
            ) from error
        try:
            for events in read_events(log, letters, on_bytes=lambda done: bar.update(task, completed=done)):
                take(events)
                count += len(events)
        finally:
            letters.close()
    if not count:
        raise KubehabitError(
            f"{log}: no audit event found. Give a log of audit.k8s.io/v1 events, one a line."
        )
    return count


def read_labels(labels: Path) -> list[Label]:
    """Labels from JSON.

    Raises:
        KubehabitError: it is no list of runs.
    """
    try:
        found = json.loads(labels.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise KubehabitError(f"Cannot read the labels {labels}: {error}.") from error
    if not isinstance(found, list) or not all(
        isinstance(run, dict) and {"scenario", "kind", "audit_ids"} <= set(run) for run in found
    ):
        raise KubehabitError(
            f"{labels} must be a JSON list of runs, each with at least scenario, kind and audit_ids."
        )
    return found


def _join(actions: Actions, labels: Sequence[Label]) -> _Truth:
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, audit_id in enumerate(actions.audit_id):
        rows_of[audit_id].append(row)
    labelled = np.zeros(len(actions.audit_id), bool)
    runs = []
    for label in labels:
        for key in ("audit_ids", "induced_audit_ids", "ignore_audit_ids"):
            for audit_id in label.get(key) or ():
                labelled[rows_of.get(audit_id, [])] = True
        own = sorted(row for audit_id in label["audit_ids"] for row in rows_of.get(audit_id, ()))
        runs.append(_Run(label, np.array(own, np.int64)))
    return _Truth(labelled, runs)


def incidents(actions: Actions, rows: Rows) -> list[Rows]:
    """Group flagged actions into incidents: one principal, at most ten minutes apart."""
    by_principal: dict[str, list[int]] = defaultdict(list)
    for row in rows.tolist():
        by_principal[actions.principal[row]].append(row)
    found = []
    for members in by_principal.values():
        ordered = np.array(members)[np.argsort(actions.time[members], kind="stable")]
        found += np.split(ordered, np.flatnonzero(np.diff(actions.time[ordered]) > INCIDENT_GAP) + 1)
    return found


def _verdict(
    actions: Actions, truth: _Truth, flagged: npt.NDArray[np.bool_], severity: Mapping[int, str]
) -> dict[str, Any]:
    """All figures of one set of flagged actions."""
    person = actions.person
    normal_person = int((person & ~truth.labelled).sum())
    normal_system = int((~person & ~truth.labelled).sum())
    found = incidents(actions, np.flatnonzero(flagged))
    false = [rows for rows in found if not truth.labelled[rows].any()]
    alone = incidents(actions, np.flatnonzero(flagged & ~truth.labelled))
    grave = {
        row: max(SEVERITIES.index(severity.get(r, "low")) for r in rows.tolist())
        for rows in found
        for row in rows.tolist()
    }
    runs: list[dict[str, Any]] = []
    for run in truth.runs:
        hits = np.flatnonzero(flagged[run.rows]) if len(run.rows) else np.empty(0, np.int64)
        worst = max((grave[row] for row in run.rows[hits].tolist()), default=0)
        runs.append(
            {
                **{
                    key: run.label.get(key)
                    for key in ("scenario", "family", "class", "mode", "kind", "principal")
                },
                "calls": len(run.rows),
                "detected": bool(len(hits)),
                "actions_to_detection": int(hits[0]) + 1 if len(hits) else None,
                "severity": SEVERITIES[worst],
            }
        )
    attacks = [run for run in runs if run["kind"] == "attack"]
    alike = [run for run in runs if run["kind"] != "attack"]
    false_person = sum(bool(person[rows[0]]) for rows in false)
    strict_person = sum(bool(person[rows[0]]) for rows in alone)
    after = [int(run["actions_to_detection"]) for run in attacks if run["detected"]]
    return {
        "attack_runs": len(attacks),
        "recall": _share(attacks),
        **{f"recall_by_{key}": _recall_by(attacks, key) for key in ("scenario", "family", "class", "mode")},
        "false_incidents": len(false),
        "false_per_10k_person_actions": false_person * 1e4 / max(normal_person, 1),
        "false_per_1m_system_actions": (len(false) - false_person) * 1e6 / max(normal_system, 1),
        "strict_false_per_10k_person_actions": strict_person * 1e4 / max(normal_person, 1),
        "lookalikes": len(alike),
        "lookalikes_high": sum(run["detected"] and run["severity"] in HIGH for run in alike),
        "lookalikes_raised": sum(run["detected"] for run in alike),
        "median_actions_to_detection": float(np.median(after)) if after else None,
        "incidents": len(found),
        "normal_person_actions": normal_person,
        "normal_system_actions": normal_system,
        "runs": runs,
    }


def _share(runs: Sequence[Mapping[str, Any]]) -> float:
    return sum(run["detected"] for run in runs) / len(runs) if runs else 0.0


def _recall_by(runs: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    grouped: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for run in runs:
        grouped[str(run.get(key))].append(run)
    return {name: _share(members) for name, members in sorted(grouped.items())}


def curve(
    actions: Actions, truth: _Truth, score: npt.NDArray[np.float64], highest: float = 12.0
) -> list[tuple[float, float]]:
    """Recall over the rate of false incidents as the threshold falls.

    Stricter than the verdict's rate: false incidents are counted among unlabelled actions alone, so that a false alarm which
    happens to come within ten minutes of an attack by the same principal still counts.

    Returns:
        (false incidents per 10,000 person-and-pipeline actions, recall of attack runs), rate rising to `highest`.
    """
    attacks = [run for run in truth.runs if run.label["kind"] == "attack" and len(run.rows)]
    total = sum(run.label["kind"] == "attack" for run in truth.runs)
    peaks = np.array([score[run.rows].max() for run in attacks])
    normal = np.flatnonzero(actions.person & ~truth.labelled)
    order = normal[np.argsort(-score[normal], kind="stable")]
    times: dict[str, list[int]] = defaultdict(list)
    count = 0
    points: list[tuple[float, float]] = [(0.0, 0.0)]
    position = 0
    while position < len(order):
        level = score[order[position]]
        # What lies above the next normal action is caught at the present rate.
        points.append((count * 1e4 / len(normal), float((peaks > level).sum()) / max(total, 1)))
        while position < len(order) and score[order[position]] == level:
            row = int(order[position])
            mine = times[actions.principal[row]]
            before = _pieces(mine)
            mine.append(int(actions.time[row]))
            count += _pieces(mine) - before
            position += 1
        if count * 1e4 / len(normal) > highest:
            break
    best: dict[float, float] = {}
    for rate, recall in points:
        best[rate] = max(best.get(rate, 0.0), recall)
    return sorted(best.items())


def _pieces(times: Sequence[int]) -> int:
    if not times:
        return 0
    return 1 + int((np.diff(np.sort(times)) > INCIDENT_GAP).sum())


def recall_at(points: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Recall on the curve at each of RATES false incidents per 10,000 person-and-pipeline actions."""
    return {str(rate): max((recall for at, recall in points if at <= rate), default=0.0) for rate in RATES}


def judge(
    alerts: Sequence[Mapping[str, Any]], log: Path, labels: Sequence[Label], *, progress: bool = True
) -> dict[str, Any]:
    """Judge alerts obtained elsewhere, such as from the API.

    Args:
        alerts: each with principal, auditIDs and severity.
        log: the audit log they were raised on.
        labels: what was done in it.

    Returns:
        The figures of `evaluate`, without curves; baselines are "always silent" and "always alarm".
    """
    encoder = ActionEncoder(ActionSettings.from_dict(shipped("actions.yaml")))
    actions, _ = _replay(log, lambda events: _columns(encoder, events), progress, "judging")
    truth = _join(actions, labels)
    graveness: dict[tuple[str, str], str] = {}
    for alert in alerts:
        for audit_id in alert["auditIDs"]:
            graveness[(str(alert["principal"]), str(audit_id))] = str(alert["severity"])
    severity = {
        row: graveness[key]
        for row, key in enumerate(zip(actions.principal.tolist(), actions.audit_id, strict=True))
        if key in graveness
    }
    flagged = np.zeros(len(actions.audit_id), bool)
    flagged[list(severity)] = True
    figures = _verdict(actions, truth, flagged, severity)
    figures["events"] = actions.events
    figures["baselines"] = _trivial(actions, truth)
    return figures


def _trivial(actions: Actions, truth: _Truth) -> dict[str, Any]:
    """What needs no model: never and always raising an alarm."""
    size = len(actions.audit_id)
    return {
        "always silent": _brief(_verdict(actions, truth, np.zeros(size, bool), {})),
        "always alarm": _brief(
            _verdict(actions, truth, np.ones(size, bool), dict.fromkeys(range(size), "high"))
        ),
    }


def _brief(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key != "runs"}


_Columns = tuple[list[str], list[str], list[str], Rows]


def _columns(encoder: ActionEncoder, events: list[AuditEvent]) -> tuple[_Columns, None]:
    batch = encoder.encode(events)
    return (
        [events[i].auditID for i in batch.event.tolist()],
        [batch.principals[code].name for code in batch.principal.tolist()],
        [batch.principals[code].kind for code in batch.principal.tolist()],
        batch.time,
    ), None


def _replay(
    log: Path, encode: Callable[[list[AuditEvent]], tuple[_Columns, Any]], progress: bool, title: str
) -> tuple[Actions, list[Any]]:
    """Run a log through `encode` and gather the columns; the second results are returned as they come."""
    parts: list[_Columns] = []
    extras: list[Any] = []

    def take(events: list[AuditEvent]) -> None:
        columns, extra = encode(events)
        parts.append(columns)
        extras.append(extra)

    events = _read(log, take, progress, title)
    return Actions(
        audit_id=[audit_id for part in parts for audit_id in part[0]],
        principal=np.array([name for part in parts for name in part[1]], object),
        kind=np.array([kind for part in parts for kind in part[2]], object),
        time=np.concatenate([part[3] for part in parts]),
        events=events,
    ), extras


@dataclass(frozen=True, slots=True)
class _Detected:
    """What one call of the detector and of the baselines gave, by action."""

    ratio: npt.NDArray[np.float64]
    surprise: npt.NDArray[np.float32]
    flagged: npt.NDArray[np.bool_]
    severity: list[str]
    count: npt.NDArray[np.float64]
    first_time: npt.NDArray[np.bool_]


class _Competition:
    """The detector and the simple baselines, side by side on the same events."""

    def __init__(self, bundle: Bundle) -> None:
        self.detector = Detector(bundle)
        self.encoder = ActionEncoder(bundle.settings)
        self.habits: Habits = bundle.habits.copy()
        self.table = bundle.principals

    def __call__(self, events: list[AuditEvent]) -> tuple[_Columns, _Detected]:
        """Score one chunk of events."""
        from data.actions import stable_hash

        scores = self.detector.score(events)
        batch = self.encoder.encode(events)
        names = np.array([stable_hash(name) for name in scores.principal], np.uint64)
        groups = np.array([stable_hash(group) for group in scores.group], np.uint64)
        known = self.habits.observe(attribute_hashes(batch, self.encoder), names, groups)
        levels = [novelty_levels(row) for row in known]
        columns = (
            [events[i].auditID for i in scores.event.tolist()],
            scores.principal,
            scores.kind,
            scores.time.astype(np.int64),
        )
        return columns, _Detected(
            ratio=scores.evidence / scores.threshold,
            surprise=scores.surprise,
            flagged=scores.flagged,
            severity=scores.severity,
            count=np.array([novelty_count(row) for row in levels], np.float64),
            first_time=np.array([row[_TUPLE] > 0 for row in levels], bool),
        )


def evaluate(
    model_uri: str, log: Path, labels: Path | None = None, *, progress: bool = True, track: bool = True
) -> dict[str, Any]:
    """Judge a registered model on a labelled log, beside the simple baselines.

    Args:
        model_uri: `models:/kubehabit@champion`, a version, or the folder of a bundle.
        log: audit log.
        labels: JSON list of runs; without it everything is taken to be normal, and only false incidents are counted.
        track: log the figures and plots to the MLflow run that made the model, if it is there.

    Returns:
        The figures listed in docs/evaluation.md; `recall_at` comes from `curve`, everything else from the bundle's thresholds.

    Raises:
        KubehabitError: no such model, log or labels.
    """
    truth_labels = read_labels(labels) if labels is not None else []
    bundle = Bundle.load(download(model_uri))
    began = monotonic()
    actions, chunks = _replay(log, _Competition(bundle), progress, "evaluating")
    seconds = monotonic() - began
    truth = _join(actions, truth_labels)

    def column(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(chunk, name) for chunk in chunks])

    ratio, flagged = column("ratio"), column("flagged")
    severity = {
        row: level
        for row, level in enumerate(level for chunk in chunks for level in chunk.severity)
        if flagged[row]
    }
    figures = _verdict(actions, truth, flagged, severity)
    points = curve(actions, truth, ratio)
    for row, run in zip(figures["runs"], truth.runs, strict=True):
        row["peak"] = float(ratio[run.rows].max()) if len(run.rows) else 0.0
    count = column("count")
    limit = bundle.meta["baselines"]["novelty_count"]
    counted = count >= np.where(actions.person, limit["person"], limit["system"])
    everything = dict.fromkeys(range(len(ratio)), "high")  # a baseline has no severity of its own
    curves = {
        "kubehabit": points,
        "autoencoder alone": curve(actions, truth, column("surprise").astype(np.float64)),
        "novelty count": curve(actions, truth, count),
        "novelty table": curve(actions, truth, column("first_time").astype(np.float64)),
    }
    baselines = _trivial(actions, truth) | {
        "novelty count": _brief(_verdict(actions, truth, counted, everything))
        | {"recall_at": recall_at(curves["novelty count"])},
        "novelty table": _brief(_verdict(actions, truth, column("first_time"), everything))
        | {"recall_at": recall_at(curves["novelty table"])},
    }
    figures |= {
        "model": model_uri,
        "thresholds_set_on": bundle.calibration.budget["set on"],
        "recall_at": recall_at(points),
        "recall_at_autoencoder_alone": recall_at(curves["autoencoder alone"]),
        "seconds": seconds,
        "events": actions.events,
        "actions": len(ratio),
        "principals": dict(Counter(actions.kind.tolist())),
        "baselines": baselines,
    }
    if track:
        _track(bundle, log, figures, curves)
    return figures


def _track(
    bundle: Bundle, log: Path, figures: dict[str, Any], curves: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    """Add the evaluation to the run that made the model; a model from elsewhere is left alone."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from training import plots

    client = MlflowClient(tracking_uri=tracking_uri(), registry_uri=registry_uri())
    run_id = bundle.meta["run_id"]
    try:
        client.get_run(run_id)
    except MlflowException:
        return
    stem = log.name.split(".")[0]
    client.log_dict(run_id, figures, f"evaluation/{stem}.json")
    client.log_figure(run_id, plots.recall(curves), f"evaluation/{stem}-recall.png")
    if figures["runs"]:
        table = {key: [row.get(key) for row in figures["runs"]] for key in figures["runs"][0]}
        client.log_table(run_id, table, f"evaluation/{stem}-runs.json")
        client.log_figure(run_id, plots.runs(figures["runs"]), f"evaluation/{stem}-runs.png")
    for name in ("recall", "false_per_10k_person_actions", "false_per_1m_system_actions", "lookalikes_high"):
        client.log_metric(run_id, f"{stem}_{name}", float(figures[name]))
