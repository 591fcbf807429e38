"""Events that an attacker wrote to stop or blind the detector, among good ones, whose verdicts must be the same."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

from data.events.decode import decode_lines
from detection.bundle import Bundle
from detection.detector import Detector, Scores

HUGE = "9" * 400
#: Evidence, threshold, surprise; then what was decided.
Verdict = tuple[Any, ...]
TEXTS = (
    *(
        "",
        "\0",
        "a\0b",
        "\x1b[2J",
        "\u202e",
        "\ufeff",
        "\U000e0041" * 20,
        "%s%n{}",
        "{ns}",
        "../" * 50,
        "\n" * 10,
    ),
    *(
        "x" * 200_000,
        "é" * 50_000,
        "a-" * 5_000,
        "-0" * 3_000,
        "*" * 999,
        "." * 9_999,
        "/" * 9_999,
        "aa0" * 76,
    ),
    *("system:serviceaccount:" + "a" * 227 + ":" + "0a" * 100, "system:node:" + "1" * 999, "eyJ" * 4_000),
    *('\\"' * 999, "[" * 2_000, "{" * 2_000, "kubectl/" + "v1." * 999, "10." * 99, "::" * 99, "fe80::1%eth0"),
)
TIMES = (
    *("9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00+23:59", "0000-00-00T00:00:00Z"),
    *("9999-12-31T23:59:59Z", "1677-09-21T00:12:43Z", "2262-04-12T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
    *(
        "2026-13-01T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-05T09:30:00." + "9" * 99 + "Z",
        HUGE,
        "\0",
        "Z",
    ),
)
NUMBERS = ("0", "-1", HUGE, "1e999", "-1e999", "1" + "0" * 18, str(2**63), str(-(2**63) - 1), "0.1", "1E400")


def _kinds(chance: random.Random) -> Iterator[Any]:
    """Values of every JSON type; a text stands for itself, a Number for digits."""
    yield from (None, True, [], {}, [[[]]], {"": {"": None}}, ["\0"], [None, 3, {}], {"a": ["b"] * 999})
    yield chance.choice(TEXTS)


def _fuzzed(event: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """An event with some of its values replaced, at any depth."""
    for _ in range(chance.randint(1, 4)):
        holder: Any = event
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(holder[key], dict | list) and chance.random() < 0.7:
                holder = holder[key]
                continue
            pool = [*_kinds(chance), "NUMBER", chance.choice(TIMES), chance.choice(TEXTS)]
            holder[key] = chance.choice(pool)
            break
    return event


def poisoned(lines: list[bytes], seed: int) -> Iterator[bytes]:
    """Endless events of an attacker, whose own names occur in no good event: they are new, not habits of anybody else."""
    chance = random.Random(seed)
    for number in itertools.count():
        event = json.loads(chance.choice(lines))
        event["auditID"] = f"poison-{seed}-{number}"
        event["user"] = {"username": f"mallory-{number}@example.org", "groups": ["mallory"]}
        event["userAgent"], event["sourceIPs"] = "poison/1.0", ["203.0.113.66"]
        event["annotations"] = {
            "authorization.k8s.io/decision": "poison",
            "authorization.k8s.io/reason": "poison",
        }
        event["verb"], event["requestURI"] = "poison", f"/poison/{number}"
        reference = {
            "resource": "poisons",
            "namespace": "poison",
            "name": f"poison-{number}",
            "apiVersion": "v1",
        }
        event["objectRef"] = reference
        if chance.random() < 0.3:
            event[chance.choice(("requestReceivedTimestamp", "stageTimestamp"))] = chance.choice(TIMES)
        else:
            event = _fuzzed(event, chance)
        text = json.dumps(event, ensure_ascii=chance.random() < 0.5)
        text = text.replace('"NUMBER"', chance.choice(NUMBERS))
        if chance.random() < 0.1:
            text = text.replace("poison", "\\ud800", 1)
        yield text.encode("utf-8", "surrogatepass")


def mixed(good: list[bytes], seed: int, count: int) -> list[bytes]:
    """Good events with so many poisoned ones among them."""
    chance = random.Random(seed)
    poison = poisoned(good, seed)
    at = set(chance.sample(range(len(good)), count))
    return [line for row, one in enumerate(good) for line in ([next(poison), one] if row in at else [one])]


def verdicts(scores: list[tuple[Scores, list[str]]]) -> dict[str, tuple[Any, ...]]:
    """Audit ID and stage -> what was decided, of the good events."""
    found = {}
    for part, ids in scores:
        columns = (part.evidence, part.threshold, part.surprise, part.flagged, part.sensitivity)
        for row, index in enumerate(part.event.tolist()):
            if not ids[index].startswith("poison"):
                values = tuple(column[row].item() for column in columns)
                found[ids[index]] = (*values, part.severity[row], part.principal[row])
    return found


def score_in_parts(bundle: Bundle, lines: list[bytes], per_call: int) -> dict[str, tuple[Any, ...]]:
    """What a fresh detector decides on the good events, scored in batches of so many."""
    detector = Detector(bundle)
    scored = []
    for begin in range(0, len(lines), per_call):
        events = decode_lines(lines[begin : begin + per_call]).events
        scored.append((detector.score(events), [event.auditID for event in events]))
    return verdicts(scored)
