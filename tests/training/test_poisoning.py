"""The poisoning benchmark mixes what it says: whole runs, in order, in the fitting part alone, and nothing else is changed."""

import json

from benchmarks.poisoning import FITTING, moment_of, poison


def line(audit_id: str, second: int) -> bytes:
    at = f"2026-01-05T09:{second // 60:02}:{second % 60:02}.000000Z"
    return json.dumps({"auditID": audit_id, "requestReceivedTimestamp": at, "stageTimestamp": at}).encode()


def test_copies_lie_in_the_fitting_part_and_normal_work_stays() -> None:
    normal = [line(f"{i:036}", i) for i in range(0, 1000, 10)]
    labelled = [line("a" * 36, 2000), line("b" * 36, 2003), line("c" * 36, 2100)]
    labels = [
        {"scenario": "one", "kind": "attack", "audit_ids": ["a" * 36, "b" * 36]},
        {"scenario": "two", "kind": "attack", "audit_ids": ["c" * 36]},
        {"scenario": "three", "kind": "benign-lookalike", "audit_ids": []},
    ]
    mixed, chosen, added = poison(normal, labelled, labels, 4)
    assert chosen == {"one"}
    assert added == 8
    events = [json.loads(one) for one in mixed]
    times = [moment_of(event) for event in events]
    assert times == sorted(times)
    assert [one for one in mixed if one in set(normal)] == normal
    copies = [(event, at) for event, at in zip(events, times, strict=True) if event["auditID"][0] in "abc"]
    assert len({event["auditID"] for event, _ in copies}) == 8
    latest = moment_of(json.loads(normal[0])) + FITTING * (times[-1] - times[0])
    first = sorted(at for event, at in copies if event["auditID"][0] == "a")
    second = sorted(at for event, at in copies if event["auditID"][0] == "b")
    assert max(first) <= latest
    assert {(b - a).total_seconds() for a, b in zip(first, second, strict=True)} == {3.0}
    assert poison(normal, labelled, labels, 0)[0] == normal
