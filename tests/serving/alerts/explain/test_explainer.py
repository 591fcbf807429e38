"""Sentences for a newcomer, ATT&CK techniques, and commands that are safe to paste."""

from __future__ import annotations

import re
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.actions.attributes import ATTRIBUTES, HOURS
from data.errors import KubehabitError
from serving.alerts.explain.explainer import Explainer
from serving.alerts.explain.phrases import ActionPhrase
from serving.schemas import (
    Action,
    Alert,
    Alternative,
    FieldSurprise,
    Novelty,
    ObjectReference,
    ServedModel,
    add_actions,
)
from tests.serving.fakes import START

CI = "system:serviceaccount:web:ci-deployer"


def novelty(attribute: str, value: str = "x y", **more: Any) -> Novelty:
    counts = {"times_before": 0, "actions_before": 1197, "peers_with": 0, "peers": 2, "anyone_with": 1}
    return Novelty(attribute=attribute, value=value, **(counts | more))


def action(
    explainer: Explainer,
    verb: str = "list",
    resource: str = "secrets",
    namespace: str = "payments",
    name: str = "",
    *,
    code: int = 200,
    seconds: float = 0,
    **more: Any,
) -> Action:
    base, _, subresource = resource.partition("/")
    ref = ObjectReference(resource=base, subresource=subresource, namespace=namespace, name=name)
    made = Action.model_validate(
        {
            "audit_id": f"id-{seconds}",
            "time": START + timedelta(seconds=seconds),
            "did": "",
            "verb": verb,
            "object_ref": ref if resource else None,
            "response_status": {"code": code},
            "severity": "high",
            "sensitivity": 3,
            "evidence": 5,
            "surprise": 20,
        }
        | more
    )
    made.description = explainer.describe(ActionPhrase.from_summary(made))
    return made


def alert(explainer: Explainer, *actions: Action, principal: str = CI, kind: str = "serviceaccount") -> Alert:
    made = Alert(
        id="a",
        principal=principal,
        kind=kind,
        peer_group="account:ci-deployer",
        first_seen=actions[0].time,
        last_seen=actions[0].time,
        severity="low",
        evidence=0,
        sentence="",
        model=ServedModel(name="kubehabit", version="1"),
    )
    add_actions(made, list(actions), first=50, top=50)
    explainer.renew(made)
    return made


def sentence(explainer: Explainer, *habits: Novelty, **more: Any) -> str:
    who = {key: more.pop(key) for key in ("principal", "kind") if key in more}
    return alert(explainer, action(explainer, habits=list(habits), **more), **who).sentence


def test_what_is_new_is_said_with_counts_and_peers(explainer: Explainer) -> None:
    assert sentence(explainer, novelty("verb_resource_namespace")) == (
        "ci-deployer (service account in web) listed Secrets in payments: it has never done that before "
        "(0 of 1,197 earlier actions), nor has any of its 2 peers."
    )


def test_a_harvest_is_said_once_in_its_shortest_time(explainer: Explainer) -> None:
    habits = [novelty(span, "get pods/log 16 or more") for span in ("spread", "burst")]
    given = {"verb": "get", "resource": "pods/log", "namespace": "web", "name": "api-1"}
    text = sentence(explainer, *habits, **given, principal="dev-1@example.com", kind="human")
    assert "has never done that with 16 or more different Pods within 20 seconds before" in text
    assert "ten minutes" not in text
    # One object more is nothing to speak of.
    assert "different" not in sentence(explainer, novelty("burst", "get pods/log -"), **given)


def test_a_strange_hour_is_said_in_days_and_after_what_was_done(explainer: Explainer) -> None:
    hour = novelty("hours", "weekday 03", actions_before=14, peers=9, anyone_with=0)
    who = {"principal": "dev-1@example.com", "kind": "human"}
    assert sentence(explainer, hour, **who).endswith(
        ": this person was hardly ever active around 03:00 UTC on weekdays before (on none or one of 14 earlier days)."
    )
    more = sentence(explainer, hour, novelty("verb_resource_namespace"), **who)
    assert "has never done that before (0 of 1,197 earlier actions)" in more
    assert more.endswith(". New as well: activity around 03:00 UTC on weekdays.")


@pytest.mark.parametrize(
    ("counts", "ending"),
    [
        ({"peers": 1}, "nor has its only peer."),
        ({"peers": 9, "peers_with": 1}, "though 1 of its 9 peers has."),
        ({"peers": 9, "peers_with": 3}, "though 3 of its 9 peers have."),
        ({"peers": 2, "peers_with": 2}, "though all of its 2 peers have."),
        ({"peers": 1, "peers_with": 1}, "though its only peer has."),
        ({"peers": 2, "peers_with": 3}, "though 3 of its peers have."),
        ({"peers": 0, "peers_with": 1}, "though 1 of its peers has."),
        ({"peers": 0}, "(0 of 1,197 earlier actions)."),
        ({"peers": 0, "anyone_with": 0}, "nor has anybody else."),
        ({"anyone_with": 0}, "nor has any of its 2 peers, nor anybody else in the cluster."),
        ({"times_before": 2}, "it has done that only 2 times before (in 1,197 earlier actions)."),
        ({"actions_before": 1}, "(0 of 1 earlier action), nor has any of its 2 peers."),
        ({"actions_before": 0}, "it was never seen before."),
    ],
)
def test_comparisons_read_as_english(explainer: Explainer, counts: dict[str, int], ending: str) -> None:
    assert sentence(explainer, novelty("verb_resource_namespace", **counts)).endswith(ending)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"verb": "get", "name": "db"}, "read Secret db in payments"),
        ({"namespace": ""}, "listed Secrets in all namespaces"),
        ({"verb": "watch"}, "watched Secrets in payments"),
        ({"verb": "get", "resource": "pods/log", "name": "web-0"}, "read the log of Pod web-0 in payments"),
        (
            {"verb": "get", "resource": "pods/exec", "name": "web-0"},
            "executed a command inside Pod web-0 in payments",
        ),
        (
            {"verb": "create", "resource": "pods/exec", "name": "a"},
            "executed a command inside Pod a in payments",
        ),
        (
            {"verb": "create", "resource": "pods/portforward", "name": "a"},
            "opened a tunnel (port-forward) to Pod a",
        ),
        (
            {"verb": "create", "resource": "serviceaccounts/token", "name": "x"},
            "obtained a token for service account x",
        ),
        ({"verb": "get", "resource": "nodes/proxy", "namespace": "", "name": "n-1"}, "reached the kubelet"),
        (
            {"verb": "create", "resource": "rolebindings", "name": "t"},
            "granted rights with RoleBinding t in payments",
        ),
        ({"verb": "patch", "resource": "deployments/scale", "name": "w"}, "scaled Deployment w in payments"),
        (
            {"verb": "update", "resource": "deployments/status", "name": "w"},
            "changed the status of Deployment w",
        ),
        ({"verb": "deletecollection", "resource": "events"}, "deleted all Events in payments"),
        ({"verb": "delete", "resource": "nodes", "namespace": "", "name": "n-1"}, "deleted node n-1"),
        ({"verb": "create", "resource": "ingresses"}, "created an Ingress in payments"),
        ({"verb": "get", "resource": "widgetries", "name": "w"}, "read widgetry w in payments"),
        ({"verb": "approve", "resource": "widgets", "name": "w"}, "used 'approve' on widget w in payments"),
        ({"code": 403}, "tried to list Secrets in payments and was refused (403)"),
        (
            {"code": 404, "verb": "get", "name": "x"},
            "tried to read Secret x in payments, which does not exist (404)",
        ),
        ({"code": 409}, "tried to list Secrets in payments, which failed (409)"),
        ({"resource": "", "verb": "get", "request_path": "/version"}, "read the path /version"),
        (
            {"impersonated_user": {"username": "system:serviceaccount:team-b:payments"}},
            "listed Secrets in payments, acting as payments (service account in team-b)",
        ),
        (
            {
                "verb": "create",
                "resource": "pods",
                "name": "x",
                "traits": ["containers=1", "hostPath=/etc", "privileged"],
            },
            "created Pod x in payments, with the node's folder /etc mounted and a privileged container",
        ),
        (
            {
                "verb": "create",
                "resource": "rolebindings",
                "name": "x",
                "traits": ["role=admin", "subject=self"],
            },
            "with the role admin and itself as the one who gains",
        ),
    ],
)
def test_requests_are_described_by_what_they_do(
    explainer: Explainer, request_: dict[str, Any], words: str
) -> None:
    assert words in action(explainer, **request_).description


@pytest.mark.parametrize(
    ("principal", "kind", "who"),
    [
        ("alice@corp", "human", "alice@corp (a person)"),
        (
            "system:serviceaccount:kube-system:job-controller",
            "controller",
            "job-controller (built-in controller in kube-system)",
        ),
        ("system:node:node-4", "node", "node-4 (the identity of a node)"),
        ("system:kube-scheduler", "component", "kube-scheduler (a part of the control plane)"),
        ("system:anonymous", "anonymous", "An anonymous caller"),
    ],
)
def test_principals_are_introduced(explainer: Explainer, principal: str, kind: str, who: str) -> None:
    assert sentence(explainer, novelty("object"), principal=principal, kind=kind).startswith(f"{who} listed")


def test_people_are_no_things(explainer: Explainer) -> None:
    text = sentence(explainer, novelty("namespace", "payments"), principal="alice@corp", kind="human")
    assert "this person has never done anything in payments before" in text
    assert "any of their 2 peers" in text
    assert " it " not in text.partition(":")[2]


def test_broad_news_come_first_and_make_narrow_ones_go_without_saying(explainer: Explainer) -> None:
    text = sentence(
        explainer,
        novelty("object"),
        novelty("place", "198.51.100.9"),
        novelty("verb_resource_namespace"),
        novelty("verb_resource", peers_with=1),
        novelty("images", "-"),
        novelty("client", "curl/8.5"),
    )
    assert (
        "it has never listed Secrets before (0 of 1,197 earlier actions), though 1 of its 2 peers has. "
        in text
    )
    assert text.endswith("New as well: the client curl/8.5 and the address 198.51.100.9.")


def test_every_attribute_of_the_detector_has_words(explainer: Explainer) -> None:
    assert set(ATTRIBUTES) <= set(explainer.lexicon.novelties)
    for attribute in ATTRIBUTES:
        text = sentence(explainer, novelty(attribute, "secrets thing"))
        counted = "none or one of 1,197 earlier days" if attribute == HOURS else "0 of 1,197 earlier actions"
        assert f"before (on {counted})" in text or f"before ({counted})" in text, attribute
        assert "$" not in text


def test_without_novelty_the_models_own_expectation_is_given(explainer: Explainer) -> None:
    fields = [
        FieldSurprise(
            field="client",
            value="curl/8.5",
            nll=9.0,
            expected=[
                Alternative(value="<unknown>", probability=0.5),
                Alternative(value="kubectl/1.29 linux", probability=0.93),
                Alternative(value="curl/8.5", probability=0.01),
            ],
        )
    ]
    assert sentence(explainer, fields=fields).endswith(
        "every part of it is known, but the client does not fit here: curl/8.5, where one would expect "
        "kubectl/1.29 linux (93%)."
    )
    assert "every part of it is known" in sentence(explainer)


def test_a_stretch_tells_its_gravest_action_and_counts_the_others(explainer: Explainer) -> None:
    made = alert(
        explainer,
        action(explainer, "get", "configmaps", name="a", severity="low"),
        action(explainer, habits=[novelty("namespace", "payments")], seconds=60),
        action(explainer, "get", "configmaps", name="a", severity="low", seconds=120),
    )
    assert "listed Secrets in payments: it has never" in made.sentence
    assert made.sentence.endswith(
        " With 2 more unusual actions within 2 minutes: read ConfigMap a in payments (2 times)."
    )


def test_what_was_done_again_later_is_not_counted_within_the_first_stretch(explainer: Explainer) -> None:
    made = alert(
        explainer,
        action(explainer, habits=[novelty("namespace", "payments")]),
        action(explainer, "get", "configmaps", name="a", severity="low", seconds=60),
        action(explainer, "get", "configmaps", name="a", severity="low", seconds=60),
    )
    made.actions_again = made.times_again = 1
    made.last_again = made.last_seen + timedelta(hours=4)
    text = explainer.sentence(made)
    assert "With 1 more unusual action within 60 seconds: read ConfigMap a in payments." in text
    assert "It was done again later, 1 time" in text


def test_words_of_kubernetes_are_explained(explainer: Explainer) -> None:
    made = alert(explainer, action(explainer))
    assert {"Secret", "service account"} <= set(made.terms)
    assert "Pod" not in made.terms


@pytest.mark.parametrize(
    ("request_", "technique"),
    [
        ({}, "T1552.007"),
        ({"verb": "watch"}, "T1552.007"),
        ({"verb": "get", "resource": "pods/exec", "name": "x"}, "T1609"),
        ({"verb": "create", "resource": "pods", "name": "x", "traits": ["privileged"]}, "T1611"),
        ({"verb": "create", "resource": "pods", "name": "x"}, "T1610"),
        ({"verb": "get", "resource": "nodes/proxy", "name": "x"}, "T1611"),
        ({"verb": "create", "resource": "clusterrolebindings", "name": "x"}, "T1098.006"),
        ({"verb": "create", "resource": "serviceaccounts/token", "name": "x"}, "T1528"),
        ({"verb": "patch", "resource": "deployments/scale", "name": "x"}, "T1496"),
        ({"verb": "delete", "resource": "events", "name": "x"}, "T1070"),
        ({"verb": "delete", "resource": "networkpolicies", "name": "x"}, "T1562.007"),
        ({"verb": "create", "resource": "cronjobs", "name": "x"}, "T1053.007"),
        ({"verb": "create", "resource": "selfsubjectaccessreviews"}, "T1069"),
        ({"verb": "patch", "resource": "endpointslices", "name": "x"}, "T1557"),
        (
            {"verb": "get", "resource": "services", "name": "x", "impersonated_user": {"username": "u"}},
            "T1078",
        ),
    ],
)
def test_techniques_follow_from_what_was_done(
    explainer: Explainer, request_: dict[str, Any], technique: str
) -> None:
    found = alert(explainer, action(explainer, **request_)).techniques
    assert technique in [one.id for one in found]
    assert all(one.name and one.tactic and one.url.startswith("https://attack.mitre.org/") for one in found)
    assert len(found) <= 3


def test_an_ordinary_read_is_no_attack_technique(explainer: Explainer) -> None:
    assert alert(explainer, action(explainer, "get", "pods", name="x")).techniques == []


def test_checks_have_exact_commands(explainer: Explainer) -> None:
    checks = alert(explainer, action(explainer, "get", name="db-creds")).checks
    commands = [check.command for check in checks]
    groups = "--as-group=system:authenticated --as-group=system:serviceaccounts --as-group=system:serviceaccounts:web"
    assert f"kubectl auth can-i --list --as={CI} {groups} -n payments" in commands
    assert "kubectl describe secrets db-creds -n payments" in commands
    assert checks[0].kind == "look"
    contain = alert(explainer, action(explainer, "get", "pods/exec", name="web-0")).checks[-1]
    assert (contain.kind, contain.command) == ("contain", "kubectl delete pods web-0 -n payments")


def test_no_command_deletes_without_a_name(explainer: Explainer) -> None:
    for request_ in (
        {"verb": "create", "resource": "pods", "traits": ["privileged"]},
        {"verb": "list", "resource": "roles"},
    ):
        checks = alert(explainer, action(explainer, **request_)).checks
        assert not [check for check in checks if check.command and "delete" in check.command]


_RESOURCES = st.sampled_from(
    ["secrets", "pods", "pods/exec", "roles", "configmaps", "serviceaccounts/token", "nodes/proxy"]
)
_HOSTILE = st.sampled_from(
    ["-A", "--all", "$(id)", "x;id", "a b", "`id`", "x\nid", "'", '"', "x'y"]
) | st.text(max_size=20)


@settings(deadline=None)
@given(
    principal=_HOSTILE,
    namespace=_HOSTILE,
    name=_HOSTILE,
    resource=_RESOURCES,
    verb=st.sampled_from(["get", "create", "list", "delete", "patch"]),
)
def test_no_name_in_a_log_can_inject_into_a_command(
    explainer: Explainer, principal: str, namespace: str, name: str, resource: str, verb: str
) -> None:
    made = alert(
        explainer,
        action(explainer, verb, resource, namespace, name, traits=["privileged"]),
        principal=principal,
        kind="human",
    )
    own_options = {"-n", "-A", "-o", "-i", "-e", "-B8", "--list", "--tail=200"}
    for check in made.checks:
        if check.command is None:
            continue
        assert check.command.isprintable()
        # Outside of quotes there is nothing that a shell would act on but our own pipes.
        bare = re.sub(r"'[^']*'|\"'\"", "", check.command)
        assert not re.search(r"[;&`$<>\n()]", bare), check.command
        for word in shlex.split(check.command):
            if word.startswith("-"):
                assert word in own_options or word.startswith(
                    ("--as=", "--as-group=system:", "--field-selector", "-o")
                ), check.command


def test_a_wrong_vocabulary_is_refused_with_its_place(tmp_path: Path) -> None:
    shipped = (Path(__file__).parents[4] / "configs" / "explain.yaml").read_text()
    file = tmp_path / "explain.yaml"
    file.write_text(shipped.replace("techniques: [T1552.007]", "techniques: [T9999]", 1))
    with pytest.raises(KubehabitError, match="T9999"):
        Explainer.load(file)
    file.write_text(
        shipped.replace("when: {resource: [secrets], verb:", "when: {resource: [secrets], vreb:", 1)
    )
    with pytest.raises(KubehabitError, match="vreb"):
        Explainer.load(file)


# -- what was expected, and why it is grave ---------------------------------------------------------------------


def test_what_was_expected_is_given_for_the_principal_and_for_its_peers(explainer: Explainer) -> None:
    surprise = FieldSurprise(
        field="namespace",
        value="payments",
        nll=7.5,
        expected=[
            Alternative(value="web", probability=0.93),
            Alternative(value="<unknown>", probability=0.04),
            Alternative(value="shop", probability=0.004),
        ],
        expected_of_peers=[
            Alternative(value="shop", probability=0.6),
            Alternative(value="web", probability=0.3),
        ],
    )
    silent = FieldSurprise(
        field="images", value="-", nll=3, expected=[Alternative(value="app", probability=0.9)]
    )
    made = alert(explainer, action(explainer, fields=[surprise, silent]))
    assert made.expected == [
        "the namespace was payments; expected of it instead: web (93%); of its peers: shop (60%) or web (30%)"
    ]


def test_the_sentence_is_about_the_action_that_shows_what_is_new(explainer: Explainer) -> None:
    """The most severe action repeats what an earlier one did for the first time."""
    first = action(explainer, evidence=5, seconds=0, habits=[novelty("verb_resource", anyone_with=0)])
    again = action(explainer, "get", name="db", evidence=9, seconds=1)
    made = alert(explainer, first, again)
    assert made.headline.verb == "get"
    assert made.sentence.startswith(
        "ci-deployer (service account in web) listed Secrets in payments: it has never"
    )
    assert "read Secret db" in made.sentence


def test_a_more_severe_action_with_novelty_of_its_own_stays_the_one_described(explainer: Explainer) -> None:
    mild = action(
        explainer, "get", "configmaps", severity="low", habits=[novelty("verb_resource", anyone_with=0)]
    )
    grave = action(explainer, severity="critical", seconds=1, habits=[novelty("object", peers_with=1)])
    assert "listed Secrets" in alert(explainer, mild, grave).sentence.partition(":")[0]


def test_severity_comes_with_its_reasons(explainer: Explainer) -> None:
    made = alert(
        explainer, action(explainer, habits=[novelty("verb_resource")], sensitivity_reason="reads secrets")
    )
    assert made.severity_reasons == [
        "reads secrets: what an attacker wants most",
        "some of it none of its peers has done before",
        "1 action was flagged",
    ]


@pytest.mark.parametrize(
    ("verb", "resource", "command"),
    [
        ("create", "deployments", "kubectl scale deployments miner -n payments --replicas=0"),
        ("patch", "deployments", "kubectl rollout undo deployments miner -n payments"),
        ("patch", "daemonsets", "kubectl rollout undo daemonsets miner -n payments"),
        ("create", "rolebindings", "kubectl delete rolebindings miner -n payments"),
        ("create", "cronjobs", """kubectl patch cronjobs miner -n payments -p '{"spec":{"suspend":true}}'"""),
        ("create", "serviceaccounts/token", "kubectl delete serviceaccounts miner -n payments"),
        ("create", "certificatesigningrequests", "kubectl certificate deny miner"),
    ],
)
def test_containing_is_an_exact_command_and_needs_a_name(
    explainer: Explainer, verb: str, resource: str, command: str
) -> None:
    named = alert(explainer, action(explainer, verb, resource, name="miner"))
    assert command in [check.command for check in named.checks if check.kind == "contain"]
    nameless = alert(explainer, action(explainer, verb, resource))
    assert not [check for check in nameless.checks if check.effect in ("changes", "stops")]
    changing = re.compile("kubectl (delete|scale|patch|rollout undo|certificate)")
    assert not [check for check in nameless.checks if check.command and changing.match(check.command)]
    commands = [check.command for check in named.checks if check.command]
    assert len(commands) == len(set(commands))


@pytest.mark.parametrize("verb", ["update", "patch", "delete"])
@pytest.mark.parametrize(
    "resource", ["roles", "clusterrolebindings", "mutatingwebhookconfigurations", "deployments", "daemonsets"]
)
def test_what_was_changed_is_put_back_and_never_deleted_or_stopped(
    explainer: Explainer, verb: str, resource: str
) -> None:
    made = alert(explainer, action(explainer, verb, resource, name="miner", traits=["privileged"]))
    assert not [check for check in made.checks if check.effect == "stops"]
    assert not [check for check in made.checks if "kubectl delete" in (check.command or "")]


def test_nothing_that_stops_work_is_proposed_for_a_low_alert(explainer: Explainer) -> None:
    for severity, count in (("low", 0), ("medium", 1)):
        made = alert(explainer, action(explainer, "create", "deployments", name="x", severity=severity))
        assert sum(check.effect == "stops" for check in made.checks) == count


def test_what_only_looks_is_no_containment(explainer: Explainer) -> None:
    for kind in ("human", "serviceaccount", "node", "anonymous"):
        made = alert(
            explainer,
            action(explainer, habits=[novelty("client")], impersonated_user={"username": "u"}),
            kind=kind,
        )
        assert made.checks
        for check in made.checks:
            assert (check.command is None) == (check.effect is None)
            assert check.kind == "look" or check.effect in (None, "changes", "stops")


def test_nobody_owns_those_without_credentials(explainer: Explainer) -> None:
    made = alert(explainer, action(explainer), principal="system:anonymous", kind="anonymous")
    assert not [check for check in made.checks if "owner" in check.text or "can-i" in (check.command or "")]


def test_what_else_was_done_can_be_contained_as_well(explainer: Explainer) -> None:
    grave = action(explainer, evidence=9, seconds=1)
    miner = action(explainer, "create", "deployments", name="miner", evidence=5, seconds=2)
    commands = [check.command for check in alert(explainer, grave, miner).checks]
    assert "kubectl scale deployments miner -n payments --replicas=0" in commands
    assert "kubectl get deployments miner -n payments -o yaml" not in commands


def test_a_stolen_token_can_be_contained_also_where_its_first_use_was_not_the_worst(
    explainer: Explainer,
) -> None:
    stolen = action(explainer, evidence=3, seconds=1, habits=[novelty("place", "198.51.100.7")])
    grave = action(explainer, evidence=9, seconds=2)
    name = "system:serviceaccount:payments:ledger"
    made = alert(explainer, stolen, grave, principal=name, kind="serviceaccount")
    assert made.headline.evidence == 9
    steps = [check.text for check in made.checks if check.kind == "contain"]
    assert len(steps) == len(set(steps))
    assert any(step.startswith("A token taken from a Pod ends with that Pod") for step in steps)


# -- sessions ---------------------------------------------------------------------------------------------------


def session(
    explainer: Explainer, *actions: Action, kind: str = "human", seconds: float = 10
) -> tuple[str, list[str], str]:
    return explainer.session("alice@corp", kind, actions, actions, timedelta(seconds=seconds))


def test_a_pace_tells_more_than_an_object_that_is_new(explainer: Explainer) -> None:
    logs = [
        action(explainer, "get", "pods/log", name=f"web-{at}", seconds=at, habits=[novelty("object")])
        for at in range(6)
    ]
    sentence, reasons, top = session(explainer, *logs)
    assert top == "pace"
    assert reasons[0] == "6 such requests within 10 seconds, on 6 different objects"
    assert sentence.endswith("With 5 more actions that counted within 10 seconds.")


def test_a_kind_of_deed_that_is_new_tells_more_than_a_pace(explainer: Explainer) -> None:
    new = [novelty("verb_resource")]
    logs = [action(explainer, "get", "pods/log", seconds=at, habits=new if not at else []) for at in range(6)]
    assert session(explainer, *logs)[2] == "verb_resource"


def test_a_program_that_moved_is_described_first(explainer: Explainer) -> None:
    moved = action(
        explainer, habits=[novelty("verb_resource", anyone_with=0), novelty("place", "198.51.100.7")]
    )
    assert session(explainer, moved, kind="serviceaccount")[2] == "place"
    assert session(explainer, moved, kind="human")[2] == "verb_resource"


def test_refusals_are_counted_and_lead_for_callers_without_credentials(explainer: Explainer) -> None:
    probes = [action(explainer, "list", "nodes", "", code=403, seconds=at) for at in range(3)]
    assert session(explainer, *probes, kind="anonymous")[1][0] == "3 of 3 requests were refused"
    news = action(explainer, habits=[novelty("namespace")], seconds=4)
    assert session(explainer, *probes, news)[2] == "namespace"
