"""Attack runs in other principals' clothes: hundreds of independent cases out of the few dozen runs of a labelled log.

A labelled run is put into the hands of another principal of the same kind (its user name, groups, client, address and rights), at
another time of the log without attacks. What the run did in its owner's own namespaces it does in the victim's; what it did
elsewhere stays there. A victim is feasible if

- it is of the owner's kind, and as much at work as one can be judged by (`_ESTABLISHED` actions);
- it has the rights that the run made use of: the same role, or a role bound to a group that it is in;
- the deed is at least as new to it as it was to the owner: a kind of request that the owner never made is none of the victim's
  either, nor is a place or an object. This is read off the log without attacks; no score takes part.

Runs of several principals, of anonymous callers and of hardly active accounts stay with whom they were, at other times.
Everything is drawn from one seed: the same log and labels give the same cases.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import zstandard
from msgspec.structs import replace

from data.arrays import Ints
from data.durable_file import replacing
from data.events.audit_event import Annotations, AuditEvent
from data.paths import home
from data.timestamps import parse_times
from training.evaluation.metrics import Label, named_by
from training.evaluation.profiles import NOT_NEW, Deed, Profile, Profiles, Right, Session, kind_of

Mode = Literal["same", "new-ip", "new-ua", "new-ip-and-ua"]
MODES: tuple[Mode, ...] = ("same", "new-ip", "new-ua", "new-ip-and-ua")
SEED = 7
#: Actions in the log from which a principal can be a victim: below, it is a newcomer, which is a case of its own.
_ESTABLISHED = 50
_MOVABLE = ("human", "serviceaccount", "node")
#: Share of the log at either end in which no run begins.
_MARGIN = 0.03
_NULL = msgspec.Raw(b"null")
#: Changes when the same log and labels would give other cases.
_VERSION = 1


class Case(msgspec.Struct, frozen=True):
    """A run as it is replayed, alone.

    Attributes:
        run: index of the label it was made from.
        principals: user names of those who act in it, the victim first.
        mode: whose address and client it uses: the victim's (`same`), or new ones.
        moved: whether another than its owner does it.
        events: its own, in order.
        induced: what it made controllers do; only of a run that was not moved.
    """

    run: int
    scenario: str
    family: str
    kind: str
    cls: str = msgspec.field(name="class")
    mode: str = "same"
    principals: tuple[str, ...] = ()
    moved: bool = False
    events: tuple[AuditEvent, ...] = ()
    induced: tuple[AuditEvent, ...] = ()

    @property
    def is_attack(self) -> bool:
        """Whether it is an attack, not a benign look-alike."""
        return self.kind == "attack"


def received(events: Sequence[AuditEvent]) -> Ints:
    """When each request was received, int64 [N], microseconds since 1970 UTC."""
    return parse_times([event.requestReceivedTimestamp or event.stageTimestamp for event in events])


def stamp(time: int) -> str:
    """A time in microseconds since 1970 UTC as the API server writes it."""
    return f"{np.datetime64(time, 'us')}Z"


def at(event: AuditEvent, time: int, audit_id: str | None = None) -> AuditEvent:
    """The event at another time, and if wanted with another audit ID."""
    text = stamp(time)
    return replace(
        event, requestReceivedTimestamp=text, stageTimestamp=text, auditID=audit_id or event.auditID
    )


def without_labelled(events: Sequence[AuditEvent], labels: Sequence[Label]) -> list[AuditEvent]:
    """The log as if there had been no attack: without all that the labels name."""
    named = named_by(labels)
    return [event for event in events if event.auditID not in named]


def originals(events: Sequence[AuditEvent], labels: Sequence[Label]) -> list[Case]:
    """Every labelled run as it was, with what it made controllers do; runs without an event in the log are left out."""
    run_of = {audit_id: run for run, label in enumerate(labels) for audit_id in label["audit_ids"]}
    made_by = {
        audit_id: run
        for run, label in enumerate(labels)
        for audit_id in label.get("induced_audit_ids") or ()
        if audit_id not in run_of
    }
    own: dict[int, list[AuditEvent]] = defaultdict(list)
    induced: dict[int, list[AuditEvent]] = defaultdict(list)
    for event in events:
        if event.auditID in run_of:
            own[run_of[event.auditID]].append(event)
        elif event.auditID in made_by:
            induced[made_by[event.auditID]].append(event)
    return [_case(run, labels[run], own[run], induced[run]) for run in sorted(own)]


def _case(run: int, label: Label, own: Sequence[AuditEvent], induced: Sequence[AuditEvent]) -> Case:
    scenario, family, kind, cls, mode = (
        str(label.get(key) or "") for key in ("scenario", "family", "kind", "class", "mode")
    )
    return Case(
        run=run,
        scenario=scenario,
        family=family,
        kind=kind,
        cls=cls,
        mode=mode,
        principals=tuple(dict.fromkeys(event.user.username for event in own)),
        events=tuple(own),
        induced=tuple(induced),
    )


def build(
    events: Sequence[AuditEvent],
    labels: Sequence[Label],
    *,
    attacks: int,
    lookalikes: int = 0,
    seed: int = SEED,
) -> list[Case]:
    """Transplants of the runs of a labelled log: at least so many of attack runs, and of benign look-alikes.

    Every run has the same share; modes take turns. Events have audit IDs and times of their own.
    """
    clean = without_labelled(events, labels)
    profiles = Profiles(clean, received(clean))
    runs = originals(events, labels)
    cases = []
    for wanted, chosen in (
        (attacks, [run for run in runs if run.is_attack]),
        (lookalikes, [run for run in runs if not run.is_attack]),
    ):
        share = -(-wanted // max(len(chosen), 1))
        for run in chosen:
            cases += _transplants(run, profiles, share, seed)
    return cases


def cached(
    log: Path, events: Sequence[AuditEvent], labels: Sequence[Label], *, attacks: int, lookalikes: int
) -> list[Case]:
    """As `build`; made once for a log and its labels, and kept in `home()`."""
    digest = hashlib.sha256(log.read_bytes())
    digest.update(json.dumps([_VERSION, SEED, attacks, lookalikes, list(labels)], sort_keys=True).encode())
    path = home() / "transplants" / f"{digest.hexdigest()[:32]}.json.zst"
    if path.is_file():
        saved = msgspec.json.decode(zstandard.decompress(path.read_bytes()), type=list[Case])
        return [_with_body(case, _NULL, msgspec.Raw()) for case in saved]
    cases = build(events, labels, attacks=attacks, lookalikes=lookalikes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        saved = [_with_body(case, msgspec.Raw(), _NULL) for case in cases]
        file.write(zstandard.compress(msgspec.json.encode(saved)))
    return cases


def _with_body(case: Case, body: msgspec.Raw, other: msgspec.Raw) -> Case:
    """A case with one body in place of another: no body at all is nothing that JSON could hold."""
    events = tuple(
        replace(event, requestObject=other) if event.requestObject == body else event for event in case.events
    )
    return replace(case, events=events)


def _transplants(run: Case, profiles: Profiles, count: int, seed: int) -> list[Case]:
    rng = np.random.default_rng([seed, run.run])
    victims = feasible(run, profiles)
    # Strangers first, each once before any twice; the owner takes its turn like any other.
    order = [victims[i] for i in rng.permutation(len(victims))] or [""]
    modes = modes_of(run, profiles)
    modes = [modes[i] for i in rng.permutation(len(modes))]
    pairs = [
        (victim, modes[(place + turn) % len(modes)])
        for turn in range(len(modes))
        for place, victim in enumerate(order)
    ]
    return [_Tailor(run, profiles, *pairs[i % len(pairs)], rng).case(i) for i in range(count)]


def feasible(run: Case, profiles: Profiles) -> list[str]:
    """User names of those who could have done a run, its owner included; empty if it stays with whom it was."""
    owner = profiles.by_name.get(run.principals[0])
    if (
        len(run.principals) > 1
        or owner is None
        or owner.kind not in _MOVABLE
        or len(owner.rows) < _ESTABLISHED
    ):
        return []
    found = []
    for name, profile in sorted(profiles.by_name.items()):
        if name == owner.user.username or (
            profile.kind == owner.kind
            and len(profile.rows) >= _ESTABLISHED
            and not any(
                e.impersonatedUser is not None and e.impersonatedUser.username == name for e in run.events
            )
            and (moves := _namespace_moves(run, owner, profile)) is not None
            and all(_right(event, owner, profile, moves) is not None for event in run.events)
            and _as_new(run, owner, profile, moves)
        ):
            found.append(name)
    return found


def modes_of(run: Case, profiles: Profiles) -> list[Mode]:
    """Addresses and clients that a run's transplants may use.

    Where the owner does every single thing of the run itself, the address and the client are what makes it an attack: then
    what was new in them stays new.
    """
    owner = profiles.by_name.get(run.principals[0])
    deeds = [deed for event in run.events if (deed := Deed.of(event)) is not None]
    if owner is None or owner.newness(deeds) < NOT_NEW:
        return list(MODES)
    return [mode for mode in MODES if all(part in mode for part in ("ip", "ua") if part in run.mode)]


def _namespace_moves(run: Case, owner: Profile, victim: Profile) -> dict[str, str] | None:
    """Namespace -> what stands for it when the victim acts; None if the victim has no namespace for the owner's."""
    theirs, own = victim.homes, owner.homes
    spare = [name for name in theirs if name not in own]
    free = [name for name in own if name not in theirs]
    moves: dict[str, str] = {}
    for name in _touched(run.events):
        if name in own:
            if name not in theirs:
                if not theirs:
                    return None
                moves[name] = (spare or theirs)[free.index(name) % len(spare or theirs)]
        elif name in theirs and free:  # another's namespace is another's still
            moves[name] = free[0]
    return moves


def _touched(events: Sequence[AuditEvent]) -> list[str]:
    names = [event.objectRef.namespace for event in events if event.objectRef is not None]
    return list(dict.fromkeys(name for name in names if name))


def _moved(deed: Deed, moves: Mapping[str, str]) -> Deed:
    """A deed in the victim's namespaces. Whatever object is there instead, it is not the same one."""
    there = moves.get(deed.namespace)
    return deed if there is None else Deed(deed.verb, deed.resource, there, deed.name and "?")


def _as_new(run: Case, owner: Profile, victim: Profile, moves: Mapping[str, str]) -> bool:
    deeds = [deed for event in run.events if (deed := Deed.of(event)) is not None]
    return victim.newness([_moved(deed, moves) for deed in deeds]) <= owner.newness(deeds)


def _right(event: AuditEvent, owner: Profile, victim: Profile, moves: Mapping[str, str]) -> str | None:
    """What the API server would say of the victim's right to a request; None if it has none."""
    used = Right.of(event)
    reason = (event.annotations.reason if event.annotations is not None else None) or ""
    if used is None or victim is owner:
        return reason
    if event.impersonatedUser is not None:  # the right is that of the account it acts as
        return reason
    if not used.role:  # system:masters, nodes: another authorizer looked at the groups
        return reason if set(owner.user.groups) <= set(victim.user.groups) else None
    kind, _, name = used.subject.partition(" ")
    there = event.objectRef.namespace if event.objectRef is not None else ""
    if (
        kind == "Group"
        and name in victim.user.groups
        and ("ClusterRoleBinding" in reason or there not in moves)
    ):
        return reason
    said = victim.rights.get(used.role)
    if not said:
        return None
    wanted = f'/{moves.get(there, there)}"'
    # A cluster-wide binding, or one in that very namespace.
    fitting = [text for text, _ in said.most_common() if "ClusterRoleBinding" in text or wanted in text]
    return fitting[0] if fitting else None


class _Tailor:
    """Makes one transplant."""

    def __init__(
        self, run: Case, profiles: Profiles, victim: str, mode: Mode, rng: np.random.Generator
    ) -> None:
        self.run, self.profiles, self.mode, self.rng = run, profiles, mode, rng
        self.owner = profiles.by_name.get(run.principals[0])
        self.victim = profiles.by_name.get(victim) if victim else None
        self.moves: dict[str, str] = {}
        self.names: dict[tuple[str, str, str], str] = {}
        if self.owner is not None and self.victim is not None and self.victim is not self.owner:
            self.moves = _namespace_moves(run, self.owner, self.victim) or {}

    def case(self, number: int) -> Case:
        """The transplant; `number` makes its audit IDs unique."""
        begin = self._begin()
        times = received(self.run.events)
        session = None if self.victim is None else self._session(self.victim, begin)
        events = []
        requests: dict[str, int] = {}  # stages of one request share its audit ID
        for event, time in zip(self.run.events, times.tolist(), strict=True):
            made = self._dressed(event) if self.moves or self._is_moved else event
            if session is not None:
                made = replace(made, userAgent=session[0], sourceIPs=session[1])
            place = requests.setdefault(event.auditID, len(requests))
            audit_id = f"{self.run.run:08x}-{number:04x}-4000-8000-{place:012x}"
            events.append(at(made, begin + time - int(times.min()), audit_id))
        return replace(
            self.run,
            mode=self.mode if session is not None else self.run.mode,
            principals=(self.victim.user.username,) if self.victim is not None else self.run.principals,
            moved=self._is_moved,
            events=tuple(events),
            induced=(),
        )

    @property
    def _is_moved(self) -> bool:
        return self.victim is not None and self.victim is not self.owner

    def _begin(self) -> int:
        """When it begins: while the victim is at work, so that its own actions lie around and between."""
        time = self.profiles.time
        span = int(time[-1] - time[0])
        first, last = int(time[0]) + _MARGIN * span, int(time[-1]) - _MARGIN * span
        active = time[self.victim.rows] if self.victim is not None else np.empty(0, np.int64)
        active = active[(active > first) & (active < last)]
        if not len(active):
            return int(self.rng.uniform(first, last))
        return int(active[self.rng.integers(len(active))]) + int(self.rng.integers(1, 1_000_000))

    def _session(self, victim: Profile, begin: int) -> Session:
        """Client and address: those of the victim's latest action, with new ones in their place as the mode wants."""
        times = self.profiles.time[victim.rows]
        latest = max(int(np.searchsorted(times, begin)) - 1, 0)
        agent, addresses = victim.sessions[latest]
        if self.mode in ("new-ip", "new-ip-and-ua"):
            known = {address for _, places in victim.sessions for address in places}
            addresses = _from_elsewhere(addresses, self._new_address(known))
        if self.mode in ("new-ua", "new-ip-and-ua"):
            agent = self._new_agent({agent for agent, _ in victim.sessions})
        return agent, addresses

    def _new_address(self, known: set[str]) -> str:
        while True:  # TEST-NET-2 and -3 of RFC 5737
            block = ("198.51.100", "203.0.113")[int(self.rng.integers(2))]
            address = f"{block}.{int(self.rng.integers(1, 255))}"
            if address not in known:
                return address

    def _new_agent(self, known: set[str]) -> str:
        """The run's own client if its victim does not use it, or that of some other principal of the log."""
        own = self.run.events[0].userAgent
        if "ua" in self.run.mode and own not in known:
            return own
        kind = self.victim.kind if self.victim is not None else ""
        others = {
            agent for one in self.profiles.by_name.values() if one.kind == kind for agent, _ in one.sessions
        }
        choice = sorted(others - known) or ["curl/7.68.0"]
        return choice[int(self.rng.integers(len(choice)))]

    def _dressed(self, event: AuditEvent) -> AuditEvent:
        """An event as the victim's."""
        assert self.owner is not None
        assert self.victim is not None
        ref, uri = event.objectRef, event.requestURI
        if ref is not None:
            namespace = self.moves.get(ref.namespace, ref.namespace)
            name = self._name(event, namespace)
            uri = _in_path(uri, {ref.namespace: namespace, ref.name: name})
            ref = replace(ref, namespace=namespace, name=name)
        notes = event.annotations
        if notes is not None:
            reason = _right(event, self.owner, self.victim, self.moves)
            notes = Annotations(notes.decision, notes.reason if reason is None else reason)
        return replace(
            event,
            user=self.victim.user,
            objectRef=ref,
            requestURI=uri,
            annotations=notes,
            requestObject=self._body(event.requestObject),
        )

    def _name(self, event: AuditEvent, namespace: str) -> str:
        """The object there that stands for the run's: as (un)familiar to the victim as that was to the owner."""
        ref = event.objectRef
        assert ref is not None
        if ref.resource == "namespaces":
            return self.moves.get(ref.name, ref.name)
        objects, kind = self.profiles.objects, kind_of(event)
        here = objects.get((kind, ref.namespace), {}).get(ref.name)
        if here is None or namespace == ref.namespace:  # the run made it itself, or it did not move
            return ref.name
        key = kind, ref.namespace, ref.name
        if key not in self.names:
            owner, victim = (profile.user.username for profile in (self.owner, self.victim) if profile)
            there = objects.get((kind, namespace), {})
            taken = set(self.names.values())
            alike = [name for name, by in sorted(there.items()) if (victim in by) == (owner in here)]
            choice = [name for name in alike if name not in taken] or alike or [ref.name]
            self.names[key] = choice[int(self.rng.integers(len(choice)))]
        return self.names[key]

    def _body(self, body: msgspec.Raw) -> msgspec.Raw:
        if not body:
            return body
        try:
            found = msgspec.json.decode(body)
        except msgspec.DecodeError:
            return body
        return msgspec.Raw(msgspec.json.encode(self._in_body(found)))

    def _in_body(self, value: Any) -> Any:
        """A body with the victim in place of the owner: as a user, as a service account, and in its namespaces."""
        assert self.owner is not None
        assert self.victim is not None
        owner, victim = self.owner.user.username, self.victim.user.username
        if isinstance(value, str):
            return victim if value == owner else value
        if isinstance(value, list):
            return [self._in_body(item) for item in value]
        if not isinstance(value, dict):
            return value
        made = {key: self._in_body(item) for key, item in value.items()}
        account = f"system:serviceaccount:{value.get('namespace')}:{value.get('name')}"
        if value.get("kind") == "ServiceAccount" and account == owner:
            _, _, made["namespace"], made["name"] = victim.split(":", 3)
        elif isinstance(value.get("namespace"), str):
            made["namespace"] = self.moves.get(value["namespace"], value["namespace"])
        return made


def _from_elsewhere(addresses: tuple[str, ...], address: str) -> tuple[str, ...]:
    """Addresses of a request that came from another place through the same proxies."""
    client = max(len(addresses) - 2, 0)
    return (*addresses[:client], address, *addresses[client + 1 :])


def _in_path(uri: str, renamed: Mapping[str, str]) -> str:
    path, mark, query = uri.partition("?")
    return "/".join(renamed.get(part, part) if part else part for part in path.split("/")) + mark + query
