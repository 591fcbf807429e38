"""Where kubehabit keeps what it makes, and which MLflow store it talks to."""

import os
from pathlib import Path


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
    path = tracking_uri().removeprefix("sqlite:///")
    return (Path(path).absolute().parent / "mlartifacts").as_uri() if path != tracking_uri() else None
