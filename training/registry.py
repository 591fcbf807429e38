"""MLflow: the run, the registered version, and the alias that serving follows."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from data.artifact_paths import relocate
from data.errors import KubehabitError
from data.paths import STARTER, artifact_root, registry_uri, starter_bundle, store_file, tracking_uri
from training import model_code

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_ROOT = Path(__file__).resolve().parent.parent
#: Longest name and digest of a dataset that MLflow's stores take.
_NAME_LENGTH, _DIGEST_LENGTH = 500, 36
_PYFUNC_NEEDS = ("msgspec", "numpy", "onnxruntime", "pyyaml", "zstandard")


#: The experiment's page opens on its runs, and shows this metric first.
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "held_back_surprise",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "False",
}


def run_name(what: str, fingerprint: str) -> str:
    """Name of a run: what it is, when it began, and the first digits of its data's fingerprint."""
    return f"{what} {datetime.now(UTC):%Y-%m-%d %H:%M:%S} data {fingerprint[:8]}"


def log_dataset(card: Mapping[str, Any], context: str) -> None:
    """Log the dataset of the active run as an MLflow dataset; `card` is that of `kubehabit data build`."""
    import mlflow
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    about = {key: card.get(key) for key in ("sources", "first", "last", "split_at", "actions", "principals")}
    source = CodeDatasetSource(tags={"mlflow.source.name": "kubehabit data build", **about})
    name = ", ".join(card["sources"])[:_NAME_LENGTH]
    dataset = MetaDataset(source=source, name=name, digest=card["fingerprint"][:_DIGEST_LENGTH])  # type: ignore[abstract]
    mlflow.log_input(dataset, context=context)


def git_commit() -> str:
    """Commit of the source tree, `-dirty` if it has changes; "unknown" outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


@contextmanager
def connected() -> Iterator[None]:
    """Point MLflow at the configured store.

    MLflow's setters write into the environment; it is restored on exit.
    """
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    before = {name: os.environ.get(name) for name in names}
    if (file := store_file()) is not None:
        relocate(file)
    try:
        mlflow.set_tracking_uri(tracking_uri())
        mlflow.set_registry_uri(registry_uri())
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # None makes it read the environment again
        mlflow.set_registry_uri(None)  # type: ignore[arg-type]
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def experiment_id(name: str) -> str:
    """Id of an experiment, which is created if missing; KubehabitError if the store cannot be used. Inside `connected()`."""
    import mlflow

    root = artifact_root()
    try:
        if root is not None:
            Path(url2pathname(urlsplit(root).path)).mkdir(parents=True, exist_ok=True)
        found = mlflow.get_experiment_by_name(name)
        if found is None:
            return str(mlflow.create_experiment(name, artifact_location=root, tags=_EXPERIMENT_TAGS))
        client = mlflow.MlflowClient()
        for key, value in _EXPERIMENT_TAGS.items():
            if found.tags.get(key) is None:  # one that was chosen stays
                client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)
    except Exception as error:
        raise KubehabitError(
            f"The MLflow store {tracking_uri()} cannot be used: {error}. "
            "Check MLFLOW_TRACKING_URI, or move a damaged store aside."
        ) from error


def next_alias(name: str) -> str:
    """`champion` if the model has none yet, else `challenger`. Use inside `connected()`."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        mlflow.MlflowClient().get_model_version_by_alias(name, "champion")
    except MlflowException:
        return "champion"
    return "challenger"


def register(
    bundle: Path, *, name: str, alias: str, example: list[str], metadata: dict[str, Any]
) -> tuple[str, str]:
    """Log a sealed bundle as a pyfunc model in the active run, register it and move the alias; returns version and model URI.

    `example` holds raw audit events as JSON text, for the input example and the signature.
    """
    import mlflow
    import pandas as pd  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder:
        loader, code = model_code.pack("detection.pyfunc", _ROOT, Path(folder))
        info = mlflow.pyfunc.log_model(
            name="model",
            loader_module=loader,
            data_path=str(bundle),
            code_paths=[str(code)],
            signature=_signature(),
            input_example=pd.DataFrame({"event": example}),
            pip_requirements=[f"{package}=={installed(package)}" for package in _PYFUNC_NEEDS],
            registered_model_name=name,
            metadata=metadata,
        )
    # MLflow tried the model out with the code of a temporary folder: what is imported later must come from the registered one.
    for module in [module for module in sys.modules if module.partition(".")[0] == code.name]:
        del sys.modules[module]
    version = str(info.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(name, alias, version)
    return version, f"models:/{name}/{version}"


def _signature() -> ModelSignature:
    """Input and output columns of `detection.pyfunc`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Map

    optional: dict[str, Any] = {
        "principal": "string",
        "surprise": "double",
        "evidence": "double",
        "flagged": "boolean",
        "severity": "string",
        "nll": Map(DataType.double),
        "reason": "string",  # of rejected events; the others of scored ones
    }
    columns = [ColSpec("string", "auditID"), ColSpec("string", "status")]
    given = Schema([*columns, *(ColSpec(kind, name, required=False) for name, kind in optional.items())])
    return ModelSignature(inputs=Schema([ColSpec("string", "event")]), outputs=given)


def download(model_uri: str, to: Path | None = None) -> Path:
    """Folder of a bundle, given itself, as a registered model (`models:/name@alias`) or as `starter`, which is installed.

    KubehabitError if there is none.

    With `to`, a registered model is copied to that folder, also from a registry on this machine.
    """
    local = starter_bundle() if model_uri == STARTER else Path(model_uri)
    if (local / "bundle.json").is_file():
        return local
    import mlflow

    try:
        with connected():
            folder = Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=model_uri, dst_path=None if to is None else str(to)
                )
            )
    except Exception as error:
        raise KubehabitError(
            f"No model {model_uri} in {registry_uri()} ({error}). Train and register one: kubehabit train --data DIR"
        ) from error
    found = next(folder.rglob("bundle.json"), None)
    if found is None:
        raise KubehabitError(f"{model_uri} holds no kubehabit bundle; register models with kubehabit train.")
    return found.parent


@contextmanager
def opened(model_uri: str) -> Iterator[Path]:
    """The folder of a bundle, given itself or as a copy of a registered one; raises as `download`."""
    if model_uri == STARTER or (Path(model_uri) / "bundle.json").is_file():
        yield download(model_uri)
        return
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with tempfile.TemporaryDirectory() as folder:
        yield download(model_uri, Path(folder))


def add_file(model_uri: str, file: Path, *, beside: Path) -> None:
    """Add a file to the bundle of a registered version.

    Args:
        file: to add.
        beside: folder of the downloaded bundle, which tells where in the version the bundle is.

    Raises:
        KubehabitError: there is no such version, or its files cannot be written.
    """
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    try:
        with connected():
            client = mlflow.MlflowClient()
            name, version = get_model_name_and_version(client, model_uri)  # type: ignore[no-untyped-call]
            source = client.get_model_version(name, version).source or ""
            within = next(root for root in beside.parents if (root / "MLmodel").is_file())
            place = beside.relative_to(within).as_posix()
            get_artifact_repository(source).log_artifact(str(file), place)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise KubehabitError(f"{file.name} cannot be added to {model_uri} ({error}).") from error
