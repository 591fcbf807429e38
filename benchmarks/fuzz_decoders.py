"""Feeds mutated real events to the readers (decoders, formats, document splitter) and the encoder, and watches the memory.

With `--report` the figures of each piece of 50,000 mutations are kept, and a run that was ended goes on with the pieces that are
missing. `python -m benchmarks.fuzz` lets coverage guide the search, and fuzzes more than the readers; `benchmarks.fuzz_wrapped`
and `fuzz_events` put hundreds of mutations into one body.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import io
import json
import random
import resource
import sys
import time
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.wrapped_logs import wrapped
from data.actions.encoder import ActionEncoder
from data.errors import KubehabitError
from data.events.audit_event import Decoded
from data.events.decode import (
    CHUNK_BYTES,
    SMALL_BYTES,
    LogRecords,
    decode_body,
    decode_lines,
    decode_numbered,
    decode_originals,
)
from data.events.formats.json_stream import Documents
from data.events.formats.reading import AUDIT_GROUP
from data.events.formats.registry import Sources
from data.events.formats.text_lines import is_part
from data.events.packing import Blocks, unpacked
from data.events.reader import open_lines

RECORDINGS = Path(__file__).resolve().parent.parent / "data" / "recordings"
#: An input of some KB that takes longer, in time of the processor, is counted as a hang.
SLOW_SECONDS = 5.0
#: Mutations of one piece of a run that can go on where it was ended.
PIECE = 50_000
_ENCODER_INPUTS = 10_000
_READ_ALIKE = 3
_TOKENS = [
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\n", b"\r\n", b"\0", b"\xff", b"null", b"true", b"-1", b"1e999"),
    *(b'"items":[', b'"records":[', b'"events":[', b'"logEvents":[', b'"protoPayload":{', b'"properties":{"log":'),
    *(b'"message":"', b'"data":"', b'"awslogs":{', b'"kind":"EventList"', b'"apiVersion":"audit.k8s.io/v1beta1"'),
    *(b"2026-01-05T09:30:00Z ", b"node-1 ", b"9" * 30, b"\\u0000", b"\\ud800", b"}{", b"\x1f\x8b", b"H4sIAAAA"),
]  # fmt: skip


class Target:
    """Feeds one input to all readers and checks what must always hold."""

    def __init__(self) -> None:
        self.inputs = 0
        self.events = 0
        self.dead = 0
        self.slowest = 0.0
        self._encoder = ActionEncoder()

    def __call__(self, data: bytes) -> None:
        """Raises whatever a reader raises that it must not, and AssertionError if a record got lost."""
        begin = time.process_time()
        decoded = self._read_apart(data)
        if self.inputs % _READ_ALIKE == 0:  # which takes as long as all the rest
            self._read_alike(data)
        batch = self._encoder.encode(decoded.events)
        assert len(batch) + len(batch.folded) == len(decoded.events)
        self.inputs += 1
        if self.inputs % _ENCODER_INPUTS == 0:  # it remembers requests on purpose, within bounds of its own
            self._encoder = ActionEncoder()
        self.events += len(decoded.events)
        self.dead += len(decoded.dead)
        self.slowest = max(self.slowest, time.process_time() - begin)
        assert self.slowest < SLOW_SECONDS, f"took {self.slowest:.1f} s"

    def _read_apart(self, data: bytes) -> Decoded:
        """Read lines, and documents wherever their bytes are cut."""
        lines = data.split(b"\n")
        decoded = decode_lines(lines, 7)
        self._account(decoded)
        spoken_for = set(decoded.lines) | {letter.line for letter in decoded.dead}
        if not decoded.skipped:
            for number, line in enumerate(lines, 7):
                # A list may be empty, also behind a byte order mark; anything else that is not blank must show up somewhere.
                # A part of a container's line is counted with its last one.
                begin = line.removeprefix(BOM_UTF8).lstrip()[:1]
                accounted = number in spoken_for or begin in (b"[", b"{") or is_part(line)
                assert not line.strip() or accounted, line[:80]
        whole, cut = self._documents(data, len(data) or 1), self._documents(data, 61)
        assert whole == cut, "where the bytes are cut changes the records"
        self._account(decode_numbered(whole))
        return decoded

    def _read_alike(self, data: bytes) -> Decoded:
        """A file and a body of the same bytes give the same, and what is kept with the events is theirs; what a file gives."""
        found = _as_file(data)
        if AUDIT_GROUP.search(data) and b"List" not in data:  # a list may be empty
            assert found.events or found.dead, "what names audit events is neither read nor lost"
        try:
            sent = decode_body(data)
        except KubehabitError:  # empty, or nothing of it is JSON
            assert not found.events, "a body is refused whose file has events"
            return found
        self._account(sent)
        assert sent.events == found.events, "a body has other events than a file"
        lost = [[(letter.reason, letter.raw, letter.before) for letter in one.dead] for one in (sent, found)]
        assert lost[0] == lost[1], "a body has other losses than a file"
        assert sent.skipped == found.skipped, "of a body other records are skipped than of a file"
        assert all(letter.before <= len(sent.events) for letter in sent.dead)
        assert [event for event, _ in decode_originals(data)] == sent.events, "originals are of other events"
        return found

    @staticmethod
    def _account(decoded: Decoded) -> None:
        assert len(decoded.events) == len(decoded.lines)
        assert all(letter.reason for letter in decoded.dead)
        assert all(event.auditID for event in decoded.events)

    @staticmethod
    def _documents(data: bytes, size: int) -> list[tuple[int, bytes]]:
        splitter = Documents(1)
        found: list[tuple[int, bytes]] = []
        for at in range(0, len(data), size):
            if splitter.finished:
                break
            found += splitter.feed(data[at : at + size])
        if not splitter.finished:
            found += splitter.end()
        return found


def _as_file(data: bytes) -> Decoded:
    """All that the reader of files finds in some bytes."""
    blocks = Blocks(unpacked(io.BufferedReader(io.BytesIO(data))), CHUNK_BYTES, SMALL_BYTES)
    whole, skipped = Decoded([], [], []), Counter[str]()
    for part in LogRecords(blocks, Sources()).chunks():
        before = len(whole.events)
        whole.dead.extend(replace(letter, before=letter.before + before) for letter in part.dead)
        whole.events.extend(part.events)
        skipped.update(part.skipped)
    return whole._replace(skipped=skipped)


def mutate(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """One to four random changes: bits, bytes, tokens, cuts, repeats, and pieces of other inputs."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        span = chance.choice((1, 2, 8, 64, 400))
        kind = chance.randrange(8)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = chance.randrange(256)
        elif kind == 2:
            del changed[at : at + span]
        elif kind == 3:
            changed[at:at] = chance.choice(_TOKENS)
        elif kind == 4:
            changed[at:at] = changed[at : at + span]
        elif kind == 5:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            changed[at : at + chance.choice((0, span))] = other[begin : begin + span]
        elif kind == 6:
            del changed[at:]
        else:
            changed[at : at + span] = chance.choice(_TOKENS)
    return bytes(changed)


def envelopes(events: list[dict[str, Any]]) -> list[bytes]:
    """Seeds: each format around a few real events."""
    import base64

    def text(value: object) -> str:
        return json.dumps(value, separators=(",", ":"))

    messages = [{"id": str(i), "timestamp": 1, "message": text(event)} for i, event in enumerate(events)]
    subscription = {
        "messageType": "DATA_MESSAGE",
        "owner": "1",
        "logGroup": "/aws/eks/c/cluster",
        "logEvents": messages,
    }
    packed = {
        "awslogs": {"data": base64.b64encode(gzip.compress(text(subscription).encode(), mtime=0)).decode()}
    }
    listed = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": events}
    azure = [
        {"category": "kube-audit", "resourceId": "/a", "properties": {"log": text(event)}} for event in events
    ]
    google = [
        {
            "insertId": event["auditID"],
            "timestamp": event["stageTimestamp"],
            "operation": {"id": event["auditID"], "producer": "k8s.io", "first": True},
            "labels": event.get("annotations", {}),
            "resource": {"labels": {"cluster_name": "c", "location": "l", "project_id": "p"}},
            "protoPayload": {
                "serviceName": "k8s.io",
                "methodName": f"io.k8s.core.v1.pods.exec.{event['verb']}",
                "resourceName": "core/v1/namespaces/n/pods/p/exec",
                "authenticationInfo": {"principalEmail": "a", "authoritySelector": "b"},
                "authorizationInfo": [{"granted": True}],
                "requestMetadata": {"callerIp": "10.0.0.1", "callerSuppliedUserAgent": "kubectl"},
                "status": {"code": 7},
                "request": {"@type": "k8s.io/Patch", "value": [{"op": "add", "path": "/a", "value": 1}]},
                "response": {"@type": "core.k8s.io/v1.Status", "kind": "Status", "code": 403},
            },
        }
        for event in events
    ]
    return [
        text(subscription).encode() * 2,
        text(packed).encode(),
        text(listed).encode(),
        json.dumps(listed, indent=1).encode(),
        text({"records": azure}).encode(),
        b"\n".join(text(record).encode() for record in azure),
        b"\n".join(text(entry).encode() for entry in google),
        json.dumps(google, indent=2).encode(),
        text({"message": {"data": base64.b64encode(text(google[0]).encode()).decode()}}).encode(),
        b"\n".join(b"2026-01-05T09:30:00.000Z " + text(event).encode() for event in events),
        b"node-1 " + text(events[0]).encode(),
    ]


def poisons(good: dict[str, Any]) -> list[dict[str, Any]]:
    """Events that an attacker would write to stop or blind what reads the log; each is JSON."""
    generated = "system:serviceaccount:x:a" + "-22222222" * 25 + "!"
    texts = [
        generated,
        "a" * 900_000,
        "-2222222" * 100_000,
        "\\" * 100_000,
        "\0",
        "\u202e",
        "\u20ac" * 50_000,
        '"' * 9000,
    ]
    texts += [
        "/a" * 200_000,
        "?a=" * 200_000,
        "eyJ" * 100_000,
        "%" * 100_000,
        "*-" * 100_000,
        " " * 100_000,
        "\n",
    ]
    times = [
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-12:00",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
    ]
    deep: Any = "x"
    for _ in range(200):
        deep = {"containers": [deep]}
    changes: list[dict[str, Any]] = [
        {"requestReceivedTimestamp": moment, "stageTimestamp": moment} for moment in times
    ]
    for text in texts:
        changes += [
            {"requestURI": text},
            {"requestURI": f"/api/v1/pods?{text}={text}", "objectRef": None},
            {"userAgent": text},
            {"verb": text},
            {"auditID": text},
            {"user": {"username": text, "groups": [text]}},
            {"impersonatedUser": {"username": text}},
            {"sourceIPs": [text] * 3},
            {
                "objectRef": {
                    "resource": text,
                    "namespace": text,
                    "name": text,
                    "subresource": text,
                    "apiGroup": text,
                }
            },
            {
                "annotations": {
                    "authorization.k8s.io/reason": f'by RoleBinding "{text}',
                    "authorization.k8s.io/decision": text,
                }
            },
        ]
    pods = {"resource": "pods", "namespace": "n", "name": "x"}
    bodies = [
        deep,
        {"spec": {"containers": [{"image": texts[1], "resources": {"limits": {"cpu": 1.7e308}}}] * 3}},
    ]
    bodies.append({"metadata": {"ownerReferences": [{"kind": texts[1], "name": "x"}]}})
    bodies.append([{"op": "add", "path": "/a" * 50_000, "value": deep}])
    changes += [{"verb": "create", "objectRef": pods, "requestObject": body} for body in bodies]
    changes += [{"responseStatus": {"code": code}} for code in (-(2**63), 2**63)]
    changes.append({"user": {"groups": ["g"] * 100_000}})
    return [good | change for change in changes]


def seeds(count: int) -> list[bytes]:
    """Real events, plain and wrapped."""
    lines = list(islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), count))
    plain = [json.loads(line) for line in lines]
    few = [plain[i : i + 3] for i in range(0, min(count, 400), 40)]
    return [*lines, *(seed for events in few for seed in [*envelopes(events), *wrapped(events)])]


def mutations(count: int, seed: int) -> Iterator[bytes]:
    """Mutated seeds, the same for the same `seed`."""
    chance = random.Random(seed)
    pool = seeds(20_000 if count > 100_000 else 2_000)
    for _ in range(count):
        yield mutate(chance.choice(pool), chance, pool)


def resident_mb() -> float:
    """Memory in use now, without what waits to be collected."""
    gc.collect()
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_mutations(count: int, seed: int, say: Callable[[str], None]) -> dict[str, float]:
    """Feed mutated real events; returns executions, crashes, slowest input in seconds, and growth of memory in MB."""
    target, crashes, settled, begin = Target(), 0, 0.0, time.monotonic()
    for number, data in enumerate(mutations(count, seed), 1):
        try:
            target(data)
        except Exception as error:
            crashes += 1
            say(f"CRASH {type(error).__name__}: {error}: {data[:2000]!r}")
        if number == max(count // 10, 1):
            settled = resident_mb()
        if number % max(count // 20, 1) == 0:
            rate = number / (time.monotonic() - begin)
            say(
                f"{number:,} inputs, {rate:,.0f}/s, {crashes} crashes, {resident_mb():.0f} MB, slowest {target.slowest:.2f} s"
            )
    return {
        "executions": target.inputs + crashes,
        "crashes": crashes,
        "events": target.events,
        "dead_letters": target.dead,
        "slowest_s": target.slowest,
        "rss_growth_mb": resident_mb() - settled,
    }


def run_pieces(count: int, seed: int, say: Callable[[str], None], report: Path) -> dict[str, float]:
    """As `run_mutations`, a piece with its own seed at a time; `report` holds the figures of those that are done."""
    done: dict[str, dict[str, float]] = json.loads(report.read_text()) if report.exists() else {}
    for number in range(-(-count // PIECE)):
        name = f"all {seed + number}"
        if name in done:
            continue
        size = min(PIECE, count - number * PIECE)
        done[name] = run_mutations(size, seed + number, say)
        draft = report.with_name(f"{report.name}.part")
        draft.write_text(json.dumps(done, indent=1))
        draft.replace(report)
    return {
        name: (max if name == "slowest_s" else sum)(piece[name] for piece in done.values())
        for name in ("executions", "crashes", "events", "dead_letters", "slowest_s")
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=1_000_000, help="how many mutated real events")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument(
        "--report", type=Path, help="file with the figures of pieces; goes on with those missing"
    )
    options = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)

    run = run_mutations if options.report is None else partial(run_pieces, report=options.report)
    figures = run(options.mutations, options.seed, say)
    print(json.dumps(figures))
    sys.exit(bool(figures["crashes"]))


if __name__ == "__main__":
    main()
