"""Where kubehabit keeps what it makes, which MLflow store it talks to, and the defaults that it ships with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import yaml

from data.errors import KubehabitError

#: Folder of models and files of runs, beside a SQLite store.
ARTIFACTS = "mlartifacts"
#: What commands call the model that is installed with kubehabit.
STARTER = "starter"


def home() -> Path:
    """Folder for stores and caches: `KUBEHABIT_HOME`, or `.kubehabit` in the working directory."""
    return Path(os.environ.get("KUBEHABIT_HOME") or ".kubehabit").absolute()


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or a SQLite file in `home()` (no server needed)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def registry_uri() -> str:
    """`MLFLOW_REGISTRY_URI`, or the tracking store."""
    return os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri()


def artifact_root() -> str | None:
    """Where runs put their artifacts, as a URI: beside a SQLite store's file; None leaves it to the tracking server."""
    file = store_file()
    return None if file is None else (file.parent / ARTIFACTS).as_uri()


def store_file() -> Path | None:
    """File of a SQLite tracking store; None for another kind."""
    path = tracking_uri().removeprefix("sqlite:///")
    return Path(path).absolute() if path != tracking_uri() else None


def shipped(name: str) -> dict[str, Any]:
    """Content of a YAML file of the `configs` package, by file name."""
    content: dict[str, Any] = yaml.safe_load(files("configs").joinpath(name).read_text("utf-8"))
    return content


def shipped_rules() -> Path:
    """Folder of the rules that ship with kubehabit."""
    return Path(str(files("configs") / "rules"))


def starter_bundle() -> Path:
    """Folder of the bundle of the starter model; KubehabitError if this installation lacks it."""
    folder = Path(str(files("data") / "starter"))
    if not (folder / "bundle.json").is_file():
        raise KubehabitError(
            f"The starter model is not in {folder}: install kubehabit again, or make it: make starter"
        )
    return folder


def given(path: Path) -> dict[str, Any]:
    """Content of a YAML file of the user's; one that is not a table raises KubehabitError."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KubehabitError(f"Cannot read the settings {path}: {error}.") from error
    if not isinstance(content, dict):
        raise KubehabitError(f"The settings {path} must be a table of keys, as the shipped ones are.")
    return content


@dataclass(frozen=True, slots=True)
class Recordings:
    """Two recorded logs: one of normal work, and one with attacks and its labels.

    Attributes:
        TRUSTED_HOPS: proxies before the recorded API server: a load balancer, which is the last address of every request.
    """

    TRUSTED_HOPS: ClassVar[int] = 1

    normal: Path
    labelled: Path
    labels: Path

    @classmethod
    def shipped(cls) -> Recordings:
        """The recordings of the source tree; an installed package, which leaves them out, raises KubehabitError."""
        folder = Path(str(files("data") / "recordings"))
        found = cls(folder / "normal.jsonl.zst", folder / "labelled.jsonl.zst", folder / "labels.json")
        if not all(path.is_file() for path in (found.normal, found.labelled, found.labels)):
            raise KubehabitError(
                f"The demo's recordings are not in {folder}: an installed package leaves them out. "
                "Clone the project and run 'make demo' in it."
            )
        return found
