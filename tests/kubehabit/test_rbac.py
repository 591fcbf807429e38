"""`kubehabit rbac`: from files to sentences, with names of a log that an attacker chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from data.visible_text import visible
from detection.authorization.authorizer import Authorizer
from detection.authorization.files import read_rbac
from detection.authorization.requests import AccessRequest
from kubehabit.main import app
from tests.serving.hostile import EVIL

CI = "system:serviceaccount:web:ci"
GROUP = "rbac.authorization.k8s.io"


def event(user: str, verb: str, path: str, decision: str = "allow", code: int = 200) -> str:
    return json.dumps(
        {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": f"{verb}-{path}-{len(user)}",
            "stage": "ResponseComplete",
            "verb": verb,
            "requestURI": path,
            "user": {"username": user, "groups": ["system:authenticated"]},
            "responseStatus": {"code": code},
            "requestReceivedTimestamp": "2026-11-24T10:00:00.000000Z",
            "annotations": {"authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": ""},
        }
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A log and the RBAC at its beginning."""
    log, rbac = tmp_path / "audit.log", tmp_path / "rbac.json"
    pods, secrets = "/api/v1/namespaces/web/pods", "/api/v1/namespaces/web/secrets"
    log.write_text(
        "\n".join(
            (
                *(event(CI, verb, pods) for verb in ("list", "create")),
                event(CI, "list", secrets, "forbid", 403),
                event(EVIL, "list", secrets),
            )
        )
    )
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
    in_web = {"verbs": ["list", "create", "delete"], "apiGroups": [""], "resources": ["pods"]}
    account = {"kind": "ServiceAccount", "namespace": "web"}
    items: list[dict[str, Any]] = [
        {"kind": "Role", "metadata": {"name": "deploy", "namespace": "web"}, "rules": [in_web]},
        {
            "kind": "RoleBinding",
            "metadata": {"name": "deploy", "namespace": "web"},
            "roleRef": {"kind": "Role", "name": "deploy"},
            "subjects": [account | {"name": "ci"}],
        },
        {"kind": "ClusterRole", "metadata": {"name": "all"}, "rules": [everything]},
        {
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "all"},
            "roleRef": {"kind": "ClusterRole", "name": "all"},
            "subjects": [account | {"name": "operator"}, {"kind": "User", "name": "root" + EVIL}],
        },
    ]
    rbac.write_text(json.dumps({"kind": "List", "items": items}))
    return str(log), str(rbac)


def run(*words: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, ["rbac", *words])
    assert done.exit_code == status, done.output
    for line in done.output.splitlines():
        assert visible(line) == line
    return done.stdout


def test_check_names_the_contradiction_with_its_audit_id(files: tuple[str, str]) -> None:
    log, rbac = files
    found = json.loads(run("check", log, "--rbac", rbac, "--json", status=1))
    assert (found["requests"], found["compared"], found["agreed"]) == (4, 4, 3)
    (one,) = found["contradictions"]
    assert one["outcome"] == "allowed by nothing"
    assert one["request"] == "list secrets in web"
    assert one["auditID"].startswith("list-")
    assert "allowed by nothing" in run("check", log, "--rbac", rbac, status=1)


def test_report_and_role_and_whatif_fit_together(files: tuple[str, str], tmp_path: Path) -> None:
    log, rbac = files
    (one,) = json.loads(run("report", log, "--rbac", rbac, "--user", CI, "--json"))
    assert (one["granted"], one["used"], one["unused"]) == (3, 2, 1)
    assert "delete pods" in run("report", log, "--rbac", rbac, "--user", CI)
    role = tmp_path / "role.yaml"
    role.write_text(run("role", CI, log, "--rbac", rbac))
    assert "used 2 times" in role.read_text()
    assert [one["kind"] for one in yaml.safe_load_all(role.read_text()) if one] == ["Role", "RoleBinding"]
    smallest = Authorizer(read_rbac(role)[0])
    for verb, opinion in (("list", "allow"), ("create", "allow"), ("delete", "no opinion")):
        assert smallest.decide(CI, (), AccessRequest(verb, None, "", "pods", "", "web")).opinion == opinion
    remove = ("--remove", "rolebindings/web/deploy")
    assert "would have denied 2" in run("whatif", log, "--rbac", rbac, *remove, status=1)
    assert "would have denied 0" in run("whatif", log, "--rbac", rbac, *remove, "--proposed", str(role))


def test_who_can_and_path_say_by_which_binding(files: tuple[str, str]) -> None:
    _, rbac = files
    found = json.loads(run("who-can", "delete", "pods", "-n", "web", "--rbac", rbac, "--json"))
    assert {CI, "system:serviceaccount:web:operator", "system:masters", "root" + EVIL} == {
        one["name"] for one in found
    }
    run("who-can", "delete", "pods", "-n", "web", "--rbac", rbac)
    (first, *_) = json.loads(run("path", CI, "--rbac", rbac, "--json"))
    assert first["target"] == "cluster-admin"
    assert [step["to"] for step in first["steps"]] == ["system:serviceaccount:web:operator", "cluster-admin"]
    assert "starts a pod that runs as it" in run("path", CI, "--rbac", rbac)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("role", "nobody", "LOG"), "nobody did nothing in this log that was allowed"),
        (("whatif", "LOG"), "Nothing would change"),
        (("whatif", "LOG", "--remove", "pods/x"), "pods/x names no role or binding"),
        (("whatif", "LOG", "--remove", "clusterroles/x"), "clusterroles/x is not in"),
    ],
)
def test_mistakes_get_a_sentence(files: tuple[str, str], words: tuple[str, ...], sentence: str) -> None:
    log, rbac = files
    done = CliRunner().invoke(
        app, ["rbac", *(log if word == "LOG" else word for word in words), "--rbac", rbac]
    )
    assert done.exit_code == 2
    assert sentence in done.stderr


def test_findings_are_sarif_for_code_scanning(files: tuple[str, str]) -> None:
    log, rbac = files
    (one,) = json.loads(run("report", log, "--rbac", rbac, "--user", CI, "--sarif"))["runs"]
    (found,) = one["results"]
    assert (found["ruleId"], found["level"]) == ("unused-right", "note")
    assert found["ruleId"] in {rule["id"] for rule in one["tool"]["driver"]["rules"]}
    assert "delete pods" in found["message"]["text"]
    assert found["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == rbac
    (checked,) = json.loads(run("check", log, "--rbac", rbac, "--sarif", status=1))["runs"]
    (error,) = checked["results"]
    assert (error["ruleId"], error["level"]) == ("allowed-by-nothing", "error")
    assert visible(error["message"]["text"]) == error["message"]["text"]
    again = json.loads(run("check", log, "--rbac", rbac, "--sarif", status=1))["runs"][0]["results"]
    assert [one["partialFingerprints"] for one in again] == [error["partialFingerprints"]]
