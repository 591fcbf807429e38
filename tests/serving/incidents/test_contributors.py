"""What adds up is remembered in little room, and comes back whole."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from serving.incidents.contributors import Contribution, Contributors
from serving.schemas import Contributor
from tests.serving.fakes import START


def contribution(number: int, *, seconds: float | None = None, new: float = 1.0) -> Contribution:
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
    time = round((60 * number if seconds is None else seconds) * 1e6)
    return Contribution(time, f"id-{number}", new, 1.0, text, "10.0.0.7", "kubectl")


def flagged(number: int, seconds: float) -> Contribution:
    """An action that is in the alert itself."""
    return replace(contribution(number, seconds=seconds, new=20.0), short=None)


def test_every_short_form_comes_back_whole_from_a_third_of_its_room() -> None:
    contributors = Contributors()
    held = [contributors.append(f"user-{number % 20}", contribution(number)) for number in range(200)]
    for number, one in enumerate(held):
        expanded = contributors.expanded(one)
        assert expanded is not None
        assert expanded.model_dump_json(by_alias=True).encode() == contribution(number).short
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


def held(contributors: Contributors) -> list[str]:
    return [one.audit_id for one in contributors.within("alice", 0, 10**15)]


def test_of_actions_over_hours_the_oldest_go_first() -> None:
    contributors = Contributors()
    for number in range(100):
        contributors.append("alice", contribution(number))
    assert held(contributors) == [f"id-{number}" for number in range(36, 100)]


def test_a_burst_of_flagged_actions_does_not_evict_what_led_up_to_it() -> None:
    contributors = Contributors()
    for number in range(5):
        contributors.append("alice", contribution(number, seconds=number))
    for number in range(5, 1000):
        contributors.append("alice", flagged(number, seconds=10 + number / 1000))
    found = held(contributors)
    assert len(found) == 64
    assert found[:8] == [f"id-{number}" for number in range(8)]
    led = contributors.leading_to("alice", 20 * 10**6, 5.0)
    assert {f"id-{number}" for number in range(5)} <= {one.audit_id for one in led}


def test_of_a_burst_the_first_and_the_worst_stay() -> None:
    contributors = Contributors()
    for number in range(1000):
        contributors.append(
            "alice", contribution(number, seconds=number / 10, new=9.0 if number == 500 else 1.0)
        )
    found = held(contributors)
    assert len(found) == 64
    assert [*found[:8], "id-500"] == [*(f"id-{number}" for number in range(8)), "id-500"]
    assert "id-500" in found


def test_a_burst_does_not_evict_what_was_hours_before_it() -> None:
    contributors = Contributors()
    for number in range(20):
        contributors.append("alice", contribution(number, seconds=600 * number))
    for number in range(20, 500):
        contributors.append("alice", contribution(number, seconds=90_000 + number / 10))
    assert held(contributors)[:20] == [f"id-{number}" for number in range(20)]
