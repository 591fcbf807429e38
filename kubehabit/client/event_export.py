"""Exports events page by page, as lines of JSON in the schema of a SIEM or as a Parquet file.

Memory does not grow with the number of events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from data.errors import KubehabitError
from serving.api.forensics import document_of
from serving.forensics.duckdb import quoted
from serving.forensics.parquet_writer import write_parquet
from serving.forensics.queries import EventFilter
from serving.forensics.records import EventRecord, rows_of
from serving.forensics.siem_formats import FORMATS, enricher

if TYPE_CHECKING:
    from kubehabit.client.events import EventAnswers

#: Events asked for at a time; with their texts they take some megabytes.
PAGE_EVENTS = 1_000
_MEMORY_MB = 256
_EXISTS = "{} exists already. Name another file, or delete it first."
_UNWRITABLE = "{} cannot be written: {}. Check the folder and its free space."
_ENCODE = msgspec.json.Encoder().encode


class EventPages:
    """The events that match a filter, page by page.

    Args:
        answers: a service or its files.
        wanted: which events.
        limit: most of them; all if None.
        cursor: of an earlier answer.
        newest: begin with the newest.

    Attributes:
        cursor: where to continue when all pages are read; None at the end.
    """

    def __init__(
        self,
        answers: EventAnswers,
        wanted: EventFilter,
        *,
        limit: int | None,
        cursor: str | None,
        newest: bool,
    ) -> None:
        self.cursor = cursor
        self._answers = answers
        self._wanted = wanted
        self._limit = limit
        self._newest = newest

    def records(self, *, texts: bool = True) -> Iterator[EventRecord]:
        """Each event; without `texts`, without the event's own text."""
        left = self._limit
        while left is None or left > 0:
            count = PAGE_EVENTS if left is None else min(left, PAGE_EVENTS)
            page = self._answers.events(
                self._wanted, limit=count, cursor=self.cursor, newest=self._newest, texts=texts
            )
            self.cursor = page.cursor
            yield from page.records
            if page.cursor is None:
                return
            if left is not None:
                left -= len(page.records)


def json_lines(records: Iterator[EventRecord], form: str, *, original: bool) -> Iterator[str]:
    """Each event as one line of JSON: `json` as the API gives it, `ocsf` or `ecs`; with its own text if `original`."""
    make: Callable[[EventRecord], object]
    if form == "json":

        def make(record: EventRecord) -> object:
            return document_of(record, original=original)
    else:
        enrich, convert = enricher(with_original=original), FORMATS[form]

        def make(record: EventRecord) -> object:
            return convert(enrich(record))

    for record in records:
        yield _ENCODE(make(record)).decode()


def write_lines(lines: Iterator[str], to: Path) -> int:
    """Write lines to a new file, private to its owner; returns their number. Raises as `write_parquet_file`."""
    try:
        with to.open("x", encoding="utf-8") as file:
            to.chmod(0o600)
            return sum(file.write(line + "\n") > 0 for line in lines)
    except FileExistsError as error:
        raise KubehabitError(_EXISTS.format(to)) from error
    except OSError as error:
        raise KubehabitError(_UNWRITABLE.format(to, error.strerror)) from error


def write_parquet_file(records: Iterator[EventRecord], to: Path, *, original: bool) -> int:
    """Write events to a Parquet file, with the kind of each principal as a column of its own; returns their number.

    The columns are those of the event store (docs/forensics.md). Events pass through a file beside `to`.

    Raises:
        KubehabitError: the file exists already or cannot be written.
    """
    if to.exists():
        raise KubehabitError(_EXISTS.format(to))
    enrich = enricher()
    count = 0
    try:
        with TemporaryDirectory(prefix=".kubehabit-", dir=to.absolute().parent) as scratch:
            folder = Path(scratch)
            lines = folder / "events.ndjson"
            with lines.open("wb") as file:
                for record in records:
                    kept = record if original else record._replace(event="")
                    file.write(_ENCODE(kept._asdict() | {"kind": enrich(record).kind}) + b"\n")
                    count += 1
            made = folder / "events.parquet"
            write_parquet(
                rows_of([quoted(lines)], kind=True),
                made,
                folder=folder,
                memory_mb=_MEMORY_MB,
                small_groups=True,
            )
            made.chmod(0o600)
            made.rename(to)
    except OSError as error:
        raise KubehabitError(_UNWRITABLE.format(to, error.strerror)) from error
    return count
