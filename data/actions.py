"""Audit events -> actions: a few categorical fields per request, as columns of interned codes.

This is the only encoding path: the dataset builder, the evaluation and the scoring service all call `ActionEncoder`.
Work that depends on a raw value alone (folding a name, reading a user agent) is done once per distinct value.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from data.errors import KubehabitError
from data.events import AuditEvent, ObjectRef
from data.names import fold_client, fold_name, place_of
from data.owners import NOBODY, WRITES, Link, OwnerTracker, read_link
from data.principals import Identity, Principal
from data.shipped import shipped
from data.traits import read_traits

FIELDS: tuple[str, ...] = (
    "verb",  # what was done; exec, attach and port-forward are `connect` whichever verb the client used
    "resource",  # group/resource/subresource, or the path of a request outside the resource API
    "namespace",
    "name",  # object name, folded
    "code",  # class of the answer
    "client",  # user-agent family, version step, system
    "place",  # address, seen through the trusted proxies
    "binding",  # the RBAC binding that allowed it
    "impersonates",  # effective identity, if not the caller's own
    "traits",  # what in the body matters
    "images",  # repositories of the images in the body
    "uri",  # shape of the query, or the path behind a proxy
    "owner",  # for whom a controller acts: who last wrote what its object belongs to
    "hour",  # hour of day and weekday or weekend; only used when training data spans days
    "gap",  # time since the principal's previous action, set by the sequence, not by the event
)
STATIC_FIELDS = FIELDS[:-1]
GAPS = ("first", "<10ms", "<100ms", "<1s", "<10s", "<1m", "<10m", "<1h", "<8h", ">=8h")
_GAP_EDGES = np.array(
    [10_000, 100_000, 1_000_000, 10_000_000, 60_000_000, 600_000_000, 3_600_000_000, 28_800_000_000]
)

_CONNECT = {"exec", "attach", "portforward"}
_QUERY_NOISE = {
    "timeout",
    "timeoutSeconds",
    "resourceVersion",
    "allowWatchBookmarks",
    "watch",
    "pretty",
    "resourceVersionMatch",
}
_DECISION, _REASON = "authorization.k8s.io/decision", "authorization.k8s.io/reason"
_BY = re.compile(r'by (ClusterRoleBinding|RoleBinding) "([^"]*)"')
_FIRST_ARGUMENT = re.compile(r"[?&]command=([^&]*)")
_PROXY_DEPTH = 4
_MEMO_LIMIT = 200_000
_INTERNED_LIMIT = 2_000_000

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


def stable_hash(text: str) -> int:
    """64-bit hash that is the same in every process (Python's own is salted)."""
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


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
        folded: int64 [M], events that told nothing new about a request already seen (a later stage, a repeat).
        dropped: int64 [K], events left out on purpose (`drop_principals`).
        links: (index of an action, what it tells about ownership), for an encoder that does not join owners itself.
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


class StageFolder:
    """Makes one action of the stages of one request, and recognises repeats.

    A request is identified by what the server alone sets (`requestReceivedTimestamp`) together with the audit ID, the
    caller and the URI: a client can choose its own Audit-ID, so that alone proves nothing. Memory is bounded by two
    generations of keys.
    """

    def __init__(self, capacity: int = 200_000) -> None:
        self._capacity = capacity
        self._new: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self._old: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def is_first(self, event: AuditEvent) -> bool:
        """Whether this event is the first that tells of its request and so becomes the action."""
        if event.stage == "RequestReceived":  # says nothing of the outcome; another stage follows
            return False
        key = (event.auditID, event.requestReceivedTimestamp or event.stageTimestamp)
        request = (event.requestURI, event.user.username)
        known = self._new.get(key)
        if known is None:
            known = self._old.get(key)
            if known is None:
                self._new[key] = [request]
                if len(self._new) >= self._capacity:
                    self._old, self._new = self._new, {}
                return True
        if request in known:
            return False
        known.append(request)
        return True


def parse_times(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """RFC 3339 times as microseconds since 1970 UTC, int64 [N]."""
    if all(text[-1:] == "Z" for text in texts):
        return np.array([text[:-1][:26] for text in texts], "M8[us]").astype(np.int64)
    parsed = []
    for text in texts:
        if text.endswith("Z"):
            parsed.append(np.datetime64(text[:-1][:26], "us").astype(np.int64))
            continue
        sign = -1 if text[-6] == "+" else 1
        offset = sign * (int(text[-5:-3]) * 60 + int(text[-2:])) * 60_000_000
        parsed.append(np.datetime64(text[:-6][:26], "us").astype(np.int64) + offset)
    return np.array(parsed, np.int64)


def gap_codes(gaps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Index into GAPS of gaps in microseconds; a negative gap means there was no earlier action."""
    return np.where(gaps < 0, 0, 1 + np.searchsorted(_GAP_EDGES, gaps, side="right"))


def code_class(code: int) -> str:
    """Answer class: success is one class, refusals and failures keep their number."""
    if 100 <= code < 400:
        return "ok"
    if code >= 500:
        return "5xx"
    return str(code) if code else "-"


def uri_shape(uri: str, subresource: str) -> str:
    """Query keys that say how the request was made; for proxies the path behind them; for exec the program."""
    path, _, query = uri.partition("?")
    keys = {part.partition("=")[0] for part in query.split("&") if part} - _QUERY_NOISE
    shape = "&".join(sorted(fold_name(unquote(key)) for key in keys))
    if subresource == "proxy":
        behind = path.partition("/proxy")[2]
        shape = (
            "/".join(fold_name(unquote(part)) for part in behind.split("/")[1 : 1 + _PROXY_DEPTH])
            + "?"
            + shape
        )
    if subresource == "exec":
        argument = _FIRST_ARGUMENT.search("?" + query)
        if argument:
            shape += " " + fold_name(unquote(argument[1]).rpartition("/")[2][:40])
    return shape or "-"


def non_resource_path(uri: str) -> str:
    """Path of a request outside the resource API, folded to four segments."""
    return "/" + "/".join(fold_name(part) for part in uri.partition("?")[0].split("/")[1:5])


def resource_name(group: str, resource: str, subresource: str) -> str:
    """`group/resource/subresource`, without the parts that are empty."""
    return "/".join(part for part in (group, resource, subresource) if part)


def binding_of(decision: str | None, reason: str | None) -> str:
    """The RBAC binding that allowed a request, `denied`, or `-` where the log does not say."""
    match = _BY.search(reason or "")
    if match:
        return f"{match[1]} {fold_name(match[2])}"
    return {"forbid": "denied", "allow": "-"}.get(decision or "", decision or "-")


class _Memo(dict[Any, int]):
    """Codes by raw value; what is missing is worked out once."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[Any], int]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: Any) -> int:
        code = self[key] = self._make(key)
        return code


def _look_up(memo: _Memo, keys: list[Any]) -> list[int]:
    return [memo[key] for key in keys]


_NO_OBJECT = ObjectRef()


class ActionEncoder:
    """Turns events into actions. Keeps memos between calls, so one instance should live as long as its stream."""

    def __init__(self, settings: ActionSettings | None = None, *, join_owners: bool = True) -> None:
        """Start an encoder.

        Args:
            settings: encoding choices.
            join_owners: whether to follow ownership as the events come. One that sees only a stretch of a log leaves `owner`
                at "-" and hands on `links`, for `OwnerTracker.join` to follow in the order of the whole log.
        """
        self.settings = settings or ActionSettings()
        self.folder = StageFolder()
        self.identity = Identity(self.settings.identity)
        self.owners = OwnerTracker() if join_owners else None
        self.generation = 0
        self._forget_values()

    def _forget_values(self) -> None:
        """Start all codes anew, which `generation` tells the holders of code tables."""
        self.generation += 1
        self.interners = {field: Interner() for field in STATIC_FIELDS}
        self.principals: list[Principal] = []
        self._principal_codes: dict[Principal, int] = {}
        self._forget_memos()

    def _forget_memos(self) -> None:
        """Drop the memory of raw values; codes stay valid."""
        intern = self.interners
        self._principal = _Memo(self._new_principal)
        self._resource = _Memo(lambda key: intern["resource"].code(resource_name(*key)))
        self._path = _Memo(lambda path: intern["resource"].code(non_resource_path(path)))
        self._verb = _Memo(lambda key: intern["verb"].code("connect" if key[1] in _CONNECT else key[0]))
        self._namespace = _Memo(lambda namespace: intern["namespace"].code(namespace or "-"))
        self._name = _Memo(lambda name: intern["name"].code(fold_name(name)))
        self._code = _Memo(lambda code: intern["code"].code(code_class(code)))
        self._client = _Memo(lambda agent: intern["client"].code(fold_client(agent)))
        hops = self.settings.trusted_hops
        self._place = _Memo(lambda addresses: intern["place"].code(place_of(addresses, hops)))
        self._binding = _Memo(lambda key: intern["binding"].code(binding_of(*key)))
        fold = self.identity.fold
        self._impersonates = _Memo(lambda name: intern["impersonates"].code(fold(name or "system:anonymous")))
        self._uri = _Memo(lambda key: intern["uri"].code(uri_shape(*key)))

    def _keep_bounded(self) -> None:
        if sum(len(interner.values) for interner in self.interners.values()) > _INTERNED_LIMIT:
            self._forget_values()
        memos: tuple[Sized, ...] = (
            *(self._principal, self._name, self._client, self._place),
            *(self._binding, self._uri, self._path),
        )
        if sum(len(memo) for memo in memos) > _MEMO_LIMIT:
            self._forget_memos()

    def encode(self, events: Sequence[AuditEvent]) -> ActionBatch:
        """Encode events in arrival order.

        Column by column: a list of look-ups costs a third of the same look-ups in a loop over events.

        Args:
            events: decoded events; several stages of one request may come in any number of calls.

        Returns:
            One action per request, at the first event that tells its outcome.
        """
        self._keep_bounded()
        intern = self.interners
        dash = {field: intern[field].code("-") for field in STATIC_FIELDS}
        index, folded, dropped = self._sort_out(events)
        kept = events if len(index) == len(events) else [events[i] for i in index]
        refs = [
            ref if (ref := event.objectRef) is not None and ref.resource else _NO_OBJECT for event in kept
        ]
        principals = self._principal
        who = [principals[event.cluster, event.user.username, event.user.groups] for event in kept]
        resources, paths, shapes, bindings = self._resource, self._path, self._uri, self._binding
        columns: dict[str, list[int]] = {
            "verb": _look_up(
                self._verb, [(event.verb, ref.subresource) for event, ref in zip(kept, refs, strict=True)]
            ),
            "resource": [
                resources[ref.apiGroup, ref.resource, ref.subresource]
                if ref is not _NO_OBJECT
                else paths[event.requestURI.partition("?")[0]]
                for event, ref in zip(kept, refs, strict=True)
            ],
            "namespace": _look_up(self._namespace, [ref.namespace for ref in refs]),
            "name": _look_up(self._name, [ref.name for ref in refs]),
            "code": _look_up(
                self._code, [0 if (status := event.responseStatus) is None else status.code for event in kept]
            ),
            "client": _look_up(self._client, [event.userAgent for event in kept]),
            "place": _look_up(self._place, [event.sourceIPs for event in kept]),
            "binding": [
                dash["binding"]
                if (notes := event.annotations) is None
                else bindings[notes.get(_DECISION), notes.get(_REASON)]
                for event in kept
            ],
            "impersonates": [
                dash["impersonates"]
                if (other := event.impersonatedUser) is None
                else self._impersonates[other.username]
                for event in kept
            ],
            # Only the part that the shape depends on is the key: object names would make every URI distinct.
            "uri": [
                shapes[uri if proxied else uri[uri.index("?") :], ref.subresource]
                if ref is not _NO_OBJECT and ((proxied := ref.subresource == "proxy") or "?" in uri)
                else dash["uri"]
                for uri, ref in zip([event.requestURI for event in kept], refs, strict=True)
            ],
        }
        columns["traits"], columns["images"] = self._bodies(kept, refs)
        columns["owner"], links = self._owned(kept, who)
        time = parse_times([event.requestReceivedTimestamp or event.stageTimestamp for event in kept])
        coded = {field: np.array(column, np.int32) for field, column in columns.items()}
        coded["hour"] = self._hours(time)
        return ActionBatch(
            event=np.array(index, np.int64),
            codes={field: coded[field] for field in STATIC_FIELDS},
            principal=np.array(who, np.int32),
            time=time,
            principals=self.principals,
            folded=np.array(folded, np.int64),
            dropped=np.array(dropped, np.int64),
            links=links,
        )

    def _sort_out(self, events: Sequence[AuditEvent]) -> tuple[list[int], list[int], list[int]]:
        """Indices of events that become actions, that were folded, that were dropped."""
        drop, is_first = self.settings.drop_principals, self.folder.is_first
        index: list[int] = []
        folded: list[int] = []
        dropped: list[int] = []
        for position, event in enumerate(events):
            if drop and event.user.username in drop:
                dropped.append(position)
            elif is_first(event):
                index.append(position)
            else:
                folded.append(position)
        return index, folded, dropped

    def _bodies(self, kept: Sequence[AuditEvent], refs: Sequence[ObjectRef]) -> tuple[list[int], list[int]]:
        """Codes of traits and of images."""
        intern_traits, intern_images = self.interners["traits"], self.interners["images"]
        traits = [intern_traits.code("-")] * len(kept)
        images = [intern_images.code("-")] * len(kept)
        for row, event in enumerate(kept):
            if event.requestObject and (ref := refs[row]) is not _NO_OBJECT:
                found = read_traits(
                    event.verb, ref.resource, ref.subresource, event.user.username, event.requestObject
                )
                traits[row], images[row] = intern_traits.code(found[0]), intern_images.code(found[1])
        return traits, images

    def _owned(
        self, kept: Sequence[AuditEvent], who: Sequence[int]
    ) -> tuple[list[int], list[tuple[int, Link]]]:
        """Codes of owners; links instead, if this encoder does not join owners itself."""
        intern = self.interners["owner"]
        owners = [intern.code(NOBODY)] * len(kept)
        links = [
            (row, link)
            for row, event in enumerate(kept)
            if event.verb in WRITES and (link := read_link(event, self.principals[who[row]])) is not None
        ]
        if self.owners is None:
            return owners, links
        for row, owner in self.owners.join(links):
            owners[row] = intern.code(owner)
        return owners, []

    def _new_principal(self, key: tuple[str, str, tuple[str, ...]]) -> int:
        cluster, username, groups = key
        principal = self.identity.principal(username, groups)
        if cluster:  # the same name in another cluster is somebody else
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
        for slot in np.unique(slots):
            table[slot] = intern.code(f"{'weekend' if slot >= 24 else 'weekday'} {slot % 24:02d}")
        return table[slots]
