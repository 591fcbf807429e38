"""Judges detectors on a labelled log: the product of a bundle and every baseline, shown the same actions in the same order.

The arithmetic is in `training.evaluation.metrics`; what is compared is in `training.baselines`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import TextColumn

from data.actions.encoder import ActionEncoder, ActionSettings
from data.arrays import Flags, Floats
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from data.paths import registry_uri, shipped, shipped_rules, tracking_uri
from data.visible_text import visible
from data.work_progress import WorkProgress
from detection.bundle import Bundle
from detection.detector import SEVERITIES
from detection.rules.replay import HitFinder
from detection.rules.rule import Rule
from detection.rules.rule_files import read_rules
from training import model_card
from training.audit_log import read_log
from training.evaluation import bootstrap, metrics
from training.evaluation.alone import judge_alone, summary
from training.evaluation.metrics import RATES, Actions, Curve, Label, Truth, verdict
from training.evaluation.report import markdown
from training.evaluation.strict_replay import ROWS
from training.registry import download
from training.stretch import LogEncoder, Stretch

if TYPE_CHECKING:
    from training.baselines.in_decision import InDecision

Figures = dict[str, Any]


def judge(
    alerts: Sequence[Mapping[str, Any]], log: Path, labels: Sequence[Label], *, progress: bool = True
) -> Figures:
    """Judge alerts obtained elsewhere, such as from the API; each has principal, auditIDs and severity.

    Returns the figures of `evaluate` without curves, beside those of never and of always raising an alarm.
    """
    encoder = ActionEncoder(ActionSettings.shipped())
    parts = []
    for events in read_log(log, "judging", progress=progress):
        batch = encoder.encode(events)
        who = [batch.principals[code] for code in batch.principal.tolist()]
        parts.append(
            Actions(
                [events[i].auditID for i in batch.event.tolist()],
                np.array([principal.name for principal in who], object),
                np.array([principal.kind for principal in who], object),
                batch.time,
                len(events),
            )
        )
    actions = Actions.concatenate(parts)
    truth = metrics.join(actions, labels)
    alerted = {
        (str(alert["principal"]), str(audit_id)): str(alert["severity"])
        for alert in alerts
        for audit_id in alert["auditIDs"]
    }
    keys = zip(actions.principal.tolist(), actions.audit_id, strict=True)
    severity = {row: alerted[key] for row, key in enumerate(keys) if key in alerted}
    flagged = np.zeros(len(actions), bool)
    flagged[list(severity)] = True
    figures = verdict(actions, truth, flagged, severity)
    return figures | {"events": actions.events, "baselines": _trivial(actions, truth)}


def _trivial(actions: Actions, truth: Truth) -> Figures:
    """The two trivial baselines: never and always raising an alarm."""
    none, every = np.zeros(len(actions), bool), np.ones(len(actions), bool)
    always = dict.fromkeys(range(len(actions)), "high")
    return {
        "always silent": _brief(verdict(actions, truth, none, {})),
        "always alarm": _brief(verdict(actions, truth, every, always)),
    }


def _brief(figures: Figures) -> Figures:
    return {key: value for key, value in figures.items() if key != "runs"}


@dataclass(slots=True)
class _LogAnswers:
    """Answers of one detector on the whole log, and on the log without what the labels name."""

    score: Floats
    flagged: Flags
    severity: dict[int, str]
    seconds: float
    quiet: Floats | None = None
    quiet_flagged: Flags | None = None


class _LogReplay:
    """Shows a log to detectors, chunk by chunk, and collects their predictions by title."""

    def __init__(self, detectors: Sequence[Any], bundle: Bundle) -> None:
        self.detectors = detectors
        rules, last = bundle.sensitivity.table, bundle.warmup.last
        self.encoder = LogEncoder(bundle.settings, bundle.vocabulary, bundle.principals, rules, last)
        self.parts: dict[str, list[Any]] = {detector.title: [] for detector in detectors}
        self.seconds = dict.fromkeys(self.parts, 0.0)

    def show(self, events: Sequence[AuditEvent]) -> tuple[Stretch, list[str]]:
        """Score the next events; returns their actions as a stretch, and the audit ID of each."""
        stretch, audit_ids = self.encoder.encode(events)
        for detector in self.detectors:
            before = monotonic()
            self.parts[detector.title].append(detector.predict(stretch))
            self.seconds[detector.title] += monotonic() - before
        return stretch, audit_ids

    def answers(self, title: str) -> _LogAnswers:
        """Answers of one detector to all events so far."""
        parts = self.parts[title]
        flagged = np.concatenate([part.flagged for part in parts])
        levels = [level for part in parts for level in part.severity]
        severity = {row: levels[row] for row in np.flatnonzero(flagged).tolist()}
        score = np.concatenate([part.score for part in parts])
        return _LogAnswers(score, flagged, severity, self.seconds[title])


def evaluate(
    model_uri: str,
    log: Path,
    labels: Path | None = None,
    *,
    data: Path | None = None,
    transplants: int = 0,
    alone: bool = True,
    report: Path | None = None,
    progress: bool = True,
    track: bool = True,
) -> Figures:
    """Judge a registered model (`models:/...` or the folder of a bundle) on a labelled log, beside the baselines.

    Args:
        labels: JSON list of runs; without it everything is taken to be normal, and only false incidents are counted.
        data: the dataset the model was trained on, on which every baseline is fitted; without it only those take part that
            the bundle alone supports.
        transplants: attack runs put into other principals' clothes to judge on besides, at least so many; 0 for none.
        alone: replay every run by itself as well, which takes one more pass over the log.
        report: Markdown file to write.
        track: log the figures and plots to the MLflow run that made the model, if it is there.

    Returns:
        The figures listed in docs/evaluation.md; `recall_at` comes from the curve, everything else from thresholds set on
        normal data.

    Raises:
        KubehabitError: no such model, log or labels, or a dataset that the model was not trained on.
    """
    # Imported here: the demo uses `judge`, which needs no baseline and so none of their libraries.
    from training.baselines import ABLATIONS
    from training.baselines.product import ProductDetector

    run_labels = metrics.read_labels(labels) if labels is not None else []
    stage = Console(stderr=True).status
    with stage("loading the model"):
        bundle = Bundle.load(download(model_uri))
        champion = ProductDetector(bundle)
    began = monotonic()
    rivals, swapped = _rivals(bundle, champion, data, progress)
    seconds_fitting = monotonic() - began
    began = monotonic()
    rules = tuple(read_rules([shipped_rules()]).rules.values())
    replayed = _replay(bundle, champion, [*rivals, *swapped], log, run_labels, rules, progress)
    actions, answers, surprise, ruled = replayed
    seconds = monotonic() - began
    truth = metrics.join(actions, run_labels)
    curves = {
        title: metrics.curve(actions, truth, each.score, quiet=each.quiet) for title, each in answers.items()
    }
    blocks = {title: _block(actions, truth, answers[title], curves[title]) for title in answers}
    figures = blocks.pop(champion.title)
    for row, run in zip(figures["runs"], truth.runs, strict=True):
        row["peak"] = float(answers[champion.title].score[run.rows].max()) if len(run.rows) else 0.0
    error_alone = curves.get(ABLATIONS[0]) or metrics.curve(actions, truth, surprise)
    no_rivals = (champion.title, *ABLATIONS, *(one.title for one in swapped))
    others = {title: found for title, found in curves.items() if title not in no_rivals}
    brief = {title: _brief(block) for title, block in blocks.items()}
    figures |= {
        "model": model_uri,
        "thresholds_set_on": bundle.calibration.budget["set on"],
        "recall_at_autoencoder_alone": metrics.recall_at(error_alone),
        "compared_with_best_baseline": _comparison(curves[champion.title], others, truth),
        "seconds": seconds,
        "seconds_fitting_baselines": seconds_fitting,
        "events": actions.events,
        "actions": len(actions),
        "principals": dict(Counter(actions.kind.tolist())),
        "with_rules": _with_rules(actions, truth, answers[champion.title], ruled),
        "baselines": _trivial(actions, truth) | {title: brief[title] for title in others},
        "ablations": {title: block for title, block in brief.items() if title in ABLATIONS},
        "in_decision": {one.title: brief[one.title] for one in swapped},
    }
    if run_labels and alone:
        figures |= _alone(bundle, swapped, log, run_labels, transplants, rules, progress)
        figures |= summary(figures["alone"])
        for title, one in figures["alone_in_decision"].items():
            figures["in_decision"][title] |= summary(one)
    caught = {t: block["recall_by_scenario"] for t, block in {"kubehabit": figures, **blocks}.items()}
    if report is not None:
        _write(report, markdown(figures, log.name, caught))
    if track:
        with stage("logging figures and plots to MLflow"):
            _track(bundle, log, figures, {**curves, ABLATIONS[0]: error_alone}, caught)
    return figures


def _replay(
    bundle: Bundle,
    champion: Any,
    rivals: Sequence[Any],
    log: Path,
    labels: Sequence[Label],
    rules: Sequence[Rule],
    progress: bool,
) -> tuple[Actions, dict[str, _LogAnswers], Floats, dict[int, str]]:
    """Show a log to all detectors: its actions, the answers by title, the champion's surprise, float64 [N], and the severity
    of each row that a rule reports.

    With labels, copies of the detectors are shown the log without what the labels name, as if there had been no attack: all
    learn as they go, and the product's evidence adds up, so that an attack changes what its victim's next actions score.
    """
    from training.baselines.product import ProductDetector

    again = ProductDetector(bundle)
    # What is large and does not change is shared with the copies.
    copies = deepcopy(list(rivals), {id(bundle): bundle, id(champion): again})
    whole, quiet = _LogReplay([champion, *rivals], bundle), _LogReplay([again, *copies], bundle)
    named = metrics.named_by(labels)
    finder, ruled, rows = HitFinder(rules), dict[int, str](), 0
    parts, surprise = [], []
    for events in read_log(log, "evaluating", progress=progress):
        stretch, audit_ids = whole.show(events)
        parts.append(Actions(audit_ids, stretch.name, stretch.kind, stretch.time, len(events)))
        scores = champion.scores(stretch)
        surprise.append(scores.surprise)
        for row, hits in finder.find(events, scores).items():
            ruled[rows + row] = max((rule.spec.severity for rule in hits), key=SEVERITIES.index)
        rows += len(stretch)
        if labels:
            quiet.show([event for event in events if event.auditID not in named])
    actions = Actions.concatenate(parts)
    answers = {title: whole.answers(title) for title in whole.parts}
    if labels:
        normal = ~metrics.join(actions, labels).labelled
        for title, answer in answers.items():
            calm = quiet.answers(title)  # of the unlabelled actions, in the same order
            answer.quiet, answer.quiet_flagged = answer.score.copy(), answer.flagged.copy()
            answer.quiet[normal], answer.quiet_flagged[normal] = calm.score, calm.flagged
    return actions, answers, np.concatenate(surprise).astype(np.float64), ruled


def _with_rules(
    actions: Actions, truth: Truth, answers: _LogAnswers, ruled: Mapping[int, str]
) -> dict[str, Any]:
    """Figures of the product with the rules that ship with it, as the service runs them."""
    hit = np.zeros(len(actions), bool)
    hit[list(ruled)] = True
    severity = answers.severity | {
        row: max(level, answers.severity.get(row, level), key=SEVERITIES.index)
        for row, level in ruled.items()
    }
    quiet = None if answers.quiet_flagged is None else answers.quiet_flagged | hit
    return _brief(verdict(actions, truth, answers.flagged | hit, severity, quiet))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _comparison(mine: Curve, others: Mapping[str, Curve], truth: Truth) -> Figures:
    """The lead over the best baseline, with its interval."""
    comparison = metrics.compare(mine, others, truth)
    for rate, found in comparison.items():
        found["interval"] = bootstrap.difference_interval(
            mine.caught(float(rate)), others[found["best_baseline"]].caught(float(rate))
        )
    return comparison


def _alone(
    bundle: Bundle,
    swapped: Sequence[Any],
    log: Path,
    labels: Sequence[Label],
    transplants: int,
    rules: Sequence[Rule],
    progress: bool,
) -> Figures:
    """Every run by itself: of the product with all questions, of other errors in its decision the plain one."""
    judged = partial(
        judge_alone,
        *(bundle, log, labels),
        attacks=transplants,
        lookalikes=transplants // 4,
        progress=progress,
    )
    return {
        "alone": judged(rows=ROWS if transplants else (), rules=rules),
        "alone_in_decision": {one.title: judged(rows=(), detector=one.detector()) for one in swapped},
    }


def _rivals(
    bundle: Bundle, champion: Any, data: Path | None, progress: bool
) -> tuple[list[Any], list[InDecision]]:
    """The baselines, ready, with the product's ablation; and the product with other errors. The latter two need the dataset."""
    from training.baselines import baselines, fitted, of_bundle
    from training.baselines.base import Budget
    from training.baselines.in_decision import InDecision, error_models
    from training.baselines.next_action import NextActionLstm
    from training.baselines.product import ReconstructionError
    from training.calibrate import HeldBack, calibration_config

    if data is None:
        return list(of_bundle(bundle)), []
    from data.dataset.table import load

    table = load(data)
    if table.card["fingerprint"] != bundle.meta["data"]["fingerprint"]:
        raise KubehabitError(
            f"{data} is not the dataset that the model was trained on (fingerprint {table.card['fingerprint'][:16]}, the "
            f"model's is {bundle.meta['data']['fingerprint'][:16]}), so the comparison would not be fair. Give that dataset, or "
            "train on this one."
        )
    person, system = (float(value) for value in list(bundle.calibration.budget.values())[:2])
    waiting = [*baselines(table, bundle.meta["model"]), ReconstructionError(champion)]
    with WorkProgress(TextColumn("fitting {task.description}"), disable=not progress, transient=True) as bar:
        task = bar.add_task("baselines")
        rivals = list(
            fitted(waiting, table, Budget(person, system), lambda title: bar.update(task, description=title))
        )
        config = replace(
            calibration_config(shipped("train.yaml")["calibration"]),
            person_budget=person,
            system_budget=system,
        )
        held = HeldBack.from_table(table)
        lstm = next(one for one in rivals if isinstance(one, NextActionLstm))
        swapped = []
        for errors in error_models(lstm):
            bar.update(task, description=errors.title)
            swapped.append(InDecision.fitted(bundle, errors, table, held, config))
    return rivals, swapped


def _block(actions: Actions, truth: Truth, answers: _LogAnswers, found: Curve) -> Figures:
    """All figures of one detector."""
    figures = verdict(actions, truth, answers.flagged, answers.severity, answers.quiet_flagged)
    attacks = np.array([run["detected"] for run in figures["runs"] if run["kind"] == "attack"], bool)
    starts, person = metrics.false_incident_times(actions, truth, answers.flagged)
    normal = ~truth.labelled
    rates = {
        "false_per_10k_person_actions": (starts[person], actions.time[actions.person & normal], 1e4),
        "false_per_1m_system_actions": (starts[~person], actions.time[~actions.person & normal], 1e6),
    }
    figures |= {
        "recall_at": metrics.recall_at(found),
        "recall_at_as_counted": metrics.recall_at_as_counted(actions, truth, answers.score),
        "seconds_scoring": answers.seconds,
        "intervals": {
            "recall": bootstrap.share_interval(attacks),
            **{name: bootstrap.rate_interval(*given) for name, given in rates.items()},
            "recall_at": {str(rate): bootstrap.share_interval(found.caught(rate)) for rate in RATES},
        },
    }
    return figures | metrics.ranking(actions, truth, answers.score, found)


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

    client = MlflowClient(tracking_uri=tracking_uri(), registry_uri=registry_uri())
    run_id = bundle.meta["run_id"]
    try:
        client.get_run(run_id)
    except MlflowException:
        return
    stem = log.name.split(".")[0]
    client.log_dict(run_id, figures, f"evaluation/{stem}.json")
    client.log_text(run_id, markdown(figures, log.name, caught), f"evaluation/{stem}.md")
    drawn = {"recall": plots.recall({title: found.points() for title, found in curves.items()})}
    if figures["runs"]:
        table = {key: [row.get(key) for row in figures["runs"]] for key in figures["runs"][0]}
        client.log_table(run_id, table, f"evaluation/{stem}-runs.json")
        delays = {
            title: block["actions_to_detection"]
            for title, block in {"kubehabit": figures, **figures["baselines"]}.items()
            if block["actions_to_detection"] and not title.startswith("always")
        }
        drawn |= {
            "runs": plots.runs(figures["runs"]),
            "scenarios": plots.scenarios(caught),
            "delay": plots.delays(delays),
        }
    for name, figure in drawn.items():
        client.log_figure(run_id, figure, f"evaluation/{stem}-{name}.png")
    for name in ("recall", "false_per_10k_person_actions", "false_per_1m_system_actions", "lookalikes_high"):
        client.log_metric(run_id, f"{stem}_{name}", float(figures[name]))
    section, tags = model_card.evaluation(figures)
    for model, version in model_card.versions_of(client, run_id):
        named = {f"{stem}_{key}": value for key, value in tags.items()}
        model_card.publish(client, model, version, f"Evaluation on {visible(stem)}", section, named)
