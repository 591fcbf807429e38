"""Alerts survive, stay within bounds, and repeats are recognised: in SQLite and in PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from serving.alerts.query import AlertQuery, whole
from serving.delivery.outbox import Outbox
from serving.incidents.query import IncidentQuery, page_of
from serving.process.instance_id import instance_id
from serving.schemas import Alert, ServedModel
from serving.storage import database as store_module
from serving.storage.database import AlertStore, StoreError
from serving.storage.retention import Retention
from serving.storage.tables import microseconds
from tests.serving.fakes import START
from tests.serving.postgres import DEADLINE, Postgres
from tests.serving.receivers import until
from tests.serving.sinks.test_sinks import settings_of

ROOT = Path(__file__).parents[3]


def alert(number: int, principal: str = "alice", minutes: float = 0) -> Alert:
    moment = START + timedelta(minutes=minutes)
    return Alert(
        id=f"a{number}",
        principal=principal,
        kind="human",
        peer_group="kind:human",
        first_seen=moment,
        last_seen=moment + timedelta(minutes=5),
        severity="high",
        evidence=5,
        sentence=f"sentence {number}",
        model=ServedModel(name="m", version="1"),
    )


@pytest.fixture
def store(store_url: str) -> Iterator[AlertStore]:
    opened = AlertStore(store_url, retention_days=90, max_alerts=1000)
    yield opened
    opened.close()


def sql(url: str, statement: str, **values: Any) -> list[Any]:
    """What a statement gives, past the store."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        result = connection.execute(sa.text(statement), values)
        return list(result) if result.returns_rows else []


def put(store: AlertStore, *alerts: Alert) -> None:
    with store.writing() as writer:
        for one in alerts:
            writer.save(None, one, [(f"id-{one.id}", 1)])


def waits_for_disk(store: AlertStore, *, lazily: bool) -> bool:
    """Whether a transaction's commit does."""
    with store.transaction(lazily=lazily) as connection:
        if connection.dialect.name == "sqlite":
            return connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
        return connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"


def test_only_what_can_be_made_again_does_not_wait_for_the_disk(store: AlertStore) -> None:
    lazy_too = store._engine.dialect.name == "postgresql"  # its server may crash alone
    waited = [waits_for_disk(store, lazily=lazily) for lazily in (False, True, False)]
    assert waited == [True, lazy_too, True]
    with store.writing(lazily=True) as writer:
        writer.save(None, alert(1), [])
    assert store.get("a1") is not None


def test_flushing_writes_something_whose_commit_takes_the_rest_along(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'alerts.db'}"
    store = AlertStore(url, retention_days=1, max_alerts=10)
    before = sql(url, "PRAGMA user_version")
    store.flush()
    assert sql(url, "PRAGMA user_version") != before
    store.checkpoint()
    store.close()


def check_restart(url: str) -> None:
    store = AlertStore(url, retention_days=1, max_alerts=10)
    put(store, alert(1))
    store.close()
    again = AlertStore(url, retention_days=1, max_alerts=10)
    found = again.get("a1")
    assert found is not None
    assert (found.sentence, found.audit_ids) == ("sentence 1", ["id-a1"])
    again.close()


def test_alerts_survive_a_restart(store_url: str) -> None:
    check_restart(store_url)


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    check_restart(f"sqlite:///{tmp_path}/with space and %25/serving.db")


def test_the_file_is_its_owners(tmp_path: Path) -> None:
    store = AlertStore(f"sqlite:///{tmp_path}/serving.db", retention_days=1, max_alerts=10)
    put(store, alert(1))
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    store.close()


def test_a_failed_transaction_leaves_nothing(store: AlertStore) -> None:
    def fail_half_way() -> None:
        with store.writing() as writer:
            writer.save(None, alert(1), [])
            raise OperationalError("insert", {}, Exception("disk full"))

    with pytest.raises(StoreError, match="cannot be written"):
        fail_half_way()
    assert store.page().alerts == []


def test_who_reads_meanwhile_does_not_undo_what_is_written_only_in_memory() -> None:
    store = AlertStore("sqlite://", retention_days=1, max_alerts=10)
    read: list[Alert | None] = []

    def look() -> None:
        store.checkpoint()
        read.append(store.get("a1"))

    reader = threading.Thread(target=look)
    with store.writing() as writer:
        writer.save(None, alert(1), [])
        reader.start()
        reader.join(0.2)
        writer.save(None, alert(2), [])
    reader.join(DEADLINE)
    assert (len(read), read[0] is not None) == (1, True)
    assert store.get("a2") is not None
    store.close()


def test_the_number_of_alerts_is_bounded(store_url: str) -> None:
    store = AlertStore(store_url, retention_days=1, max_alerts=3)
    for number in range(7):
        put(store, alert(number))
    assert [one.id for one in store.page().alerts] == ["a6", "a5", "a4"]
    store.close()
    assert sql(store_url, "SELECT count(*) FROM alert_events") == [(3,)]


def test_alerts_are_forgotten_by_when_they_were_raised_not_by_the_time_of_their_events(
    store_url: str,
) -> None:
    store = AlertStore(store_url, retention_days=1, max_alerts=100)
    put(store, alert(1), alert(2, minutes=-60 * 24 * 365))
    sql(store_url, "UPDATE alerts SET raised = raised - 2 * 86400000000 WHERE id = 'a1'")
    put(store, alert(3))
    assert [one.id for one in store.page().alerts] == ["a3", "a2"]
    store.close()


def test_what_is_too_old_goes_although_nothing_new_comes(store_url: str) -> None:
    store = AlertStore(store_url, retention_days=1, max_alerts=100)
    put(store, alert(1), alert(2))
    sql(store_url, "UPDATE alerts SET raised = raised - 2 * 86400000000 WHERE id = 'a1'")
    assert store.prune() == 1
    assert store.prune() == 0
    assert [one.id for one in store.page().alerts] == ["a2"]
    store.close()


def test_retention_looks_by_itself_and_again_after_a_failure(store_url: str) -> None:
    store = AlertStore(store_url, retention_days=1, max_alerts=100)
    put(store, alert(1))
    sql(store_url, "ALTER TABLE alerts RENAME TO hidden")
    failed: list[str] = []
    store.attach(failed.append)
    retention = Retention(store, seconds=0.01)
    retention.start()
    until(lambda: len(failed) >= 2)
    sql(store_url, "ALTER TABLE hidden RENAME TO alerts")
    sql(store_url, "UPDATE alerts SET raised = raised - 2 * 86400000000")
    until(lambda: store.page().alerts == [])
    retention.close()
    assert not retention._worker.is_alive
    store.close()


def test_what_waits_for_a_sink_goes_with_its_alert_and_what_people_said_of_it_stays(store_url: str) -> None:
    store = AlertStore(store_url, retention_days=1, max_alerts=100)
    sink = settings_of(type="webhook", url="http://127.0.0.1:9")
    outbox = Outbox(store, [sink])
    with store.writing() as writer:
        for number in (1, 2):
            outbox.note(writer, writer.save(None, alert(number), []), alert(number))
    for number in (1, 2):
        store.add_feedback(f"a{number}", START, "normal", f'{{"said": {number}}}')
    entry = outbox.next(sink)
    assert entry is not None
    sql(store_url, "UPDATE alerts SET raised = raised - 2 * 86400000000 WHERE id = 'a1'")
    store.prune()
    outbox.done(sink, entry, delivered=True)  # it was being sent when it was forgotten
    assert [outbox.depths()["out"][0], sql(store_url, "SELECT count(*) FROM deliveries")] == [1, [(1,)]]
    assert list(store.feedback()) == ['{"said": 1}', '{"said": 2}']
    store.close()


def test_an_alert_is_found_by_principal_and_overlap(store: AlertStore) -> None:
    put(store, alert(1), alert(2, "bob"), alert(3, minutes=60))
    with store.writing() as writer:

        def found(principal: str, begin: float, end: float) -> str | None:
            stored = writer.find(principal, START + timedelta(minutes=begin), START + timedelta(minutes=end))
            return None if stored is None else stored.alert.id

        assert found("alice", -5, 0) == "a1"
        assert found("alice", 5, 20) == "a1"
        assert found("alice", 6, 59) is None
        assert found("alice", 0, 100) == "a3"
        assert found("bob", 0, 1) == "a2"
        assert found("carol", -1000, 1000) is None


def test_events_that_an_alert_holds_are_known_by_id_and_time(store: AlertStore) -> None:
    with store.writing() as writer:
        number = writer.save(None, alert(1), [(f"id-{index}", index) for index in range(1500)])
        wanted = [f"id-{index}" for index in range(0, 3000, 2)]
        assert writer.known(number, wanted) == {(f"id-{index}", index) for index in range(0, 1500, 2)}
        assert writer.known(number + 1, wanted) == set()


@pytest.mark.parametrize("kind", ["directory", "text", "url"])
def test_a_store_that_cannot_be_opened_is_named_without_its_password(tmp_path: Path, kind: str) -> None:
    (tmp_path / "text").write_text("hello " * 1000)
    url = {
        "directory": f"sqlite:///{tmp_path}",
        "text": f"sqlite:///{tmp_path}/text",
        "url": "nothing://me:hunter2@nowhere/db",
    }[kind]
    with pytest.raises(StoreError, match="Cannot open the alert store") as raised:
        AlertStore(url, retention_days=1, max_alerts=1)
    assert "hunter2" not in str(raised.value)
    assert "Background on this error" not in str(raised.value)


def test_a_store_of_a_newer_version_is_refused(store_url: str) -> None:
    AlertStore(store_url, retention_days=1, max_alerts=1).close()
    sql(store_url, "UPDATE alembic_version SET version_num = 'z999'")
    with pytest.raises(StoreError, match="newer kubehabit"):
        AlertStore(store_url, retention_days=1, max_alerts=1)


def test_moments_are_exact_microseconds() -> None:
    moment = datetime(2026, 11, 23, 14, 31, 12, 575126, tzinfo=UTC)
    assert microseconds(moment) == 1795444272575126
    assert microseconds(moment.replace(tzinfo=None)) == 1795444272575126
    assert microseconds(moment.astimezone(timezone(timedelta(hours=5)))) == 1795444272575126


def migrate(url: str, revision: str, down: bool = False) -> None:
    from alembic import command
    from alembic.config import Config

    import serving

    engine = sa.create_engine(url, poolclass=sa.NullPool)
    config = Config()
    config.set_main_option("script_location", str(Path(serving.__file__).parent / "storage" / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)


def test_a_store_of_the_first_version_is_brought_up_to_date_with_all_it_holds(store_url: str) -> None:
    migrate(store_url, "a001")
    document = alert(1).model_dump_json(by_alias=True, exclude={"audit_ids"})
    sql(
        store_url,
        "INSERT INTO alerts VALUES (7, 'a1', 'alice', 3, 1, 2, 9000000000000000, :document)",
        document=document,
    )
    sql(store_url, "INSERT INTO alert_events VALUES (1, 7, 'id-a1', 1)")
    if store_url.startswith("postgresql"):  # as if they had been numbered by it
        sql(store_url, "SELECT setval('alerts_number_seq', 7), setval('alert_events_position_seq', 1)")
    store = AlertStore(store_url, retention_days=1, max_alerts=10)
    found = store.get("a1")
    assert found is not None
    assert found.audit_ids == ["id-a1"]
    assert [change.position for change in store.changes(0)] == [7]
    put(store, alert(2))
    assert [(change.position, change.alert.id) for change in store.changes(7)] == [(8, "a2")]
    store.close()


def test_a_store_that_is_up_to_date_is_opened_without_alembic(tmp_path: Path) -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(store_module._MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == store_module._NEWEST
    code = (
        "import sys; from serving.storage.database import AlertStore; "
        f"AlertStore('sqlite:///{tmp_path}/a.db', retention_days=1, max_alerts=1).close(); print('alembic' in sys.modules)"
    )
    loaded = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
        ).stdout
        for _ in range(2)
    ]
    assert loaded == ["True\n", "False\n"]


def test_the_schema_can_go_all_the_way_back(store_url: str) -> None:
    AlertStore(store_url, retention_days=1, max_alerts=1).close()
    migrate(store_url, "base", down=True)
    names = set(sa.inspect(sa.create_engine(store_url, poolclass=sa.NullPool)).get_table_names())
    assert names <= {"alembic_version", "sqlite_sequence"}


def test_text_that_no_database_can_hold_is_in_no_alert(store: AlertStore) -> None:
    put(store, alert(1))
    assert store.get("a1\0") is None
    assert whole(store, AlertQuery(principal="alice\0")).alerts == []
    assert whole(store, AlertQuery(principal="alice")).alerts != []


def test_a_cursor_larger_than_any_number_is_before_all_of_them(store: AlertStore) -> None:
    put(store, alert(1))
    with store.reading() as connection:
        page_of(connection, IncidentQuery(), limit=10, cursor=str(10**18 - 1))
    assert [one.id for one in store.page(cursor=10**18 - 1).alerts] == ["a1"]
    assert store.changes(10**18 - 1) == []


def test_a_failure_is_counted(store: AlertStore) -> None:
    failed: list[str] = []
    store.attach(failed.append)

    def fail(opened: Callable[[], Any]) -> None:
        with opened() as connection:
            connection.execute(sa.text("SELECT no_such_column FROM alerts"))

    for opened in (store.transaction, store.reading):
        with pytest.raises(StoreError, match="cannot be"):
            fail(opened)
    assert failed == ["write", "read"]


@pytest.mark.slow
def test_processes_that_share_a_database_write_one_after_the_other(postgres: Postgres) -> None:
    url = postgres.database()
    with ThreadPoolExecutor(4) as pool:  # all at once, on an empty database
        stores = list(pool.map(lambda _: AlertStore(url, retention_days=1, max_alerts=1000), range(4)))

        def raise_alerts(worker: int) -> None:
            for number in range(20):
                put(stores[worker], alert(100 * worker + number, principal=f"user-{number}"))

        list(pool.map(raise_alerts, range(4)))
    changes = stores[0].changes(0, limit=1000)
    assert [change.position for change in changes] == list(range(1, 81))
    assert len({change.alert.id for change in changes}) == 80
    for store in stores:
        store.close()


@pytest.mark.slow
def test_who_lost_the_server_goes_on_when_it_is_back_and_nothing_acknowledged_is_missing() -> None:
    server = Postgres()
    try:
        server.start()
        store = AlertStore(server.database(), retention_days=1, max_alerts=1000)
        acknowledged = []
        for number in range(30):
            put(store, alert(number))
            acknowledged.append(f"a{number}")
        server.kill()
        with pytest.raises(StoreError, match="Check the database server"):
            put(store, alert(30))
        with pytest.raises(StoreError, match="cannot be read"):
            store.page()
        server.start()
        assert [one.id for one in store.page(limit=500).alerts] == acknowledged[::-1]
        put(store, alert(31))
        assert store.page(limit=1).alerts[0].id == "a31"
        store.close()
    finally:
        server.stop()


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_writes_has_stored_all_it_acknowledged(store_url: str) -> None:
    code = (
        "import sys\n"
        "from serving.storage.database import AlertStore\n"
        "from tests.serving.storage.test_database import alert, put\n"
        "store = AlertStore(sys.argv[1], retention_days=90, max_alerts=100000)\n"
        "for number in range(100000):\n"
        "    put(store, alert(number))\n"
        "    print(f'a{number}', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, store_url], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(25)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    process.wait()
    store = AlertStore(store_url, retention_days=90, max_alerts=100_000)
    found = [one.id for one in store.page(limit=100_000).alerts][::-1]
    assert found[: len(acknowledged)] == acknowledged
    assert len(found) - len(acknowledged) in (0, 1)  # one may be stored whose acknowledgement did not get out
    put(store, alert(-1))
    store.close()


def test_two_dispatchers_never_send_the_same_entry(store_url: str) -> None:
    sink = settings_of(type="webhook", url="http://127.0.0.1:9")
    stores = [AlertStore(store_url, retention_days=1, max_alerts=1000) for _ in range(2)]
    outboxes = [Outbox(store, [sink]) for store in stores]
    with stores[0].writing() as writer:
        for number in range(40):
            one = alert(number, principal=f"user-{number}")
            outboxes[0].note(writer, writer.save(None, one, []), one)
    sent: list[list[str]] = [[], []]
    start = threading.Barrier(2)

    def work(index: int) -> None:
        start.wait()
        while (entry := outboxes[index].next(sink)) is not None:
            sent[index].append(entry.update.alert.id)
            time.sleep(0.001)
            outboxes[index].done(sink, entry, delivered=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    assert sorted(sent[0] + sent[1]) == sorted(f"a{number}" for number in range(40))
    for store in stores:
        store.close()


def test_a_claim_passes_on_when_its_holder_gives_it_back_or_is_gone(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.delivery import outbox as outbox_module

    clock = [datetime.now(UTC)]
    monkeypatch.setattr(outbox_module, "now", lambda: clock[0])
    sink = settings_of(type="webhook", url="http://127.0.0.1:9", timeout_seconds=10)
    store = AlertStore(store_url, retention_days=1, max_alerts=1000)
    first, second = Outbox(store, [sink]), Outbox(store, [sink])
    with store.writing() as writer:
        first.note(writer, writer.save(None, alert(1), []), alert(1))
    clock[0] += timedelta(seconds=1)
    assert first.next(sink) is not None
    assert second.next(sink) is None
    assert first.next(sink) is not None  # another attempt of the same
    clock[0] += timedelta(seconds=39)
    assert second.next(sink) is None
    clock[0] += timedelta(seconds=2)
    assert second.next(sink) is not None  # the first must have died
    assert first.next(sink) is None
    second.release()
    assert first.next(sink) is not None
    store.close()


def test_a_process_is_the_same_claimer_after_a_restart(store_url: str, tmp_path: Path) -> None:
    sink = settings_of(type="webhook", url="http://127.0.0.1:9")
    store = AlertStore(store_url, retention_days=1, max_alerts=1000)
    killed = Outbox(store, [sink], instance_id(tmp_path / "one"))
    with store.writing() as writer:
        killed.note(writer, writer.save(None, alert(1), []), alert(1))
    assert killed.next(sink) is not None
    assert Outbox(store, [sink], instance_id(tmp_path / "two")).next(sink) is None
    assert Outbox(store, [sink], instance_id(tmp_path / "one")).next(sink) is not None
    store.close()


def test_a_damaged_identity_is_replaced(tmp_path: Path) -> None:
    first = instance_id(tmp_path)
    assert instance_id(tmp_path) == first
    (tmp_path / "instance").write_text("")
    second = instance_id(tmp_path)
    assert second != first
    assert instance_id(tmp_path) == second


@pytest.mark.slow
def test_an_alert_that_grows_while_another_process_notes_it_as_sent_is_sent_again(postgres: Postgres) -> None:
    url = postgres.database()
    sink = settings_of(type="webhook", url="http://127.0.0.1:9", repeat_minutes=0)
    stores = [AlertStore(url, retention_days=1, max_alerts=1000) for _ in range(2)]
    scoring, sending = (Outbox(store, [sink]) for store in stores)
    small, large = (alert(1).model_copy(update={"action_count": count}) for count in (1, 2))
    with stores[0].writing() as writer:
        number = writer.save(None, small, [])
        scoring.note(writer, number, small)
    entry = sending.next(sink)
    assert entry is not None
    with stores[0].writing() as writer:
        writer.save(number, large, [])
        scoring.note(writer, number, large)
        # It cannot be seen yet that the alert has grown.
        noting = threading.Thread(target=sending.done, args=(sink, entry), kwargs={"delivered": True})
        noting.start()
        noting.join(0.3)
    noting.join(DEADLINE)
    again = sending.next(sink)
    assert again is not None
    assert again.update.alert.action_count == 2
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql+pymysql://me:hunter2@h/d", "SQLite or PostgreSQL"),
        ("postgresql+psycopg2://me:hunter2@h/d", r"'psycopg2' is not installed.*kubehabit\[postgres\]"),
        (
            "postgresql://me:hunter2@127.0.0.1:9/d",
            "Connection refused.*that the server answers and admits this user",
        ),
    ],
)
def test_a_database_or_driver_that_is_not_there_is_named(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as raised:
        AlertStore(url, retention_days=1, max_alerts=1)
    assert "hunter2" not in str(raised.value)
