"""The model of an alert for a file of evidence: name, version, where it came from, and its card."""

from __future__ import annotations

from typing import Any

from data.errors import KubehabitError
from serving.registry import Reference, open_bundle
from serving.settings import Settings


def describe_model(settings: Settings, name: str, version: str) -> dict[str, Any]:
    """What is to be told of a registered model version; `unavailable` says why its card is missing, if it is."""
    told: dict[str, Any] = {"name": name, "version": version}
    try:
        bundle, fetched = open_bundle(
            Reference(name, version=version), settings.model.cache_dir, lambda opened, _: opened
        )
    except KubehabitError as error:
        return told | {"unavailable": str(error)}
    checksums = (bundle.path / "checksums.json").read_text(encoding="utf-8")
    return told | {
        "source": fetched.source,
        "created": bundle.meta.get("created"),
        "git_commit": bundle.meta.get("git_commit"),
        "card": (bundle.path / "card.md").read_text(encoding="utf-8"),
        "checksums": checksums,
    }
