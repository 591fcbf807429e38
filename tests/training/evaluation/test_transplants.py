"""Runs in other principals' clothes: who may wear them, what they change, and that the same log gives the same cases."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from tests.data.samples import event
from training.evaluation.profiles import Profiles
from training.evaluation.transplants import (
    MODES,
    Case,
    build,
    cached,
    feasible,
    modes_of,
    originals,
    received,
    without_labelled,
)

TEAMS = {"ann": "web", "bob": "web", "cat": "shop", "dan": "shop", "eve": "ops"}
ADDRESSES = {name: f"10.1.0.{place}" for place, name in enumerate(TEAMS)}
VIEW = 'RBAC: allowed by ClusterRoleBinding "view" of ClusterRole "view" to Group "devs"'
START = 34_200  # 09:30


def edit(team: str) -> str:
    return f'RBAC: allowed by RoleBinding "edit-{team}/{team}" of ClusterRole "edit" to Group "dev:{team}"'


def line(
    number: int, who: str, verb: str, resource: str, namespace: str, name: str = "", **more: Any
) -> bytes:
    """One request, a second after the one before."""
    time = START + number
    stamp = f"2026-01-05T{time // 3600:02}:{time // 60 % 60:02}:{time % 60:02}.000000Z"
    path = f"/api/v1/namespaces/{namespace}/{resource}" + (f"/{name}" if name else "")
    given = {
        "auditID": f"id-{number}",
        "verb": verb,
        "requestURI": path,
        "objectRef": {"resource": resource, "namespace": namespace, "name": name, "apiVersion": "v1"},
        "user": {"username": f"{who}@example.com", "groups": ["devs", f"dev:{TEAMS[who]}"]},
        "userAgent": f"client-of-{who}/1.0",
        "sourceIPs": [ADDRESSES[who], "127.0.0.1"],
        "requestReceivedTimestamp": stamp,
        "stageTimestamp": stamp,
        "annotations": {
            "authorization.k8s.io/decision": "allow",
            "authorization.k8s.io/reason": VIEW if verb in ("get", "list") else edit(TEAMS[who]),
        },
    }
    return event(**given | more)


@pytest.fixture(scope="module")
def log() -> list[AuditEvent]:
    """Five people at work in three teams; then ann's credential reads a Secret of her team, and a binding for her is made."""
    lines, number = [], 0
    for turn in range(60):
        for who, team in TEAMS.items():
            what = (
                ("list", "pods", ""),
                ("get", "configmaps", f"{team}-config"),
                ("patch", "deployments", team),
            )
            verb, resource, name = what[turn % 3]
            lines.append(line(number, who, verb, resource, team, name))
            number += 1
            if who == "dan":  # for whom Secrets and bindings are everyday life
                lines.append(line(number, who, "get", "secrets", team, f"{team}-key"))
                lines.append(line(number + 1, who, "create", "rolebindings", team))
                number += 2
    for who, name in (
        ("bob", "web-key"),
        ("cat", "other"),
        ("eve", "other"),
    ):  # objects that are there, and rights
        lines.append(line(number, who, "patch", "secrets", TEAMS[who], name))
        number += 1
    body = {
        "kind": "RoleBinding",
        "subjects": [{"kind": "User", "name": "ann@example.com", "namespace": "web"}],
    }
    lines += [
        line(number, "ann", "get", "secrets", "web", "web-key", auditID="attack-1", stage="ResponseStarted"),
        line(number, "ann", "get", "secrets", "web", "web-key", auditID="attack-1"),
        line(number + 1, "ann", "create", "rolebindings", "web", "", auditID="attack-2", requestObject=body),
    ]
    return decode_lines(lines).events


LABELS = [
    {
        "scenario": "theft",
        "family": "stolen",
        "class": "habit-only",
        "kind": "attack",
        "mode": "same",
        "principal": "ann@example.com",
        "audit_ids": ["attack-1", "attack-2"],
    }
]


@pytest.fixture(scope="module")
def cases(log: list[AuditEvent]) -> list[Case]:
    return build(log, LABELS, attacks=24)


def people(cases: list[Case]) -> set[str]:
    return {case.principals[0].partition("@")[0] for case in cases}


def test_a_victim_needs_the_rights_and_must_not_do_such_things_anyway(log: list[AuditEvent]) -> None:
    clean = without_labelled(log, LABELS)
    run = originals(log, LABELS)[0]
    profiles = Profiles(clean, received(clean))
    assert feasible(run, profiles) == [f"{who}@example.com" for who in ("ann", "bob", "cat", "eve")]
    without_right = [
        one for one in clean if not (one.user.username.startswith("eve") and one.verb == "patch")
    ]
    profiles = Profiles(without_right, received(without_right))
    assert "eve@example.com" not in feasible(run, profiles)


def test_all_victims_and_modes_take_their_turn(cases: list[Case]) -> None:
    assert len(cases) == 24
    assert people(cases) == {"ann", "bob", "cat", "eve"}
    assert {case.mode for case in cases} == set(MODES)
    assert {case.moved for case in cases if case.principals == ("ann@example.com",)} == {False}


def test_the_victim_acts_in_its_own_namespace_with_its_own_credential(cases: list[Case]) -> None:
    case = next(case for case in cases if case.principals == ("cat@example.com",) and case.mode == "same")
    first, last = case.events[0], case.events[-1]
    assert {one.user.username for one in case.events} == {"cat@example.com"}
    assert first.user.groups == ("devs", "dev:shop")
    assert (first.userAgent, first.sourceIPs) == ("client-of-cat/1.0", (ADDRESSES["cat"], "127.0.0.1"))
    assert first.objectRef is not None
    assert (first.objectRef.namespace, first.objectRef.name) == ("shop", "shop-key")
    assert first.requestURI == "/api/v1/namespaces/shop/secrets/shop-key"
    assert last.annotations is not None
    assert last.annotations.reason == edit("shop")
    subject = msgspec.json.decode(last.requestObject)["subjects"][0]
    assert subject == {"kind": "User", "name": "cat@example.com", "namespace": "shop"}


def test_new_places_and_clients_are_new_to_the_victim(cases: list[Case]) -> None:
    for case in cases:
        who = case.principals[0].partition("@")[0]
        for one in case.events:
            assert (one.sourceIPs[0] != ADDRESSES[who]) == ("ip" in case.mode)
            assert (one.userAgent != f"client-of-{who}/1.0") == ("ua" in case.mode)
            assert one.sourceIPs[-1] == "127.0.0.1"


def test_what_only_a_new_address_gives_away_keeps_one(log: list[AuditEvent]) -> None:
    """A thief who does nothing but the owner's own work could not be distinguished from the owner at the owner's desk."""
    stolen = line(400, "ann", "list", "pods", "web", auditID="own", sourceIPs=["198.51.100.9", "127.0.0.1"])
    label = LABELS[0] | {"audit_ids": ["own"], "mode": "new-ip"}
    events = [*log, *decode_lines([stolen]).events]
    clean = without_labelled(events, [label, *LABELS])
    assert modes_of(originals(events, [label])[0], Profiles(clean, received(clean))) == [
        "new-ip",
        "new-ip-and-ua",
    ]


def test_stages_of_a_request_stay_together_and_requests_apart(cases: list[Case]) -> None:
    for case in cases:
        ids = [one.auditID for one in case.events]
        assert ids[0] == ids[1] != ids[2]
        times = received(case.events)
        assert times[0] == times[1] == times[2] - 1_000_000
    assert len({one.auditID for case in cases for one in case.events}) == 2 * len(cases)


def test_who_has_no_peer_stays_who_it_was(log: list[AuditEvent]) -> None:
    """A run of several principals, and one of an account that is hardly active, are only put to other times."""
    helper = line(500, "bob", "get", "secrets", "web", "web-key", auditID="helped")
    together = LABELS[0] | {"audit_ids": ["attack-1", "helped"]}
    events = [*log, *decode_lines([helper]).events]
    for case in build(events, [together], attacks=3):
        assert case.principals == ("ann@example.com", "bob@example.com")
        assert not case.moved


def test_the_same_log_gives_the_same_cases(
    log: list[AuditEvent], cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEHABIT_HOME", str(tmp_path))
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps("only its digest counts"))
    for _ in range(2):  # made, and read back
        assert cached(path, log, LABELS, attacks=24, lookalikes=0) == cases
    assert build(log, LABELS, attacks=24, seed=8) != cases
