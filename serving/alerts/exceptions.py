"""The file of exceptions by hand: read by the service, and written a block at a time by `kubehabit allow`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import yaml
from pydantic import Field

from data.durable_file import replacing
from data.errors import KubehabitError
from detection.exceptions import HabitException, HabitExceptions
from serving.schemas import Action, ApiModel
from serving.settings import read_yaml

_HEAD = "# What may be done for a while without an alert: kubehabit allow --help\nexceptions:\n"


class AllowedDeed(ApiModel):
    """An action that would have been flagged."""

    principal: str
    action: Action


class ExceptionReport(ApiModel):
    """An exception, and what it has allowed."""

    name: str
    principal: str = ""
    group: str = ""
    verbs: list[str]
    resources: list[str]
    namespaces: list[str]
    names: list[str]
    reason: str
    by: str = ""
    expires: datetime
    expired: bool
    uses: Annotated[
        int, Field(description="actions that would have been flagged, as long as they are kept")
    ] = 0
    last_used: datetime | None = None
    latest: Annotated[
        list[AllowedDeed], Field(default_factory=list, description="the last ten of them, newest first")
    ]

    @classmethod
    def of(cls, entry: HabitException, now: datetime) -> ExceptionReport:
        """An exception that was not used yet."""
        lists = {name: list(getattr(entry, name)) for name in ("verbs", "resources", "namespaces", "names")}
        texts = {name: getattr(entry, name) for name in ("name", "principal", "group", "reason", "by")}
        return cls(**texts, **lists, expires=entry.until, expired=entry.until < now)


class ExceptionList(ApiModel):
    """All exceptions of the service."""

    exceptions: list[ExceptionReport]


def read_exceptions(path: Path) -> HabitExceptions:
    """The exceptions of a file; none if there is no file. Raises KubehabitError for a file that cannot be used."""
    if not path.exists():
        return HabitExceptions()
    content = read_yaml(path)
    if unknown := sorted(set(content) - {"exceptions"}):
        raise KubehabitError(f"{path}: unknown key {unknown[0]!r}: everything belongs under 'exceptions'.")
    try:
        return HabitExceptions.from_list(content.get("exceptions"))
    except KubehabitError as error:
        raise KubehabitError(f"{path}: {error}") from error


def append_exception(path: Path, entry: HabitException) -> None:
    """Add an exception at the end of a file, which is made if there is none; what it holds stays as it is.

    Raises:
        KubehabitError: the exception, or the file, is wrong; the file is unchanged then.
    """
    held = read_exceptions(path)
    HabitExceptions([*held.entries, entry])
    if entry.until < datetime.now(UTC):
        raise KubehabitError(f"exception {entry.name!r} would have expired already: name a later day.")
    text = path.read_text("utf-8") if path.exists() else _HEAD
    block = yaml.safe_dump([msgspec.to_builtins(entry)], sort_keys=False, allow_unicode=True, width=120)
    indented = "".join(f"  {one}\n" for one in block.splitlines())
    if not held.entries:
        text = text.replace("exceptions: []", "exceptions:")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = (text if text.endswith("\n") or not text else text + "\n") + indented
    added = yaml.safe_load(new)
    if not isinstance(added, dict) or len(added.get("exceptions") or ()) != len(held) + 1:
        raise KubehabitError(
            f"{path}: an entry cannot be added at its end. Add it by hand, under 'exceptions':\n{indented}"
        )
    with replacing(path, 0o644) as out:
        out.write(new.encode())
