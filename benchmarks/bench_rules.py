"""What rules cost an event: `make bench-rules`.

The shipped recording of normal work is scored by the rules alone, by none, by 20 and by all of them, in turns, so that what else
the machine does meets each alike. Events are encoded before; a rule's loop over a long list is timed by itself.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from data.actions.encoder import ActionEncoder, ActionSettings
from data.events.audit_event import AuditEvent
from data.events.left_out import LeftOut
from data.events.reader import read_events
from detection.rules.evaluator import ActedEvents, RuleEvaluator
from detection.rules.rule import Rule, rule_from
from detection.rules.rule_files import read_rules
from detection.rules.rule_tests import acted_events, event_of_test

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "data" / "recordings" / "normal.jsonl.zst"
LOOP = {
    "apiVersion": "kubehabit.io/v1alpha1",
    "kind": "DetectionRule",
    "metadata": {"name": "loop"},
    "spec": {
        "title": "Loops",
        "severity": "low",
        "matchConstraints": {"resourceRules": [{"resources": ["pods"]}]},
        "expression": "event.containers.all(a, event.containers.all(b, a.image != 'x' || b.image.matches('^(a+)+$')))",
        "reason": "loops",
    },
}


def prepared(log: Path, most: int) -> list[ActedEvents]:
    """The actions of a log, a chunk at a time, as the detector gives them to the rules."""
    encoder = ActionEncoder(ActionSettings.shipped())
    found, count = [], 0
    for chunk in read_events(log, LeftOut()):
        batch = encoder.encode(chunk)
        who = [batch.principals[code] for code in batch.principal.tolist()]
        found.append(
            ActedEvents(
                [chunk[index] for index in batch.event.tolist()],
                [one.name for one in who],
                [one.kind for one in who],
                [one.groups[0] for one in who],
                batch.time.tolist(),
                [0] * len(who),
                [0] * len(who),
            )
        )
        count += len(who)
        if count >= most:
            break
    return found


def seconds(rules: Sequence[Rule], chunks: Sequence[ActedEvents]) -> float:
    """Processor time to run rules over all chunks."""
    evaluator = RuleEvaluator(rules)
    began = time.process_time()
    for acted in chunks:
        evaluator.evaluate(acted)
    return time.process_time() - began


def long_list() -> AuditEvent:
    """A Pod with 1,000 containers of long names."""
    containers = [{"image": "a" * 120} for _ in range(1_000)]
    event = event_of_test(
        {"verb": "create", "objectRef": {"resource": "pods", "namespace": "a", "name": "b"}}, 0
    )
    event.requestObject = msgspec.Raw(msgspec.json.encode({"spec": {"containers": containers}}))
    return event


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rules = list(read_rules([ROOT / "configs" / "rules"]).rules.values())
    chunks = prepared(LOG, options.events)
    number = sum(len(acted.events) for acted in chunks)
    sets = {"no rules": [], "20 rules": rules[:20], f"all {len(rules)} rules": rules}
    taken: dict[str, list[float]] = {name: [] for name in sets}
    for _ in range(options.rounds):
        for name, some in sets.items():
            taken[name].append(seconds(some, chunks) / number * 1e6)
    print(
        f"{number:,} actions, {options.rounds} rounds in turns; microseconds of processor time an action, median (least)"
    )
    for name, values in taken.items():
        print(f"{name:>14}: {statistics.median(values):5.2f} ({min(values):.2f})")
    evaluator = RuleEvaluator([rule_from(LOOP)])
    acted = acted_events([long_list()])
    began = time.process_time()
    [hit] = evaluator.evaluate(acted)
    print(
        f"a loop over 1,000 x 1,000 containers ends after {(time.process_time() - began) * 1e3:.0f} ms: {hit.reason}"
    )


if __name__ == "__main__":
    main()
