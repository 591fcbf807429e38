"""Scenario by scenario: in which fields an attack differs from its principal's ordinary actions, and from its look-alike.

Ordinary is the shipped recording of normal work, and in the labelled one what the same principal did before the run without a
label. Scenarios of the labelled recording are judged on their real events. The catalogue's others are built from the calls in
`scenarios.yaml` with the client, address and groups of a principal of the recording.

Run: python -m benchmarks.scenario_fields [--docs docs/scenarios.md]
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import Row, at_least, report
from data.actions.attributes import (
    HASHED_ATTRIBUTES as ATTRIBUTES,  # recordings of minutes know no strange hours
)
from data.actions.encoder import ActionEncoder, ActionSettings
from data.actions.fields import FIELDS
from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from data.events.reader import open_lines
from data.paths import Recordings
from data.principals.identity import identify
from data.principals.peer_groups import PrincipalTable

HERE = Path(__file__).resolve().parent
RECORDINGS = HERE.parent / "data" / "recordings"
#: Fields whose own value is compared; hours mean nothing in recordings of minutes.
SINGLE = tuple(name for name in FIELDS if name not in ("hour", "gap", "owner"))

MINUTE = 60_000_000
REFUSALS = ("401", "403")
WRITES = ("create", "update", "patch", "delete", "deletecollection")


@dataclass(slots=True)
class Action:
    """One action in words."""

    who: str
    time: int
    values: dict[str, str]
    raw_name: str

    @property
    def deed(self) -> tuple[str, str]:
        return self.values["verb"], self.values["resource"]

    @property
    def thing(self) -> tuple[str, str, str]:
        return self.values["resource"], self.values["namespace"], self.raw_name

    def attribute(self, name: str) -> tuple[str, ...]:
        return tuple(self.values[part] for part in ATTRIBUTES[name])


@dataclass(slots=True)
class Known:
    """What a principal did so far."""

    actions: int = 0
    fields: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    attributes: dict[str, set[tuple[str, ...]]] = field(default_factory=lambda: defaultdict(set))
    steps: set[tuple[tuple[str, str], tuple[str, str]]] = field(default_factory=set)
    last: Action | None = None
    pace: Pace = field(default_factory=lambda: Pace())

    def add(self, action: Action) -> None:
        self.actions += 1
        for name in SINGLE:
            self.fields[name].add(action.values[name])
        for name in ATTRIBUTES:
            self.attributes[name].add(action.attribute(name))
        if self.last is not None:
            self.steps.add((self.last.deed, action.deed))
        self.last = action
        self.pace.add(action)


class Pace:
    """The most of each kind of action, of different objects and of refusals within a minute."""

    def __init__(self) -> None:
        self._recent: list[tuple[int, tuple[str, str], tuple[str, str, str], bool]] = []
        self.deeds: Counter[tuple[str, str]] = Counter()
        self.things: Counter[tuple[str, str]] = Counter()
        self.refused = 0

    def add(self, action: Action) -> None:
        refused = action.values["code"] in REFUSALS
        self._recent.append((action.time, action.deed, action.thing, refused))
        self._recent = [entry for entry in self._recent if entry[0] > action.time - MINUTE]
        same = [entry for entry in self._recent if entry[1] == action.deed]
        self.deeds[action.deed] = max(self.deeds[action.deed], len(same))
        self.things[action.deed] = max(self.things[action.deed], len({entry[2] for entry in same}))
        self.refused = max(self.refused, sum(entry[3] for entry in self._recent))


def _signal(word: str) -> str:
    return word.split(":")[0]


@dataclass(slots=True)
class Difference:
    """What a run has that its principal's ordinary actions lack.

    Attributes:
        fields: field -> values never before seen from this principal.
        attributes: attribute -> 1 new to the principal, 2 to its peers as well, 3 to everybody.
        sequence: what only shows over several actions or principals, in words.
        deeds: everything done in the run, verb and resource.
        calls: actions in the run.
    """

    scenario: str
    kind: str
    who: str
    fields: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    attributes: dict[str, int] = field(default_factory=dict)
    sequence: list[str] = field(default_factory=list)
    deeds: set[str] = field(default_factory=set)
    calls: int = 0
    source: str = "recorded"
    note: str = ""

    def join(self, other: Difference) -> None:
        """Add another run of the same scenario: what any of them shows."""
        for name, values in other.fields.items():
            self.fields[name] |= values
        for name, level in other.attributes.items():
            self.attributes[name] = max(level, self.attributes.get(name, 0))
        shown = {_signal(word) for word in self.sequence}
        self.sequence += [word for word in other.sequence if _signal(word) not in shown]
        self.deeds |= other.deeds
        self.calls += other.calls


class World:
    """Everything that was ordinary, by principal."""

    def __init__(self) -> None:
        self.encoder = ActionEncoder(ActionSettings.shipped(trusted_hops=Recordings.TRUSTED_HOPS))
        self.known: dict[str, Known] = defaultdict(Known)
        self.writers: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        self.anyone: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        self.table = PrincipalTable()
        self.sample: dict[str, AuditEvent] = {}
        self.behind: dict[str, list[Action]] = defaultdict(list)

    def encode(self, events: Sequence[AuditEvent]) -> list[tuple[Action, AuditEvent]]:
        batch = self.encoder.encode(events)
        interned = {name: self.encoder.interners[name].values for name in batch.codes}
        found = []
        for row, index in enumerate(batch.event.tolist()):
            event = events[index]
            principal = batch.principals[batch.principal[row]]
            values = {name: interned[name][codes[row]] for name, codes in batch.codes.items()}
            raw = event.objectRef.name if event.objectRef else ""
            found.append((Action(principal.name, int(batch.time[row]), values, raw), event))
        return found

    def learn(self, action: Action, event: AuditEvent) -> None:
        self.known[action.who].add(action)
        for name in ATTRIBUTES:
            self.anyone[name].add(action.attribute(name))
        if action.values["verb"] in WRITES and action.raw_name:
            self.writers[action.thing].add(action.who)
        self.sample[action.who] = event

    def settle(self) -> None:
        """Peer groups, as a dataset build would find them."""
        self.table = PrincipalTable.fit({p.name: p for p in self.encoder.principals}.values())

    def peers(self, who: str) -> list[str]:
        group = self.table.group(identify(who, ()))
        members = [name for name, other in self.table.group_of.items() if other == group]
        return [name for name in members if name != who and name in self.known]

    def _new(self, action: Action, known: Known, peers: Sequence[str]) -> dict[str, int]:
        """Attributes of an action that its principal never had: 1 its peers did, 2 only others did, 3 no principal did."""
        new = {}
        for name in ATTRIBUTES:
            value = action.attribute(name)
            if value not in known.attributes[name]:
                new[name] = 3 if value not in self.anyone[name] else 2
                if any(value in self.known[peer].attributes[name] for peer in peers):
                    new[name] = 1
        return new

    def judge(self, scenario: str, kind: str, who: str, actions: Sequence[Action], source: str) -> Difference:
        """Compare a run with the ordinary actions of who acts in it."""
        result = Difference(scenario, kind, who, calls=len(actions), source=source)
        known, peers = self.known.get(who, Known()), self.peers(who)
        new_steps, pace = set(), Pace()
        last: Action | None = None
        foreign: set[str] = set()
        for action in actions:
            for name in SINGLE:
                if action.values[name] not in known.fields[name]:
                    result.fields[name].add(action.values[name])
            new = self._new(action, known, peers)
            for name, level in new.items():
                # What follows from something smaller that is as new says nothing of its own.
                if not any(set(ATTRIBUTES[o]) < set(ATTRIBUTES[name]) and new[o] >= level for o in new):
                    result.attributes[name] = max(level, result.attributes.get(name, 0))
            result.deeds.add(" ".join(action.deed))
            if last is not None and (last.deed, action.deed) not in known.steps:
                new_steps.add((last.deed, action.deed))
            last = action
            pace.add(action)
            usual = self.writers.get(action.thing, set())
            if action.values["verb"] in WRITES and action.raw_name and usual and who not in usual:
                foreign.add(
                    f"{' '.join(action.thing[:2])} {action.raw_name} (by {', '.join(sorted(usual)[:2])})"
                )
        result.sequence += _sequence(known.pace, pace, new_steps)
        if foreign:
            result.sequence.append(f"writer: {sorted(foreign)[0]} is otherwise written by others")
        return result


def _sequence(usual: Pace, pace: Pace, steps: set[tuple[tuple[str, str], tuple[str, str]]]) -> list[str]:
    """What only shows over several actions, in words."""
    said = []
    for sort, counts, known in (("rate", pace.deeds, usual.deeds), ("fan-out", pace.things, usual.things)):
        over = [(count, deed) for deed, count in counts.items() if count > max(2, known[deed])]
        if over:
            count, deed = max(over)
            what = f"{count} x {' '.join(deed)}" if sort == "rate" else f"{count} different {deed[1]}"
            said.append(f"{sort}: {what} in a minute, never more than {known[deed]}")
    if pace.refused > max(1, usual.refused):
        said.append(f"refusals: {pace.refused} in a minute, never more than {usual.refused}")
    if steps:
        before, after = sorted(steps)[0]
        more = f" (and {len(steps) - 1} more)" if len(steps) > 1 else ""
        said.append(f"order: {' '.join(before)}, then {' '.join(after)}: a step never made{more}")
    return said


def recorded(world: World) -> list[Difference]:
    """The runs of the labelled recording, joined by scenario."""
    for chunk in _chunks(RECORDINGS / "normal.jsonl.zst"):
        for action, event in world.encode(chunk):
            world.learn(action, event)
    labels = json.loads((RECORDINGS / "labels.json").read_text())
    run_of = {audit_id: number for number, run in enumerate(labels) for audit_id in run["audit_ids"]}
    induced = {audit_id: number for number, run in enumerate(labels) for audit_id in run["induced_audit_ids"]}
    ignored = {audit_id for run in labels for audit_id in run["ignore_audit_ids"]}
    world.settle()
    mine: dict[int, list[Action]] = defaultdict(list)
    made: dict[int, list[Action]] = defaultdict(list)
    judged: dict[int, Difference] = {}
    left = Counter(run_of.values())
    for chunk in _chunks(RECORDINGS / "labelled.jsonl.zst"):
        for action, event in world.encode(chunk):
            number = run_of.get(event.auditID)
            if number is not None:
                mine[number].append(action)
                left[number] -= 1
                if not left[number]:  # at its end, so that what the owner did meanwhile is known as well
                    run = labels[number]
                    kind = "attack" if run["kind"] == "attack" else "look-alike"
                    judged[number] = world.judge(run["scenario"], kind, action.who, mine[number], "recorded")
            elif event.auditID in induced:
                made[induced[event.auditID]].append(action)
            elif event.auditID not in ignored:
                world.learn(action, event)
    joined: dict[str, Difference] = {}
    for number, run in enumerate(labels):
        if number not in judged and mine[number]:  # a repeat of an audit ID kept the run open
            kind = "attack" if run["kind"] == "attack" else "look-alike"
            judged[number] = world.judge(run["scenario"], kind, mine[number][0].who, mine[number], "recorded")
        found = judged.get(number, Difference(run["scenario"], run["kind"], run["principal"]))
        traced = [a for a in made[number] if a.values["owner"] == found.who]
        if traced:
            found.sequence.append(f"owner: {len(traced)} actions of controllers trace to it")
        if found.scenario in joined:
            joined[found.scenario].join(found)
        else:
            joined[found.scenario] = found
    return list(joined.values())


def _chunks(path: Path, size: int = 4096) -> Iterable[list[AuditEvent]]:
    lines: list[bytes] = []
    for line in open_lines(path):
        lines.append(line)
        if len(lines) == size:
            yield decode_lines(lines).events
            lines = []
    yield decode_lines(lines).events


def constructed(world: World, scenarios: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Scenarios made of calls, with the client, address and groups of a principal of the recording."""
    found = []
    serial = 0
    for entry in scenarios:
        who = entry["as"]
        sample = world.sample.get(who) or world.sample[entry.get("like", who)]
        events = []
        for verb, what, where, code, *rest in entry["calls"]:
            options: dict[str, Any] = rest[0] if rest else {}
            for _ in range(options.get("times", 1)):
                serial += 1
                events.append(_event(sample, who, verb, what, where, code, options, serial))
        actions = [action for action, _ in world.encode(decode_lines(events).events)]
        difference = world.judge(entry["scenario"], entry.get("kind", "attack"), who, actions, "constructed")
        difference.note = entry.get("reason", "")
        difference.attributes.pop("binding", None)
        difference.fields.pop("binding", None)
        found.append(difference)
    return found


def _event(
    sample: AuditEvent,
    who: str,
    verb: str,
    what: str,
    where: str,
    code: int,
    options: Mapping[str, Any],
    serial: int,
) -> bytes:
    """A call as the API server would log it."""
    namespace, _, name = where.partition("/")
    parts = what.split("/")
    group = (
        parts.pop(0)
        if len(parts) > 1 and ("." in parts[0] or parts[0] in ("apps", "batch", "autoscaling"))
        else ""
    )
    resource, subresource = parts[0], "/".join(parts[1:])
    base = f"/apis/{group}/v1" if group else "/api/v1"
    path = (
        base
        + (f"/namespaces/{namespace}" if namespace else "")
        + f"/{resource}"
        + (f"/{name}" if name else "")
    )
    path = options.get("path", path + (f"/{subresource}" if subresource else ""))
    groups = list(sample.user.groups)
    if who != sample.user.username:
        groups = ["system:serviceaccounts", "system:authenticated"]
    seconds = 200 + serial * 2
    clock = f"{10 + seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}.{serial:06d}"
    made: dict[str, Any] = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Request",
        "auditID": f"constructed-{serial}",
        "stage": "ResponseComplete",
        "requestURI": path + (f"?{options['query']}" if "query" in options else ""),
        "verb": verb,
        "user": {"username": who, "groups": groups},
        "sourceIPs": [options["ip"], "127.0.0.1"] if "ip" in options else list(sample.sourceIPs),
        "userAgent": options.get("agent", sample.userAgent),
        "objectRef": {
            "resource": resource,
            "apiGroup": group,
            "subresource": subresource,
            "namespace": namespace,
            "name": name,
        },
        "responseStatus": {"code": code},
        "requestReceivedTimestamp": f"2027-01-04T{clock}Z",
        "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""},
    }
    if "impersonates" in options:
        made["impersonatedUser"] = {"username": options["impersonates"]}
    if "body" in options:
        made["requestObject"] = copy.deepcopy(options["body"])
    return json.dumps(made).encode()


LEVELS = ("", "", "*", "**")


def _fields(found: Difference) -> str:
    names = sorted(found.attributes, key=lambda name: (-found.attributes[name], name))
    return ", ".join(f"{name.replace('_', ' x ')}{LEVELS[found.attributes[name]]}" for name in names)


def only_in(attack: Difference, twin: Difference) -> list[str]:
    """What the attack shows that the look-alike does not: attributes, or the same ones newer, or a sequence signal."""
    if not attack.calls:
        return []
    mine = {
        name: level
        for name, level in attack.attributes.items()
        # Who allowed it is known of real events alone.
        if name != "binding" or twin.source == attack.source == "recorded"
    }
    more = [name.replace("_", " x ") for name in ATTRIBUTES if name in mine and name not in twin.attributes]
    newer = [
        f"{name.replace('_', ' x ')} (newer)"
        for name in ATTRIBUTES
        if name in mine and 0 < twin.attributes.get(name, 0) < mine[name]
    ]
    shown = {_signal(word) for word in twin.sequence}
    signals = [_signal(word) for word in attack.sequence if _signal(word) not in shown]
    values = [
        f"{name} {cut(sorted(attack.fields[name] - twin.fields.get(name, set()))[0])}"
        for name in ("traits", "images", "impersonates", "uri")
        if attack.fields.get(name, set()) - twin.fields.get(name, set())
    ]
    deeds = sorted(attack.deeds - twin.deeds)
    kinds = identify(attack.who, ()).kind, identify(twin.who, ()).kind
    who = [f"who ({kinds[0]}, not {kinds[1]})"] if kinds[0] != kinds[1] else []
    return [*more, *newer, *signals, *values, *(f"action {cut(deed)}" for deed in deeds[:1]), *who]


def cut(text: str, width: int = 48) -> str:
    return f"`{text if len(text) <= width else text[: width - 1] + '…'}`"


HEAD = """# Scenario by scenario: what differs

Made by `python -m benchmarks.scenario_fields --docs docs/scenarios.md`; do not edit by hand.

For every attack of the catalogue: in what its actions differ from the **ordinary actions of the principal whose credential was
used**, and what of that its benign look-alike does not show. *Recorded* scenarios are judged on the real events of the labelled
recording (all runs of a scenario joined). *Constructed* ones are the catalogue's calls, or for a technique of which it gives only
the name the calls it takes, made with the client, address and groups of a principal of the recording, so that only the
action itself can differ (which permission allowed it is left out: nobody decided it).

*New* lists attributes (`data/actions/attributes.py`) never before seen from the principal: plain = its peers do it, `*` = no
peer does, `**` = nobody ever did. What follows from a smaller one that is as new is left out: a new namespace makes every
object in it new.
*Over several actions* needs more than one action or principal: rate, fan-out, refusals, order (a step from one kind of action to
another that the principal never made), writer (the object is otherwise written by others), owner (what controllers did because of
it traces to the attacker, `data/principals/ownership.py`).

"""


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/").replace("*", "\\*") for cell in cells) + " |"


def _document(rows: Sequence[tuple[Difference, Difference | None]], alike: Sequence[Difference]) -> str:
    """docs/scenarios.md."""
    lines = [
        "| attack | | new | over several actions | look-alike | only in the attack |",
        "|---|---|---|---|---|---|",
    ]
    for found, twin in rows:
        why = f"nothing: {found.note}"
        only = (", ".join(only_in(found, twin)) or why) if twin is not None else "–"
        said = "; ".join(found.sequence) or "–"
        new = _fields(found) or (why if found.note else "nothing in a single action")
        lines.append(_row((found.scenario, found.source, new, said, twin.scenario if twin else "–", only)))
    lines += ["", "## The look-alikes themselves", "", "| look-alike | | new | over several actions |"]
    lines += ["|---|---|---|---|"]
    for found in alike:
        said = "; ".join(found.sequence) or "–"
        lines.append(_row((found.scenario, found.source, _fields(found) or "nothing", said)))
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--docs", type=Path, help="also write the tables to this Markdown file")
    options = parser.parse_args()
    catalogue = yaml.safe_load((HERE / "scenarios.yaml").read_text())
    world = World()
    found = recorded(world)
    found += constructed(world, catalogue["constructed"])
    twins: dict[str, str] = dict(catalogue["twins"])
    twins |= {entry["scenario"]: entry["twin"] for entry in catalogue["constructed"] if "twin" in entry}
    by_name = {difference.scenario: difference for difference in found}
    attacks = [difference for difference in found if difference.kind == "attack"]
    rows = [(attack, by_name.get(twins.get(attack.scenario, ""))) for attack in attacks]
    empty = [a.scenario for a in attacks if not a.attributes and not a.sequence and not a.note]
    same = [a.scenario for a, twin in rows if twin is not None and not only_in(a, twin) and not a.note]
    lone = [a.scenario for a, twin in rows if twin is None]
    if options.docs:
        options.docs.write_text(_document(rows, [d for d in found if d.kind != "attack"]), encoding="utf-8")
    for attack, twin in rows:
        print(f"{attack.scenario:<34}{attack.source:<12}{_fields(attack) or attack.note[:60]}")
        for word in attack.sequence:
            print(f"{'':<46}{word}")
        if twin is not None:
            print(f"{'':<46}only here, not in {twin.scenario}: {', '.join(only_in(attack, twin)) or '-'}")
    for title, names in (("no difference", empty), ("like the look-alike", same), ("no look-alike", lone)):
        if names:
            print(f"{title}: {', '.join(names)}")
    differing = sum(bool(a.attributes or a.sequence or a.note) for a in attacks)
    apart = sum(bool(twin is not None and (only_in(a, twin) or a.note)) for a, twin in rows)
    report(
        "scenario_fields",
        [
            Row("attack scenarios", len(attacks), "scenarios"),
            Row("of them on real events", sum(a.source == "recorded" for a in attacks), "scenarios"),
            Row("nothing to encode, for a written reason", sum(not a.calls for a in attacks), "scenarios"),
            at_least("differ from what is ordinary, or say why not", differing, "scenarios", len(attacks)),
            at_least("differ from their look-alike, or say why not", apart, "scenarios", len(attacks)),
        ],
    )
    sys.exit(bool(empty or same))


if __name__ == "__main__":
    main()
