"""The alert store: SQLite by default, PostgreSQL by URL, migrated with alembic, bounded in time and number."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DataError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from data.errors import KubehabitError
from serving.schemas import SEVERITIES, Alert
from serving.storage.allowed import AllowedUse, add_allowed, forget_allowed
from serving.storage.incidents import forget, known_keys
from serving.storage.receipt_clock import ReceiptClock
from serving.storage.tables import (
    ALERT_EVENTS,
    ALERT_LINES,
    ALERTS,
    FEEDBACK,
    INCIDENTS,
    LARGEST_NUMBER,
    MEMBERS,
    QUERY_IDS,
    microseconds,
)
from serving.telemetry.tracing import span

if TYPE_CHECKING:
    from serving.settings import StoreSettings

_MIGRATIONS = Path(__file__).parent / "migrations"

#: The schema's version: that of the newest migration.
_NEWEST = max(file.name for file in (_MIGRATIONS / "versions").glob("a*.py")).partition("_")[0]

_VERSIONS = sa.text("SELECT version_num FROM alembic_version")

#: Audit IDs of one alert in a listing; a flood must not make every page of alerts megabytes long.
_LISTED_AUDIT_IDS = 1000

_MICROSECONDS_A_DAY = 86_400_000_000

#: Deleted by age between two calls of `AlertStore.prune`: at most one alert in so many, but at least this number.
_SHARE, _LEAST_SHARE = 20, 100

_log = logging.getLogger("kubehabit.store")

#: Keys of PostgreSQL's advisory locks of writers and migrations: any two numbers that never change.
_WRITERS, _SCHEMA = 0x6B75_6265, 0x6B75_6266

#: libpq parameters that the URL may override.
_POSTGRESQL_DEFAULTS = {
    "application_name": "kubehabit",
    # A dead server must be noticed: scoring waits for the store, and the kernel would wait for two hours.
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


class StoreError(KubehabitError):
    """The alert store cannot be opened, read or written."""


class UnreachableError(StoreError):
    """The database server cannot be reached now; later it may be."""


class RefusedError(StoreError):
    """The database rejected the row; retrying will not help."""


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """An alert and its number in the store."""

    number: int
    alert: Alert


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, newest first; `cursor` continues it, None at the end."""

    alerts: list[Alert]
    cursor: int | None


@dataclass(frozen=True, slots=True)
class AlertChange:
    """An alert, and the position of its last change among those of all alerts."""

    position: int
    alert: Alert


class AlertStore:
    """Alerts in a SQL database. Several processes may share one PostgreSQL database; their writers take turns.

    Args:
        url: SQLAlchemy URL; `sqlite://` keeps everything in memory. With `?schema=NAME`, PostgreSQL's tables are in that schema,
            which is made if there is none.
        retention_days: alerts raised longer ago are deleted, with everything that belongs to them except feedback.
        max_alerts: beyond this number the least severe are deleted, the oldest of them first; the newest tenth stays.
        clock: time of receipt.

    Attributes:
        dropped: severity -> alerts deleted because there were too many.

    Raises:
        StoreError: the database cannot be opened, or its schema cannot be migrated; UnreachableError if its server is not there.
    """

    def __init__(
        self, url: str, *, retention_days: float, max_alerts: int, clock: ReceiptClock | None = None
    ) -> None:
        self.clock = clock or ReceiptClock()
        self._share = _LEAST_SHARE
        self.dropped: Counter[str] = Counter()
        self._retention = int(retention_days * _MICROSECONDS_A_DAY)
        self._max_alerts = max_alerts
        # Writers of this process queue here: the database turns away a writer that waits too long.
        self._turn = threading.Lock()
        self._on_error: Callable[[str], None] = lambda _: None
        try:
            self._engine = open_database(url)
            self._migrate()
            with self._engine.connect() as connection:
                newest = connection.scalar(sa.select(sa.func.max(ALERTS.c.raised)))
        except ModuleNotFoundError as error:
            raise StoreError(
                f"Cannot open the alert store {shown_url(url)}: the driver {error.name!r} is not installed. For PostgreSQL: "
                "pip install 'kubehabit[postgres]'."
            ) from error
        except (SQLAlchemyError, OSError, ImportError) as error:
            on_server = isinstance(error, OperationalError) and make_url(url).get_backend_name() != "sqlite"
            raise (UnreachableError if on_server else StoreError)(
                f"Cannot open the alert store {shown_url(url)}: {_first_line(error)}. Check store.url and {_what_to_check(url)}."
            ) from error
        if newest is not None:
            self.clock.start_from(newest, self._retention // 3)
        # A store in memory has one connection for all, on which a reader that ends would roll back a writer.
        self._alone: AbstractContextManager[object] = (
            self._turn if isinstance(self._engine.pool, StaticPool) else nullcontext()
        )
        self._check = "its disk" if self._engine.dialect.name == "sqlite" else "the database server"

    def attach(self, on_error: Callable[[str], None]) -> None:
        """Call this with "read" or "write" whenever the database fails."""
        self._on_error = on_error

    @classmethod
    def from_settings(cls, settings: StoreSettings, url: str | None = None) -> AlertStore:
        """The store of the settings, or the one at `url` with their limits; raises as the constructor does."""
        url = url or settings.resolved_url
        return cls(url, retention_days=settings.retention_days, max_alerts=settings.max_alerts)

    def _migrate(self) -> None:
        if self._is_current():  # as at every start but the first: alembic takes 10 MB
            return
        # Before the import, at which alembic logs its plugins.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from alembic import command
        from alembic.config import Config
        from alembic.util.exc import CommandError

        config = Config()
        # A percent sign in a path would be read as interpolation.
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        try:
            with self._engine.begin() as connection:
                if connection.dialect.name == "sqlite":
                    # Else each statement that changes a table is a transaction of its own, and a process that is killed in
                    # between leaves a store that no start can open.
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                take_turn(connection, _SCHEMA)
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as error:
            raise StoreError(
                f"The alert store was written by a newer kubehabit ({_first_line(error)}). Upgrade, or name another store.url."
            ) from error

    def _is_current(self) -> bool:
        try:
            with self._engine.connect() as connection:
                return connection.scalars(_VERSIONS).all() == [_NEWEST]
        except SQLAlchemyError:  # there is no such table yet; other errors appear when it is created
            return False

    @contextmanager
    def writing(self, *, lazily: bool = False) -> Iterator[Writer]:
        """A writer's transaction, committed or rolled back as a whole. Arguments and errors as for `transaction`."""
        with span("store"), self.transaction(lazily=lazily) as connection:
            # Whether an action joins an alert, and which change comes last, depends on what others have written by then.
            take_turn(connection, _WRITERS)
            writer = Writer(connection, self.clock)
            yield writer
            dropped = self._drop_excess(connection) if writer.raised else None
            if writer.raised:
                self._delete_old(connection)
        if dropped:
            self.dropped += dropped
            _log.warning("the alert store is full: alerts were dropped", extra={"dropped": dict(dropped)})

    @contextmanager
    def transaction(self, *, lazily: bool = False) -> Iterator[Connection]:
        """A connection that may write; everything is committed when the block ends, or nothing.

        Args:
            lazily: do not wait for SQLite's disk. The rows survive a crash of the process at once, and a power cut from the next
                transaction that is not lazy, or from `flush`. For rows that can be made again until then. PostgreSQL is never
                lazy: a server that crashes alone would lose rows that this process builds on.

        Raises:
            StoreError: the database failed; nothing was written.
            RefusedError: the database rejected a row.
        """
        try:
            with (
                self._turn,
                self._engine.connect() as connection,
                _waiting_for_disk(connection, not lazily),
                connection.begin(),
            ):
                if connection.dialect.name == "sqlite":
                    # Else what is read before the first write is no part of the transaction.
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
        except (IntegrityError, DataError) as error:
            raise RefusedError(f"The alert store rejects a row: {_first_line(error)}.") from error
        except SQLAlchemyError as error:
            raise self._failed("write", "written", error) from error

    def flush(self) -> None:
        """Wait until all earlier writes are on disk."""
        if self._engine.dialect.name == "sqlite":
            with self.transaction() as connection:
                # Any write will do, for its commit takes all earlier ones with it; but it has to be one.
                connection.exec_driver_sql(f"PRAGMA user_version = {time.time_ns() // 1000 % 2**31}")

    def checkpoint(self) -> None:
        """Move SQLite's write-ahead log into its file, so that no writer has to."""
        if self._engine.dialect.name == "sqlite":
            with self.reading() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")

    def compact(self) -> None:
        """Rewrite SQLite's file, so that nothing of deleted rows is left in it; PostgreSQL does so by itself in time."""
        if self._engine.dialect.name == "sqlite":
            with self._turn, self._engine.connect() as connection:
                driver = connection.connection.driver_connection
                assert driver is not None
                driver.commit()
                driver.execute("VACUUM")
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _failed(self, operation: str, done: str, error: SQLAlchemyError) -> StoreError:
        self._on_error(operation)
        return StoreError(f"The alert store cannot be {done}: {_first_line(error)}. Check {self._check}.")

    def prune(self) -> int:
        """Delete alerts that are too old or too many; returns how many. Adding an alert does so by itself."""
        with self.transaction() as connection:
            take_turn(connection, _WRITERS)
            held = connection.scalar(sa.select(sa.func.count()).select_from(ALERTS)) or 0
            self._share = max(_LEAST_SHARE, held // _SHARE)
            dropped = self._drop_excess(connection)
            gone = self._delete_old(connection)
            if not self.clock.suspended:
                forget(connection, self.clock.now() - self._retention)
                forget_allowed(connection, self.clock.now() - self._retention)
        self.dropped += dropped
        return gone + dropped.total()

    # Both run whenever an alert is added, so that growth is always bounded. Entries of the outbox go with their alert, by
    # foreign key. Feedback stays, for training.

    def _delete_old(self, connection: Connection) -> int:
        """Delete what was received too long ago: at most a share of all alerts between two calls of `prune`."""
        if self.clock.suspended:
            return 0
        old = sa.select(ALERTS.c.number).where(ALERTS.c.raised < self.clock.now() - self._retention)
        oldest = old.order_by(ALERTS.c.raised, ALERTS.c.number).limit(self._share)
        gone = connection.execute(sa.delete(ALERTS).where(ALERTS.c.number.in_(oldest))).rowcount
        self._share -= gone
        return gone

    def _drop_excess(self, connection: Connection) -> Counter[str]:
        """Delete alerts beyond the number that is kept; returns how many of each severity.

        A flood must not push out what is worse. The newest tenth stays whatever it is, or a store full of severe alerts would
        never show another one.
        """
        number, line = ALERTS.c.number, ALERT_LINES.c
        last, first = connection.execute(sa.select(sa.func.max(number), sa.func.min(number))).one()
        if last is None or last - first < self._max_alerts:
            return Counter()
        held = connection.scalar(sa.select(sa.func.count()).select_from(ALERTS)) or 0
        if held <= self._max_alerts:
            return Counter()
        # A little more than needed, so that a flood does not search all alerts each time.
        excess = held - self._max_alerts + self._max_alerts // 100
        older = sa.select(number).order_by(number.desc()).offset(self._max_alerts // 10).limit(1)
        query = sa.select(number, ALERTS.c.severity).where(
            number.in_(
                sa.select(line.alert)
                .where(line.alert <= older.scalar_subquery())
                .order_by(line.severity, line.alert)
                .limit(excess)
            )
        )
        found = connection.execute(query).all()
        if not found:  # an older version leaves lines out
            query = sa.select(number, ALERTS.c.severity).order_by(number).limit(excess)
            found = connection.execute(query).all()
        for start in range(0, len(found), QUERY_IDS):
            part = [row.number for row in found[start : start + QUERY_IDS]]
            connection.execute(sa.delete(ALERTS).where(number.in_(part)))
        return Counter(SEVERITIES[row.severity] for row in found)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with; raises StoreError if the database fails."""
        try:
            with self._alone, self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._failed("read", "read", error) from error

    def get(self, alert_id: str) -> Alert | None:
        """One alert with all its audit IDs, or None."""
        if "\0" in alert_id:
            return None  # no text in PostgreSQL may hold it
        with self.reading() as connection:
            query = sa.select(ALERTS.c.number, ALERTS.c.document).where(ALERTS.c.id == alert_id)
            row = connection.execute(query).one_or_none()
            return None if row is None else _with_audit_ids(connection, row.number, row.document, None)

    def page(self, *conditions: sa.ColumnElement[bool], limit: int = 100, cursor: int | None = None) -> Page:
        """List alerts, newest raised first.

        Args:
            conditions: on columns of `ALERTS` and `ALERT_LINES`, all of which must hold; see `serving.alerts.query`.
            cursor: that of the page before.
        """
        number = ALERTS.c.number
        wanted = sa.select(number).outerjoin(ALERT_LINES, ALERT_LINES.c.alert == number).where(*conditions)
        if cursor is not None:
            wanted = wanted.where(number < min(cursor, LARGEST_NUMBER))
        wanted = wanted.order_by(number.desc()).limit(limit + 1)
        # The documents of these alone: a database that has to sort what it found would carry them all along.
        query = sa.select(number, ALERTS.c.document).where(number.in_(wanted)).order_by(number.desc())
        with self.reading() as connection:
            rows = connection.execute(query).all()
            alerts = [_with_audit_ids(connection, *row, _LISTED_AUDIT_IDS) for row in rows[:limit]]
        return Page(alerts, rows[limit - 1].number if len(rows) > limit else None)

    def latest(self) -> int:
        """Position of the last change of any alert; 0 before the first."""
        with self.reading() as connection:
            return connection.execute(sa.select(sa.func.max(ALERTS.c.changed))).scalar() or 0

    def changes(self, after: int, limit: int = 100) -> list[AlertChange]:
        """Alerts raised or grown after a position, in the order of their last change; each once, as it is now."""
        alerts = ALERTS.c
        query = sa.select(alerts.number, alerts.changed, alerts.document).where(alerts.changed > after)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(alerts.changed).limit(limit)).all()
            listed = (
                _with_audit_ids(connection, row.number, row.document, _LISTED_AUDIT_IDS) for row in rows
            )
            return [AlertChange(row.changed, alert) for row, alert in zip(rows, listed, strict=True)]

    def add_feedback(self, alert_id: str, moment: datetime, verdict: str, document: str) -> None:
        """Store feedback on an alert, once if it is given twice. It cannot be changed or removed."""
        values = {"alert": alert_id, "time": microseconds(moment), "verdict": verdict, "document": document}
        same = sa.select(FEEDBACK.c.position).where(
            *(FEEDBACK.c[name] == one for name, one in values.items())
        )
        with self.transaction() as connection:
            take_turn(connection, _WRITERS)
            if connection.execute(same.limit(1)).first() is None:
                connection.execute(sa.insert(FEEDBACK).values(values))

    def flagged_times(self, alert: Alert) -> list[int]:
        """Times of the flagged actions of an alert, and of those that they repeat; microseconds since 1970 UTC, sorted."""
        query = sa.select(ALERT_EVENTS.c.time).join(ALERTS, ALERTS.c.number == ALERT_EVENTS.c.alert)
        with self.reading() as connection:
            times = set(connection.scalars(query.where(ALERTS.c.id == alert.id)))
        firsts = (one.first_flagged for one in alert.actions)
        return sorted(times | {microseconds(first) for first in firsts if first is not None})

    def feedback(self) -> Iterator[str]:
        """All documents of `add_feedback`, oldest first."""
        position, after = FEEDBACK.c.position, 0
        query = sa.select(position, FEEDBACK.c.document).order_by(position).limit(QUERY_IDS)
        while True:
            with self.reading() as connection:
                rows = connection.execute(query.where(position > after)).all()
            if not rows:
                return
            yield from (row.document for row in rows)
            after = rows[-1].position

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


class Writer:
    """Reads and writes of one transaction."""

    def __init__(self, connection: Connection, clock: ReceiptClock) -> None:
        self.connection = connection
        self.raised = False
        self._clock = clock

    def find(self, principal: str, earliest: datetime, latest: datetime) -> StoredAlert | None:
        """The latest alert of a principal that overlaps a span of time. Its `audit_ids` are left empty."""
        alerts = ALERTS.c
        query = sa.select(alerts.number, alerts.document).where(
            alerts.principal == principal,
            alerts.last_seen >= microseconds(earliest),
            alerts.first_seen <= microseconds(latest),
        )
        row = self.connection.execute(query.order_by(alerts.last_seen.desc()).limit(1)).one_or_none()
        return None if row is None else StoredAlert(row.number, Alert.model_validate_json(row.document))

    def find_flagged(self, principal: str, moment: datetime) -> StoredAlert | None:
        """The alert of a principal that holds an action of this time, if nobody gave a verdict or closed its incident."""
        alerts, time = ALERTS.c, microseconds(moment)
        at_that_time = sa.select(ALERT_EVENTS.c.alert).where(
            ALERT_EVENTS.c.alert == alerts.number, ALERT_EVENTS.c.time == time
        )
        judged = sa.select(FEEDBACK.c.alert).where(FEEDBACK.c.alert == alerts.id)
        closed = (
            sa.select(MEMBERS.c.alert)
            .join(INCIDENTS, INCIDENTS.c.id == MEMBERS.c.incident)
            .where(MEMBERS.c.alert == alerts.id, INCIDENTS.c.state != "open")
        )
        query = sa.select(alerts.number, alerts.document).where(
            alerts.principal == principal,
            alerts.first_seen <= time,
            alerts.last_seen >= time,
            at_that_time.correlate(ALERTS).exists(),
            ~judged.correlate(ALERTS).exists(),
            ~closed.correlate(ALERTS).exists(),
        )
        row = self.connection.execute(query.order_by(alerts.number.desc()).limit(1)).one_or_none()
        return None if row is None else StoredAlert(row.number, Alert.model_validate_json(row.document))

    def kept(self, numbers: Collection[int]) -> set[int]:
        """Which of these alerts still exist."""
        return set(self.connection.scalars(sa.select(ALERTS.c.number).where(ALERTS.c.number.in_(numbers))))

    def add_allowed(self, use: AllowedUse) -> None:
        """Add an action that an exception allowed, once."""
        add_allowed(self.connection, use, self._clock.now())

    def known(self, number: int, audit_ids: Sequence[str]) -> set[tuple[str, int]]:
        """Which (audit ID, time in microseconds) an alert already holds, among those of the given IDs."""
        return known_keys(self.connection, ALERT_EVENTS, number, audit_ids)

    def save(self, stored: int | None, alert: Alert, events: Sequence[tuple[str, int]]) -> int:
        """Insert an alert (`stored` is None) or replace it, and add events that are new to it. Returns its number."""
        latest = self.connection.execute(sa.select(sa.func.max(ALERTS.c.changed))).scalar() or 0
        common: dict[str, Any] = {
            "id": alert.id,
            "principal": alert.principal,
            "severity": SEVERITIES.index(alert.severity),
            "first_seen": microseconds(alert.first_seen),
            "last_seen": microseconds(alert.last_seen),
        }
        document = alert.model_dump_json(by_alias=True, exclude={"audit_ids"})
        values = common | {"changed": latest + 1, "document": document}
        line = common | _line(alert)
        if stored is None:
            self.raised = True
            raised = values | {"raised": self._clock.now()}
            insert = sa.insert(ALERTS).values(raised).returning(ALERTS.c.number)
            stored = self.connection.execute(insert).scalar_one()
            self.connection.execute(sa.insert(ALERT_LINES).values(line | {"alert": stored}))
        else:
            self.connection.execute(sa.update(ALERTS).where(ALERTS.c.number == stored).values(values))
            self.connection.execute(sa.update(ALERT_LINES).where(ALERT_LINES.c.alert == stored).values(line))
        if events:
            rows = [{"alert": stored, "audit_id": name, "time": moment} for name, moment in events]
            self.connection.execute(sa.insert(ALERT_EVENTS), rows)
        return stored


def _line(alert: Alert) -> dict[str, Any]:
    """Columns of `ALERT_LINES` that `ALERTS` does not have."""
    names = alert.namespaces
    techniques = [technique.id for technique in alert.techniques]
    return {
        "kind": alert.kind,
        "action_count": alert.action_count,
        "namespaces": "\n".join(["", *names, ""]) if names else "",
        "sentence": alert.sentence,
        "began": microseconds(alert.began or alert.first_seen),
        "evidence": alert.evidence,
        "techniques": "\n".join(["", *techniques, ""]) if techniques else "",
    }


def read_alert(connection: Connection, number: int) -> Alert:
    """An alert by its number, with as many audit IDs as a listing shows; raises NoResultFound."""
    document = connection.execute(sa.select(ALERTS.c.document).where(ALERTS.c.number == number)).scalar_one()
    return _with_audit_ids(connection, number, document, _LISTED_AUDIT_IDS)


def _with_audit_ids(connection: Connection, number: int, document: str, limit: int | None) -> Alert:
    alert = Alert.model_validate_json(document)
    events = ALERT_EVENTS.c
    query = sa.select(events.audit_id).where(events.alert == number).order_by(events.position).limit(limit)
    alert.audit_ids = list(connection.scalars(query))
    return alert


def open_database(url: str) -> Engine:
    """Connections to an alert store's database; raises StoreError for another kind of database, SQLAlchemyError, OSError."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        defaults = {name: value for name, value in _POSTGRESQL_DEFAULTS.items() if name not in parsed.query}
        schema = parsed.query.get("schema")
        parsed = parsed.difference_update_query(["schema"])
        engine = sa.create_engine(parsed, pool_pre_ping=True, connect_args=defaults)
        sa.event.listen(engine, "connect", _prepare_postgresql)
        if schema is not None:
            sa.event.listen(engine, "connect", partial(_enter_schema, str(schema)))
        return engine
    if parsed.get_backend_name() != "sqlite":
        raise StoreError(
            f"Cannot open the alert store {shown_url(url)}: kubehabit keeps alerts in SQLite or PostgreSQL. Correct store.url."
        )
    if parsed.database in (None, "", ":memory:"):
        engine = sa.create_engine(parsed, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        path = Path(str(parsed.database))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # alerts show what is detected; SQLite's files beside it take the same mode
        engine = sa.create_engine(parsed)
    sa.event.listen(engine, "connect", _prepare_sqlite)
    return engine


@contextmanager
def _waiting_for_disk(connection: Connection, waits: bool) -> Iterator[None]:
    """Set SQLite's durability; it can only be changed outside of a transaction."""
    if waits or connection.dialect.name != "sqlite":
        yield
        return
    connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
    connection.rollback()  # of nothing: only so that one can begin
    try:
        yield
    finally:
        connection.exec_driver_sql("PRAGMA synchronous=FULL")
        connection.rollback()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # Feedback, and what is no longer in the journal, must survive a power cut, not only a crash.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # The same must survive a crash of the server, whatever the role or the database has set; more may be set.
    cursor.execute("SELECT current_setting('synchronous_commit')")
    if cursor.fetchone() == ("off",):
        cursor.execute("SET synchronous_commit TO on")
    connection.commit()
    cursor.close()


def _enter_schema(schema: str, connection: Any, _record: Any) -> None:
    """Let a connection to PostgreSQL work in a schema, which is made if there is none."""
    from psycopg import sql
    from psycopg.errors import DuplicateSchema, UniqueViolation

    name = sql.Identifier(schema)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,))
        if cursor.fetchone() is None:  # or a role that may use it, but make none, could not connect
            try:
                cursor.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
            except (DuplicateSchema, UniqueViolation):  # another process made it at the same moment
                connection.rollback()
        cursor.execute(sql.SQL("SET search_path TO {}").format(name))
    connection.commit()


def take_turn(connection: Connection, key: int) -> None:
    """Hold PostgreSQL's advisory lock to the end of the transaction. SQLite has only one writer anyway.

    Each schema has locks of its own, but for `public`, whose are those of earlier releases.
    """
    if connection.dialect.name == "postgresql":
        schema = sa.func.current_schema()
        connection.execute(
            sa.select(
                sa.case(
                    (schema == "public", sa.func.pg_advisory_xact_lock(key)),
                    else_=sa.func.pg_advisory_xact_lock(key, sa.func.hashtext(schema)),
                )
            )
        )


def _what_to_check(url: str) -> str:
    return (
        "the folder's permissions"
        if url.startswith("sqlite")
        else "that the server answers and admits this user"
    )


def _first_line(error: BaseException) -> str:
    """The cause, without SQLAlchemy's links and statements."""
    cause = getattr(error, "orig", None) or error
    return (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(".")


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite store; None for another kind."""
    parsed = make_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


def missing_file(url: str) -> Path | None:
    """The file of a SQLite store, if it does not exist."""
    file = sqlite_file(url)
    return file if file is not None and not file.is_file() else None


def has_current_schema(url: str) -> bool:
    """Whether the tables of an existing store are those of this version; changes none.

    Raises:
        StoreError: the store cannot be opened.
    """
    try:
        engine = open_database(url)
        try:
            with engine.connect() as connection:
                if not sa.inspect(connection).has_table("alembic_version"):
                    return False
                return connection.scalars(_VERSIONS).all() == [_NEWEST]
        finally:
            engine.dispose()
    except (SQLAlchemyError, OSError, ImportError) as error:
        raise StoreError(
            f"Cannot open the alert store {shown_url(url)}: {_first_line(error)}. Check store.url and {_what_to_check(url)}."
        ) from error


def shown_url(url: str) -> str:
    """The URL of a store without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "(the URL cannot be read)"
