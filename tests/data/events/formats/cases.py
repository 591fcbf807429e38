"""Reading a log in every way: as a file and as a body, with what is known of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from data.actions.encoder import ActionEncoder, ActionSettings
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent, DeadLetter
from data.events.decode import decode_body, decode_originals
from data.events.formats.foreign import NO_JSON
from data.events.formats.registry import Sources
from data.events.reader import read_events
from data.paths import shipped

FOLDER = Path(__file__).parents[3] / "fixtures" / "cases"
SETTINGS = ActionSettings.from_dict(shipped("actions.yaml"))


class Found(NamedTuple):
    """What was in a log."""

    events: list[AuditEvent]
    dead: list[DeadLetter]
    skipped: Counter[str]
    formats: dict[str, int]

    @property
    def losses(self) -> list[tuple[str, bytes, int]]:
        return [(letter.reason, letter.raw, letter.before) for letter in self.dead]

    @property
    def records(self) -> int:
        return len(self.events) + len(self.dead) + self.skipped.total()


class Kept:
    """Dead letters in memory."""

    def __init__(self) -> None:
        self.letters: list[DeadLetter] = []

    def add(self, source: str, letter: DeadLetter) -> None:
        self.letters.append(letter)


def read_file(path: Path) -> Found:
    kept, skipped, sources = Kept(), Counter[str](), Sources()
    events = [
        event
        for chunk in read_events(path, kept, sources=sources, on_skipped=skipped.update)
        for event in chunk
    ]
    return Found(events, kept.letters, skipped, dict(sources.records))


def read_body(content: bytes) -> Found | KubehabitError:
    sources = Sources()
    try:
        decoded = decode_body(content, sources)
    except KubehabitError as error:
        return error
    # Sources given or not, with originals or without: one reader.
    plain = decode_body(content)
    assert [plain.events, plain.dead, plain.skipped] == [decoded.events, decoded.dead, decoded.skipped]
    assert [event for event, _ in decode_originals(content)] == decoded.events
    assert len(decoded.lines) == len(decoded.events)
    return Found(decoded.events, decoded.dead, Counter(decoded.skipped), dict(sources.records))


def actions_of(events: list[AuditEvent]) -> list[tuple[object, ...]]:
    """The actions of events, each by all its fields and its principal."""
    encoder = ActionEncoder(SETTINGS)
    batch = encoder.encode(events)
    columns = [[encoder.interners[name].values[code] for code in batch.codes[name]] for name in batch.codes]
    names = [encoder.principals[place] for place in batch.principal]
    return list(zip(batch.event.tolist(), batch.time.tolist(), names, *columns, strict=True))


def read_alike(path: Path) -> Found:
    """What is in a log, read as a file; the same, sent as a body, has to be the same."""
    found = read_file(path)
    sent = read_body(path.read_bytes())
    if isinstance(sent, KubehabitError):  # a body of which nothing is JSON is refused as a whole
        assert found.events == []
        assert all(letter.reason.startswith((*NO_JSON, "compressed stream")) for letter in found.dead)
        return found
    assert sent.events == found.events
    assert [loss[:2] for loss in sent.losses] == [loss[:2] for loss in found.losses]
    assert sent.skipped == found.skipped
    assert actions_of(sent.events) == actions_of(found.events)
    assert sent.formats == found.formats
    return found
