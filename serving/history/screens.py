"""Principals, the model and its preview on a terminal. Texts of the log are shown as they are, not as markup."""

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


def _when(text: str | None) -> str:
    """A time of the API (RFC 3339, UTC) to the minute."""
    return "" if not text else text[:16].replace("T", " ")


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _table(*heads: str, right: Sequence[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, overflow="fold", justify="right" if place in right else "left")
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}" if share >= 0.01 or not share else f"{share:.2%}"


def _rate(count: float | None) -> str:
    return "-" if count is None else f"{count:,.1f}"


# -- principals -------------------------------------------------------------------------------------------------


def principals_table(page: Json) -> RenderableType:
    """Principals, one a row."""
    rows = page["principals"]
    if not rows:
        return Text("No such principal.")
    table = _table(
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
            _when(one["lastSeen"]),
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
    parts: list[RenderableType] = [_heading("When it acts"), *week(habits["week"])]
    for head, name in (
        ("On which objects", "objects"),
        ("From which addresses", "addresses"),
        ("With which clients", "userAgents"),
    ):
        if habits[name]:
            table = _table("", "times", "refused", "first seen (UTC)", "last seen (UTC)", right=(1, 2))
            for one in habits[name][:_SHOWN]:
                refused = f"{one['refused']:,}" if one["refused"] else ""
                table.add_row(
                    Text(one["value"]), f"{one['count']:,}", refused, _when(one["first"]), _when(one["last"])
                )
            parts += [_heading(head), table]
    if habits["refusals"]:
        table = _table("answer", "what", "where", "times", "last (UTC)", right=(3,))
        for one in habits["refusals"][:_SHOWN]:
            what = Text(f"{one['verb']} {one['resource']}")
            table.add_row(
                str(one["code"]), what, Text(one["namespace"]), f"{one['count']:,}", _when(one["last"])
            )
        parts += [_heading("What it was refused, or failed"), table]
    return Group(*parts)


def surprise_screen(surprise: Json) -> RenderableType:
    """How near somebody came to its threshold, day by day."""
    if not surprise["days"]:
        return Text("\nIt did nothing since the history began.")
    table = _table(
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
        _heading("How unusual it was"),
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
        return Text("\nIt is compared with nobody: its peer group has no other member.")
    names = ", ".join(peers["peers"][:4]) + (
        f" and {len(peers['peers']) - 4} more" if len(peers["peers"]) > 4 else ""
    )
    parts: list[RenderableType] = [_heading("Beside its peers"), Text(f"  compared with {names}")]
    for head, name in (("only it does", "onlyIt"), ("peers do, and it does not", "onlyPeers")):
        if peers[name]:
            told = ", ".join(f"{one['verb']} {one['resource']}" for one in peers[name][:_SHOWN])
            more = len(peers[name]) - _SHOWN
            parts.append(Text(f"  {head}: {told}" + (f" and {more} more" if more > 0 else "")))
    return Group(*parts)


# -- the model --------------------------------------------------------------------------------------------------


def model_screen(told: Json) -> RenderableType:
    """The model, what it learned from, and whether it still fits."""
    model, drift = told["model"], told["drift"]
    bundle = model["bundle"]
    data = bundle.get("data") or {}
    test = model["selfTest"]
    watch, challenger = model.get("watch"), model.get("challenger")
    lines = [
        ("Serves", f"{model['name']} version {model['version']}" + (f" ({watch['alias']})" if watch else "")),
        ("Loaded", _when(model["loaded"]) + f" UTC, from {model['source']}"),
        ("Trained", _when(bundle.get("created"))),
        (
            "On",
            f"{data.get('actions', 0):,} actions of {bundle.get('principals', 0):,} principals, {_when(data.get('first'))} to "
            f"{_when(data.get('last'))}, data {str(data.get('fingerprint', ''))[:12]}",
        ),
        (
            "Self-test",
            "none in this bundle"
            if not test
            else f"{test['windows']} windows, off by {test['worstDifference']:.2g} nats at most ({test['tolerance']:g} allowed)",
        ),
        ("Threshold", f"{told['scale']:g} of the calibrated one (alerts.threshold_scale)"),
    ]
    if model.get("notice"):
        lines.append(("Notice", model["notice"]))
    for refused in (watch or {}).get("refused", []):
        lines.append(("Refused", f"version {refused['version']}: {refused['reason']}"))
    if challenger:
        lines.append(
            (
                "Challenger",
                f"version {challenger['version']}: {challenger['flaggedByBoth']:,} flagged by both, "
                f"{challenger['flaggedByChampionOnly']:,} by the champion only, "
                f"{challenger['flaggedByChallengerOnly']:,} by it alone",
            )
        )
    lines.append(("Drift", drift["sentence"] if drift else "Nothing was scored yet."))
    table = _table("", "")
    table.show_header = False
    for head, text in lines:
        table.add_row(Text(head, style="bold"), Text(text))
    next_ = Text("\nNext: kubehabit model --preview, for what other thresholds would have given", style="dim")
    return Group(table, next_)


def preview_screen(preview: Json) -> RenderableType:
    """What other thresholds would have given."""
    covered = preview["coveredDays"]
    parts: list[RenderableType] = [
        Text(
            f"What {covered:.1f} days would have given ({_when(preview['since'])} to {_when(preview['until'])} UTC). This "
            "changes nothing.",
            style="bold",
        ),
        Text(""),
    ]
    table = _table(
        "threshold", "alerts", "a day", "incidents", "a day", "unusual actions", right=(0, 1, 2, 3, 4, 5)
    )
    for one in preview["curve"]:
        now = one["scale"] == preview["now"]["scale"]
        table.add_row(*_count_row(one), style="bold" if now else "")
    parts.append(table)
    parts.append(Text(f"\nIn force is {preview['now']['scale']:g}.", style="dim"))
    wanted = preview["wanted"]
    if wanted:
        asked = f" for at most {preview['perDay']:g} alerts a day" if preview["perDay"] else ""
        told = f"{wanted['alerts']:,} alerts and {wanted['incidents']:,} incidents"
        parts.append(_heading(f"Threshold {wanted['scale']:g}{asked}: {told}"))
        if wanted["loudest"]:
            loud = _table("loudest", "alerts", "unusual actions", right=(1, 2))
            for one in wanted["loudest"]:
                loud.add_row(Text(one["principal"]), f"{one['alerts']:,}", f"{one['actions']:,}")
            parts.append(loud)
        parts.append(Text(f"\n{preview['setting']}"))
    parts += [Text(f"- {note}", style="dim") for note in preview["notes"]]
    return Group(*parts)


def _count_row(one: Json) -> tuple[str, ...]:
    return (
        f"{one['scale']:g}",
        f"{one['alerts']:,}",
        _rate(one["alertsPerDay"]),
        f"{one['incidents']:,}",
        _rate(one["incidentsPerDay"]),
        f"{one['actions']:,}",
    )
