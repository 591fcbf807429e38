"""What the event store answers, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from rich.console import RenderableType

from kubehabit.tables import principals
from kubehabit.tables.screen import Json, few, heading, line, new_table, number, show, when
from serving.api.forensics import document_of
from serving.forensics import clock
from serving.forensics.queries import EventFilter, Life, Newcomer, Touch
from serving.forensics.records import EventRecord, what_of

if TYPE_CHECKING:
    from kubehabit.client.events import EventAnswers


def json_line(record: EventRecord) -> str:
    """An event as the API gives it, on one line."""
    return msgspec.json.encode(document_of(record, original=False)).decode()


def touched(
    found: Sequence[Touch], wanted: EventFilter, what: str | None, since: str, answers: EventAnswers
) -> None:
    """Print who touched an object.

    Args:
        found: one row a principal and way.
        wanted: what was asked.
        what: the object as it was written.
        since: the start as it was written.
        answers: knows how far back the answer reaches.
    """
    object_ = f"{wanted.resource} {what}" if what else str(wanted.resource)
    if not found:
        show(f"Nobody touched {object_} since {since}.{_reach(answers)}")
        return
    heads = ("Who", "Did", "Times", "Denied", "First", "Last", "Source IP", "Client")
    people = len({one.principal for one in found})
    show(
        new_table(*heads, rows=[_touch_row(one, wanted) for one in found], right=(2, 3)),
        "",
        f"{people} principals touched {object_} since {since} (times are UTC).{_reach(answers)}",
        f"Next: kubehabit principal {found[0].principal} --since {since}",
    )


def _touch_row(one: Touch, wanted: EventFilter) -> tuple[str, ...]:
    return (
        one.principal + (f" as {', '.join(one.acted_as)}" if one.acted_as else ""),
        one.verb
        + (f" {one.subresource}" if one.subresource else "")
        + (f" (of all {wanted.resource})" if one.how == "list" else ""),
        f"{one.count:,}",
        number(one.count - one.allowed),
        when(one.first),
        when(one.last),
        _few(one.addresses),
        _few(one.user_agents),
    )


def newcomers(found: Sequence[Newcomer], namespace: str, since: str, answers: EventAnswers) -> None:
    """Print who is new in a namespace; arguments as for `touched`."""
    if not found:
        show(f"Nobody came to {namespace} since {since} who had not been there before.{_reach(answers)}")
        return
    heads = ("Who", "First here", "Actions", "Denied", "Did", "To", "Source IP", "First seen")
    rows = [
        (
            one.principal,
            when(one.first),
            f"{one.count:,}",
            number(one.count - one.allowed),
            _few(one.verbs, 6),
            _few(one.resources, 6),
            _few(one.addresses),
            when(one.known_since),
        )
        for one in found
    ]
    show(
        new_table(*heads, rows=rows, right=(2, 3)),
        "",
        f"{len(found)} principals came to {namespace} since {since} and were never seen in it before (times are UTC)."
        f"{_reach(answers)}",
        f"Next: kubehabit events --namespace {namespace} --principal {found[0].principal}",
    )


def events(records: Sequence[EventRecord], answers: EventAnswers) -> None:
    """Print events, one a row."""
    heads = ("Time (UTC)", "Who", "Did", "Status", "Source IP", "Client", "Audit ID")
    rows = [
        (
            when(clock.written(record.time), 23),
            record.principal + (f" as {record.impersonated}" if record.impersonated else ""),
            f"{record.verb} {what_of(record._asdict())}",
            str(record.code or record.stage),
            record.source_ips.partition(",")[0],
            record.user_agent.partition(" ")[0],
            record.audit_id,
        )
        for record in records
    ]
    show(new_table(*heads, rows=rows) if rows else f"No such event.{_reach(answers)}")


def principal(found: Life, past: Json) -> None:
    """Print what a principal did, its habits, how unusual it was over time, and how its peers differ.

    Args:
        found: what it did, in numbers.
        past: `habits`, `surprise` and `peers`, as `EventAnswers.past` gives them.
    """
    parts = [*_life(found), principals.habits_screen(past["habits"])]
    if past["surprise"] is not None:
        parts += [principals.surprise_screen(past["surprise"]), principals.peers_screen(past["peers"])]
    if found.alerts:
        parts += [
            heading("Alerts"),
            line(f"  {', '.join(found.alerts)}"),
            line(f"Next: kubehabit evidence --alert {found.alerts[0]} --out evidence"),
        ]
    show(*parts)


def _life(found: Life) -> list[RenderableType]:
    refused = found.count - found.allowed
    names = [] if [top.value for top in found.user_names] == [found.principal] else found.user_names
    parts = [
        line(found.principal, "bold"),
        line(
            f"{found.count:,} events, {refused:,} denied or failed, from {when(found.first)} to {when(found.last)} (UTC)"
        ),
    ]
    for head, tops in (
        ("Did", found.did),
        ("In namespaces", found.namespaces),
        ("Source IPs", found.addresses),
        ("Clients", found.user_agents),
        ("Credentials", found.credentials),
        ("Logged as", names),
    ):
        if tops:
            parts += [heading(head), *(line(f"  {top.count:>10,}  {top.value}") for top in tops)]
    return parts


def _reach(answers: EventAnswers) -> str:
    """How far back the answer reaches."""
    earliest = answers.earliest()
    return (
        " The store is empty."
        if earliest is None
        else f" The store begins {when(clock.written(earliest))} UTC."
    )


def _few(values: Sequence[str], most: int = 3) -> str:
    """The first words of some values, such as the names of clients."""
    return few([value.partition(" ")[0] for value in values], most)
