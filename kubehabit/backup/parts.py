"""Where each part of a service lies: by its settings, and in a backup."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data.paths import ARTIFACTS, store_file
from serving.settings import Settings
from serving.storage.database import sqlite_file


@dataclass(frozen=True, slots=True)
class ServiceParts:
    """The parts of a service, in the order in which they have to be copied: no part refers to one that is older.

    Attributes:
        history: of scores; in the folder of the state unless the settings say otherwise.
        alerts: file of the alert store; None if that is no SQLite file.
        registry: MLflow's file, with the artifacts beside it; None if that is no SQLite file.
        logs: dead letters and the access log; each with numbered older ones beside it.
    """

    state: Path
    history: Path
    journal: Path
    alerts: Path | None
    events: Path
    models: Path
    registry: Path | None
    tokens: Path
    logs: tuple[Path, Path]

    @classmethod
    def from_settings(cls, settings: Settings) -> ServiceParts:
        """Where the settings put them."""
        state = settings.state.resolved_path
        return cls(
            state=state,
            history=settings.history.resolved_path(state),
            journal=settings.journal.resolved_path,
            alerts=sqlite_file(settings.store.resolved_url),
            events=settings.events.resolved_path,
            models=settings.model.cache_dir,
            registry=store_file(),
            tokens=settings.access.tokens_path,
            logs=(settings.dead_letters.resolved_path, settings.access.log.resolved_path),
        )

    def parts(self) -> Iterator[tuple[str, Path]]:
        """Name in a backup and path of each part; a folder's name ends in a slash."""
        yield from (("state/", self.state), ("history.db", self.history), ("journal/", self.journal))
        if self.alerts is not None:
            yield "alerts.db", self.alerts
        yield from (("events/", self.events), ("models/", self.models))
        if self.registry is not None:
            yield "registry/mlflow.db", self.registry
            yield f"registry/{ARTIFACTS}/", self.registry.parent / ARTIFACTS
        yield from (("tokens.json", self.tokens), ("dead-letters.jsonl", self.logs[0]))
        yield "access.jsonl", self.logs[1]

    def path_of(self, name: str) -> Path | None:
        """Where a file of a backup belongs; None if it belongs nowhere under these settings."""
        for part, path in self.parts():
            if part.endswith("/") and name.startswith(part):
                return path / PurePosixPath(name.removeprefix(part))
            if name == part:
                return path
            number = name.removeprefix(part + ".")
            if name != number and number.isdecimal():
                return path.with_name(f"{path.name}.{number}")
        return None
