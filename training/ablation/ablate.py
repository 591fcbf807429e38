"""`kubehabit ablate`: the detector with one choice at a time removed or changed, each judged on the same labelled log.

What is varied is data (`configs/ablate.yaml`). Some variants need a training of their own; the others judge the shipped model's
errors in another way. Each is one run of one MLflow experiment. Two replays of the log are judged: the whole one for what is
detected, and one without any labelled event for what would have been alarmed had there been no attack.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import lightning
import numpy as np
import yaml
from lightning.pytorch.callbacks import LambdaCallback
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data.actions.encoder import ActionSettings
from data.arrays import Floats
from data.dataset.build import build
from data.errors import KubehabitError
from data.paths import Recordings, home
from data.work_progress import WorkProgress
from detection.calibration import Calibration
from detection.evidence import Accumulator
from detection.reconstruction import Model, Nll
from training import registry
from training.ablation import report
from training.ablation.constants import changed
from training.ablation.exam import Errors, Exam, LogReplay
from training.ablation.variants import AblateConfig, Ablated, Variant
from training.calibrate import CalibrationConfig, HeldBack, calibration_config, fit
from training.evaluation.metrics import RATES, Actions, Run, Truth, curve, read_labels, recall_at, verdict
from training.export import TorchModel
from training.train import ExperimentCLI, parse, quieten_lightning, use_threads

EXPERIMENT = "kubehabit-ablation"
_ROOT = Path(__file__).resolve().parent.parent.parent
#: Source files that decide what a trained variant makes of a log, once that is encoded.
_TRAINS = tuple(f"training/{name}.py" for name in ("model", "module", "datamodule", "unseen"))
#: Source files that decide a variant's figures. Directories are searched recursively.
JUDGES = (
    *("data/**/*.py", "detection/**/*.py", "configs/actions.yaml", "configs/sensitivity.yaml"),
    *(f"training/{name}.py" for name in ("model", "module", "datamodule", "unseen", "calibrate")),
    *("training/stretch.py", "training/evaluation/*.py"),
    *(f"training/ablation/{name}.py" for name in ("variants", "constants", "exam", "ablate")),
)
#: Steps of training that take about as long as judging one variant; for the time left.
_JUDGING = 60


def judge(exam: Exam, errors: Errors, variant: Variant, budget: CalibrationConfig) -> dict[str, float]:
    """Calibrate a variant on held-back normal data and judge it on both replays of the log.

    Returns:
        By the definitions of docs/evaluation.md, of the whole log: recall, recall_CLASS, false_per_10k, median_actions (absent
        if nothing is detected). Of the log without the attacks: strict_per_10k, system_incidents, and recall_at_1, _3, _10
        with a threshold picked on the log. held_back_nll: mean reconstruction NLL of held-back actions, nats.
    """
    with changed(variant.constants):
        return _judge(exam, errors, variant, budget)


def _judge(exam: Exam, errors: Errors, variant: Variant, budget: CalibrationConfig) -> dict[str, float]:
    made = calibration_config({**asdict(budget), **variant.calibration})
    make = partial(Ablated, **variant.judge) if variant.judge else Calibration
    # What is rare is counted when the dataset is read, by constants that may be changed.
    held_back = HeldBack.from_table(exam.table) if variant.constants else exam.held
    calibration = fit(exam.table, held_back, errors.held, made, make).calibration
    ratio_whole = _ratio(calibration, exam.whole, errors.whole)
    ratio_clean = _ratio(calibration, exam.clean, errors.clean)
    figures = verdict(exam.whole.actions, exam.truth, ratio_whole >= 1, {})
    actions, truth, ratio = _spliced(exam, ratio_whole, ratio_clean)
    strict = verdict(actions, truth, ratio >= 1, {})
    quiet = verdict(exam.clean.actions, Truth(np.zeros(len(ratio_clean), bool), []), ratio_clean >= 1, {})
    median = figures["median_actions_to_detection"]
    system = quiet["false_per_1m_system_actions"] * quiet["normal_system_actions"] / 1e6
    return {
        "recall": figures["recall"],
        **{f"recall_{name.replace('-', '_')}": value for name, value in figures["recall_by_class"].items()},
        "false_per_10k": figures["false_per_10k_person_actions"],
        "strict_per_10k": strict["strict_false_per_10k_person_actions"],
        "system_incidents": float(round(system)),
        **{f"recall_at_{rate}": value for rate, value in recall_at(curve(actions, truth, ratio)).items()},
        **({} if median is None else {"median_actions": median}),
        "lookalikes_raised": float(figures["lookalikes_raised"]),
        "attack_runs": float(figures["attack_runs"]),
        "held_back_nll": float(errors.held.sum(axis=1).mean()),
    }


def _ratio(calibration: Calibration, replay: LogReplay, nll: Nll) -> Floats:
    """Evidence over threshold of every action, as `detection.detector.Detector` adds it up; 1 and more is flagged."""
    weighed = calibration.weigh(nll, replay.deeds)
    sums = Accumulator(calibration.horizons, calibration.activity).add(
        replay.deeds.principals,
        replay.actions.time,
        weighed.novelty_evidence,
        weighed.error_evidence,
        calibration.thresholds(replay.deeds.kinds),
        replay.deeds.actions,
    )
    evidence, limits = calibration.verdict(sums, replay.deeds.kinds)
    return evidence / limits


def _spliced(exam: Exam, whole: Floats, clean: Floats) -> tuple[Actions, Truth, Floats]:
    """Labelled actions as they scored in the whole log, and the others as they scored without them."""
    labelled = np.flatnonzero(exam.truth.labelled)
    place = np.full(len(whole), -1)
    place[labelled] = np.arange(len(labelled))
    a, b = exam.whole.actions, exam.clean.actions
    actions = Actions(
        [*(a.audit_id[row] for row in labelled.tolist()), *b.audit_id],
        np.concatenate([a.principal[labelled], b.principal]),
        np.concatenate([a.kind[labelled], b.kind]),
        np.concatenate([a.time[labelled], b.time]),
    )
    runs = [Run(run.label, place[run.rows]) for run in exam.truth.runs]
    truth = Truth(np.arange(len(labelled) + len(clean)) < len(labelled), runs)
    return actions, truth, np.concatenate([whole[labelled], clean])


def _train(
    variant: Variant, config: Path, data: Path, options: Sequence[str], advance: Callable[[], None]
) -> tuple[Model, int]:
    """Train a variant; returns its model and window."""
    quiet = ("enable_checkpointing=false", "limit_val_batches=0", "enable_progress_bar=false")
    cli = parse(config, data, [*options, *variant.options, *(f"--trainer.{option}" for option in quiet)])
    table = cli.datamodule.table
    hidden = {name: np.zeros_like(getattr(table, name)) for name in variant.blind}
    cli.datamodule.table = replace(table, **hidden)
    trainer: lightning.Trainer = cli.trainer
    step = LambdaCallback(on_train_batch_end=lambda *_: advance())
    trainer.callbacks.append(step)  # type: ignore[attr-defined]
    trainer.fit(cli.model, datamodule=cli.datamodule)
    model = cli.model.model.eval().cpu()
    return TorchModel(model), cli.model.config.window


def source(patterns: Sequence[str]) -> str:
    """Digest of source files."""
    digest = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(_ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def digest(*words: str) -> str:
    """Digest of words, in hexadecimal."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Where:
    """Dataset to train on, and the labelled log to judge on."""

    data: Path
    log: Path
    labels: Path

    @classmethod
    def from_options(cls, data: Path | None, log: Path | None, labels: Path | None) -> Where:
        """The given paths; missing ones are those of the shipped recordings, whose dataset is built in `home()` once."""
        if (log is None) != (labels is None):
            raise KubehabitError(
                "--log and --labels belong together: give both, or neither for the shipped ones."
            )
        if data is not None and log is not None and labels is not None:
            return cls(data, log, labels)
        recordings = Recordings.shipped()
        if data is None:
            data = home() / "ablation" / "dataset"
            if not (data / "card.json").exists():
                settings = ActionSettings.shipped(trusted_hops=recordings.TRUSTED_HOPS)
                print(build([recordings.normal], data, settings=settings).describe())
        return cls(data, log or recordings.labelled, labels or recordings.labels)


def ablate(
    where: Where,
    *,
    config: Path,
    variants: AblateConfig,
    only: Sequence[str] = (),
    options: Sequence[str] = (),
    out: Path,
) -> str:
    """Train and judge variants that have not been yet, and write the table of all that have to `out`, a Markdown file.

    A variant is known by its settings, the dataset, the log, the labels and the source that decides its figures.

    Args:
        config: the experiment that is varied.
        only: names of the variants to run beside the shipped one; all if empty.
        options: further options of Lightning's command line for every training.

    Returns:
        MLflow run that holds the table and the plot.
    """
    quieten_lightning()
    chosen = variants.chosen(only)
    cli = parse(config, where.data, list(options))
    use_threads(cli.config.register.threads)
    exam = Exam.prepare(where.data, where.log, read_labels(where.labels))
    with registry.connected():
        experiment = _Experiment(where, config, options, exam, cli)
        experiment.run([variant for variant in chosen if experiment.key(variant) not in experiment.done])
        return experiment.write(variants, out)


class _Experiment:
    """One ablation: what it is judged on, what the MLflow experiment already holds, and what is run and written."""

    def __init__(
        self, where: Where, config: Path, options: Sequence[str], exam: Exam, cli: ExperimentCLI
    ) -> None:
        import mlflow

        self.where, self.config, self.options, self.exam = where, config, options, exam
        self.budget = calibration_config(vars(cli.config.calibration))
        self.steps, self.seed = int(cli.trainer.max_steps), cli.config.seed_everything
        setting, given = yaml.safe_load(config.read_text("utf-8")), json.dumps(list(options))
        trained = {name: setting.get(name) for name in ("seed_everything", "trainer", "model", "data")}
        # Digested once: a long run may see its source change.
        self._trained = (source(_TRAINS), exam.encoded, json.dumps(trained), given)
        self._judged = (source(JUDGES), exam.key, json.dumps(setting), given)
        self.id = registry.experiment_id(EXPERIMENT)
        self.client = mlflow.MlflowClient()
        self.done = {
            run.data.tags["ablation_key"]: run
            for run in self.client.search_runs([self.id], "attributes.status = 'FINISHED'", max_results=5000)
            if "ablation_key" in run.data.tags
        }

    def key(self, variant: Variant) -> str:
        """Digest of everything that the variant's figures depend on."""
        words = [variant.model, dict(variant.calibration), dict(variant.judge)]
        words += [dict(variant.constants)] if variant.constants else []
        return digest(*self._judged, json.dumps(words))

    def cache(self, variant: Variant) -> Path:
        """File that keeps the errors of the variant's model."""
        return home() / "ablation" / f"{digest(*self._trained, variant.model)[:32]}.npz"

    def run(self, waiting: Sequence[Variant]) -> None:
        """Train and judge variants, each as an MLflow run."""
        untrained = {variant.model for variant in waiting if not self.cache(variant).is_file()}
        bar = WorkProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with bar:
            total = _JUDGING * len(waiting) + (self.steps + _JUDGING) * len(untrained)
            task = bar.add_task("ablating", total=total)
            for variant in waiting:
                bar.update(task, description=variant.name)
                path = self.cache(variant)
                if not path.is_file():
                    model, window = _train(
                        variant, self.config, self.where.data, self.options, lambda: bar.advance(task)
                    )
                    Errors.compute(model, window, self.exam, variant.blind).save(path)
                    bar.advance(task, _JUDGING)
                figures = judge(self.exam, Errors.load(path), variant, self.budget)
                bar.advance(task, _JUDGING)
                self._log(variant, figures)
                bar.console.print(
                    f"{variant.name}: recall {figures['recall']:.0%}, at 1 / 3 / 10 per 10,000 "
                    + " / ".join(f"{figures[f'recall_at_{rate}']:.0%}" for rate in RATES),
                    highlight=False,
                )

    def _log(self, variant: Variant, figures: dict[str, float]) -> None:
        import mlflow

        tags = {
            "block": variant.block,
            "ablation_key": self.key(variant),
            "data_fingerprint": self.exam.table.card["fingerprint"],
            "git_commit": registry.git_commit(),
        }
        parameters = {
            "variant": variant.name,
            "steps": self.steps,
            "seed": variant.seed if variant.seed is not None else self.seed,
            "blind": ",".join(variant.blind) or "nothing",
            **variant.train,
            **variant.calibration,
            **variant.judge,
            **variant.constants,
        }
        with mlflow.start_run(experiment_id=self.id, run_name=variant.name) as run:
            mlflow.set_tags(tags)
            mlflow.log_params(parameters)
            mlflow.log_metrics(figures)
        self.done[self.key(variant)] = self.client.get_run(run.info.run_id)

    def write(self, variants: AblateConfig, out: Path) -> str:
        """Write the table of all variants that are judged; returns the MLflow run that holds it and the plot."""
        import mlflow

        rows, commits, waiting = [], set(), []
        for block in variants.blocks:
            for variant in block.variants:
                found = self.done.get(self.key(variant))
                if found is None:
                    waiting.append(variant.name)
                    continue
                rows.append(
                    report.JudgedVariant(variant.name, block.title, block.question, found.data.metrics)
                )
                commits.add(found.data.tags["git_commit"][:12])
        text = report.markdown(
            rows,
            steps=self.steps,
            log=self.where.log.name,
            fingerprint=self.exam.table.card["fingerprint"],
            commits=sorted(commits),
            person_budget=self.budget.person_budget,
            normal_actions=int(self.exam.clean.actions.person.sum()),
            waiting=waiting,
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        with mlflow.start_run(experiment_id=self.id, run_name="table") as run:
            mlflow.set_tag("git_commit", registry.git_commit())
            mlflow.log_text(text, "ablations.md")
            mlflow.log_figure(report.bars(rows), "ablations.png")
        return str(run.info.run_id)
