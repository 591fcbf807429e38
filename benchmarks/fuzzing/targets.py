"""What is fuzzed: public entry points that meet a log, a request or a file from elsewhere, with what must always hold of them.

A target is a function of bytes. It raises whatever the code under test raises that it must not, and AssertionError where a
promise is broken; errors that are part of the contract are passed over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs

import msgspec
import zstandard
from pydantic import BaseModel, ValidationError

from benchmarks.fuzz_decoders import Target as Readers
from data.actions.body_traits import read_traits
from data.actions.folding import client_family, fold_client, fold_name, network_of, place_of, reach_of
from data.actions.kind_traits import certificate_subject
from data.errors import KubehabitError
from data.events.audit_event import MAX_TEXT, AuditEvent, DeadLetter, ObjectRef, cut_text
from data.events.decode import decode_body
from data.events.formats.registry import Sources
from data.paths import shipped
from data.patterns import compile_pattern, full_match
from data.principals.identity import KINDS, Identity, identify, without_generated
from data.principals.ownership import OwnerTracker, read_link
from data.timestamps import is_time, parse_times
from data.visible_text import visible
from serving.alerts.feedback import Feedback
from serving.alerts.query import AlertFilter
from serving.api.forensics import EvidenceRequest, IncidentEvidenceRequest
from serving.api.parameters import EventQuery, codes_of
from serving.forensics.evidence.export import check, parse_export
from serving.forensics.ledger import BEGINNING, parse
from serving.forensics.queries import QueryError, moment_of, resource_of
from serving.forensics.records import content_of, record_of
from serving.forensics.redaction import redact
from serving.http.body import ENCODINGS, decompress
from serving.http.problems import ProblemError
from serving.schemas import clean
from serving.scoring.snapshots import Snapshot, SnapshotError

#: Stands in bodies where a secret stands; redaction must never let it through.
SECRET = "hunter2-Zq81xK0v"
_KEY = bytes(32)
_MAX_DECOMPRESSED = 1 << 16
#: Longest text of traits or images of one body; more would be a way to fill memory through a request.
_MAX_TRAITS = 65_536


def text_of(data: bytes) -> str:
    """Any text, with lone surrogates for bytes that are not UTF-8."""
    return data.decode("utf-8", "surrogateescape")


def _lines(data: bytes, count: int) -> list[str]:
    """So many texts, the last of which has the rest; empty where there are fewer."""
    parts = text_of(data).split("\n", count - 1)
    return parts + [""] * (count - len(parts))


class Wrapped:
    """Records of every cloud and shipper around a text: the first byte chooses the wrapping."""

    def __call__(self, data: bytes) -> None:
        """Raises AssertionError if an event lacks what every event has."""
        kind, rest = data[:1], data[1:].decode("utf-8", "replace")
        wraps = (
            {"messageType": "DATA_MESSAGE", "logEvents": [{"id": "1", "timestamp": 1, "message": rest}]},
            {"records": [{"category": "kube-audit", "resourceId": "/a", "properties": {"log": rest}}]},
            {"message": {"data": rest}},
            {"awslogs": {"data": rest}},
            {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [rest]},
        )
        chosen = kind[0] if kind else 0
        if chosen < 250:
            bodies = [json.dumps(wraps[chosen % len(wraps)]).encode()]
        else:
            bodies = [b"node-1 " + data[1:], b"2026-01-05T09:30:00Z " + data[1:], data[1:]]
        for body in bodies:
            opened = Sources().open(body)
            if opened is not None:
                assert all(event.auditID for event in opened.events)
                assert len(opened.events) == len(opened.positions)
            with contextlib.suppress(KubehabitError):
                decoded = decode_body(body)
                assert len(decoded.events) == len(decoded.lines)
                assert all(letter.text is not None and letter.reason for letter in decoded.dead)


class Redaction:
    """Redaction of a body with a planted secret, and the record of an event made of it."""

    def __init__(self) -> None:
        self._identity = Identity(shipped(shipped("actions.yaml")["identity"]))

    def __call__(self, data: bytes) -> None:
        """Raises AssertionError if the secret is left, or the result is no JSON or not the event."""
        found = redact(data)
        try:
            msgspec.json.decode(data)
            data.decode()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        msgspec.json.decode(found.text)
        secretive = data[-1:] in b"}]" and len(data) % 2 == 0
        resource = b"secrets" if secretive else b"configmaps"
        planted = (
            b'{"data":{"a":"%b","b":[{"c":"%b"}]},"env":[{"name":"A","value":"%b"}],"x":%b,"password":"%b"}'
        )
        secret = SECRET.encode()
        event = (
            b'{"auditID":"a","stage":"ResponseComplete","verb":"create","apiVersion":"audit.k8s.io/v1",'
            b'"requestReceivedTimestamp":"2026-01-05T09:30:00Z","objectRef":{"resource":"%b"},"requestObject":%b,"y":%b}'
        ) % (resource, planted % (secret, secret, secret, data, secret), data)
        text, removed = redact(event)
        assert removed
        assert secret not in text.replace(data, b""), "a secret is left"
        again = msgspec.json.decode(text)
        assert text == b'"[redacted]"' or again["auditID"] == "a"
        if text != b'"[redacted]"':
            decoded = msgspec.json.decode(event, type=AuditEvent)
            record = record_of(
                *(decoded, event),
                number=0,
                time=0,
                received=0,
                alert="",
                identity=self._identity,
                key=_KEY,
            )
            assert secret not in content_of(record).replace(data, b"")


class Principals:
    """User names and groups: identity, folding, ownership of names."""

    def __init__(self) -> None:
        self._identity = Identity(shipped(shipped("actions.yaml")["identity"]))

    def __call__(self, data: bytes) -> None:
        """Raises AssertionError if a principal is not what every principal is."""
        name, *groups = (cut_text(text) for text in _lines(data, 4))
        found = self._identity.principal(name, groups)
        assert found.name
        assert found.kind in KINDS
        assert found.groups[-1] == f"kind:{found.kind}"
        assert self._identity.principal(name, groups) == found
        assert identify(name, groups).groups[-1].startswith("kind:")
        shorter = without_generated(name)
        assert shorter is None or name.startswith(shorter)


def folding(data: bytes) -> None:
    """Names, clients and addresses; raises AssertionError if folding makes a text longer than it was by more than a mark."""
    text = cut_text(text_of(data))
    assert len(fold_name(text)) <= max(len(text), 1)
    client = fold_client(text)
    assert client_family(client) is not None
    place = place_of(tuple(text.split(",")), 1)
    assert network_of(place)
    assert reach_of(place) in ("-", "loopback", "private", "public")


def patterns(data: bytes) -> None:
    """A pattern of a configuration, the first line, meets a text, by itself and as a rule that folds names."""
    source, text = _lines(data, 2)
    with contextlib.suppress(ValueError):
        full_match(compile_pattern(source[:200]), text)
    with contextlib.suppress(KubehabitError):
        name = (
            Identity({"fold": [{"match": source[:200], "name": "folded-\\1"}]})
            .principal(cut_text(text), ())
            .name
        )
        assert name


_REQUESTS = [
    *(("create", resource, "") for resource in ("pods", "deployments", "roles", "rolebindings", "secrets", "services")),
    *(("create", resource, "") for resource in ("ingresses", "networkpolicies", "persistentvolumes", "namespaces")),
    *(("create", resource, "") for resource in ("certificatesigningrequests", "subjectaccessreviews", "endpointslices")),
    *(("create", resource, "") for resource in ("validatingwebhookconfigurations", "cronjobs", "widgets")),
    *(("patch", resource, "") for resource in ("pods", "deployments", "configmaps", "clusterroles", "nodes")),
    *(("create", "serviceaccounts", "token"), ("patch", "nodes", "status"), ("update", "pods", "status")),
    *(("delete", "pods", ""), ("update", "deployments", ""), ("update", "deployments", "scale")),
]  # fmt: skip


class Traits:
    """A request body: traits, images and ownership. The first byte chooses what it is the body of."""

    def __init__(self) -> None:
        self._owners = OwnerTracker()

    def __call__(self, data: bytes) -> None:
        """Raises AssertionError if what is read of a body has no bound."""
        verb, resource, subresource = _REQUESTS[data[0] % len(_REQUESTS)] if data else _REQUESTS[0]
        raw = data[1:]
        for actor in ("alice@corp", "system:node:n1"):
            traits, images = read_traits(verb, resource, subresource, actor, raw)
            assert traits
            assert images
            assert len(traits) + len(images) < _MAX_TRAITS, len(traits) + len(images)
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            certificate_subject(msgspec.json.decode(raw))
        event = AuditEvent(
            "a", "ResponseComplete", verb, objectRef=ObjectRef(resource, "n", "x", subresource=subresource)
        )
        event.requestObject = msgspec.Raw(raw)
        link = read_link(event, identify("alice@corp", ()))
        if link is not None:
            assert isinstance(self._owners.follow(link), str)


def shown_text(data: bytes) -> None:
    """Text that is printed; raises AssertionError if something in it would be obeyed by a terminal, or grows beyond its bound."""
    text = text_of(data)
    shown = visible(text)
    assert shown.isprintable()
    assert len(shown) <= 10 * len(text)
    assert visible(shown) == shown
    cleaned = clean(text, 200)
    assert cleaned.isprintable()
    assert len(cleaned) <= 200
    assert len(cut_text(text)) <= MAX_TEXT
    letter = DeadLetter(1, "x", data).text
    assert SECRET not in letter or b'"data":' not in data[: data.find(SECRET.encode())]


def times(data: bytes) -> None:
    """Times of events, one by one and in bulk; raises AssertionError if they differ."""
    texts = _lines(data, 3)
    kept = [text for text in texts if is_time(text)]
    single = [parse_times([text]).tolist()[0] for text in kept]
    assert parse_times(kept).tolist() == single
    usual = "2026-01-05T09:30:00.000000Z"
    assert parse_times([usual, *kept, usual]).tolist()[1:-1] == single


_MODELS: tuple[type[BaseModel], ...] = (
    Feedback,
    EvidenceRequest,
    IncidentEvidenceRequest,
    AlertFilter,
    EventQuery,
)


def requests(data: bytes) -> None:
    """Bodies and queries of the API; raises whatever is no refusal."""
    for model in _MODELS:
        with contextlib.suppress(ValidationError):
            model.model_validate_json(data)
    text = data.decode("utf-8", "replace")
    query = {name: values if len(values) > 1 else values[0] for name, values in parse_qs(text).items()}
    with contextlib.suppress(ValidationError, QueryError):
        EventQuery.model_validate(query).filter()
    with contextlib.suppress(ValidationError):
        AlertFilter.model_validate(query)
    for read in (moment_of, codes_of, resource_of):
        with contextlib.suppress(QueryError):
            read(text)
    for encoding in ENCODINGS:
        with contextlib.suppress(ProblemError):
            assert len(decompress(data, encoding, _MAX_DECOMPRESSED)) <= _MAX_DECOMPRESSED


class Files:
    """Files that come from elsewhere: evidence, lines of a ledger, snapshots. Also with right checksums around wrong content."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self._path = Path(self._folder.name) / "evidence.json"

    def __call__(self, data: bytes) -> None:
        """Raises whatever is no refusal."""
        with contextlib.suppress(KubehabitError):
            parse_export(data, self._path)
        self._path.write_bytes(data)
        with contextlib.suppress(KubehabitError):
            check(self._path)
        with contextlib.suppress(ValueError):
            parse(0, data + b"\n", BEGINNING)
        packed = zstandard.ZstdCompressor(level=1).compress(data)
        for body in (data, packed):
            with contextlib.suppress(SnapshotError):
                Snapshot.unpack(b"kubehabit state 1\n" + hashlib.sha256(body).digest() + body)


#: Name -> what makes the target. Their corpora are `tests/fuzz/corpus/NAME`.
TARGETS: dict[str, Callable[[], Callable[[bytes], None]]] = {
    "text": lambda: shown_text,
    "times": lambda: times,
    "principals": Principals,
    "folding": lambda: folding,
    "traits": Traits,
    "redaction": Redaction,
    "wrapped": Wrapped,
    "readers": Readers,
    "requests": lambda: requests,
    "patterns": lambda: patterns,
    "files": Files,
}
