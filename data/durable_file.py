"""Files that are whole after a crash: written beside, put on disk, renamed."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

#: Age from which a draft is what a process left that was killed; no file takes so long to be written.
_STALE_SECONDS = 600.0


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a file that replaces `path`, durably, when the block ends without an error.

    Readers and crashes see the old file or the new one; after an error the old one is untouched. The folder must exist; the draft
    in it ends in `.part`, and one that an earlier process left is deleted. The process's umask applies to `mode`.
    """
    _clear_drafts(path.parent, f".{path.name}.", time.time() - _STALE_SECONDS)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def clear_drafts(folder: Path) -> None:
    """Delete the drafts that killed processes left in a folder; only its single writer may do so, before it writes."""
    _clear_drafts(folder, ".", math.inf)


def _clear_drafts(folder: Path, prefix: str, before: float) -> None:
    with contextlib.suppress(OSError):  # then they stay for the next time
        for entry in os.scandir(folder):
            is_draft = entry.name.startswith(prefix) and entry.name.endswith(".part")
            if is_draft and entry.stat().st_mtime <= before:
                Path(entry).unlink()


def write_durably(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace a file by bytes; see `replacing`."""
    with replacing(path, mode) as file:
        file.write(content)


def move_durably(draft: Path, path: Path) -> None:
    """Put a finished file on disk under its final name, in a folder of the same file system."""
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
