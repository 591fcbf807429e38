"""Principals and their habits on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from kubehabit.tables.screen import Json, few, heading, line, new_table, number, when, with_more

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SHADES = " ░▒▓█"
_BAR = 30
_MOST_DAYS = 14
_SHOWN = 8
_MINUTE = 16


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}" if share >= 0.01 or not share else f"{share:.2%}"


def principals_table(page: Json) -> RenderableType:
    """Principals, one a row."""
    rows = [
        (
            one["principal"],
            one["kind"],
            one["peerGroup"],
            when(one["lastSeen"], _MINUTE),
            f"{one['actions']:,}",
            number(one["flagged"]),
            _percent(one["nearest"]),
        )
        for one in page["principals"]
    ]
    if not rows:
        return "No such principal."
    heads = ("principal", "kind", "compared with", "last seen (UTC)", "actions", "unusual", "nearest")
    note = (
        f"{len(rows):,} of {page['total']:,}. Nearest: the greatest share of its alert threshold that an action reached in "
        "the last 7 days; 100% is an alert."
    )
    next_ = f"Next: kubehabit principal {rows[0][0]}"
    table = new_table(*heads, rows=rows, right=(4, 5, 6))
    return with_more(Group(table, "", line(note, "dim"), line(next_, "dim")), page["cursor"] or None)


def week(counts: Sequence[Sequence[int]]) -> list[RenderableType]:
    """When a principal acts: a line for each day of the week, a character for each hour of the day (UTC)."""
    most = max(max(day) for day in counts)
    lines = [line("      0     6     12    18    (hour, UTC)", "dim")]
    for name, day in zip(_DAYS, counts, strict=True):
        # What happened at all is never shown as nothing.
        shades = "".join(_SHADES[0 if not one else 1 + min(3, 3 * one // max(most, 1))] for one in day)
        lines.append(line(f"  {name} {shades}  {sum(day):,}"))
    return lines


def habits_screen(habits: Json) -> RenderableType:
    """When a principal acts, on what, from where and with what, and what it was refused."""
    parts: list[RenderableType] = [heading("When it acts"), *week(habits["week"])]
    for head, name in (
        ("On which objects", "objects"),
        ("From which addresses", "addresses"),
        ("With which clients", "userAgents"),
    ):
        rows = [
            (
                one["value"],
                f"{one['count']:,}",
                number(one["refused"]),
                when(one["first"], _MINUTE),
                when(one["last"], _MINUTE),
            )
            for one in habits[name][:_SHOWN]
        ]
        if rows:
            heads = ("", "times", "refused", "first seen (UTC)", "last seen (UTC)")
            parts += [heading(head), new_table(*heads, rows=rows, right=(1, 2))]
    refusals = [
        (
            str(one["code"]),
            f"{one['verb']} {one['resource']}",
            one["namespace"],
            f"{one['count']:,}",
            when(one["last"], _MINUTE),
        )
        for one in habits["refusals"][:_SHOWN]
    ]
    if refusals:
        heads = ("status", "what", "where", "times", "last (UTC)")
        parts += [heading("Denied or failed requests"), new_table(*heads, rows=refusals, right=(3,))]
    return Group(*parts)


def surprise_screen(surprise: Json) -> RenderableType:
    """How near a principal came to its threshold, day by day."""
    if not surprise["days"]:
        return heading("It did nothing since the history began.", "")
    rows = []
    for one in surprise["days"][-_MOST_DAYS:]:
        filled = round(_BAR * min(one["nearest"], 1.0))
        bar = line("█" * filled + "·" * (_BAR - filled), "red" if one["flagged"] else "")
        nearest, typical = _percent(one["nearest"]), _percent(one["typical"])
        rows.append((one["at"][:10], bar, nearest, number(one["flagged"]), typical, f"{one['actions']:,}"))
    heads = ("day (UTC)", "nearest to an alert", "", "unusual", "typical", "actions")
    note = (
        "Nearest: share of its alert threshold that the most unusual action reached. Typical: surprise of the middle action, "
        "as a share of what one in twenty reached in training."
    )
    return Group(
        heading("How unusual it was"), new_table(*heads, rows=rows, right=(2, 3, 4, 5)), line(note, "dim")
    )


def peers_screen(peers: Json) -> RenderableType:
    """What a principal does that its peers do not, and the other way round."""
    if not peers["peers"]:
        return heading("There are no peers to compare with: its peer group has no other member.", "")
    parts = [heading("Compared with peers"), line(f"  compared with {few(peers['peers'], 4)}")]
    for head, name in (("only this principal", "onlyIt"), ("only peers", "onlyPeers")):
        if peers[name]:
            actions = [f"{one['verb']} {one['resource']}" for one in peers[name]]
            parts.append(line(f"  {head}: {few(actions, _SHOWN)}"))
    return Group(*parts)
