"""Principals and their habits on a terminal. Texts of the log are shown as they are, not as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SHADES = " ░▒▓█"
_BAR = 30
_MOST_DAYS = 14
_SHOWN = 8


def when(text: str | None) -> str:
    """A time of the API (RFC 3339, UTC) to the minute."""
    return "" if not text else text[:16].replace("T", " ")


def heading(text: str) -> Text:
    """Heading of a part of a page."""
    return Text(f"\n{text}", style="bold")


def new_table(*heads: str, right: Sequence[int] = ()) -> Table:
    """An empty table; columns in `right` are aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, overflow="fold", justify="right" if place in right else "left")
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}" if share >= 0.01 or not share else f"{share:.2%}"


def principals_table(page: Json) -> RenderableType:
    """Principals, one a row."""
    rows = page["principals"]
    if not rows:
        return Text("No such principal.")
    table = new_table(
        "principal",
        "kind",
        "compared with",
        "last seen (UTC)",
        "actions",
        "unusual",
        "nearest",
        right=(4, 5, 6),
    )
    for one in rows:
        table.add_row(
            Text(one["principal"]),
            one["kind"],
            Text(one["peerGroup"]),
            when(one["lastSeen"]),
            f"{one['actions']:,}",
            f"{one['flagged']:,}" if one["flagged"] else "",
            _percent(one["nearest"]),
        )
    parts: list[RenderableType] = [
        table,
        Text(
            f"\n{len(rows):,} of {page['total']:,}. Nearest: the greatest share of its alert threshold that an action reached in "
            "the last 7 days; 100% is an alert.\n"
            f"Next: kubehabit principal {rows[0]['principal']}",
            style="dim",
        ),
    ]
    if page["cursor"]:
        parts.append(
            Text(
                f"There are more: the same with --cursor {page['cursor']}, or a larger --limit.", style="dim"
            )
        )
    return Group(*parts)


def week(counts: Sequence[Sequence[int]]) -> list[Text]:
    """When somebody acts: a line for each day of the week, a character for each hour of the day (UTC)."""
    most = max(max(day) for day in counts)
    lines = [Text("      0     6     12    18    (hour, UTC)", style="dim")]
    for name, day in zip(_DAYS, counts, strict=True):
        # What happened at all is never shown as nothing.
        shades = "".join(_SHADES[0 if not one else 1 + min(3, 3 * one // max(most, 1))] for one in day)
        lines.append(Text(f"  {name} {shades}  {sum(day):,}"))
    return lines


def habits_screen(habits: Json) -> RenderableType:
    """When, where, what, from where and with what somebody acts, and what it was refused."""
    parts: list[RenderableType] = [heading("When it acts"), *week(habits["week"])]
    for head, name in (
        ("On which objects", "objects"),
        ("From which addresses", "addresses"),
        ("With which clients", "userAgents"),
    ):
        if habits[name]:
            table = new_table("", "times", "refused", "first seen (UTC)", "last seen (UTC)", right=(1, 2))
            for one in habits[name][:_SHOWN]:
                refused = f"{one['refused']:,}" if one["refused"] else ""
                table.add_row(
                    Text(one["value"]), f"{one['count']:,}", refused, when(one["first"]), when(one["last"])
                )
            parts += [heading(head), table]
    if habits["refusals"]:
        table = new_table("answer", "what", "where", "times", "last (UTC)", right=(3,))
        for one in habits["refusals"][:_SHOWN]:
            what = Text(f"{one['verb']} {one['resource']}")
            table.add_row(
                str(one["code"]), what, Text(one["namespace"]), f"{one['count']:,}", when(one["last"])
            )
        parts += [heading("Denied or failed requests"), table]
    return Group(*parts)


def surprise_screen(surprise: Json) -> RenderableType:
    """How near somebody came to its threshold, day by day."""
    if not surprise["days"]:
        return Text("\nIt did nothing since the history began.")
    table = new_table(
        "day (UTC)", "nearest to an alert", "", "unusual", "typical", "actions", right=(2, 3, 4, 5)
    )
    for one in surprise["days"][-_MOST_DAYS:]:
        filled = round(_BAR * min(one["nearest"], 1.0))
        table.add_row(
            one["at"][:10],
            Text("█" * filled + "·" * (_BAR - filled), style="red" if one["flagged"] else ""),
            _percent(one["nearest"]),
            f"{one['flagged']:,}" if one["flagged"] else "",
            _percent(one["typical"]),
            f"{one['actions']:,}",
        )
    return Group(
        heading("How unusual it was"),
        table,
        Text(
            "Nearest: share of its alert threshold that the most unusual action reached. Typical: surprise of the middle action, "
            "as a share of what one in twenty reached in training.",
            style="dim",
        ),
    )


def peers_screen(peers: Json) -> RenderableType:
    """What a principal does that its peers do not, and the other way round."""
    if not peers["peers"]:
        return Text("\nThere are no peers to compare with: its peer group has no other member.")
    names = ", ".join(peers["peers"][:4]) + (
        f" and {len(peers['peers']) - 4} more" if len(peers["peers"]) > 4 else ""
    )
    parts: list[RenderableType] = [heading("Compared with peers"), Text(f"  compared with {names}")]
    for head, name in (("only this principal", "onlyIt"), ("only peers", "onlyPeers")):
        if peers[name]:
            told = ", ".join(f"{one['verb']} {one['resource']}" for one in peers[name][:_SHOWN])
            more = len(peers[name]) - _SHOWN
            parts.append(Text(f"  {head}: {told}" + (f" and {more} more" if more > 0 else "")))
    return Group(*parts)
