"""A local MLflow registry with versions made of a real bundle, some of them spoilt."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from detection.bundle import seal
from detection.parity_check import PARITY_FILE, ParityCheck

Change = Callable[[Path], None]


class Registry:
    """Registers copies of a bundle as versions of the model `kubehabit`.

    Args:
        folder: for the database `mlflow.db` and the artifacts.
        empty: a store with its tables and nothing in them.
        bundle: what every version is a copy of.
    """

    def __init__(self, folder: Path, empty: Path, bundle: Path) -> None:
        import mlflow

        folder.mkdir(parents=True, exist_ok=True)
        self.database = folder / "mlflow.db"
        shutil.copy(empty, self.database)
        self.uri = f"sqlite:///{self.database}"
        self._folder = folder
        self._bundle = bundle
        self._count = 0
        self._client = mlflow.MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        with contextlib.suppress(mlflow.exceptions.MlflowException):
            self._client.create_registered_model("kubehabit")

    def add(self, change: Change | None = None, *, alias: str | None = None) -> str:
        """Register a version: the bundle, changed as wanted."""
        self._count += 1
        folder = self._folder / "artifacts" / str(self._count)
        shutil.copytree(self._bundle, folder / "bundle")
        if change is not None:
            change(folder / "bundle")
        version = str(self._client.create_model_version("kubehabit", source=folder.as_uri()).version)
        if alias is not None:
            self.set(alias, version)
        return version

    def set(self, alias: str, version: str) -> None:
        """Move an alias."""
        self._client.set_registered_model_alias("kubehabit", alias, version)

    def tag(self, version: str, tags: dict[str, str]) -> None:
        """Set tags on a version."""
        for name, text in tags.items():
            self._client.set_model_version_tag("kubehabit", version, name, text)

    def remove(self, alias: str) -> None:
        """Take an alias away."""
        self._client.delete_registered_model_alias("kubehabit", alias)


def touchy(bundle: Path) -> None:
    """Flag whatever adds any evidence."""
    file = bundle / "calibration.json"
    calibration = json.loads(file.read_text())
    for name in ("person_thresholds", "system_thresholds"):
        calibration[name] = [0.01] * len(calibration["horizons"])
    file.write_text(json.dumps(calibration))
    seal(bundle)


def corrupted(bundle: Path) -> None:
    """Change a byte of the graph."""
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(content)


def no_graph(bundle: Path) -> None:
    """Put something else in the place of the graph, and seal it."""
    (bundle / "model.onnx").write_bytes(b"this is no graph")
    seal(bundle)


def lying(bundle: Path) -> None:
    """Make the graph differ from what training says it computed."""
    test = ParityCheck.load(bundle / PARITY_FILE)
    ParityCheck(test.tokens, test.lengths, test.principal, test.group, test.nll + np.float32(0.5)).save(
        bundle / PARITY_FILE
    )
    seal(bundle)


def of_another_format(bundle: Path) -> None:
    """Say that it is of a version of kubehabit that is not made yet."""
    meta = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(meta | {"format": 99}))
    seal(bundle)


def untested(bundle: Path) -> None:
    """A bundle as they were before there was a self-test."""
    (bundle / PARITY_FILE).unlink()
    seal(bundle)
