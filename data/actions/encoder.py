"""Turns audit events into actions: a few categorical fields per request, as columns of interned codes.

This is the only encoding path: the dataset builder, the evaluation and the scoring service all call `ActionEncoder`.
Work that depends on a raw value alone (folding a name, reading a user agent) is done once per distinct value.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, lru_cache
from itertools import compress, count
from operator import attrgetter, itemgetter
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from data.actions.body_traits import has_traits
from data.actions.breadth import SPANS, Read, ReadTracker, is_followed
from data.actions.event_traits import event_traits, is_withheld
from data.actions.fields import (
    STATIC_FIELDS,
    binding_of,
    code_class,
    hour_of_week,
    non_resource_path,
    resource_name,
    stable_hash,
    uri_shape,
)
from data.actions.folding import fold_client, fold_name, place_of
from data.actions.stage_folding import StageFolder, event_times
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent, ObjectRef, Status
from data.paths import shipped
from data.principals.identity import Identity, Principal
from data.principals.ownership import WRITES, Link, OwnerTracker, has_owner, read_link, read_log_link
from data.timestamps import parse_times

_CONNECT = {"exec", "attach", "portforward"}
_QUERY_VALUE = re.compile("=[^&]*")
#: Entries of all memos together, and characters of the raw values among them, which a log can make long.
_MEMO_LIMIT, _MEMO_CHARACTERS = 100_000, 32 << 20
#: Queries that are kept, apart from that: nearly each watch has a new one, which made the memos grow by half a megabyte an hour.
_QUERIES = 4096
#: The same for values that have a code. Usual ones have 30 characters or so.
_INTERNED_LIMIT, _INTERNED_CHARACTERS = 2_000_000, 64 << 20
_PRINCIPALS_LIMIT = 100_000
#: Unique over all encoders, since a vocabulary may serve several in turn.
_GENERATIONS = count(1)

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ActionSettings:
    """Encoding choices that must be the same in training and serving; they travel in the bundle."""

    trusted_hops: int = 0  # proxies of one's own before the API server; a load balancer counts as one
    through_loopback: bool = True  # whether a peer on the API server's own machine is such a proxy
    drop_principals: tuple[str, ...] = ()  # whose events are left out (a load test, the detector itself)
    identity: Mapping[str, Any] = field(default_factory=dict)  # rules as in configs/identity.yaml

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any], *, strict: bool = True) -> ActionSettings:
        """Settings from YAML or JSON; an unknown key or a value of the wrong type raises KubehabitError.

        Without `strict`, for a dataset or a model made before, an identity rule that cannot be used is left out, with a warning.
        """
        known = [known.name for known in fields(cls)]
        if unknown := set(saved) - set(known):
            raise KubehabitError(f"Unknown encoding setting {sorted(unknown)}; known: {', '.join(known)}.")
        # What was saved without it was made when 1 was the default.
        hops = saved.get("trusted_hops", 0 if strict else 1)
        if not isinstance(hops, int) or isinstance(hops, bool) or hops < 0:
            raise KubehabitError(
                "trusted_hops must be a whole number from 0: the proxies before the API server."
            )
        identity = saved.get("identity", {})
        if isinstance(identity, str):  # the name of a file that ships with kubehabit
            identity = shipped(identity)
        if not isinstance(identity, Mapping):
            raise KubehabitError("identity must be a table of rules, as in configs/identity.yaml.")
        Identity(identity, strict=strict)
        through = saved.get("through_loopback", strict)
        if not isinstance(through, bool):
            raise KubehabitError("through_loopback must be true or false.")
        return cls(hops, through, tuple(saved.get("drop_principals", ())), dict(identity))

    def place(self, addresses: tuple[str, ...]) -> str:
        """The address that made a request with these `sourceIPs`."""
        return place_of(addresses, self.trusted_hops, through_loopback=self.through_loopback)

    @classmethod
    def shipped(cls, **changes: Any) -> ActionSettings:
        """Settings of `configs/actions.yaml`, with changes."""
        return cls.from_dict(shipped("actions.yaml") | changes)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "drop_principals": list(self.drop_principals)}


class Interner:
    """Distinct strings of one field as dense codes, with their stable hashes."""

    __slots__ = ("_hashes", "characters", "codes", "values")

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.values: list[str] = []
        self.characters = 0
        self._hashes = np.empty(0, np.uint64)

    def code(self, value: str) -> int:
        """Code of a value, new if need be."""
        found = self.codes.get(value)
        if found is None:
            found = self.codes[value] = len(self.values)
            self.values.append(value)
            self.characters += len(value)
        return found

    def hashes(self) -> npt.NDArray[np.uint64]:
        """Stable hash of every code so far, uint64 [codes]."""
        fresh = self.values[len(self._hashes) :]
        if fresh:
            self._hashes = np.append(self._hashes, np.array([*map(stable_hash, fresh)], np.uint64))
        return self._hashes


@dataclass(slots=True)
class ActionBatch:
    """Actions of one call as columns, in arrival order."""

    event: npt.NDArray[np.int64]  # [N], index of the event each action came from
    codes: dict[str, Codes]  # static field, and field of `breadth.SPANS` -> [N], interned values
    principal: Codes  # [N], index into `principals`
    time: npt.NDArray[np.int64]  # [N], when the request was received, microseconds since 1970 UTC
    principals: list[Principal]  # the encoder's table of identities; shared, only grows within a generation
    folded: npt.NDArray[
        np.int64
    ]  # [M], events that add nothing to a request already seen (a later stage, a repeat)
    dropped: npt.NDArray[np.int64]  # [K], events left out on purpose (`drop_principals`)
    #: (index of an action, what it says about ownership), for an encoder that does not join owners itself
    links: list[tuple[int, Link]] = field(default_factory=list)
    #: (index of an action, what a person read), for an encoder that does not count them itself
    reads: list[tuple[int, Read]] = field(default_factory=list)
    #: [R], removals, and reads of logs, of what the same principal created within the last day; not known without joined owners
    own_work: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.event)


def joined(batches: Sequence[ActionBatch]) -> ActionBatch:
    """One batch of one encoder's successive batches, one at least.

    It is without `event`, `folded`, `dropped`, `links`, `reads` and `own_work`.
    """
    none = np.empty(0, np.int64)
    return ActionBatch(
        event=np.arange(sum(map(len, batches))),
        codes={name: np.concatenate([batch.codes[name] for batch in batches]) for name in batches[0].codes},
        principal=np.concatenate([batch.principal for batch in batches]),
        time=np.concatenate([batch.time for batch in batches]),
        principals=batches[0].principals,
        folded=none,
        dropped=none,
    )


class _Rows:
    """Rows of codes by raw values: each distinct value is encoded once.

    Only a hash of the value is kept, with a key of this process: the value is ten times as large and would keep a page of its
    events in memory. With a full memory, two values collide in less than one of 10^9 processes.
    """

    __slots__ = ("_done", "_make", "_row_of", "_table", "rows")

    def __init__(self, width: int, make: Callable[[Any], tuple[int, ...]]) -> None:
        self._make = make
        self._row_of: dict[int, int] = {}
        self.rows: list[tuple[int, ...]] = []
        self._table = np.empty((64, width), np.int32)
        self._done = 0

    def __len__(self) -> int:
        return len(self.rows)

    def rows_of(self, values: Sequence[Any]) -> list[int]:
        """Row of each value."""
        known = self._row_of
        hashes = list(map(hash, values))
        found = list(map(known.get, hashes))
        if None not in found:
            return cast("list[int]", found)
        for place in [place for place, row in enumerate(found) if row is None]:
            key = hashes[place]
            if key not in known:
                made = self._make(values[place])  # if it raises, nothing is known of the value
                known[key] = len(self.rows)
                self.rows.append(made)
        return list(map(known.__getitem__, hashes))

    def columns(self, rows: Sequence[int]) -> Codes:
        """Rows as columns, int32 [width, rows]."""
        known = len(self.rows)
        if self._done < known:
            if len(self._table) < known:
                self._table = np.resize(self._table, (2 * known, self._table.shape[1]))
            self._table[self._done : known] = self.rows[self._done :]
            self._done = known
        return self._table.take(np.array(rows, np.int64), axis=0).T


@dataclass(slots=True)
class _Pending:
    """Actions that were added and not yet flushed, as rows of the memos."""

    seen: int = 0
    index: list[int] = field(default_factory=list)
    folded: list[int] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)
    outcomes: list[int] = field(default_factory=list)
    shapes: list[int] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    links: list[tuple[int, Link]] = field(default_factory=list)
    reads: list[tuple[int, Read]] = field(default_factory=list)
    #: Field -> (row, code) where it is not what most have.
    changes: defaultdict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))


_URI, _BODY = attrgetter("requestURI"), attrgetter("requestObject")
_OBJECT = attrgetter("objectRef")
_CONTEXT = attrgetter("cluster", "user", "sourceIPs", "userAgent", "annotations", "impersonatedUser")
_OUTCOME = attrgetter("verb", "responseStatus")
# What a row of `objectRef` says besides its codes.
_IS_OBJECT, _CONNECTS, _SHAPED, _HAS_TRAITS, _HAS_OWNER, _ODD, _IS_LOG = 1, 2, 4, 8, 16, 32, 64


def _flags(ref: ObjectRef) -> int:
    connects, shaped = ref.subresource in _CONNECT, ref.subresource in ("exec", "proxy")
    flags = _IS_OBJECT | connects * _CONNECTS | shaped * _SHAPED | (connects or shaped) * _ODD
    flags |= (ref.resource == "pods" and ref.subresource == "log") * (_IS_LOG | _ODD)
    return flags | has_traits(ref.resource, ref.subresource) * _HAS_TRAITS | has_owner(ref) * _HAS_OWNER


class ActionEncoder:
    """Turns events into actions. Keeps memos between calls, so one instance should live as long as its stream."""

    def __init__(
        self,
        settings: ActionSettings | None = None,
        *,
        join_owners: bool = True,
        folder: StageFolder | None = None,
    ) -> None:
        """Without `join_owners`, `owner` stays "-" and batches carry `links` for `OwnerTracker.join`, in the order of the log.

        So do the fields of `breadth.SPANS`, and batches carry `reads` for `ReadTracker.follow`.

        `folder` is the memory of requests; a new one by default.
        """
        self.settings = settings or ActionSettings()
        self.folder = StageFolder() if folder is None else folder
        self.identity = Identity(self.settings.identity, strict=False)
        self.owners = OwnerTracker() if join_owners else None
        self.reads = ReadTracker() if join_owners else None
        self._forget_values()

    def restore(self, folder: StageFolder, owners: OwnerTracker | None, reads: ReadTracker | None) -> None:
        """Continue with the memory of requests, and of owners and reads if they are followed here, of another encoder."""
        self.folder = folder
        if self.reads is not None and reads is not None:
            self.reads = reads
        if self.owners is not None and owners is not None:
            self.owners = owners

    def _forget_values(self) -> None:
        """Restart all codes; a new `generation` says so to holders of code tables."""
        self.generation = next(_GENERATIONS)
        self.interners = {field: Interner() for field in (*STATIC_FIELDS, *SPANS)}
        for interner in self.interners.values():
            interner.code("-")
        self.principals: list[Principal] = []
        self._principal_codes: dict[Principal, int] = {}
        self._principal_characters = 0
        self._forget_memos()

    def _forget_memos(self) -> None:
        """Drop the memory of raw values; codes stay valid."""
        intern = self.interners
        self._kinds: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._memo_characters = 0
        self._path = self._memo(lambda path: intern["resource"].code(non_resource_path(path)))
        self._name = self._memo(lambda name: intern["name"].code(fold_name(name)))
        self._uri = self._memo(lambda uri, subresource: intern["uri"].code(uri_shape(uri, subresource)))
        # Outside proxies and exec only the keys make the shape. The values of watches are new each time: few queries are kept.
        self._query = lru_cache(_QUERIES)(lambda query: self._uri(_QUERY_VALUE.sub("=", query), ""))
        self._principal = self._memo(self._new_principal)
        self._contexts = _Rows(6, self._context)
        self._objects = _Rows(4, self._object)
        self._outcomes = _Rows(4, self._outcome)
        self._flags_of: list[int] = []  # of each row of `_objects`
        self._no_shape = intern["uri"].code("-")
        self._pending = _Pending()

    def _memo(self, make: Callable[..., int]) -> Any:
        """Codes by raw value; each is computed once, and its characters are counted."""

        def compute(*key: Any) -> int:
            for part in key:  # a comprehension would double what this costs
                self._memo_characters += len(part) if isinstance(part, str) else sum(map(len, part))
            return make(*key)

        return cache(compute)

    def _context(self, key: tuple[Any, ...]) -> tuple[int, ...]:
        """Principal, client, place, binding and impersonates of a caller, and whether it is a person."""
        cluster, user, addresses, agent, notes, other = key
        intern = self.interners
        actor = self.identity.actor(user, other, notes)
        # The sender of a refused log-in is not the one it claims to be: its address and client must not become habits of theirs.
        client, place = "-", "-"
        if not actor.refused:
            client, place = fold_client(agent), self.settings.place(addresses)
        binding = "denied" if actor.refused else "-"
        if notes is not None and not actor.refused:
            binding = binding_of(notes.decision, notes.reason)
        principal = self._principal(cluster, actor.username, actor.groups)
        return (
            principal,
            intern["client"].code(client),
            intern["place"].code(place),
            intern["binding"].code(binding),
            intern["impersonates"].code(self.identity.fold(actor.acts_as) if actor.acts_as else "-"),
            self.principals[principal].kind == "human",
        )

    def _object(self, ref: ObjectRef | None) -> tuple[int, ...]:
        """Resource, namespace and name of what a request was about, and what else there may be to it."""
        intern = self.interners
        if ref is None or not ref.resource:  # the path stands for the resource
            return -1, intern["namespace"].code("-"), intern["name"].code("-"), _ODD
        kind = ref.apiGroup, ref.resource, ref.subresource
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = intern["resource"].code(resource_name(*kind)), _flags(ref)
        return known[0], intern["namespace"].code(ref.namespace or "-"), self._name(ref.name), known[1]

    def _outcome(self, key: tuple[str, Status | None]) -> tuple[int, ...]:
        """Verb and code of a request, whether it writes, and whether it reads one object."""
        verb, status = key
        code = code_class(0 if status is None else status.code)
        return (
            self.interners["verb"].code(verb),
            self.interners["code"].code(code),
            verb in WRITES,
            verb == "get",
        )

    def _keep_bounded(self) -> None:
        interned = sum(len(interner.values) for interner in self.interners.values())
        characters = self._principal_characters + sum(
            interner.characters for interner in self.interners.values()
        )
        if (
            interned > _INTERNED_LIMIT
            or characters > _INTERNED_CHARACTERS
            or len(self.principals) > _PRINCIPALS_LIMIT
        ):
            self._forget_values()
        caches = (self._principal, self._name, self._path, self._uri, self._query)
        memos: tuple[Sized, ...] = (self._contexts, self._objects, self._outcomes, self._kinds)
        entries = sum(memo.cache_info().currsize for memo in caches) + sum(map(len, memos))
        if entries > _MEMO_LIMIT or self._memo_characters > _MEMO_CHARACTERS:
            self._forget_memos()

    def checkpoint(self) -> Callable[[], None]:
        """Returns what forgets all events encoded from now on; to be called before the next checkpoint, if at all.

        Codes stay: they are only names of values.
        """
        steps = [self.folder.checkpoint()]
        if self.owners is not None:
            steps.append(self.owners.checkpoint())
        if self.reads is not None:
            steps.append(self.reads.checkpoint())

        def undo() -> None:
            self._pending = _Pending()
            for step in steps:
                step()

        return undo

    def encode(self, events: Sequence[AuditEvent]) -> ActionBatch:
        """One action per request, at the first event that has its outcome.

        Events come in arrival order; the stages of a request may be spread over calls.
        """
        self.append(events)
        return self.flush()

    def append(self, events: Sequence[AuditEvent]) -> Sequence[AuditEvent]:
        """Buffer events for `flush`; returns those that become actions.

        What events share (caller and origin, object, outcome) is looked up whole and without a loop in Python; only the few that
        need more are looked at one by one. Only codes and times of an event are kept, so a log is read fastest in blocks that fit
        into a processor's cache, and flushed in larger ones.
        """
        pending = self._pending
        if not pending.seen:
            self._keep_bounded()
            pending = self._pending
        kept = self._sort_out(events)
        begin = len(pending.objects)
        objects = self._objects.rows_of(list(map(_OBJECT, kept)))
        contexts = self._contexts.rows_of(list(map(_CONTEXT, kept)))
        outcomes = self._outcomes.rows_of(list(map(_OUTCOME, kept)))
        dash, query = self._no_shape, self._query
        pending.shapes += [query(uri[uri.index("?") :]) if "?" in uri else dash for uri in map(_URI, kept)]
        about, flags_of = self._objects.rows, self._flags_of
        flags_of += [row[3] for row in about[len(flags_of) :]]
        flags = [flags_of[row] for row in objects]
        odd = [row for row, flag in enumerate(flags) if flag & _ODD]
        for row in odd:
            self._add_odd(kept[row], begin + row, flags[row])
        for row in [row for row, body in enumerate(map(_BODY, kept)) if body]:
            if flags[row] & _HAS_TRAITS:
                self._add_body(kept[row], begin + row)
        results, callers, principals = self._outcomes.rows, self._contexts.rows, self.principals
        found: list[tuple[int, Link | None]] = []
        for row in [row for row in odd if flags[row] & _IS_LOG]:
            found.append((begin + row, read_log_link(kept[row], principals[callers[contexts[row]][0]])))
        logs = len(found)
        for row in [row for row, outcome in enumerate(outcomes) if results[outcome][2]]:
            if flags[row] & _HAS_TRAITS and not kept[row].requestObject and is_withheld(kept[row]):
                self._add_body(kept[row], begin + row)
            if flags[row] & _HAS_OWNER:
                found.append((begin + row, read_link(kept[row], principals[callers[contexts[row]][0]])))
        links = [(row, link) for row, link in found if link is not None]
        pending.links += sorted(links, key=itemgetter(0)) if logs else links
        for row in [row for row, context in enumerate(contexts) if callers[context][5]]:
            if flags[row] & _IS_OBJECT and (results[outcomes[row]][3] or flags[row] & _CONNECTS):
                self._add_read(kept[row], begin + row, flags[row], principals[callers[contexts[row]][0]])
        pending.objects += objects
        pending.contexts += contexts
        pending.outcomes += outcomes
        return kept

    def flush(self) -> ActionBatch:
        """The actions of all events buffered since the last call."""
        pending, self._pending = self._pending, _Pending()
        time = parse_times(pending.times)
        principal, *context, _ = self._contexts.columns(pending.contexts)
        columns = {
            **dict(zip(("client", "place", "binding", "impersonates"), context, strict=True)),
            **dict(
                zip(("resource", "namespace", "name"), self._objects.columns(pending.objects), strict=False)
            ),
            **dict(zip(("verb", "code"), self._outcomes.columns(pending.outcomes), strict=False)),
            "uri": np.array(pending.shapes, np.int32),
            "hour": self._hours(time),
        }
        for name in ("traits", "images", "owner", *SPANS):  # what most have: nothing
            columns[name] = np.full(len(time), self.interners[name].code("-"), np.int32)
        own_work: list[int] = []
        if self.owners is not None and pending.links:
            for row, owner in self.owners.join(pending.links):
                columns["owner"][row] = self.interners["owner"].code(owner)
            own_work = self.owners.own_work(pending.links, time)
        if self.reads is not None:
            for row, read in pending.reads:
                for name, value in zip(SPANS, self.reads.follow(read, int(time[row])), strict=True):
                    columns[name][row] = self.interners[name].code(value)
        for name, changes in pending.changes.items():
            rows, codes = zip(*changes, strict=True)
            columns[name][list(rows)] = codes
        return ActionBatch(
            event=np.array(pending.index, np.int64),
            codes={name: columns[name] for name in (*STATIC_FIELDS, *SPANS)},
            principal=principal,
            time=time,
            principals=self.principals,
            folded=np.array(pending.folded, np.int64),
            dropped=np.array(pending.dropped, np.int64),
            links=pending.links if self.owners is None else [],
            reads=pending.reads if self.reads is None else [],
            own_work=own_work,
        )

    def _sort_out(self, events: Sequence[AuditEvent]) -> Sequence[AuditEvent]:
        """The events that become actions; notes the places of these, the folded and the dropped."""
        drop, pending = self.settings.drop_principals, self._pending
        places: Sequence[int] = range(pending.seen, pending.seen + len(events))
        pending.seen += len(events)
        if drop:
            stays = [event.user.username not in drop for event in events]
            pending.dropped += [place for place, stay in zip(places, stays, strict=True) if not stay]
            places, events = list(compress(places, stays)), list(compress(events, stays))
        times = event_times(events)
        first = self.folder.first(events, times)
        if all(first):
            pending.index += places
            pending.times += times
            return events
        pending.index += compress(places, first)
        pending.times += compress(times, first)
        pending.folded += [place for place, is_first in zip(places, first, strict=True) if not is_first]
        return list(compress(events, first))

    def _add_odd(self, event: AuditEvent, row: int, flags: int) -> None:
        """Requests that are not plainly for an object: paths, exec and the like, proxies."""
        changes, uri = self._pending.changes, event.requestURI
        if not flags & _IS_OBJECT:
            changes["resource"].append((row, self._path(uri.partition("?")[0])))
            changes["uri"].append((row, self._no_shape))  # the path stands for the resource already
            notes = event.annotations
            is_login = notes is not None and notes.login is not None
            if is_login and self.identity.actor(event.user, event.impersonatedUser, notes).refused:
                changes["code"].append((row, self.interners["code"].code("401")))
            return
        if flags & _CONNECTS:
            changes["verb"].append((row, self.interners["verb"].code("connect")))
        if flags & _SHAPED and event.objectRef is not None:
            subresource = event.objectRef.subresource
            # Only the part that the shape depends on is the key: object names would make every URI distinct.
            if subresource == "proxy":
                changes["uri"].append((row, self._uri(uri, subresource)))
            elif "?" in uri:
                changes["uri"].append((row, self._uri(uri[uri.index("?") :], subresource)))

    def _add_read(self, event: AuditEvent, row: int, flags: int, reader: Principal) -> None:
        ref = event.objectRef
        if ref is not None and ref.name:
            resource = resource_name(ref.apiGroup, ref.resource, ref.subresource)
            if is_followed(resource):
                verb = "connect" if flags & _CONNECTS else event.verb
                which = stable_hash(f"{ref.namespace}/{ref.name}")
                self._pending.reads.append((row, Read(reader.name, verb, resource, which)))

    def _add_body(self, event: AuditEvent, row: int) -> None:
        actor = event.user.username
        if event.impersonatedUser is not None:  # through a proxy, a person grants rights to herself
            actor = self.identity.actor(event.user, event.impersonatedUser).username
        found = event_traits(event, actor)
        for name, text in zip(("traits", "images"), found, strict=True):
            if text != "-":
                self._pending.changes[name].append((row, self.interners[name].code(text)))

    def _new_principal(self, cluster: str, username: str, groups: tuple[str, ...]) -> int:
        principal = self.identity.principal(username, groups)
        if cluster:  # the same name in another cluster is another principal
            principal = replace(
                principal,
                name=f"{cluster}/{principal.name}",
                groups=tuple(f"{group}@{cluster}" for group in principal.groups[:-1]) + principal.groups[-1:],
            )
        code = self._principal_codes.get(principal)
        if code is None:
            code = self._principal_codes[principal] = len(self.principals)
            self.principals.append(principal)
            self._principal_characters += len(principal.name) + sum(map(len, principal.groups))
        return code

    def _hours(self, time: npt.NDArray[np.int64]) -> Codes:
        """Codes of `weekday 09` / `weekend 23`, UTC."""
        slots = hour_of_week(time)
        intern = self.interners["hour"]
        table = np.zeros(48, np.int32)
        for slot in np.bincount(slots, minlength=48).nonzero()[0].tolist():
            table[slot] = intern.code(f"{'weekend' if slot >= 24 else 'weekday'} {slot % 24:02d}")
        return table[slots]
