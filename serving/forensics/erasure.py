"""Erases one person from the event store, so that it can still be verified.

Records of what the person did lose who it was, from where, with which client, and their text; what was done to which object, and
when, stays. In all other records a pseudonym takes the place of the person's names. A file in which a record changes is written
again, and the ledger notes that with the new roots, the reason and who erased. What the changed records hashed to is kept: with
it `verify` shows that no other record changed.
"""

from __future__ import annotations

import hmac
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from data.durable_file import write_durably
from data.errors import KubehabitError
from data.principals.person import Person
from data.signing_keys import load_signing_key
from serving.forensics.archive import copied_names, open_files
from serving.forensics.catalog import Catalog, Segment, StoredFile
from serving.forensics.duckdb import connect, parquet, quoted
from serving.forensics.event_store import EventStore
from serving.forensics.ledger import Ledger, LedgerEntry, named_key
from serving.forensics.merkle import blocks_of, leaf_of, root_of
from serving.forensics.records import COLUMNS, NUMBERS, TIMES, EventRecord, content_of, rows_of
from serving.forensics.verify import leaves_of, write_leaves
from serving.settings import EventSettings

if TYPE_CHECKING:
    import duckdb

#: Stands for the text of an erased record.
ERASED_TEXT = '"[erased]"'
_DRAFT = "erasing.ndjson"
_AT_A_TIME = 500
#: Columns in which a person may be named.
_TEXTS = tuple(name for name in COLUMNS if name not in (*TIMES, *NUMBERS, "original", "alert"))
#: Columns that say who acted, and from where.
_OF_THE_ACTOR = ("uid", "source_ips", "user_agent", "credential", "issued", "original")
_TO_JSON = msgspec.json.Encoder()


class ErasureRequest(NamedTuple):
    """An erasure: whom, what takes the place of the name, and what the ledger says of it."""

    person: Person
    pseudonym: str
    why: str
    by: str
    forced: bool


class Found(NamedTuple):
    """Records of a person in the store: what the person did, and where others' records name them."""

    acted: int
    named: int


def names_of(folder: Path, principal: str, files: Iterable[StoredFile], memory_mb: int) -> list[str]:
    """The user names that were folded into a principal, as the store has them."""
    paths = [folder / file.name for file in files]
    if not paths:
        return []
    with connect(folder, memory_mb) as connection:
        query = f"SELECT DISTINCT username FROM {parquet(*paths)} WHERE principal = ? ORDER BY 1"
        return [str(row[0]) for row in connection.execute(query, [principal]).fetchall()]


def count(folder: Path, person: Person, files: Iterable[StoredFile], memory_mb: int) -> Found:
    """How many records have to do with a person."""
    acted = named = 0
    with connect(folder, memory_mb) as connection:
        for file in files:
            for record in _matching(connection, str(folder / file.name), person):
                if is_actor(record, person):
                    acted += 1
                else:
                    named += 1
    return Found(acted, named)


def count_out_of_reach(settings: EventSettings, catalog: Catalog, person: Person) -> int:
    """How many records name a person in files of the archive that an erasure here does not replace: they are not here any more.

    Raises:
        KubehabitError: the archive cannot be read.
    """
    wanted = settings.archive
    followed = wanted is not None and wanted.resolved_url == catalog.archive
    files = [file for file in catalog.archived if not followed or file.first < catalog.kept_from]
    if not files:
        return 0
    objects = open_files(catalog.archive)
    there = copied_names(objects)
    paths = [f"{objects.place}/{file.name}" for file in files if file.name in there]
    with connect(settings.resolved_path, settings.memory_mb, objects=objects) as connection:
        return sum(1 for path in paths for _ in _matching(connection, path, person))


def is_actor(record: EventRecord, person: Person) -> bool:
    """Whether the record is of something that the person did."""
    return record.principal in person.names or record.username in person.names


def erased(record: EventRecord, request: ErasureRequest) -> EventRecord:
    """The record without the person; see the module's docstring."""
    person, pseudonym = request.person, request.pseudonym
    texts: dict[str, Any] = {name: person.replaced(getattr(record, name), pseudonym) for name in _TEXTS}
    if is_actor(record, person):
        texts |= dict.fromkeys(_OF_THE_ACTOR, "")
        texts |= {"principal": pseudonym, "username": pseudonym, "path": texts["path"].partition("?")[0]}
        texts |= {"event": ERASED_TEXT, "redactions": 1}
        return record._replace(**texts)
    try:
        msgspec.json.decode(texts["event"])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        texts["event"] = ERASED_TEXT
    return record._replace(**texts)


def erase(store: EventStore, request: ErasureRequest, memory_mb: int) -> int:
    """Erase a person from all sealed records; returns how many changed.

    Ended in the middle, it has erased some files whole and the others not at all; the next call goes on.

    Raises:
        OSError, KubehabitError: a file could not be read or written.
    """
    store.seal()
    sweep(store)
    changed = 0
    for file in store.files:
        with connect(store.folder, memory_mb) as connection:
            drafted = _draft(connection, store, file, request)
            if not drafted:
                continue
            segments = _new_roots(connection, store, file, drafted)
        names, draft = ", ".join(COLUMNS), quoted(store.folder / _DRAFT)
        numbers = f"SELECT number FROM ({rows_of([draft])})"
        kept = f"SELECT {names} FROM {parquet(store.folder / file.name)} WHERE number NOT IN ({numbers})"
        store.rewrite(
            file,
            f"SELECT {names} FROM ({kept} UNION ALL SELECT {names} FROM ({rows_of([draft])})) ORDER BY number",
            revision=_revision(store),
            segments=segments,
            records=len(drafted),
            pseudonym=request.pseudonym,
            why=request.why,
            by=request.by,
            forced=request.forced,
        )
        changed += len(drafted)
    sweep(store)
    return changed


def _revision(store: EventStore) -> str:
    """Names the files of the next erasure: the number of its line in the ledger."""
    return str(len(store.ledger.entries))


def _matching(connection: duckdb.DuckDBPyConnection, path: str, person: Person) -> Iterator[EventRecord]:
    """The records of a file that name a person."""
    columns = ", ".join(f"epoch_us({name}) AS {name}" if name in TIMES else name for name in COLUMNS)
    named = " OR ".join(f"contains({name}, ?)" for name in _TEXTS for _ in person.spellings)
    values = [spelling for _ in _TEXTS for spelling in person.spellings]
    query = f"SELECT {columns} FROM {parquet(path)} WHERE {named} ORDER BY number"
    cursor = connection.execute(query, values)
    while rows := cursor.fetchmany(_AT_A_TIME):
        for record in map(EventRecord._make, rows):
            if is_actor(record, person) or any(person.is_in(getattr(record, name)) for name in _TEXTS):
                yield record


def _draft(
    connection: duckdb.DuckDBPyConnection, store: EventStore, file: StoredFile, request: ErasureRequest
) -> dict[int, bytes]:
    """Write the changed records of a file beside the store's files; returns their hashes by number."""
    leaves: dict[int, bytes] = {}
    draft = store.folder / _DRAFT
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    with draft.open("wb") as out:
        for record in _matching(connection, str(store.folder / file.name), request.person):
            new = erased(record, request)
            leaves[new.number] = leaf_of(content_of(new))
            out.write(_TO_JSON.encode(new._asdict()) + b"\n")
    return leaves


def _new_roots(
    connection: duckdb.DuckDBPyConnection, store: EventStore, file: StoredFile, drafted: dict[int, bytes]
) -> list[dict[str, Any]]:
    """The segments in which records change, with their roots; writes their blocks, and the hashes that are replaced."""
    segments = store.segments_of(file)
    numbers_of: dict[int, list[int]] = defaultdict(list)
    for number in drafted:
        numbers_of[next(one.first for one in segments if one.first <= number < one.end)].append(number)
    return [
        _new_root(
            connection,
            store,
            file,
            segment,
            {number: drafted[number] for number in numbers_of[segment.first]},
        )
        for segment in segments
        if segment.first in numbers_of
    ]


def _new_root(
    connection: duckdb.DuckDBPyConnection,
    store: EventStore,
    file: StoredFile,
    segment: Segment,
    drafted: dict[int, bytes],
) -> dict[str, Any]:
    numbers, leaves = leaves_of(connection, str(store.folder / file.name), segment.first, segment.end)
    if numbers != list(range(segment.first, segment.end)) or root_of(blocks_of(leaves)).hex() != segment.root:
        raise KubehabitError(
            f"Records {segment.first} to {segment.end - 1} are not as they were sealed, so nothing is erased from them: an "
            "erasure would hide that. See `kubehabit verify`."
        )
    before = [(number, leaves[number - segment.first]) for number in sorted(drafted)]
    for number, leaf in drafted.items():
        leaves[number - segment.first] = leaf
    blocks, revision = blocks_of(leaves), _revision(store)
    write_durably(store.folder / "blocks" / f"{segment.first}.{revision}.leaves", write_leaves(before), 0o600)
    write_durably(store.folder / "blocks" / f"{segment.first}.{revision}.blocks", b"".join(blocks), 0o600)
    root = root_of(blocks).hex()
    return {"first": segment.first, "count": segment.count, "root": root, "before": segment.root}


def sweep(store: EventStore) -> None:
    """Delete what erasures left: drafts, and files in `blocks` that no segment needs any more."""
    (store.folder / _DRAFT).unlink(missing_ok=True)
    segments = [one for file in store.files for one in store.segments_of(file)]
    needed = {name for one in segments for name in one.block_files}
    left = [
        path for pattern in ("*.*.blocks", "*.*.leaves") for path in store.folder.glob(f"blocks/{pattern}")
    ]
    left += [store.folder / "blocks" / f"{one.first}.blocks" for one in segments if one.revisions]
    for path in left:
        if path.relative_to(store.folder).as_posix() not in needed:
            path.unlink(missing_ok=True)


# -- holds ------------------------------------------------------------------------------------------------------


def subject_of(folder: Path, principal: str) -> str:
    """What the ledger calls a person on hold: a keyed hash of the name, for lines of the ledger cannot be erased."""
    try:
        key = (folder / "digest.key").read_bytes()
    except OSError as error:
        raise KubehabitError(f"The key of the event store cannot be read: {error}.") from error
    return hmac.digest(key, b"person:" + principal.encode("utf-8", "surrogatepass"), "sha256").hex()


def hold_of(entries: Iterable[LedgerEntry], subject: str) -> str | None:
    """Why the records of a person must not be erased now, by the ledger; None if they may be."""
    why = None
    for entry in entries:
        if entry.fields.get("subject") == subject and entry.fields["kind"] in ("held", "released"):
            why = str(entry.fields["why"]) if entry.fields["kind"] == "held" else None
    return why


def exports_naming(entries: Iterable[LedgerEntry], person: Person) -> int:
    """Number of the ledger's lines that name a person: exports of evidence, which stay."""
    return sum(
        person.is_in(json.dumps(entry.fields)) for entry in entries if entry.fields["kind"] == "exported"
    )


def note_hold(
    settings: EventSettings, kind: Literal["held", "released"], principal: str, *, why: str, by: str
) -> None:
    """Add a hold, or its end, to the ledger; also while a service runs. Raises OSError or KubehabitError."""
    key = load_signing_key(settings.signing_key) if settings.signing_key is not None else None
    folder = settings.resolved_path
    ledger = Ledger(folder, key)
    if named_key(ledger.entries) is not None and not ledger.signs:
        raise KubehabitError(
            "The ledger is signed: name the key as events.signing_key, to sign this line as well."
        )
    ledger.append(kind, subject=subject_of(folder, principal), why=why, by=by)
