"""Where data of one person is: the stores and files of a service on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from data.errors import KubehabitError
from data.principals.person import LEAST_CHARACTERS, Person
from detection.bundle import Bundle
from serving.forensics import erasure as events
from serving.forensics.catalog import Catalog
from serving.forensics.ledger import LedgerEntry, LedgerReader
from serving.forensics.store_place import SET_ASIDE
from serving.history.erasure import rows_of
from serving.scoring.erasure import idle_rows, is_in_snapshot
from serving.scoring.snapshots import SnapshotError, Snapshots
from serving.settings import Settings
from serving.storage.database import AlertStore, missing_file, shown_url
from serving.storage.erasure import alerts_of


class Place(msgspec.Struct, frozen=True):
    """Something that is kept of a person.

    Attributes:
        where: folder, file or store.
        what: a few words.
        count: how many of it.
        erasure: what an erasure does with it, or why it stays.
    """

    where: str
    what: str
    count: int
    erasure: str


class PersonReport(msgspec.Struct, frozen=True):
    """What is kept of a person.

    Attributes:
        names: the principal's name, and the user names that were folded into it.
        places: those where something is.
        on_hold: reasons for which an erasure is refused.
        unfinished: since when an erasure waits to be finished, or "".
    """

    names: list[str]
    places: list[Place]
    on_hold: list[str]
    unfinished: str = ""


def ledger_of(settings: Settings) -> tuple[list[LedgerEntry], Catalog]:
    """The ledger of the event store, and what is in the store; both empty without one. Raises KubehabitError."""
    reader, catalog = LedgerReader(settings.events.resolved_path), Catalog()
    with suppress(FileNotFoundError):
        reader.read_on()
        catalog.read(reader.entries)
    return reader.entries, catalog


def find_person(settings: Settings, principal: str) -> Person:
    """A person with the user names that the event store knows; raises KubehabitError."""
    Person(principal)
    files = ledger_of(settings)[1].files
    memory = settings.events.memory_mb
    names = events.names_of(settings.events.resolved_path, principal, files, memory)
    return Person(principal, [name for name in names if len(name) >= LEAST_CHARACTERS])


def open_alerts(settings: Settings) -> AlertStore | None:
    """The alert store, if there is one; raises KubehabitError."""
    if missing_file(settings.store.resolved_url) is not None:
        return None
    return AlertStore.from_settings(settings.store)


def text_files(settings: Settings) -> list[tuple[str, Path]]:
    """Files of lines that may name a person, and what a line is."""
    found = []
    for what, path in (
        ("requests in the access log", settings.access.log.resolved_path),
        ("dead letters", settings.dead_letters.resolved_path),
    ):
        found += [(what, one) for one in sorted(path.parent.glob(path.name + "*")) if one.is_file()]
    return found


def holds(
    settings: Settings, person: Person, entries: Iterable[LedgerEntry], open_incidents: Iterable[str]
) -> list[str]:
    """Why the person must not be erased now; sentences, none if nothing speaks against it."""
    found = []
    folder = settings.events.resolved_path
    if (folder / "digest.key").exists():
        why = events.hold_of(entries, events.subject_of(folder, person.principal))
        if why is not None:
            found.append(f"The person's records are on hold: {why or 'no reason was given'}.")
    found += [
        f"Incident {name} is open, and an alert of the person is part of it." for name in open_incidents
    ]
    return found


def report(settings: Settings, person: Person, unfinished: str = "") -> PersonReport:
    """Look for a person in all stores and files; changes nothing. Raises KubehabitError if one cannot be read."""
    entries, catalog = ledger_of(settings)
    places = [*_in_events(settings, person, entries, catalog)]
    open_incidents: list[str] = []
    store = open_alerts(settings)
    if store is not None:
        with closing(store):
            found = alerts_of(store, person)
        where, open_incidents = shown_url(settings.store.resolved_url), found.open_incidents
        places += [
            Place(where, "alerts of the person, with context and deliveries", len(found.alerts), "deleted"),
            Place(where, "verdicts on them", found.feedback, "deleted"),
            Place(
                where, "other alerts, incidents and verdicts that name the person", found.named, "pseudonym"
            ),
        ]
    places += [*_in_state(settings, person), *_in_files(settings, person), *_in_models(settings, person)]
    on_hold = holds(settings, person, entries, open_incidents)
    return PersonReport(list(person.names), [one for one in places if one.count], on_hold, unfinished)


def _in_events(
    settings: Settings, person: Person, entries: list[LedgerEntry], catalog: Catalog
) -> Iterator[Place]:
    folder = settings.events.resolved_path
    found = events.count(folder, person, catalog.files, settings.events.memory_mb)
    gone = "who, from where and the text are removed; what was done to which object stays"
    yield Place(str(folder), "events of what the person did", found.acted, gone)
    yield Place(str(folder), "events of others that name the person", found.named, "pseudonym")
    yield Place(
        catalog.archive,
        "events in the archive that name the person, in files that are not on this machine any more",
        events.count_out_of_reach(settings.events, catalog, person),
        "stays, and so an erasure is refused: delete these files of the archive first",
    )
    for path in sorted(folder.glob("open-*.ndjson")):
        yield Place(
            str(path),
            "events that are not sealed yet",
            _lines_with(path, person),
            "sealed first, then as above",
        )
    kept = "stays: a ledger that lost a line proves nothing; it says who exported what, and why"
    yield Place(
        str(folder / "ledger.jsonl"), "exports of evidence", events.exports_naming(entries, person), kept
    )
    aside = sum(path.name != "reason.txt" for path in folder.glob(f"{SET_ASIDE}/*/*"))
    yield Place(
        str(folder / SET_ASIDE),
        "files set aside, which are not searched",
        aside,
        "stays: look into them by hand",
    )


def _in_state(settings: Settings, person: Person) -> Iterator[Place]:
    folder = settings.state.resolved_path
    if folder.is_dir():
        snapshots, count = Snapshots(folder), 0
        for position in snapshots.positions():
            with suppress(SnapshotError, OSError):
                count += is_in_snapshot(snapshots.read(position), person)
        yield Place(
            str(folder), "snapshots with habits and recent actions of the person", count, "removed from them"
        )
    idle = folder / "principals.db"
    yield Place(str(idle), "habits of the person while it was idle", idle_rows(idle, person), "deleted")
    history = settings.history.resolved_path(folder)
    yield Place(str(history), "rows of how unusual the person was when", rows_of(history, person), "deleted")
    journal = settings.journal.resolved_path
    waiting = sum(1 for _ in journal.glob("*.journal"))
    yield Place(
        str(journal), "files of batches as received, which are not searched", waiting, "deleted, all of them"
    )
    aside = sum(1 for _ in journal.glob("quarantine/*.batch"))
    yield Place(
        str(journal / "quarantine"),
        "batches set aside, which are not searched",
        aside,
        "stays: look into them",
    )


def _in_files(settings: Settings, person: Person) -> Iterator[Place]:
    exceptions = settings.alerts.exceptions_path
    if exceptions.is_file():
        yield Place(
            str(exceptions),
            "lines of exceptions",
            _lines_with(exceptions, person),
            "stays: change it by hand",
        )
    for what, path in text_files(settings):
        yield Place(str(path), what, _lines_with(path, person), "pseudonym")


def _in_models(settings: Settings, person: Person) -> Iterator[Place]:
    kept = "stays: it is sealed as a whole. Train another one without the person or with --pseudonyms, then delete it"
    cache = settings.model.cache_dir
    for path in sorted(cache.rglob("bundle.json")) if cache.is_dir() else ():
        with suppress(KubehabitError):
            known = person.principal in Bundle.load(path.parent).principals.ids
            yield Place(str(path.parent), "model that knows the habits of the person", int(known), kept)


def _lines_with(path: Path, person: Person) -> int:
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        return sum(person.is_in(line) for line in file)
