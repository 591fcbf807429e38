"""The alert store stays within bounds, whatever the host's clock says and however many alerts there are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from data.actions.fields import FIELDS
from serving.alerts.explain.explainer import Explainer
from serving.delivery import outbox as outbox_module
from serving.delivery.outbox import Outbox
from serving.schemas import Alert
from serving.scoring.engine import Engine
from serving.storage.database import AlertStore, StoreError
from serving.storage.receipt_clock import ReceiptClock
from tests.serving.conftest import model_info
from tests.serving.fakes import FakeDetector, decoded, secret_event
from tests.serving.sinks.test_sinks import settings_of
from tests.serving.storage.test_database import alert, put, sql

DAY = 86_400
NOW = 1_795_000_000


class Clocks:
    """A host's clock, and the monotonic one beside it, both in seconds."""

    def __init__(self) -> None:
        self.wall, self.monotonic = float(NOW), 1000.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def clock(self) -> ReceiptClock:
        return ReceiptClock(lambda: int(self.wall * 1e9), lambda: int(self.monotonic * 1e9))


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def store(store_url: str, clocks: Clocks) -> Iterator[AlertStore]:
    opened = AlertStore(store_url, retention_days=90, max_alerts=1000, clock=clocks.clock())
    yield opened
    opened.close()


def ids(store: AlertStore) -> set[str]:
    return {one.id for one in store.page(limit=2000).alerts}


def test_the_receipt_clock_follows_a_plausible_clock(clocks: Clocks) -> None:
    clock = clocks.clock()
    for seconds in (1, 3600, 100 * DAY):
        clocks.pass_(seconds)
        assert clock.now() == int(clocks.wall * 1e6)
    clocks.wall += DAY / 2  # put right by half a day
    assert clock.now() == int(clocks.wall * 1e6)
    clocks.wall -= 10 * DAY
    assert (clock.now(), clock.suspended) == (int(clocks.wall * 1e6), False)


def test_a_clock_that_jumps_ahead_suspends_retention_until_it_is_right(
    clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    clock = clocks.clock()
    with caplog.at_level(logging.INFO, "kubehabit.store"):
        clocks.wall += 400 * DAY
        for _ in range(10):
            clocks.pass_(3600)
            assert clock.suspended
        assert clock.now() <= (NOW + 11 * DAY) * 1e6
        clocks.wall -= 400 * DAY
        assert not clock.suspended
        assert clock.now() == int(clocks.wall * 1e6)
    assert ["ahead" in record.message for record in caplog.records] == [True, False]


def test_a_clock_that_stays_is_believed_in_the_end(clocks: Clocks) -> None:
    clock = clocks.clock()
    clocks.wall += 60 * DAY
    for _ in range(70):
        clocks.pass_(3600)
        clock.now()
    assert not clock.suspended
    assert clock.now() == int(clocks.wall * 1e6)


def test_a_clock_400_days_ahead_deletes_no_alert(store: AlertStore, clocks: Clocks) -> None:
    put(store, alert(1))
    clocks.pass_(60)
    clocks.wall += 400 * DAY
    put(store, alert(2))
    assert store.prune() == 0
    assert ids(store) == {"a1", "a2"}
    clocks.wall -= 400 * DAY
    clocks.pass_(91 * DAY)  # what came while it was wrong ages like the rest
    assert store.prune() == 2


def test_nor_does_one_that_was_wrong_at_the_start(store_url: str, clocks: Clocks) -> None:
    first = AlertStore(store_url, retention_days=90, max_alerts=1000, clock=clocks.clock())
    put(first, alert(1))
    first.close()
    clocks.wall += 400 * DAY
    again = AlertStore(store_url, retention_days=90, max_alerts=1000, clock=clocks.clock())
    assert again.clock.suspended
    put(again, alert(2))
    assert again.prune() == 0
    assert ids(again) == {"a1", "a2"}
    again.close()


def test_a_quiet_month_is_no_jump(store_url: str, clocks: Clocks) -> None:
    first = AlertStore(store_url, retention_days=90, max_alerts=1000, clock=clocks.clock())
    put(first, alert(1))
    first.close()
    clocks.pass_(29 * DAY)
    again = AlertStore(store_url, retention_days=90, max_alerts=1000, clock=clocks.clock())
    assert not again.clock.suspended
    again.close()


def test_only_a_share_is_deleted_by_age_at_once(store: AlertStore, clocks: Clocks) -> None:
    put(store, *(alert(number) for number in range(300)))
    clocks.pass_(91 * DAY)
    for number in range(300, 303):
        put(store, alert(number))  # however often alerts are raised
    assert len(ids(store)) == 203
    assert [store.prune() for _ in range(3)] == [100, 100, 0]
    assert ids(store) == {"a300", "a301", "a302"}


def dated(number: int, year: int, severity: str = "low") -> Alert:
    moment = datetime(year, 1, 1, tzinfo=UTC)
    values = {"first_seen": moment, "last_seen": moment + timedelta(minutes=1), "severity": severity}
    return alert(number).model_copy(update=values)


def test_an_event_of_2099_neither_ends_retention_nor_comes_first(store: AlertStore, clocks: Clocks) -> None:
    put(store, alert(1), dated(2, 2099))
    clocks.pass_(60)
    put(store, alert(3))
    assert [one.id for one in store.page().alerts] == ["a3", "a2", "a1"]
    assert [one.id for one in store.page(limit=1, cursor=store.page(limit=1).cursor).alerts] == ["a2"]
    clocks.pass_(91 * DAY)
    assert store.prune() == 3


def graded(number: int, severity: str) -> Alert:
    return alert(number).model_copy(update={"severity": severity})


def test_a_flood_of_alerts_drops_the_least_severe_and_says_so(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = AlertStore(store_url, retention_days=90, max_alerts=20)
    put(store, graded(1, "critical"), graded(2, "high"), graded(3, "medium"))
    for number in range(4, 100):
        put(store, graded(number, "low"))
    found = store.page().alerts
    assert len(found) == 20
    assert {one.id for one in found if one.severity != "low"} == {"a1", "a2", "a3"}
    assert [one.id for one in found][:2] == ["a99", "a98"]
    assert store.dropped == {"low": 79}
    assert "alerts were dropped" in caplog.text
    store.close()


def test_in_a_store_full_of_severe_alerts_new_ones_still_show(store_url: str) -> None:
    store = AlertStore(store_url, retention_days=90, max_alerts=20)
    put(store, *(graded(number, "critical") for number in range(20)))
    put(store, graded(20, "low"))
    assert ids(store) == {f"a{number}" for number in range(1, 21)}
    assert store.dropped == {"critical": 1}
    store.close()


def test_a_dropped_batch_that_is_rolled_back_is_not_counted(store_url: str) -> None:
    store = AlertStore(store_url, retention_days=90, max_alerts=1)
    put(store, alert(1))

    def fail() -> None:
        with store.writing() as writer:
            writer.save(None, alert(2), [])
            writer.connection.execute(sa.text("SELECT * FROM nothing"))

    with pytest.raises(StoreError):
        fail()
    assert (store.dropped, ids(store)) == ({}, {"a1"})
    store.close()


def test_alerts_whose_lines_an_older_version_left_out_are_bounded_too(store_url: str) -> None:
    store = AlertStore(store_url, retention_days=90, max_alerts=3)
    put(store, *(alert(number) for number in range(3)))
    sql(store_url, "DELETE FROM alert_lines")
    put(store, alert(3), alert(4))
    assert len(ids(store)) == 3
    store.close()


@contextmanager
def locked(store: AlertStore, url: str) -> Iterator[None]:
    """Another process writes for longer than the store waits."""
    impatient = lambda raw, *_: raw.execute("PRAGMA busy_timeout=50")  # noqa: E731
    sa.event.listen(store._engine, "checkout", impatient)
    other = sa.create_engine(url, poolclass=sa.NullPool).connect()
    other.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.rollback()
        other.close()


def test_a_locked_store_loses_nothing_and_keeps_nothing_twice(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'alerts.db'}"
    store = AlertStore(url, retention_days=90, max_alerts=100)
    with locked(store, url), pytest.raises(StoreError, match="locked"):
        put(store, alert(1))
    put(store, alert(1))
    assert [one.id for one in store.page().alerts] == ["a1"]
    store.close()


def test_a_full_disk_loses_nothing_and_keeps_nothing_twice(tmp_path: Path) -> None:
    store = AlertStore(f"sqlite:///{tmp_path / 'alerts.db'}", retention_days=90, max_alerts=10_000)
    put(store, alert(0))
    full = True

    def limit(raw: sa.engine.interfaces.DBAPIConnection, *_: object) -> None:
        cursor = raw.cursor()
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {pages if full else 1_000_000}")

    sa.event.listen(store._engine, "checkout", limit)
    acknowledged = 1
    with pytest.raises(StoreError, match="full"):  # noqa: PT012 - which write finds it full is not known
        for number in range(1, 200):
            put(store, alert(number))
            acknowledged += 1
    assert ids(store) == {f"a{number}" for number in range(acknowledged)}
    full = False
    put(store, alert(acknowledged))
    assert ids(store) == {f"a{number}" for number in range(acknowledged + 1)}
    store.close()


def test_what_a_locked_store_refused_is_alerted_and_delivered_once(
    tmp_path: Path, explainer: Explainer
) -> None:
    url = f"sqlite:///{tmp_path / 'alerts.db'}"
    store = AlertStore(url, retention_days=90, max_alerts=100)
    sink = settings_of(type="webhook", url="http://127.0.0.1:9")
    outbox = Outbox(store, [sink])
    engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer, outbox=outbox)
    with locked(store, url), pytest.raises(StoreError, match="locked"):
        engine.score(decoded([secret_event(0), secret_event(1, user="bob@corp")]))
    engine.score(decoded([secret_event(2)]))
    engine.flush()
    found = {one.principal: one.audit_ids for one in store.page().alerts}
    assert found == {"alice@corp": ["id-0", "id-2"], "bob@corp": ["id-1"]}
    assert outbox.depths()["out"][0] == 2
    assert len(engine.incidents.page().incidents) == 2
    engine.close()


def test_what_a_clock_that_was_ahead_queued_or_claimed_does_not_wait_for_that_time(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AlertStore(store_url, retention_days=90, max_alerts=100)
    sink = settings_of(type="webhook", url="http://127.0.0.1:9", repeat_minutes=60)
    mine, other = Outbox(store, [sink], "mine"), Outbox(store, [sink], "other")
    ahead = datetime.now(UTC) + timedelta(days=400)
    monkeypatch.setattr(outbox_module, "now", lambda: ahead)
    with store.writing() as writer:
        mine.note(writer, writer.save(None, alert(1), []), alert(1))
    assert other.next(sink) is not None  # claimed, and then its process died
    monkeypatch.undo()
    entry = mine.next(sink)
    assert entry is not None, "until the clock is where it was 400 days later"
    mine.done(sink, entry, delivered=True)
    assert mine.next(sink) is None
    store.close()
