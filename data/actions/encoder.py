"""Audit events -> actions: a few categorical fields per request, as columns of interned codes.

This is the only encoding path: the dataset builder, the evaluation and the scoring service all call `ActionEncoder`.
Work that depends on a raw value alone (folding a name, reading a user agent) is done once per distinct value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from itertools import compress, count
from operator import attrgetter
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from data.actions.body_traits import has_traits, read_traits
from data.actions.fields import (
    STATIC_FIELDS,
    binding_of,
    code_class,
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
from data.principals.ownership import NOBODY, WRITES, Link, OwnerTracker, has_owner, read_link
from data.timestamps import parse_times

_CONNECT = {"exec", "attach", "portforward"}
_QUERY_VALUE = re.compile("=[^&]*")
_MEMO_LIMIT = 100_000
_INTERNED_LIMIT = 2_000_000
_PRINCIPALS_LIMIT = 100_000
#: Unique over all encoders, since a vocabulary may serve several in turn.
_GENERATIONS = count(1)

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ActionSettings:
    """Encoding choices that must be the same in training and serving; they travel in the bundle.

    Attributes:
        trusted_hops: proxies of one's own between the clients and the API server (a load balancer counts as one).
        drop_principals: identities whose events are left out altogether (a load test, the detector itself).
        identity: rules that fold user names to principals (`configs/identity.yaml`); nothing is folded without.
    """

    trusted_hops: int = 1
    drop_principals: tuple[str, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> ActionSettings:
        """Settings from YAML or JSON.

        Raises:
            KubehabitError: an unknown key, or a value of the wrong type.
        """
        unknown = set(saved) - {"trusted_hops", "drop_principals", "identity"}
        if unknown:
            raise KubehabitError(
                f"Unknown encoding setting {sorted(unknown)}; known: trusted_hops, drop_principals, identity."
            )
        hops = saved.get("trusted_hops", 1)
        if not isinstance(hops, int) or hops < 0:
            raise KubehabitError(
                "trusted_hops must be a whole number from 0: the proxies before the API server."
            )
        identity = saved.get("identity", {})
        if isinstance(identity, str):  # the name of a file that ships with kubehabit
            identity = shipped(identity)
        if not isinstance(identity, Mapping):
            raise KubehabitError("identity must be a table of rules, as in configs/identity.yaml.")
        Identity(identity)
        return cls(hops, tuple(saved.get("drop_principals", ())), dict(identity))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "trusted_hops": self.trusted_hops,
            "drop_principals": list(self.drop_principals),
            "identity": dict(self.identity),
        }


class Interner:
    """Distinct strings of one field as dense codes, with their stable hashes."""

    __slots__ = ("_hash_array", "_hashes", "codes", "values")

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.values: list[str] = []
        self._hashes: list[int] = []
        self._hash_array = np.empty(0, np.uint64)

    def code(self, value: str) -> int:
        """Code of a value, new if need be."""
        found = self.codes.get(value)
        if found is None:
            found = self.codes[value] = len(self.values)
            self.values.append(value)
            self._hashes.append(stable_hash(value))
        return found

    def hashes(self) -> npt.NDArray[np.uint64]:
        """Stable hash of every code so far, uint64 [codes]."""
        if len(self._hash_array) != len(self._hashes):
            self._hash_array = np.array(self._hashes, np.uint64)
        return self._hash_array


@dataclass(slots=True)
class ActionBatch:
    """Actions of one call as columns, in arrival order.

    Attributes:
        event: int64 [N], index of the event each action came from.
        codes: field -> int32 [N], interned value of each static field.
        principal: int32 [N], index into `principals`.
        time: int64 [N], when the request was received, microseconds since 1970 UTC.
        principals: the encoder's table of identities (shared, only grows within a generation).
        folded: int64 [M], events that add nothing to a request already seen (a later stage, a repeat).
        dropped: int64 [K], events left out on purpose (`drop_principals`).
        links: (index of an action, what it says about ownership), for an encoder that does not join owners itself.
    """

    event: npt.NDArray[np.int64]
    codes: dict[str, Codes]
    principal: Codes
    time: npt.NDArray[np.int64]
    principals: list[Principal]
    folded: npt.NDArray[np.int64]
    dropped: npt.NDArray[np.int64]
    links: list[tuple[int, Link]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.event)


def joined(batches: Sequence[ActionBatch]) -> ActionBatch:
    """One batch of one encoder's successive batches, one at least; without `event`, `folded`, `dropped` and `links`."""
    return ActionBatch(
        event=np.arange(sum(map(len, batches))),
        codes={
            field: np.concatenate([batch.codes[field] for batch in batches]) for field in batches[0].codes
        },
        principal=np.concatenate([batch.principal for batch in batches]),
        time=np.concatenate([batch.time for batch in batches]),
        principals=batches[0].principals,
        folded=np.empty(0, np.int64),
        dropped=np.empty(0, np.int64),
    )


class _Memo(dict[Any, int]):
    """Codes by raw value; a missing one is computed once."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[Any], int]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: Any) -> int:
        code = self[key] = self._make(key)
        return code


class _Rows:
    """Rows of codes by raw values: each distinct value is encoded once.

    Only a hash of the value is kept, with a key of this process: the value is ten times as large and would keep a page of the
    events it came with in memory. With a full memory, two values collide in less than one of 10^9 processes.
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

    def of(self, values: Sequence[Any]) -> list[int]:
        """Row of each value."""
        known = self._row_of
        hashes = list(map(hash, values))
        found = list(map(known.get, hashes))
        if None in found:
            for place, row in enumerate(found):
                if row is not None:
                    continue
                row = known.get(hashes[place])
                if row is None:
                    made = self._make(values[place])  # if it raises, nothing is known of the value
                    row = known[hashes[place]] = len(self.rows)
                    self.rows.append(made)
                found[place] = row
        return cast(list[int], found)

    def columns(self, rows: Sequence[int]) -> Codes:
        """Rows as columns, int32 [width, rows]."""
        known = len(self.rows)
        if self._done < known:
            if len(self._table) < known:
                self._table = np.resize(self._table, (2 * known, self._table.shape[1]))
            self._table[self._done : known] = self.rows[self._done :]
            self._done = known
        return self._table.take(np.array(rows, np.int64), axis=0).T


class _Pending:
    """Actions that were added and not yet taken, as rows of the memos."""

    __slots__ = (
        *("changes", "contexts", "deeds", "dropped", "folded", "index", "links", "objects", "seen"),
        *("shapes", "times"),
    )

    def __init__(self) -> None:
        self.seen = 0
        self.index: list[int] = []
        self.folded: list[int] = []
        self.dropped: list[int] = []
        self.objects: list[int] = []
        self.contexts: list[int] = []
        self.deeds: list[int] = []
        self.shapes: list[int] = []
        self.times: list[str] = []
        self.links: list[tuple[int, Link]] = []
        # Field -> (row, code) where it is not what most have.
        self.changes: dict[str, list[tuple[int, int]]] = {
            field: [] for field in ("verb", "resource", "traits", "images", "uri")
        }


_URI, _BODY = attrgetter("requestURI"), attrgetter("requestObject")
_OBJECT = attrgetter("objectRef")
_CONTEXT = attrgetter("cluster", "user", "sourceIPs", "userAgent", "annotations", "impersonatedUser")
_DEED = attrgetter("verb", "responseStatus")
# What a row of `objectRef` says besides its codes.
_IS_OBJECT, _CONNECTS, _SHAPED, _HAS_TRAITS, _HAS_OWNER, _ODD = 1, 2, 4, 8, 16, 32


def _flags(ref: ObjectRef) -> int:
    connects, shaped = ref.subresource in _CONNECT, ref.subresource in ("exec", "proxy")
    return (
        _IS_OBJECT
        | (_CONNECTS if connects else 0)
        | (_SHAPED if shaped else 0)
        | (_ODD if connects or shaped else 0)
        | (_HAS_TRAITS if has_traits(ref.resource, ref.subresource) else 0)
        | (_HAS_OWNER if has_owner(ref) else 0)
    )


class ActionEncoder:
    """Turns events into actions. Keeps memos between calls, so one instance should live as long as its stream."""

    def __init__(
        self,
        settings: ActionSettings | None = None,
        *,
        join_owners: bool = True,
        folder: StageFolder | None = None,
    ) -> None:
        """Start an encoder.

        Args:
            settings: encoding choices.
            join_owners: whether to follow ownership as the events come. Without, `owner` stays "-" and batches carry `links`, for
                `OwnerTracker.join` to follow in the order of the whole log.
            folder: memory of requests; a new one by default.
        """
        self.settings = settings or ActionSettings()
        self.folder = StageFolder() if folder is None else folder
        self.identity = Identity(self.settings.identity)
        self.owners = OwnerTracker() if join_owners else None
        self._forget_values()

    def restore(self, folder: StageFolder, owners: OwnerTracker | None) -> None:
        """Continue with the memory of requests, and of owners if they are followed here, of another encoder."""
        self.folder = folder
        if self.owners is not None and owners is not None:
            self.owners = owners

    def _forget_values(self) -> None:
        """Restart all codes; a new `generation` says so to holders of code tables."""
        self.generation = next(_GENERATIONS)
        self.interners = {field: Interner() for field in STATIC_FIELDS}
        for interner in self.interners.values():
            interner.code("-")
        self.principals: list[Principal] = []
        self._principal_codes: dict[Principal, int] = {}
        self._forget_memos()

    def _forget_memos(self) -> None:
        """Drop the memory of raw values; codes stay valid."""
        intern = self.interners
        self._kinds: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._path = _Memo(lambda path: intern["resource"].code(non_resource_path(path)))
        self._name = _Memo(lambda name: intern["name"].code(fold_name(name)))
        self._uri = _Memo(lambda key: intern["uri"].code(uri_shape(*key)))
        # Outside proxies and exec only the keys make the shape; the values of watches are new each time.
        self._keys = _Memo(lambda keys: intern["uri"].code(uri_shape(keys, "")))
        self._query = _Memo(lambda query: self._keys[_QUERY_VALUE.sub("=", query)])
        self._principal = _Memo(self._new_principal)
        self._contexts = _Rows(5, self._context)
        self._objects = _Rows(4, self._object)
        self._deeds = _Rows(3, self._deed)
        self._flags_of: list[int] = []  # of each row of `_objects`
        self._no_shape = intern["uri"].code("-")
        self._pending = _Pending()

    def _context(self, key: tuple[Any, ...]) -> tuple[int, ...]:
        """Principal, client, place, binding and impersonates of a caller."""
        cluster, user, addresses, agent, notes, other = key
        intern = self.interners
        return (
            self._principal[cluster, user.username, user.groups],
            intern["client"].code(fold_client(agent)),
            intern["place"].code(place_of(addresses, self.settings.trusted_hops)),
            intern["binding"].code("-" if notes is None else binding_of(notes.decision, notes.reason)),
            intern["impersonates"].code(
                "-" if other is None else self.identity.fold(other.username or "system:anonymous")
            ),
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
        return known[0], intern["namespace"].code(ref.namespace or "-"), self._name[ref.name], known[1]

    def _deed(self, key: tuple[str, Status | None]) -> tuple[int, ...]:
        """Verb and code of a request, and whether it writes."""
        verb, status = key
        code = code_class(0 if status is None else status.code)
        return self.interners["verb"].code(verb), self.interners["code"].code(code), verb in WRITES

    def _keep_bounded(self) -> None:
        interned = sum(len(interner.values) for interner in self.interners.values())
        if interned > _INTERNED_LIMIT or len(self.principals) > _PRINCIPALS_LIMIT:
            self._forget_values()
        memos: tuple[Sized, ...] = (
            *(self._principal, self._name, self._path, self._uri, self._query, self._keys),
            *(self._contexts, self._objects, self._deeds, self._kinds),
        )
        if sum(len(memo) for memo in memos) > _MEMO_LIMIT:
            self._forget_memos()

    def checkpoint(self) -> Callable[[], None]:
        """Returns what forgets all events encoded from now on; to be called before the next checkpoint, if at all.

        Codes stay: they are only names of values.
        """
        steps = [self.folder.checkpoint()]
        if self.owners is not None:
            steps.append(self.owners.checkpoint())

        def undo() -> None:
            self._pending = _Pending()
            for step in steps:
                step()

        return undo

    def encode(self, events: Sequence[AuditEvent]) -> ActionBatch:
        """Encode events in arrival order; the stages of a request may be spread over calls.

        Returns:
            One action per request, at the first event that has its outcome.
        """
        self.add(events)
        return self.take()

    def add(self, events: Sequence[AuditEvent]) -> Sequence[AuditEvent]:
        """Buffer events; `take` returns everything buffered since its last call.

        What events share (caller and origin, object, outcome) is looked up whole and without a loop in Python; only the few that
        need more are looked at one by one. Only codes and times of an event are kept, so a log is read fastest in blocks that fit
        into a processor's cache, and taken in larger ones.

        Returns:
            The events that become actions.
        """
        pending = self._pending
        if not pending.seen:
            self._keep_bounded()
            pending = self._pending
        kept = self._sort_out(events)
        begin = len(pending.objects)
        objects = self._objects.of(list(map(_OBJECT, kept)))
        contexts = self._contexts.of(list(map(_CONTEXT, kept)))
        deeds = self._deeds.of(list(map(_DEED, kept)))
        dash, query = self._no_shape, self._query
        pending.shapes += [query[uri[uri.index("?") :]] if "?" in uri else dash for uri in map(_URI, kept)]
        about, flags_of = self._objects.rows, self._flags_of
        flags_of += [row[3] for row in about[len(flags_of) :]]
        flags = [flags_of[row] for row in objects]
        for row in [row for row, flag in enumerate(flags) if flag & _ODD]:
            self._add_odd(kept[row], begin + row, flags[row])
        for row in [row for row, body in enumerate(map(_BODY, kept)) if body]:
            if flags[row] & _HAS_TRAITS:
                self._add_body(kept[row], begin + row)
        doings, callers, principals = self._deeds.rows, self._contexts.rows, self.principals
        for row in [row for row, deed in enumerate(deeds) if doings[deed][2]]:
            if flags[row] & _HAS_OWNER:
                link = read_link(kept[row], principals[callers[contexts[row]][0]])
                if link is not None:
                    pending.links.append((begin + row, link))
        pending.objects += objects
        pending.contexts += contexts
        pending.deeds += deeds
        return kept

    def take(self) -> ActionBatch:
        """The actions of all events added since the last call."""
        pending, self._pending = self._pending, _Pending()
        size = len(pending.objects)
        who, client, place, binding, impersonates = self._contexts.columns(pending.contexts)
        resource, namespace, name, _ = self._objects.columns(pending.objects)
        verb, code, _ = self._deeds.columns(pending.deeds)
        intern = self.interners
        columns = {
            "verb": verb,
            "resource": resource,
            "traits": np.full(size, intern["traits"].code("-"), np.int32),
            "images": np.full(size, intern["images"].code("-"), np.int32),
            "uri": np.array(pending.shapes, np.int32),
            "owner": np.full(size, intern["owner"].code(NOBODY), np.int32),
        }
        if self.owners is not None:
            for row, owner in self.owners.join(pending.links):
                columns["owner"][row] = intern["owner"].code(owner)
        for changed, changes in pending.changes.items():
            if changes:
                rows, codes = zip(*changes, strict=True)
                columns[changed][list(rows)] = codes
        time = parse_times(pending.times)
        columns |= {
            "namespace": namespace,
            "name": name,
            "code": code,
            "client": client,
            "place": place,
            "binding": binding,
            "impersonates": impersonates,
            "hour": self._hours(time),
        }
        return ActionBatch(
            event=np.array(pending.index, np.int64),
            codes={field: columns[field] for field in STATIC_FIELDS},
            principal=who,
            time=time,
            principals=self.principals,
            folded=np.array(pending.folded, np.int64),
            dropped=np.array(pending.dropped, np.int64),
            links=pending.links if self.owners is None else [],
        )

    def _sort_out(self, events: Sequence[AuditEvent]) -> Sequence[AuditEvent]:
        """The events that become actions; notes the places of these, the folded and the dropped."""
        drop, pending = self.settings.drop_principals, self._pending
        asked: Sequence[int] = range(pending.seen, pending.seen + len(events))
        pending.seen += len(events)
        if drop:
            stays = [event.user.username not in drop for event in events]
            pending.dropped += [place for place, stay in zip(asked, stays, strict=True) if not stay]
            asked, events = list(compress(asked, stays)), list(compress(events, stays))
        times = event_times(events)
        first = self.folder.first(events, times)
        if all(first):
            pending.index += asked
            pending.times += times
            return events
        pending.index += compress(asked, first)
        pending.times += compress(times, first)
        pending.folded += [place for place, is_first in zip(asked, first, strict=True) if not is_first]
        return list(compress(events, first))

    def _add_odd(self, event: AuditEvent, row: int, flags: int) -> None:
        """Requests that are not plainly for an object: paths, exec and the like, proxies."""
        changes, uri = self._pending.changes, event.requestURI
        if not flags & _IS_OBJECT:
            changes["resource"].append((row, self._path[uri.partition("?")[0]]))
            changes["uri"].append((row, self._no_shape))  # the path stands for the resource already
            return
        if flags & _CONNECTS:
            changes["verb"].append((row, self.interners["verb"].code("connect")))
        if flags & _SHAPED and event.objectRef is not None:
            subresource = event.objectRef.subresource
            # Only the part that the shape depends on is the key: object names would make every URI distinct.
            if subresource == "proxy":
                changes["uri"].append((row, self._uri[uri, subresource]))
            elif "?" in uri:
                changes["uri"].append((row, self._uri[uri[uri.index("?") :], subresource]))

    def _add_body(self, event: AuditEvent, row: int) -> None:
        ref = event.objectRef
        assert ref is not None
        traits, images = read_traits(
            event.verb, ref.resource, ref.subresource, event.user.username, event.requestObject
        )
        if traits != "-":
            self._pending.changes["traits"].append((row, self.interners["traits"].code(traits)))
        if images != "-":
            self._pending.changes["images"].append((row, self.interners["images"].code(images)))

    def _new_principal(self, key: tuple[str, str, tuple[str, ...]]) -> int:
        cluster, username, groups = key
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
        return code

    def _hours(self, time: npt.NDArray[np.int64]) -> Codes:
        """Codes of `weekday 09` / `weekend 23`, UTC."""
        hours = time // 3_600_000_000
        weekend = ((hours // 24 + 3) % 7) >= 5
        slots = (hours % 24 + 24 * weekend).astype(np.int64)
        intern = self.interners["hour"]
        table = np.zeros(48, np.int32)
        for slot in np.bincount(slots, minlength=48).nonzero()[0].tolist():
            table[slot] = intern.code(f"{'weekend' if slot >= 24 else 'weekday'} {slot % 24:02d}")
        return table[slots]
