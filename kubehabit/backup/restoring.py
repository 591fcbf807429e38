"""Puts a backup back, where the settings say, into places that are empty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data.artifact_paths import relocate
from data.errors import KubehabitError
from kubehabit.backup.manifest import Manifest, copy_file, read
from kubehabit.backup.parts import ServiceParts


def restore(backup: Path, places: ServiceParts, on_file: Callable[[str], None] = lambda _: None) -> Manifest:
    """Check a backup and copy it to where a service will look; nothing is written before all of it was checked.

    Args:
        backup: folder that `back_up` has finished.
        places: where the parts belong.
        on_file: called with the name of each file, for progress.

    Raises:
        KubehabitError: the backup is incomplete or damaged, a place is taken, or something cannot be written.
    """
    manifest = read(backup, on_file)
    targets: list[tuple[Path, Path]] = []
    for file in manifest.files:
        target = places.path_of(file.name)
        if target is None:
            raise KubehabitError(
                f"The settings have no place for {file.name}: the backup is of a service with a SQLite alert store and registry. "
                "Leave out store.url and MLFLOW_TRACKING_URI, or name SQLite files."
            )
        targets.append((backup / file.name, target))
    for part, path in places.parts():
        taken = next(path.iterdir(), None) if part.endswith("/") and path.is_dir() else None
        if taken is not None or (not part.endswith("/") and path.exists()):
            raise KubehabitError(
                f"{taken or path} exists already: restore into an empty KUBEHABIT_HOME, or move it away first."
            )
    try:
        for source, target in targets:
            on_file(str(target))
            copy_file(source, target)
    except OSError as error:
        raise KubehabitError(
            f"{error.filename} cannot be written: {error.strerror}. Delete what was restored, and try again."
        ) from error
    if places.registry is not None:
        relocate(places.registry)
    return manifest
