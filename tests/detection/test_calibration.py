"""Calibration: evidence means what it says, and thresholds hold their budget."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.actions.attributes import ATTRIBUTES
from data.actions.fields import FIELDS
from data.actions.sensitivity import HARMLESS
from data.actions.vocabulary import SPECIALS, Vocabulary
from data.errors import KubehabitError
from detection.calibration import ActionFeatures, Calibration, Tail
from detection.novelty import PriorCounts
from detection.rarity import CLASSES, Rarity
from training.calibrate import fit_tails
from training.thresholds import INCIDENT_GAP, threshold_for

NAMES = list(ATTRIBUTES)
PODS, SECRETS = 3, 4
VOCABULARY = Vocabulary({field: [*SPECIALS, "-"] for field in FIELDS}, uses_hour=False)


def rarity() -> Rarity:
    """Of 10,000 actions of people on pods 1,000 are on a new object; of 10,000 on secrets none is."""
    actions = np.zeros((len(CLASSES), 5), np.int64)
    hits = np.zeros((*actions.shape, len(NAMES), 4), np.int64)
    actions[0, [PODS, SECRETS]] = 10_000
    hits[0, PODS, NAMES.index("object"), 1:] = 1_000
    return Rarity(actions, hits)


def calibration(tails: dict[str, Tail], shrinkage: float = 0.0) -> Calibration:
    return Calibration(
        scored_fields=tuple(field for field in FIELDS if field not in ("gap", "owner")),
        tails=tails,
        shrinkage=shrinkage,
        rarity=rarity(),
        sensitivity_weights=(0.5, 1.0, 1.0, 2.0),
        gate=1.5,
        horizons=(120.0, 3600.0),
        person_thresholds=(4.0, 8.0),
        system_thresholds=(6.0, 12.0),
        budget={},
    )


def deeds(count: int = 1, kind: str = "human", **given: object) -> ActionFeatures:
    """Actions of everyday work, except as said."""
    columns: dict[str, object] = {
        "principals": ["alice"] * count,
        "kinds": [kind] * count,
        "levels": np.zeros((count, len(NAMES)), np.int8),
        "own": np.full((count, len(NAMES)), 500),
        "actions": np.full(count, 1000),
        "resource": np.full(count, PODS),
        "for_others": np.zeros(count, bool),
        "sensitivity": np.full(count, 2, np.int8),
    }
    return ActionFeatures(**(columns | given))  # type: ignore[arg-type]


def new(**levels: int) -> np.ndarray:  # type: ignore[type-arg]
    row = np.zeros((1, len(NAMES)), np.int8)
    for name, level in levels.items():
        row[0, NAMES.index(name)] = level
    return row


def nll(**nats: float) -> np.ndarray:  # type: ignore[type-arg]
    row = np.zeros((1, len(FIELDS)), np.float32)
    for name, value in nats.items():
        row[0, FIELDS.index(name)] = value
    return row


def test_evidence_is_the_logarithm_of_the_exceedance_probability() -> None:
    rng = np.random.default_rng(0)
    sample = rng.exponential(3.0, 40_000)
    fitted = calibration(fit_tails(sample[:20_000], ["a"] * 20_000, ["human"] * 20_000))
    evidence = fitted.evidence(sample[20_000:], ["a"] * 20_000, ["human"] * 20_000)
    for level in (1.5, 2.0, 2.5, 3.0):
        share = (evidence >= level).mean()
        assert share == pytest.approx(10.0**-level, rel=0.5)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=20))
def test_more_surprise_is_never_less_evidence(values: list[float]) -> None:
    fitted = calibration({"kind:any": Tail(10.0, 2.0, 500)})
    evidence = fitted.evidence(np.sort(np.array(values)), ["x"] * len(values), ["human"] * len(values))
    assert (np.diff(evidence) >= 0).all()
    assert (evidence >= 0).all()


def test_the_same_surprise_counts_more_against_a_steady_principal() -> None:
    fitted = calibration(
        {"kind:any": Tail(10, 2, 500), "steady": Tail(5, 1, 500), "erratic": Tail(30, 10, 500)}
    )
    steady, erratic, newcomer = fitted.evidence(np.full(3, 28.0), ["steady", "erratic", "new"], ["human"] * 3)
    assert steady > newcomer > erratic


def test_little_history_leans_on_the_kind() -> None:
    tails = {"kind:human": Tail(10, 2, 9000), "few": Tail(0, 1, 100), "many": Tail(0, 1, 10_000)}
    fitted = calibration(tails, shrinkage=1000)
    assert fitted.tail("few", "human").start == pytest.approx(10 * 1000 / 1100)
    assert fitted.tail("many", "human").start == pytest.approx(10 * 1000 / 11_000)


def test_a_verdict_is_taken_at_the_horizon_where_an_action_stands_out_most() -> None:
    sums = np.array([[5.0, 5.0], [3.0, 9.0], [5.0, 5.0]])
    evidence, limits = calibration({}).verdict(sums, ["human", "serviceaccount", "node"])
    assert evidence.tolist() == [5.0, 9.0, 5.0]
    assert limits.tolist() == [4.0, 8.0, 6.0]


def test_a_new_object_weighs_more_where_new_objects_are_rare() -> None:
    new_object = new(object=3)
    fitted = calibration({"kind:any": Tail(10.0, 2.0, 500)})
    on_pods, on_secrets = (
        fitted.weigh(nll(), deeds(levels=new_object, resource=np.array([resource]))).novelty[0]
        for resource in (PODS, SECRETS)
    )
    assert on_pods == pytest.approx(1.0, abs=0.05)
    assert on_secrets > on_pods + 1


def test_a_new_session_and_a_new_deed_together_are_rarer_than_either() -> None:
    fitted = calibration({"kind:any": Tail(10.0, 2.0, 500)})
    deed, session, both = (
        fitted.weigh(nll(), deeds(levels=levels)).novelty[0]
        for levels in (new(traits=2), new(place=2), new(traits=2, place=2))
    )
    assert both == pytest.approx(deed + session)


def test_what_the_principal_does_often_costs_no_more_than_its_own_counts_allow() -> None:
    fitted = calibration({})
    own = np.full((1, len(NAMES)), 500)
    own[0, NAMES.index("object")] = 10
    assert fitted.error(nll(name=20.0), deeds(own=own))[0] == pytest.approx(np.log(1001 / 10))
    assert fitted.error(nll(name=2.0), deeds(own=own))[0] == pytest.approx(2.0)
    own[0, NAMES.index("object")] = 0
    assert fitted.error(nll(name=20.0), deeds(own=own))[0] == pytest.approx(20.0)


def test_a_new_client_is_reported_once_not_with_every_action() -> None:
    fitted = calibration({})
    costs = []
    for times in range(4):
        own = np.full((1, len(NAMES)), 500)
        own[0, NAMES.index("client")] = times
        costs.append(float(fitted.error(nll(client=5.0), deeds(own=own))[0]))
    assert costs == pytest.approx([5.0, 2.5, 5 / 3, 1.25])


def test_only_the_worst_fields_count() -> None:
    fields = nll(verb=1.0, resource=2.0, namespace=3.0, name=4.0, gap=50.0, owner=50.0)
    own = np.zeros((1, len(NAMES)), np.int64)
    assert calibration({}).error(fields, deeds(own=own))[0] == pytest.approx(9.0)


def test_where_the_machinery_goes_is_no_news_of_it() -> None:
    fitted = calibration({"kind:any": Tail(10.0, 2.0, 500)})
    elsewhere = new(namespace=3, object=3, binding=3)
    for kind, counts in (("human", True), ("controller", False), ("node", False)):
        weighed = fitted.weigh(
            nll(namespace=40.0), deeds(kind=kind, levels=elsewhere, own=np.zeros((1, len(NAMES)), int))
        )
        assert bool(weighed.novelty[0] > 0) is counts
        assert bool(weighed.error[0] > 2) is counts


def test_a_newcomer_is_judged_by_its_peers() -> None:
    fitted = calibration({"kind:any": Tail(10.0, 2.0, 500)})
    young, grown = np.array([5]), np.array([5000])
    as_peers, as_nobody = new(verb_resource=1), new(verb_resource=2)
    assert fitted.weigh(nll(), deeds(levels=as_peers, actions=young)).novelty[0] == 0
    assert fitted.weigh(nll(), deeds(levels=as_peers, actions=grown)).novelty[0] > 0
    assert fitted.weigh(nll(), deeds(levels=as_nobody, actions=young)).novelty[0] > 0


def test_evidence_counts_as_far_as_harm_could_be_done() -> None:
    fitted = calibration({"kind:any": Tail(10.0, 2.0, 500)})
    harmless, harmful = (
        fitted.weigh(nll(), deeds(levels=new(traits=3), sensitivity=np.array([level], np.int8)))
        for level in (0, 3)
    )
    assert harmless.novelty[0] == harmful.novelty[0]
    assert harmful.novelty_evidence[0] == pytest.approx(4 * harmless.novelty_evidence[0])
    own_work = deeds(levels=new(traits=3), sensitivity=np.array([HARMLESS], np.int8))
    weighed = fitted.weigh(nll(verb=30.0), own_work)
    assert weighed.novelty[0] == harmful.novelty[0]
    assert weighed.novelty_evidence[0] == weighed.error_evidence[0] == 0


def test_little_evidence_does_not_add_up() -> None:
    fitted = calibration({"kind:any": Tail(10.0, 2.0, 500)})
    assert (
        fitted.weigh(nll(), deeds(levels=new(object=3))).novelty_evidence[0] == 0
    )  # a factor of ten: below the gate of 1.5
    error = fitted.weigh(nll(verb=1.0), deeds(own=np.zeros((1, len(NAMES)), int))).error[0]
    assert 0 < error < 1.5
    assert fitted.weigh(nll(verb=1.0), deeds(own=np.zeros((1, len(NAMES)), int))).error_evidence[0] == 0


@pytest.mark.parametrize(("times", "most"), [(1, 1.3), (9, 2.0), (500, 4.0)])
def test_a_detail_is_worth_little_where_the_principal_has_hardly_been(times: int, most: float) -> None:
    fitted = calibration({"kind:any": Tail(10.0, 2.0, 500)})
    own = np.full((1, len(NAMES)), 500)
    own[0, NAMES.index("resource_namespace")] = times
    action = deeds(levels=new(object=3), own=own, resource=np.array([SECRETS]))
    before, now = (replace(fitted, version=version).weigh(nll(), action).novelty[0] for version in (2, 3))
    assert now == pytest.approx(min(before, most), abs=0.01)


def test_a_first_visit_is_worth_as_much_as_ever() -> None:
    fitted = calibration({"kind:any": Tail(10.0, 2.0, 500)})
    action = deeds(levels=new(namespace=3, object=3), own=np.zeros((1, len(NAMES)), int))
    before, now = (replace(fitted, version=version).weigh(nll(), action).novelty[0] for version in (2, 3))
    assert now == before > 2


def test_counts_are_the_rates_they_stand_for() -> None:
    levels = np.zeros((1000, len(NAMES)), np.int8)
    levels[:100, NAMES.index("place")] = 2
    fitted = Rarity.fit(np.zeros(1000, np.int64), np.full(1000, PODS), levels, 5)
    root = new(place=2)
    decades = fitted.decades(np.array([0]), np.array([PODS]), root)[0]
    assert decades == pytest.approx(1.0, abs=0.01)
    assert fitted.decades(np.array([0]), np.array([PODS]), new(place=3))[0] > 2.5


def test_a_calibration_survives_being_saved() -> None:
    fitted = calibration({"kind:any": Tail(10.0, 2.0, 500)}, shrinkage=3)
    again = Calibration.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again.to_dict() == fitted.to_dict()
    assert (again.rarity.hits == fitted.rarity.hits).all()


@given(st.integers(0, 8), st.integers(1, 5))
def test_a_threshold_allows_no_more_incidents_than_its_budget(allowed: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 400
    names = [f"p{i}" for i in rng.integers(0, 12, count)]
    time = np.sort(rng.integers(0, 20 * INCIDENT_GAP, count))
    evidence = rng.exponential(1.0, count)
    threshold = threshold_for(evidence, names, time, allowed)
    hit = evidence >= threshold
    incidents = 0
    for name in set(names):
        mine = time[hit & (np.array(names) == name)]
        incidents += int(len(mine) > 0) + int((np.diff(mine) > INCIDENT_GAP).sum())
    assert incidents <= allowed
    if allowed > 0:
        assert incidents == allowed  # and no stricter than it must be


def test_a_budget_below_one_incident_goes_beyond_what_was_seen() -> None:
    rng = np.random.default_rng(1)
    count = 4000
    evidence = np.where(rng.random(count) < 0.02, rng.exponential(2.0, count), 0.0)
    names = [f"p{i}" for i in rng.integers(0, 8, count)]
    time = np.sort(rng.integers(0, 8 * INCIDENT_GAP, count))
    one, tenth, hundredth = (threshold_for(evidence, names, time, allowed) for allowed in (1, 0.1, 0.01))
    assert one <= evidence.max() < tenth < hundredth


def test_few_peaks_leave_more_doubt_than_many() -> None:
    many = np.repeat([2.0, 4.0], 20)
    names = [f"p{i}" for i in range(40)]
    few = threshold_for(many[18:22], names[:4], np.arange(4), 0.1)
    assert few > threshold_for(many, names, np.arange(40), 0.1) > 4.0


def test_nothing_to_calibrate_on_is_a_sentence() -> None:
    with pytest.raises(KubehabitError, match="longer log"):
        threshold_for(np.empty(0), [], np.empty(0, np.int64), 1.0)


def test_an_account_that_often_brings_such_news_is_not_odd_when_it_does() -> None:
    """A release manager deploys a new image every day; the class as a whole hardly ever does."""
    levels = np.zeros((4000, len(NAMES)), np.int8)
    levels[:30, NAMES.index("images")] = 2
    who = ["releaser"] * 60 + ["alice"] * 3940
    pods = np.full(4000, PODS)
    fitted = Rarity.fit(np.zeros(4000, np.int64), pods, levels, 5, who)
    one = np.array([0]), np.array([PODS]), new(images=2)
    theirs, hers = (fitted.decades(*one, [name])[0] for name in ("releaser", "alice"))
    assert theirs < 0.7 < 1.9 < hers
    assert fitted.decades(*one, ["nobody"])[0] == hers == fitted.decades(*one)[0]
    again = Rarity.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again.decades(*one, ["releaser"])[0] == theirs


def test_what_one_of_twenty_peers_did_is_no_leave_for_a_newcomer() -> None:
    def level(peers: int, members: int, sensitivity: int = 3, actions: int = 10, kind: str = "human") -> int:
        row = np.full((1, len(NAMES)), 500)
        own = row.copy()
        own[0, NAMES.index("object")] = 0
        known = PriorCounts(own, np.where(own == 0, peers, 0), row, np.array([actions]))
        tokens = np.zeros((1, len(FIELDS)), np.int64)
        given = known, tokens, VOCABULARY, ["bob"], [kind], np.array([sensitivity], np.int8)
        features = ActionFeatures.from_counts(*given, np.array([members]))
        return int(features.root[0, NAMES.index("object")])

    assert level(peers=1, members=20) == 2
    assert level(peers=10, members=20) == 0
    assert level(peers=1, members=3) == 0
    assert level(peers=1, members=20, sensitivity=1) == 0
    assert level(peers=1, members=20, actions=500) == 1  # one with habits is judged by these
    assert level(peers=1, members=20, kind="node") == 0
    assert level(peers=1, members=0) == 0  # a calibration of version 1


def test_a_control_plane_that_acts_from_elsewhere_counts_in_full() -> None:
    counts = rarity()
    counts.actions[:, PODS] = 10_000
    fitted = replace(
        calibration({"kind:any": Tail(10.0, 2.0, 500)}),
        rarity=Rarity(counts.actions, counts.hits),
        class_scales=(1.0, 1.0, 1.0, 0.25, 0.1),
        version=2,
    )

    def evidence(own: int, kind: str = "controller", **levels: int) -> float:
        counts = np.full((1, len(NAMES)), 500)
        counts[0, NAMES.index("place")] = own
        given = deeds(kind=kind, own=counts, levels=new(verb_resource=3, **levels))
        return float(fitted.weigh(nll(verb=30.0), given).novelty_evidence[0])

    at_home, elsewhere = evidence(500), evidence(5)
    assert 0 < at_home == pytest.approx(0.25 * elsewhere)
    assert evidence(0, place=3) > elsewhere
    assert evidence(500, kind="node") == pytest.approx(elsewhere)
    assert evidence(500, kind="component") == pytest.approx(0.1 * elsewhere)


def test_the_binding_of_what_was_done_before_costs_nothing() -> None:
    found = calibration({"kind:any": Tail(1.0, 1.0, 1)})
    given = nll(binding=12.0)
    own = np.full((1, len(NAMES)), 500)
    own[0, NAMES.index("binding")] = 0
    assert found.error(given, deeds(own=own)).tolist() == [0.0]
    own[0, NAMES.index("verb_resource_namespace")] = 0
    assert found.error(given, deeds(own=own)).tolist() == [12.0]


def test_whether_suspects_were_left_out_is_kept_with_the_calibration() -> None:
    found = calibration({"kind:any": Tail(1.0, 1.0, 1)})
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))).left_out is None
    kept = replace(found, left_out=3)
    assert Calibration.from_dict(json.loads(json.dumps(kept.to_dict()))).left_out == 3
