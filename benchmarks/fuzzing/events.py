"""Fuzzed events among untouched ones, hundreds in one body, through all that meets an event before it is scored.

Each is decoded, its principal, traits and other fields are encoded, and what the event store keeps of it is made, without its
secrets. The untouched events of the body must be decoded and encoded as they are without the fuzzed ones.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from benchmarks.fuzz_decoders import RECORDINGS, mutate
from benchmarks.fuzzing.bodies import SLOW_SECONDS, read
from benchmarks.fuzzing.campaign import checked, in_time
from benchmarks.fuzzing.mutation import change_values
from data.actions.breadth import ReadTracker
from data.actions.encoder import ActionBatch, ActionEncoder, ActionSettings
from data.actions.fields import STATIC_FIELDS
from data.actions.stage_folding import StageFolder
from data.events.audit_event import UNREADABLE, AuditEvent, decode_event
from data.events.reader import open_lines
from data.paths import shipped
from data.principals.identity import Identity
from data.principals.ownership import OwnerTracker
from serving.forensics.records import content_of, record_of
from serving.forensics.redaction import redact

#: Untouched events of a body.
_UNTOUCHED = 100
_BLOCKS = 20
#: Share of fuzzed events with a body, which are one in eight of the recording.
_WITH_BODY = 0.4
_ID = b'"fuzzed"'
#: Rounds after which what an encoder remembers of values is forgotten.
_ENCODER_ROUNDS = 50
_SECRET = b"hunter2-Zq81xK0v"
_PLANTED = (
    b',"responseObject":{"password":"'
    + _SECRET
    + b'","url":"https://a:'
    + _SECRET
    + b'@b/","env":[{"name":"A","value":"'
    + _SECRET
    + b'"}]}}'
)
_KEY = bytes(32)
#: One event in so many is given secrets: looking for them takes ten times as long where there are any.
_EVERY_SECRET = 10
_ANY_JSON = msgspec.json.Decoder(msgspec.Raw)


class Block(NamedTuple):
    """Untouched events, and what they become by themselves."""

    lines: list[bytes]
    events: list[AuditEvent]
    actions: list[tuple[Any, ...]]


class FuzzedEvents:
    """Makes bodies with fuzzed events and checks them; one for a whole run.

    Args:
        fuzzed: number of fuzzed events of a body.
    """

    def __init__(self, fuzzed: int = 900) -> None:
        self._count = fuzzed
        lines = list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), _BLOCKS * _UNTOUCHED))
        self._settings = ActionSettings.from_dict(shipped("actions.yaml"))
        self._identity = Identity(self._settings.identity)
        self._encoder = ActionEncoder(self._settings)
        self._rounds = 0
        self._blocks = [self._block(lines[at : at + _UNTOUCHED]) for at in range(0, len(lines), _UNTOUCHED)]
        self._seeds = [_seed(line) for line in lines]
        self._with_body = [line for line in self._seeds if b'"requestObject"' in line]

    def _block(self, lines: list[bytes]) -> Block:
        events = [decode_event(line) for line in lines]
        return Block(
            lines, events, self._actions(self._encode(events), events, {event.auditID for event in events})
        )

    def _encode(self, events: Sequence[AuditEvent]) -> ActionBatch:
        """Encode events as the first of a stream; what is remembered of raw values stays."""
        self._encoder.restore(StageFolder(), OwnerTracker(), ReadTracker())
        return self._encoder.encode(events)

    def _actions(
        self, batch: ActionBatch, events: Sequence[AuditEvent], wanted: set[str]
    ) -> list[tuple[Any, ...]]:
        """The actions of some events as their values."""
        interners = [(self._encoder.interners[name].values, batch.codes[name]) for name in STATIC_FIELDS]
        found = []
        for row, place in enumerate(batch.event.tolist()):
            if events[place].auditID in wanted:
                values = [names[codes[row]] for names, codes in interners]
                found.append(
                    (
                        events[place].auditID,
                        batch.principals[batch.principal[row]].name,
                        *values,
                        batch.time[row].item(),
                    )
                )
        return found

    def play(self, chance: random.Random) -> Counter[str]:
        """One round. Returns how many events each function was given, and what became of them."""
        self._rounds += 1
        if self._rounds % _ENCODER_ROUNDS == 0:
            self._encoder = ActionEncoder(self._settings)
        block = chance.choice(self._blocks)
        listed = chance.random() < 0.3
        fuzzed = [self._fuzzed(chance, number, listed) for number in range(self._count)]
        places = sorted(chance.choices(range(self._count), k=_UNTOUCHED))
        way = chance.choices(("file", "body", "all"), (2, 7, 1))[0]

        def check(some: list[bytes]) -> Counter[str]:
            counts = self._read(block, some, places, listed, way)
            counts.update(self._kept(some))
            return counts

        return checked(fuzzed, check, "fuzzed events", lambda line: line)

    def _fuzzed(self, chance: random.Random, number: int, whole: bool) -> bytes:
        """An event of an attacker on one line, with an ID of its own; JSON if it is to be `whole`."""
        while True:
            line = chance.choice(self._with_body if chance.random() < _WITH_BODY else self._seeds)
            line = line.replace(_ID, b'"fuzzed-%d"' % number, 1)
            if whole or chance.random() < 0.7:
                line = change_values(line, chance)
            else:
                line = mutate(line, chance, self._seeds).replace(b"\n", b" ")
            if line.strip() and not (whole and not _is_json(line)):
                return line

    def _read(
        self, block: Block, fuzzed: list[bytes], places: list[int], listed: bool, way: str
    ) -> Counter[str]:
        """Decode and encode a body of untouched events and fuzzed ones."""
        lines = list(fuzzed)
        for number, (line, place) in enumerate(zip(block.lines, places, strict=True)):
            lines.insert(min(place, len(fuzzed)) + number, line)
        body = b"\n".join(lines)
        if listed:
            body = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[' + b",".join(lines) + b"]}"
        found = read(body, way)
        records = found.count
        assert records >= len(lines), f"{records} of {len(lines)} events were read, lost or skipped"
        wanted = {event.auditID for event in block.events}
        untouched = [event for event in found.events if event.auditID in wanted]
        assert untouched == block.events, "untouched events were decoded otherwise"
        batch = self._encode(found.events)
        encoded = len(batch) + len(batch.folded) + len(batch.dropped)
        assert encoded == len(found.events), f"{encoded} of {len(found.events)} events were encoded"
        assert self._actions(batch, found.events, wanted) == block.actions, (
            "untouched events became other actions"
        )
        return Counter(
            {
                "decoded": len(fuzzed),
                "encoded": len(found.events) - len(untouched),
                "dead letters": len(found.dead),
            }
        )

    def _kept(self, fuzzed: list[bytes]) -> Counter[str]:
        """Make what the event store keeps of fuzzed events; redact what is none. Some have secrets."""
        counts: Counter[str] = Counter()
        for number, line in enumerate(fuzzed):
            has_secret = number % _EVERY_SECRET == 0 and line.endswith(b"}") and _is_json(line)
            raw = line[:-1] + _PLANTED if has_secret else line
            with in_time(raw, SLOW_SECONDS):
                kept = self._record(raw)
                text = redact(raw).text if kept is None or has_secret else kept
            counts["redacted"] += 1
            counts["recorded"] += kept is not None
            counts["secrets"] += has_secret
            assert kept is None or _is_json(text), "redaction leaves no JSON"
            assert not has_secret or (_SECRET not in text and _SECRET not in (kept or b"")), (
                "a secret is left"
            )
        return counts

    def _record(self, raw: bytes) -> bytes | None:
        """What is kept of an event; None for what is none."""
        try:
            event = decode_event(raw)
        except UNREADABLE:
            return None
        record = record_of(
            event, raw, number=0, time=0, received=0, alert="", identity=self._identity, key=_KEY
        )
        assert content_of(record)
        return record.event.encode()


def _seed(line: bytes) -> bytes:
    """An event to fuzz, of another object than any untouched one: who writes an object may become the owner of others."""
    event = json.loads(line)
    event["auditID"] = "fuzzed"
    if event.get("objectRef"):
        name = event["objectRef"].get("name", "")
        event["objectRef"]["name"] = f"fuzzed-{name}"
        # Where that is damaged, the name is read from the path or the body.
        if name:
            event["requestURI"] = event["requestURI"].replace(f"/{name}", f"/fuzzed-{name}")
        for part in ("requestObject", "responseObject"):
            metadata = (event.get(part) or {}).get("metadata") or {}
            metadata |= {
                key: f"fuzzed-{metadata[key]}" for key in ("name", "generateName") if key in metadata
            }
    return json.dumps(event, separators=(",", ":")).encode()


def _is_json(line: bytes) -> bool:
    try:
        line.decode()
        _ANY_JSON.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
