"""First inputs of each target, from the shipped recordings and from the values that the code looks for.

`python -m benchmarks.fuzzing.seeds FOLDER` writes them to `FOLDER/TARGET`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.fuzz_decoders import RECORDINGS, envelopes, poisons
from data.events.reader import open_lines

_EVENTS = 3_000
_SHOWN = 4_000


def events() -> list[dict[str, Any]]:
    """Real events, of which no two have the same verb and resource."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for line in islice(open_lines(RECORDINGS / "labelled.jsonl.zst"), _EVENTS):
        event = json.loads(line)
        ref = event.get("objectRef") or {}
        found.setdefault((event["verb"], ref.get("resource", ""), ref.get("subresource", "")), event)
    return list(found.values())


def evidence() -> list[bytes]:
    """A file of evidence of a small store, and a line of its ledger."""
    from serving.forensics.event_store import EventStore
    from serving.forensics.evidence.export import Subject, export
    from serving.forensics.queries import EventQueries
    from serving.settings import EventSettings

    with TemporaryDirectory() as folder:
        store = EventStore(EventSettings(path=Path(folder)))
        one = events()[0]
        store.append(json.dumps(one).encode())
        store.seal()
        queries = EventQueries(Path(folder), memory_mb=512, seconds=60)
        made = export(queries, store.ledger, Subject(audit_ids=(one["auditID"],)), by="fuzz")
        line = (Path(folder) / "ledger.jsonl").read_bytes().splitlines()[1]
        store.close()
    return [made, line]


def seeds() -> Iterator[tuple[str, bytes]]:
    """(target, input)."""
    real = events()
    texts = {
        text
        for event in real
        for text in (event["user"]["username"], event.get("userAgent", ""), event["requestURI"])
    }
    for event in real:
        yield "readers", json.dumps(event).encode()
        body = event.get("requestObject")
        if body:
            raw = json.dumps(body, separators=(",", ":")).encode()
            yield "redaction", raw
            for kind in range(0, 60, 7):
                yield "traits", bytes([kind]) + raw
        for kind in (0, 1, 2, 3, 4, 255):
            yield "wrapped", bytes([kind]) + json.dumps(event).encode()
        yield "principals", "\n".join([event["user"]["username"], *event["user"].get("groups", [])]).encode()
        yield "times", event["requestReceivedTimestamp"].encode()
        name = (event.get("objectRef") or {}).get("name", "")
        yield "folding", name.encode()
    for wrapped in envelopes(real[:3]):
        yield "readers", wrapped
    for text in texts:
        for target in ("folding", "text", "principals"):
            yield target, text.encode()
    for poison in poisons(real[0]):
        raw = json.dumps(poison).encode()
        if len(raw) < _SHOWN:
            yield "readers", raw
    for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-12:00", "2024-02-29T23:59:59.1Z"):
        yield "times", moment.encode()
    for query in (
        "since=7d&until=14:02&code=4xx&resource=pods/exec&limit=5",
        "7d",
        "403",
        "2026-11-24",
        "secrets",
    ):
        yield "requests", query.encode()
    for body in (
        {"verdict": "normal", "note": "x", "by": "a"},
        {
            "alerts": ["7d0c"],
            "auditIDs": ["a"],
            "principal": "a",
            "since": "7d",
            "until": "2026-11-24",
            "note": "x",
        },
        {"severity": "high", "principal": "a", "namespace": "n", "q": "x"},
    ):
        yield "requests", json.dumps(body).encode()
    for pattern in (
        r"system:serviceaccount:([^:]+):([^:]+)",
        r"(?i)a{1,9}|[^b]*\d+$",
        r"(a+)+b",
        r"\p{L}+(?P<n>x)",
    ):
        yield "patterns", pattern.encode() + b"\nsystem:serviceaccount:web:ci-1234"
    for text in (
        "\x1b[2J",
        "\u202e",
        "\u200b\ufeff",
        "\U000e0041",
        'eyJhbGci.eyJzdWIi.c2ln "data":',
        "Bearer abcdefgh",
    ):
        yield "text", text.encode()
    yield (
        "redaction",
        b'{"stringData":{"a":"Bearer abcdefghij"},"op":"add","path":"/data/x","value":"eyJhbGci.eyJzdWIi.c2ln"}',
    )
    yield "redaction", b'[{"op":"replace","path":"/spec/env/0","value":"-----BEGIN PRIVATE KEY-----"}]'
    for one in evidence():
        yield "files", one


def main() -> None:
    """Command line."""
    from hashlib import sha256

    out = Path(sys.argv[1])
    for target, content in seeds():
        folder = out / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sha256(content).hexdigest()[:12]).write_bytes(content)


if __name__ == "__main__":
    main()
