"""Identity: user names become the principals an operator thinks of, and each has a peer group with a reason."""

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.actions.encoder import ActionEncoder, ActionSettings
from data.dataset.build import build
from data.errors import KubehabitError
from data.events.decode import decode_lines
from data.events.reader import open_lines
from data.paths import shipped
from data.principals.identity import (
    FOLDS_LIMIT,
    Identity,
    Principal,
    describe_folds,
    fold_report,
    identify,
)
from data.principals.peer_groups import PrincipalTable, cluster, similarity
from tests.data.samples import event

RULES = shipped("identity.yaml")
SSO = "arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_Admin_0123456789abcdef/dev-1@corp.example"


@pytest.mark.parametrize(
    ("username", "name"),
    [
        ("arn:aws:sts::111122223333:assumed-role/Deploy/i-0123", "arn:aws:iam::111122223333:role/Deploy"),
        ("arn:aws-us-gov:sts::1:assumed-role/Deploy/x", "arn:aws-us-gov:iam::1:role/Deploy"),
        (SSO, "arn:aws:sso::111122223333:Admin/dev-1@corp.example"),
        ("arn:aws:iam::111122223333:user/dev-1", "arn:aws:iam::111122223333:user/dev-1"),
        ("oidc:dev-1@corp.example", "dev-1@corp.example"),
        ("https://login.example/realms/a#dev-1", "login.example#dev-1"),
        ("dev-1@corp.example", "dev-1@corp.example"),
        ("a1b2c3d4-0000-4000-8000-000000000001", "a1b2c3d4-0000-4000-8000-000000000001"),
        ("system:serviceaccount:ci:run-12345", "system:serviceaccount:ci:run-*"),
        ("system:serviceaccount:ci:build-x2x4z", "system:serviceaccount:ci:build-*"),
        (
            "system:serviceaccount:ci:job-8f6f2f52-0c4c-4d9e-9a0e-6b6c9d1a0001",
            "system:serviceaccount:ci:job-*",
        ),
        ("system:serviceaccount:web:worker-2", "system:serviceaccount:web:worker-2"),
        ("system:serviceaccount:kube-system:coredns", "system:serviceaccount:kube-system:coredns"),
        (
            "system:serviceaccount:ingress-nginx:ingress-nginx",
            "system:serviceaccount:ingress-nginx:ingress-nginx",
        ),
        ("system:node:ip-10-0-3-17.eu-west-1.compute.internal",) * 2,
        ("", "system:anonymous"),
    ],
)
def test_user_names_are_folded_as_operators_think(username: str, name: str) -> None:
    assert Identity(RULES).principal(username, ()).name == name


def test_a_forged_prefix_never_becomes_a_system_name() -> None:
    identity = Identity(RULES)
    for username in ("oidc:system:masters", "https://x.example#system:kube-scheduler"):
        assert identity.principal(username, ()).name == username


@pytest.mark.parametrize(
    ("node", "pool"),
    [
        (
            "system:node:ip-10-0-3-17.eu-west-1.compute.internal",
            "system:node:ip-*.eu-west-1.compute.internal",
        ),
        ("system:node:gke-prod-pool-1-a1b2c3d4-x2x4", "system:node:gke-prod-pool-1"),
        ("system:node:aks-nodepool1-12345678-vmss00000a", "system:node:aks-nodepool1"),
        ("system:node:node-1", "system:node:node-1"),
    ],
)
def test_nodes_are_folded_to_their_pool_only_when_asked(node: str, pool: str) -> None:
    assert Identity(RULES).fold(node) == node
    found = Identity(RULES | {"fold_nodes": True}).principal(node, ("system:nodes",))
    assert (found.name, found.kind) == (pool, "node")


@pytest.mark.parametrize(
    ("username", "kind", "group"),
    [
        ("robot@my-project.iam.gserviceaccount.com", "serviceaccount", "kind:serviceaccount"),
        ("system:admin", "human", "kind:human"),
        (SSO, "human", "aws-sso:Admin"),
        ("system:serviceaccount:ci:run-12345", "serviceaccount", "account:run-*"),
    ],
)
def test_a_rule_may_say_what_kind_a_principal_is_and_who_its_peers_are(
    username: str, kind: str, group: str
) -> None:
    found = Identity(RULES).principal(username, ())
    assert (found.kind, found.groups[0], found.groups[-1]) == (kind, group, f"kind:{kind}")


@given(st.text(max_size=80))
def test_any_user_name_folds_and_folding_is_stable(username: str) -> None:
    identity = Identity(RULES)
    name = identity.principal(username, ()).name
    assert name
    assert identity.principal(username, ()).name == name


def test_the_event_keeps_the_user_name_it_was_logged_with() -> None:
    (logged,) = decode_lines([event(user={"username": "oidc:dev-1", "groups": []})]).events
    encoder = ActionEncoder(ActionSettings.from_dict(shipped("actions.yaml")))
    batch = encoder.encode([logged])
    assert batch.principals[batch.principal[0]].name == "dev-1"
    assert logged.user.username == "oidc:dev-1"


def test_impersonation_keeps_both_identities_each_folded() -> None:
    encoder = ActionEncoder(ActionSettings(identity=RULES))
    mask = "arn:aws:sts::1:assumed-role/Ops/session-1"
    batch = encoder.encode(
        decode_lines([event(user={"username": "oidc:dev-1"}, impersonatedUser={"username": mask})]).events
    )
    assert batch.principals[batch.principal[0]].name == "dev-1"
    assert (
        encoder.interners["impersonates"].values[batch.codes["impersonates"][0]] == "arn:aws:iam::1:role/Ops"
    )


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"folds": []}, "Unknown identity setting"),
        ({"fold": {}}, "must be a list"),
        ({"fold": [{"match": "a"}]}, "needs `match` and `name`"),
        ({"fold": [{"match": "a", "name": "b", "nmae": "c"}]}, "needs `match` and `name`"),
        ({"fold": [{"match": "(", "name": "b"}]}, "regular expression"),
        ({"fold": [{"match": "a", "name": r"\2"}]}, "regular expression"),
        ({"fold": [{"match": "a", "name": "b", "kind": "robot"}]}, "kind must be one of"),
        ({"fold_nodes": "yes"}, "true or false"),
        ({"similar_from": 2}, "above 0"),
    ],
)
def test_rules_that_cannot_be_used_are_a_sentence(rules: dict[str, Any], sentence: str) -> None:
    with pytest.raises(KubehabitError, match=sentence):
        ActionSettings.from_dict({"identity": rules})


def test_the_rules_travel_with_the_settings() -> None:
    settings = ActionSettings.from_dict(shipped("actions.yaml"))
    again = ActionSettings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again == settings
    assert again.identity["fold"] == RULES["fold"]


def test_what_several_encoders_folded_is_reported_once() -> None:
    first, second = Identity(RULES), Identity(RULES)
    for session in ("a", "b"):
        first.fold(f"arn:aws:sts::1:assumed-role/Deploy/{session}")
    for session in ("b", "c"):
        second.fold(f"arn:aws:sts::1:assumed-role/Deploy/{session}")
    second.fold("dev-1@corp.example")
    report = fold_report(json.loads(json.dumps([first.folds(), second.folds()])))
    assert list(report) == ["arn:aws:iam::1:role/Deploy"]
    assert report["arn:aws:iam::1:role/Deploy"]["names"] == 3
    (line,) = describe_folds(report)
    assert "assumed-role/Deploy/a" in line
    assert "and 1 more" in line


def test_the_report_is_bounded() -> None:
    identity = Identity(RULES)
    for number in range(FOLDS_LIMIT + 50):
        identity.fold(f"oidc:{'x' * 3}{number}" if number % 2 else f"arn:aws:sts::1:assumed-role/R/{number}")
    assert fold_report([identity.folds()])["arn:aws:iam::1:role/R"]["names"] <= FOLDS_LIMIT


def test_a_dataset_says_what_was_folded_into_what(tmp_path: Path, normal_lines: list[bytes]) -> None:
    """Three people of the recording become three sessions of one role."""
    renamed = {f'"{name}@corp.example"'.encode(): name for name in ("alice", "bob", "carol")}
    lines = []
    for line in normal_lines[:4000]:
        for old, name in renamed.items():
            line = line.replace(old, f'"arn:aws:sts::1:assumed-role/Dev/{name}"'.encode())
        lines.append(line)
    log = tmp_path / "log"
    log.write_bytes(b"\n".join(lines) + b"\n")
    summary = build([log], tmp_path / "out", workers=1, progress=False)
    assert summary.card["folded_identities"]["arn:aws:iam::1:role/Dev"]["names"] == 3
    assert "arn:aws:iam::1:role/Dev <- " in summary.describe()
    saved = json.loads((tmp_path / "out" / "schema.json").read_text())
    assert "arn:aws:iam::1:role/Dev" in saved["names"]
    assert saved["settings"]["identity"]["fold"]
    assert saved["principals"]["reasons"].keys() == saved["principals"]["ids"].keys()


def account(namespace: str, name: str) -> Principal:
    return identify(f"system:serviceaccount:{namespace}:{name}", ())


def views(deeds: dict[tuple[str, str, str], int]) -> tuple[Counter[Any], Counter[Any]]:
    broad: Counter[Any] = Counter()
    for deed, count in deeds.items():
        broad[deed[:2]] += count
    return broad, Counter(deeds)


SCRAPER = {("list", "pods", "-"): 50, ("get", "nodes/metrics", "-"): 40}
DEPLOYER = {("patch", "deployments", "a"): 20, ("get", "deployments", "a"): 20}


def test_those_left_alone_are_grouped_by_what_they_do_and_it_says_so() -> None:
    principals = [account("m1", "agent-a"), account("m2", "collector"), account("ci", "deployer")]
    a, b, c = (p.name for p in principals)
    profiles = {a: views(SCRAPER), b: views(SCRAPER | {("watch", "pods", "-"): 5}), c: views(DEPLOYER)}
    table = PrincipalTable.fit(principals, profiles)
    assert table.group_of[a] == table.group_of[b] == f"similar:{a}"
    assert table.group_of[c] == "kind:serviceaccount"
    assert b in table.reasons[a]
    assert "alike" in table.reasons[a]
    assert "behaves like nobody else" in table.reasons[c]
    assert table.sizes[f"similar:{a}"] == 2
    assert PrincipalTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    assert PrincipalTable.fit(reversed(principals), profiles) == table


def test_nobody_is_left_as_the_only_one_of_a_group() -> None:
    """Deployers leave the namespace group for that of their name; the account that stays behind has no peer in it."""
    principals = [account(ns, "deployer") for ns in ("a", "b")] + [account("a", "worker")]
    table = PrincipalTable.fit(principals)
    assert table.group_of[principals[2].name] == "kind:serviceaccount"
    assert {table.group_of[p.name] for p in principals[:2]} == {"account:deployer"}


def test_groups_and_names_come_before_behaviour() -> None:
    principals = [identify(f"dev-{i}", ("team:a",)) for i in range(2)]
    profiles = {p.name: views(SCRAPER) for p in principals}
    table = PrincipalTable.fit(principals, profiles)
    assert set(table.group_of.values()) == {"group:team:a"}
    assert table.reasons["dev-0"] == "is in the group team:a, as are dev-1"


def test_similarity_is_of_shares_and_symmetric() -> None:
    ten_times = {deed: count * 10 for deed, count in SCRAPER.items()}
    found = similarity([views(SCRAPER), views(ten_times), views(DEPLOYER)])
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] == 0
    assert np.allclose(found, found.T)


def test_clusters_hold_only_those_alike() -> None:
    alike = np.array([[1, 0.9, 0.1], [0.9, 1, 0.1], [0.1, 0.1, 1]])
    assert cluster(alike, 0.5) == [[0, 1]]
    assert cluster(alike, 0.95) == []


def test_a_newcomer_gets_the_peers_its_name_gives_it() -> None:
    table = PrincipalTable.fit([identify("dev-1", ("team:a",)), identify("dev-2", ("team:a",))])
    assert table.group(identify("dev-3", ("team:a",))) == "group:team:a"
    assert table.group(identify("stranger", ("team:z",))) == "kind:human"


@pytest.mark.slow
def test_behaviour_alone_finds_the_teams_of_the_recording_and_mixes_none() -> None:
    """All groups hidden: 7 of the 8 pairs of people in one team and all 3 of pipelines of one name, and no wrong pair."""
    recording = Path(__file__).resolve().parents[3] / "data" / "recordings" / "normal.jsonl.zst"
    encoder = ActionEncoder()
    batch = encoder.encode(decode_lines(open_lines(recording)).events)
    values = {name: encoder.interners[name].values for name in batch.codes}
    deeds: dict[str, Counter[Any]] = {}
    for row, who in enumerate(batch.principal.tolist()):
        deed = tuple(values[name][batch.codes[name][row]] for name in ("verb", "resource", "namespace"))
        deeds.setdefault(batch.principals[who].name, Counter())[deed] += 1
    principals = list({p.name: p for p in batch.principals}.values())
    truth = PrincipalTable.fit(principals).group_of
    found = {}
    for kind in ("human", "serviceaccount"):
        names = [p.name for p in principals if p.kind == kind]
        groups = cluster(similarity([views(dict(deeds[name])) for name in names]), 0.5)
        pairs = [(names[a], names[b]) for group in groups for a in group for b in group if a < b]
        assert all(truth[a] == truth[b] for a, b in pairs)
        found[kind] = len(pairs)
    assert found == {"human": 7, "serviceaccount": 3}


#: The rule for generated accounts as it was shipped before, which backtracks without end.
BEFORE = (
    r"system:serviceaccount:([^:]+):([^:]+?)(?:-(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|(?=[a-f]*\d)[0-9a-f]{7,40}|\d{4,}|(?=[a-z]*\d)[bcdfghjklmnpqrstvwxz2456789]{5,10}))+"
)
SAVED = {
    "fold": [
        {"match": r"oidc:(?!system:)(.+)", "name": r"\1"},
        {"match": r"https://([^/#]+)[^#]*#(?!system:)(.+)", "name": r"\1#\2"},
        {"match": BEFORE, "name": r"system:serviceaccount:\1:\2-*"},
    ]
}
PARTS = st.one_of(
    st.sampled_from(
        [
            "run",
            "ci",
            "web",
            "",
            "01234567-89ab-cdef-0123-456789abcdef",
            "12345678-1234-1234-1234-12345678901",
        ]
    ),
    st.text("0123456789abcdef", min_size=1, max_size=12),
    st.text("bcdfghjklmnpqrstvwxz2456789", min_size=3, max_size=12),
    st.text("0123456789", min_size=3, max_size=5),
)


@given(st.lists(PARTS, min_size=1, max_size=5))
def test_a_generated_account_folds_as_the_rule_shipped_before_said(parts: list[str]) -> None:
    username = "system:serviceaccount:ci:" + "-".join(parts)
    matched = re.fullmatch(BEFORE, username)
    expected = matched.expand(r"system:serviceaccount:\1:\2-*") if matched else username
    assert Identity(RULES).fold(username) == expected
    assert Identity(SAVED).fold(username) == expected


@pytest.mark.parametrize("length", [227, 1_000_000])
def test_no_user_name_stops_the_process(length: int) -> None:
    for name in ("system:serviceaccount:x:a" + "-22222222" * length, "arn:aws:sts::1" + ":1" * length):
        begin = time.process_time()
        Identity(RULES | {"fold_nodes": True}).fold(name[:length] + "!")
        assert time.process_time() - begin < 2


@pytest.mark.parametrize("username", ["oidc:system:masters", "https://login.example/a#system:masters"])
def test_a_prefixed_system_name_is_kept_by_old_rules_and_new(username: str) -> None:
    assert Identity(RULES).fold(username) == Identity(SAVED).fold(username) == username
    assert Identity(SAVED).fold(username.replace("system:", "x")) == Identity(RULES).fold(
        username.replace("system:", "x")
    )


@pytest.mark.parametrize("pattern", [r"(?=a)a", r"(?!a)b", r"(?<=a)b", r"(a)\1", r"a++", r"(?>a)b"])
def test_a_pattern_that_may_backtrack_is_refused_with_a_sentence(pattern: str) -> None:
    with pytest.raises(KubehabitError, match="RE2's language"):
        ActionSettings.from_dict({"identity": {"fold": [{"match": pattern, "name": "x"}]}})


def test_a_saved_rule_that_may_backtrack_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A model that is served must load; that pattern must not meet a name all the same."""
    saved = {"fold": [{"match": r"(?=t)temp-(.+)", "name": "temp"}, {"match": r"ci-\d+", "name": "ci-*"}]}
    settings = ActionSettings.from_dict({"identity": saved}, strict=False)
    encoder = ActionEncoder(settings)
    assert "left out" in caplog.text
    assert encoder.identity.fold("temp-1") == "temp-1"
    assert encoder.identity.fold("ci-1") == "ci-*"
    assert settings.to_dict()["identity"] == saved


@pytest.mark.parametrize("entry", [{"strip_generated": 1}, {"match": "a", "strip_generated": True}])
def test_strip_generated_needs_a_group(entry: dict[str, Any]) -> None:
    with pytest.raises(KubehabitError, match="strip_generated"):
        Identity({"fold": [{"match": "(a)", "name": "b"} | entry]})


def test_what_is_remembered_of_names_is_bounded_in_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.principals.identity._MEMO_CHARACTERS", 100_000)
    monkeypatch.setattr("data.principals.identity._REMEMBERED_CHARACTERS", 100_000)
    identity = Identity(RULES)
    for number in range(200):
        identity.fold(f"system:serviceaccount:ns:{'x' * 4000}{number}-22222222")
    assert sum(len(name) for _, names in identity.folds().values() for name in names) < 105_000
    assert sum(map(len, identity._folded)) < 105_000
