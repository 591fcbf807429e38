"""Erases one person from all stores and files of a service that does not run.

What is to be done is written down first, so that an erasure that was ended in the middle goes on with the same pseudonym when it
is called again. Each step can be repeated. The last line that it adds to the ledger says what was done.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from data.durable_file import replacing, write_durably
from data.errors import KubehabitError
from data.principals.person import Person
from serving.forensics import clock
from serving.forensics import erasure as events
from serving.forensics.event_store import EventStore, last_batch
from serving.history.erasure import erase_history
from serving.privacy.places import find_person, holds, ledger_of, open_alerts, text_files
from serving.scoring.erasure import erase_from_snapshots, erase_idle
from serving.scoring.journal import Journal
from serving.scoring.snapshots import Snapshots
from serving.settings import Settings
from serving.storage.erasure import alerts_of, erase_alerts

_PLAN = "erasure.json"


class ErasureRefusedError(KubehabitError):
    """An erasure that must not be made, or not now."""


class Plan(msgspec.Struct, frozen=True):
    """An erasure that has begun: it is kept until it is finished."""

    names: list[str]
    pseudonym: str
    why: str
    by: str
    forced: bool
    begun: str


def plan_path(settings: Settings) -> Path:
    """File of an unfinished erasure."""
    return settings.state.resolved_path / _PLAN


def unfinished(settings: Settings) -> Plan | None:
    """The erasure that was ended in the middle, if there is one; raises KubehabitError."""
    path = plan_path(settings)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise KubehabitError(f"The unfinished erasure in {path} cannot be read ({error}).") from error


def erase(
    settings: Settings,
    principal: str,
    *,
    why: str,
    by: str,
    force: bool = False,
    pseudonym: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Erase a person; returns how much was changed where.

    Args:
        why, by: reason, and who erases; both are kept in the ledger for good, and must not name the person.
        force: even if the person's records are on hold.
        pseudonym: takes the place of the name; a random one when None.
        say: is called with each step.

    Raises:
        ErasureRefusedError: the records are on hold, or another erasure is not finished.
        KubehabitError: a service runs on these files, batches wait to be scored, or a store cannot be written.
    """
    journal = Journal(settings.journal.resolved_path, settings.journal.max_bytes)
    try:
        _check_journal(settings, journal)
        plan = _plan(settings, principal, why, by, force, pseudonym)
        done = _carry_out(settings, plan, journal, say)
        plan_path(settings).unlink()
        return done
    finally:
        journal.close()


def _plan(settings: Settings, principal: str, why: str, by: str, force: bool, pseudonym: str | None) -> Plan:
    begun = unfinished(settings)
    if begun is not None:
        if begun.names[0] != principal:
            raise ErasureRefusedError(
                f"The erasure of another person, begun {begun.begun}, is not finished: {plan_path(settings)} names the person. "
                "Finish that first, with the same command."
            )
        return begun
    person = find_person(settings, principal)
    if not why.strip() or person.is_in(why) or person.is_in(by):
        raise ErasureRefusedError(
            "The reason and who erases stay in the ledger for good: give a reason, such as the number of the request, and do "
            "not name the person in either."
        )
    entries, catalog = ledger_of(settings)
    if left := events.count_out_of_reach(settings.events, catalog, person):
        raise ErasureRefusedError(
            f"{left:,} events in {catalog.archive} name the person, in files that are not on this machine any more. Nothing was "
            "erased: delete these files there first, and call this again."
        )
    store = open_alerts(settings)
    under_way: list[str] = []
    if store is not None:
        with closing(store):
            under_way = alerts_of(store, person).open_incidents
    found = holds(settings, person, entries, under_way)
    if found and not force:
        raise ErasureRefusedError(
            " ".join(found)
            + " Nothing was erased. When it is settled, release the hold or close the incident; --force erases all "
            "the same, and the ledger says so."
        )
    chosen = pseudonym or f"erased-{secrets.token_hex(8)}"
    plan = Plan(list(person.names), chosen, why, by, bool(found), clock.written(clock.now()))
    path = plan_path(settings)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(path, msgspec.json.encode(plan), 0o600)
    return plan


def _check_journal(settings: Settings, journal: Journal) -> None:
    """Refuse while a batch is not in the state and in the event store: it would bring the person back."""
    covered = max(Snapshots(settings.state.resolved_path).positions(), default=0)
    if settings.events.enabled:
        covered = min(covered, last_batch(settings.events.resolved_path))
    if journal.last > covered:
        raise ErasureRefusedError(
            f"{journal.last - covered:,} batches in the journal are not scored and kept yet, and may name the person. Start "
            "`kubehabit serve`, wait until /readyz answers, stop it with SIGTERM, and call this again."
        )


def _carry_out(
    settings: Settings, plan: Plan, journal: Journal, say: Callable[[str], None]
) -> dict[str, int]:
    person = Person(plan.names[0], plan.names[1:])
    request = events.ErasureRequest(person, plan.pseudonym, plan.why, plan.by, plan.forced)
    state = settings.state.resolved_path
    done: dict[str, int] = {}

    def step(name: str, erased: Callable[[], int]) -> None:
        say(name)
        done[name] = erased()

    step("alerts", lambda: _alerts(settings, person, plan.pseudonym))
    step("snapshots", lambda: erase_from_snapshots(state, person, plan.pseudonym))
    step("idle principals", lambda: erase_idle(state / "principals.db", person))
    step("history", lambda: erase_history(settings.history.resolved_path(state), person))
    for what, path in text_files(settings):
        step(f"{what} ({path.name})", lambda path=path: _lines(path, person, plan.pseudonym))  # type: ignore[misc]
    journal.clear()
    if (settings.events.resolved_path / "ledger.jsonl").exists():
        # Last, as it ends with the line that says what was done.
        with closing(EventStore(settings.events.with_key())) as store:
            step("events", lambda: events.erase(store, request, settings.events.memory_mb))
            said: dict[str, Any] = {
                "pseudonym": plan.pseudonym,
                "why": plan.why,
                "by": plan.by,
                "forced": plan.forced,
            }
            store.note("erasure", begun=plan.begun, changed=done, **said)
            store.ship()  # files that were written again take the place of their copies
    return done


def _alerts(settings: Settings, person: Person, pseudonym: str) -> int:
    store = open_alerts(settings)
    if store is None:
        return 0
    with closing(store):
        found = erase_alerts(store, person, pseudonym)
    return len(found.alerts) + found.feedback + found.named


def _lines(path: Path, person: Person, pseudonym: str) -> int:
    """Put the pseudonym into the lines of a file; returns how many changed."""
    changed = 0
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        if not any(person.is_in(line) for line in file):
            return 0
        file.seek(0)
        with replacing(path, 0o600) as out:
            for line in file:
                new = person.replaced(line, pseudonym)
                changed += new != line
                out.write(new.encode("utf-8", "surrogateescape"))
    return changed


def hold(settings: Settings, principal: str, *, why: str, by: str, released: bool = False) -> None:
    """Put a person's records on hold, or release them; the ledger has a keyed hash of the name.

    Raises:
        KubehabitError: there is no event store, it cannot be written, or the reason names the person.
    """
    person = Person(principal)
    if not why.strip() or person.is_in(why) or person.is_in(by):
        raise KubehabitError(
            "The reason stays in the ledger for good: give one, and do not name the person in it."
        )
    folder = settings.events.resolved_path
    if not (folder / "ledger.jsonl").exists():
        raise KubehabitError(f"There is no event store in {folder}, whose ledger would note it.")
    events.note_hold(
        settings.events.with_key(), "released" if released else "held", principal, why=why, by=by
    )
