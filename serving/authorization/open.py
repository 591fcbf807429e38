"""Makes the monitor of a service from its settings."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from data.errors import KubehabitError
from detection.authorization.files import files_of, read_rbac
from detection.authorization.node_graph import NodeGraph
from detection.authorization.oracle import AuthorizationOracle
from serving.authorization.monitor import AuthorizationMonitor
from serving.settings import AuthorizationSettings

#: File beside a snapshot that says when it was taken.
_TAKEN = "taken"


def open_monitor(settings: AuthorizationSettings) -> AuthorizationMonitor | None:
    """The monitor that the settings ask for; None without a snapshot. Raises KubehabitError if it cannot be read."""
    path = settings.snapshot
    if path is None:
        return None
    if not path.exists():
        raise KubehabitError(
            f"authorization.snapshot names {path}, which does not exist. Make it with: kubectl get "
            "clusterroles,clusterrolebindings,roles,rolebindings -A -o json > rbac.json"
        )
    digest = _digest(path)
    graph = NodeGraph()
    oracle = AuthorizationOracle(*read_rbac(path, graph), graph)
    taken = settings.taken or _taken_of(path)
    if taken is not None:
        taken = taken.replace(tzinfo=UTC) if taken.tzinfo is None else taken.astimezone(UTC)
    text = "" if taken is None else taken.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return AuthorizationMonitor(oracle, digest=digest, taken=text, cluster=settings.cluster)


def _taken_of(path: Path) -> datetime | None:
    """When a snapshot was taken by the file `taken` in its folder, which has an RFC 3339 time; None without one."""
    file = path / _TAKEN if path.is_dir() else path.with_name(_TAKEN)
    if not file.is_file():
        return None
    try:
        with file.open(encoding="utf-8") as stream:
            return datetime.fromisoformat(stream.read(64).strip())
    except (OSError, ValueError) as error:
        raise KubehabitError(
            f"{file} does not hold a time such as 2026-11-23T14:00:00Z. Correct it."
        ) from error


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    for file in files_of(path):
        try:
            with file.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise KubehabitError(f"{file} cannot be read ({error.strerror}).") from error
    return found.hexdigest()
