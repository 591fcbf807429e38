"""The promotion gate: a challenger becomes champion only if it is no worse on the same recordings and on recent normal traffic.

Test sets are small, so models are compared run by run. Runs that both catch or both miss say nothing about which is better;
among the others an exact sign test asks whether the challenger loses more often than chance would have it. False incidents
are counts on the same actions: given their sum, one model's share is binomial (Przyborowski and Wilenski 1940).
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.table import Table
from scipy.stats import binom

from data.errors import BundleError, KubehabitError
from data.events.audit_event import EXAMPLE_EVENT
from data.events.decode import decode_lines
from data.visible_text import visible
from detection.bundle import Bundle
from detection.detector import SEVERITIES, Detector
from detection.parity_check import verify_parity
from detection.reconstruction import NewestOnnxModel, OnnxModel, Reconstruction
from detection.version_records import PromotionRecord, tag_of
from training import model_card
from training.config_file import ConfigFile
from training.evaluation import bootstrap
from training.export import TOLERANCE, check_newest, check_parity
from training.registry import connected, download

HIGH = SEVERITIES[SEVERITIES.index("high") :]
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

#: Figures of a model on a log with labels or without: `training.evaluation.evaluate.evaluate`.
Judge = Callable[[str, Path, Path | None], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class GateConfig(ConfigFile):
    """Margins; see `configs/promote.yaml`."""

    file: ClassVar[str] = "promote.yaml"
    alpha: float
    recall_margin: float
    class_margin: float
    lookalike_margin: float
    false_margin: float
    false_slack: int
    held_back_margin: float
    bootstrap: int


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One line of the comparison.

    Attributes:
        champion, challenger: the figures, as shown.
        change: the difference, with its interval where there is one.
        chance: probability that a challenger no worse would look at least this bad; None where nothing is random.
        verdict: `ok`; `worse`, beyond chance or because the model is broken; `unclear`, worse by more than the margin but with
            too few cases to decide; or `shown`, not decided on.
        why: a sentence, if it refuses.
    """

    name: str
    champion: str
    challenger: str
    change: str
    chance: float | None
    verdict: str
    why: str = ""

    @property
    def refuses(self) -> bool:
        """True if this check alone refuses the challenger."""
        return self.verdict in ("worse", "unclear")


@dataclass(frozen=True, slots=True)
class PromotionDecision:
    """Decision of the gate.

    Attributes:
        promoted: whether the challenger may become (with `dry_run` false: has become) champion.
        reasons: why not, one sentence each.
        champion: version it was compared with; None if there was none.
        figures: the single figures of both models on each log.
    """

    model: str
    challenger: str
    champion: str | None
    promoted: bool
    dry_run: bool
    reasons: list[str]
    checks: list[GateCheck]
    figures: dict[str, dict[str, Any]]
    margins: dict[str, Any]
    time: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    def table(self) -> Table:
        """The comparison for a terminal."""
        against = f"champion (version {self.champion})" if self.champion else "no champion"
        table = Table(title=f"{self.model}: challenger (version {self.challenger}) against {against}")
        for column in ("", "champion", "challenger", "change", "chance", ""):
            table.add_column(column, justify="right" if column else "left")
        shown = {"ok": "ok", "shown": "", "worse": "WORSE", "unclear": "UNCLEAR"}
        for check in self.checks:
            chance = "" if check.chance is None else f"{check.chance:.3f}"
            figures = (check.champion, check.challenger, check.change, chance)
            table.add_row(check.name, *figures, shown[check.verdict])
        return table

    def summary(self) -> str:
        """The decision for the model card."""
        against = f"version {self.champion}" if self.champion else "no champion"
        rows = [f"| {one.name} | {one.champion} | {one.challenger} | {one.verdict} |" for one in self.checks]
        heads = "| | champion | challenger | |\n|---|---|---|---|"
        return "\n".join([f"{self.time}, compared with {against}. {self.sentence()}", "", heads, *rows])

    def sentence(self) -> str:
        """The decision in words."""
        if not self.promoted:
            refused = f"Refused: version {self.challenger} does not become champion."
            return "\n".join([refused, *(f"  - {visible(reason)}" for reason in self.reasons)])
        if self.dry_run:
            return f"Version {self.challenger} would become champion (dry run, nothing was changed)."
        back = f" Back to version {self.champion}: kubehabit promote --rollback" if self.champion else ""
        return f"Version {self.challenger} is the champion now.{back}"


def sign_test(gained: int, lost: int) -> float:
    """One-sided exact sign test: chance of losing `lost` or more of the runs on which two equal models differ."""
    return float(binom.sf(lost - 1, gained + lost, 0.5)) if lost else 1.0


def compare_runs(
    name: str,
    before: Sequence[bool],
    after: Sequence[bool],
    margin: float,
    gate: GateConfig,
    *,
    wanted: bool = True,
) -> GateCheck:
    """Compare a share of runs, paired; a loss up to `margin` is accepted where chance could explain it.

    `before` and `after` say whether it happened to each run under champion and challenger; `wanted`, whether that is good.
    """
    old, new = np.array(before, bool), np.array(after, bool)
    gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
    if not wanted:
        gained, lost = lost, gained
    chance = sign_test(gained, lost)
    low, high = bootstrap.difference_interval(new, old, seed=0, draws=gate.bootstrap) or (0.0, 0.0)
    worse_by = (lost - gained) / len(old)
    verdict, why = "ok", ""
    shown = f"{old.sum()} of {len(old)} -> {new.sum()} of {len(old)} runs"
    if lost > gained and chance < gate.alpha:
        verdict, why = "worse", f"{name}: worse beyond chance ({shown}; p = {chance:.3f})."
    elif worse_by > margin:
        verdict = "unclear"
        why = (
            f"{name}: worse by more than the margin of {margin:.0%} ({shown}), though it could be chance (p = {chance:.2f}). "
            "More labelled recordings would tell."
        )
    change = f"{new.mean() - old.mean():+.0%} [{low:+.0%}, {high:+.0%}]"
    return GateCheck(name, f"{old.mean():.0%}", f"{new.mean():.0%}", change, chance, verdict, why)


def compare_counts(
    name: str, before: int, after: int, actions: int, per: float, gate: GateConfig
) -> GateCheck:
    """Compare numbers of false incidents raised on the same normal actions."""
    chance = sign_test(before, after)
    allowed = before * (1 + gate.false_margin) + gate.false_slack
    verdict, why = "ok", ""
    if after > before + gate.false_slack and chance < gate.alpha:
        verdict, why = (
            "worse",
            f"{name}: more beyond chance ({before} -> {after} incidents; p = {chance:.3f}).",
        )
    elif after > allowed:
        verdict = "unclear"
        why = f"{name}: {before} -> {after} incidents, more than the {allowed:.0f} that are accepted."
    old, new = (f"{count * per / max(actions, 1):.2f}" for count in (before, after))
    return GateCheck(name, old, new, f"{before} -> {after}", chance, verdict, why)


def compare(
    champion: Mapping[str, Mapping[str, Any]], challenger: Mapping[str, Mapping[str, Any]], gate: GateConfig
) -> list[GateCheck]:
    """Compare the figures (log -> `training.evaluation.evaluate.evaluate`) of two models on the same logs."""
    old = [run for log in champion for run in champion[log]["runs"]]
    new = [run for log in champion for run in challenger[log]["runs"]]
    pairs = list(zip(old, new, strict=True))
    attacks = [(a, b) for a, b in pairs if a["kind"] == "attack" and a["calls"]]
    alike = [(a, b) for a, b in pairs if a["kind"] != "attack"]

    def recall(name: str, some: Sequence[tuple[Any, Any]], margin: float) -> GateCheck:
        before, after = ([bool(pair[i]["detected"]) for pair in some] for i in (0, 1))
        return compare_runs(name, before, after, margin, gate)

    checks = [recall("recall", attacks, gate.recall_margin)] if attacks else []
    for name in sorted({str(a["class"]) for a, _ in attacks}):
        some = [pair for pair in attacks if str(pair[0]["class"]) == name]
        checks.append(recall(f"recall, {name} ({len(some)})", some, gate.class_margin))
    for whose, per, unit in (("person", 1e4, "10k"), ("system", 1e6, "1m")):
        rate, exposure = f"false_per_{unit}_{whose}_actions", f"normal_{whose}_actions"
        counts = [
            sum(round(figures[rate] * figures[exposure] / per) for figures in model.values())
            for model in (champion, challenger)
        ]
        actions = sum(int(figures[exposure]) for figures in champion.values())
        title = f"false incidents per {per:,.0f} {whose} actions"
        checks.append(compare_counts(title, counts[0], counts[1], actions, per, gate))
    if alike:
        before, after = ([bool(p[i]["detected"]) and p[i]["severity"] in HIGH for p in alike] for i in (0, 1))
        title = f"look-alikes raised as high ({len(alike)})"
        checks.append(compare_runs(title, before, after, gate.lookalike_margin, gate, wanted=False))
    if attacks:
        median = "actions until detection, median"
        checks.append(GateCheck(median, _median_actions(old), _median_actions(new), "", None, "shown"))
    return checks


def _median_actions(runs: Sequence[Mapping[str, Any]]) -> str:
    after = [run["actions_to_detection"] for run in runs if run["kind"] == "attack" and run["detected"]]
    return f"{np.median(after):g}" if after else "-"


def compare_held_back(champion: Bundle, challenger: Bundle, gate: GateConfig) -> GateCheck:
    """Compare surprise on held-back normal data; decided on only where both held back the same."""
    name = "surprise on held-back normal actions (nats)"
    old, new = (bundle.meta["metrics"]["held_back_surprise"] for bundle in (champion, challenger))
    change = new / old - 1 if old else 0.0
    same_data = champion.meta["data"]["fingerprint"] == challenger.meta["data"]["fingerprint"]
    verdict, why = "ok" if same_data else "shown", ""
    if same_data and change > gate.held_back_margin:
        verdict = "worse"
        why = f"{name}: {change:+.1%} on the same data; at most {gate.held_back_margin:+.0%} is accepted."
    shown = f"{change:+.1%}" if same_data else "other data"
    return GateCheck(name, f"{old:.3f}", f"{new:.3f}", shown, None, verdict, why)


def self_checks(model_uri: str, example: str) -> tuple[list[GateCheck], Bundle | None]:
    """Check a model for integrity: checksums and format, the same numbers as the trained weights, finite scores.

    Returns the checks, and the bundle unless it cannot be opened; `example` is one raw audit event.
    """

    def check(name: str, found: str, why: str = "") -> GateCheck:
        return GateCheck(name, "", found, "", None, "worse" if why else "ok", why)

    try:
        bundle = Bundle.load(download(model_uri))
    except BundleError as error:
        return [check("checksums and format", "broken", str(error))], None
    try:
        found, why = f"{_parity(bundle, model_uri):.1e}", ""
    except KubehabitError as error:
        found, why = "too much", str(error)
    surprise = Detector(bundle).score(decode_lines([example.encode()]).events).surprise
    finite = bool(len(surprise)) and bool(np.isfinite(surprise).all())
    broken = "The model gives no finite score for an ordinary event: its export is broken."
    return [
        check("checksums and format", "whole"),
        check("trained and exported model differ by (nats)", found, why),
        check("scores an event", "yes" if finite else "no", "" if finite else broken),
    ], bundle


def _parity(bundle: Bundle, model_uri: str, batches: int = 40) -> float:
    """Largest difference between the bundle's graphs and the weights its run keeps; KubehabitError if too large or gone."""
    import torch

    from training.model import Autoencoder, ModelConfig
    from training.warm_start import weights_of

    config = bundle.meta["model"]
    if config.keys() != ModelConfig.__dataclass_fields__.keys():
        return _self_test(bundle, model_uri)
    model = Autoencoder(ModelConfig(**config | {"vocabulary": tuple(config["vocabulary"])}))
    saved = weights_of(bundle, model_uri)
    try:
        model.load_state_dict({name: torch.from_numpy(value) for name, value in saved.items()})
    except RuntimeError as error:
        raise KubehabitError(
            f"The weights kept for {model_uri} do not belong to its architecture; train it again with this version of kubehabit."
        ) from error
    worst = check_parity(model.eval(), bundle.model_path, batches=batches, tolerance=TOLERANCE)
    if bundle.newest_path is None:
        return worst
    return max(worst, check_newest(model, bundle.newest_path, batches=batches, tolerance=TOLERANCE))


def _self_test(bundle: Bundle, model_uri: str) -> float:
    """As `_parity` for the architecture of an earlier release: its graphs against what torch computed when it was trained."""
    if bundle.parity_check is None:
        raise KubehabitError(
            f"{model_uri} is of an earlier release and carries no self-test; train it again with this version of kubehabit."
        )
    newest = None if bundle.newest_path is None else NewestOnnxModel(str(bundle.newest_path))
    reconstruction = Reconstruction(OnnxModel(str(bundle.model_path)), newest)
    return verify_parity(bundle.parity_check, reconstruction, f"The model {model_uri}")


def promote(
    name: str,
    labelled: Sequence[tuple[Path, Path]],
    normal: Sequence[Path],
    gate: GateConfig,
    *,
    challenger: str = CHALLENGER,
    dry_run: bool = False,
    judge: Judge | None = None,
    by: str = "",
    note: str = "",
) -> PromotionDecision:
    """Compare challenger and champion, write the decision into MLflow, and move the aliases if the challenger passes.

    Args:
        name: registered model.
        labelled: logs with their labels.
        normal: logs of recent normal work; every incident on them counts as false.
        challenger: version number or alias.
        dry_run: decide only; neither alias nor MLflow is touched.
        judge: how a model is judged on a log; `training.evaluation.evaluate.evaluate` if not given.
        by, note: who decides, and why; kept with the decision.

    Raises:
        KubehabitError: there is no challenger, it is the champion already, or no log to compare on.
    """
    if judge is None:
        from training.evaluation.evaluate import evaluate

        judge = partial(evaluate, track=False, alone=False)
    new = version_of(name, challenger)
    if new is None:
        raise KubehabitError(
            f"There is no {challenger} of {name} to promote. Train one (kubehabit train), or name one: --challenger 3"
        )
    old = version_of(name, CHAMPION)
    if old == new:
        raise KubehabitError(
            f"Version {new} of {name} is the champion already. Train a challenger: kubehabit train"
        )
    if old is not None and not labelled and not normal:
        raise KubehabitError(
            "Nothing to compare on. Give labelled recordings (--log LOG --labels FILE) or recent normal work (--normal LOG)."
        )
    new_uri, old_uri = f"models:/{name}/{new}", f"models:/{name}/{old}"
    checks, opened = self_checks(new_uri, EXAMPLE_EVENT)
    figures: dict[str, dict[str, Any]] = {}
    if opened is not None and old is not None:
        logs: list[tuple[Path, Path | None]] = [*labelled, *((log, None) for log in normal)]
        before, after = (
            {str(i): judge(uri, *pair) for i, pair in enumerate(logs)} for uri in (old_uri, new_uri)
        )
        held_back = compare_held_back(Bundle.load(download(old_uri)), opened, gate)
        checks = [*compare(before, after, gate), held_back, *checks]
        figures = {
            f"{role} on {logs[int(i)][0].name}": _single(found)
            for role, judged in ((CHAMPION, before), (CHALLENGER, after))
            for i, found in judged.items()
        }
    reasons = [check.why for check in checks if check.refuses]
    decision = PromotionDecision(
        model=name,
        challenger=new,
        champion=old,
        promoted=not reasons,
        dry_run=dry_run,
        reasons=reasons,
        checks=checks,
        figures=figures,
        margins=asdict(gate),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if not dry_run:
        _write(decision, by, note)
    return decision


def roll_back(name: str, *, by: str = "", note: str = "") -> tuple[str, str]:
    """Make the former champion champion again, and the champion `previous`; returns the versions of both, the new one first.

    `by` and `note` say who does it and why; they are kept with the decision.
    """
    import mlflow

    former, current = version_of(name, PREVIOUS), version_of(name, CHAMPION)
    if former is None or current is None:
        raise KubehabitError(
            f"{name} has no former champion to go back to: no version bears the alias {PREVIOUS!r}."
        )
    with connected():
        client = mlflow.MlflowClient()
        client.set_registered_model_alias(name, CHAMPION, former)
        client.set_registered_model_alias(name, PREVIOUS, current)
        now = datetime.now(UTC)
        moment = now.isoformat(timespec="seconds")
        client.set_model_version_tag(name, current, "rolled_back", f"{moment}, to version {former}")
        record = PromotionRecord(now, "rolled back", current, former, by, note)
        client.set_model_version_tag(name, former, *tag_of(record))
    return former, current


def _single(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures that are one value, and the recall by class."""
    single = bool | int | float | str | None
    return {k: value for k, value in figures.items() if isinstance(value, single) or k == "recall_by_class"}


def version_of(name: str, which: str) -> str | None:
    """Version number of an alias or of a version number, or None if there is none."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    with connected():
        client = MlflowClient()
        find = client.get_model_version if which.isdigit() else client.get_model_version_by_alias
        try:
            return str(find(name, which).version)
        except MlflowException:
            return None


def _write(decision: PromotionDecision, by: str, note: str) -> None:
    """Put the decision and its numbers into MLflow, and move the aliases if it says so."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from rich.console import Console

    name, version = decision.model, decision.challenger
    with connected():
        client = mlflow.MlflowClient()
        for key, value in {
            "promotion": "promoted" if decision.promoted else "refused",
            "promotion_time": decision.time,
            "promotion_against": decision.champion or "no champion",
            "promotion_reasons": json.dumps(decision.reasons),
        }.items():
            client.set_model_version_tag(name, version, key, value)
        record = PromotionRecord(
            datetime.fromisoformat(decision.time),
            "promoted" if decision.promoted else "refused",
            decision.champion or "",
            version,
            by,
            note,
            tuple(decision.reasons),
        )
        client.set_model_version_tag(name, version, *tag_of(record))
        model_card.publish(client, name, version, "Promotion", decision.summary(), {})
        run_id = client.get_model_version(name, version).run_id or ""
        text = io.StringIO()
        console = Console(width=130, file=text)
        console.print(decision.table())
        console.print(decision.sentence())
        stem = f"promotion/{decision.time.replace(':', '').replace('+0000', 'Z')}"
        try:
            client.log_dict(run_id, decision.to_dict(), f"{stem}.json")
            client.log_text(run_id, text.getvalue(), f"{stem}.txt")
        except MlflowException as error:  # the run was deleted; the tags on the version say it all the same
            logging.getLogger(__name__).warning(
                "The decision's table could not be kept in run %s: %s", run_id, error
            )
        if not decision.promoted:
            return
        if decision.champion is not None:
            client.set_registered_model_alias(name, PREVIOUS, decision.champion)
        client.set_registered_model_alias(name, CHAMPION, version)
        if version_of(name, CHALLENGER) == version:
            client.delete_registered_model_alias(name, CHALLENGER)
