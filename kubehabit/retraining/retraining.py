"""From a service's event store to the next champion: read, build, train warm, compare, promote or say why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data.actions.encoder import ActionSettings
from data.errors import KubehabitError
from data.paths import STARTER
from detection.bundle import Bundle
from kubehabit.client.events import EventAnswers
from kubehabit.retraining.progress import Progress
from kubehabit.retraining.stored_work import StoredWork, called_normal, write_log

_TRAIN_LOG, _RECENT_LOG, _DATASET = "train.jsonl.zst", "recent.jsonl.zst", "dataset"
_MINUTE = 60_000_000


class TooLittleWorkError(KubehabitError):
    """The event store holds too little to learn from."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class RetrainPlan:
    """What is to be done.

    Attributes:
        root: folder of retrainings.
        name: registered model.
        config: experiment YAML (`configs/train.yaml`).
        options: further options of the training.
        labelled: recordings with labels to compare on besides.
        trusted_hops: proxies before the API server, where the service serves the starter model.
        dry_run: compare only; the new version stays a challenger.
    """

    root: Path
    name: str
    config: Path
    options: Sequence[str] = ()
    labelled: Sequence[tuple[Path, Path]] = ()
    trusted_hops: int = 0
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """What came of it; `decision` is `training.lifecycle.promotion.PromotionDecision` in JSON form."""

    promoted: bool
    version: str
    warm_start: str
    work: dict[str, StoredWork]
    dataset: dict[str, Any]
    decision: dict[str, Any]
    sentence: str
    folder: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def span_of_work(
    earliest: int | None, until: int, days: float, recent: float, least_hours: float
) -> tuple[int, int]:
    """Beginning and split of what is learned from, microseconds since 1970 UTC.

    Args:
        earliest: of the store; None if it is empty.
        until: end of the span.
        days: to look back at most.
        recent: share at the end that is kept for the comparison.

    Raises:
        TooLittleWorkError: the span is shorter than `least_hours`.
    """
    since = max(earliest if earliest is not None else until, until - int(days * 1440 * _MINUTE))
    hours = (until - since) / (60 * _MINUTE)
    if earliest is None or hours < least_hours:
        raise TooLittleWorkError(
            f"The event store holds {max(hours, 0):.1f} hours of work in that time, and {least_hours:g} are asked for "
            "(--least-hours): what is rare would look like what never happens. Come back later; the starter model or the "
            "champion goes on learning habits meanwhile."
        )
    return since, until - int((until - since) * recent)


class Retraining:
    """The steps of one retraining, each of which is done once.

    Args:
        say: takes a sentence about what happens.
        answers: the event store.
        feedback: verdicts on alerts as JSON, oldest first.
    """

    def __init__(
        self,
        plan: RetrainPlan,
        progress: Progress,
        answers: EventAnswers,
        feedback: Callable[[], Iterable[str]],
        say: Callable[[str], object],
    ) -> None:
        self._plan, self._progress, self._answers = plan, progress, answers
        self._feedback, self._say = feedback, say
        self._folder = progress.folder

    def run(self) -> RetrainResult:
        """Do what is left to do.

        Raises:
            TooLittleWorkError: the store holds too little normal work.
            KubehabitError: a step cannot be done; a later call goes on there.
        """
        try:
            work = self._read()
        except TooLittleWorkError:
            self._progress.abandon()
            raise
        champion = self._start_from()
        dataset = self._build(champion)
        version = self._train(champion)
        decision = self._compare(version)
        self._progress.clear(self._plan.root)
        return RetrainResult(
            promoted=decision["promoted"] and not decision["dry_run"],
            version=version,
            warm_start=champion,
            work=work,
            dataset=dataset,
            decision=decision,
            sentence=decision["sentence"],
            folder=str(self._folder),
        )

    def _once(self, step: str, do: Callable[[], Any]) -> Any:
        if step not in self._progress.done:
            self._progress.finish(step, do())
        return self._progress.done[step]

    def _read(self) -> dict[str, StoredWork]:
        """Write the stored work as two logs: to learn from, and to compare on."""

        def read() -> dict[str, Any]:
            normal = called_normal(self._feedback())
            spans = {
                _TRAIN_LOG: (self._progress.since, self._progress.split),
                _RECENT_LOG: (self._progress.split, self._progress.until),
            }
            found = {}
            for name, (since, until) in spans.items():
                self._say(f"Reading stored events for {name}.")
                written = write_log(
                    self._answers, self._folder / name, since=since, until=until, normal=normal
                )
                if not written.events:
                    raise TooLittleWorkError(
                        f"The event store holds no normal work for {name}. Check that events arrive: kubehabit events --limit 1"
                    )
                found[name] = written.to_dict()
            return found

        return {name: StoredWork(**one) for name, one in self._once("events", read).items()}

    def _start_from(self) -> str:
        """The model whose weights to begin with: the champion, or the starter model where there is none."""
        from training.lifecycle.promotion import CHAMPION, version_of

        def find() -> str:
            version = version_of(self._plan.name, CHAMPION)
            return STARTER if version is None else f"models:/{self._plan.name}/{version}"

        found: str = self._once("warm_start", find)
        return found

    def _build(self, champion: str) -> dict[str, Any]:
        """Build the dataset with the settings of the model that is served."""
        from data.dataset.build import build
        from training.registry import download

        def make() -> dict[str, Any]:
            bundle = Bundle.load(download(champion))
            settings: ActionSettings = bundle.settings
            if bundle.is_starter:
                settings = replace(settings, trusted_hops=self._plan.trusted_hops)
            folder = self._folder / _DATASET
            if (folder / "card.json").exists():  # finished just before the last try was stopped
                shutil.rmtree(folder)
            summary = build([self._folder / _TRAIN_LOG], folder, settings=settings)
            self._say(summary.describe())
            return {
                key: summary.card[key] for key in ("fingerprint", "actions", "first", "last", "principals")
            }

        made: dict[str, Any] = self._once("dataset", make)
        return made

    def _train(self, champion: str) -> str:
        """Train the challenger; a training that was stopped is resumed."""
        from training import checkpoints
        from training.train import train

        def fit() -> str:
            options = [
                *self._plan.options,
                f"--register.name={self._plan.name}",
                "--register.alias=challenger",
            ]
            dataset = self._folder / _DATASET
            stopped = self._progress.done.get("training")
            if stopped is not None:
                try:
                    checkpoints.find("last")
                    self._say("Resuming the training that was stopped.")
                    return train(self._plan.config, dataset, options, resume="last").version
                except KubehabitError as error:
                    self._say(f"The training begins again: {error}")
            self._progress.finish("training", "begun")
            self._say(f"Training, starting from {champion}.")
            return train(self._plan.config, dataset, options, warm_start=champion).version

        version: str = self._once("version", fit)
        return version

    def _compare(self, version: str) -> dict[str, Any]:
        """Evaluate both models on recent work and on the recordings, and promote the better one."""
        from training.lifecycle.promotion import GateConfig, promote

        def decide() -> dict[str, Any]:
            decision = promote(
                self._plan.name,
                self._plan.labelled,
                [self._folder / _RECENT_LOG],
                GateConfig.load(None),
                challenger=version,
                dry_run=self._plan.dry_run,
            )
            return decision.to_dict() | {"sentence": decision.sentence()}

        found: dict[str, Any] = self._once("decision", decide)
        return found
