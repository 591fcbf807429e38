"""What the machinery does because of a write is distinguished from what it does anyway."""

from typing import Any

import pytest

from data.principals.identity import Principal
from serving.incidents.consequences import Consequences
from tests.serving.incidents.test_links import event, pod

LATER = 600_000_000
CONTROLLER = Principal("system:serviceaccount:kube-system:replicaset-controller", "controller", ())
NODE = Principal("system:node:node-1", "node", ())


def written(**more: Any) -> Consequences:
    known = Consequences()
    ref = {"resource": "deployments", "apiGroup": "apps", "namespace": "web", "name": "miner"}
    known.mark("alice@corp", event(**({"verb": "create", "objectRef": ref} | more)), LATER)
    return known


def by(known: Consequences, principal: Principal, moment: int = 1, **more: Any) -> str | None:
    found = known.follow(event(**more), principal, moment)
    return None if found is None else found.confidence


@pytest.mark.parametrize(
    ("resource", "name", "confidence"),
    [
        ("deployments", "miner", "certain"),
        ("replicasets", "miner-5d4f8c7b9", "likely"),
        ("pods", "miner-5d4f8c7b9-x2x4z", "likely"),
        ("events", "miner-5d4f8c7b9-x2x4z.18eab30da2d82522", "likely"),
        ("events", "miner.18eab30da2d82522", "certain"),
        ("endpoints", "miner", "possible"),
        ("pods", "minesweeper-5d4f8c7b9-x2x4z", None),
        ("pods", "miner-tools-5d4f8c7b9-x2x4z", None),
    ],
)
def test_names_tell_what_belongs_to_it(resource: str, name: str, confidence: str | None) -> None:
    ref = {"resource": resource, "namespace": "web", "name": name}
    assert by(written(), NODE, verb="patch", objectRef=ref) == confidence


def test_owner_references_tell_it_for_certain_and_lead_on() -> None:
    known = written()
    owner = [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "miner", "controller": True}]
    made = pod("odd-name", ownerReferences=owner)
    ref = {"resource": "replicasets", "apiGroup": "apps", "namespace": "web"}
    assert by(known, CONTROLLER, verb="create", objectRef=ref, requestObject=made) == "certain"
    child = {"resource": "pods", "namespace": "web", "name": "odd-name-x2x4z"}
    assert by(known, NODE, verb="get", objectRef=child) == "likely"


def test_people_answer_for_what_they_do_themselves() -> None:
    ref = {"resource": "deployments", "apiGroup": "apps", "namespace": "web", "name": "miner"}
    assert by(written(), Principal("bob@corp", "human", ()), verb="patch", objectRef=ref) is None


def test_another_namespace_is_another_object() -> None:
    ref = {"resource": "deployments", "apiGroup": "apps", "namespace": "shop", "name": "miner"}
    assert by(written(), CONTROLLER, verb="update", objectRef=ref) is None


def test_it_ends_after_a_while() -> None:
    ref = {"resource": "deployments", "apiGroup": "apps", "namespace": "web", "name": "miner"}
    assert by(written(), CONTROLLER, LATER + 1, verb="update", objectRef=ref) is None
    known = written()
    known.forget(LATER + 1)
    assert not known


@pytest.mark.parametrize("more", [{"verb": "get"}, {"responseStatus": {"code": 403}}])
def test_what_changed_nothing_has_no_consequences(more: dict[str, Any]) -> None:
    assert not written(**more)


def test_a_name_that_only_the_body_tells_is_enough() -> None:
    ref = {"resource": "pods", "namespace": "web"}
    known = written(objectRef=ref, requestObject=pod("dbg"))
    assert by(known, NODE, verb="get", objectRef=ref | {"name": "dbg"}) == "certain"
