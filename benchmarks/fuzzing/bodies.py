"""Bodies of many mutated wrapped records among untouched ones, and what must hold of them.

The untouched ones must give the events that they give alone, and every line must be read, skipped or lost. In one body of four,
since it takes twice the time, each record must give in company exactly what it gives alone: its events, dead letters and skipped
records, in their order. In one of five a file, a body and the originals of the same bytes must be alike. Every event must become
an action, a stage that was folded or a repeat.
"""

from __future__ import annotations

import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import compress, islice
from typing import Any, NamedTuple

import msgspec

from benchmarks.fuzz_decoders import RECORDINGS, envelopes, mutate
from benchmarks.fuzzing.campaign import BrokenPromiseError, checked, in_time
from benchmarks.fuzzing.mutation import change_values
from benchmarks.wrapped_logs import CONTAINERS, PACKINGS, tar_of, wrapped, zip_of
from data.actions.encoder import ActionEncoder
from data.errors import KubehabitError
from data.events.audit_event import MAX_UNPACKED_BYTES, AuditEvent, Decoded
from data.events.decode import (
    CHUNK_BYTES,
    SMALL_BYTES,
    LogRecords,
    decode_body,
    decode_lines,
    decode_originals,
)
from data.events.formats.json_stream import opens_document
from data.events.formats.reading import AUDIT_GROUP
from data.events.formats.registry import Sources
from data.events.formats.text_lines import is_part
from data.events.packing import Blocks, read_within, unpacked
from data.events.reader import open_lines
from serving.scoring.deduplication import EventDeduplicator

#: After which one record counts as slow: a busy machine takes long now and then.
SLOW_SECONDS = 20.0
#: Share of records that are mutated.
_MUTATED = 0.93
#: Share of bodies whose mutated records are read one by one as well.
_EXACT = 0.25
#: Lists that may be empty: then nothing becomes of a record.
_MAY_BE_EMPTY = re.compile(rb"List|[rR]ecords|items|events")
#: A document that a damaged one leaves open takes the record behind it with it; the ones after that must be found.
_BEHIND = 3
_encode = msgspec.msgpack.Encoder().encode
_IDS = b"f00d-%d-%d"


class Outcome(NamedTuple):
    """What became of the records of some bytes, without where they were."""

    events: list[AuditEvent]
    dead: list[tuple[str, bytes]]
    skipped: Counter[str]

    @property
    def count(self) -> int:
        """Records, as far as they are known."""
        return len(self.events) + len(self.dead) + self.skipped.total()


class Record(NamedTuple):
    """A log of one or a few records, as part of a body; `alone` is what it gives by itself, if that is known."""

    data: bytes
    alone: Outcome | None
    is_mutated: bool


def of_parts(parts: Iterable[Decoded]) -> Outcome:
    """Outcome of decoded parts."""
    whole = Outcome([], [], Counter())
    for part in parts:
        whole.events.extend(part.events)
        whole.dead.extend((letter.reason, bytes(letter.raw)) for letter in part.dead)
        whole.skipped.update(part.skipped)
    return whole


def as_file(data: bytes) -> Outcome:
    """What the reader of files finds."""
    blocks = Blocks(unpacked(io.BufferedReader(io.BytesIO(data))), CHUNK_BYTES, SMALL_BYTES)
    return of_parts(LogRecords(blocks, Sources()).chunks())


def joined(outcomes: Iterable[Outcome]) -> Outcome:
    """All of them, one after the other."""
    whole = Outcome([], [], Counter())
    for one in outcomes:
        whole.events.extend(one.events)
        whole.dead.extend(one.dead)
        whole.skipped.update(one.skipped)
    return whole


def as_body(data: bytes) -> Outcome | None:
    """What the reader of bodies finds; None if it refuses the body, since nothing of it is JSON."""
    try:
        sent = decode_body(data)
    except KubehabitError:
        return None
    assert len(sent.lines) == len(sent.events), "an event has no line"
    assert all(0 <= letter.before <= len(sent.events) for letter in sent.dead), "a loss has no place"
    return of_parts([sent])


def read(data: bytes, way: str) -> Outcome:
    """What is found by the reader of files, of bodies, or by both and the originals, which must agree.

    Args:
        data: the log.
        way: `file`, `body` or `all`.
    """
    if way == "body":
        return as_body(data) or as_file(data)
    found = as_file(data)
    if way == "all":
        sent = as_body(data)
        assert sent == found or (sent is None and not found.events), "a body gives other records than a file"
        if sent is None:
            return found  # a body that is refused has no originals
        originals = list(decode_originals(data))
        assert [event for event, _ in originals] == found.events, "originals are of other events"
        assert all(text for _, text in originals), "an event has no original"
    return found


class Bodies:
    """Makes bodies and checks them; one for a whole run.

    Args:
        seeds: number of events that are mutated.
        untouched: number of events that stay as they are.
        records: of a body.
    """

    def __init__(self, seeds: int = 600, untouched: int = 300, records: int = 400) -> None:
        self._records = records
        count = seeds + untouched
        lines = list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), 4 * count))
        events = [json.loads(line) for line in lines[::4]]
        mutated, kept = events[:seeds], events[seeds:]
        self._texts = [_compact(event) for event in mutated]
        self._fresh = [_compact(event) for event in kept]
        self._plain = [_untouched(text.encode()) for text in self._fresh]
        groups = [mutated[at : at + (1 if at % 4 else 2)] for at in range(0, seeds - 1, 9)]
        made = [(log, _ids_in(log, group)) for group in groups for log in _logs(group)]
        self._data = [log for log, _ in made]
        self._packed = [log for log in self._data if _is_packed(log)]
        self._seeds = [(log, ids) for log, ids in made if not _is_packed(log)]
        logs = [log for at in range(0, untouched - 1, 6) for log in _logs(kept[at : at + 2])]
        self._neighbours = [_untouched(log) for log in logs if not _is_packed(log)]
        self._contained: dict[str, list[Record]] = {}
        self._number = 0

    def play(self, chance: random.Random) -> Counter[str]:
        """One round: a body of one of the kinds. Returns counts of what was fed, and of what became of it."""
        self._number = 0
        kind = chance.choices((self._lines, self._container, self._archive, self._left_open), (62, 24, 9, 5))[
            0
        ]
        return kind(chance)

    def _changed(self, data: bytes, chance: random.Random) -> bytes:
        """A mutation: of values in half of all cases, of bytes in the others, which leave little JSON whole."""
        return change_values(data, chance) if chance.random() < 0.5 else mutate(data, chance, self._data)

    def _mutated(self, chance: random.Random) -> bytes:
        """A mutated log of one wrapper, whose events have IDs of their own."""
        log, ids = chance.choice(self._seeds)
        self._number += 1
        for place, one in enumerate(ids):
            log = log.replace(one, _IDS % (self._number, place))
        data = self._changed(log, chance)
        return data if data.endswith(b"\n") else data + b"\n"

    # -- one after the other ------------------------------------------------------------------------------------

    def _lines(self, chance: random.Random) -> Counter[str]:
        """Records of all wrappers one after the other, each of whole lines that open no document."""
        records = [chance.choice(self._plain)]
        is_exact = chance.random() < _EXACT
        while len(records) < self._records:
            if chance.random() > _MUTATED:
                records.append(chance.choice(self._neighbours))
                continue
            data = self._mutated(chance)
            if not _may_go_on(data):
                records.append(Record(data, _alone(data) if is_exact else None, True))
        packing, way = chance.choice((*PACKINGS, *[""] * len(PACKINGS))), _way(chance)

        def check(some: list[Record]) -> Counter[str]:
            found = read(_packed(b"".join(record.data for record in some), packing), way)
            if is_exact:
                _assert_same(found, joined(record.alone for record in some if record.alone is not None))
            else:
                _assert_held(found, some)
                _assert_whole(found, some)
            return _sum(found)

        return _counted(records, check, f"lines, {packing or 'plain'}")

    # -- documents of many texts --------------------------------------------------------------------------------

    def _container(self, chance: random.Random) -> Counter[str]:
        """One document that holds each record as a text."""
        name = chance.choice(list(CONTAINERS))
        make, packing, way = CONTAINERS[name], chance.choice(("", "", "gzip", "zstd")), _way(chance)
        is_exact = chance.random() < _EXACT
        untouched = self._plain_in(name)
        records = [untouched[0]]
        while len(records) < self._records:
            if chance.random() > _MUTATED:
                records.append(chance.choice(untouched))
                continue
            self._number += 1
            text = self._changed(chance.choice(self._texts).encode(), chance).decode("utf-8", "replace")
            text = text.replace('"auditID":"', f'"auditID":"{self._number}-', 1)
            records.append(Record(text.encode(), as_file(make([text])) if is_exact else None, True))

        def check(some: list[Record]) -> Counter[str]:
            data = make([record.data.decode().removesuffix("\n") for record in some])
            found = read(_packed(data, packing), way)
            if is_exact:
                alone = [record.alone.events for record in some if record.alone is not None]
                _assert_same_events(found.events, [event for events in alone for event in events])
                # By others it is known to be a log: what is none of its records is lost then, not all of it, for other reasons.
                silent, losses = alone.count([]), len(found.dead) + found.skipped.total()
                assert losses >= silent or len(some) == 1, (
                    f"{silent} records gave no event, {losses} were lost or skipped"
                )
            else:
                _assert_held(found, some)
                assert found.count >= len(some), (
                    f"{found.count} of {len(some)} records were read, skipped or lost"
                )
            return _sum(found)

        return _counted(records, check, f"in {name}")

    def _plain_in(self, name: str) -> list[Record]:
        """Plain events, with what they give alone in a container."""
        if name not in self._contained:
            pairs = zip(self._plain, self._fresh, strict=True)
            self._contained[name] = [
                one._replace(alone=as_file(CONTAINERS[name]([text]))) for one, text in pairs
            ]
        return self._contained[name]

    # -- archives -----------------------------------------------------------------------------------------------

    def _archive(self, chance: random.Random) -> Counter[str]:
        """An archive of packed logs, of some of which the packed bytes were mutated: the files beside them are read."""
        make, way = chance.choice((tar_of, zip_of)), _way(chance)
        members: list[Record] = []
        while len(members) < self._records // 2:
            plain, packing = chance.choice(self._plain), chance.choice(list(PACKINGS))
            if chance.random() > _MUTATED:
                members.append(plain._replace(data=PACKINGS[packing](plain.data)))
                continue
            whole = chance.random() < 0.5
            data = (
                chance.choice(self._packed)
                if whole
                else PACKINGS[packing](chance.choice(self._texts).encode())
            )
            data = mutate(data, chance, self._data)
            if not _may_go_on(_text_of(data)):
                members.append(Record(data, None, True))

        def check(some: list[Record]) -> Counter[str]:
            found = read(make([(f"{place:04}.log", record.data) for place, record in enumerate(some)]), way)
            _assert_held(found, some)
            return _sum(found)

        return _counted(members, check, "archive")

    # -- what is left open --------------------------------------------------------------------------------------

    def _left_open(self, chance: random.Random) -> Counter[str]:
        """Documents over several lines and parts of lines, mutated, so that they may not end: of what follows one may be lost."""
        parts: list[tuple[bytes, list[Record]]] = []
        way = _way(chance)
        while len(parts) < self._records // 4:
            data = self._mutated(chance)
            if _may_go_on(data):
                at = chance.randrange(len(self._plain) - _BEHIND)
                parts.append((data, self._plain[at : at + _BEHIND]))

        def check(some: list[tuple[bytes, list[Record]]]) -> Counter[str]:
            found = read(b"".join(part + b"".join(one.data for one in behind) for part, behind in some), way)
            _assert_held(found, [one for _, behind in some for one in behind[1:]])
            return _sum(found)

        counts = checked(parts, check, "left open", lambda part: part[0])
        counts["inputs, left open"] += len(parts)
        return counts


def _untouched(log: bytes) -> Record:
    data = log if log.endswith(b"\n") else log + b"\n"
    alone = as_file(data)
    assert alone.count
    return Record(data, alone, False)


def _alone(data: bytes) -> Outcome:
    """What lines give by themselves; raises BrokenPromiseError if that takes long, or nothing says what became of them."""
    with in_time(data, SLOW_SECONDS):
        alone = of_parts([decode_lines(data.removesuffix(b"\n").split(b"\n"))])
    if not alone.count and not _MAY_BE_EMPTY.search(data) and AUDIT_GROUP.search(data):
        raise BrokenPromiseError("what names audit events is neither read nor lost", [data])
    return alone


def _way(chance: random.Random) -> str:
    return chance.choices(("file", "body", "all"), (2, 2, 1))[0]


def _packed(log: bytes, packing: str) -> bytes:
    """A log in a packing; in gzip if it is not UTF-8 and its encoding were another."""
    try:
        return PACKINGS[packing](log) if packing else log
    except UnicodeDecodeError:
        return PACKINGS["gzip"](log)


def _counted(records: list[Record], check: Callable[[list[Record]], Counter[str]], kind: str) -> Counter[str]:
    """As `checked`; untouched records are no inputs."""
    counts = checked(records, check, kind, lambda record: record.data)
    inputs = sum(record.is_mutated for record in records)
    counts.update(
        {"inputs": inputs - len(records), f"inputs, {kind}": inputs, "neighbours": len(records) - inputs}
    )
    return counts


def _sum(found: Outcome) -> Counter[str]:
    """Count what became of what was found; raises AssertionError unless that adds up."""
    first = EventDeduplicator(2 * len(found.events) + 16, bytes(16)).first(found.events)
    batch = ActionEncoder().encode(list(compress(found.events, first)))
    counts = Counter(
        {
            "actions": len(batch),
            "folded": len(batch.folded),
            "dropped": len(batch.dropped),
            "repeats": first.count(False),
            "skipped": found.skipped.total(),
            "dead letters": len(found.dead),
        }
    )
    assert counts.total() == found.count, f"the sum of {dict(counts)} is not {found.count}"
    return counts


def _compact(event: dict[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":"))


def _logs(events: list[dict[str, Any]]) -> list[bytes]:
    """Some events in every wrapper. No entry of GKE's is a first one: what follows it would take its time."""
    logs = [*envelopes(events), *wrapped(events)]
    return [log.replace(b',"first":true', b"").replace(b',\n   "first": true', b"") for log in logs]


def _ids_in(log: bytes, events: list[dict[str, Any]]) -> list[bytes]:
    return [one for one in (event["auditID"].encode() for event in events) if one in log]


def _is_packed(log: bytes) -> bool:
    return b"\0" in log or log.startswith((b"BZh", b"\xfd7zXZ", b"\xef\xbb\xbf"))


def _may_go_on(data: bytes) -> bool:
    """Whether what follows some lines may be read otherwise for them."""
    return any(is_part(line) or opens_document(line) for line in data.split(b"\n"))


def _text_of(packed: bytes) -> bytes:
    """What can be read of a packed log."""
    return read_within(unpacked(io.BufferedReader(io.BytesIO(packed))), MAX_UNPACKED_BYTES)[0]


def _assert_held(found: Outcome, records: Iterable[Record]) -> None:
    """The events of untouched records are found, and are what they are alone."""
    known = [record.alone.events for record in records if record.alone is not None and not record.is_mutated]
    wanted = Counter(_encode(event) for events in known for event in events)
    missing = wanted - Counter(map(_encode, found.events))
    assert not missing, f"events that nothing happened to are missing: {[one[:300] for one in missing][:3]}"


def _assert_whole(found: Outcome, records: Iterable[Record]) -> None:
    """Every line is read, skipped or lost, unless it may be an empty list."""
    count = 0
    for record in records:
        if record.alone is not None:
            count += record.alone.count
        else:
            lines = record.data.split(b"\n")
            count += sum(bool(line.strip()) and not _MAY_BE_EMPTY.search(line) for line in lines)
    assert found.count >= count, f"{found.count} of {count} records were read, skipped or lost"


def _assert_same(found: Outcome, expected: Outcome) -> None:
    _assert_same_events(found.events, expected.events)
    assert found.dead == expected.dead, f"other losses: {_first_difference(found.dead, expected.dead)}"
    assert found.skipped == expected.skipped, f"other records skipped: {found.skipped} for {expected.skipped}"


def _assert_same_events(found: list[AuditEvent], expected: list[AuditEvent]) -> None:
    assert found == expected, f"other events: {_first_difference(found, expected)}"


def _first_difference(found: Sequence[object], expected: Sequence[object]) -> str:
    pairs = zip([*found, None], [*expected, None], strict=False)
    return next((f"{one} for {other}"[:1500] for one, other in pairs if one != other), "")
