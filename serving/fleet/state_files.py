"""Where the state of a fleet is kept: a folder, an object store by URL (fsspec), or a table of PostgreSQL.

A file appears as a whole or not at all. Those of checkpoints are never changed: another of the same name has the same content.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from data.durable_file import replacing
from data.errors import KubehabitError
from serving.storage.object_files import ObjectFiles
from serving.storage.state_table import StateTable


class StateFilesError(KubehabitError):
    """The state of the fleet cannot be read or written."""


class StateFiles(Protocol):
    """Files by name, with slashes. All methods raise StateFilesError when the store fails."""

    def write(self, name: str, content: bytes) -> None:
        """Add a file."""

    def read(self, name: str) -> bytes:
        """All of a file."""

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in a folder, sorted."""

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""


def open_state(url: str) -> StateFiles:
    """The store at a path or URL; raises KubehabitError."""
    if url.startswith("postgresql"):
        return _Table(url)
    if "://" not in url or url.startswith("file://"):
        return _Folder(Path(url.removeprefix("file://")))
    return ObjectFiles(url, _failed)


class _Folder:
    """A folder, private to its owner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _failed(f"the folder {folder}", error) from error

    def write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(path, 0o600) as out:
                out.write(content)
        except OSError as error:
            raise _failed(str(path), error) from error

    def read(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise _failed(str(self._folder / name), error) from error

    def names(self, folder: str) -> list[str]:
        try:
            found = [path for path in (self._folder / folder).iterdir() if path.is_file()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failed(str(self._folder / folder), error) from error
        return sorted(f"{folder}/{path.name}" for path in found if not path.name.startswith("."))

    def delete(self, name: str) -> None:
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise _failed(str(self._folder / name), error) from error


class _Table:
    """A table of PostgreSQL, which the workers may share with the alerts."""

    def __init__(self, url: str) -> None:
        self._table = StateTable(url)

    def write(self, name: str, content: bytes) -> None:
        self._table.write(name, content)

    def read(self, name: str) -> bytes:
        content = self._table.read(name)
        if content is None:
            raise StateFilesError(f"The state of the fleet has no {name}.")
        return content

    def names(self, folder: str) -> list[str]:
        return [name for name in self._table.names(f"{folder}/") if "/" not in name[len(folder) + 1 :]]

    def delete(self, name: str) -> None:
        self._table.delete(name)


def _failed(what: str, error: Exception) -> StateFilesError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return StateFilesError(f"The state of the fleet: {what} cannot be used ({reason}). Check worker.state.")
