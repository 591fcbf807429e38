"""`kubehabit ablate`: the detector with one choice at a time taken away or changed, each judged on the same labelled log.

What is varied is data (`configs/ablate.yaml`). Some variants are trained anew; the others judge the shipped model's errors in
another way. Each is one run of one MLflow experiment. Two replays of the log are judged: the whole one says what is detected,
and the one without any labelled event says what would have been alarmed had there been no attack, since evidence of an attack
that adds up must neither hide nor cause false incidents.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import numpy.typing as npt
import yaml
from lightning.pytorch.callbacks import Callback
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data.actions import FIELDS, ActionBatch, ActionEncoder, stable_hash
from data.calibration import Calibration, Deeds, Weighed
from data.dataset import ActionTable, build, load
from data.errors import KubehabitError
from data.events import AuditEvent
from data.evidence import Accumulator
from data.habits import Habits, attribute_hashes
from data.home import home
from data.paths import Recordings
from data.reader import DeadLetterFile, read_events
from data.reconstruction import Model
from data.sensitivity import Sensitivity
from data.windows import Windows
from training import ablation_report, registry
from training.calibrate import CalibrationConfig, HeldBack, cut_windows, fit
from training.export import TorchModel
from training.judge import Actions, Label, Run, Truth, curve, join, named_by, read_labels, recall_at, verdict
from training.package import warmup_of
from training.run import parse

EXPERIMENT = "kubehabit-ablation"
SHIPPED = "shipped"
_ROOT = Path(__file__).resolve().parent.parent
_TRAINS = ("training/model.py", "training/module.py")
"""Source that decides what a trained variant makes of a log, once that is encoded."""
_JUDGES = (
    *("data/*.py", "configs/actions.yaml", "configs/sensitivity.yaml"),
    *(f"training/{name}.py" for name in ("model", "module", "calibrate", "judge", "ablate")),
)
"""Source that decides a variant's figures."""
_JUDGING = 60
"""Steps of training that take about as long as judging one variant; for the time left."""
_CHUNK = 2048

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Nll = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Variant:
    """One choice changed; the attributes are explained in `configs/ablate.yaml`."""

    name: str
    block: str
    train: Mapping[str, Any] = field(default_factory=dict)
    blind: tuple[str, ...] = ()
    seed: int | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    judge: Mapping[str, Any] = field(default_factory=dict)
    ranks: bool = False

    @property
    def options(self) -> list[str]:
        """What it changes in the experiment, as options of Lightning's command line."""
        seeds = {} if self.seed is None else {"seed_everything": self.seed, "data.seed": self.seed}
        return [f"--{key}={json.dumps(value)}" for key, value in (*seeds.items(), *self.train.items())]

    @property
    def model(self) -> str:
        """What its model depends on; variants that are equal in it share one."""
        return json.dumps([self.options, sorted(self.blind)])


@dataclass(frozen=True, slots=True)
class Block:
    """Variants of one kind and the question they answer."""

    title: str
    question: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class AblateConfig:
    """What is varied; see `configs/ablate.yaml`."""

    blocks: tuple[Block, ...]

    @classmethod
    def load(cls, path: Path) -> AblateConfig:
        """From YAML.

        Raises:
            KubehabitError: it cannot be read, a key is unknown, a name stands twice, or `shipped` is missing.
        """
        try:
            found = yaml.safe_load(path.read_text("utf-8"))
            blocks = tuple(
                Block(
                    block["title"],
                    block["question"],
                    tuple(
                        Variant(
                            **{**variant, "block": block["title"], "blind": tuple(variant.get("blind", ()))}
                        )
                        for variant in block["variants"]
                    ),
                )
                for block in found["blocks"]
            )
        except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
            raise KubehabitError(
                f"Cannot read the variants {path}: {error}. Start from the shipped configs/ablate.yaml."
            ) from error
        names = [variant.name for block in blocks for variant in block.variants]
        if len(set(names)) < len(names) or SHIPPED not in names:
            raise KubehabitError(
                f"{path}: every variant needs a name of its own, and one must be named {SHIPPED}, to compare with."
            )
        return cls(blocks)

    def chosen(self, only: Sequence[str]) -> list[Variant]:
        """All variants, or those named and the shipped one.

        Raises:
            KubehabitError: there is no variant of a name.
        """
        every = [variant for block in self.blocks for variant in block.variants]
        unknown = set(only) - {variant.name for variant in every}
        if unknown:
            raise KubehabitError(
                f"No variant {', '.join(sorted(unknown))}. There are: {', '.join(v.name for v in every)}."
            )
        return [variant for variant in every if not only or variant.name in (SHIPPED, *only)]


@dataclass(frozen=True, slots=True)
class Ablated(Calibration):
    """The calibration with one of its choices changed.

    Attributes:
        fields: worst fields of an action that are summed; 0 for all.
        own_counts: whether a field costs no more than the principal's own counts allow.
        last: actions of the principal whose errors are pooled, this one included.
        pool: how they are pooled.
        parts: what evidence is made of; with one part alone it takes the other's place as well.
    """

    fields: int = 3
    own_counts: bool = True
    last: int = 1
    pool: Literal["mean", "max"] = "mean"
    parts: Literal["both", "novelty", "error"] = "both"

    def error(self, nll: Nll, deeds: Deeds) -> Floats:
        """See `Calibration.error`."""
        if not len(nll):
            return np.empty(0)
        known = deeds if self.own_counts else replace(deeds, own=np.zeros_like(deeds.own))
        costs = np.sort(Calibration.costs(self, nll, known), axis=1)
        error: Floats = costs[:, -self.fields :].sum(axis=1)
        return error if self.last == 1 else _pooled(error, deeds.principals, self.last, self.pool)

    def weigh(self, nll: Nll, deeds: Deeds) -> Weighed:
        """See `Calibration.weigh`."""
        weighed = Calibration.weigh(self, nll, deeds)
        if self.parts == "novelty":
            return replace(weighed, wrong=weighed.new)
        if (
            self.parts == "error"
        ):  # without the rule that the machinery's errors count only beside something new
            wrong = weighed.error * np.asarray(self.sensitivity_weights)[deeds.sensitivity]
            wrong = np.where(wrong > self.gate, wrong, 0.0)
            return replace(weighed, new=wrong, wrong=wrong)
        return weighed


def _pooled(error: Floats, principals: Sequence[str], last: int, pool: str) -> Floats:
    """Mean or maximum of each principal's last errors, float64 [N]."""
    out = np.empty(len(error))
    names = np.asarray(principals, object)
    for name in set(principals):
        rows = np.flatnonzero(names == name)
        padded = np.concatenate([np.full(last - 1, np.nan), error[rows]])
        windows = np.lib.stride_tricks.sliding_window_view(padded, last)
        out[rows] = np.nanmean(windows, axis=1) if pool == "mean" else np.nanmax(windows, axis=1)
    return out


@dataclass(frozen=True, slots=True)
class Replay:
    """A log as the detector meets it, before any model has seen it.

    Attributes:
        actions: who, when, and which event.
        tokens: int32 [N, F], the gap filled in by `Windows`.
        principal, group: int64 [N], ids of the principal table.
        deeds: what the habits knew before each action.
    """

    actions: Actions
    tokens: npt.NDArray[np.int32]
    principal: Ints
    group: Ints
    deeds: Deeds

    @classmethod
    def of(cls, events: Sequence[AuditEvent], table: ActionTable, habits: Habits) -> Replay:
        """Encode a log's events against a dataset; `habits` live on through them."""
        encoder = ActionEncoder(table.settings)
        rules = Sensitivity(table.rules)
        parts: list[Replay] = []
        for begin in range(0, len(events), _CHUNK):
            chunk = events[begin : begin + _CHUNK]
            batch = encoder.encode(chunk)
            parts.append(_encoded(chunk, batch, encoder, rules, table, habits))
        return cls(
            Actions(
                [audit_id for part in parts for audit_id in part.actions.audit_id],
                np.concatenate([part.actions.principal for part in parts]),
                np.concatenate([part.actions.kind for part in parts]),
                np.concatenate([part.actions.time for part in parts]),
            ),
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.principal for part in parts]),
            np.concatenate([part.group for part in parts]),
            Deeds.concatenate([part.deeds for part in parts]),
        )


def _encoded(
    events: Sequence[AuditEvent],
    batch: ActionBatch,
    encoder: ActionEncoder,
    rules: Sensitivity,
    table: ActionTable,
    habits: Habits,
) -> Replay:
    """One chunk of a replay."""
    tokens = table.vocabulary.encode(batch, encoder)
    people = [batch.principals[code] for code in batch.principal]
    names, kinds = [one.name for one in people], [one.kind for one in people]
    groups = [table.principals.group(one) for one in people]
    known = habits.observe(
        attribute_hashes(batch, encoder),
        np.array([stable_hash(name) for name in names], np.uint64),
        np.array([stable_hash(group) for group in groups], np.uint64),
    )
    sensitivity = rules.levels(batch, encoder)
    return Replay(
        Actions(
            [events[i].auditID for i in batch.event.tolist()],
            np.array(names, object),
            np.array(kinds, object),
            batch.time,
        ),
        tokens,
        np.array([table.principals.ids.get(name, 0) for name in names], np.int64),
        np.array([table.principals.groups.get(group, 0) for group in groups], np.int64),
        Deeds.of(known, tokens, table.vocabulary, names, kinds, sensitivity),
    )


@dataclass(frozen=True, slots=True)
class Exam:
    """What every variant is judged on; nothing in it depends on a model.

    Attributes:
        table: the dataset.
        held: its held-back actions.
        whole: the labelled log.
        clean: the same without what was labelled, what that induced and what cleaned up after it.
        labels: what was done in the log.
        truth: labels joined with `whole`.
        key: digest of the dataset, the log and the labels.
        encoded: digest of what a model is given of them.
    """

    table: ActionTable
    held: HeldBack
    whole: Replay
    clean: Replay
    labels: list[Label]
    truth: Truth
    key: str
    encoded: str

    @classmethod
    def prepare(cls, data: Path, log: Path, labels: Sequence[Label]) -> Exam:
        """Read dataset and log.

        Raises:
            KubehabitError: no dataset, no log, or no attack in the labels.
        """
        if not any(label["kind"] == "attack" for label in labels):
            raise KubehabitError("The labels name no attack: there is nothing to compare variants by.")
        table = load(data)
        held = HeldBack.of(table)
        letters = DeadLetterFile(home() / "dead-letters.jsonl")
        try:
            events = [event for chunk in read_events(log, letters) for event in chunk]
        except OSError as error:
            raise KubehabitError(
                f"Cannot read the audit log {log}: {error.strerror}. Check the path."
            ) from error
        finally:
            letters.close()
        done = named_by(labels)
        normal = [event for event in events if event.auditID not in done]
        if not normal:
            raise KubehabitError(f"{log}: every event is labelled, so false incidents cannot be counted.")
        digest = hashlib.sha256(table.card["fingerprint"].encode())
        digest.update(hashlib.sha256(log.read_bytes()).digest())
        digest.update(json.dumps(labels, sort_keys=True).encode())
        whole = Replay.of(events, table, held.habits.copy())
        clean = Replay.of(normal, table, held.habits.copy())
        encoded = hashlib.sha256()
        for given in (table, whole, clean):
            for array in (given.tokens, given.principal, given.group):
                encoded.update(array.tobytes())
        return cls(
            table=table,
            held=held,
            whole=whole,
            clean=clean,
            labels=list(labels),
            truth=join(whole.actions, labels),
            key=digest.hexdigest(),
            encoded=encoded.hexdigest(),
        )


@dataclass(frozen=True, slots=True)
class Errors:
    """What one model makes of the exam, float32 [N, F] each: NLL, and as ranks log(1 + rank)."""

    held: Nll
    whole: Nll
    clean: Nll
    held_ranks: Nll
    whole_ranks: Nll
    clean_ranks: Nll

    @classmethod
    def of(cls, model: Model, window: int, exam: Exam, blind: Sequence[str]) -> Errors:
        """Run a model over the held-back actions and both replays."""
        read = _Reader(model, blind)
        table = exam.table
        rows = table.windows["calibration"]
        rows = rows[np.argsort(table.arrival[rows[:, 0]], kind="stable")]
        held = []
        for begin in range(0, len(rows), _CHUNK):
            cut = rows[begin : begin + _CHUNK]
            who = (table.principal[cut[:, 0]].astype(np.int64), table.group[cut[:, 0]].astype(np.int64))
            held.append(read(*cut_windows(table, cut, window), *who))
        warm = warmup_of(table, window)
        pairs = [np.concatenate(held)]
        for replay in (exam.whole, exam.clean):
            windows = Windows(window)
            for name, tokens in warm.tokens.items():
                windows.seed(name, tokens, warm.last[name])
            parts = []
            for begin in range(0, len(replay.tokens), _CHUNK):
                at = slice(begin, begin + _CHUNK)
                cut, lengths = windows.append(
                    replay.actions.principal[at].tolist(), replay.tokens[at].copy(), replay.actions.time[at]
                )
                parts.append(read(cut, lengths, replay.principal[at], replay.group[at]))
            pairs.append(np.concatenate(parts))
        width = len(FIELDS)
        return cls(*(pair[:, :width] for pair in pairs), *(pair[:, width:] for pair in pairs))

    @classmethod
    def load(cls, path: Path) -> Errors:
        """Inverse of `save`."""
        with np.load(path, allow_pickle=False) as saved:
            return cls(**{one.name: saved[one.name] for one in fields(cls)})

    def save(self, path: Path) -> None:
        """Keep for another time; the file appears only when it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, **{one.name: getattr(self, one.name) for one in fields(self)})
        unfinished.replace(path)


class _Reader:
    """A model's error on the newest action of windows; equal windows of one principal are computed once, ever."""

    def __init__(self, model: Model, blind: Sequence[str]) -> None:
        self.model, self.blind = model, blind
        self.seen: dict[bytes, Nll] = {}

    def __call__(self, tokens: Ints, lengths: Ints, principal: Ints, group: Ints) -> Nll:
        """NLL and log(1 + rank) side by side, float32 [N, 2F]; what the model is blind to is given as unknown."""
        principal = principal * ("principal" not in self.blind)
        group = group * ("group" not in self.blind)
        keys = [
            row.tobytes()
            for row in np.column_stack([tokens.reshape(len(tokens), -1), principal, group]).astype(np.int32)
        ]
        new = {key: row for row, key in enumerate(keys) if key not in self.seen}
        rows = np.fromiter(new.values(), np.int64, len(new))
        for begin in range(0, len(rows), 256):
            at = rows[begin : begin + 256]
            nll, rank, _ = self.model(
                tokens[at], lengths[at], principal[at], group[at], np.zeros(1, np.int64)
            )
            both = np.concatenate([nll[:, 0], np.log1p(rank[:, 0])], axis=1)
            self.seen |= dict(zip((keys[row] for row in at.tolist()), both, strict=True))
        return np.array([self.seen[key] for key in keys], np.float32)


def judge(exam: Exam, errors: Errors, variant: Variant, budget: CalibrationConfig) -> dict[str, float]:
    """Calibrate a variant on held-back normal data and judge it on both replays of the log.

    Returns:
        recall: share of attack runs detected at the threshold, `recall_habit_only` of that class alone.
        false_per_10k: false person-and-pipeline incidents per 10,000 such actions by the given definition, whole log.
        strict_per_10k, system_incidents: the same rate, and the machinery's incidents, on the log without the attacks.
        recall_at_1, _3, _10: recall with a threshold picked on the log, at so many strict false incidents per 10,000.
        median_actions: actions of a detected run until its detection; absent if none is.
        held_back_nll: mean reconstruction NLL of held-back actions, nats.
    """
    made = _budget({**{one.name: getattr(budget, one.name) for one in fields(budget)}, **variant.calibration})
    make = partial(Ablated, **variant.judge) if variant.judge else Calibration
    held, whole, clean = (
        (errors.held_ranks, errors.whole_ranks, errors.clean_ranks)
        if variant.ranks
        else (errors.held, errors.whole, errors.clean)
    )
    calibration = fit(exam.table, exam.held, held, made, make).calibration
    ratio_whole, ratio_clean = (
        _ratio(calibration, replay, nll) for replay, nll in ((exam.whole, whole), (exam.clean, clean))
    )
    figures = verdict(exam.whole.actions, exam.truth, ratio_whole >= 1, {})
    actions, truth, ratio = _spliced(exam, ratio_whole, ratio_clean)
    strict = verdict(actions, truth, ratio >= 1, {})
    quiet = verdict(exam.clean.actions, Truth(np.zeros(len(ratio_clean), bool), []), ratio_clean >= 1, {})
    system = quiet["false_per_1m_system_actions"] * quiet["normal_system_actions"] / 1e6
    return {
        "recall": figures["recall"],
        **{f"recall_{name.replace('-', '_')}": value for name, value in figures["recall_by_class"].items()},
        "false_per_10k": figures["false_per_10k_person_actions"],
        "strict_per_10k": strict["strict_false_per_10k_person_actions"],
        "system_incidents": float(round(system)),
        **{f"recall_at_{rate}": value for rate, value in recall_at(curve(actions, truth, ratio)).items()},
        **(
            {"median_actions": figures["median_actions_to_detection"]}
            if figures["median_actions_to_detection"] is not None
            else {}
        ),
        "lookalikes_raised": float(figures["lookalikes_raised"]),
        "attack_runs": float(figures["attack_runs"]),
        "held_back_nll": float(errors.held.sum(axis=1).mean()),
    }


def _budget(keys: Mapping[str, Any]) -> CalibrationConfig:
    """From a YAML's `calibration`."""
    given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in keys.items()}
    return CalibrationConfig(**given)


def _ratio(calibration: Calibration, replay: Replay, nll: Nll) -> Floats:
    """Evidence over threshold of every action, as `data.detector.Detector` adds it up; 1 and more is flagged."""
    weighed = calibration.weigh(nll, replay.deeds)
    sums = Accumulator(calibration.horizons).add(
        replay.deeds.principals,
        replay.actions.time,
        weighed.new,
        weighed.wrong,
        calibration.thresholds(replay.deeds.kinds),
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


class _Steps(Callback):
    """Tells the bar of each step."""

    def __init__(self, advance: Any) -> None:
        self.advance = advance

    def on_train_batch_end(self, *_: Any) -> None:
        self.advance(1)


def _train(
    variant: Variant, config: Path, data: Path, options: Sequence[str], advance: Any
) -> tuple[Model, int]:
    """Train a variant; returns its model and window."""
    cli = parse(
        config,
        data,
        [
            *options,
            *variant.options,
            "--trainer.enable_checkpointing=false",
            "--trainer.limit_val_batches=0",
            "--trainer.enable_progress_bar=false",
        ],
    )
    table = cli.datamodule.table
    cli.datamodule.table = replace(
        table, **{name: np.zeros_like(getattr(table, name)) for name in variant.blind}
    )
    trainer: lightning.Trainer = cli.trainer
    trainer.callbacks.append(_Steps(advance))  # type: ignore[attr-defined]
    trainer.fit(cli.model, datamodule=cli.datamodule)
    return TorchModel(cli.model.model.eval().cpu()), cli.model.config.window


def _source(patterns: Sequence[str]) -> str:
    """Digest of source files."""
    digest = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(_ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Where:
    """Dataset to train on, and the labelled log to judge on."""

    data: Path
    log: Path
    labels: Path

    @classmethod
    def of(cls, data: Path | None, log: Path | None, labels: Path | None) -> Where:
        """What is given; what is not comes from the shipped recordings, whose dataset is built in `home()` once.

        Raises:
            KubehabitError: a log without its labels or labels without their log, or no recordings are shipped here.
        """
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
                print(build([recordings.normal], data).describe())
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
    """Train and judge variants that have not been yet, and write the table of all that have.

    A variant is known by its settings, the dataset, the log, the labels and the source that decides its figures; one that
    is in the experiment with the same of all these is not run again.

    Args:
        where: dataset, log and labels.
        config: the experiment that is varied.
        variants: what is varied.
        only: names of the variants to run; all if empty. The shipped one always is.
        options: further options of Lightning's command line for every training.
        out: Markdown file to write.

    Returns:
        MLflow run that holds the table and the plot.

    Raises:
        KubehabitError: no dataset, log or config, no such variant, or a bad option.
    """
    import mlflow
    import torch

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    chosen = variants.chosen(only)
    cli = parse(config, where.data, list(options))
    budget = _budget(vars(cli.config.calibration))
    steps = int(cli.trainer.max_steps)
    torch.set_num_threads(int(cli.config.register.threads) or torch.get_num_threads())
    exam = Exam.prepare(where.data, where.log, read_labels(where.labels))
    setting = yaml.safe_load(config.read_text("utf-8"))
    examined = (exam.key, json.dumps(setting), json.dumps(list(options)))
    trained = (
        exam.encoded,
        json.dumps({name: setting.get(name) for name in ("seed_everything", "trainer", "model", "data")}),
        json.dumps(list(options)),
    )
    trains, judges = _source(_TRAINS), _source(_JUDGES)  # read once: a long run may see its source change

    def key(variant: Variant) -> str:
        words = json.dumps([variant.model, dict(variant.calibration), dict(variant.judge), variant.ranks])
        return _digest(judges, *examined, words)

    def cache(variant: Variant) -> Path:
        return home() / "ablation" / f"{_digest(trains, *trained, variant.model)[:32]}.npz"

    with registry.connected():
        experiment = registry.experiment_id(EXPERIMENT)
        client = mlflow.MlflowClient()
        done = {
            run.data.tags["ablation_key"]: run
            for run in client.search_runs([experiment], "attributes.status = 'FINISHED'", max_results=5000)
            if "ablation_key" in run.data.tags
        }
        waiting = [variant for variant in chosen if key(variant) not in done]
        untrained = {variant.model for variant in waiting if not cache(variant).is_file()}
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with bar:
            task = bar.add_task(
                "ablating", total=_JUDGING * len(waiting) + (steps + _JUDGING) * len(untrained)
            )
            for variant in waiting:
                bar.update(task, description=variant.name)
                path = cache(variant)
                if not path.is_file():
                    model, window = _train(
                        variant, config, where.data, options, lambda count: bar.advance(task, count)
                    )
                    Errors.of(model, window, exam, variant.blind).save(path)
                    bar.advance(task, _JUDGING)
                figures = judge(exam, Errors.load(path), variant, budget)
                bar.advance(task, _JUDGING)
                with mlflow.start_run(experiment_id=experiment, run_name=variant.name) as run:
                    mlflow.set_tags(
                        {
                            "block": variant.block,
                            "ablation_key": key(variant),
                            "data_fingerprint": exam.table.card["fingerprint"],
                            "git_commit": registry.git_commit(),
                        }
                    )
                    changed = {
                        **variant.train,
                        **variant.calibration,
                        **variant.judge,
                        "ranks": variant.ranks,
                    }
                    mlflow.log_params(
                        {
                            "variant": variant.name,
                            "steps": steps,
                            "seed": variant.seed if variant.seed is not None else cli.config.seed_everything,
                            "blind": ",".join(variant.blind) or "nothing",
                            **changed,
                        }
                    )
                    mlflow.log_metrics(figures)
                done[key(variant)] = client.get_run(run.info.run_id)
                bar.console.print(
                    f"{variant.name}: recall {figures['recall']:.0%}, at 1 / 3 / 10 per 10,000 "
                    + " / ".join(f"{figures[f'recall_at_{rate}']:.0%}" for rate in (1, 3, 10)),
                    highlight=False,
                )
        judged = [
            (variant, block, done[key(variant)].data)
            for block in variants.blocks
            for variant in block.variants
            if key(variant) in done
        ]
        rows = [
            ablation_report.Row(variant.name, block.title, block.question, found.metrics)
            for variant, block, found in judged
        ]
        text = ablation_report.markdown(
            rows,
            steps=steps,
            log=where.log.name,
            fingerprint=exam.table.card["fingerprint"],
            commits=sorted({found.tags["git_commit"][:12] for _, _, found in judged}),
            person_budget=budget.person_budget,
            normal_actions=int(exam.clean.actions.person.sum()),
            waiting=[
                variant.name
                for block in variants.blocks
                for variant in block.variants
                if key(variant) not in done
            ],
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        with mlflow.start_run(experiment_id=experiment, run_name="table") as run:
            mlflow.set_tag("git_commit", registry.git_commit())
            mlflow.log_text(text, "ablations.md")
            mlflow.log_figure(ablation_report.bars(rows), "ablations.png")
    return str(run.info.run_id)
