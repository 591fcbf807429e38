"""Logs of the shapes that people report: each event is of the right principal, of the right kind, and hides nothing."""

from __future__ import annotations

import pytest

from data.actions.encoder import ActionEncoder, ActionSettings
from tests.data.events.formats.cases import FOLDER, read_file

ACCOUNT = "system:serviceaccount:"
AKS, GKE = "0000/shop-rg/shop/", "corp-prod/europe-west1/shop/"
SSO = "arn:aws:sso::111122223333:PlatformAdmin/"
VERA = "vera@corp.example"


def actions(case: str) -> list[dict[str, str]]:
    """The actions of a case, with principal and kind."""
    (path,) = FOLDER.glob(case + "-*")
    found = read_file(path)
    assert not found.dead
    encoder = ActionEncoder(ActionSettings.shipped())
    batch = encoder.encode(found.events)
    return [
        {field: encoder.interners[field].values[codes[row]] for field, codes in batch.codes.items()}
        | {"who": batch.principals[code].name, "kind": batch.principals[code].kind}
        for row, code in enumerate(batch.principal.tolist())
    ]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("22", [(SSO + name, "human") for name in ("vera-corp.example", "otto-corp.example", VERA)]),
        ("23", [(f"kubernetes-admin/{name}", "human") for name in ("vera", "otto", "ines")]),
        ("25", [(AKS + "aksService", "component"), (AKS + "masterclient", "human"), (AKS + "nodeclient", "component")]),
        ("33", [(f"{GKE}staff#{name}@corp.example", "human") for name in ("vera", "otto", "ines")]),
        ("34", [(GKE + VERA, "human")]),
        ("43", [(name, "human") for name in ("u-4abc", "u-5def", "u-6ghi")]),
        ("44", [("vera", "human")] * 3),
        ("47", [
            (ACCOUNT + "openshift-machine-config-operator:machine-config-controller", "controller"),
            (ACCOUNT + "openshift-etcd-operator:etcd-operator", "controller"),
            ("system:openshift-controller-manager", "component"),
            ("kube:admin", "human"),
        ]),
        ("48", [("system:anonymous", "anonymous")]),
        ("A2", [("aksService", "component"), ("eks:node-manager", "component")]),
    ],
)  # fmt: skip
def test_each_event_is_of_its_principal(case: str, expected: list[tuple[str, str]]) -> None:
    assert [(one["who"], one["kind"]) for one in actions(case)] == expected


def test_log_ins_carry_their_decision() -> None:
    assert [one["code"] for one in actions("44")] == ["401", "401", "ok"]
    assert {one["impersonates"] for one in actions("43")} == {"-"}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("21", [("create", "pods", "withheld"), ("get", "secrets", "-")]),
        ("28", [("update", "pods", "withheld"), ("get", "secrets", "-")]),
        ("35", [("update", "admissionregistration.k8s.io/mutatingwebhookconfigurations", "withheld")]),
        ("55", [("create", "pods", "withheld")]),
        ("A0", [("create", "pods", "containers=1,hostPID,privileged")] * 2),
    ],
)
def test_a_cut_or_repackaged_body_hides_nothing(case: str, expected: list[tuple[str, str, str]]) -> None:
    assert [(one["verb"], one["resource"], one["traits"]) for one in actions(case)] == expected


@pytest.mark.parametrize(
    ("case", "places"),
    [
        ("95", ["10.0.0.2", "203.0.113.9", "10.1.2.3"]),
        ("96", ["198.51.100.66", "198.51.100.66", "10.42.0.34"]),
    ],
)
def test_an_address_is_one_that_the_client_cannot_forge(case: str, places: list[str]) -> None:
    assert [one["place"] for one in actions(case)] == places
