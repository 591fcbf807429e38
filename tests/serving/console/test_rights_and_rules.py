"""The pages of rights and of rules: what they say, in every state that a service can be in, whatever names are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from fastapi.testclient import TestClient

from data.actions.fields import FIELDS
from data.visible_text import visible
from serving.access.scopes import NEEDS
from serving.alerts.explain.explainer import Explainer
from serving.app import create_app
from serving.authorization.open import open_monitor
from serving.scoring.engine import Engine
from serving.scoring.rule_alerts import RuleAlerts, RuleFolders
from serving.settings import AuthorizationSettings, RuleSettings, Settings
from serving.storage.database import AlertStore
from tests.detection.rules.rules_for_tests import document
from tests.serving.authorization.test_monitor import BY_READERS, ITEMS, allowed
from tests.serving.conftest import model_info, settle
from tests.serving.fakes import FakeDetector, decoded, ndjson
from tests.serving.hostile import EVIL

OURS = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
Make = Callable[..., TestClient]
_HOSTILE = "<img src=x onerror=alert(1)>\u202e"
_EVERYTHING = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
MORE = [
    {"kind": "ClusterRole", "metadata": {"name": "all"}, "rules": [_EVERYTHING]},
    {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "operators"},
        "roleRef": {"kind": "ClusterRole", "name": "all"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": "team-a"}],
    },
    {
        "kind": "ClusterRole",
        "metadata": {"name": "starters"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}],
    },
    {
        "kind": "RoleBinding",
        "metadata": {"name": _HOSTILE, "namespace": "team-a"},
        "roleRef": {"kind": "ClusterRole", "name": "starters"},
        "subjects": [
            {"kind": "User", "name": EVIL},
            {"kind": "Group", "name": _HOSTILE},
            {"kind": "User", "name": "alice@corp"},
        ],
    },
]


def an_engine(store: AlertStore, explainer: Explainer, folder: Path) -> Engine:
    """One with roles, bindings and rules, one of which is of its own; another file of a rule cannot be used."""
    file = folder / "rbac.json"
    file.write_text(json.dumps({"kind": "List", "items": [*ITEMS, *MORE]}))
    own = folder / "own-rules"
    own.mkdir()
    by_readers = document(
        "by-readers", expression="event.objectRef.resource == 'secrets'", reason="a secret was read"
    )
    (own / "by-readers.yaml").write_text(yaml.safe_dump(by_readers))
    (own / "broken.yaml").write_text("apiVersion: {")
    rules = RuleAlerts(RuleFolders(RuleSettings(folder=own)).current)
    monitor = open_monitor(AuthorizationSettings(snapshot=file))
    return Engine(
        *(FakeDetector(), FIELDS, model_info(), store, explainer), authorization=monitor, rules=rules
    )


@pytest.fixture
def engine(store: AlertStore, explainer: Explainer, tmp_path: Path) -> Engine:
    return an_engine(store, explainer, tmp_path)


@pytest.fixture(scope="module")
def client(explainer: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service whose user reads pods, and one Secret; tests only look at it."""
    folder = tmp_path_factory.mktemp("rights")
    store = AlertStore("sqlite://", retention_days=90, max_alerts=1000)
    settings = Settings(
        store={"url": f"sqlite:///{folder / 'serving.db'}"},
        journal={"path": folder / "journal"},
        state={"path": folder / "state"},
        dead_letters={"path": folder / "dead-letters.jsonl"},
        events={"path": folder / "events", "seal_seconds": 3600, "memory_mb": 256},
        history={"path": folder / "history.db"},
        rules={"folder": folder / "own-rules"},
        access={"log": {"path": folder / "access.jsonl"}},
    )  # type: ignore[arg-type]
    app = create_app(settings, an_engine(store, explainer, folder))
    sent = [
        *(allowed(n, reason=BY_READERS, name=f"web-{n}") for n in range(5)),
        allowed(3600, reason=BY_READERS, resource="secrets", name="db"),
    ]
    with TestClient(app, base_url="http://127.0.0.1:8646", raise_server_exceptions=False) as client:
        assert client.post("/v1/audit", content=ndjson(sent)).status_code == 200
        settle(client)
        assert app.state.service.wait_for_events(30) == 0
        yield client
    store.close()


def text_of(client: TestClient, path: str, status: int = 200, **query: Any) -> str:
    """What a page says, without its tags."""
    answer = client.get(path + ("?" + urlencode(query) if query else ""), headers=OURS)
    assert answer.status_code == status, answer.text[:800]
    assert "<img" not in answer.text
    assert all(visible(line) == line for line in answer.text.split("\n"))
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", answer.text)))


# -- rights -------------------------------------------------------------------------------------------------------


def test_rights_are_counted_for_users_groups_and_bindings(client: TestClient) -> None:
    users = text_of(client, "/console/rights", days="all")
    assert (
        "alice@corp 3 2 1 1 : starts pods, as any service account of the namespace everything, in 2 steps"
        in users
    )
    assert (
        "system:serviceaccount:team-a:operator did nothing in this time 1 0 1 1 : everything everything"
        in users
    )
    only = text_of(client, "/console/rights", days="all", only="unused", q="serviceaccount")
    assert "alice@corp" not in only
    assert "1 user, 6 requests in this time" in only
    bindings = text_of(client, "/console/rights", by="bindings", days="all")
    assert 'ClusterRoleBinding "readers" 1 subject 2 2 0' in bindings
    assert "3 subjects 1 0 1 1 : starts pods" in bindings
    groups = text_of(client, "/console/rights", by="groups", days="all")
    assert "0 users acted 1 0 1" in groups
    assert "No users match." in text_of(client, "/console/rights", q="nobody-like-this")


def test_a_subject_shows_its_rights_its_reach_and_the_smallest_role(client: TestClient) -> None:
    path = "/console/rights/subject"
    alice = text_of(client, path, user="alice@corp", days="all")
    assert "get pods whole cluster 5" in alice
    assert "create pods team-a never starts pods, as any service account of the namespace" in alice
    assert "everything in the cluster 2 may do everything team-a:operator" in alice
    answer = client.get(f"{path}?user=alice%40corp&days=all", headers=OURS).text
    assert 'href="/console/rights/subject?user=system%3Aserviceaccount%3Ateam-a%3Aoperator"' in answer
    smallest = re.search(r'data-copy="(# The rights[^"]+)"', answer)
    assert smallest is not None
    role, _binding = list(yaml.safe_load_all(unescape(smallest[1])))[-2:]
    assert [rule["resources"] for rule in role["rules"]] == [["pods", "secrets"]]
    # What the page prints is what the command line reads.
    tried = client.post(
        "/console/rights/what-if", data=form(client, text=unescape(smallest[1]), days="all"), headers=OURS
    )
    assert "It would have denied nothing" in tried.text
    group = text_of(client, path, group=_HOSTILE, days="all")
    assert "of which nobody acted in this time" in group
    assert "create pods" in group
    assert "starts a pod that runs as it" in text_of(client, path, user=EVIL, days="all")
    assert "No binding names it" in text_of(client, path, status=404, user="nobody")
    assert "Name a user or a group" in text_of(client, path, status=400)


def test_bindings_and_who_can_say_who_has_a_right_and_who_used_it(client: TestClient) -> None:
    path = "/console/rights/binding"
    readers = text_of(client, path, binding="readers", days="all")
    assert 'Gives ClusterRole "reader" in the whole cluster' in readers
    assert "alice@corp 6 requests" in readers
    hostile = text_of(client, path, binding=_HOSTILE, namespace="team-a", days="all")
    assert "What if it were taken away?" in hostile
    assert "There is no such binding any more" in text_of(client, path, status=404, binding="gone")
    (incident,) = client.get("/v1/incidents").json()["incidents"]
    story = client.get(f"/console/incidents/{incident['id']}", headers=OURS).text
    assert "/console/rights/binding?binding=readers" in story
    assert f"/console/rights/incident?incident={incident['id']}" in story
    stopped = text_of(client, "/console/rights/incident", incident=incident["id"])
    assert 'take get secrets out of ClusterRole "reader"' in stopped
    assert "alice@corp get secrets db in team-a" in stopped
    text_of(client, "/console/rights/incident", status=404, incident="none")

    path = "/console/rights/who-can"
    found = text_of(client, path, verb="create", resource="pods", namespace="team-a")
    assert "May create pods in team-a" in found
    assert "system:serviceaccount:team-a:operator user" in found
    assert "kubehabit rbac who-can create pods -n team-a --rbac rbac.json" in found
    text_of(client, path, verb=EVIL[:30], resource=EVIL, namespace=_HOSTILE, name=EVIL)


def form(client: TestClient, **fields: str) -> dict[str, str]:
    page = client.get("/console/rights/what-if", headers=OURS).text
    token = re.search(r'name="form_token" value="([^"]*)"', page)
    assert token is not None
    return fields | {"form_token": token[1]}


CHANGES = (
    ({"remove": "clusterrolebindings/readers"}, 200, "It would have denied 6 requests"),
    ({"remove": "clusterrolebindings/operators"}, 200, "It would have denied nothing"),
    (
        {"text": "kind: ClusterRole\nmetadata: {name: reader}\nrules: []"},
        200,
        "It would have denied 6 requests",
    ),
    ({"remove": "clusterrolebindings/gone"}, 422, "There is no clusterrolebindings/gone"),
    ({"remove": _HOSTILE}, 422, "There is no "),
    ({"text": "a: [*b"}, 422, "Aliases ('*name') are not read"),
    ({"text": "a: &b [1]\nc: *b"}, 422, "Aliases ('*name') are not read"),
    ({"text": "a: ["}, 422, "This is no valid YAML"),
    ({"text": "[" * 40 + "]" * 40}, 422, "nested more than 32 deep"),
    ({"text": "kind: Pod\nmetadata: {name: x}"}, 422, "Only roles and bindings can be tried"),
    ({}, 422, "Nothing would change"),
)


def test_what_if_says_what_a_change_would_have_denied(client: TestClient) -> None:
    for fields, status, said in CHANGES:
        answer = client.post("/console/rights/what-if", data=form(client, days="all", **fields), headers=OURS)
        assert answer.status_code == status, fields
        assert said in unescape(re.sub(r"<[^>]+>", "", answer.text)), fields
        assert all(visible(line) == line for line in answer.text.split("\n"))
        foreign = client.post(
            "/console/rights/what-if", data=fields, headers={"Sec-Fetch-Site": "cross-site"}
        )
        assert foreign.status_code == 403


def test_what_if_asks_the_rules_of_each_moment(make_client: Make, engine: Engine) -> None:
    client = make_client(events={"enabled": True, "seal_seconds": 3600, "memory_mb": 256})
    gone = allowed(60, verb="delete", resource="clusterrolebindings", namespace="", name="readers")
    gone["requestURI"] = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/readers"
    gone["objectRef"]["apiGroup"] = "rbac.authorization.k8s.io"
    gone["user"] = {"username": "root", "groups": ["system:masters"]}
    sent = [*(allowed(n, reason=BY_READERS, name=f"web-{n}") for n in range(5)), gone]
    assert client.post("/v1/audit", content=ndjson(sent)).status_code == 200
    settle(client)
    assert client.app.state.service.wait_for_events(30) == 0
    empty = "kind: ClusterRole\nmetadata: {name: reader}\nrules: []"

    def tried() -> str:
        answer = client.post(
            "/console/rights/what-if", data=form(client, text=empty, days="all"), headers=OURS
        )
        assert answer.status_code == 200
        return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", answer.text)))

    page = tried()
    assert "It would have denied 5 requests" in page, "the binding was there when they were made"
    assert "1 later change of roles and bindings is undone for that." in page
    assert "are not known" not in page
    monitor = engine.authorization
    assert monitor is not None
    monitor.oracle.follower.whole = False  # as after more changes than are kept
    monitor._current = None
    assert re.search(r"Changes before .{5,30} are not known", tried())


def test_without_a_snapshot_the_page_says_how_to_get_one(make_client: Make, engine: Engine) -> None:
    engine.authorization = None
    client = make_client()
    for path in ("", "/subject?user=x", "/binding?binding=x", "/who-can", "/what-if", "/incident?incident=x"):
        page = text_of(client, f"/console/rights{path}")
        assert "kubectl get clusterroles,clusterrolebindings" in page
        assert "authorization: snapshot:" in page


def test_an_incomplete_snapshot_and_a_missing_store_are_said(make_client: Make) -> None:
    client = make_client(events={"enabled": False})
    body = {
        "verb": "update",
        "resource": "clusterroles",
        "namespace": "",
        "name": "reader",
        "requestURI": "/apis/rbac.authorization.k8s.io/v1/clusterroles/reader",
    }
    event = allowed(1, **body) | {"user": {"username": "root", "groups": ["system:masters"]}}
    event["objectRef"]["apiGroup"] = "rbac.authorization.k8s.io"
    event["level"] = "Metadata"
    unknown = allowed(9, reason="access granted by IAM permissions.")
    assert client.post("/v1/audit", content=ndjson([event, unknown])).status_code == 200
    settle(client)
    page = text_of(client, "/console/rights")
    assert "The snapshot is incomplete: of 1 change the log did not have the content" in page
    assert "What was used is not known: The event store is switched off" in page
    assert "were decided by an authorizer that is not known here" in page
    assert "alice@corp did nothing in this time 1 and 1 unknown" in page
    assert "the log did not say what they give" in text_of(
        client, "/console/rights/subject", user="alice@corp"
    )
    assert "what it gives now is not known" in text_of(client, "/console/rights/binding", binding="readers")
    with_change = client.post(
        "/console/rights/what-if", data=form(client, remove="clusterrolebindings/readers"), headers=OURS
    )
    assert with_change.status_code == 422
    assert "The event store is switched off" in with_change.text


# -- rules --------------------------------------------------------------------------------------------------------


def test_rules_say_whose_they_are_what_they_did_and_what_their_tests_say(
    client: TestClient,
) -> None:
    page = text_of(client, "/console/rules", days="90")
    assert "40 rules in use; all" in page
    assert "The file broken.yaml cannot be used" in page
    own = text_of(client, "/console/rules", own="own", days="90")
    assert "by-readers own" in own
    assert "service-external-ips" not in own
    assert "service-external-ips" in text_of(client, "/console/rules", q="T1557")
    assert "No rules match." in text_of(client, "/console/rules", q=EVIL)
    listed = client.get("/v1/rules").json()["rules"]
    linked = re.findall(r"/console/rules/([a-z0-9-]+)\?", client.get("/console/rules", headers=OURS).text)
    assert {one["name"] for one in listed} == set(linked)

    shipped = text_of(client, "/console/rules/service-external-ips")
    assert "size(event.requestObject.spec.externalIPs) > 0" in shipped
    assert "by a JSON patch" in shipped
    assert "passes" in shipped
    own = client.get("/console/rules/by-readers", headers=OURS).text
    (alert,) = client.get("/v1/alerts").json()["alerts"]
    assert f"/console/alerts/{alert['id']}" in own
    text_of(client, "/console/rules/nothing", status=404)
    text_of(client, "/console/rules/" + "%3Cimg%20src%3Dx%3E", status=404)


def test_hits_are_counted_by_the_days_of_the_log_and_outlive_a_restart(engine: Engine) -> None:
    day = 86_400
    for number in range(6):  # the fourth day makes a habit of it
        engine.score(decoded([allowed(number * day, reason=BY_READERS, resource="secrets", name="db")]))
    assert engine.rules is not None
    saved = engine.rules.snapshot()
    again = RuleAlerts(lambda: engine.rules.rules)  # type: ignore[union-attr]
    again.restore(saved)
    for alerts in (engine.rules, again):
        counted = alerts.hits_since(0)["by-readers"]
        assert (counted["new"] + counted["again"], counted["habit"]) == (3, 3)
        newest = max(alerts._filter.by_day)
        assert alerts.hits_since(newest)["by-readers"]["habit"] == 1
    del saved["filter"]["days"]  # a state of an older version
    again.restore(saved)
    assert again.hits_since(0) == {}


def test_every_page_of_rights_and_rules_needs_a_token_that_may_read() -> None:
    pages = ("/console/rights", "/console/rules")
    found = {path: need for (_, path), need in NEEDS.items() if path.startswith(pages)}
    assert len(found) == 8
    assert set(found.values()) == {"read"}
