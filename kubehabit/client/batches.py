"""Logs as batches of records, one a line: bodies of `/v1/score`, and of what a temporary event store takes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

from data.events.audit_event import MAX_EVENT_BYTES
from data.events.formats.json_stream import Documents, opens_document
from data.events.formats.text_lines import is_part
from data.events.reader import LogPath, log_files, open_lines, size_of
from data.work_progress import WorkProgress

#: Most of one batch, uncompressed: well below the service's default limit of a body.
BATCH_BYTES = 1 << 20
BATCH_EVENTS = 1000


def batches_of(
    logs: Sequence[LogPath], title: str, on_damage: Callable[[str], None] | None = None
) -> Iterator[list[bytes]]:
    """Batches of several logs, files or folders, with a progress bar; raises as `batches`."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    found = log_files(logs)
    done = 0
    with WorkProgress(*columns, transient=True) as progress:
        bar = progress.add_task(title, total=sum(map(size_of, found)) or None)
        for log in found:
            before = done

            def on_bytes(count: int, before: int = before) -> None:
                progress.update(bar, completed=before + count)

            yield from batches(log, on_bytes=on_bytes, on_damage=on_damage)
            done += size_of(log)
            progress.update(bar, completed=done)


def batches(
    log: LogPath,
    *,
    on_bytes: Callable[[int], None] | None = None,
    on_damage: Callable[[str], None] | None = None,
) -> Iterator[list[bytes]]:
    """Records of a log in batches that are bounded in bytes and number; a longer record goes alone.

    Args:
        log: one record a line, or a JSON document of many, packed in any way that is read; `-` for standard input.
        on_bytes: called now and then with the number of compressed bytes read so far.
        on_damage: called with a sentence if the log ends in the middle of its compressed stream. Without it the damage raises.

    Raises:
        KubehabitError: the log cannot be opened, or is damaged and `on_damage` is None.
    """
    batch: list[bytes] = []
    size = 0

    def damaged(_: int, reason: str) -> None:
        if on_damage is not None:
            on_damage(f"{log}: {reason}")

    lines = open_lines(log, on_bytes=on_bytes, on_damage=None if on_damage is None else damaged)
    for record in _records(lines):
        full = size + len(record) >= BATCH_BYTES or len(batch) >= BATCH_EVENTS
        # Parts of one line of a container's log stay together, or they could not be joined.
        if batch and full and not (is_part(batch[-1]) and size < MAX_EVENT_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record) + 1
    if batch:
        yield batch


def _records(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Records, each on one line, also out of documents that are spread over several lines."""
    document: Documents | None = None
    for line in lines:
        if document is None and opens_document(line):
            document = Documents(1)
        if document is None:
            if line.strip():
                yield line
            continue
        yield from _on_one_line(document.feed(line + b"\n"))
        if document.finished:
            if document.rest.strip():
                yield document.rest.strip()
            document = None
    if document is not None:
        yield from _on_one_line(document.end())


def _on_one_line(found: list[tuple[int, bytes]]) -> Iterator[bytes]:
    # A JSON string holds no newline, so those of a record stand between its parts.
    return (record.replace(b"\n", b" ") for _, record in found)
