"""Events together with the bytes they were read from, for who keeps the log itself as well as what it says."""

from __future__ import annotations

from collections.abc import Iterator

from data.events import MAX_EVENT_BYTES, MAX_UNPACKED_BYTES, UNREADABLE, AuditEvent, decode_event
from data.sources import Sources


def decode_originals(body: bytes) -> Iterator[tuple[AuditEvent, bytes]]:
    """The events of a request body and their original JSON; what cannot be read is left out.

    Args:
        body: a list, an envelope, one event, or newline-delimited records; decompressed. As `data.events.decode_body` takes it.
    """
    sources = Sources()
    sources.limit_unpacking(MAX_UNPACKED_BYTES)
    found = sources.open_list(body)
    if found is not None:
        for event, raw in zip(found.events, found.originals, strict=True):
            yield event, bytes(raw)
        return
    for line in body.splitlines():
        if len(line) > MAX_EVENT_BYTES:
            continue
        try:
            yield decode_event(line), line
        except UNREADABLE:
            opened = sources.open(line) if line.strip() else None
            if opened is not None:
                for event, raw in zip(opened.events, opened.originals, strict=True):
                    yield event, bytes(raw)
