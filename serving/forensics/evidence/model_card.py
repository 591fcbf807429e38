"""The model behind an alert, for evidence: name, version, where it came from, and its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.errors import KubehabitError
from serving.registry.client import ModelReference, open_bundle


def describe_model(cache: Path, name: str, version: str) -> dict[str, Any]:
    """Describe a registered model version; `cache` is the folder of bundles, `unavailable` says why there is no card."""
    described: dict[str, Any] = {"name": name, "version": version}
    try:
        bundle, fetched = open_bundle(ModelReference(name, version=version), cache, lambda opened, _: opened)
    except KubehabitError as error:
        return described | {"unavailable": str(error)}
    return described | {
        "source": fetched.source,
        "created": bundle.meta.get("created"),
        "git_commit": bundle.meta.get("git_commit"),
        "card": (bundle.path / "card.md").read_text(encoding="utf-8"),
        "checksums": (bundle.path / "checksums.json").read_text(encoding="utf-8"),
    }
