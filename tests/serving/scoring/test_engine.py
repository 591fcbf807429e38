"""Grouping into alerts, repeats, and order under concurrency."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.actions.fields import FIELDS
from serving.alerts.explain.explainer import Explainer
from serving.scoring.engine import Engine
from serving.scoring.verdicts import Batch
from serving.storage.database import AlertStore
from tests.serving.conftest import model_info
from tests.serving.fakes import FakeDetector, decoded, raw_event, secret_event


def score(engine: Engine, *events: dict[str, Any]) -> Batch:
    return engine.score(decoded(events))


def test_actions_at_most_ten_minutes_apart_are_one_alert_that_grows(engine: Engine) -> None:
    raised = score(engine, secret_event(0), secret_event(1, seconds=600))
    assert (len(raised.raised), len(raised.grown)) == (1, 0)
    grown = score(engine, secret_event(2, seconds=1200))
    assert (len(grown.raised), len(grown.grown)) == (0, 1)
    assert grown.grown[0].id == raised.raised[0].id == grown.results[0]["alertID"]
    assert grown.grown[0].action_count == 3
    later = score(engine, secret_event(3, seconds=1801))
    assert len(later.raised) == 1
    assert len(engine.store.page().alerts) == 2


def test_principals_never_share_an_alert(engine: Engine) -> None:
    batch = score(engine, secret_event(0), secret_event(1, user="bob@corp"), secret_event(2))
    assert sorted(alert.principal for alert in batch.raised) == ["alice@corp", "bob@corp"]
    assert batch.results[0]["alertID"] == batch.results[2]["alertID"] != batch.results[1]["alertID"]


def test_late_events_join_the_alert_of_their_time(engine: Engine) -> None:
    first = score(engine, secret_event(0, seconds=0)).raised[0]
    second = score(engine, secret_event(1, seconds=7200)).raised[0]
    assert score(engine, secret_event(2, seconds=30)).grown[0].id == first.id
    assert score(engine, secret_event(3, seconds=7000)).grown[0].id == second.id


def test_an_audit_id_used_again_at_another_time_is_another_action(engine: Engine) -> None:
    """A client may choose its own Audit-ID: reusing one must not hide what it does."""
    batch = score(engine, secret_event(0, auditID="same"), secret_event(1, auditID="same"))
    assert batch.raised[0].action_count == 2


def test_what_is_sent_again_after_a_restart_adds_nothing(store: AlertStore, explainer: Explainer) -> None:
    def fresh() -> Engine:
        return Engine(FakeDetector(), FIELDS, model_info(), store, explainer)

    before = score(fresh(), secret_event(0), secret_event(1)).raised[0]
    after = score(fresh(), secret_event(0), secret_event(1))
    assert (after.raised, after.grown) == ([], [])
    assert after.results[0]["alertID"] == before.id
    assert store.page().alerts[0].action_count == 2


def test_every_event_gets_a_result_in_its_place(engine: Engine) -> None:
    events = [raw_event(0), raw_event(0), secret_event(1), raw_event(2, stage="RequestReceived")]
    batch = score(engine, *events)
    assert [result["status"] for result in batch.results] == ["scored", "folded", "scored", "folded"]
    assert [result["auditID"] for result in batch.results] == ["id-0", "id-0", "id-1", "id-2"]
    assert engine.score([]).results == []


def test_concurrent_callers_are_served_one_at_a_time_and_nothing_is_lost(engine: Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(lambda number: score(engine, secret_event(number)), range(60)))
    assert sum(len(batch.raised) for batch in batches) == 1
    [alert] = engine.store.page().alerts
    assert sorted(alert.audit_ids) == sorted(f"id-{number}" for number in range(60))
    assert alert.action_count == 60


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seconds=st.lists(st.integers(0, 8000), min_size=1, max_size=25),
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=10),
)
def test_in_order_the_alerts_do_not_depend_on_how_events_are_batched(
    explainer: Explainer, seconds: list[int], cuts: list[int]
) -> None:
    events = [secret_event(number, seconds=moment) for number, moment in enumerate(sorted(seconds))]

    def alerts(sizes: list[int]) -> list[dict[str, Any]]:
        store = AlertStore("sqlite://", retention_days=90, max_alerts=1000)
        engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer)
        rest, turn = events, 0
        while rest:
            size = sizes[turn % len(sizes)]
            score(engine, *rest[:size])
            rest, turn = rest[size:], turn + 1
        found = [alert.model_dump() for alert in store.page(limit=500).alerts]
        store.close()
        return found

    together = alerts([len(events)])
    assert alerts(cuts) == together
    gaps = [late - early for early, late in zip(sorted(seconds), sorted(seconds)[1:], strict=False)]
    assert len(together) == 1 + sum(gap > 600 for gap in gaps)


def test_what_is_around_an_alert_that_was_forgotten_meanwhile_holds_up_nothing(explainer: Explainer) -> None:
    store = AlertStore("sqlite://", retention_days=90, max_alerts=1)
    engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer)
    score(engine, secret_event(0))
    score(engine, secret_event(1, user="bob@corp"))  # alice's alert has to go
    score(engine, raw_event(2, verb="list"), secret_event(3, user="bob@corp"))
    batch = score(engine, secret_event(4, user="carol@corp"))
    assert [alert.principal for alert in batch.raised] == ["carol@corp"]
    assert [alert.principal for alert in store.page().alerts] == ["carol@corp"]
    store.close()


def test_what_the_store_rejects_holds_up_nothing_else(engine: Engine) -> None:
    with engine.store.transaction() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER nothing_of_bob BEFORE INSERT ON alert_events WHEN NEW.audit_id = 'id-1' "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    batch = score(
        engine,
        secret_event(0),
        secret_event(1, user="bob@corp"),
        secret_event(2, user="bob@corp"),
        secret_event(3),
    )
    assert not engine.has_unsaved
    assert [(one.principal, one.action.audit_id) for one in batch.refused] == [("bob@corp", "id-1")]
    assert "not this one" in batch.refused[0].reason
    assert sorted((one.principal, one.action_count) for one in batch.raised) == [
        ("alice@corp", 2),
        ("bob@corp", 1),
    ]
    assert batch.grown == []
    assert ["alertID" in result for result in batch.results] == [True, False, True, True]
    assert engine.store.page().alerts[0].audit_ids == ["id-2"]


def test_what_is_around_an_alert_and_refused_holds_up_nothing(engine: Engine) -> None:
    with engine.store.transaction() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER never BEFORE INSERT ON alert_surroundings WHEN NEW.audit_id = 'id-1' "
            "BEGIN SELECT RAISE(ABORT, 'never'); END"
        )
    score(engine, secret_event(0))
    score(engine, raw_event(1, verb="list"))
    score(engine, raw_event(2, verb="list"), secret_event(3, user="bob@corp"))
    batch = score(engine, secret_event(4, user="carol@corp"))
    assert [alert.principal for alert in batch.raised] == ["carol@corp"]
    assert batch.refused == []
    engine.flush()
    assert engine._alerts._pending == []
