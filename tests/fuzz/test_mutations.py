"""Mutated real events, plain and in every envelope: nothing raises, nothing hangs, nothing is lost."""

from __future__ import annotations

import json
import time
from typing import Any

from benchmarks.fuzz_decoders import SLOW_SECONDS, Target, mutations, poisons, run_mutations
from data.actions.encoder import ActionEncoder, ActionSettings
from data.actions.fields import STATIC_FIELDS
from data.events.audit_event import AuditEvent
from data.events.decode import decode_body, decode_lines
from data.paths import shipped


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


def meaning(encoder: ActionEncoder, events: list[AuditEvent]) -> list[tuple[Any, ...]]:
    """The actions of events as their values."""
    batch = encoder.encode(events)
    columns = [[encoder.interners[name].values[code] for code in batch.codes[name]] for name in STATIC_FIELDS]
    names = [batch.principals[place].name for place in batch.principal]
    return list(zip([events[place].auditID for place in batch.event], names, *columns, strict=True))


def test_one_poisoned_event_among_1000_costs_none_of_the_others(labelled_lines: list[bytes]) -> None:
    """Whatever an attacker writes into one event, the others become the same actions, in little time."""
    settings = ActionSettings.from_dict(shipped("actions.yaml"))
    lines = labelled_lines[:999]
    expected = meaning(ActionEncoder(settings), decode_lines(lines).events)
    wanted = {action[0] for action in expected}
    small = meaning(ActionEncoder(settings), decode_lines(lines[:50]).events)
    poisoned = poisons(json.loads(lines[500]))
    assert len(poisoned) > 100
    for number, poison in enumerate(poisoned):
        record = json.dumps(poison | {"auditID": poison["auditID"][:900_000] + "!"}).encode()
        whole = number % 20 == 0  # all ways for some, a few neighbours for the rest
        kept = lines if whole else lines[:50]
        bodies = [b"\n".join([*kept[:20], record, *kept[20:]])]
        listed = b",".join([*kept[:20], record, *kept[20:]])
        bodies.append(b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[' + listed + b"]}")
        bodies += [b"[" + listed + b"]"] if whole else []
        for body in bodies:
            begin = time.process_time()
            decoded = decode_body(body)
            found = meaning(ActionEncoder(settings), decoded.events)
            assert time.process_time() - begin < SLOW_SECONDS
            assert len(decoded.events) + len(decoded.dead) == len(kept) + 1
            others = [action for action in found if action[0] in wanted]
            assert others == (expected if whole else small), f"{str(poison)[:200]} changed the others"
