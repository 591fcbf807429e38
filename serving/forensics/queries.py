"""Queries on the event store: parametrised, bounded, with a time limit.

They only read, so they work with or without a running service, in its process or another.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from data.errors import KubehabitError
from serving.forensics import clock
from serving.forensics.catalog import Catalog, StoredFile
from serving.forensics.duckdb import parquet, quoted
from serving.forensics.ledger import LedgerReader
from serving.forensics.records import COLUMNS, SQL_TYPES, TIMES, EventRecord, rows_of
from serving.forensics.store_place import StorePlace, place_of

if TYPE_CHECKING:
    import duckdb

_ATTEMPTS = 5
_Answer = TypeVar("_Answer")
_DURATION = re.compile(r"(\d{1,6})\s*([smhdw])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_CLOCK_TIME = re.compile(r"\d{1,2}:\d\d(?::\d\d)?")
_CURSOR = re.compile(r"(-?\d{1,18})-(\d{1,18})")
ALLOWED = "code < 400 AND decision <> 'forbid'"
#: Resource of a request, or its path.
WHAT = "CASE WHEN resource = '' THEN split_part(path, '?', 1) ELSE concat_ws('/', resource, nullif(subresource, '')) END"
_LISTINGS = "'list', 'watch', 'deletecollection'"
_TOP = 10
_LISTED = 20
MAX_LIMIT = 10_000

# Short names and irregular plurals that kubectl takes.
_KINDS = {
    "cm": "configmaps", "cr": "clusterroles", "crb": "clusterrolebindings", "crd": "customresourcedefinitions",
    "csr": "certificatesigningrequests", "deploy": "deployments", "ds": "daemonsets", "ep": "endpoints", "ev": "events",
    "hpa": "horizontalpodautoscalers", "ing": "ingresses", "netpol": "networkpolicies", "no": "nodes", "ns": "namespaces",
    "po": "pods", "pv": "persistentvolumes", "pvc": "persistentvolumeclaims", "rs": "replicasets", "sa": "serviceaccounts",
    "sts": "statefulsets", "svc": "services", "cj": "cronjobs", "policy": "policies", "endpoints": "endpoints",
    "networkpolicy": "networkpolicies", "ingress": "ingresses", "storageclass": "storageclasses", "sc": "storageclasses",
}  # fmt: skip


class QueryError(KubehabitError):
    """A query that cannot be answered."""


class QueryTimeoutError(QueryError):
    """A query that exceeded its time limit."""


def resource_of(kind: str) -> str:
    """The resource of a kind, as kubectl takes it: `secret`, `Secrets` and `secrets` are `secrets`."""
    word = kind.lower()
    if word in _KINDS:
        return _KINDS[word]
    if word.endswith("s") and not word.endswith(("ss", "us")):
        return word
    if word.endswith(("ss", "ch", "x")):
        return word + "es"
    return word[:-1] + "ies" if word.endswith("y") else word + "s"


def moment_of(text: str, now: datetime | None = None, zone: tzinfo = UTC) -> int:
    """Parse a point in time that a person wrote; returns microseconds since 1970 UTC.

    That is an age (`30m`, `12h`, `7d`) before `now`, the most recent time of day (`14:02`), a day (`2026-11-24`), or an RFC 3339
    time; they are of `zone` unless the text names another one. Raises QueryError for anything else.
    """
    now = (now or datetime.now(UTC)).astimezone(zone)
    text = text.strip()
    try:
        if ago := _DURATION.fullmatch(text):
            moment = now - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
        elif _CLOCK_TIME.fullmatch(text):
            of_day = datetime.strptime(text, "%H:%M:%S" if text.count(":") > 1 else "%H:%M")
            moment = datetime.combine(now, of_day.time(), now.tzinfo)
            moment -= timedelta(days=moment > now)
        else:
            moment = datetime.fromisoformat(text)
            moment = moment.replace(tzinfo=zone) if moment.tzinfo is None else moment
            moment = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:  # the latter: before the year 1, or after 9999
        raise QueryError(
            f"{text!r} is no point in time. Give an age (30m, 12h, 7d), a time of day in UTC (14:02), a day "
            "(2026-11-24), or an RFC 3339 time (2026-11-24T14:02:00Z)."
        ) from error
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Selects records by the columns of EventRecord; None or empty matches all.

    Attributes:
        since, until: half-open span of the API server's time, microseconds since 1970 UTC.
        principal: who acted, by folded name or as logged, or who was impersonated.
        credential, issued: with or without the kind of the credential (`JTI=`, `X509SHA256=`).
        address: one of the addresses logged.
        user_agent: prefix of the user agent.
        codes: lowest and highest status code.
    """

    since: int | None = None
    until: int | None = None
    principal: str | None = None
    credential: str | None = None
    issued: str | None = None
    verbs: tuple[str, ...] = ()
    resource: str | None = None
    subresource: str | None = None
    namespace: str | None = None
    name: str | None = None
    address: str | None = None
    user_agent: str | None = None
    codes: tuple[int, int] | None = None
    decision: str | None = None
    audit_ids: tuple[str, ...] = ()
    alert: str | None = None

    def sql(self) -> tuple[str, list[Any]]:
        """A condition and its parameters; no text of a caller becomes part of the SQL."""
        among = {
            "credential": _credentials(self.credential),
            "issued": _credentials(self.issued),
            "verb": self.verbs,
        }
        equal = ("resource", "subresource", "namespace", "name", "decision", "alert")
        conditions: list[tuple[str, Sequence[Any] | None]] = [
            ("time >= make_timestamp(?::BIGINT)", _one(self.since)),
            ("time < make_timestamp(?::BIGINT)", _one(self.until)),
            ("(principal = ? OR username = ? OR impersonated = ?)", _one(self.principal) * 3),
            *((f"{column} IN ({', '.join('?' * len(values))})", values) for column, values in among.items()),
            *((f"{column} = ?", _one(getattr(self, column))) for column in equal),
            ("list_contains(string_split(source_ips, ','), ?)", _one(self.address)),
            ("starts_with(user_agent, ?)", _one(self.user_agent)),
            ("code BETWEEN ? AND ?", self.codes),
            ("list_contains(?::VARCHAR[], audit_id)", _one(list(self.audit_ids) or None)),
        ]
        given = [(condition, values) for condition, values in conditions if values]
        return " AND ".join(["true", *(condition for condition, _ in given)]), [
            value for _, values in given for value in values
        ]


def _one(value: Any) -> tuple[Any, ...]:
    return () if value is None else (value,)


def _credentials(name: str | None) -> list[str]:
    """The ID of a credential with each kind that it may have."""
    kinds = () if name is None else ("",) if "=" in name else ("JTI=", "X509SHA256=", "")
    return [f"{kind}{name}" for kind in kinds]


@dataclass(frozen=True, slots=True)
class EventPage:
    """Records in order of time, and the cursor of the next page, None at the end."""

    records: list[EventRecord]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Extent:
    """Number of events in the store, and the span of their times, microseconds since 1970 UTC."""

    records: int
    earliest: int | None
    latest: int | None


class Touch(msgspec.Struct, rename="camel", frozen=True):
    """What one principal did to the object of a query: directly, or in a listing of its namespace or of the whole cluster."""

    principal: str
    verb: str
    subresource: str
    how: Literal["direct", "list"]
    count: int
    allowed: int
    first: str
    last: str
    addresses: list[str]
    user_agents: list[str]
    credentials: list[str]
    acted_as: list[str]


class Newcomer(msgspec.Struct, rename="camel", frozen=True):
    """A principal never seen in a namespace before; `known_since` is when it was first seen anywhere in the cluster."""

    principal: str
    first: str
    last: str
    count: int
    allowed: int
    verbs: list[str]
    resources: list[str]
    addresses: list[str]
    known_since: str


class Top(msgspec.Struct, frozen=True):
    """A frequent value and its count."""

    value: str
    count: int


class Life(msgspec.Struct, rename="camel", frozen=True):
    """Summary of what a principal did."""

    principal: str
    count: int
    allowed: int
    first: str
    last: str
    did: list[Top]
    namespaces: list[Top]
    addresses: list[Top]
    user_agents: list[Top]
    credentials: list[Top]
    user_names: list[Top]
    alerts: list[str]


class EventQueries:
    """Runs queries on a store, each for so many seconds at most; raises QueryError if there is none.

    Attributes:
        place: where the store is.
        folder: of its ledger.
    """

    def __init__(
        self, store: Path | StorePlace, *, memory_mb: int = 512, seconds: float = 60, threads: int = 2
    ) -> None:
        self.place = place_of(store)
        self.folder = folder = self.place.folder
        self._seconds = seconds
        if not (folder / "ledger.jsonl").exists():
            raise QueryError(
                f"There is no event store in {folder}. `kubehabit serve` makes one; name another with --store."
            )
        self._ledger = LedgerReader(folder)
        self._catalog = Catalog()
        self._reading = threading.Lock()
        self._root = self.place.connect(memory_mb, threads)
        self.close = self._root.close

    def catalog(self) -> Catalog:
        """What the store holds at the moment."""
        with self._reading:
            self._ledger.read_on()
            self._catalog.read(self._ledger.entries[self._catalog.lines :])
            return self.place.seen(
                replace(self._catalog, segments=list(self._catalog.segments), files=list(self._catalog.files))
            )

    # -- queries ------------------------------------------------------------------------------------------------

    def extent(self) -> Extent:
        """Size of the store and how far back it goes."""

        def ask(source: RecordSource) -> Extent:
            query = "SELECT count(*), min(epoch_us(time)), max(epoch_us(time)) FROM {open}"
            ((count, first, last),) = source.all(query)
            spans = [(first, last)] if count else []
            spans += [(file.earliest, file.latest) for file in source.files]
            return Extent(
                count + sum(file.count for file in source.files),
                min((span[0] for span in spans), default=None),
                max((span[1] for span in spans), default=None),
            )

        return self.answer(None, None, ask)

    def earliest(self) -> int | None:
        """When the store begins, microseconds since 1970 UTC; None while it is empty."""
        return self.extent().earliest

    def events(
        self,
        wanted: EventFilter,
        *,
        limit: int = 100,
        cursor: str | None = None,
        newest: bool = False,
        texts: bool = True,
    ) -> EventPage:
        """List events in order of time, at most 10,000 from the cursor of the previous page on.

        Without `texts`, `event` is empty: the events' JSON is most of the data.
        """
        condition, values = wanted.sql()
        direction, after = ("DESC", "<") if newest else ("ASC", ">")
        since, until = wanted.since, wanted.until
        if cursor is not None:
            match = _CURSOR.fullmatch(cursor)
            if match is None:
                raise QueryError("'cursor' is not one of ours: use the value of the page before, or none.")
            at = int(match[1])
            condition += f" AND (time, number) {after} (make_timestamp(?::BIGINT), ?::UBIGINT)"
            values = [*values, at, int(match[2])]
            since, until = (since, at + 1) if newest else (at, until)
        limit = max(1, min(limit, MAX_LIMIT))
        columns = ", ".join(
            f"epoch_us({name})" if name in TIMES else "''" if name == "event" and not texts else name
            for name in COLUMNS
        )

        def ask(source: RecordSource) -> EventPage:
            # First the numbers, then the texts, which are most of the data.
            found = source.all(
                f"SELECT epoch_us(time), number FROM {{records}} WHERE {condition} "
                f"ORDER BY time {direction}, number {direction} LIMIT {limit + 1}",
                values,
            )
            numbers = [number for _, number in found[:limit]]
            if not numbers:
                return EventPage([], None)
            lowest, highest = min(numbers), max(numbers)
            rows = source.all(
                f"SELECT {columns} FROM {{records}} WHERE number IN (SELECT unnest(?::UBIGINT[])) AND number BETWEEN ? AND ?",
                [numbers, lowest, highest],
                files=[file for file in source.files if file.first <= highest and file.end > lowest],
            )
            by_number = {row[0]: EventRecord(*row) for row in rows}
            records = [by_number[number] for number in numbers]
            last = records[-1]
            return EventPage(records, f"{last.time}-{last.number}" if len(found) > limit else None)

        return self.answer(since, until, ask)

    def touched(self, wanted: EventFilter, *, listings: bool = True) -> list[Touch]:
        """Who touched a resource, or the object of a name, how, and how often; latest first.

        With `listings` also by listing or watching its namespace or cluster: a listing of Secrets shows their contents.
        """
        name = wanted.name
        condition, values = wanted.sql()
        if name is not None and listings:
            around, more = replace(wanted, name=None, namespace=None).sql()
            condition = f"({condition}) OR ({around} AND name = '' AND verb IN ({_LISTINGS}) AND namespace IN ('', ?))"
            values += [*more, wanted.namespace or ""]
        how = "'direct'" if name is None else "CASE WHEN name = ? THEN 'direct' ELSE 'list' END"
        query = f"""
            SELECT principal, verb, subresource, {how} AS how,
                count(DISTINCT (audit_id, time)), count(DISTINCT (audit_id, time)) FILTER ({ALLOWED}),
                epoch_us(min(time)), epoch_us(max(time)), {_some("source_ips")}, {_some("user_agent")}, {_some("credential")},
                {_some("CASE WHEN impersonated <> '' THEN impersonated ELSE '' END")}
            FROM {{records}} WHERE {condition} GROUP BY ALL ORDER BY max(time) DESC LIMIT {MAX_LIMIT}"""
        rows = self.answer(
            wanted.since, wanted.until, lambda source: source.all(query, [*_one(name), *values])
        )
        return [_row(Touch, row, times=(6, 7)) for row in rows]

    def newcomers(self, namespace: str, since: int, until: int | None = None) -> list[Newcomer]:
        """Principals seen in a namespace for the first time within a span of time; latest first."""
        until = until if until is not None else clock.now() + 1
        # Who came, who of them had been there before, what the new ones did: each query reads few columns.
        came = """
            SELECT DISTINCT principal FROM {records}
            WHERE namespace = ? AND time < make_timestamp(?::BIGINT) AND time >= make_timestamp(?::BIGINT)"""
        there = "SELECT DISTINCT principal FROM {records} WHERE namespace = ?"
        did = f"""
            SELECT principal, epoch_us(min(time)), epoch_us(max(time)), count(DISTINCT (audit_id, time)),
                count(DISTINCT (audit_id, time)) FILTER ({ALLOWED}), {_some("verb")}, {_some("resource")}, {_some("source_ips")}
            FROM {{records}} WHERE namespace = ? AND time < make_timestamp(?::BIGINT) AND time >= make_timestamp(?::BIGINT)
                AND principal IN (SELECT unnest(?::VARCHAR[]))
            GROUP BY principal ORDER BY min(time) DESC LIMIT {MAX_LIMIT}"""
        known = """
            SELECT principal, epoch_us(min(time)) FROM {records}
            WHERE principal IN (SELECT unnest(?::VARCHAR[])) GROUP BY principal"""

        def ask(source: RecordSource) -> list[Newcomer]:
            window = [file for file in source.files if file.latest >= since]
            names = {row[0] for row in source.all(came, [namespace, until, since], files=window)}
            older = [file for file in source.files if file.latest < since]
            names -= {row[0] for row in source.all(there, [namespace], files=older, sealed=True)}
            both = [file for file in window if file.earliest < since]
            begun = f"{there} AND time < make_timestamp(?::BIGINT)"
            names -= {row[0] for row in source.all(begun, [namespace, since], files=both)}
            if not names:
                return []
            rows = source.all(did, [namespace, until, since, sorted(names)], files=window)
            before = dict(source.all(known, [[row[0] for row in rows]]))
            return [_row(Newcomer, (*row, before.get(row[0], row[1])), times=(1, 2, 8)) for row in rows]

        # The whole store counts as history.
        return self.answer(None, until, ask)

    def life(self, principal: str, since: int | None = None, until: int | None = None) -> Life | None:
        """Summary of what a principal did; None without events."""
        condition, values = EventFilter(principal=principal, since=since, until=until).sql()
        tops = {
            "did": f"verb || ' ' || {WHAT}",
            "namespaces": "namespace",
            "addresses": "source_ips",
            "user_agents": "user_agent",
            "credentials": "credential",
            "user_names": "username",
            "alerts": "alert",
        }

        columns = ", ".join(f"histogram({sql}) AS {name}" for name, sql in tops.items())
        query = f"""SELECT count(*), count(*) FILTER ({ALLOWED}), epoch_us(min(time)), epoch_us(max(time)), {columns}
            FROM (SELECT * FROM {{records}} WHERE {condition} AND stage <> 'RequestReceived')"""
        row = self.answer(since, until, lambda source: source.all(query, values))[0]
        if not row[0]:
            return None
        found = {name: _top(counts) for name, counts in zip(tops, row[4:], strict=True)}
        alerts = [top.value for top in found.pop("alerts")]
        first, last = clock.written(row[2]), clock.written(row[3])
        return Life(principal, row[0], row[1], first, last, alerts=alerts, **found)

    # -- execution ----------------------------------------------------------------------------------------------

    def answer(self, since: int | None, until: int | None, ask: Callable[[RecordSource], _Answer]) -> _Answer:
        """Query the files of a span of time; again if one was merged in the meantime.

        Raises:
            QueryError: it took too long, needs too much memory, or a file cannot be read.
        """
        import duckdb

        deadline = time.monotonic() + self._seconds
        for attempt in range(_ATTEMPTS):
            catalog = self.catalog()
            try:
                files = [
                    file
                    for file in catalog.files
                    if (since is None or file.latest >= since) and (until is None or file.earliest < until)
                ]
                with self._cursor(deadline) as cursor:
                    return ask(RecordSource(cursor, self.place, catalog.end, files))
            except duckdb.IOException:
                if attempt == _ATTEMPTS - 1:
                    raise QueryError(
                        f"A file of the store in {self.folder} cannot be read. Run `kubehabit verify`."
                    ) from None
                time.sleep(0.05)
        raise AssertionError

    @contextmanager
    def _cursor(self, deadline: float) -> Iterator[duckdb.DuckDBPyConnection]:
        import duckdb

        cursor = self._root.cursor()
        timer = threading.Timer(max(0.01, deadline - time.monotonic()), cursor.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield cursor
        except duckdb.InterruptException as error:
            if time.monotonic() < deadline:
                raise
            raise QueryTimeoutError(
                f"The query took longer than {self._seconds:g} s. Name a shorter time (since, until), or raise "
                "events.query_seconds."
            ) from error
        except duckdb.OutOfMemoryException as error:
            raise QueryError(
                "The query needs more memory than it may have. Name a shorter time (since, until), or raise "
                "events.memory_mb."
            ) from error
        finally:
            timer.cancel()
            cursor.close()


@dataclass(frozen=True, slots=True)
class RecordSource:
    """The files that may hold what a query wants, to select from; records from number `end` on are not sealed yet."""

    cursor: duckdb.DuckDBPyConnection
    place: StorePlace
    end: int
    files: Sequence[StoredFile]

    def all(
        self,
        query: str,
        values: Sequence[Any] = (),
        *,
        files: Sequence[StoredFile] | None = None,
        sealed: bool = False,
    ) -> list[tuple[Any, ...]]:
        """Rows of a query with `{records}` for all records, or those of some files, and `{open}` for those not sealed yet."""
        files = self.files if files is None else files
        open_files = (
            [] if sealed else [quoted(path) for path in sorted(self.place.folder.glob("open-*.ndjson"))]
        )
        selected = ", ".join(name for name in COLUMNS if re.search(rf"\b{name}\b", query)) or "number"
        # Records just sealed may still be in the open file; their numbers tell.
        unsealed = (
            f"({rows_of(open_files, torn=True)} WHERE number >= {self.end})"
            if open_files
            else f"(SELECT {_NOTHING} WHERE false)"
        )
        records = f"SELECT {selected} FROM {unsealed}"
        if files:
            stored = parquet(*(self.place.address(file.name) for file in files))
            records = f"SELECT {selected} FROM {stored} UNION ALL {records}"
        query = query.replace("{records}", f"({records})").replace("{open}", unsealed)
        return self.cursor.execute(query, list(values)).fetchall()


_NOTHING = ", ".join(f"NULL::{SQL_TYPES[name]} AS {name}" for name in COLUMNS)


def _some(column: str) -> str:
    """SQL of the first few distinct values of a column."""
    return f"list_slice(list_sort(array_agg(DISTINCT {column})), 1, {_LISTED})"


def _row(kind: type[_Answer], row: Sequence[Any], times: Sequence[int]) -> _Answer:
    """A database row as a result: times in words, lists without empty texts."""
    values = [
        clock.written(value) if at in times else [*filter(None, value)] if isinstance(value, list) else value
        for at, value in enumerate(row)
    ]
    return kind(*values)


def _top(counts: dict[str, int] | None) -> list[Top]:
    found = [Top(value, count) for value, count in (counts or {}).items() if value]
    return sorted(found, key=lambda top: (-top.count, top.value))[:_TOP]
