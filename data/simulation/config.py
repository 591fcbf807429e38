"""Settings of the twin, read from `configs/simulate.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from data.errors import KubehabitError
from data.paths import shipped

T = TypeVar("T")
#: The clock of the simulation counts microseconds.
SECOND = 1_000_000
DAY = 86_400 * SECOND


@dataclass(frozen=True, slots=True)
class CastSettings:
    """Numbers of principals. Shares are of all principals; 0 for `nodes` and `platform` means by share."""

    people_share: float = 0.5
    developers: float = 0.8
    team_size: int = 7
    specialists: tuple[str, ...] = ("sre", "release", "dba", "security", "iac", "admin", "data-science")
    pipeline_share: float = 0.06
    node_share: float = 0.05
    nodes: int = 0
    platform: int = 0
    apps_per_team: int = 4
    cronjobs_per_team: int = 2
    app_accounts: tuple[str, ...] = ("reader", "leader", "jobber", "poller", "watcher")


@dataclass(frozen=True, slots=True)
class PeopleSettings:
    """How people work: sessions of commands. Times in seconds."""

    calendar: str = "office"
    think_median: float = 30.0
    think_spread: float = 0.95
    pauses: float = 0.05
    session_commands: float = 14.0
    sessions_a_day: float = 5.0
    weekend_work: float = 0.04
    absence: float = 0.05
    holidays: tuple[int, ...] = (9,)
    release_days: tuple[int, ...] = (1, 3)
    release_boost: float = 2.0
    timezones: tuple[int, ...] = (0, 0, 1, 1, -5)
    screens: float = 0.15
    home_office: float = 0.4
    home_office_days: float = 0.3
    newcomers: float = 0.05
    leavers: float = 0.04
    upgrades: float = 0.2
    moves: float = 0.1
    mistakes: float = 0.02
    incidents_a_week: float = 2.0
    night_pages_a_week: float = 0.0


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """How machines work; `pace` scales the speed of loops (1: that of the shipped recordings)."""

    pace: float = 0.04
    pipeline_pace: float = 0.02
    cronjob_minutes: float = 60.0
    lease_seconds: float = 2.0
    pod_seconds: float = 4.0
    node_status_seconds: float = 300.0
    watched_volumes: int = 2
    conflicts: float = 0.18
    new_apps_a_week: float = 2.0


@dataclass(frozen=True, slots=True)
class AttackSettings:
    """How often and how fast attacks run; slow ones take up to `slow_days`."""

    runs_per_scenario: int = 1
    slow_runs: int = 1
    same_client: float = 0.5
    slow_days: float = 3.0
    pace: float = 1.0


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """All settings of a twin but size and seed."""

    start: str = "2026-11-02T00:00:00Z"
    train_share: float = 0.6
    policy: str = "production"
    cast: CastSettings = field(default_factory=CastSettings)
    people: PeopleSettings = field(default_factory=PeopleSettings)
    machines: MachineSettings = field(default_factory=MachineSettings)
    attacks: AttackSettings = field(default_factory=AttackSettings)


def _merge(settings: T, saved: Mapping[str, Any], where: str) -> T:
    known = {item.name for item in fields(settings)}  # type: ignore[arg-type]
    unknown = set(saved) - known
    if unknown:
        raise KubehabitError(
            f"Unknown simulation setting {sorted(unknown)} in {where}; known: {sorted(known)}."
        )
    changes: dict[str, Any] = {}
    for name, value in saved.items():
        current = getattr(settings, name)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise KubehabitError(f"{where}.{name} must be a mapping of settings.")
            changes[name] = _merge(current, value, f"{where}.{name}")
        elif isinstance(current, tuple):
            if not isinstance(value, list):
                raise KubehabitError(f"{where}.{name} must be a list.")
            changes[name] = tuple(value)
        elif isinstance(current, str) != isinstance(value, str) or isinstance(value, bool | None):
            raise KubehabitError(
                f"{where}.{name} must be a {'text' if isinstance(current, str) else 'number'}."
            )
        else:
            changes[name] = value
    return replace(settings, **changes)  # type: ignore[type-var]


def load_settings(path: Path | None = None, profile: str = "default") -> SimulationSettings:
    """Settings of a profile: the YAML file's on top of the shipped ones.

    Raises:
        KubehabitError: no such file or profile, an unknown key, or a value of the wrong type.
    """
    layers = [shipped("simulate.yaml")]
    if path is not None:
        try:
            loaded = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise KubehabitError(f"Cannot read the simulation settings {path}: {error}.") from error
        if not isinstance(loaded, Mapping):
            raise KubehabitError(f"{path} must hold a mapping of settings; see configs/simulate.yaml.")
        layers.append(dict(loaded))
    settings = SimulationSettings()
    found = profile == "default"
    for layer in layers:
        profiles = layer.pop("profiles", {}) or {}
        settings = _merge(settings, layer, "simulate")
        if profile in profiles:
            found = True
            settings = _merge(settings, profiles[profile], f"profiles.{profile}")
    if not found:
        raise KubehabitError(
            f"There is no simulation profile {profile!r}. See `profiles` in configs/simulate.yaml."
        )
    if settings.policy not in ("everything", "production", "lean"):
        raise KubehabitError("simulate.policy must be `everything`, `production` or `lean`.")
    if settings.people.calendar not in ("office", "always"):
        raise KubehabitError("simulate.people.calendar must be `office` or `always`.")
    if not 0 < settings.train_share < 1:
        raise KubehabitError("simulate.train_share must lie between 0 and 1.")
    return settings
