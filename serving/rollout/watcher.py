"""Follows the registry's aliases: a new champion is tested, then takes over between two batches.

A version that cannot be used is refused once, and the previous one keeps serving; a registry that does not answer changes
nothing. The outcome is in the metrics, the log, the readiness detail and `/v1/model`.
"""

from __future__ import annotations

import logging
import random
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from data.errors import BundleError, KubehabitError
from serving.process.worker import Worker
from serving.registry.client import (
    LocatedVersion,
    ModelReference,
    NoRegistryError,
    NoSuchModelError,
    RegistryError,
    locate,
    open_located,
)
from serving.rollout.loader import UNTESTED, model_loader
from serving.rollout.shadow import ChallengerInfo, Shadow
from serving.schemas import ApiModel, ModelInfo
from serving.scoring.engine import Engine, Loaded
from serving.scoring.pipeline import Pipeline
from serving.scoring.readiness import HistoryStatus
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

_log = logging.getLogger("kubehabit.reload")
_T = TypeVar("_T")
Result = Literal["swapped", "unchanged", "refused", "unavailable"]
#: Share of the interval by which looks are spread, so that many replicas do not ask at the same moment.
_JITTER = 0.2
#: Seconds between looks at a registry that has long been silent.
_LONGEST_PAUSE = 300.0
_MAX_REFUSED = 100
_STOP_SECONDS = 3.0
_PATIENCE_SECONDS = 1.0


class RefusedVersion(ApiModel):
    """A version that was refused."""

    version: str
    alias: str
    reason: str
    at: datetime


class Swap(ApiModel):
    """A change of the model that is served."""

    before: str
    version: str
    at: datetime
    seconds: Annotated[float, Field(description="time in which batches had to wait for it")]


class WatchStatus(ApiModel):
    """State of following the registry."""

    alias: str
    looked: Annotated[datetime | None, Field(description="time of the registry's last answer")] = None
    trouble: Annotated[str | None, Field(description="why the last check failed")] = None
    refused: Annotated[list[RefusedVersion], Field(default_factory=list)]
    last_swap: Swap | None = None


class ModelStatus(ModelInfo):
    """The model that is served, how it follows the registry, and the challenger beside it."""

    history: Annotated[
        HistoryStatus | None, Field(description="how much history stands behind the verdicts, in all")
    ] = None
    watch: WatchStatus | None = None
    challenger: ChallengerInfo | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """Outcome of one look at the registry; `detail` is a sentence for people."""

    result: Result
    detail: str


class ModelWatch:
    """Keeps an engine at what the registry's aliases say; models change between two batches of the pipeline."""

    def __init__(self, settings: Settings, engine: Engine, metrics: Metrics, pipeline: Pipeline) -> None:
        self._settings = settings.model
        self._load = model_loader(settings)
        self._gap = settings.alerts.gap_minutes
        self._hot = settings.state.hot_principals
        self._engine = engine
        self._metrics = metrics
        self._pipeline = pipeline
        name, challenger = settings.model.name, settings.model.challenger
        self._champion = ModelReference(name, alias=settings.model.alias)
        self._challenger = ModelReference(name, alias=challenger) if challenger else None
        self._refused: dict[Path, RefusedVersion] = {}
        self._looked: datetime | None = None
        self._trouble: str | None = None
        self._last_swap: Swap | None = None
        self._shadow: Shadow | None = None
        self._looking = threading.Lock()
        self._worker = Worker("model-watch", self._step, seconds=self._pause, low_priority=True)
        self._stopping = self._worker.closing
        self._has_started = False
        self._failures = 0

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look, unless the settings say never."""
        if self._settings.watch_seconds or self._challenger:
            self._worker.start()

    def close(self) -> None:
        """Stop; a look in progress is left to itself."""
        self._worker.close(_STOP_SECONDS)
        if self._shadow is not None:
            self._shadow.close()

    def _pause(self) -> float:
        every, doublings = self._settings.watch_seconds, min(max(self._failures - 1, 0), 30)
        pause = min(every * 2.0**doublings, max(_LONGEST_PAUSE, every))
        return pause * random.uniform(1 - _JITTER, 1 + _JITTER)

    def _step(self) -> bool:
        if self._has_started:
            self._failures = self._failures + 1 if self.look().result == "unavailable" else 0
        else:  # the champion was only just loaded
            self._has_started = True
            with self._looking:
                self._follow_challenger()
        return self._settings.watch_seconds > 0

    # -- looking ------------------------------------------------------------------------------------------------

    def look(self, *, again: bool = False) -> Look:
        """Look at the registry now and follow it.

        Args:
            again: try a version that was refused before once more.
        """
        with self._looking:
            try:
                look = self._follow(again)
            except Exception as error:  # a watch that dies of a surprise would never be missed
                _log.exception("following the registry failed")
                look = Look("unavailable", f"Following the registry failed: {error!r}. This is a defect.")
            self._note(look)
            if look.result != "unavailable":
                self._follow_challenger()
            return look

    def _follow(self, again: bool) -> Look:
        served = self._engine.model.version
        try:
            located = locate(self._champion, self._settings.cache_dir)
        except (NoRegistryError, NoSuchModelError) as error:
            if self._engine.model.source == "starter":
                self._looked = datetime.now(UTC)
                return Look("unchanged", f"{error} The starter model is served on.")
            return Look("unavailable", f"{error} Version {served} is served on.")
        except RegistryError as error:
            return Look("unavailable", f"{error} Version {served} is served on.")
        self._looked = datetime.now(UTC)
        current = self._engine.loaded
        if current is not None and located.directory == current.directory:
            if self._engine.model.source == "cache":  # the registry was away at the start and has come back
                notice = UNTESTED if self._engine.model.self_test is None else None
                self._engine.update_info(source="registry", notice=notice)
            return Look("unchanged", f"{located.name} version {located.version} is served already.")
        before = self._refused.get(located.directory)
        if before is not None and not again:
            return Look("refused", _refusal(before, served))
        try:
            loaded = self._open(located, self._champion)
        except BundleError as error:
            return Look("refused", _refusal(self._refuse(located, self._champion, error), served))
        except KubehabitError as error:
            return Look("unavailable", f"{error} Version {served} is served on.")
        self._end_shadow()  # it was compared with the model that goes
        # Most of what is to be learned of principals is learned while batches go on; only the rest makes them wait.
        learned = self._done(self._pipeline.run_on_scoring_thread(self._engine.habits))
        if learned is not None and current is not None:
            loaded.detector.habits.learn(learned, current.detector.bundle.habits)
        seconds = self._done(self._pipeline.swap_model(lambda: self._engine.swap(loaded, learned)))
        self._refused.pop(located.directory, None)
        now = datetime.now(UTC)
        self._last_swap = Swap(before=served, version=located.version, at=now, seconds=round(seconds, 4))
        self._metrics.served(loaded.model)
        self._metrics.life.swapped(seconds)
        return Look("swapped", f"{located.name} version {located.version} took over from version {served}.")

    def _open(self, located: LocatedVersion, wanted: ModelReference) -> Loaded:
        return open_located(located, self._settings.cache_dir, wanted, self._load)[0]

    def _refuse(self, located: LocatedVersion, wanted: ModelReference, error: BundleError) -> RefusedVersion:
        alias, now = str(wanted.alias), datetime.now(UTC)
        refused = RefusedVersion(version=located.version, alias=alias, reason=str(error), at=now)
        self._refused[located.directory] = refused
        while len(self._refused) > _MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._metrics.life.reload("refused")
        return refused

    def _done(self, change: Future[_T]) -> _T:
        """Wait for a change, which comes after everything accepted before; raises KubehabitError if the service ends first."""
        while True:
            try:
                return change.result(_PATIENCE_SECONDS)
            except TimeoutError:
                if self._stopping.is_set():
                    raise KubehabitError("The service is ending.") from None

    def _note(self, look: Look) -> None:
        """Report a look; the same trouble is logged once."""
        if look.result in ("swapped", "unavailable"):
            self._metrics.life.reload(look.result)
        self._metrics.life.registry(look.result != "unavailable", refusing=look.result == "refused")
        trouble = look.detail if look.result in ("refused", "unavailable") else None
        if trouble is not None and trouble != self._trouble:
            _log.warning(trouble, extra={"result": look.result})
        elif trouble is None and (self._trouble is not None or look.result == "swapped"):
            _log.info(look.detail, extra={"result": look.result})
        self._trouble = trouble

    # -- the challenger -----------------------------------------------------------------------------------------

    def _follow_challenger(self) -> None:
        """Start, change or end the shadow as the alias says. A failure here affects the challenger alone."""
        if not self._challenger:
            return
        try:
            located = locate(self._challenger, self._settings.cache_dir)
        except RegistryError:
            self._end_shadow()
            return
        served = self._engine.loaded
        # A challenger that became champion has nothing to be compared with.
        if (served and located.directory == served.directory) or located.directory in self._refused:
            self._end_shadow()
            return
        if self._shadow is not None and self._shadow.loaded.directory == located.directory:
            return
        try:
            loaded = self._open(located, self._challenger)
        except BundleError as error:
            refused = self._refuse(located, self._challenger, error)
            shown = {"version": refused.version, "reason": refused.reason}
            _log.warning("the challenger was refused", extra=shown)
            self._end_shadow()
            return
        except KubehabitError:
            return
        self._end_shadow()
        busy, life = (lambda: self._engine.busy), self._metrics.life
        shadow = Shadow(loaded, life, busy=busy, gap_minutes=self._gap, principals=self._hot)
        shadow.start()
        start = partial(self._engine.set_shadow, shadow, loaded.detector)
        self._done(self._pipeline.run_on_scoring_thread(start))
        self._shadow = shadow
        self._metrics.life.shadowed(loaded.model)
        _log.info("a challenger runs in shadow", extra={"version": loaded.model.version})

    def _end_shadow(self) -> None:
        if self._shadow is not None:
            self._engine.set_shadow(None)
            self._shadow.close()
            self._shadow = None
            self._metrics.life.shadowed(None)

    # -- reports ------------------------------------------------------------------------------------------------

    @property
    def notice(self) -> str | None:
        """What an operator should know at the moment."""
        return self._trouble or self._engine.model.notice

    def status(self) -> ModelStatus:
        """Everything that `/v1/model` shows."""
        shown = {name: getattr(self._engine.model, name) for name in ModelInfo.model_fields}
        shadow = self._shadow
        watch = WatchStatus(
            alias=self._settings.alias,
            looked=self._looked,
            trouble=self._trouble,
            refused=list(self._refused.values()),
            last_swap=self._last_swap,
        )
        challenger = None if shadow is None else shadow.info()
        history = self._engine.readiness.status()
        return ModelStatus(
            **(shown | {"notice": self.notice}), history=history, watch=watch, challenger=challenger
        )


def _refusal(refused: RefusedVersion, served: str) -> str:
    return f"Version {refused.version} was refused: {refused.reason} Version {served} is served on."
