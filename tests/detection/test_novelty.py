"""Habits: what was done before, by whom, counted exactly."""

import numpy as np

from data.actions.attributes import ATTRIBUTES, attribute_hashes
from data.actions.encoder import ActionEncoder
from data.actions.fields import stable_hash
from data.events.decode import decode_lines
from detection.novelty import (
    HabitTable,
    PriorCounts,
    counted_levels,
    most_decades,
    novelty_levels,
    roots,
)
from tests.data.samples import event

NAMES = list(ATTRIBUTES)


def observe(habits: HabitTable, *lines: tuple[str, bytes]) -> PriorCounts:
    """Events by (principal, line); everybody is in one peer group but `outsider`."""
    encoder = ActionEncoder()
    batch = encoder.encode(decode_lines([line for _, line in lines]).events)
    who = np.array([stable_hash(name) for name, _ in lines], np.uint64)
    group = np.array(
        [stable_hash("others" if name == "outsider" else "team") for name, _ in lines], np.uint64
    )
    return habits.observe(attribute_hashes(batch, encoder), who, group)


def secret(number: int) -> bytes:
    return event(
        auditID=f"s{number}",
        objectRef={"resource": "secrets", "namespace": "pay", "name": "db"},
        requestURI="/s",
    )


def pods(number: int) -> bytes:
    return event(auditID=f"p{number}", requestURI="/p")


def test_counts_are_those_before_each_action() -> None:
    own = NAMES.index("verb_resource")
    known = observe(
        HabitTable(),
        ("a", pods(1)),
        ("a", pods(2)),
        ("a", secret(1)),
        ("b", secret(2)),
        ("outsider", secret(3)),
    )
    assert known.own[:, own].tolist() == [0, 1, 0, 0, 0]
    assert known.actions.tolist() == [0, 1, 2, 0, 0]
    assert known.peers[:, own].tolist() == [0, 0, 0, 1, 0]
    assert known.anyone[:, own].tolist() == [0, 0, 0, 1, 2]


def test_novelty_is_graded_by_whom_it_is_new_to() -> None:
    known = observe(
        HabitTable(), ("a", secret(1)), ("b", secret(2)), ("outsider", secret(3)), ("a", secret(4))
    )
    assert novelty_levels(known)[:, NAMES.index("object")].tolist() == [3, 1, 2, 0]


def test_habits_survive_being_saved() -> None:
    habits = HabitTable()
    observe(habits, ("a", pods(1)), ("b", secret(1)))
    again = HabitTable.from_array(habits.to_array())
    assert again.to_array().tolist() == habits.to_array().tolist()
    assert again.own().key.tolist() == []
    first, second = (observe(one, ("a", pods(2)), ("b", pods(3))) for one in (again, habits))
    assert first.own.tolist() == second.own.tolist()
    assert first.peers.tolist() == second.peers.tolist()


def test_a_copy_learns_on_its_own() -> None:
    habits = HabitTable()
    observe(habits.copy(), ("a", pods(1)))
    assert len(habits) == 0


def test_a_quiet_principals_habits_can_be_kept_elsewhere() -> None:
    habits, kept = HabitTable(), HabitTable()
    for one in (habits, kept):
        observe(one, ("a", pods(1)), ("b", secret(1)), ("a", pods(2)))
    taken = kept.pop(np.array([stable_hash("a")], np.uint64))
    assert set(taken.principal.tolist()) == {stable_hash("a")}
    assert stable_hash("a") not in kept.own().principal.tolist()
    assert len(kept) + len(taken.key) == len(habits)
    observe(kept, ("c", pods(4)))  # takes the free code, not the habits
    observe(habits, ("c", pods(4)))
    kept.restore(taken)
    assert kept.to_array().tolist() == habits.to_array().tolist()
    own, same = kept.own(), habits.own()
    assert sorted(zip(own.principal, own.key, own.count, strict=True)) == sorted(
        zip(same.principal, same.key, same.count, strict=True)
    )
    known = observe(kept, ("a", pods(5)), ("c", secret(6)))
    assert known.actions.tolist() == [2, 1]
    assert known.own[0].min() == 2


def test_memory_is_bounded_by_what_was_counted_least() -> None:
    habits = HabitTable(limit=400)
    for number in range(30):
        observe(habits, ("a", pods(2 * number)), ("a", secret(2 * number + 1)))
    often = len(habits)
    for number in range(100):
        observe(
            habits,
            (
                f"p{number}",
                event(auditID=f"x{number}", objectRef={"resource": f"r{number}", "namespace": f"n{number}"}),
            ),
        )
        assert len(habits) <= 400
    assert often < 300
    assert observe(habits, ("a", pods(1000))).own[0, NAMES.index("object")] == 30


def test_hashes_are_the_same_in_every_process() -> None:
    assert stable_hash("secrets") == 3092872637109806028


def levels_of(**given: int) -> np.ndarray:  # type: ignore[type-arg]
    row = np.zeros((1, len(NAMES)), np.int8)
    for name, level in given.items():
        row[0, NAMES.index(name)] = level
    return row


def shown(row: np.ndarray) -> dict[str, int]:  # type: ignore[type-arg]
    return {NAMES[i]: int(row[0, i]) for i in np.flatnonzero(row[0])}


def test_what_follows_from_broader_novelty_is_no_news_of_its_own() -> None:
    in_new_namespace = levels_of(
        namespace=2, resource_namespace=2, verb_resource_namespace=2, object=2, image_of=2
    )
    assert shown(roots(in_new_namespace)) == {"namespace": 2}
    assert shown(roots(levels_of(namespace=1, object=3))) == {"namespace": 1, "object": 3}


def test_machinery_acts_where_and_what_others_want() -> None:
    levels = levels_of(verb_resource=3, namespace=3, object=3, traits=3, place=3)
    grown, yes, no = np.array([1000]), np.array([True]), np.array([False])
    assert shown(counted_levels(levels, grown, no, no)) == shown(levels)
    assert shown(counted_levels(levels, grown, yes, no)) == {"verb_resource": 3, "traits": 3, "place": 3}
    assert shown(counted_levels(levels, grown, yes, yes)) == {"verb_resource": 3, "place": 3}


def test_what_a_newcomers_peers_do_is_no_news_of_it() -> None:
    levels = levels_of(verb_resource=1, namespace=2)
    no = np.array([False])
    assert shown(counted_levels(levels, np.array([3]), no, no)) == {"namespace": 2}


def test_rights_that_others_changed_are_no_news_of_who_uses_them() -> None:
    no, grown = np.array([False]), np.array([1000])
    assert shown(counted_levels(levels_of(binding=3, object=1), grown, no, no)) == {"object": 1}
    for deed in ("verb_resource_namespace", "code"):
        levels = levels_of(binding=3, **{deed: 1})
        assert shown(counted_levels(levels, grown, no, no)) == shown(levels)


def test_a_harvest_is_news_by_itself_and_no_detail_of_the_first_read() -> None:
    assert shown(roots(levels_of(burst=2, object=1))) == {"burst": 2, "object": 1}
    assert shown(roots(levels_of(verb_resource=2, burst=2, spread=2))) == {"verb_resource": 2}
    own = np.zeros((1, len(NAMES)), np.int64)
    own[0, NAMES.index("verb_resource")] = own[0, NAMES.index("namespace")] = 1
    most = dict(zip(NAMES, most_decades(own)[0], strict=True))
    assert np.isinf([most["burst"], most["spread"]]).all()
    assert most["object"] < 1.5


def test_levels_of_fewer_attributes_are_weighed_as_those_of_all() -> None:
    """A bundle of an earlier release knows the first fourteen."""
    levels, no, grown = levels_of(place=2, object=3, image_of=3), np.array([False]), np.array([1000])
    old = levels[:, :14]
    assert (counted_levels(old, grown, ~no, no) == counted_levels(levels, grown, ~no, no)[:, :14]).all()
    assert (roots(old) == roots(levels)[:, :14]).all()
    own = np.arange(14, dtype=np.int64)[None]
    assert (most_decades(own) == most_decades(np.pad(own, ((0, 0), (0, 2))))[:, :14]).all()
