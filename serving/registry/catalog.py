"""What the registry knows of all versions of a model: their roles, training, evaluations, and what was decided about them.

The last answer is kept beside the downloads, so that a registry that is out of reach leaves what was known.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from data.durable_file import write_durably
from detection.version_records import (
    DriftRecord,
    PromotionRecord,
    drift_reports_in,
    promotions_in,
)
from serving.registry.client import ask, folder_of

_FILE = "versions.json"
#: How the card of a version of an earlier release, which has no tags of it, says what it was trained on.
_TRAINED_ON = re.compile(
    r"\*\*Trained on\*\* (?P<actions>[0-9,]{1,20}) actions, (?P<first>[0-9T:.Z+-]{1,40}) to (?P<last>[0-9T:.Z+-]{1,40}) "
    r"\([^)\n]{0,300}\); fingerprint `(?P<fingerprint>[0-9a-f]{1,64})`"
)
#: Figures of evaluations, as their tags end, longer ones before those that they end with.
_FIGURES = (
    *("strict_recall", "recall", "false_per_10k_person_actions", "false_per_1m_system_actions"),
    "lookalikes_high",
)


@dataclass(frozen=True, slots=True)
class LearnedFrom:
    """The log that a version learned from; times are as its events have them."""

    actions: int
    first: str
    last: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """One version.

    Attributes:
        aliases: that point to it, such as champion.
        learned: what it was trained on, if the registry says so.
        held_back_surprise: mean reconstruction error on held-back normal actions, nats.
        person_threshold, system_threshold: evidence, in decades, at which actions of people and pipelines, and of machinery, are
            flagged.
        evaluations: log -> figure -> value (`kubehabit evaluate`).
        promotions, drift: what was decided about it, and how recent logs compared with it; the newest first.
    """

    version: str
    registered: datetime
    aliases: tuple[str, ...]
    learned: LearnedFrom | None
    held_back_surprise: float | None
    person_threshold: float | None
    system_threshold: float | None
    evaluations: dict[str, dict[str, float]]
    promotions: tuple[PromotionRecord, ...]
    drift: tuple[DriftRecord, ...]


@dataclass(frozen=True, slots=True)
class RegistryCatalog:
    """All versions of a model, the newest first, as the registry answered at a time."""

    name: str
    asked: datetime
    versions: tuple[RegisteredVersion, ...]

    @property
    def promotions(self) -> list[PromotionRecord]:
        """Decisions about all versions, the newest first."""
        found = [record for one in self.versions for record in one.promotions]
        return sorted(found, key=lambda record: record.time, reverse=True)

    def version(self, number: str) -> RegisteredVersion | None:
        """One of them."""
        return next((one for one in self.versions if one.version == number), None)


def read_catalog(name: str, cache: Path) -> RegistryCatalog:
    """Ask the registry, and keep its answer.

    Args:
        name: of the registered model.
        cache: folder of downloaded bundles.

    Raises:
        RegistryError: it does not answer, or has no such model.
    """
    answer = ask("versions", name=name) | {"asked": datetime.now(UTC).isoformat()}
    with contextlib.suppress(OSError):  # as on a full disk: what was answered is shown all the same
        file = _file(name, cache)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(file, msgspec.json.encode(answer))
    return _catalog(name, answer)


def known_catalog(name: str, cache: Path) -> RegistryCatalog | None:
    """The answer that was kept last; None if there is none."""
    try:
        return _catalog(name, msgspec.json.decode(_file(name, cache).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _file(name: str, cache: Path) -> Path:
    return cache / folder_of(name) / _FILE


def _catalog(name: str, answer: Mapping[str, Any]) -> RegistryCatalog:
    versions = [_version(one) for one in answer["versions"]]
    versions.sort(key=lambda one: int(one.version), reverse=True)
    return RegistryCatalog(name, datetime.fromisoformat(answer["asked"]), tuple(versions))


def _version(given: Mapping[str, Any]) -> RegisteredVersion:
    tags: dict[str, str] = given["tags"]
    return RegisteredVersion(
        version=str(int(given["version"])),
        registered=datetime.fromtimestamp(given["registered"] / 1000, UTC),
        aliases=tuple(given["aliases"]),
        learned=_learned(tags, given["card"]),
        held_back_surprise=_number(tags.get("held_back_surprise")),
        person_threshold=_number(tags.get("person_threshold")),
        system_threshold=_number(tags.get("system_threshold")),
        evaluations=_evaluations(tags),
        promotions=tuple(promotions_in(tags, str(given["version"]))),
        drift=tuple(drift_reports_in(tags)),
    )


def _learned(tags: Mapping[str, str], card: str) -> LearnedFrom | None:
    names = ("actions", "first", "last", "fingerprint")
    found = {name: tags.get(f"trained_{name}", "") for name in names}
    if not all(found.values()):
        said = _TRAINED_ON.search(card)
        if said is None:
            return None
        found = {name: said[name] for name in names}
    actions = found["actions"].replace(",", "")
    if not actions.isdecimal():
        return None
    return LearnedFrom(int(actions), found["first"], found["last"], found["fingerprint"])


def _evaluations(tags: Mapping[str, str]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for tag, text in sorted(tags.items()):
        figure = next((name for name in _FIGURES if tag.endswith(f"_{name}")), None)
        value = _number(text)
        if figure is not None and value is not None:
            found.setdefault(tag.removesuffix(f"_{figure}"), {})[figure] = value
    return found


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
