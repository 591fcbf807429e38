"""What the event store answers, on a terminal. Texts of the log are shown as they are, not as markup."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kubehabit.tables import principals
from serving.api.forensics import document_of
from serving.forensics import clock
from serving.forensics.queries import EventFilter, Life, Newcomer, Top, Touch
from serving.forensics.records import EventRecord, what_of

if TYPE_CHECKING:
    from kubehabit.client.events import Answers

_SHOWN = 3
_NUMBERS = ("Times", "Actions", "Refused")


def console() -> Console:
    """Standard output. A pipe has no width, and a table cut at 80 columns is of no use in a file."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(width=200, highlight=False)


def print_json(content: object) -> None:
    """Print one JSON object, as the API answers."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n")


def json_line(record: EventRecord) -> str:
    """An event as the API gives it, on one line."""
    return msgspec.json.encode(document_of(record, original=False)).decode() + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold", justify="right" if head in _NUMBERS else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def touched(
    found: Sequence[Touch], wanted: EventFilter, what: str | None, since: str, answers: Answers
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
        console().print(f"Nobody touched {escape(object_)} since {since}.{_reach(answers)}")
        return
    heads = ("Who", "Did", "Times", "Refused", "First", "Last", "From", "With")
    console().print(_table(heads, [_touch_row(one, wanted) for one in found]))
    people = len({one.principal for one in found})
    console().print(
        f"\n{people} principals touched {escape(object_)} since {since} (times are UTC).{_reach(answers)}\n"
        f"Next: kubehabit principal {escape(found[0].principal)} --since {since}"
    )


def _touch_row(one: Touch, wanted: EventFilter) -> tuple[str, ...]:
    did = one.verb + (f" {one.subresource}" if one.subresource else "")
    if one.how == "list":
        did += f" (of all {wanted.resource})"
    who = one.principal + (f" as {', '.join(one.acted_as)}" if one.acted_as else "")
    refused = one.count - one.allowed
    return (
        who,
        did,
        f"{one.count:,}",
        f"{refused:,}" if refused else "",
        _short(one.first),
        _short(one.last),
        _few(one.addresses),
        _few(one.user_agents),
    )


def newcomers(found: Sequence[Newcomer], namespace: str, since: str, answers: Answers) -> None:
    """Print who is new in a namespace; arguments as for `touched`."""
    place = escape(namespace)
    if not found:
        console().print(
            f"Nobody came to {place} since {since} who had not been there before.{_reach(answers)}"
        )
        return
    heads = ("Who", "First here", "Actions", "Refused", "Did", "To", "From", "In the cluster since")
    console().print(_table(heads, [_newcomer_row(one) for one in found]))
    console().print(
        f"\n{len(found)} principals came to {place} since {since} and were never seen in it before (times are UTC)."
        f"{_reach(answers)}\nNext: kubehabit events --namespace {place} --principal {escape(found[0].principal)}"
    )


def _newcomer_row(one: Newcomer) -> tuple[str, ...]:
    refused = one.count - one.allowed
    return (
        one.principal,
        _short(one.first),
        f"{one.count:,}",
        f"{refused:,}" if refused else "",
        _few(one.verbs, 6),
        _few(one.resources, 6),
        _few(one.addresses),
        _short(one.known_since),
    )


def events(records: Sequence[EventRecord], answers: Answers) -> None:
    """Print events, one a row."""
    if not records:
        console().print(f"No such event.{_reach(answers)}")
        return
    heads = ("Time (UTC)", "Who", "Did", "Answer", "From", "With", "Audit ID")
    console().print(_table(heads, [_event_row(record) for record in records]))


def _event_row(record: EventRecord) -> tuple[str, ...]:
    who = record.principal + (f" as {record.impersonated}" if record.impersonated else "")
    return (
        clock.written(record.time)[:23].replace("T", " "),
        who,
        f"{record.verb} {what_of(record._asdict())}",
        str(record.code or record.stage),
        record.source_ips.partition(",")[0],
        record.user_agent.partition(" ")[0],
        record.audit_id,
    )


def principal(found: Life, past: Mapping[str, Any]) -> None:
    """Print what a principal did, its habits, how unusual it was over time, and how its peers differ.

    Args:
        found: what it did, in numbers.
        past: `habits`, `surprise` and `peers`, as `kubehabit.client.events.Answers.past` gives them.
    """
    screen = console()
    _life(screen.print, found)
    screen.print(principals.habits_screen(past["habits"]))
    if past["surprise"] is not None:
        screen.print(principals.surprise_screen(past["surprise"]))
        screen.print(principals.peers_screen(past["peers"]))
    if found.alerts:
        screen.print(f"\n[bold]Alerts[/bold]  {', '.join(found.alerts)}")
        screen.print(f"Next: kubehabit evidence --alert {found.alerts[0]} --out evidence")


def _life(write: Callable[[str], None], found: Life) -> None:
    refused = found.count - found.allowed
    write(f"[bold]{escape(found.principal)}[/bold]")
    write(
        f"{found.count:,} events, {refused:,} refused or failed, from {_short(found.first)} to {_short(found.last)} (UTC)"
    )
    names = [] if [top.value for top in found.user_names] == [found.principal] else found.user_names
    parts: Sequence[tuple[str, list[Top]]] = (
        ("Did", found.did),
        ("In namespaces", found.namespaces),
        ("From", found.addresses),
        ("With", found.user_agents),
        ("Credentials", found.credentials),
        ("Logged as", names),
    )
    for head, tops in parts:
        if tops:
            write(f"\n[bold]{head}[/bold]")
            for top in tops:
                write(f"  {top.count:>10,}  {escape(top.value)}")


def _reach(answers: Answers) -> str:
    """How far back the answer reaches."""
    earliest = answers.earliest()
    if earliest is None:
        return " The store is empty."
    return f" The store begins {_short(clock.written(earliest))} UTC."


def _short(time: str) -> str:
    return time[:19].replace("T", " ")


def _few(values: Sequence[str], most: int = _SHOWN) -> str:
    shown = [value.partition(" ")[0] for value in values[:most]]
    more = len(values) - most
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
