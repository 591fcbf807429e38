"""Judging detectors on a labelled log: the product of a bundle and every baseline, shown the same actions in the same order.

The arithmetic is in `training.evaluation.metrics`; what is compared is in `training.baselines`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from data.actions import ActionEncoder, ActionSettings
from data.bundle import Bundle
from data.errors import KubehabitError
from data.events import AuditEvent
from data.home import home, registry_uri, tracking_uri
from data.reader import DeadLetterFile, read_events
from data.shipped import shipped
from training.evaluation import bootstrap
from training.evaluation.metrics import (
    RATES,
    Actions,
    Curve,
    Flags,
    Floats,
    Label,
    Truth,
    compare,
    curve,
    false_incident_times,
    join,
    named_by,
    ranking,
    read_labels,
    recall_at,
    recall_at_as_counted,
    verdict,
)
from training.registry import download

__all__ = ["evaluate", "judge", "read_labels"]


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
    actions = _Columns()

    def take(events: list[AuditEvent]) -> None:
        batch = encoder.encode(events)
        who = [batch.principals[code] for code in batch.principal.tolist()]
        actions.audit_id += [events[i].auditID for i in batch.event.tolist()]
        actions.principal += [principal.name for principal in who]
        actions.kind += [principal.kind for principal in who]
        actions.time.append(batch.time)

    replayed = actions.finish(_read(log, take, progress, "judging"))
    truth = join(replayed, labels)
    graveness: dict[tuple[str, str], str] = {}
    for alert in alerts:
        for audit_id in alert["auditIDs"]:
            graveness[(str(alert["principal"]), str(audit_id))] = str(alert["severity"])
    severity = {
        row: graveness[key]
        for row, key in enumerate(zip(replayed.principal.tolist(), replayed.audit_id, strict=True))
        if key in graveness
    }
    flagged = np.zeros(len(replayed), bool)
    flagged[list(severity)] = True
    return verdict(replayed, truth, flagged, severity) | {
        "events": replayed.events,
        "baselines": _trivial(replayed, truth),
    }


class _Columns:
    """Collects the actions of a log chunk by chunk."""

    def __init__(self) -> None:
        self.audit_id: list[str] = []
        self.principal: list[str] = []
        self.kind: list[str] = []
        self.time: list[Any] = []

    def finish(self, events: int) -> Actions:
        """All of them."""
        return Actions(
            self.audit_id,
            np.array(self.principal, object),
            np.array(self.kind, object),
            np.concatenate(self.time),
            events,
        )


def _trivial(actions: Actions, truth: Truth) -> dict[str, Any]:
    """What needs no model: never and always raising an alarm."""
    size = len(actions)
    return {
        "always silent": _brief(verdict(actions, truth, np.zeros(size, bool), {})),
        "always alarm": _brief(
            verdict(actions, truth, np.ones(size, bool), dict.fromkeys(range(size), "high"))
        ),
    }


def _brief(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures.items() if key != "runs"}


@dataclass(slots=True)
class _Answers:
    """What one detector said of the whole log."""

    score: Floats
    flagged: Flags
    severity: dict[int, str]
    seconds: float
    quiet: Floats | None = None
    quiet_flagged: Flags | None = None


class _Quiet:
    """The same detectors on the same log without what the labels name: what they would have raised had there been no attack.

    All learn as they go, and the product's evidence adds up, so that on the log itself an attack changes what its victim's next
    actions score.
    """

    def __init__(self, detectors: Sequence[Any], encoder: Any, labels: Sequence[Label]) -> None:
        self._detectors = detectors
        self._encoder = encoder
        self._left_out = named_by(labels)
        self._parts: dict[str, list[tuple[Floats, Flags]]] = {detector.title: [] for detector in detectors}

    def take(self, events: Sequence[AuditEvent]) -> None:
        """Score what the labels do not name."""
        stretch, _ = self._encoder.encode([event for event in events if event.auditID not in self._left_out])
        for detector in self._detectors:
            found = detector.predict(stretch)
            self._parts[detector.title].append((found.score, found.flagged))

    def put_into(self, title: str, answers: _Answers, labelled: Flags) -> None:
        """Give every unlabelled action its quiet score; their order is the same in both replays."""
        answers.quiet, answers.quiet_flagged = answers.score.copy(), answers.flagged.copy()
        answers.quiet[~labelled] = np.concatenate([score for score, _ in self._parts[title]])
        answers.quiet_flagged[~labelled] = np.concatenate([flagged for _, flagged in self._parts[title]])


def evaluate(
    model_uri: str,
    log: Path,
    labels: Path | None = None,
    *,
    data: Path | None = None,
    report: Path | None = None,
    progress: bool = True,
    track: bool = True,
) -> dict[str, Any]:
    """Judge a registered model on a labelled log, beside the baselines.

    Args:
        model_uri: `models:/kubehabit@champion`, a version, or the folder of a bundle.
        log: audit log.
        labels: JSON list of runs; without it everything is taken to be normal, and only false incidents are counted.
        data: the dataset the model was trained on; with it every baseline is fitted and takes part, without it those that the
            bundle alone supports.
        report: Markdown file to write.
        track: log the figures and plots to the MLflow run that made the model, if it is there.

    Returns:
        The figures listed in docs/evaluation.md; `recall_at` comes from the curve, everything else from thresholds set on
        normal data.

    Raises:
        KubehabitError: no such model, log or labels, or a dataset that the model was not trained on.
    """
    # Imported here: `judge` is used by the demo, which needs no baseline and so none of their libraries.
    from training.baselines import ABLATIONS, LogEncoder, ProductDetector

    truth_labels = read_labels(labels) if labels is not None else []
    bundle = Bundle.load(download(model_uri))
    champion = ProductDetector(bundle)
    began = monotonic()
    rivals = _rivals(bundle, champion, data, progress)
    seconds_fitting = monotonic() - began
    detectors = [champion, *rivals]
    encoder, beside = (
        LogEncoder(
            bundle.settings,
            bundle.vocabulary,
            bundle.principals,
            bundle.sensitivity.table,
            bundle.warmup.last,
        )
        for _ in range(2)
    )
    # Each with a state of its own; what is large and does not change is shared.
    again = ProductDetector(bundle)
    same = {id(bundle): bundle, id(champion): again}
    quiet = _Quiet([again, *deepcopy(rivals, same)], beside, truth_labels)
    columns = _Columns()
    parts: dict[str, list[Any]] = {detector.title: [] for detector in detectors}
    spent = dict.fromkeys(parts, 0.0)
    surprise: list[Any] = []

    def take(events: list[AuditEvent]) -> None:
        stretch, audit_ids = encoder.encode(events)
        columns.audit_id += audit_ids
        columns.principal += stretch.name.tolist()
        columns.kind += stretch.kind.tolist()
        columns.time.append(stretch.time)
        for detector in detectors:
            before = monotonic()
            parts[detector.title].append(detector.predict(stretch))
            spent[detector.title] += monotonic() - before
        surprise.append(champion.scores(stretch).surprise)
        if truth_labels:
            quiet.take(events)

    began = monotonic()
    actions = columns.finish(_read(log, take, progress, "evaluating"))
    seconds = monotonic() - began
    truth = join(actions, truth_labels)
    answers = {title: _joined(parts[title], spent[title]) for title in parts}
    if truth_labels:
        for title, answer in answers.items():
            quiet.put_into(title, answer, truth.labelled)
    curves = {
        title: curve(actions, truth, answer.score, quiet=answer.quiet) for title, answer in answers.items()
    }
    blocks = {title: _block(actions, truth, answers[title], curves[title]) for title in answers}
    figures = blocks.pop(champion.title)
    for row, run in zip(figures["runs"], truth.runs, strict=True):
        row["peak"] = float(answers[champion.title].score[run.rows].max()) if len(run.rows) else 0.0
    alone = curves.get(ABLATIONS[0]) or curve(actions, truth, np.concatenate(surprise).astype(np.float64))
    rival_curves = {
        title: found for title, found in curves.items() if title not in (champion.title, *ABLATIONS)
    }
    comparison = compare(curves[champion.title], rival_curves, truth)
    for rate, found in comparison.items():
        found["interval"] = bootstrap.of_difference(
            curves[champion.title].caught(float(rate)),
            curves[found["best_baseline"]].caught(float(rate)),
        )
    figures |= {
        "model": model_uri,
        "thresholds_set_on": bundle.calibration.budget["set on"],
        "recall_at_autoencoder_alone": recall_at(alone),
        "compared_with_best_baseline": comparison,
        "seconds": seconds,
        "seconds_fitting_baselines": seconds_fitting,
        "events": actions.events,
        "actions": len(actions),
        "principals": dict(Counter(actions.kind.tolist())),
        "baselines": _trivial(actions, truth)
        | {title: _brief(block) for title, block in blocks.items() if title not in ABLATIONS},
        "ablations": {title: _brief(block) for title, block in blocks.items() if title in ABLATIONS},
    }
    caught = _by_scenario(figures["runs"], blocks)
    if report is not None:
        from training.evaluation.report import markdown

        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(markdown(figures, log.name, caught), encoding="utf-8")
    if track:
        _track(bundle, log, figures, {**curves, ABLATIONS[0]: alone}, caught)
    return figures


def _rivals(bundle: Bundle, champion: Any, data: Path | None, progress: bool) -> list[Any]:
    """The baselines, ready, and the product's ablation where the dataset is there to set its threshold."""
    from training.baselines import Budget, ReconstructionError, baselines, fitted, of_bundle

    if data is None:
        return list(of_bundle(bundle))
    from data.dataset import load

    table = load(data)
    if table.card["fingerprint"] != bundle.meta["data"]["fingerprint"]:
        raise KubehabitError(
            f"{data} is not the dataset that the model was trained on (fingerprint {table.card['fingerprint'][:16]}, the "
            f"model's is {bundle.meta['data']['fingerprint'][:16]}), so the comparison would not be fair. Give that dataset, or "
            "train on this one."
        )
    person, system = (float(value) for value in list(bundle.calibration.budget.values())[:2])
    waiting = [*baselines(table, bundle.meta["model"]), ReconstructionError(champion)]
    with Progress(TextColumn("fitting {task.description}"), disable=not progress, transient=True) as bar:
        task = bar.add_task("baselines")
        return list(
            fitted(waiting, table, Budget(person, system), lambda title: bar.update(task, description=title))
        )


def _joined(parts: Sequence[Any], seconds: float) -> _Answers:
    flagged = np.concatenate([part.flagged for part in parts])
    levels = [level for part in parts for level in part.severity]
    return _Answers(
        np.concatenate([part.score for part in parts]),
        flagged,
        {row: levels[row] for row in np.flatnonzero(flagged).tolist()},
        seconds,
    )


def _block(actions: Actions, truth: Truth, answers: _Answers, found: Curve) -> dict[str, Any]:
    """All figures of one detector."""
    figures = verdict(actions, truth, answers.flagged, answers.severity, answers.quiet_flagged)
    attacks = np.array([run["detected"] for run in figures["runs"] if run["kind"] == "attack"], bool)
    starts, person = false_incident_times(actions, truth, answers.flagged)
    normal = ~truth.labelled
    return (
        figures
        | {
            "recall_at": recall_at(found),
            "recall_at_as_counted": recall_at_as_counted(actions, truth, answers.score),
            "seconds_scoring": answers.seconds,
        }
        | ranking(actions, truth, answers.score, found)
        | {
            "intervals": {
                "recall": bootstrap.of_share(attacks),
                "false_per_10k_person_actions": bootstrap.of_rate(
                    starts[person], actions.time[actions.person & normal], 1e4
                ),
                "false_per_1m_system_actions": bootstrap.of_rate(
                    starts[~person], actions.time[~actions.person & normal], 1e6
                ),
                "recall_at": {str(rate): bootstrap.of_share(found.caught(rate)) for rate in RATES},
            }
        }
    )


def _by_scenario(
    runs: Sequence[Mapping[str, Any]], blocks: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Detector -> scenario -> share of its attack runs detected."""
    everyone = {"kubehabit": runs} | {title: block["runs"] for title, block in blocks.items()}
    found: dict[str, dict[str, float]] = {}
    for title, mine in everyone.items():
        shares: dict[str, list[bool]] = {}
        for run in mine:
            if run["kind"] == "attack":
                shares.setdefault(str(run["scenario"]), []).append(bool(run["detected"]))
        found[title] = {name: sum(hits) / len(hits) for name, hits in sorted(shares.items())}
    return found


def _track(
    bundle: Bundle,
    log: Path,
    figures: dict[str, Any],
    curves: Mapping[str, Curve],
    caught: Mapping[str, Mapping[str, float]],
) -> None:
    """Add the evaluation to the run that made the model; a model from elsewhere is left alone."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from training.evaluation import plots
    from training.evaluation.report import markdown

    client = MlflowClient(tracking_uri=tracking_uri(), registry_uri=registry_uri())
    run_id = bundle.meta["run_id"]
    try:
        client.get_run(run_id)
    except MlflowException:
        return
    stem = log.name.split(".")[0]
    client.log_dict(run_id, figures, f"evaluation/{stem}.json")
    client.log_text(run_id, markdown(figures, log.name, caught), f"evaluation/{stem}.md")
    client.log_figure(
        run_id,
        plots.recall({title: found.points() for title, found in curves.items()}),
        f"evaluation/{stem}-recall.png",
    )
    if figures["runs"]:
        table = {key: [row.get(key) for row in figures["runs"]] for key in figures["runs"][0]}
        client.log_table(run_id, table, f"evaluation/{stem}-runs.json")
        client.log_figure(run_id, plots.runs(figures["runs"]), f"evaluation/{stem}-runs.png")
        client.log_figure(run_id, plots.scenarios(caught), f"evaluation/{stem}-scenarios.png")
        delays = {
            title: block["actions_to_detection"]
            for title, block in {"kubehabit": figures, **figures["baselines"]}.items()
            if block["actions_to_detection"] and not title.startswith("always")
        }
        client.log_figure(run_id, plots.delays(delays), f"evaluation/{stem}-delay.png")
    for name in ("recall", "false_per_10k_person_actions", "false_per_1m_system_actions", "lookalikes_high"):
        client.log_metric(run_id, f"{stem}_{name}", float(figures[name]))
