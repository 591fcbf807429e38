"""Follows the registry for a worker: a new champion is loaded beside the scoring, and handed over between two batches."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from data.errors import BundleError, KubehabitError
from serving.fleet.cluster import FleetModel
from serving.process.worker import Worker
from serving.registry.client import ModelReference, RegistryError, locate, open_located
from serving.rollout.loader import model_loader
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

_log = logging.getLogger("kubehabit.reload")
_STOP_SECONDS = 3.0


class Champion:
    """Looks at the registry now and then; `pop` gives a new model, once.

    Args:
        settings: of the worker.
        model: that is served at first.
    """

    def __init__(self, settings: Settings, model: FleetModel, metrics: Metrics) -> None:
        self._settings = settings.model
        self._load = model_loader(settings)
        self._metrics = metrics
        self._wanted = ModelReference(settings.model.name, alias=settings.model.alias)
        self._model = model
        self._next: FleetModel | None = None
        self._refused: Path | None = None
        self._follows = model.loaded.model.source != "folder" and settings.model.watch_seconds > 0
        self._looks = Worker(
            "model-watch",
            self.look,
            seconds=settings.model.watch_seconds,
            low_priority=True,
            pause_first=True,
        )

    def start(self) -> None:
        """Begin to look, unless the model is from a folder, or the settings say never."""
        if self._follows:
            self._looks.start()

    def close(self) -> None:
        """Stop; a look in progress is left to itself."""
        self._looks.close(_STOP_SECONDS)

    def pop(self) -> FleetModel | None:
        """The new champion, if there is one since the last call."""
        found, self._next = self._next, None
        return found

    def look(self) -> None:
        """Look at the registry now. A version that cannot be used is refused once, and the one before serves on."""
        cache, serving = self._settings.cache_dir, self._model.loaded
        try:
            located = locate(self._wanted, cache)
            self._metrics.life.registry(True, refusing=located.directory == self._refused)
            if located.directory in (serving.directory, self._refused):
                return
            loaded = open_located(located, cache, self._wanted, self._load)[0]
        except BundleError as error:
            self._refused = located.directory
            self._metrics.life.reload("refused")
            self._metrics.life.registry(True, refusing=True)
            _log.error("a new champion is refused", extra={"version": located.version, "reason": str(error)})
        except RegistryError as error:
            self._metrics.life.registry(False, refusing=False)
            _log.warning("the registry cannot be asked", extra={"reason": str(error)})
        except KubehabitError as error:
            _log.warning("a new champion cannot be fetched yet", extra={"reason": str(error)})
        else:
            self._model = replace(self._model, loaded=loaded)
            self._next = self._model
            _log.info("there is a new champion", extra={"version": located.version})
