"""The list of a backup's files with their checksums: written last, so that a backup without one is known to be incomplete."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import msgspec

from data.durable_file import write_durably
from data.errors import KubehabitError

MANIFEST = "backup.json"
FORMAT = "kubehabit.backup/1"
_PIECE = 1 << 20


class CopiedFile(msgspec.Struct, frozen=True):
    """A file of a backup: its path in the backup, bytes, and SHA-256 in hexadecimal."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds.

    Attributes:
        format: of this file and the layout of the folder.
        version: of the kubehabit that made it.
        made: RFC 3339 time at which it was complete.
        files: all files but this one.
        notes: what is not in it, as sentences.
    """

    format: str
    version: str
    made: str
    files: list[CopiedFile]
    notes: list[str] = []

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def copy_file(source: Path, to: Path, upto: int | None = None) -> None:
    """Copy a file durably, or so many bytes of its beginning, private to its owner; raises OSError."""
    to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    left = source.stat().st_size if upto is None else upto  # what is added meanwhile stays out
    with source.open("rb") as read, os.fdopen(os.open(to, _CREATE, 0o600), "wb") as write:
        while left and (piece := read.read(min(left, _PIECE))):
            write.write(piece)
            left -= len(piece)
        write.flush()
        os.fsync(write.fileno())


_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def seal(folder: Path, notes: list[str], on_file: Callable[[str], None]) -> Manifest:
    """Write the manifest over everything in a folder."""
    files = [_copied(folder, path, on_file) for path in _files(folder)]
    made = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(FORMAT, version("kubehabit"), made, files, notes)
    write_durably(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1), 0o600)
    return manifest


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _copied(folder: Path, path: Path, on_file: Callable[[str], None]) -> CopiedFile:
    name = path.relative_to(folder).as_posix()
    on_file(name)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return CopiedFile(name, file.tell(), digest)


def read(folder: Path, on_file: Callable[[str], None]) -> Manifest:
    """The manifest of a backup whose files are all there, unchanged, and no others; raises KubehabitError."""
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise KubehabitError(
            f"{folder} is no complete backup ({MANIFEST}: {error.strerror}). Name a folder that kubehabit backup has finished."
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise KubehabitError(
            f"{path} cannot be read ({error}): the backup is damaged. Use another one."
        ) from error
    if manifest.format != FORMAT:
        raise KubehabitError(
            f"{folder} was written by another version of kubehabit (format {manifest.format!r}, version {manifest.version!r}): "
            "restore it with that version."
        )
    listed = {file.name: file for file in manifest.files}
    for name in listed:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise KubehabitError(f"{path} names {name!r}, which lies outside the backup. Do not use it.")
    there = {path.relative_to(folder).as_posix() for path in _files(folder)}
    if missing := sorted(listed.keys() - there) or sorted(there - listed.keys()):
        raise KubehabitError(
            f"The backup in {folder} and its {MANIFEST} differ in {missing[0]}: it is damaged. Use another one."
        )
    for name, file in listed.items():
        if _copied(folder, folder / name, on_file) != file:
            raise KubehabitError(
                f"{name} of the backup in {folder} was changed or is damaged. Use another backup."
            )
    return manifest
