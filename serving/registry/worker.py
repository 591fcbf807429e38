"""Runs the MLflow client, which needs as much memory as the whole service, in a subprocess of `serving.registry.client`.

It reads requests from standard input, each a line of JSON, and answers each with a line on standard output. It ends when standard
input is closed, so it never outlives its parent.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from data.artifact_paths import relocate
from data.errors import BundleError, KubehabitError
from data.paths import registry_uri, store_file, tracking_uri
from serving.registry.client import (
    TRAIN,
    ModelReference,
    NoSuchModelError,
    RegistryUnavailableError,
    bundle_in,
    one_line,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


#: Set before MLflow is imported: a detector inside the perimeter must not call home, and the default timeouts of a dead server
#: are minutes.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}

#: Versions that are listed, the newest ones, and characters of a text of them.
_MOST_VERSIONS, _LONGEST_TEXT = 200, 8000


def _client_class() -> type[MlflowClient]:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Before the import, during which alembic logs its plugins.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    return MlflowClient


def _client() -> MlflowClient:
    if (file := store_file()) is not None:
        relocate(file)
    return _client_class()(tracking_uri=tracking_uri(), registry_uri=registry_uri())


def locate(name: str, alias: str | None, version: str | None) -> dict[str, Any]:
    """Version, source and time of registration of a reference; raises RegistryUnavailableError or NoSuchModelError."""
    client = _client()
    from mlflow.exceptions import MlflowException

    try:
        if alias is not None:
            found = client.get_model_version_by_alias(name, alias)
        else:
            found = client.get_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise NoSuchModelError(
                f"The registry has no {ModelReference(name, alias, version)}. {TRAIN}"
            ) from error
        raise _unavailable(error) from error
    except Exception as error:  # a database driver, a proxy, a DNS resolver: each has errors of its own
        raise _unavailable(error) from error
    return {"version": str(found.version), "source": found.source, "registered": found.creation_timestamp}


def download(name: str, version: str, to: str) -> dict[str, Any]:
    """Download a version's files into a folder; raises RegistryUnavailableError, or BundleError if they hold no bundle."""
    client = _client()
    import mlflow

    try:
        mlflow.artifacts.download_artifacts(
            artifact_uri=client.get_model_version_download_uri(name, version),
            dst_path=to,
            tracking_uri=tracking_uri(),
            registry_uri=registry_uri(),
        )
        return {"bundle": str(bundle_in(Path(to), f"{name} version {version}"))}
    except BundleError:
        raise
    except Exception as error:
        raise RegistryUnavailableError(
            f"The registry lists {name} version {version}, but its files cannot be fetched ({one_line(error)}). "
            f"Bring the artifact store back, or register the model again: kubehabit train --data DIR"
        ) from error


def versions(name: str) -> dict[str, Any]:
    """The newest versions of a model with their aliases and tags; raises RegistryUnavailableError or NoSuchModelError."""
    client = _client()
    from mlflow.exceptions import MlflowException

    quote = '"' if "'" in name else "'"
    try:
        aliases = client.get_registered_model(name).aliases
        found = client.search_model_versions(f"name={quote}{name}{quote}", max_results=_MOST_VERSIONS)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NoSuchModelError(f"The registry has no model {name}. {TRAIN}") from error
        raise _unavailable(error) from error
    except Exception as error:
        raise _unavailable(error) from error
    return {
        "versions": [
            {
                "version": str(one.version),
                "registered": one.creation_timestamp,
                "aliases": sorted(alias for alias, at in aliases.items() if str(at) == str(one.version)),
                "card": (one.description or "")[:_LONGEST_TEXT],
                "tags": {key: str(value)[:_LONGEST_TEXT] for key, value in one.tags.items()},
            }
            for one in found
        ]
    }


def _unavailable(error: BaseException) -> RegistryUnavailableError:
    where = urlsplit(registry_uri())
    shown = f"{where.scheme}://{where.hostname or ''}{where.path}"  # never a password
    return RegistryUnavailableError(
        f"The model registry {shown} does not answer ({one_line(error)}). Start it, or correct MLFLOW_REGISTRY_URI."
    )


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request, or an exception's class as `error` and its `message`."""
    questions: dict[str, Callable[..., dict[str, Any]]] = {
        "locate": locate,
        "download": download,
        "versions": versions,
    }
    try:
        return questions[request.pop("ask")](**request)
    except KubehabitError as error:
        return {"error": type(error).__name__, "message": str(error)}


def _import_ahead() -> None:
    gc.disable()  # the process lives for seconds
    _client_class()
    if urlsplit(registry_uri()).scheme not in ("http", "https"):
        import mlflow.store.model_registry.sqlalchemy_store
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def main() -> None:
    """Answer requests until standard input is closed."""
    requests: SimpleQueue[str] = SimpleQueue()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not get into the answers

    def read() -> None:
        for line in sys.stdin:
            requests.put(line)
        os._exit(0)  # the tear-down of what was imported takes long

    threading.Thread(target=read, daemon=True).start()
    with contextlib.suppress(ImportError):  # raised by the first request
        _import_ahead()
    while True:
        answers.write(json.dumps(answer(json.loads(requests.get()))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
