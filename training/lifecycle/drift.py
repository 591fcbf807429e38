"""Drift of the cluster since a model was calibrated, and advice in words on whether to train again.

Each principal's surprise now is compared with its surprise at calibration by the population stability index
(`training.stability`).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.stats import poisson

from data.actions.encoder import ActionEncoder
from data.actions.fields import FIELDS, STATIC_FIELDS
from data.actions.vocabulary import UNKNOWN
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from data.paths import registry_uri, tracking_uri
from data.principals.identity import PEOPLE_AND_PIPELINES
from detection.bundle import Bundle
from detection.detector import Detector
from detection.fit import USUAL, FitTotals, judge_fit
from detection.version_records import DriftRecord, tag_of
from training import model_card
from training.audit_log import read_log
from training.config_file import ConfigFile
from training.registry import connected, download
from training.stability import REFERENCE, counts_in, effective_size, noise_level, stability_index
from training.thresholds import count_incidents


@dataclass(frozen=True, slots=True)
class DriftConfig(ConfigFile):
    """Thresholds; see `configs/drift.yaml`."""

    file: ClassVar[str] = "drift.yaml"
    chance: float
    psi: float
    min_actions: int
    unknown_rise: float
    changed_actions: float
    new_actions: float
    vanished_actions: float


@dataclass(frozen=True, slots=True)
class PrincipalDrift:
    """A principal's surprise at calibration and now: stability index, what chance alone would reach, and the verdict."""

    name: str
    kind: str
    actions: int
    median_before: float
    median_now: float
    psi: float
    noise: float
    verdict: str


@dataclass(frozen=True, slots=True)
class IncidentRate:
    """Incidents against the budget the thresholds were set for; `chance` is the probability of as many or more at the budget."""

    what: str
    incidents: int
    actions: int
    allowed: float
    chance: float


@dataclass(frozen=True, slots=True)
class DriftReport:
    """Changes since calibration.

    Attributes:
        unknown: field -> [share of unknown values at calibration, now].
        unseen: field -> the most frequent values that have no token, with counts.
        new, vanished: principals and how many actions of theirs, now and in training.
        reasons: why to train again, one sentence each; empty if there is no reason.
        advice: the verdict in words.
    """

    model: str
    log: str
    actions: int
    unknown: dict[str, tuple[float, float]]
    unseen: dict[str, dict[str, int]]
    principals: list[PrincipalDrift]
    new: dict[str, int]
    vanished: dict[str, int]
    rates: list[IncidentRate]
    retrain: bool
    reasons: list[str]
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


class _Observed:
    """Statistics of a log, gathered chunk by chunk."""

    def __init__(self, bundle: Bundle) -> None:
        self.detector = Detector(bundle)
        self.encoder = ActionEncoder(bundle.settings)
        self.vocabulary = bundle.vocabulary
        self.surprise: dict[str, list[float]] = defaultdict(list)
        self.kinds: dict[str, str] = {}
        self.hits: dict[str, list[int]] = defaultdict(list)
        self.unknown = np.zeros(len(FIELDS), np.int64)
        self.unseen: dict[str, Counter[str]] = defaultdict(Counter)
        self.actions = 0
        self.surprising = 0
        self.unknown_actions = 0

    def add(self, events: list[AuditEvent]) -> None:
        """Score one chunk of events."""
        scores = self.detector.score(events)
        self.actions += len(scores.principal)
        self.surprising += int((scores.error >= USUAL).sum())
        self.unknown_actions += int(scores.unknown.sum())
        for i, name in enumerate(scores.principal):
            self.surprise[name].append(float(scores.surprise[i]))
            self.kinds[name] = scores.kind[i]
            if scores.flagged[i]:
                self.hits[name].append(int(scores.time[i].astype(np.int64)))
        batch = self.encoder.encode(events)
        tokens = self.vocabulary.encode(batch, self.encoder)
        self.unknown += (tokens == UNKNOWN).sum(axis=0)
        for column, name in enumerate(STATIC_FIELDS):
            rows = np.flatnonzero(tokens[:, column] == UNKNOWN)
            values = self.encoder.interners[name].values
            self.unseen[name].update(values[code] for code in batch.codes[name][rows].tolist())

    def rates(self, bundle: Bundle) -> list[IncidentRate]:
        """Incidents of people and pipelines and of the machinery, against the budgets of the bundle."""
        actions: Counter[bool] = Counter()
        incidents: Counter[bool] = Counter()
        for name, values in self.surprise.items():
            human = self.kinds[name] in PEOPLE_AND_PIPELINES
            actions[human] += len(values)
            incidents[human] += count_incidents(np.sort(np.array(self.hits.get(name, []), np.int64)))
        kinds = ((True, "people and pipelines", 1e4), (False, "the cluster's machinery", 1e6))
        return [
            rate_of(what, incidents[human], actions[human], float(budget), per)
            for (human, what, per), budget in zip(kinds, bundle.calibration.budget.values(), strict=False)
        ]


def measure(
    then: Mapping[str, Any], surprise: Mapping[str, Sequence[float]], config: DriftConfig
) -> list[PrincipalDrift]:
    """Compare every principal's surprises, in order of time, with `training.stability.reference`; the most changed first."""
    known = {name: values for name, values in surprise.items() if name in then["principals"]}
    found = []
    for name, listed in known.items():
        before, values = then["principals"][name], np.array(listed, np.float64)
        counts = counts_in(values, before["edges"])
        psi = stability_index(before["counts"], counts)
        chance = config.chance / len(known)
        noise = noise_level(len(counts), before["effective"], effective_size(values), chance)
        few = min(sum(before["counts"]), len(values)) < config.min_actions
        verdict = "too few" if few else "changed" if psi >= max(config.psi, noise) else "steady"
        medians = before["median"], float(np.median(values))
        found.append(PrincipalDrift(name, before["kind"], len(values), *medians, psi, noise, verdict))
    order = {"changed": 0, "steady": 1, "too few": 2}
    return sorted(found, key=lambda one: (order[one.verdict], -one.psi))


def rate_of(what: str, incidents: int, actions: int, budget: float, per: float) -> IncidentRate:
    """Incidents against a budget of `budget` in `per` actions, with the Poisson chance of as many or more."""
    allowed = budget * actions / per
    chance = float(poisson.sf(incidents - 1, allowed)) if incidents else 1.0
    return IncidentRate(what, incidents, actions, allowed, chance)


def advise(report: Mapping[str, Any], config: DriftConfig) -> tuple[list[str], str]:
    """Reasons to train again, and the verdict in words, from the fields of a DriftReport without its verdict."""
    # What the service says of the same actions comes first, so that the two never contradict each other.
    reasons = [f"{clause}." for clause in judge_fit(report["totals"])[1]]
    actions = max(report["actions"], 1)
    changed = [one for one in report["principals"] if one.verdict == "changed"]
    share = sum(one.actions for one in changed) / actions
    if share > config.changed_actions:
        reasons.append(
            f"{len(changed)} principals behave differently than at calibration; they account for {share:.0%} of all actions."
        )
    for name, (before, now) in report["unknown"].items():
        # The share must rise by more than matters and by more than its own noise.
        noise = 3 * np.sqrt(max(now * (1 - now), 1 / actions) / actions)
        if now - before > max(config.unknown_rise, noise):
            reasons.append(
                f"{now:.1%} of the values of {name!r} are unknown to the model; at calibration it was {before:.1%}."
            )
    fresh = sum(report["new"].values()) / actions
    if fresh > config.new_actions:
        reasons.append(f"{fresh:.0%} of all actions are by principals the model was never trained on.")
    trained = max(report["trained_actions"], 1)
    gone = sum(report["vanished"].values()) / trained
    if gone > config.vanished_actions:
        reasons.append(f"Principals that did {gone:.0%} of what was trained on are gone.")
    over = [rate for rate in report["rates"] if rate.chance < config.chance]
    reasons += [
        f"{rate.incidents} incidents of {rate.what}, where the budget allows {rate.allowed:.1f}: more than chance."
        for rate in over
    ]
    if not reasons:
        return [], "No need to train again: what has changed is within what the model knows."
    advice = "Train again on a recent log: " + " ".join(reasons)
    if over:
        advice += " But look through the incidents first: an attack raises them, too, and training on it makes it habit."
    return reasons, advice


def drift(
    log: Path, model_uri: str, config: DriftConfig, *, progress: bool = True, track: bool = True
) -> DriftReport:
    """Compare a recent log with what a registered model was calibrated on; KubehabitError if there is nothing to compare."""
    bundle = Bundle.load(download(model_uri))
    then = _stored(bundle, model_uri)
    now = _Observed(bundle)
    for events in read_log(log, progress=progress):
        now.add(events)
    if not now.actions:
        raise KubehabitError(f"{log}: none of its events is an action. Give a log of recent work.")
    trained: dict[str, int] = then["trained_actions"]
    shares = now.unknown / now.actions
    # `gap` is no value of an event; `hour` is unknown on purpose where the training span was short.
    compared = [name for name in STATIC_FIELDS if name != "hour" or bundle.vocabulary.uses_hour]
    found: dict[str, Any] = {
        "actions": now.actions,
        "unknown": {
            name: (float(then["unknown"][name]), float(shares[FIELDS.index(name)])) for name in compared
        },
        "unseen": {name: dict(now.unseen[name].most_common(5)) for name in compared if now.unseen[name]},
        "principals": measure(then, now.surprise, config),
        "new": {name: len(values) for name, values in now.surprise.items() if name not in trained},
        "vanished": {name: count for name, count in trained.items() if name not in now.surprise},
        "rates": now.rates(bundle),
    }
    totals = FitTotals(now.actions, now.surprising / now.actions, now.unknown_actions / now.actions)
    reasons, advice = advise(found | {"trained_actions": sum(trained.values()), "totals": totals}, config)
    report = DriftReport(
        model=model_uri, log=log.name, retrain=bool(reasons), reasons=reasons, advice=advice, **found
    )
    if track:
        _track(bundle, report, totals)
    return report


def _stored(bundle: Bundle, model_uri: str) -> dict[str, Any]:
    """The reference that the model's run keeps."""
    import mlflow

    run_id = bundle.meta["run_id"]
    try:
        with connected():
            path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=REFERENCE)
        stored: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
    except Exception as error:
        raise KubehabitError(
            f"MLflow run {run_id} that made {model_uri} keeps nothing to compare with ({error}). "
            "Train a version with this kubehabit, and ask again."
        ) from error
    return stored


def _track(bundle: Bundle, report: DriftReport, totals: FitTotals) -> None:
    """Add the report to the run that made the model, and its verdict to the version; a model from elsewhere is left alone."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from training.evaluation import plots

    client = MlflowClient(tracking_uri=tracking_uri(), registry_uri=registry_uri())
    run_id = bundle.meta["run_id"]
    stem = f"drift/{report.log.split('.')[0]}"
    try:
        client.log_dict(run_id, report.to_dict(), f"{stem}.json")
        client.log_figure(run_id, plots.drift(report.log, report.principals), f"{stem}.png")
        record = DriftRecord(
            datetime.now(UTC),
            report.log,
            report.actions,
            report.retrain,
            totals.surprising,
            totals.unknown,
            tuple(report.reasons),
        )
        for name, version in model_card.versions_of(client, run_id):
            client.set_model_version_tag(name, version, *tag_of(record))
    except MlflowException:
        return
