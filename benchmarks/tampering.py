"""Tampers with an event store at random, as an attacker who can write its files but has no signing key, and checks that `verify`
reports all of it.

python -m benchmarks.tampering --times 10000 --results FILE.jsonl

Each tampering draws from a generator of its own, seeded by its number, so any of them can be repeated alone
(--first N --times 1). With --results progress is saved every 100 tamperings, and the same command continues where it
stopped. TMPDIR=/dev/shm spares the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import duckdb

from serving.forensics import clock
from serving.forensics.catalog import Catalog
from serving.forensics.event_store import EventStore
from serving.forensics.ledger import LedgerReader, link
from serving.forensics.records import COLUMNS
from serving.forensics.verify import verify
from serving.settings import EventSettings

Tamper = Callable[[Path, Random], None]


# Tamperings after which the results are written to the file.
_PART = 100

# The beginning of 5 January 2026, and a day, in microseconds.
_START = 1_767_571_200_000_000
_DAY = 86_400_000_000


def _event(number: int, day: str) -> bytes:
    moment = f"{day}T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}.000000Z"
    verb = ("get", "list", "create", "delete")[number % 4]
    return json.dumps(
        {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": f"{number:08x}-0000-4000-8000-000000000000",
            "stage": "ResponseComplete",
            "requestURI": f"/api/v1/namespaces/team-{number % 7}/secrets/s{number % 31}",
            "verb": verb,
            "user": {"username": f"user-{number % 13}@example.com", "groups": ["system:authenticated"]},
            "sourceIPs": [f"10.0.0.{number % 200}"],
            "userAgent": "kubectl/v1.30.1",
            "objectRef": {
                "resource": "secrets",
                "namespace": f"team-{number % 7}",
                "name": f"s{number % 31}",
            },
            "responseStatus": {"code": 200},
            "requestReceivedTimestamp": moment,
            "stageTimestamp": moment,
        }
    ).encode()


def make_store(folder: Path, records: int = 20, signing_key: Path | None = None) -> Path:
    """A sound store that has seen it all: three segments dropped by retention, 32 merged into one file, some as sealed."""
    settings = EventSettings(path=folder, signing_key=signing_key, retention_days=1.5)
    number = 0
    with mock.patch.object(clock, "now", return_value=_START) as now:
        store = EventStore(settings)
        for segments, day in ((2, "2026-01-05"), (32, "2026-01-07"), (3, "2026-01-08")):
            for _ in range(segments):
                store.append(b"\n".join(_event(number + at, day) for at in range(records)))
                store.seal()
                number += records
            if segments == 2:
                now.return_value += 2 * _DAY
                store.append(_event(number, "2026-01-07"))
                store.seal()
                number += 1
                now.return_value += _DAY  # nothing is deleted by age on the day after the clock jumped
                store.drop()
            store.merge()
        store.close()
    return folder


# -- ways to tamper ---------------------------------------------------------------------------------------------


def _catalog(folder: Path) -> Catalog:
    reader = LedgerReader(folder)
    reader.read_on()
    catalog = Catalog()
    catalog.read(reader.entries)
    return catalog


def _rewrite(folder: Path, rng: Random, sql: Callable[[int], list[str]]) -> None:
    """Change the table in one Parquet file by SQL, and write it again."""
    file = rng.choice(_catalog(folder).files)
    path = folder / file.name
    number = rng.randrange(file.first, file.end)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS SELECT * FROM read_parquet('{path}')")
        for statement in sql(number):
            connection.execute(statement)
        connection.execute(f"COPY t TO '{path}' (FORMAT parquet, COMPRESSION zstd)")


def change_value(folder: Path, rng: Random) -> None:
    """Another value in one column of one record."""
    column = rng.choice(
        [name for name in COLUMNS if name not in ("number", "time", "received", "code", "redactions")]
    )
    value = rng.choice((f"{column} || 'x'", f"{column} || 'x'", f"{column} || 'x'", "'nobody'", "NULL"))
    where = rng.choice(
        [
            (column, value),
            ("code", "code + 1"),
            ("time", "time + INTERVAL 1 microsecond"),
            ("received", "received - INTERVAL 1 hour"),
            (column, value),
        ]
    )
    _rewrite(folder, rng, lambda number: [f"UPDATE t SET {where[0]} = {where[1]} WHERE number = {number}"])


def move_text(folder: Path, rng: Random) -> None:
    """The end of one column moved to the beginning of the next."""
    _rewrite(
        folder,
        rng,
        lambda number: [
            f"UPDATE t SET namespace = namespace[:-2], name = namespace[-1] || name WHERE number = {number}"
        ],
    )


def remove_record(folder: Path, rng: Random) -> None:
    """One record less, or several."""
    count = rng.choice((1, 1, 2, 10))
    _rewrite(
        folder, rng, lambda number: [f"DELETE FROM t WHERE number BETWEEN {number} AND {number + count - 1}"]
    )


def remove_and_close_ranks(folder: Path, rng: Random) -> None:
    """One record less, and those after it renumbered."""
    _rewrite(
        folder,
        rng,
        lambda number: [
            f"DELETE FROM t WHERE number = {number}",
            f"UPDATE t SET number = number - 1 WHERE number > {number}",
        ],
    )


def add_record(folder: Path, rng: Random) -> None:
    """A copy of a record, under its number or the next."""
    step = rng.choice((0, 1, 1000))
    _rewrite(
        folder,
        rng,
        lambda number: [
            f"INSERT INTO t SELECT * REPLACE (number + {step} AS number) FROM t WHERE number = {number}"
        ],
    )


def exchange_numbers(folder: Path, rng: Random) -> None:
    """Two neighbours in each other's place."""
    _rewrite(
        folder,
        rng,
        lambda number: [
            f"UPDATE t SET number = CASE number WHEN {number} THEN {number ^ 1} ELSE {number} END "
            f"WHERE number IN ({number}, {number ^ 1})",
            "CREATE TABLE u AS SELECT * FROM t ORDER BY number",
            "DROP TABLE t",
            "ALTER TABLE u RENAME TO t",
        ],
    )


def reorder_rows(folder: Path, rng: Random) -> None:
    """The records in another order in the file, with the numbers they have."""
    _rewrite(
        folder,
        rng,
        lambda _: [
            "CREATE TABLE u AS SELECT * FROM t ORDER BY number DESC",
            "DROP TABLE t",
            "ALTER TABLE u RENAME TO t",
        ],
    )


def change_and_fix_checksum(folder: Path, rng: Random) -> None:
    """Another value, and the file's checksum in the ledger corrected in place."""
    change_value(folder, rng)
    lines = (folder / "ledger.jsonl").read_text().splitlines()
    for file in _catalog(folder).files:
        path = folder / file.name
        now = sha256(path.read_bytes()).hexdigest()
        lines = [
            line.replace(file.sha256, now).replace(f'"size":{file.size}', f'"size":{path.stat().st_size}')
            for line in lines
        ]
    (folder / "ledger.jsonl").write_text("\n".join(lines) + "\n")


def change_and_rechain(folder: Path, rng: Random) -> None:
    """The same, with every hash from there on recomputed, and sometimes the head."""
    change_and_fix_checksum(folder, rng)
    before, lines = bytes(32), []
    for text in (folder / "ledger.jsonl").read_bytes().splitlines():
        begin = text.index(b'{"entry":') + len(b'{"entry":')
        end = text.rindex(b',"hash":')
        entry = text[begin:end]
        before = link(before, entry)
        lines.append(b'{"entry":' + entry + b',"hash":"' + before.hex().encode() + b'"}')
    (folder / "ledger.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    if rng.randrange(2):  # then only the Merkle root tells
        (folder / "head.json").write_text(json.dumps({"number": len(lines) - 1, "hash": before.hex()}))


def flip_byte(folder: Path, rng: Random) -> None:
    """One bit of one byte, anywhere in the files that count. Neither key nor digests of recent events prove anything."""
    files = [
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.stat().st_size
        and path.name != "digest.key"
        and path.parent.name != "recent"
    ]
    path = rng.choice(sorted(files))
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut_file(folder: Path, rng: Random) -> None:
    """The end of a file cut off."""
    files = [*folder.rglob("*.parquet"), folder / "ledger.jsonl"]
    path = rng.choice(sorted(files))
    os.truncate(path, rng.randrange(path.stat().st_size))


def remove_file(folder: Path, rng: Random) -> None:
    """A file taken away."""
    rng.choice(sorted([*folder.rglob("*.parquet"), *folder.rglob("*.blocks"), folder / "head.json"])).unlink()


def add_file(folder: Path, rng: Random) -> None:
    """A copy of a file under another name."""
    path = rng.choice(sorted(folder.rglob("*.parquet")))
    shutil.copy(path, path.with_name(f"{rng.randrange(10**9)}.parquet"))


def remove_line(folder: Path, rng: Random) -> None:
    """A line of the ledger taken out."""
    lines = (folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    (folder / "ledger.jsonl").write_bytes(b"".join(lines))


def cut_lines_and_files(folder: Path, rng: Random) -> None:
    """The last lines of the ledger gone, with the files that they name."""
    path = folder / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: rng.randrange(1, len(lines))]))
    known = {file.name for file in _catalog(folder).files}
    for file in folder.rglob("*.parquet"):
        if file.relative_to(folder).as_posix() not in known:
            file.unlink()


def exchange_lines(folder: Path, rng: Random) -> None:
    """Two lines of the ledger in each other's place."""
    lines = (folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    a, b = rng.sample(range(len(lines)), 2)
    lines[a], lines[b] = lines[b], lines[a]
    (folder / "ledger.jsonl").write_bytes(b"".join(lines))


WAYS: tuple[Tamper, ...] = (
    change_value,
    move_text,
    remove_record,
    remove_and_close_ranks,
    add_record,
    exchange_numbers,
    reorder_rows,
    change_and_fix_checksum,
    change_and_rechain,
    flip_byte,
    cut_file,
    remove_file,
    add_file,
    remove_line,
    cut_lines_and_files,
    exchange_lines,
)


def tamper_and_verify(sound: Path, scratch: Path, way: Tamper, rng: Random) -> list[Any]:
    """Findings in a copy of a store that was tampered with; what is drawn is drawn again until it changes something."""
    before = _contents(sound)
    while True:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(sound, scratch)
        way(scratch, rng)
        if _contents(scratch) != before:
            return list(verify(scratch).findings)


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@dataclass(slots=True)
class Part:
    """Tamperings `first` to `first + times - 1` of a seed: those seen by way, and the numbers of those that were not."""

    seed: int
    first: int
    times: int
    seen: dict[str, int]
    missed: list[int]
    seconds: float


def tamper(sound: Path, scratch: Path, seed: int, first: int, times: int) -> Part:
    """Do some of the tamperings of a seed."""
    began = time.monotonic()
    seen: Counter[str] = Counter()
    missed: list[int] = []
    for number in range(first, first + times):
        way = WAYS[number % len(WAYS)]
        if tamper_and_verify(sound, scratch, way, Random(f"{seed}/{number}")):
            seen[way.__name__] += 1
        else:
            missed.append(number)
    return Part(seed, first, times, dict(seen), missed, time.monotonic() - began)


def _done(results: Path | None, seed: int) -> list[Part]:
    if results is None or not results.exists():
        return []
    parts = [Part(**json.loads(line)) for line in results.read_text().splitlines()]
    return [part for part in parts if part.seed == seed]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first tampering")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--results", type=Path, help="file to which each part is added; parts in it are not done again"
    )
    arguments = parser.parse_args()
    parts = _done(arguments.results, arguments.seed)
    known = {number for part in parts for number in range(part.first, part.first + part.times)}
    end = arguments.first + arguments.times
    with TemporaryDirectory() as folder:
        sound = make_store(Path(folder) / "sound")
        assert not verify(sound).findings
        for first in range(arguments.first, end, _PART):
            if first in known:
                continue
            times = min(_PART, end - first)
            part = tamper(sound, Path(folder) / "tampered", arguments.seed, first, times)
            parts.append(part)
            if arguments.results is not None:
                with arguments.results.open("a") as file:
                    file.write(json.dumps(asdict(part)) + "\n")
            print(
                f"{first + times:,} done, {len(part.missed)} of these missed, {part.seconds:.0f} s",
                flush=True,
            )
    missed = sorted(number for part in parts for number in part.missed)
    for at, way in enumerate(WAYS):
        seen = sum(part.seen.get(way.__name__, 0) for part in parts)
        lost = sum(number % len(WAYS) == at for number in missed)
        print(f"{way.__name__:<26} {seen:>6} seen  {lost:>3} missed")
    times = sum(part.times for part in parts)
    print(
        f"{times - len(missed):,} of {times:,} tamperings seen, in {sum(part.seconds for part in parts):,.0f} s"
    )
    if missed:
        raise SystemExit(
            f"Missed: {', '.join(map(str, missed[:50]))}. Make one again with --first NUMBER --times 1."
        )


if __name__ == "__main__":
    main()
