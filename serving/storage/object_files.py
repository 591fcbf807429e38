"""Files in an object store, or on any other file system that fsspec knows, by URL: s3://bucket/path, gs://..., abfs://..., file://..."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from data.errors import KubehabitError

#: Object stores put a file in place when all of it has arrived; on other file systems it is written beside and renamed.
_ATOMIC = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "memory"))
_LOCAL = frozenset(("file", "local"))
_CHUNK = 4 << 20


class ObjectFiles:
    """Files by name, with slashes, below a URL. A file appears as a whole or not at all.

    Args:
        url: where they are.
        failed: makes the error that is raised when the store fails, of what was used and why that failed.

    Attributes:
        system: fsspec's file system.
        is_local: whether the files are on this machine, or on a file system that it has mounted.
        place: URL as `system` writes it, or the folder if that is local; without a slash at its end.
    """

    def __init__(self, url: str, failed: Callable[[str, Exception], KubehabitError]) -> None:
        self._failed = failed
        scheme = url.partition("://")[0]
        self._atomic = scheme in _ATOMIC
        try:
            import fsspec

            self.system: Any
            self.system, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise KubehabitError(
                f"{scheme} needs a package that is not installed: {error}. For S3: pip install fsspec s3fs."
            ) from error
        except Exception as error:  # each file system has errors of its own
            raise failed(url, error) from error
        self._root = root.rstrip("/")
        self.is_local = scheme in _LOCAL
        self.place: str = self._root if self.is_local else self.system.unstrip_protocol(self._root)

    def path(self, name: str) -> str:
        """Path of a file, as `system` takes it."""
        return f"{self._root}/{name}"

    def write(self, name: str, content: bytes) -> None:
        """Add or replace a file."""
        self._put(name, lambda path: self.system.pipe_file(path, content))

    def upload(self, name: str, path: Path) -> None:
        """Add or replace a file by one of this machine, which need not fit into memory."""
        self._put(name, lambda to: self.system.put_file(str(path), to))

    def _put(self, name: str, put: Callable[[str], object]) -> None:
        path = self.path(name)
        try:
            if self._atomic:
                put(path)
                return
            self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
            put(f"{path}.part")
            self.system.mv(f"{path}.part", path)
        except Exception as error:
            raise self._failed(name, error) from error

    def read(self, name: str) -> bytes:
        """All of a file."""
        try:
            content: bytes = self.system.cat_file(self.path(name))
        except Exception as error:
            raise self._failed(name, error) from error
        return content

    def checksum(self, name: str) -> tuple[int, str]:
        """Size in bytes and SHA-256 of a file, read back from the store."""
        digest, size = sha256(), 0
        try:
            with self.system.open(self.path(name), "rb", cache_type="none") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
        except Exception as error:
            raise self._failed(name, error) from error
        return size, digest.hexdigest()

    def names(self, folder: str) -> list[str]:
        """Names of the files directly in a folder, sorted."""
        return [name for name, kind in self._listed(folder) if kind == "file"]

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder, sorted."""
        return [name for name, kind in self._listed(folder) if kind == "directory"]

    def _listed(self, folder: str) -> list[tuple[str, str]]:
        path = self.path(folder).rstrip("/")
        try:
            self.system.invalidate_cache(path)
            found = self.system.ls(path, detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._failed(folder or "the folder", error) from error
        prefix = f"{folder}/" if folder else ""
        listed = [(one["name"].rstrip("/").rpartition("/")[2], one["type"]) for one in found]
        return sorted((f"{prefix}{name}", kind) for name, kind in listed if not name.endswith(".part"))

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        try:
            self.system.rm_file(self.path(name))
        except FileNotFoundError:
            pass
        except Exception as error:
            raise self._failed(name, error) from error
