"""What adds up is remembered in little room, and comes back whole."""

from __future__ import annotations

import msgspec

from serving.incidents.contributors import Contribution, Contributors
from serving.schemas import Contributor
from tests.serving.fakes import START


def contribution(number: int) -> Contribution:
    short = Contributor(
        audit_id=f"id-{number}",
        time=START,
        did=f"read Secret db-{number} in payments",
        verb="get",
        source_ips=["10.0.0.7"],
        user_agent="kubectl/v1.30.0 (linux/amd64) kubernetes/7c48c2b",
        weight=0.5,
    )
    text = short.model_dump_json(by_alias=True).encode()
    return Contribution(number, f"id-{number}", 1.0, 1.0, text, "10.0.0.7", "kubectl")


def test_every_short_form_comes_back_whole_from_a_third_of_its_room() -> None:
    contributors = Contributors()
    held = [contributors.append(f"user-{number % 20}", contribution(number)) for number in range(200)]
    for number, one in enumerate(held):
        told = contributors.expanded(one)
        assert told is not None
        assert told.model_dump_json(by_alias=True).encode() == contribution(number).short
    late = held[100:]
    assert 3 * sum(len(one.short or b"") for one in late) < sum(
        len(contribution(0).short or b"") for _ in late
    )


def test_what_is_saved_does_not_depend_on_what_was_remembered_before() -> None:
    contributors = Contributors()
    for number in range(100):
        contributors.append("alice", contribution(number))
    make = contributors.snapshot()
    packed = bytes(make())
    contributors.append("alice", contribution(100))  # comes too late for it
    contributors.append("bob", contribution(101))
    assert bytes(make()) == packed
    [(name, saved)] = msgspec.msgpack.decode(packed)
    assert name == "alice"
    assert [one[4] for one in saved] == [contribution(number).short for number in range(36, 100)]
    again = Contributors()
    for one in saved:
        again.append(name, Contribution(*one))
    assert bytes(again.snapshot()()) == packed
