"""Lists of alerts: filters, search, pages, and what older stores hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from data.actions.fields import FIELDS
from serving.alerts.explain.explainer import Explainer
from serving.alerts.overview import sum_up
from serving.alerts.query import (
    AlertLine,
    AlertQuery,
    by_severity,
    feedback_on,
    incident_of,
    lines,
    namespaces,
    whole,
)
from serving.incidents.incidents import Asker, Close, Incidents
from serving.incidents.query import IncidentQuery, open_by_severity, page_of, unattended
from serving.schemas import Alert
from serving.scoring.engine import Engine
from serving.storage.database import AlertStore
from serving.storage.tables import ALERT_LINES, microseconds
from serving.storage.views import SavedView, remove_view, save_view, saved_views
from tests.serving.conftest import model_info
from tests.serving.fakes import START, FakeDetector, decoded, secret_event


def raise_alerts(engine: Engine) -> list[Alert]:
    """Three alerts of three people, oldest first; that of bob is more severe than the others in the list by hand."""
    raised = []
    for number, (user, namespace) in enumerate(
        (("alice@corp", "payments"), ("bob@corp", "web"), ("carol%corp", "pay_ments"))
    ):
        event = secret_event(number, user=user, namespace=namespace, seconds=number * 90_000)
        raised += engine.score(decoded([event])).raised
    assert len(raised) == 3
    return raised


def found(store: AlertStore, wanted: AlertQuery) -> list[str]:
    with store.reading() as connection:
        found_lines, _ = lines(connection, wanted, limit=100)
        assert sum(by_severity(connection, wanted).values()) == len(found_lines)
    names = [line.principal for line in found_lines]
    assert [alert.principal for alert in whole(store, wanted).alerts] == names, "the API finds the same"
    return names


def test_each_filter_finds_what_it_names_and_nothing_else(engine: Engine, store: AlertStore) -> None:
    alice, bob, carol = raise_alerts(engine)
    everybody = [carol.principal, bob.principal, alice.principal]
    assert found(store, AlertQuery()) == everybody
    assert found(store, AlertQuery(severity="high")) == everybody
    assert found(store, AlertQuery(severity="critical")) == []
    assert found(store, AlertQuery(principal="bob@corp")) == [bob.principal]
    assert found(store, AlertQuery(principal="bob")) == []
    assert found(store, AlertQuery(namespace="pay_ments")) == [carol.principal], "_ stands for itself only"
    assert found(store, AlertQuery(namespace="pay")) == []
    assert found(store, AlertQuery(text="PAYMENTS")) == [alice.principal]
    assert found(store, AlertQuery(text="carol%")) == [carol.principal]
    assert found(store, AlertQuery(text="%")) == [carol.principal], "% stands for itself only"
    assert found(store, AlertQuery(text=bob.id)) == [bob.principal]
    assert found(store, AlertQuery(text="\0")) == everybody
    assert found(store, AlertQuery(principal="bob@corp\0")) == []
    assert found(store, AlertQuery(namespace="web\0")) == []
    assert found(store, AlertQuery(namespace="\nweb")) == []
    assert found(store, AlertQuery(principal="bob@corp", text="payments")) == []
    with store.reading() as connection:
        assert namespaces(connection) == ["pay_ments", "payments", "web"]


def test_a_new_alert_matches_on_the_stream_as_in_the_list(engine: Engine, store: AlertStore) -> None:
    alerts = raise_alerts(engine)
    for wanted in (
        AlertQuery(),
        AlertQuery(severity="critical"),
        AlertQuery(severity="low", namespace="web"),
        AlertQuery(principal="alice@corp"),
        AlertQuery(text="LISTED"),
        AlertQuery(text="nobody"),
        AlertQuery(text="\0"),
        AlertQuery(principal="alice@corp\0"),
        AlertQuery(namespace="web\0"),
        AlertQuery(namespace="\nweb"),
        AlertQuery(state="open"),
        AlertQuery(state="closed"),
        AlertQuery(verdict="none"),
        AlertQuery(verdict="normal"),
    ):
        assert [a.principal for a in reversed(alerts) if wanted.matches(a)] == found(store, wanted), wanted


def test_pages_go_on_where_the_one_before_ended(engine: Engine, store: AlertStore) -> None:
    raise_alerts(engine)
    seen, cursor = [], None
    with store.reading() as connection:
        for _ in range(3):
            found_lines, cursor = lines(connection, AlertQuery(), limit=1, cursor=cursor)
            seen += [line.principal for line in found_lines]
    assert seen == ["carol%corp", "bob@corp", "alice@corp"]
    assert cursor is None


def test_the_last_word_of_feedback_counts_and_all_of_it_is_kept(engine: Engine, store: AlertStore) -> None:
    alice, bob, _ = raise_alerts(engine)
    store.add_feedback(alice.id, START, "normal", "first")
    store.add_feedback(alice.id, START, "malicious", "second")
    assert found(store, AlertQuery(verdict="malicious")) == [alice.principal]
    assert found(store, AlertQuery(verdict="normal")) == []
    assert found(store, AlertQuery(verdict="none")) == ["carol%corp", bob.principal]
    with store.reading() as connection:
        assert feedback_on(connection, alice.id) == ["second", "first"]


def test_the_state_is_that_of_the_incident(engine: Engine, store: AlertStore) -> None:
    alice, bob, carol = raise_alerts(engine)
    engine.incidents.decide(alice.id, Close(), Asker())
    assert found(store, AlertQuery(state="closed")) == [alice.principal]
    assert found(store, AlertQuery(state="open")) == [carol.principal, bob.principal]
    with store.reading() as connection:
        assert incident_of(connection, alice.id) == (alice.id, "closed")
        assert incident_of(connection, "nothing") == ("", "")


def test_an_alert_that_grows_is_shown_as_it_stands(engine: Engine, store: AlertStore) -> None:
    raise_alerts(engine)
    later = secret_event(7, user="alice@corp", namespace="search", seconds=60)
    assert engine.score(decoded([later])).grown
    with store.reading() as connection:
        found_lines, _ = lines(connection, AlertQuery(principal="alice@corp"), limit=10)
    assert found_lines[0].action_count == 2
    assert found_lines[0].namespaces == ["payments", "search"]
    assert found_lines[0].last_seen - found_lines[0].first_seen == timedelta(seconds=60)
    stored = store.get(found_lines[0].id)
    assert stored is not None
    assert found_lines[0].sentence == stored.sentence


def test_an_alert_without_a_line_is_found_by_what_it_says(engine: Engine, store: AlertStore) -> None:
    """A version of before the lines, at work beside this one, writes none."""
    alice, bob, _ = raise_alerts(engine)
    store.add_feedback(bob.id, START, "normal", "first")
    asked = (
        AlertQuery(),
        AlertQuery(severity="high"),
        AlertQuery(severity="critical"),
        AlertQuery(principal="alice@corp"),
        AlertQuery(namespace="payments"),
        AlertQuery(namespace="web", verdict="normal"),
        AlertQuery(namespace="web", verdict="malicious"),
        AlertQuery(text="listed secrets in WEB"),
        AlertQuery(text="nobody"),
        AlertQuery(state="open", text="alice"),
        AlertQuery(state="closed"),
    )
    before = [whole(store, wanted).alerts for wanted in asked]
    assert [len(alerts) for alerts in before] == [3, 3, 0, 1, 1, 1, 0, 1, 0, 1, 0]
    with store.transaction() as connection:
        without = sa.delete(ALERT_LINES).where(ALERT_LINES.c.id.in_([alice.id, bob.id]))
        connection.execute(without)
    assert [whole(store, wanted).alerts for wanted in asked] == before


def test_whole_alerts_are_filtered_and_paged_in_every_database(store_url: str, engine: Engine) -> None:
    opened = AlertStore(store_url, retention_days=90, max_alerts=1000)
    for alert in raise_alerts(engine):
        with opened.writing() as writer:
            writer.save(None, alert, [(f"of-{alert.id}", 1)])
            Incidents(opened, engine.explainer).join(writer.connection, alert, [])
    asked = AlertQuery(severity="high", state="open", verdict="none", text="PAY")
    first = whole(opened, asked, limit=1)
    assert [alert.principal for alert in first.alerts] == ["carol%corp"]
    assert first.alerts[0].audit_ids == [f"of-{first.alerts[0].id}"]
    second = whole(opened, asked, limit=1, cursor=first.cursor)
    assert [alert.principal for alert in second.alerts] == ["alice@corp"]
    assert second.cursor is None
    later = START + timedelta(hours=1)
    assert [alert.principal for alert in whole(opened, asked, since=later).alerts] == ["carol%corp"]
    assert whole(opened, AlertQuery(principal="alice@corp", namespace="web")).alerts == []
    opened.close()


def test_forgotten_alerts_are_in_no_list(tmp_path: Path, engine: Engine) -> None:
    small = AlertStore(f"sqlite:///{tmp_path}/small.db", retention_days=1, max_alerts=2)
    alerts = raise_alerts(engine)
    for alert in alerts:
        with small.writing() as writer:
            writer.save(None, alert, [])
    assert found(small, AlertQuery()) == ["carol%corp", "bob@corp"]
    small.close()


def test_a_store_of_before_is_brought_up_to_date(store_url: str, engine: Engine) -> None:
    """What the lists show is filled in from the documents, and verdicts from the feedback."""

    def stored(opened: AlertStore) -> list[sa.Row[tuple[object, ...]]]:
        with opened.reading() as connection:
            return list(connection.execute(sa.select(ALERT_LINES).order_by(ALERT_LINES.c.alert)))

    from alembic import command
    from alembic.config import Config

    opened = AlertStore(store_url, retention_days=90, max_alerts=1000)
    alerts = raise_alerts(engine)
    alerts[0].began = START - timedelta(hours=1)
    for alert in alerts:
        with opened.writing() as writer:
            writer.save(None, alert, [])
    opened.add_feedback(alerts[0].id, START, "malicious", '{"verdict": "malicious"}')
    before = stored(opened)
    assert (before[0].began, before[0].evidence) == (microseconds(alerts[0].began), 5.0)
    config = Config()
    config.set_main_option(
        "script_location",
        str(Path(__file__).parents[3] / "serving" / "storage" / "migrations").replace("%", "%%"),
    )
    with opened.transaction() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "a004")
        assert "alert_lines" not in sa.inspect(connection).get_table_names()
    opened.close()
    again = AlertStore(store_url, retention_days=90, max_alerts=1000)
    assert stored(again) == before
    assert found(again, AlertQuery(verdict="malicious")) == [alerts[0].principal]
    again.close()


@pytest.mark.parametrize("empty", ["", " "])
def test_what_is_empty_does_not_matter(empty: str, engine: Engine, store: AlertStore) -> None:
    raise_alerts(engine)
    assert len(found(store, AlertQuery(text=empty))) == 3


def test_sums_orders_and_pages_are_the_same_in_both_databases(store_url: str, explainer: Explainer) -> None:
    store = AlertStore(store_url, retention_days=90, max_alerts=1000)
    try:
        engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer)
        alice, bob, carol = (alert.id for alert in raise_alerts(engine))
        with store.reading() as connection:
            sums = sum_up(
                connection,
                START - timedelta(hours=1),
                START + timedelta(days=3),
                timedelta(days=1),
                {"T1552.007": ("Container API", "Credential Access"), "T1496": ("Hijacking", "Impact")},
            )
            assert [one.high for one in sums.over_time] == [1, 1, 1, 0]
            assert [one.alerts for one in sums.techniques] == [3, 0]
            assert {one.name for one in sums.namespaces} == {"pay_ments", "payments", "web"}
            assert open_by_severity(connection)["high"] == unattended(connection) == 3
            for order, expected in (
                ("newest", [carol, bob, alice]),
                ("severity", [carol, bob, alice]),
                ("oldest", [alice, bob, carol]),
            ):
                assert paged(lambda at, by=order: alert_page(connection, by, at)) == expected, order
            for order, expected in (
                ("newest", [carol, bob, alice]),
                ("activity", [carol, bob, alice]),
                ("severity", [carol, bob, alice]),
                ("oldest", [alice, bob, carol]),
            ):
                wanted = IncidentQuery(order=order, severity="high")  # type: ignore[arg-type]
                assert paged(lambda at, of=wanted: page_of(connection, of, limit=1, cursor=at)) == expected
            late = IncidentQuery()
            found, _ = page_of(connection, late, since=START + timedelta(days=1), limit=9, cursor=None)
            assert [one.id for one in found] == [carol, bob]
        with store.transaction() as connection:
            assert save_view(connection, "alerts", SavedView("mine", "severity=high", "eve"))
            assert save_view(connection, "alerts", SavedView("mine", "severity=low", "eve"))
            assert saved_views(connection, "alerts") == [SavedView("mine", "severity=low", "eve")]
            remove_view(connection, "alerts", "mine")
            assert saved_views(connection, "alerts") == []
    finally:
        store.close()


def alert_page(connection: Connection, order: str, cursor: str | None) -> tuple[list[AlertLine], str | None]:
    return lines(connection, AlertQuery(), order=order, limit=1, cursor=cursor)  # type: ignore[arg-type]


def paged(page: Callable[[str | None], tuple[Sequence[Any], str | None]]) -> list[str]:
    """IDs of all pages, each asked for with the cursor of the one before."""
    found: list[str] = []
    cursor: str | None = None
    while len(found) < 10:
        rows, cursor = page(cursor)
        found += [row.id for row in rows]
        if cursor is None:
            return found
    raise AssertionError(found)
