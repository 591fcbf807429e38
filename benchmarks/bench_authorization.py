"""Cost of comparing every event with roles and bindings, against scoring's own decoding of the same events in the same run.

The events are the recording of normal work that ships with kubehabit, with the RBAC of its beginning. Reported is the CPU time
an event takes the oracle when it sees it first, when it knows its shape, and without its memory, and whether it says the same.

Run: python -m benchmarks.bench_authorization [--events 60000]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from benchmarks.report import Row, at_least, at_most, report
from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from data.events.reader import open_lines
from detection.authorization.agreement import agree
from detection.authorization.files import read_rbac
from detection.authorization.node_graph import NodeGraph
from detection.authorization.oracle import AuthorizationOracle

RECORDINGS = Path(__file__).resolve().parent.parent / "data" / "recordings"
_BATCH = 400
_MICRO = 1e6
#: Microseconds an event that the oracle may add to scoring, and decisions a second that a core must make.
_MOST, _DECISIONS = 5.0, 50_000


def fresh() -> AuthorizationOracle:
    """An oracle as of the beginning of the recording."""
    graph = NodeGraph()
    return AuthorizationOracle(*read_rbac(RECORDINGS / "rbac.json.gz", graph), graph)


def seconds(work: Callable[[], object]) -> float:
    """CPU time of this process for some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def compare(oracle: AuthorizationOracle, events: list[AuditEvent]) -> Counter[str]:
    """Outcomes of all events, compared in batches as the service gets them."""
    found: Counter[str] = Counter()
    for start in range(0, len(events), _BATCH):
        said = oracle.compare(events[start : start + _BATCH])
        found.update(one.outcome for one in said if one is not None)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=60_000)
    wanted = parser.parse_args().events
    lines = list(islice(open_lines(RECORDINGS / "normal.jsonl.zst"), wanted))
    decoding = min(seconds(lambda: decode_lines(lines)) for _ in range(2))
    events = decode_lines(lines).events
    oracle, alone = fresh(), fresh()
    first = seconds(lambda: compare(oracle, events))
    warm = min(seconds(lambda: compare(oracle, events)) for _ in range(3))
    plain = seconds(lambda: agree(events, alone.authorizer, alone.follower))
    each = _MICRO / len(events)
    other, unlearned = fresh(), fresh()
    again = compare(other, events)
    once = agree(events, unlearned.authorizer, unlearned.follower).counts
    report(
        "authorization",
        [
            Row("decoding the same events", decoding * each, "us an event"),
            at_most("oracle, events seen first", first * each, "us an event", _MOST),
            at_most("oracle, shapes known", warm * each, "us an event", _MOST),
            Row("comparison without memory", plain * each, "us an event"),
            at_least("decisions, shapes known", len(events) / warm, "a second and core", _DECISIONS),
            at_least("says the same as without memory", float(again == once), "", 1),
        ],
    )


if __name__ == "__main__":
    main()
