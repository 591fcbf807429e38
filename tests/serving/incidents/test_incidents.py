"""From alerts to incidents: what added up, what belongs together and why, and what people decide about it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from data.actions.fields import FIELDS
from data.events.audit_event import AuditEvent
from detection.detector import Scores
from serving.alerts.explain.explainer import Explainer
from serving.incidents.contributors import Contribution, Contributors
from serving.incidents.incidents import Asker, Close, IncidentError, Merge, Split
from serving.incidents.report import Incident, IncidentSummary
from serving.scoring.engine import Engine
from serving.storage.database import AlertStore, StoreError
from serving.storage.receipt_clock import ReceiptClock
from serving.storage.tables import ALERT_LINES, ALERTS
from tests.serving.conftest import model_info
from tests.serving.fakes import START, STRANGE, FakeDetector, decoded, raw_event, secret_event

WORKER = "system:serviceaccount:web:worker"
CONTROLLER = "system:serviceaccount:kube-system:replicaset-controller"


def mild_event(number: int, **more: Any) -> dict[str, Any]:
    """An event that adds up without being flagged."""
    return raw_event(number, **({"resource": "configmaps", "name": "settings"} | more))


def feed(engine: Engine, *events: dict[str, Any], size: int = 1000) -> None:
    for start in range(0, len(events), size):
        engine.score(decoded(events[start : start + size]))
    engine.flush()


def all_incidents(engine: Engine) -> list[Incident]:
    """All incidents with something in them, oldest first."""
    page = engine.incidents.page(limit=100)
    found = [engine.incidents.get(one.id) for one in reversed(page.incidents)]
    return [one for one in found if one is not None and one.alerts]


def only(engine: Engine) -> Incident:
    [one] = all_incidents(engine)
    return one


# -- what added up ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 100])
def test_an_alert_lists_the_milder_actions_that_led_up_to_it_in_order(engine: Engine, size: int) -> None:
    feed(engine, mild_event(0), raw_event(1), mild_event(2), secret_event(3), mild_event(4), size=size)
    [alert] = engine.store.page().alerts
    assert [one.audit_id for one in alert.contributors] == ["id-0", "id-2"]
    assert [one.audit_id for one in alert.actions] == ["id-3"]
    assert alert.began == alert.contributors[0].time < alert.first_seen
    assert alert.contributor_count == 2


def test_nobody_is_held_to_the_actions_of_others(engine: Engine) -> None:
    feed(engine, mild_event(0, user="bob@corp"), secret_event(1))
    assert engine.store.page().alerts[0].contributors == []


def test_an_alert_that_grows_counts_each_contributor_once(engine: Engine) -> None:
    feed(
        engine,
        mild_event(0),
        secret_event(1),
        mild_event(2),
        secret_event(3),
        mild_event(0),
        secret_event(1),
        size=1,
    )
    [alert] = engine.store.page().alerts
    assert [one.audit_id for one in alert.contributors] == ["id-0", "id-2"]
    assert (alert.contributor_count, alert.action_count) == (2, 2)


def test_older_actions_are_listed_only_if_the_flag_needs_them(engine: Engine) -> None:
    """The flagged action reaches its threshold by itself; what was an hour before did not help."""
    feed(engine, mild_event(0, seconds=0), secret_event(1, seconds=3000))
    assert engine.store.page().alerts[0].contributors == []


def test_many_contributors_stay_bounded_and_the_first_stay(engine: Engine) -> None:
    feed(engine, *(mild_event(number) for number in range(60)), secret_event(60))
    [alert] = engine.store.page().alerts
    assert alert.contributor_count == 60
    assert len(alert.contributors) == 40
    assert alert.contributors[0].audit_id == "id-0"


def test_memory_is_bounded_and_the_principal_quiet_longest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.incidents.contributors._LIMIT", 100)
    known = Contributors()
    for number in range(1000):
        known.append(f"user-{number}", Contribution(number, f"id-{number}", 1, 1, None, "", ""))
        assert sum(len(held) for _, held in msgspec.msgpack.decode(known.snapshot()())) <= 101
    assert known.within("user-0", 0, 2000) == []
    assert len(known.within("user-999", 0, 2000)) == 1


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_evidence_is_all_that_the_principal_did_between_the_first_and_the_last(
    engine: Engine, size: int
) -> None:
    feed(
        engine,
        raw_event(0, seconds=0, user="bob@corp"),
        raw_event(1, seconds=1),
        mild_event(2, seconds=2),
        raw_event(3, seconds=3),
        secret_event(4, seconds=4),
        raw_event(5, seconds=60),
        raw_event(6, seconds=400),
        size=size,
    )
    one = only(engine)
    assert one.audit_ids[:2] == ["id-2", "id-4"]
    assert set(one.audit_ids) == {"id-1", "id-2", "id-3", "id-4", "id-5"}
    [session] = one.sessions
    assert [(action.audit_id, action.role) for action in session.actions] == [
        ("id-1", "before"),
        ("id-2", "contributor"),
        ("id-4", "flagged"),
        ("id-3", "session"),
        ("id-5", "session"),
    ]
    assert one.source is not None
    assert one.source.audit_id == "id-2"


def test_a_session_begins_with_at_most_three_actions_that_led_up_to_it_runs_shortened(engine: Engine) -> None:
    logs = [raw_event(number, subresource="log", name=f"web-{number}") for number in range(2, 12)]
    feed(engine, raw_event(0, verb="watch"), raw_event(1, verb="list"), *logs, secret_event(12))
    [session] = only(engine).sessions
    assert [action.audit_id for action in session.actions[:4]] == ["id-1", "id-2", "id-11", "id-12"]


def test_another_address_is_another_session_and_said_to_be_new(engine: Engine) -> None:
    elsewhere = {"sourceIPs": [f"{STRANGE}7", "127.0.0.1"]}
    feed(engine, secret_event(0), secret_event(1, **elsewhere))
    usual, strange = only(engine).sessions
    assert (usual.new_address, strange.new_address) == (False, True)
    assert strange.address == f"{STRANGE}7"


def test_ordinary_work_in_between_ends_a_session(engine: Engine) -> None:
    feed(engine, secret_event(0), *(raw_event(number) for number in range(1, 12)), secret_event(12))
    assert [session.suspicious for session in only(engine).sessions] == [1, 1]


def test_what_controllers_do_with_it_is_a_consequence_and_nobodys_deed(engine: Engine) -> None:
    made = raw_event(0, verb="create", resource="deployments", name="miner", namespace="team-a")
    pods = raw_event(2, verb="create", name="miner-5d4f8c7b9-x2x4z", user=CONTROLLER)
    other = raw_event(3, verb="create", name="shop-5d4f8c7b9-x2x4z", user=CONTROLLER)
    feed(engine, made, secret_event(1), pods, other)
    one = only(engine)
    assert one.consequence_audit_ids == ["id-2"]
    assert one.principals == ["alice@corp"]
    assert "id-2" not in one.audit_ids
    [edge] = one.consequences
    assert (edge.source, edge.confidence) == ("object:deployments team-a/miner", "likely")
    assert CONTROLLER not in {node.name for node in one.graph.nodes}


# -- where it began ----------------------------------------------------------------------------------------------


class Graded(FakeDetector):
    """What is flagged in the namespace `sandbox` is of low severity, and nothing about it is new."""

    def score(self, events: Sequence[AuditEvent]) -> Scores:
        scores = super().score(events)
        for row, event in enumerate(scores.event.tolist()):
            ref = events[event].objectRef
            if ref is not None and ref.namespace == "sandbox" and scores.flagged[row]:
                scores.severity[row] = "low"
                known = [replace(one, times_before=9) for one in scores.explanations[row].habits]
                scores.explanations[row] = replace(scores.explanations[row], habits=known)
                scores.novelties[row] = known
        return scores


@pytest.fixture
def graded(store: AlertStore, explainer: Explainer) -> Engine:
    return Engine(Graded(), FIELDS, model_info(), store, explainer)


def began(engine: Engine) -> str:
    """Audit ID of the action that an incident names as where it began."""
    source = only(engine).source
    assert source is not None
    return source.audit_id


ELSEWHERE = {"sourceIPs": [f"{STRANGE}7", "127.0.0.1"]}


def test_a_new_address_from_which_nothing_was_flagged_is_not_where_it_began(engine: Engine) -> None:
    feed(engine, mild_event(0, seconds=0, **ELSEWHERE), secret_event(1, seconds=300))
    assert began(engine) == "id-1"


def test_milder_things_belong_to_what_was_flagged_later_from_the_same_new_address(engine: Engine) -> None:
    feed(
        engine,
        mild_event(0, seconds=0, **ELSEWHERE),
        mild_event(1, seconds=150),
        secret_event(2, seconds=300, **ELSEWHERE),
    )
    assert len(only(engine).sessions) == 3
    assert began(engine) == "id-0"


def test_from_the_usual_place_it_began_with_what_is_as_grave_as_the_whole(graded: Engine) -> None:
    feed(
        graded,
        secret_event(0, seconds=0, namespace="sandbox"),
        mild_event(1, seconds=290),
        secret_event(2, seconds=300),
    )
    assert began(graded) == "id-1"


def test_where_all_is_equally_mild_it_began_with_the_first(graded: Engine) -> None:
    feed(graded, *(secret_event(number, seconds=300 * number, namespace="sandbox") for number in (0, 1)))
    assert began(graded) == "id-0"


def test_what_was_unusual_before_a_token_was_asked_for_did_not_come_from_it(graded: Engine) -> None:
    old = {"user": WORKER, "namespace": "sandbox"}
    feed(graded, secret_event(0, **old), token_event(1), secret_event(2), secret_event(3, **old))
    assert [one.principals for one in all_incidents(graded)] == [[WORKER], ["alice@corp"]]
    feed(graded, secret_event(4, user=WORKER))  # something new, by a principal that may hold it by now
    assert only(graded).principals == [WORKER, "alice@corp"]


# -- what belongs together --------------------------------------------------------------------------------------


def token_event(number: int, **more: Any) -> dict[str, Any]:
    """A principal asks for a token of the worker; mildly unusual."""
    given = {
        "verb": "create",
        "resource": "serviceaccounts",
        "subresource": "token",
        "name": "worker",
        "namespace": "web",
    }
    return raw_event(number, **(given | more))


def test_a_requested_token_joins_its_requester_and_its_owner(engine: Engine) -> None:
    feed(engine, secret_event(0), token_event(1), secret_event(2, user=WORKER))
    one = only(engine)
    assert one.principals == ["alice@corp", WORKER]
    assert one.source is not None
    assert one.source.principal == "alice@corp"
    [tie] = [tie for tie in one.links if tie.confidence != "possible"]
    assert (tie.kind, tie.source, tie.target, tie.confidence) == (
        "token-requested",
        "alice@corp",
        WORKER,
        "certain",
    )
    assert tie.audit_id == "id-1"
    edge = next(edge for edge in one.graph.edges if edge.kind == "token-requested")
    assert (edge.source, edge.target) == ("principal:alice@corp", f"principal:{WORKER}")
    assert edge.audit_ids == ["id-1"]
    assert "token" in next(entry.note for entry in one.trail if entry.action == "joined")


def test_the_order_in_which_alerts_fall_does_not_matter(engine: Engine) -> None:
    """The request for the token is flagged only after the use of the token was."""
    feed(engine, token_event(0), secret_event(1, user=WORKER), secret_event(2), size=1)
    assert only(engine).principals == ["alice@corp", WORKER]


def test_later_links_bring_two_incidents_together(engine: Engine) -> None:
    feed(engine, secret_event(0), secret_event(1, user=WORKER), size=1)
    first, second = all_incidents(engine)
    feed(engine, token_event(2), secret_event(3), secret_event(4, user=WORKER), size=1)
    one = only(engine)
    assert one.id == first.id
    away = engine.incidents.get(second.id)
    assert away is not None
    assert (away.state, away.merged_into) == ("merged", first.id)
    assert [entry.by for entry in away.trail] == ["kubehabit", "kubehabit"]


def test_what_a_list_of_secrets_could_give_away_joins_only_who_turns_up_at_the_same_place(
    engine: Engine,
) -> None:
    thief = {"sourceIPs": [f"{STRANGE}7", "127.0.0.1"]}
    feed(
        engine,
        secret_event(0, namespace="web", **thief),
        secret_event(1, user="system:serviceaccount:web:other"),
        secret_event(2, user=WORKER, **thief),
    )
    together = [one.principals for one in all_incidents(engine)]
    assert together == [["alice@corp", WORKER], ["system:serviceaccount:web:other"]]


def test_the_same_new_address_and_client_join_two_principals(engine: Engine) -> None:
    thief = {"sourceIPs": [f"{STRANGE}7", "127.0.0.1"]}
    feed(
        engine,
        secret_event(0, **thief),
        secret_event(1, user="bob@corp", **thief),
        secret_event(2, user="carol@corp"),
    )
    assert [one.principals for one in all_incidents(engine)] == [["alice@corp", "bob@corp"], ["carol@corp"]]
    [tie] = [tie for tie in all_incidents(engine)[0].links if tie.kind == "same-origin"]
    assert (tie.source, tie.target, tie.confidence) == ("alice@corp", "bob@corp", "likely")


def test_impersonation_gives_no_credential_of_the_impersonated(engine: Engine) -> None:
    feed(
        engine,
        secret_event(0, impersonatedUser={"username": WORKER}),
        secret_event(1, user=WORKER),
    )
    one, other = all_incidents(engine)
    assert [tie.kind for tie in one.links if tie.target == WORKER] == ["acted-as"]
    assert other.principals == [WORKER]


def test_clusters_in_one_log_are_kept_apart(engine: Engine) -> None:
    east, west = ({"kubehabit.cluster": name} for name in ("east", "west"))
    made = raw_event(0, verb="create", resource="deployments", name="miner", namespace="team-a", **east)
    pods = {"verb": "create", "name": "miner-5d4f8c7b9-x2x4z", "user": CONTROLLER}
    feed(engine, made, secret_event(1, **east), raw_event(2, **pods, **east), raw_event(3, **pods, **west))
    assert only(engine).consequence_audit_ids == ["id-2"]


def test_the_same_principal_hours_later_is_the_same_incident_and_a_day_later_another(engine: Engine) -> None:
    feed(
        engine,
        secret_event(0, seconds=0),
        secret_event(1, seconds=7200),
        secret_event(2, seconds=7200 + 50_000),
    )
    assert [len(one.alerts) for one in all_incidents(engine)] == [2, 1]


def test_the_same_log_gives_the_same_incidents(store: AlertStore, explainer: Explainer) -> None:
    events = [secret_event(0), token_event(1), secret_event(2, user=WORKER), secret_event(3, user="bob@corp")]

    def stories(size: int) -> list[dict[str, Any]]:
        own = AlertStore("sqlite://", retention_days=90, max_alerts=1000)
        engine = Engine(FakeDetector(), FIELDS, model_info(), own, explainer)
        feed(engine, *events, size=size)
        found = [one.model_dump(exclude={"trail"}) for one in all_incidents(engine)]
        own.close()
        return found

    assert stories(100) == stories(1) == stories(2)


# -- what people decide -----------------------------------------------------------------------------------------

WHO = Asker("ops", "192.0.2.1")


def two(engine: Engine) -> tuple[Incident, Incident]:
    feed(engine, secret_event(0), secret_event(1, user="bob@corp"))
    first, second = all_incidents(engine)
    return first, second


def test_merging_keeps_both_and_says_who_when_and_why(engine: Engine) -> None:
    first, second = two(engine)
    merged = engine.incidents.decide(
        first.id, Merge(incident=second.id, note="Same laptop.", by="carol"), WHO
    )
    assert merged.principals == ["alice@corp", "bob@corp"]
    entry = merged.trail[-1]
    assert (entry.action, entry.by, entry.caller, entry.address) == ("merged", "carol", "ops", "192.0.2.1")
    assert entry.note == "Same laptop."
    away = engine.incidents.get(second.id)
    assert away is not None
    assert (away.state, away.merged_into, away.alerts) == ("merged", first.id, [])
    with pytest.raises(IncidentError, match=f"merged into {first.id}"):
        engine.incidents.decide(second.id, Close(), WHO)


def test_what_was_split_off_stays_apart_whatever_the_log_says(engine: Engine) -> None:
    feed(engine, secret_event(0), token_event(1), secret_event(2, user=WORKER))
    one = only(engine)
    mine = next(alert.id for alert in one.alerts if alert.principal == WORKER)
    new = engine.incidents.decide(one.id, Split(alerts=[mine], note="Planned."), WHO)
    assert new.principals == [WORKER]
    feed(engine, token_event(3), secret_event(4), secret_event(5, user=WORKER))
    assert [each.principals for each in all_incidents(engine)] == [["alice@corp"], [WORKER]]
    back = engine.incidents.decide(one.id, Merge(incident=new.id), WHO)
    assert back.principals == ["alice@corp", WORKER]
    again = engine.incidents.decide(one.id, Split(alerts=[mine]), WHO)
    assert again.id not in (one.id, new.id)


def test_after_closing_the_next_alert_begins_another(engine: Engine) -> None:
    feed(engine, secret_event(0, seconds=0))
    closed = engine.incidents.decide(
        only(engine).id, Close(outcome="malicious", note="Revoked.", by="carol"), WHO
    )
    assert closed.state == "closed"
    assert closed.trail[-1].note == "malicious: Revoked."
    feed(engine, secret_event(1, seconds=3600))
    assert [one.state for one in all_incidents(engine)] == ["closed", "open"]
    with pytest.raises(IncidentError, match="closed already"):
        engine.incidents.decide(closed.id, Close(), WHO)


@pytest.mark.parametrize(
    ("alerts", "words"), [(["nope"], "not in this incident"), (["all"], "leave it at least one")]
)
def test_a_split_that_makes_no_sense_is_refused(engine: Engine, alerts: list[str], words: str) -> None:
    first, _ = two(engine)
    named = [alert.id for alert in first.alerts] if alerts == ["all"] else alerts
    with pytest.raises(IncidentError, match=words):
        engine.incidents.decide(first.id, Split(alerts=named), WHO)


def test_what_the_store_refused_is_gathered_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import serving.scoring.alert_writer as room

    def refuse(*_: object) -> None:
        raise StoreError("no")

    with monkeypatch.context() as broken:
        broken.setattr(room, "add_context", refuse)
        with pytest.raises(StoreError):
            feed(engine, raw_event(0), mild_event(1), secret_event(2))
    feed(engine, raw_event(3))
    assert set(only(engine).audit_ids) == {"id-0", "id-1", "id-2", "id-3"}


def test_what_led_up_to_a_flag_outlives_a_restart(store: AlertStore, explainer: Explainer) -> None:
    def fresh() -> Engine:
        return Engine(FakeDetector(), FIELDS, model_info(), store, explainer)

    before, after = fresh(), fresh()
    feed(before, mild_event(0), token_event(1), secret_event(2, user="bob@corp"))
    after.context.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(before.context.snapshot()())))
    feed(after, secret_event(3), raw_event(4, user="bob@corp"), secret_event(5, user=WORKER))
    bob, alice = all_incidents(after)
    assert bob.audit_ids == ["id-2", "id-4"]
    assert alice.principals == ["alice@corp", WORKER]
    assert alice.audit_ids[:3] == ["id-0", "id-1", "id-3"]


def test_every_database_tells_the_same_story_and_forgets_it_with_its_alerts(
    store_url: str, explainer: Explainer
) -> None:
    passed = [0]
    clock = ReceiptClock(lambda: time.time_ns() + passed[0], lambda: time.monotonic_ns() + passed[0])
    store = AlertStore(store_url, retention_days=90, max_alerts=1000, clock=clock)
    engine = Engine(FakeDetector(), FIELDS, model_info(), store, explainer)
    feed(engine, mild_event(0), secret_event(1), token_event(2), secret_event(3, user=WORKER), size=1)
    one = only(engine)
    assert one.principals == ["alice@corp", WORKER]
    assert one.audit_ids == ["id-0", "id-1", "id-2", "id-3"]
    new = engine.incidents.decide(one.id, Split(alerts=[one.alerts[1].id]), WHO)
    assert engine.incidents.decide(one.id, Merge(incident=new.id), WHO).principals == one.principals
    assert engine.incidents.decide(one.id, Close(), WHO).state == "closed"
    store.prune()
    assert engine.incidents.get(one.id) is not None
    passed[0] = 91 * 86_400 * 10**9
    store.prune()
    assert engine.incidents.page(limit=10).incidents == []
    engine.close()


# -- the list ---------------------------------------------------------------------------------------------------


def in_short(engine: Engine, name: str) -> IncidentSummary:
    """What a list says of an incident, by what its page says, for which all documents are read."""
    whole = engine.incidents.get(name)
    assert whole is not None
    return IncidentSummary(**{field: getattr(whole, field) for field in IncidentSummary.model_fields})


@pytest.fixture
def varied(store_url: str, explainer: Explainer) -> Iterator[Engine]:
    """Incidents of one and of several principals, of one and of several alerts, open, closed and merged away."""
    store = AlertStore(store_url, retention_days=90, max_alerts=1000)
    engine = Engine(Graded(), FIELDS, model_info(), store, explainer)
    feed(
        engine,
        mild_event(0),
        secret_event(1, namespace="e-5"),
        # As severe as the one before, and more surprising: the incident has its sentence.
        secret_event(2, namespace="e-9", seconds=2000),
        secret_event(3, namespace="sandbox", seconds=4000),
        # In the order in which they began, bob is before carol; in that of what was flagged, after.
        secret_event(4, user="carol@corp", seconds=100_000),
        mild_event(5, user="bob@corp", seconds=99_900),
        secret_event(6, user="bob@corp", seconds=100_200),
        secret_event(7, user="dave@corp", seconds=200_000),
        secret_event(8, user="erin@corp", seconds=300_000),
        size=1,
    )
    *_, carol, bob, dave, _erin = all_incidents(engine)
    engine.incidents.decide(carol.id, Merge(incident=bob.id), WHO)
    engine.incidents.decide(dave.id, Close(), WHO)
    yield engine
    engine.close()


def test_the_list_says_of_each_incident_what_its_page_says(varied: Engine) -> None:
    listed = varied.incidents.page(limit=10).incidents
    assert [one.model_dump() for one in listed] == [in_short(varied, one.id).model_dump() for one in listed]
    erin, dave, bob, carol, alice = listed
    assert (erin.state, dave.state, bob.state) == ("open", "closed", "merged")
    assert (alice.alert_count, alice.severity) == (3, "high")
    assert "Secrets in e-9" in alice.sentence
    assert alice.first_seen == START
    assert carol.principals == ["bob@corp", "carol@corp"]
    assert "other credential had a part in it" in carol.sentence


def test_the_list_reads_no_document_of_an_alert(varied: Engine) -> None:
    before = varied.incidents.page(limit=10)
    with varied.store.transaction() as connection:
        connection.execute(sa.update(ALERTS).values(document="not to be read"))
    assert varied.incidents.page(limit=10) == before


def test_the_list_is_the_same_where_an_older_version_wrote_beside_this_one(varied: Engine) -> None:
    before = varied.incidents.page(limit=10)
    line = ALERT_LINES.c
    with varied.store.transaction() as connection:
        connection.execute(sa.delete(ALERT_LINES).where(line.alert.in_([2, 5])))
        connection.execute(sa.update(ALERT_LINES).where(line.alert == 1).values(began=None, evidence=None))
    assert varied.incidents.page(limit=10) == before


# -- over HTTP --------------------------------------------------------------------------------------------------


def test_the_api_tells_and_decides(client: TestClient) -> None:
    client.post("/v1/score", json=[mild_event(0), secret_event(1), secret_event(2, user="bob@corp")])
    listed = client.get("/v1/incidents").json()["incidents"]
    assert [one["principals"] for one in listed] == [["bob@corp"], ["alice@corp"]]
    second, first = (one["id"] for one in listed)
    story = client.get(f"/v1/incidents/{first}").json()
    assert story["auditIDs"] == ["id-0", "id-1"]
    assert {"source", "sessions", "timeline", "graph", "ties", "consequences", "checks", "trail"} <= set(
        story
    )
    merged = client.post(f"/v1/incidents/{first}/merge", json={"incident": second, "note": "one", "by": "me"})
    assert merged.json()["alertCount"] == 2
    split = client.post(f"/v1/incidents/{first}/split", json={"alerts": [merged.json()["alerts"][1]["id"]]})
    assert split.json()["principals"] == ["bob@corp"]
    closed = client.post(f"/v1/incidents/{first}/close", json={"outcome": "normal"})
    assert closed.json()["state"] == "closed"
    assert [one["state"] for one in client.get("/v1/incidents?state=closed").json()["incidents"]] == [
        "closed"
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/incidents/none/close", {}, 404, "no incident none"),
        ("/v1/incidents/none/merge", {}, 422, "'incident' is wrong"),
        ("/v1/incidents/none/split", {"alerts": []}, 422, "'alerts' is wrong"),
        ("/v1/incidents/none/close", {"outcome": "who knows"}, 422, "'outcome' is wrong"),
        ("/v1/incidents/none/close", {"verdict": "x"}, 422, "'verdict' is wrong"),
    ],
)
def test_what_cannot_be_done_is_said(
    client: TestClient, path: str, body: Any, status: int, words: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_pages_follow_one_another(client: TestClient) -> None:
    client.post("/v1/score", json=[secret_event(number, user=f"user-{number}@corp") for number in range(5)])
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = client.get(
            "/v1/incidents", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        ).json()
        seen += [one["principals"][0] for one in page["incidents"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert seen == [f"user-{number}@corp" for number in reversed(range(5))]
    assert client.get("/v1/incidents?cursor=x").status_code == 400


def test_words_are_explained(client: TestClient) -> None:
    assert "identity for programs" in client.get("/v1/glossary").json()["service account"]


# -- floods and wrong times -------------------------------------------------------------------------------------

#: Seconds from the recording to 2099.
FAR = 73 * 365 * 86_400.0


@pytest.mark.parametrize("size", [1, 50, 1000])
def test_a_burst_leaves_its_own_lead_up_in_the_alert_and_in_the_incident(engine: Engine, size: int) -> None:
    lead_up = [mild_event(number) for number in range(3)]
    burst = [secret_event(number, seconds=10 + number / 100) for number in range(3, 300)]
    feed(engine, *lead_up, *burst, size=size)
    [alert] = engine.store.page().alerts
    assert [one.audit_id for one in alert.contributors][:3] == ["id-0", "id-1", "id-2"]
    assert alert.action_count == 297
    assert (
        "197 more of them are counted but not kept; the first and the worst are kept"
        in alert.severity_reasons
    )
    assert {"id-0", "id-1", "id-2"} <= set(only(engine).audit_ids)


def test_an_event_of_2099_does_not_end_what_an_alert_waits_for(engine: Engine) -> None:
    feed(engine, secret_event(0), size=1)
    feed(engine, raw_event(1, user="bob@corp", seconds=FAR), size=1)
    feed(engine, raw_event(2), raw_event(3), size=1)
    assert only(engine).audit_ids == ["id-0", "id-2", "id-3"]


def test_nor_what_follows_from_a_write(engine: Engine) -> None:
    deployment = {"verb": "create", "resource": "deployments", "namespace": "web", "name": "shop"}
    feed(engine, raw_event(0, **deployment), size=1)
    feed(engine, raw_event(1, user="bob@corp", seconds=FAR), size=1)
    made = {
        "verb": "update",
        "resource": "deployments",
        "namespace": "web",
        "name": "shop",
        "user": CONTROLLER,
    }
    feed(engine, raw_event(2, **made), secret_event(3), size=1)
    assert only(engine).consequence_audit_ids == ["id-2"]


def test_an_alert_of_2099_is_listed_where_it_was_received(engine: Engine) -> None:
    feed(engine, secret_event(0, user="bob@corp", seconds=FAR), size=1)
    feed(engine, secret_event(1), size=1)
    assert [one.principal for one in engine.store.page().alerts] == ["alice@corp", "bob@corp"]
    page = engine.incidents.page(limit=1)
    assert [one.principals for one in page.incidents] == [["alice@corp"]]
    older = engine.incidents.page(limit=1, cursor=int(page.cursor or 0))
    assert [one.principals for one in older.incidents] == [["bob@corp"]]


def test_a_flood_of_ordinary_actions_leaves_room_for_suspicious_ones(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import serving.incidents.context as room

    monkeypatch.setattr(room, "_MAX_ACTIONS", 50)
    monkeypatch.setattr(room, "_RESERVED", 20)
    feed(engine, secret_event(0), *(raw_event(number, seconds=number / 100) for number in range(1, 200)))
    feed(engine, secret_event(200, seconds=5), mild_event(201, seconds=6), secret_event(202, seconds=7))
    assert [one.audit_id for one in only(engine).timeline] == ["id-0", "id-200", "id-201", "id-202"]


def test_of_what_waits_for_a_store_the_worst_stays(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import serving.scoring.alert_writer as room

    def refuse(*_: object) -> None:
        raise StoreError("no")

    monkeypatch.setattr(room, "_MAX_UNSAVED", 5)
    with monkeypatch.context() as broken:
        broken.setattr(room, "add_context", refuse)
        events = [
            secret_event(0, namespace="e-40"),
            *(secret_event(at, user="bob@corp") for at in range(1, 20)),
        ]
        for event in events:
            with pytest.raises(StoreError):
                feed(engine, event)
    feed(engine, raw_event(30))
    assert {one.principal: one.action_count for one in engine.store.page().alerts} == {
        "alice@corp": 1,
        "bob@corp": 19,  # of which the 15 that were dropped are only counted
    }
