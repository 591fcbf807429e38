"""Identifies this process among those that share its database; the same after a restart."""

from __future__ import annotations

import contextlib
import re
import uuid
from pathlib import Path

from data.durable_file import write_durably

_NAME = "instance"
_HEX = re.compile(r"[0-9a-f]{32}")


def instance_id(folder: Path) -> str:
    """32 hexadecimal digits, made at the first start and kept in the folder of the journal, which its process has locked.

    So what a killed process had claimed is its successor's at once, rather than when the claim ends.
    """
    path = folder / _NAME
    with contextlib.suppress(OSError, ValueError):  # there is none yet, or it is damaged
        found = path.read_text(encoding="ascii")
        if _HEX.fullmatch(found):
            return found
    made = uuid.uuid4().hex
    with contextlib.suppress(
        OSError
    ):  # then it changes with a restart; the journal says what is wrong with the folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(path, made.encode())
    return made
