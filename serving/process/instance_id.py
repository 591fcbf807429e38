"""Identifies this process among those that share its database; the same after a restart."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

from data.durable_file import write_durably

_NAME = "instance"
_HEX = re.compile(r"[0-9a-f]{32}")


def instance_id(folder: Path) -> str:
    """An ID kept in a folder that one process at a time uses: 32 hexadecimal digits, made at the first start.

    So what a killed process had claimed is its successor's at once, rather than when the claim ends.

    Args:
        folder: of the journal, which is locked by its process.
    """
    path = folder / _NAME
    try:
        found = path.read_text(encoding="ascii")
        if _HEX.fullmatch(found):
            return found
    except (OSError, ValueError):
        pass  # there is none yet, or it is damaged
    made = uuid.uuid4().hex
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, made.encode())
    except OSError:
        pass  # then it is another one after a restart; the journal says what is wrong with the folder
    return made
