"""Every detector on small synthetic logs: it catches what it should, is silent where it should, and is the same again."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data.actions.fields import FIELDS
from data.dataset.build import build
from data.dataset.table import ActionTable, load
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from detection.bundle import Bundle
from detection.rarity import Rarity
from tests.conftest import Trained
from training.baselines import fitted, of_bundle
from training.baselines.base import Baseline, Budget
from training.baselines.isolation_forest import IsolationForest
from training.baselines.next_action import NextActionLstm
from training.baselines.ngram import Ngram
from training.baselines.novelty import NoveltyCount, NoveltyTable
from training.baselines.product import ProductDetector, ReconstructionError
from training.baselines.rules import PublicRules
from training.stretch import LogEncoder, Stretch, of_dataset

TEAMS = {"ann": "web", "bob": "web", "cat": "shop", "dan": "shop"}
ROUTINE = (("list", "pods"), ("get", "pods"), ("get", "configmaps"), ("list", "services"))
#: A short log cannot show three incidents in ten thousand actions.
LOOSE = Budget(person=30.0, system=4.0)


def line(number: int, who: str, verb: str, resource: str, namespace: str, **more: object) -> bytes:
    """One event, a second after the one before."""
    name = "settings" if verb != "list" else ""
    event = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": f"id-{number}",
        "stage": "ResponseComplete",
        "requestURI": f"/api/v1/namespaces/{namespace}/{resource}",
        "verb": verb,
        "user": {"username": f"{who}@example.com", "groups": [f"team-{TEAMS[who]}"]},
        "sourceIPs": ["10.0.0.7"],
        "userAgent": "kubectl/v1.30.1 (linux/amd64) kubernetes/6911225",
        "objectRef": {"resource": resource, "namespace": namespace, "name": name, "apiVersion": "v1"},
        "responseStatus": {"code": 200},
        "requestReceivedTimestamp": f"2026-01-05T{9 + number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000000Z",
        "stageTimestamp": f"2026-01-05T{9 + number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.500000Z",
    }
    return json.dumps(event | more).encode()


def machine(number: int) -> bytes:
    """A controller's routine."""
    user = {"username": "system:kube-scheduler", "groups": ["system:authenticated"]}
    return line(number, "ann", "update", "leases", "kube-system", user=user)


def day(count: int, start: int = 0) -> list[bytes]:
    """Everybody goes round the same four actions in the namespace of the team, and the scheduler beside them."""
    lines = []
    for i in range(start, start + count):
        who = list(TEAMS)[i % len(TEAMS)]
        verb, resource = ROUTINE[i // len(TEAMS) % len(ROUTINE)]
        lines.append(machine(i) if i % 9 == 8 else line(i, who, verb, resource, TEAMS[who]))
    return lines


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> ActionTable:
    folder = tmp_path_factory.mktemp("small")
    (folder / "log.jsonl").write_bytes(b"\n".join(day(3000)) + b"\n")
    build([folder / "log.jsonl"], folder / "dataset", workers=1, progress=False)
    return load(folder / "dataset")


def events(lines: list[bytes]) -> list[AuditEvent]:
    return decode_lines(lines).events


def encoder(table: ActionTable) -> LogEncoder:
    last = dict(zip(table.name.tolist(), table.time.tolist(), strict=True))
    return LogEncoder(table.settings, table.vocabulary, table.principals, table.rules, last)


def lstm(table: ActionTable) -> NextActionLstm:
    return NextActionLstm(
        table.vocabulary.sizes,
        len(table.principals.ids),
        len(table.principals.groups),
        hidden=32,
        embedding=8,
        condition=8,
        steps=120,
        batch=64,
        learning_rate=2e-2,
    )


MAKERS: dict[str, Callable[[ActionTable], Baseline]] = {
    "novelty table": lambda _: NoveltyTable(),
    "novelty count": lambda _: NoveltyCount(),
    "n-gram": lambda _: Ngram(),
    "isolation forest": lambda _: IsolationForest(window=8, trees=50, samples=512),
    "next-action LSTM": lstm,
}
LEARNERS = tuple(MAKERS)


def trained_on(table: ActionTable, title: str) -> Baseline:
    return fitted([MAKERS[title](table)], table, LOOSE)[0]


#: A stranger with Ann's credential, in another team's namespace, from elsewhere, with another client.
STRANGE = [
    line(3100 + i, "ann", verb, "secrets", "shop", sourceIPs=["203.0.113.9"], userAgent="curl/8.1")
    for i, verb in enumerate(("list", "get", "get", "delete", "delete", "get", "get", "get"))
]


@pytest.mark.parametrize("title", LEARNERS)
def test_each_learner_catches_a_stranger_and_keeps_to_its_budget_in_routine(
    table: ActionTable, title: str
) -> None:
    detector = trained_on(table, title)
    encode = encoder(table)
    calm, _ = encode.encode(events(day(96, start=3000)))
    assert (
        len(set(calm.name[detector.predict(calm).flagged])) <= 1
    )  # the budget of so short a log is one incident
    strange, ids = encode.encode(events(STRANGE))
    answer = detector.predict(strange)
    assert ids == [f"id-{3100 + i}" for i in range(len(STRANGE))]
    assert answer.flagged.any()
    assert {level for level, hit in zip(answer.severity, answer.flagged, strict=True) if not hit} <= {"none"}
    assert all(level != "none" for level, hit in zip(answer.severity, answer.flagged, strict=True) if hit)


@pytest.mark.parametrize("title", LEARNERS)
def test_the_same_seed_gives_the_same_scores_however_a_log_is_cut(table: ActionTable, title: str) -> None:
    lines = [*day(40, start=3000), *STRANGE]
    scores, limits = [], []
    for cuts in ((0, 48), (0, 7, 30, 48)):
        detector, encode = trained_on(table, title), encoder(table)
        parts = [detector.predict(encode.encode(events(lines[a:b]))[0]).score for a, b in pairwise(cuts)]
        scores.append(np.concatenate(parts))
        limits.append(detector.thresholds)
    assert limits[0] == limits[1]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize("title", LEARNERS)
def test_held_back_normal_work_stays_within_the_budget(table: ActionTable, title: str) -> None:
    held_back = of_dataset(table, "calibration")
    detector = MAKERS[title](table).fit(of_dataset(table, "train"))
    score, _ = detector.score(held_back)
    again = trained_on(table, title)
    assert again.thresholds is not None
    flagged = again.thresholds.exceeded(score, held_back.person)
    allowed = LOOSE.person / 1e4 * held_back.person.sum()
    assert len(set(held_back.name[flagged])) <= allowed  # the log is shorter than ten minutes a principal


def test_scores_by_field_name_the_field(table: ActionTable) -> None:
    """Only the address is new: the count says so, and so does the LSTM."""
    elsewhere = [line(3000, "ann", "list", "pods", "web", sourceIPs=["203.0.113.9"])]
    for title in ("novelty count", "next-action LSTM"):
        answer = trained_on(table, title).predict(encoder(table).encode(events(elsewhere))[0])
        assert answer.fields is not None
        assert FIELDS[int(answer.fields[0].argmax())] == "place"
        assert answer.fields.sum(axis=1) == pytest.approx(answer.score)


def test_a_novelty_is_new_once(table: ActionTable) -> None:
    lines = [line(3000 + i, "ann", "get", "secrets", "web") for i in range(2)]
    stretch, _ = encoder(table).encode(events(lines))
    for title in ("novelty table", "novelty count"):
        first, second = trained_on(table, title).predict(stretch).score
        assert first > 0
        assert second == 0


def test_what_peers_do_counts_half(table: ActionTable) -> None:
    """Bob, who is of Ann's team, reads a secret; then Ann does, then Cat of another team."""
    lines = [line(3000 + i, who, "get", "secrets", "web") for i, who in enumerate(("bob", "ann", "cat"))]
    bob, ann, cat = trained_on(table, "novelty count").predict(encoder(table).encode(events(lines))[0]).score
    assert ann == bob / 2
    assert cat > ann


def test_the_ngram_expects_the_usual_order(table: ActionTable) -> None:
    detector = trained_on(table, "n-gram")
    score, _ = detector.score(encoder(table).encode(events(day(96, start=3000)))[0])
    strange, _ = detector.score(encoder(table).encode(events(STRANGE))[0])
    assert strange.min() > np.median(score)


def test_a_prediction_without_a_threshold_is_refused(table: ActionTable) -> None:
    with pytest.raises(RuntimeError, match="infer_threshold"):
        NoveltyCount().predict(of_dataset(table, "calibration"))


@cache
def rules() -> PublicRules:
    return PublicRules()


def fires(**values: str) -> set[str]:
    fields = ("verb", "resource", "namespace", "name", "code", "client", "traits", "images", "uri")
    usual = dict.fromkeys(fields, "-") | {
        "code": "ok",
        "impersonates": "-",
        "kind": "human",
        "principal": "ann",
        "client": "kubectl/1.30 linux",
    }
    return set(rules().fired(list((usual | values).values())))


def test_public_rules_fire_on_what_they_describe() -> None:
    assert "privileged pod" in fires(verb="create", resource="pods", traits="containers=1,privileged")
    assert "command in a container" in fires(verb="connect", resource="pods/exec", namespace="web")
    assert "secrets listed" in fires(verb="list", resource="secrets", namespace="web")
    assert "bound to cluster-admin" in fires(
        verb="create",
        resource="rbac.authorization.k8s.io/clusterrolebindings",
        traits="role=cluster-admin,subject=User",
    )
    assert "anonymous request allowed" in fires(verb="list", resource="pods", kind="anonymous")
    assert "kubelet reached through the API server" in fires(
        verb="get", resource="nodes/proxy", uri="exec/*?command"
    )


def test_public_rules_have_the_gaps_of_the_public_sets() -> None:
    """No rule watches a watch of secrets, reads of config maps and logs, or a path that names metrics."""
    assert not fires(verb="watch", resource="secrets", namespace="web")
    assert not fires(verb="get", resource="configmaps", namespace="shop", name="settings")
    assert not fires(verb="get", resource="pods/log", namespace="shop")
    assert not fires(verb="get", resource="nodes/proxy", uri="exec/*?command&x=metrics")
    assert not fires(verb="get", resource="/livez", kind="anonymous")


def test_rules_judge_without_a_dataset_and_with_one(table: ActionTable) -> None:
    strange, _ = encoder(table).encode(events(STRANGE))
    calm, _ = encoder(table).encode(events(day(96, start=3000)))
    bare = PublicRules()
    assert bare.predict(strange).flagged[0]
    assert not bare.predict(calm).flagged.any()
    tuned = fitted([PublicRules()], table, LOOSE)[0]
    assert not tuned.predict(calm).flagged.any()
    assert set(tuned.predict(strange).severity) - {"none"}


def test_a_bad_rule_is_a_sentence() -> None:
    good = {"name": "x", "level": "low"}
    for entry, sentence in (
        ({"name": "x", "level": "severe"}, "needs a name, a level"),
        (good | {"verb": ["get"]}, "needs a name, a level"),
        (good | {"verbs": ["("]}, "no regular expression"),
    ):
        with pytest.raises(KubehabitError, match=sentence):
            PublicRules({"flag_from": "low", "rules": [entry]})


def test_a_dataset_and_a_log_give_the_same_columns(tmp_path: Path) -> None:
    """What baselines are fitted on is encoded as what they are shown."""
    lines = day(600)
    (tmp_path / "log.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    build([tmp_path / "log.jsonl"], tmp_path / "dataset", workers=1, progress=False)
    table = load(tmp_path / "dataset")
    encode = LogEncoder(table.settings, table.vocabulary, table.principals, table.rules, {})
    whole, _ = encode.encode(events(lines))
    first, second = of_dataset(table, "train"), of_dataset(table, "calibration")
    for name in (
        "tokens",
        "attributes",
        "principal",
        "group",
        "name_hash",
        "group_hash",
        "time",
        "sensitivity",
    ):
        joined = np.concatenate([getattr(first, name), getattr(second, name)])
        assert (getattr(whole, name) == joined).all(), name


@pytest.fixture(scope="module")
def product(trained: Trained) -> ProductDetector:
    return ProductDetector(Bundle.load(trained.bundle))


def shown(trained: Trained, lines: list[bytes]) -> Stretch:
    bundle = Bundle.load(trained.bundle)
    encode = LogEncoder(
        bundle.settings, bundle.vocabulary, bundle.principals, bundle.sensitivity.table, bundle.warmup.last
    )
    return encode.encode(events(lines))[0]


def test_the_product_is_judged_by_its_own_verdict(
    trained: Trained, product: ProductDetector, labelled_lines: list[bytes]
) -> None:
    stretch = shown(trained, labelled_lines[:2000])
    answer = product.predict(stretch)
    assert (answer.flagged == (answer.score >= 1.0)).all()
    assert product.scores(stretch) is product.scores(stretch)
    with pytest.raises(ValueError, match="scores events"):
        product.predict(of_dataset(load(trained.dataset), "calibration"))


def test_the_ablation_sees_a_log_and_a_dataset_alike(trained: Trained, normal_lines: list[bytes]) -> None:
    """The reconstruction error of held-back actions is the same from the dataset as when training calibrated on it."""
    table = load(trained.dataset)
    bundle = Bundle.load(trained.bundle)
    alone = ReconstructionError(ProductDetector(bundle)).fit(of_dataset(table, "train"))
    score, fields = alone.score(of_dataset(table, "calibration"))
    assert fields is not None
    whole = float(bundle.meta["metrics"]["held_back_surprise"])
    left_out = sum(float(bundle.meta["metrics"][f"held_back_nll_{name}"]) for name in ("gap", "owner"))
    assert score.mean() == pytest.approx(whole - left_out, rel=1e-3)


def test_baselines_of_a_bundle_are_ready(trained: Trained, labelled_lines: list[bytes]) -> None:
    stretch = shown(trained, labelled_lines[:2000])
    for detector in of_bundle(Bundle.load(trained.bundle)):
        answer = detector.predict(stretch)
        assert len(answer.score) == len(stretch)
        assert answer.score.max() > 0


def test_baselines_of_a_bundle_of_before_some_attributes_count_those_that_it_knows(
    trained: Trained, labelled_lines: list[bytes]
) -> None:
    stretch, bundle = shown(trained, labelled_lines[:2000]), Bundle.load(trained.bundle)
    rarity = bundle.calibration.rarity
    fewer = Rarity(rarity.actions, rarity.hits[:, :, :14])
    older = replace(
        bundle,
        meta=bundle.meta | {"attributes": bundle.meta["attributes"][:14]},
        calibration=replace(bundle.calibration, rarity=fewer),
    )
    for detector in of_bundle(older):
        assert detector.predict(stretch).score.max() > 0
