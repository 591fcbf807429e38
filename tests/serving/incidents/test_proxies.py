"""Behind a proxy the person is the principal of alerts and stored events, and the proxy stays on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.events.decode import decode_originals
from data.paths import shipped
from data.principals.identity import Identity
from detection.detector import FIELDS
from serving.alerts.explain.explainer import Explainer
from serving.forensics.queries import EventFilter, EventQueries
from serving.forensics.records import EventRecord, record_of
from serving.incidents.context import ContextTracker
from serving.scoring.engine import Engine
from serving.storage.database import AlertStore
from tests.serving.conftest import model_info
from tests.serving.event_stores import body, new_store
from tests.serving.fakes import FakeDetector, decoded, raw_event, secret_event

RANCHER = "system:serviceaccount:cattle-system:kontainer-engine"
IDENTITY = Identity(shipped("identity.yaml"))


def acting(user: str, other: str, number: int = 0) -> dict[str, Any]:
    return secret_event(number, user=user, impersonatedUser={"username": other, "groups": ["payments"]})


@pytest.fixture
def engine(store: AlertStore, explainer: Explainer) -> Engine:
    context = ContextTracker(explainer, 600_000_000, is_proxied=IDENTITY.is_proxied)
    return Engine(FakeDetector(), FIELDS, model_info(), store, explainer, context=context)


@pytest.mark.parametrize(
    ("user", "other", "proxy", "words"),
    [
        (RANCHER, "u-4abc", RANCHER, "through the proxy kontainer-engine (service account in cattle-system)"),
        (RANCHER, "system:admin", None, "acting as system:admin"),
        ("mallory", "u-4abc", None, "acting as u-4abc"),
    ],
)
def test_an_alert_names_the_proxy_in_place_of_an_impersonation(
    engine: Engine, user: str, other: str, proxy: str | None, words: str
) -> None:
    engine.score(decoded([acting(user, other)]))
    (listed,) = engine.store.page().alerts
    alert = engine.store.get(listed.id)
    assert alert is not None
    (action,) = alert.actions
    assert action.proxy == proxy
    assert (action.impersonated_user is None) == (proxy is not None)
    assert words in action.description


def record(raw: bytes) -> EventRecord:
    ((event, original),) = decode_originals(raw)
    return record_of(event, original, number=0, time=0, received=0, alert="", identity=IDENTITY, key=b"k")


def test_the_event_store_finds_an_event_by_the_person_and_by_the_proxy(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    store.append(body([acting(RANCHER, "u-4abc"), raw_event(1)]), received=0, alerts={})
    store.close()
    for name in ("u-4abc", RANCHER):
        (found,) = EventQueries(tmp_path).events(EventFilter(principal=name), limit=10).records
        assert (found.principal, found.username, found.impersonated) == ("u-4abc", RANCHER, "u-4abc")


def test_a_record_tells_one_credential_from_another_and_a_refused_log_in_from_an_allowed_one() -> None:
    extra = {"accessKeyId": ["ASIAEXAMPLE"], "arn": ["arn:aws:sts::1:assumed-role/Admin/vera"]}
    found = record(json.dumps(raw_event(user="x") | {"user": {"username": "admin", "extra": extra}}).encode())
    assert (found.credential, found.principal) == ("AWSAccessKeyId=ASIAEXAMPLE", "admin/vera")
    extra["authentication.kubernetes.io/credential-id"] = ["JTI=1"]
    found = record(json.dumps(raw_event(user="x") | {"user": {"username": "admin", "extra": extra}}).encode())
    assert found.credential == "JTI=1"
    notes = {
        "authentication.openshift.io/username": "vera",
        "authentication.openshift.io/decision": "deny",
        "authorization.k8s.io/decision": "allow",
    }
    found = record(json.dumps(raw_event(user="system:anonymous", annotations=notes)).encode())
    assert (found.principal, found.decision) == ("vera", "forbid")


def test_no_secret_of_a_body_that_was_cut_gets_into_the_store() -> None:
    """The rest of a cut record is redacted like a whole one."""
    secret = "aHVudGVyMi1pcy1teS1wYXNzd29yZA=="
    made = {"kind": "Secret", "data": {"password": secret, "other": "x" * 100}}
    line = json.dumps(secret_event(verb="create", level="Request", requestObject=made)).encode()
    for cut in (line.index(b"xxxx") + 5, line.index(secret.encode()) + len(secret) // 2):
        record_around = {"category": "kube-audit", "time": "2026-03-02T09:31:02Z"}
        log = json.dumps(record_around | {"properties": {"log": line[:cut].decode()}}).encode()
        found = record(log)
        assert found.verb == "create"
        assert secret[:12] not in "".join(map(str, found))
