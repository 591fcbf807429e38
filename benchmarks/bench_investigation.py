"""How fast are queries about what happened, and how large is what is kept? (docs/forensics.md)

Run: python -m benchmarks.bench_investigation [--events 10000000] [--folder DIR]

A twin's log goes into an event store the way a service puts it there; that gives the rates of ingestion and verification, and
the bytes an event takes. For the queries it is then repeated in DuckDB up to `--events`, spread over 30 days: every
repetition has its own times and audit IDs (in the text as well), its own pods, and one more person, so that someone is always
new; every principal has a credential a day. The repeated records are sealed without hashes, as only `verify` reads those. Each
query runs in a new database (only the page cache is kept between them), on two threads.

--store measures an existing store again. --folder keeps what is made, and the same command continues where it was
stopped: 100 million events take 10 GB, and about 20 minutes of one core.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.report import Row, report
from data.events.reader import open_lines
from data.simulation import load_settings, simulate
from serving.forensics.duckdb import connect, quoted
from serving.forensics.event_store import EventStore
from serving.forensics.queries import EventFilter, EventQueries
from serving.forensics.records import COLUMNS, SQL_TYPES
from serving.forensics.verify import verify
from serving.settings import EventSettings

_BATCH = 500
_PRINCIPALS, _TWIN_DAYS = 200, 0.5
_BASE_EVENTS = 100_000
_SEGMENT = 1_000_000
_DAYS = 30
_DAY = 86_400_000_000
#: 1 June 2026, microseconds since 1970 UTC.
_START = 1_780_272_000_000_000

_TIMES = 5
_BARS = ((10_000_000, 1.0), (100_000_000, 5.0))
#: SQL expressions for the columns that a repetition changes.
_REPEATED = {
    "number": "{first} + number",
    "time": "make_timestamp({start} + (({copy} + (epoch_us(time) - {begin}) / {span}) * {step})::BIGINT)",
    "received": "make_timestamp({start} + (({copy} + (epoch_us(time) - {begin}) / {span}) * {step})::BIGINT + 250000)",
    "principal": "CASE WHEN number % 5000 = 7 THEN 'person-{copy}@example.com' ELSE principal END",
    "name": "CASE WHEN resource = 'pods' THEN name || '-' || {copy} % 97 ELSE name END",
    "audit_id": "lpad('{copy}', 8, '0') || audit_id[9:]",
    "credential": "'JTI=' || md5(principal || (({copy} * {step}::BIGINT) // {day}))",
    "event": "replace(event, audit_id, lpad('{copy}', 8, '0') || audit_id[9:])",
}


def take_in(log: Path, folder: Path, limit: int) -> tuple[int, float, float]:
    """Put a log into a store; returns events, seconds, and bytes of the log."""
    store = EventStore(EventSettings(path=folder, retention_days=36_500))
    lines: list[bytes] = []
    count, size, seconds = 0, 0, 0.0
    for line in open_lines(log):
        lines.append(line)
        size += len(line) + 1
        if len(lines) == _BATCH:
            began = time.process_time()
            count += store.append(b"\n".join(lines))
            store.tick()
            seconds += time.process_time() - began
            lines = []
        if count >= limit:
            break
    began = time.process_time()
    store.close()
    return count, seconds + time.process_time() - began, size


def take_in_and_verify(folder: Path, limit: int) -> list[Row]:
    """Make the store whose records are repeated, and take the figures of that; one that an earlier run made is only verified."""
    base = folder / "base"
    rows = []
    if not (folder / "base-done").exists():
        shutil.rmtree(base, ignore_errors=True)
        twin = folder / "twin"
        simulate(twin, _PRINCIPALS, _TWIN_DAYS, 7, attacks="none", settings=load_settings(None, "default"))
        count, seconds, size = take_in(twin / "normal.jsonl.zst", base, limit)
        (folder / "base-done").touch()
        rows = [
            Row("taking in, one thread's time", 1e6 * seconds / count, "us an event"),
            Row("text of an event", size / count, "bytes"),
        ]
    checked = verify(base)
    assert checked.is_sound, checked.findings
    return [*rows, Row("verify", checked.records / checked.seconds, "records/s")]


def repeat(base: Path, folder: Path, events: int) -> int:
    """Fill a store with repetitions of the records of another, or go on doing so; returns how many there are."""
    files = ", ".join(quoted(path) for path in sorted(base.rglob("*.parquet")))
    folder.mkdir(exist_ok=True)
    store = EventStore(EventSettings(path=folder, retention_days=36_500, max_gb=1000, memory_mb=2048))
    with connect(base, 1024, 2) as connection:
        found = connection.execute(
            f"SELECT count(*), epoch_us(min(time)), epoch_us(max(time)) FROM read_parquet([{files}])"
        ).fetchone()
        assert found is not None
        records, begin, end = found
        connection.execute(
            f"COPY (FROM read_parquet([{files}])) TO {quoted(base / 'base.tmp')} (FORMAT parquet)"
        )
    (base / "base.tmp").replace(folder / "base.parquet")
    queries = EventQueries(folder)
    done = queries.catalog().end
    queries.close()
    copies = -(-events // records)
    step = _DAYS * _DAY // copies
    together = max(1, _SEGMENT // records)
    values = {"start": _START, "begin": begin, "span": end - begin + 1, "step": step, "day": _DAY}
    for copy in range(0, copies, together):
        last = min(copy + together, copies)
        first = copy * records
        if first < done:
            continue
        selects = []
        for one in range(copy, last):
            more = values | {"copy": one, "first": one * records}
            columns = ", ".join(
                f"({_REPEATED[name].format(**more)})::{SQL_TYPES[name]} AS {name}"
                if name in _REPEATED
                else name
                for name in COLUMNS
            )
            selects.append(f"SELECT {columns} FROM read_parquet({quoted(folder / 'base.parquet')})")
        span = (_START + copy * step, _START + last * step)
        store.seal_rows(" UNION ALL ".join(selects), first, [bytes(32)] * (records * (last - copy)), span)
        print(f"{first + records * (last - copy):,} records", flush=True)
    (folder / "base.parquet").unlink()
    store.close()
    return int(copies * records)


def ask(folder: Path, question: Callable[[EventQueries], int]) -> tuple[float, int]:
    """Median seconds of a question, and how much was found."""
    taken: list[float] = []
    found = 0
    for _ in range(_TIMES):
        queries = EventQueries(folder, memory_mb=2048, threads=2)
        began = time.monotonic()
        found = question(queries)
        taken.append(time.monotonic() - began)
        queries.close()
    return statistics.median(taken), found


def measure(folder: Path, events: int) -> list[Row]:
    """Ask the three queries of a store of so many events."""
    end = _START + _DAYS * _DAY
    week = end - 7 * _DAY
    opened = EventQueries(folder, memory_mb=2048)
    newest = opened.events(EventFilter(since=end - _DAY), limit=1, newest=True).records[0]
    last = int(newest.audit_id[:8])
    some = opened.events(
        EventFilter(resource="secrets", verbs=("get",), since=end - _DAY // 4), limit=200
    ).records
    secret = next(record for record in some if record.name)
    token = next(
        record
        for record in opened.events(EventFilter(since=end - _DAY // 2), limit=500).records
        if record.name
    )
    newcomer = next(
        record
        for copy in range(1000)
        for record in opened.events(
            EventFilter(principal=f"person-{last - copy}@example.com"), limit=100
        ).records
        if record.namespace
    )
    opened.close()
    asked: dict[str, Callable[[EventQueries], int]] = {
        "who touched a Secret in 7 days": lambda q: len(
            q.touched(
                EventFilter(resource="secrets", namespace=secret.namespace, name=secret.name, since=week)
            )
        ),
        "everything a token did after a moment": lambda q: len(
            q.events(
                EventFilter(credential=token.credential, since=token.time), limit=1000, texts=False
            ).records
        ),
        "who is new in a namespace in 7 days": lambda q: len(q.newcomers(newcomer.namespace, week, end)),
    }
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    rows = [Row(f"Parquet, {events:,} events", size / events, "bytes an event")]
    for name, question in asked.items():
        seconds, found = ask(folder, question)
        bar = next((bar for count, bar in _BARS if events <= count * 1.1), None)
        label = f"{name}, {events:,} events ({found:,} found)"
        rows.append(Row(label, seconds, "s", f"<= {bar:g}" if bar else "", seconds <= bar if bar else None))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--base-events", type=int, default=_BASE_EVENTS)
    parser.add_argument("--folder", type=Path, help="where to put what is made, and leave it")
    parser.add_argument("--store", type=Path, help="a store that an earlier run left")
    arguments = parser.parse_args()
    if arguments.store is not None:
        catalog = EventQueries(arguments.store).catalog()
        report("investigation", measure(arguments.store, catalog.end))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = take_in_and_verify(folder, arguments.base_events)
        events = repeat(folder / "base", folder / "store", arguments.events)
        rows += measure(folder / "store", events)
    report("investigation", rows)


if __name__ == "__main__":
    main()
