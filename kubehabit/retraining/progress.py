"""How far a retraining has come: one JSON file in its folder, so that one that was stopped goes on where it was."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from data.durable_file import write_durably
from data.errors import KubehabitError

_FILE = "progress.json"
#: Age from which a retraining that was stopped is begun again, microseconds.
_STALE = 3 * 86_400_000_000
#: Finished retrainings whose figures are kept.
_KEPT = 10


@dataclass(slots=True)
class Progress:
    """One retraining.

    Attributes:
        folder: where its files are.
        since, split, until: microseconds since 1970 UTC; trained on what lies before `split`, compared on the rest.
        done: what each finished step found, by its name.
    """

    folder: Path
    since: int
    split: int
    until: int
    done: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(cls, root: Path, since: int, split: int, until: int) -> Self:
        """A new one below `root`."""
        name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        folder = root / name
        try:
            folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise KubehabitError(
                f"Cannot make {folder}: {error.strerror}. Choose another --folder."
            ) from error
        begun = cls(folder, since, split, until)
        begun.save()
        return begun

    @classmethod
    def unfinished(cls, root: Path, now: int) -> Self | None:
        """The newest below `root` that was stopped in the last days; None if there is none.

        Args:
            now: microseconds since 1970 UTC. What is older no longer says what the cluster does.
        """
        for file in sorted(root.glob(f"*/{_FILE}"), reverse=True):
            try:
                saved = json.loads(file.read_text("utf-8"))
                found = cls(file.parent, **saved)
            except (OSError, ValueError, TypeError):
                continue
            if "decision" not in found.done and now - found.until <= _STALE:
                return found
        return None

    def finish(self, step: str, found: Any) -> None:
        """Note what a step found; it is not done again."""
        self.done[step] = found
        self.save()

    def save(self) -> None:
        """Write the file."""
        saved = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_durably(self.folder / _FILE, json.dumps(saved, indent=1).encode())

    def abandon(self) -> None:
        """Delete it: going on would come to the same end."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear(self, root: Path) -> None:
        """Delete the logs and the dataset, which hold what people did, and the oldest of what is kept of others."""
        for path in self.folder.iterdir():
            if path.name == _FILE:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        for old in sorted(file.parent for file in root.glob(f"*/{_FILE}"))[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
