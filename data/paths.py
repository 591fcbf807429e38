"""Files that come with the source tree."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from data.errors import KubehabitError


@dataclass(frozen=True, slots=True)
class Recordings:
    """Two recorded logs: one of normal work, and one with attacks and its labels."""

    normal: Path
    labelled: Path
    labels: Path

    @classmethod
    def shipped(cls) -> Recordings:
        """The recordings of the source tree.

        Raises:
            KubehabitError: this is an installed package, which leaves them out.
        """
        folder = Path(str(files("data") / "recordings"))
        found = cls(folder / "normal.jsonl.zst", folder / "labelled.jsonl.zst", folder / "labels.json")
        if not all(path.is_file() for path in (found.normal, found.labelled, found.labels)):
            raise KubehabitError(
                f"The demo's recordings are not in {folder}: an installed package leaves them out. "
                "Clone the project and run 'make demo' in it."
            )
        return found
