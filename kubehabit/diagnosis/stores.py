"""Checks of what is stored and sent: the alert store, the event store and the sinks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel

from data.errors import KubehabitError
from data.signing_keys import load_signing_key
from kubehabit.diagnosis.check_result import CheckResult
from serving.forensics.ledger import LedgerReader, read_head
from serving.settings import Settings
from serving.sinks.base import Secret, UnavailableError
from serving.storage.database import has_current_schema, missing_file, shown_url


def check_store(settings: Settings) -> Iterator[CheckResult]:
    """The alert store is reachable and its tables are of this version."""
    url = settings.store.resolved_url
    if missing_file(url) is not None:
        yield CheckResult(
            "store", "ok", f"There is no alert store at {shown_url(url)} yet: the service makes it."
        )
    elif has_current_schema(url):
        yield CheckResult("store", "ok", f"{shown_url(url)} answers, and its tables are of this version.")
    else:
        sentence = (
            f"{shown_url(url)} answers, but its tables are of another version: the service brings older ones up to date when it "
            "starts, and refuses newer ones. Back it up first."
        )
        yield CheckResult("store", "warning", sentence)


def check_events(settings: Settings) -> Iterator[CheckResult]:
    """The ledger of the event store is whole up to its head, and its signing key can be used."""
    if not settings.events.enabled:
        sentence = (
            "No events are kept (events.enabled): questions about the past and evidence have no answer."
        )
        yield CheckResult("events", "warning", sentence)
        return
    if (key := settings.events.with_key().signing_key) is not None:
        load_signing_key(key)
    folder = settings.events.resolved_path
    if not (folder / "ledger.jsonl").exists():
        if any(folder.rglob("*.parquet")):
            sentence = f"{folder} holds events but no ledger: it was removed. Keep the folder, and see kubehabit verify."
            yield CheckResult("events", "error", sentence)
            return
        yield CheckResult("events", "ok", f"There is no event store in {folder} yet: the service makes it.")
        return
    ledger = LedgerReader(folder)
    ledger.read_on()
    try:
        head = read_head(folder)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        head = None
    lines = len(ledger.entries)
    if head is None:
        sentence = f"The head of the ledger in {folder} is missing or damaged. Keep the folder, and see kubehabit verify."
        yield CheckResult("events", "error", sentence)
    elif head.number >= lines or ledger.entries[head.number].hash.hex() != head.hash:
        sentence = f"The ledger in {folder} is not what its head says: it was cut off or rewritten. See kubehabit verify."
        yield CheckResult("events", "error", sentence)
    else:
        sentence = f"The ledger in {folder} is whole: {lines:,} lines, chained up to its head."
        yield CheckResult("events", "ok", sentence)


def check_sinks(settings: Settings) -> Iterator[CheckResult]:
    """Each sink finds its secrets and files. Nothing is sent."""
    if not settings.sinks:
        sentence = "There is no sink: alerts wait in the console and the API until they are looked at. See docs/sinks.md."
        yield CheckResult("sinks", "warning", sentence)
    for sink in settings.sinks:
        problems = [*_problems(sink)]
        for problem in problems:
            yield CheckResult("sinks", "error", f"Sink {sink.name}: {problem}.")
        if not problems:
            yield CheckResult("sinks", "ok", f"Sink {sink.name} ({sink.type}) has what it needs.")


def _problems(section: BaseModel) -> Iterator[str]:
    """What the secrets and files of a section lack."""
    for name in type(section).model_fields:
        value: Any = getattr(section, name)
        if isinstance(value, Secret):
            try:
                value.read()
            except UnavailableError as error:
                yield f"{name}: {error}"
        elif isinstance(value, BaseModel):
            yield from (f"{name}.{problem}" for problem in _problems(value))
        elif isinstance(value, Path):
            yield from _file_problems(name, value)


def _file_problems(name: str, path: Path) -> Iterator[str]:
    if name == "path":  # a sink writes there, into a folder that it makes
        folder = next(one for one in path.absolute().parents if one.exists())
        if not os.access(folder, os.W_OK):
            yield f"{name}: {folder} cannot be written to"
    elif not os.access(path, os.R_OK):
        yield f"{name}: {path} cannot be read"


def check_explanations(settings: Settings) -> Iterator[CheckResult]:
    """The phrases and next steps of alerts can be read."""
    from serving.alerts.explain.explainer import Explainer

    if not settings.explain_path.is_file():
        raise KubehabitError(f"There is no file {settings.explain_path} (explain): name one that exists.")
    Explainer.load(settings.explain_path)
    yield CheckResult("explanations", "ok", f"{settings.explain_path} can be used.")
