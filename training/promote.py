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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table
from scipy.stats import binom

from data.bundle import Bundle
from data.detector import SEVERITIES, Detector
from data.errors import BundleError, KubehabitError
from data.events import decode_lines
from data.shipped import shipped
from training.export import TOLERANCE, check_newest, check_parity
from training.registry import connected, download

HIGH = SEVERITIES[SEVERITIES.index("high") :]
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

Judge = Callable[[str, Path, Path | None], Mapping[str, Any]]
"""Figures of a model on a log with labels or without: `training.evaluate.evaluate`."""


@dataclass(frozen=True, slots=True)
class GateConfig:
    """Margins; see `configs/promote.yaml`."""

    alpha: float
    recall_margin: float
    class_margin: float
    lookalike_margin: float
    false_margin: float
    false_slack: int
    held_back_margin: float
    bootstrap: int

    @classmethod
    def load(cls, path: Path | None = None) -> GateConfig:
        """Margins from a YAML file, or those shipped.

        Raises:
            KubehabitError: the file cannot be read, lacks a key or has one too many.
        """
        import yaml

        try:
            given = shipped("promote.yaml") | (yaml.safe_load(path.read_text("utf-8")) or {} if path else {})
            return cls(**given)
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            raise KubehabitError(f"{path}: {error}. Its keys are those of configs/promote.yaml.") from error


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table.

    Attributes:
        name: what is compared.
        champion, challenger: the figures, as shown.
        change: what lies between them, with its interval where there is one.
        chance: probability that a challenger no worse would look at least this bad; None where nothing is random.
        verdict: `ok`; `worse`, beyond chance or because the model is broken; `unclear`, worse by more than the margin but with
            too few cases to tell; or `shown`, not decided on.
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
        """Whether this alone keeps the challenger out."""
        return self.verdict in ("worse", "unclear")


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate found.

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
    checks: list[Check]
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
        table.add_column("")
        for column in ("champion", "challenger", "change", "chance"):
            table.add_column(column, justify="right")
        table.add_column("")
        for check in self.checks:
            table.add_row(
                check.name,
                check.champion,
                check.challenger,
                check.change,
                "" if check.chance is None else f"{check.chance:.3f}",
                {"ok": "ok", "shown": "", "worse": "WORSE", "unclear": "UNCLEAR"}[check.verdict],
            )
        return table

    def sentence(self) -> str:
        """The decision in words."""
        if not self.promoted:
            return f"Refused: version {self.challenger} does not become champion.\n" + "\n".join(
                f"  - {reason}" for reason in self.reasons
            )
        if self.dry_run:
            return f"Version {self.challenger} would become champion (dry run, nothing was changed)."
        back = f" Back to version {self.champion}: kubehabit promote --rollback" if self.champion else ""
        return f"Version {self.challenger} is the champion now.{back}"


def sign_test(gained: int, lost: int) -> float:
    """One-sided exact sign test: chance of losing `lost` or more of the runs on which two equal models differ."""
    return float(binom.sf(lost - 1, gained + lost, 0.5)) if lost else 1.0


def paired_interval(
    before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], resamples: int
) -> tuple[float, float]:
    """95 % bootstrap interval of the difference of two shares over the same runs (resampling runs; Efron 1979)."""
    rng = np.random.default_rng(0)
    difference = after.astype(np.float64) - before
    means = difference[rng.integers(0, len(difference), (resamples, len(difference)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def compare_runs(
    name: str,
    before: Sequence[bool],
    after: Sequence[bool],
    margin: float,
    gate: GateConfig,
    *,
    wanted: bool = True,
) -> Check:
    """Compare a share of runs, paired.

    Args:
        before, after: whether it happened to each run under the champion and under the challenger.
        margin: loss that is let pass where chance could explain it.
        wanted: whether it is good that it happens (detection) or bad (a look-alike raised as high).
    """
    old, new = np.array(before, bool), np.array(after, bool)
    gained, lost = int((new & ~old).sum()), int((old & ~new).sum())
    if not wanted:
        gained, lost = lost, gained
    chance = sign_test(gained, lost)
    low, high = paired_interval(old, new, gate.bootstrap)
    worse_by = (lost - gained) / len(old)
    verdict = "ok"
    why = ""
    shown = f"{old.sum()} of {len(old)} -> {new.sum()} of {len(old)} runs"
    if lost > gained and chance < gate.alpha:
        verdict, why = "worse", f"{name}: worse beyond chance ({shown}; p = {chance:.3f})."
    elif worse_by > margin:
        verdict = "unclear"
        why = (
            f"{name}: worse by more than the margin of {margin:.0%} ({shown}), though it could be chance (p = {chance:.2f}). "
            "More labelled recordings would tell."
        )
    return Check(
        name,
        f"{old.mean():.0%}",
        f"{new.mean():.0%}",
        f"{new.mean() - old.mean():+.0%} [{low:+.0%}, {high:+.0%}]",
        chance,
        verdict,
        why,
    )


def compare_counts(name: str, before: int, after: int, actions: int, per: float, gate: GateConfig) -> Check:
    """Compare numbers of false incidents raised on the same normal actions."""
    chance = float(binom.sf(after - 1, before + after, 0.5)) if after else 1.0
    allowed = before * (1 + gate.false_margin) + gate.false_slack
    verdict, why = "ok", ""
    if after > before + gate.false_slack and chance < gate.alpha:
        verdict, why = (
            "worse",
            f"{name}: more beyond chance ({before} -> {after} incidents; p = {chance:.3f}).",
        )
    elif after > allowed:
        verdict = "unclear"
        why = f"{name}: {before} -> {after} incidents, more than the {allowed:.0f} that are let pass."
    scale = per / max(actions, 1)
    return Check(
        name, f"{before * scale:.2f}", f"{after * scale:.2f}", f"{before} -> {after}", chance, verdict, why
    )


def compare(
    champion: Mapping[str, Mapping[str, Any]], challenger: Mapping[str, Mapping[str, Any]], gate: GateConfig
) -> list[Check]:
    """Compare the figures of `training.evaluate.evaluate` of two models on the same logs.

    Args:
        champion, challenger: log -> figures.
    """
    old = [run for log in champion for run in champion[log]["runs"]]
    new = [run for log in champion for run in challenger[log]["runs"]]
    pairs = list(zip(old, new, strict=True))
    attacks = [(a, b) for a, b in pairs if a["kind"] == "attack" and a["calls"]]
    alike = [(a, b) for a, b in pairs if a["kind"] != "attack"]

    def detected(some: Sequence[tuple[Any, Any]]) -> tuple[list[bool], list[bool]]:
        return [bool(a["detected"]) for a, _ in some], [bool(b["detected"]) for _, b in some]

    def high(run: Mapping[str, Any]) -> bool:
        return bool(run["detected"]) and run["severity"] in HIGH

    checks = []
    if attacks:
        checks.append(compare_runs("recall", *detected(attacks), gate.recall_margin, gate))
        for name in sorted({str(a["class"]) for a, _ in attacks}):
            some = [pair for pair in attacks if str(pair[0]["class"]) == name]
            checks.append(
                compare_runs(f"recall, {name} ({len(some)})", *detected(some), gate.class_margin, gate)
            )
    for name, rate, per, exposure in (
        (
            "false incidents per 10,000 person actions",
            "false_per_10k_person_actions",
            1e4,
            "normal_person_actions",
        ),
        (
            "false incidents per 1,000,000 system actions",
            "false_per_1m_system_actions",
            1e6,
            "normal_system_actions",
        ),
    ):
        counts = [
            sum(round(figures[rate] * figures[exposure] / per) for figures in model.values())
            for model in (champion, challenger)
        ]
        actions = sum(int(figures[exposure]) for figures in champion.values())
        checks.append(compare_counts(name, counts[0], counts[1], actions, per, gate))
    if alike:
        checks.append(
            compare_runs(
                f"look-alikes raised as high ({len(alike)})",
                [high(a) for a, _ in alike],
                [high(b) for _, b in alike],
                gate.lookalike_margin,
                gate,
                wanted=False,
            )
        )
    medians = []
    for model in (champion, challenger):
        after = [
            run["actions_to_detection"]
            for figures in model.values()
            for run in figures["runs"]
            if run["kind"] == "attack" and run["detected"]
        ]
        medians.append(f"{np.median(after):g}" if after else "-")
    if attacks:
        checks.append(Check("actions until detection, median", medians[0], medians[1], "", None, "shown"))
    return checks


def compare_held_back(champion: Bundle, challenger: Bundle, gate: GateConfig) -> Check:
    """Compare surprise on held-back normal data; decided on only where both held back the same."""
    name = "surprise on held-back normal actions (nats)"
    old, new = (bundle.meta["metrics"]["held_back_surprise"] for bundle in (champion, challenger))
    change = new / old - 1 if old else 0.0
    same = champion.meta["data"]["fingerprint"] == challenger.meta["data"]["fingerprint"]
    worse = same and change > gate.held_back_margin
    return Check(
        name,
        f"{old:.3f}",
        f"{new:.3f}",
        f"{change:+.1%}" if same else "other data",
        None,
        "worse" if worse else "ok" if same else "shown",
        f"{name}: {change:+.1%} on the same data; at most {gate.held_back_margin:+.0%} is let pass."
        if worse
        else "",
    )


def self_checks(model_uri: str, example: str) -> tuple[list[Check], Bundle | None]:
    """Whether a model is whole: checksums and format, the same numbers as the trained weights, finite scores.

    Args:
        example: one raw audit event.

    Returns:
        The checks, and the opened bundle unless it cannot be opened.
    """
    try:
        bundle = Bundle.load(download(model_uri))
    except BundleError as error:
        return [Check("checksums and format", "", "broken", "", None, "worse", str(error))], None
    checks = [Check("checksums and format", "", "whole", "", None, "ok")]
    try:
        worst = _parity(bundle, model_uri)
        checks.append(
            Check("trained and exported model differ by (nats)", "", f"{worst:.1e}", "", None, "ok")
        )
    except KubehabitError as error:
        checks.append(
            Check(
                "trained and exported model differ by (nats)", "", "too much", "", None, "worse", str(error)
            )
        )
    surprise = Detector(bundle).score(decode_lines([example.encode()]).events).surprise
    finite = bool(len(surprise)) and bool(np.isfinite(surprise).all())
    checks.append(
        Check(
            "scores an event",
            "",
            "yes" if finite else "no",
            "",
            None,
            "ok" if finite else "worse",
            "" if finite else "The model gives no finite score for an ordinary event: its export is broken.",
        )
    )
    return checks, bundle


def _parity(bundle: Bundle, model_uri: str, batches: int = 40) -> float:
    """Largest difference between the bundle's graphs and the weights its run keeps.

    Raises:
        KubehabitError: it is too large, or the weights are gone or were changed.
    """
    import torch

    from training.model import Autoencoder, ModelConfig
    from training.warm_start import weights_of

    config = dict(bundle.meta["model"])
    config["vocabulary"] = tuple(config["vocabulary"])
    model = Autoencoder(ModelConfig(**config))
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


def promote(
    name: str,
    labelled: Sequence[tuple[Path, Path]],
    normal: Sequence[Path],
    gate: GateConfig,
    *,
    challenger: str | None = None,
    dry_run: bool = False,
    judge: Judge | None = None,
) -> Decision:
    """Compare challenger and champion, write the decision into MLflow, and move the aliases if the challenger passes.

    Args:
        name: registered model.
        labelled: logs with their labels.
        normal: logs of recent normal work; every incident on them counts as false.
        challenger: version number or alias; the alias `challenger` if not given.
        dry_run: decide only; neither alias nor MLflow is touched.
        judge: how a model is judged on a log; `training.evaluate.evaluate` if not given.

    Raises:
        KubehabitError: there is no challenger, it is the champion already, or no log to compare on.
    """
    from training.run import EXAMPLE

    judge = judge or _evaluate
    new = _version(name, challenger or CHALLENGER)
    if new is None:
        raise KubehabitError(
            f"There is no {challenger or CHALLENGER} of {name} to promote. Train one (kubehabit train), or name one: "
            "--challenger 3"
        )
    old = _version(name, CHAMPION)
    if old == new:
        raise KubehabitError(
            f"Version {new} of {name} is the champion already. Train a challenger: kubehabit train"
        )
    if old is not None and not labelled and not normal:
        raise KubehabitError(
            "Nothing to compare on. Give labelled recordings (--log LOG --labels FILE) or recent normal work (--normal LOG)."
        )
    uri = {version: f"models:/{name}/{version}" for version in (new, old) if version is not None}
    checks, opened = self_checks(uri[new], EXAMPLE)
    figures: dict[str, dict[str, Any]] = {}
    if opened is not None and old is not None:
        logs: list[tuple[Path, Path | None]] = [*labelled, *((log, None) for log in normal)]
        found = {
            version: {str(i): judge(uri[version], *pair) for i, pair in enumerate(logs)}
            for version in (old, new)
        }
        checks = [
            *compare(found[old], found[new], gate),
            compare_held_back(Bundle.load(download(uri[old])), opened, gate),
            *checks,
        ]
        figures = {
            f"{role} on {logs[int(i)][0].name}": _single(judged)
            for role, version in ((CHAMPION, old), (CHALLENGER, new))
            for i, judged in found[version].items()
        }
    reasons = [check.why for check in checks if check.refuses]
    decision = Decision(
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
        _write(decision)
    return decision


def roll_back(name: str) -> tuple[str, str]:
    """Make the former champion champion again; the alias `previous` then names the one that was taken back.

    Returns:
        (version that is champion now, version that was).

    Raises:
        KubehabitError: there is no former champion.
    """
    import mlflow

    former, current = _version(name, PREVIOUS), _version(name, CHAMPION)
    if former is None or current is None:
        raise KubehabitError(
            f"{name} has no former champion to go back to: no version bears the alias {PREVIOUS!r}."
        )
    with connected():
        client = mlflow.MlflowClient()
        client.set_registered_model_alias(name, CHAMPION, former)
        client.set_registered_model_alias(name, PREVIOUS, current)
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        client.set_model_version_tag(name, current, "rolled_back", f"{moment}, to version {former}")
    return former, current


def _evaluate(model_uri: str, log: Path, labels: Path | None) -> Mapping[str, Any]:
    from training.evaluate import evaluate

    return evaluate(model_uri, log, labels, track=False)


def _single(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures that are one value or a recall by name; runs and curves are left out."""
    return {
        key: value
        for key, value in figures.items()
        if isinstance(value, bool | int | float | str) or value is None or key == "recall_by_class"
    }


def _version(name: str, which: str) -> str | None:
    """Version number of an alias or of a version number, or None if there is none."""
    import mlflow

    with connected():
        return _look_up(mlflow.MlflowClient(), name, which)


def _write(decision: Decision) -> None:
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
        if _look_up(client, name, CHALLENGER) == version:
            client.delete_registered_model_alias(name, CHALLENGER)


def _look_up(client: Any, name: str, which: str) -> str | None:
    """`_version` on a client that is connected already."""
    from mlflow.exceptions import MlflowException

    try:
        if which.isdigit():
            return str(client.get_model_version(name, which).version)
        return str(client.get_model_version_by_alias(name, which).version)
    except MlflowException:
        return None
