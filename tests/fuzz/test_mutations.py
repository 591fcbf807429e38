"""Mutated real events, plain and in every envelope: nothing raises, nothing hangs, nothing is lost."""

from __future__ import annotations

from benchmarks.fuzz_decoders import Target, mutations, run_mutations


def test_thousands_of_mutated_events_crash_nothing() -> None:
    said: list[str] = []
    figures = run_mutations(4_000, seed=20260105, say=said.append)
    assert figures["crashes"] == 0, [line for line in said if line.startswith("CRASH")]
    assert figures["executions"] == 4_000
    assert figures["events"] > 500  # the mutations are not so wild that only the first check is tested
    assert figures["dead_letters"] > 1_000


def test_mutations_are_the_same_for_the_same_seed() -> None:
    assert list(mutations(20, seed=1)) == list(mutations(20, seed=1))


def test_the_target_notices_what_it_should() -> None:
    target = Target()
    target(b"")
    target(b'{"kind":"EventList","items":[]}\n\n not json')
    assert target.dead == 1
