"""Alerts survive, stay within bounds, and repeats are recognised."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from serving.alerts import Alert, ServedModel
from serving.store import AlertStore, StoreError, microseconds
from tests.serving.fakes import START


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


def put(store: AlertStore, *alerts: Alert) -> None:
    with store.writing() as writer:
        for one in alerts:
            writer.put(None, one, [(f"id-{one.id}", 1)])


def test_alerts_survive_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/with space and %25/serving.db"
    store = AlertStore(url, retention_days=1, max_alerts=10)
    put(store, alert(1))
    store.close()
    again = AlertStore(url, retention_days=1, max_alerts=10)
    found = again.get("a1")
    assert found is not None
    assert (found.sentence, found.audit_ids) == ("sentence 1", ["id-a1"])
    again.close()


def test_the_file_is_its_owners(tmp_path: Path) -> None:
    store = AlertStore(f"sqlite:///{tmp_path}/serving.db", retention_days=1, max_alerts=10)
    put(store, alert(1))
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    store.close()


def test_a_failed_transaction_leaves_nothing(store: AlertStore) -> None:
    def fail_half_way() -> None:
        with store.writing() as writer:
            writer.put(None, alert(1), [])
            raise OperationalError("insert", {}, Exception("disk full"))

    with pytest.raises(StoreError, match="cannot be written"):
        fail_half_way()
    assert store.page().alerts == []


def test_the_number_of_alerts_is_bounded(tmp_path: Path) -> None:
    store = AlertStore(f"sqlite:///{tmp_path}/serving.db", retention_days=1, max_alerts=3)
    for number in range(7):
        put(store, alert(number))
    assert [one.id for one in store.page().alerts] == ["a6", "a5", "a4"]
    store.close()
    with sqlite3.connect(tmp_path / "serving.db") as connection:
        assert connection.execute("SELECT count(*) FROM alert_events").fetchone() == (3,)


def test_alerts_are_forgotten_by_when_they_were_raised_not_by_the_time_of_their_events(
    tmp_path: Path,
) -> None:
    file = tmp_path / "serving.db"
    store = AlertStore(f"sqlite:///{file}", retention_days=1, max_alerts=100)
    put(store, alert(1), alert(2, minutes=-60 * 24 * 365))
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alerts SET raised = raised - 2 * 86400000000 WHERE id = 'a1'")
    put(store, alert(3))
    assert [one.id for one in store.page().alerts] == ["a3", "a2"]
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
        number = writer.put(None, alert(1), [(f"id-{index}", index) for index in range(1500)])
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


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/serving.db"
    AlertStore(url, retention_days=1, max_alerts=1).close()
    with sqlite3.connect(tmp_path / "serving.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'z999'")
    with pytest.raises(StoreError, match="newer kubehabit"):
        AlertStore(url, retention_days=1, max_alerts=1)


def test_moments_are_exact_microseconds() -> None:
    moment = datetime(2026, 11, 23, 14, 31, 12, 575126, tzinfo=UTC)
    assert microseconds(moment) == 1795444272575126
    assert microseconds(moment.replace(tzinfo=None)) == 1795444272575126
    assert microseconds(moment.astimezone(timezone(timedelta(hours=5)))) == 1795444272575126


def test_a_store_of_the_first_version_is_brought_up_to_date_with_all_it_holds(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine

    import serving

    url = f"sqlite:///{tmp_path}/serving.db"
    old = create_engine(url)
    config = Config()
    config.set_main_option("script_location", str(Path(serving.__file__).parent / "migrations"))
    with old.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "a001")
    old.dispose()
    with sqlite3.connect(tmp_path / "serving.db") as connection:
        document = alert(1).model_dump_json(by_alias=True, exclude={"audit_ids"})
        connection.execute(
            "INSERT INTO alerts VALUES (7, 'a1', 'alice', 3, 1, 2, 9000000000000000, ?)", [document]
        )
        connection.execute("INSERT INTO alert_events VALUES (1, 7, 'id-a1', 1)")
    connection.close()
    store = AlertStore(url, retention_days=1, max_alerts=10)
    found = store.get("a1")
    assert found is not None
    assert found.audit_ids == ["id-a1"]
    assert [change.position for change in store.changes(0)] == [7]
    put(store, alert(2))
    assert [(change.position, change.alert.id) for change in store.changes(7)] == [(8, "a2")]
    store.close()
