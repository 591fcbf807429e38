"""A principal's habits as one HTML page: no script, nothing loaded from anywhere, readable in light and in dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import islice

from data.fields import GAPS
from data.profile import Profile, Seen, clock, cut, deed_words, listed, rarest, top

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --page: #ffffff; --card: #f6f8fa;
  --bar: #2f6fd0; --weak: #c9dbf5; --alert: #b3361b; --fair: #1d7a4c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ef; --soft: #98a4b3; --line: #2c3643; --page: #12171e;
  --card: #1a212b; --bar: #6ea3f0; --weak: #27456f; --alert: #f08a6c; --fair: #62c394; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 25px; line-height: 1.25; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 34px 0 4px; }
p { margin: 4px 0 10px; max-width: 75ch; }
.soft, .note { color: var(--soft); }
.note { font-size: 13px; margin: 0 0 10px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 10px; margin: 18px 0 4px; }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.fact b { display: block; font-size: 18px; white-space: nowrap; font-variant-numeric: tabular-nums; }
.fact span { color: var(--soft); font-size: 13px; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); gap: 0 34px; align-items: start; }
.wide { overflow-x: auto; margin-bottom: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 12.5px; white-space: nowrap; }
th, td { padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.t { white-space: nowrap; font-variant-numeric: tabular-nums; color: var(--soft); }
td.x { overflow-wrap: anywhere; min-width: 170px; } td.t, th.t { padding-left: 14px; }
td.b { width: 20%; min-width: 70px; }
.m { display: block; height: 11px; margin-top: 6px; background: var(--bar); border-radius: 2px; min-width: 2px; }
code { font: 12.5px ui-monospace, monospace; color: var(--soft); overflow-wrap: anywhere; }
.bad { color: var(--alert); } .good { color: var(--fair); }
svg { display: block; width: 100%; min-width: 640px; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .v { fill: var(--bar); } svg .w { fill: var(--weak); } svg .a { stroke: var(--line); }
svg text.k { fill: var(--ink); } svg text.l { fill: var(--page); }
footer { margin-top: 44px; color: var(--soft); font-size: 13px; }
@media print { body { font-size: 12px; } h2 { break-after: avoid; } }
"""
_TIMELINE = 120
_BINS = (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 10080)
"""Widths of the timeline's bars, minutes."""

_ROWS = 20
_MATRIX = 14
_DAY = 1440
_NAMED_PEERS, _LISTED_PEERS = 3, 12
_DARK = 0.6


def _e(text: object) -> str:
    return escape(str(text), quote=True)


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _meter(count: int, most: int) -> str:
    return f'<span class="m" style="width:{100 * count / max(most, 1):.1f}%"></span>'


def _when(profile: Profile, time: int) -> str:
    """A time, no longer than the log's span makes it need to be."""
    text = clock(time)
    return text[11:] if clock(profile.first)[:10] == clock(profile.last)[:10] else text[:16]


def _count(number: int, one: str, many: str) -> tuple[str, str]:
    return _number(number), one if number == 1 else many


def _table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """A table; heads are (text, class of the column), cells are HTML."""
    head = "".join(f'<th class="{kind}">{_e(text)}</th>' for text, kind in heads)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{kind}">{cell}</td>' for (_, kind), cell in zip(heads, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _more(shown: int, total: int) -> str:
    return f'<p class="note">and {_number(total - shown)} more</p>' if total > shown else ""


def _bars(
    values: Sequence[float], labels: Mapping[int, str], titles: Sequence[str], height: int = 130
) -> str:
    """A bar chart: one bar a value, a label under some, a title on hover."""
    width, bottom, left = 1040, 22, 46
    most = max(values, default=0) or 1
    step = (width - left) / max(len(values), 1)
    parts = [
        f'<svg viewBox="0 0 {width} {height + bottom}" role="img">',
        f'<text x="{left - 6}" y="11" text-anchor="end">{_number(most)}</text>',
        f'<text x="{left - 6}" y="{height}" text-anchor="end">0</text>',
        f'<line class="a" x1="{left}" x2="{width}" y1="{height + 0.5}" y2="{height + 0.5}"/>',
    ]
    for index, value in enumerate(values):
        x, tall = left + index * step, (height - 4) * value / most
        if value:
            parts.append(
                f'<rect class="v" x="{x + step * 0.08:.1f}" y="{height - max(tall, 1.5):.1f}" width="{step * 0.84:.1f}" '
                f'height="{max(tall, 1.5):.1f}"><title>{_e(titles[index])}</title></rect>'
            )
        if index in labels:
            anchor = "start" if index == 0 and len(values) > 12 else "middle"
            place = x if anchor == "start" else x + step / 2
            parts.append(
                f'<text x="{place:.1f}" y="{height + 16}" text-anchor="{anchor}">{_e(labels[index])}</text>'
            )
    return _scrolled(parts)


def _scrolled(parts: Sequence[str]) -> str:
    """A drawing that scrolls sideways on a narrow screen instead of shrinking."""
    return f'<div class="wide">{"".join(parts)}</svg></div>'


def _timeline(profile: Profile) -> str:
    first, last = profile.first // 60_000_000, profile.last // 60_000_000
    span = last - first + 1
    size = next((size for size in _BINS if span <= size * _TIMELINE), -(-span // _TIMELINE))
    bins = [0] * -(-span // size)
    for minute, count in profile.minutes.items():
        bins[(minute - first) // size] += count
    form = "%H:%M" if span <= 2 * _DAY else "%d %b"
    titles, labels = [], {}
    for index, count in enumerate(bins):
        start = datetime.fromtimestamp((first + index * size) * 60, UTC)
        titles.append(f"{start:%Y-%m-%d %H:%M}: {count} actions")
        if index % max(1, len(bins) // 8) == 0 and index <= len(bins) - len(bins) // 16:
            labels[index] = start.strftime(form)
    unit = "minute" if size == 1 else f"{size} minutes" if size < 60 else f"{size / 60:.3g} hours"
    return f'<p class="note">actions in each {unit}, UTC</p>' + _bars(bins, labels, titles)


def _week(profile: Profile) -> str:
    """Hour of day x day of week, where the log is long enough to show one."""
    if profile.last - profile.first < 2 * _DAY * 60_000_000:
        return '<p class="note">The log covers less than two days, too little for hours of the day to mean anything.</p>'
    grid = [[0] * 24 for _ in range(7)]
    for minute, count in profile.minutes.items():
        at = datetime.fromtimestamp(minute * 60, UTC)
        grid[at.weekday()][at.hour] += count
    most = max(map(max, grid)) or 1
    parts = ['<svg viewBox="0 0 1040 216" role="img">']
    for day, name in enumerate(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")):
        parts.append(f'<text x="38" y="{day * 27 + 18}" text-anchor="end">{name}</text>')
        for hour in range(24):
            count = grid[day][hour]
            strength = 0.12 + 0.88 * (count / most) ** 0.5 if count else 0
            kind, opacity = (
                ("v", f' fill-opacity="{strength:.2f}"') if count else ("w", ' fill-opacity="0.15"')
            )
            parts.append(
                f'<rect class="{kind}"{opacity} x="{46 + hour * 41.4:.1f}" y="{day * 27 + 2}" width="38.5" height="24" rx="3">'
                f"<title>{name} {hour:02d}:00 UTC: {count} actions</title></rect>"
            )
    parts += [
        f'<text x="{46 + hour * 41.4 + 19:.1f}" y="206" text-anchor="middle">{hour:02d}</text>'
        for hour in range(24)
    ]
    return '<p class="note">hour of the day by day of the week, UTC; stronger is more</p>' + "".join(
        [*parts, "</svg>"]
    )


def _matrix(profile: Profile) -> str:
    """Resource x namespace; each cell lists its verbs on hover."""
    cells: dict[tuple[str, str], dict[str, int]] = {}
    paths = 0
    for (verb, resource, namespace), seen in profile.deeds.items():
        if resource.startswith("/"):
            paths += seen.count
            continue
        cells.setdefault((resource, namespace), {})[verb] = seen.count
    rows: dict[str, int] = {}
    columns: dict[str, int] = {}
    for (resource, namespace), verbs in cells.items():
        rows[resource] = rows.get(resource, 0) + sum(verbs.values())
        columns[namespace] = columns.get(namespace, 0) + sum(verbs.values())
    if not cells:
        return ""
    shown = [name for name, _ in sorted(rows.items(), key=lambda item: (-item[1], item[0]))[:_MATRIX]]
    across = [name for name, _ in sorted(columns.items(), key=lambda item: (-item[1], item[0]))[:_MATRIX]]
    most = max(sum(verbs.values()) for verbs in cells.values())
    left, top_, wide, tall = 290, 74, (1040 - 290 - 60) / max(len(across), 5), 22
    parts = [f'<svg viewBox="0 0 1040 {top_ + tall * len(shown) + 6}" role="img">']
    for column, namespace in enumerate(across):
        x = left + column * wide + wide / 2 - 4
        name = "(cluster)" if namespace == "-" else namespace
        parts.append(f'<text transform="translate({x:.1f},{top_ - 8}) rotate(-32)">{_e(name[:18])}</text>')
    for row, resource in enumerate(shown):
        y = top_ + row * tall
        parts.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{_e(cut(resource, 44))}</text>')
        for column, namespace in enumerate(across):
            verbs = cells.get((resource, namespace), {})
            count = sum(verbs.values())
            strength = f"{0.18 + 0.82 * (count / most) ** 0.35:.2f}" if count else "0.12"
            said = (
                ", ".join(f"{verb} {times:,}" for verb, times in sorted(verbs.items(), key=lambda i: -i[1]))
                or "never"
            )
            where = f"{resource} in {namespace}"
            parts.append(
                f'<rect class="{"v" if count else "w"}" fill-opacity="{strength}" x="{left + column * wide + 1:.1f}" y="{y + 1}" '
                f'width="{wide - 2:.1f}" height="{tall - 2}" rx="3"><title>{_e(where)}: {_e(said)}</title></rect>'
            )
            if count and wide > 34:
                shown_as = _number(count) if count < 10_000 else f"{count / 1000:.0f}k"
                ink = "l" if float(strength) > _DARK else "k"
                parts.append(
                    f'<text class="{ink}" x="{left + column * wide + wide / 2:.1f}" y="{y + 15}" '
                    f'text-anchor="middle">{shown_as}</text>'
                )
    hidden = f" The {_MATRIX} most frequent of each." if max(len(rows), len(columns)) > _MATRIX else ""
    if paths:
        hidden += f" Besides, {paths:,} requests to paths outside the resource API."
    return (
        f'<p class="note">actions by kind of object and namespace; the verbs show on hover.{hidden}</p>'
        + _scrolled(parts)
    )


def _deeds(profile: Profile) -> str:
    shown = top(profile.deeds, _ROWS)
    most = shown[0][1].count
    peers = len(profile.peers)
    rows = [
        (
            _e(deed_words(*deed)),
            _meter(seen.count, most),
            _number(seen.count),
            f"{seen.count / profile.actions:.1%}",
            f"{profile.peers_do.get(deed, 0)} of {peers}" if peers else "–",
            _when(profile, seen.last),
        )
        for deed, seen in shown
    ]
    heads = (("action", "x"), ("", "b"), ("times", "n"), ("share", "n"), ("peers do it", "n"), ("last", "t"))
    return _table(heads, rows) + _more(len(shown), len(profile.deeds))


def _simple(
    profile: Profile, title: str, name: str, table: Mapping[str, Seen], note: str = "", rows: int = 8
) -> str:
    """A ranked table of one field."""
    if not table:
        return ""
    shown = top(table, rows)
    most = shown[0][1].count
    cells = [
        (
            _e(key),
            _meter(seen.count, most),
            _number(seen.count),
            _when(profile, seen.first),
            _when(profile, seen.last),
        )
        for key, seen in shown
    ]
    heads = ((name, "x"), ("", "b"), ("times", "n"), ("first", "t"), ("last", "t"))
    said = f'<p class="note">{_e(note)}</p>' if note else ""
    return (
        f"<section><h2>{_e(title)}</h2>{said}{_table(heads, cells)}{_more(len(shown), len(table))}</section>"
    )


def _evidence(profile: Profile, title: str, note: str, rows: Sequence[tuple[str, Seen]]) -> str:
    """A table of single actions with the audit ID of the last of each."""
    heads = (("action", "x"), ("times", "n"), ("last", "t"), ("auditID of the last", "x"))
    cells = [
        (words, _number(seen.count), _when(profile, seen.last), f"<code>{_e(seen.audit_id)}</code>")
        for words, seen in rows
    ]
    return f'<h2>{_e(title)}</h2><p class="note">{_e(note)}</p>' + _table(heads, cells)


def _next(profile: Profile) -> str:
    starts = sorted(profile.next.items(), key=lambda item: (-sum(item[1].values()), item[0]))[:10]
    if not starts:
        return ""
    rows = []
    for (verb, resource), after in starts:
        total = sum(after.values())
        said = ", ".join(
            f"{_e(' '.join(deed))} <span class='soft'>{count / total:.0%}</span>"
            for deed, count in sorted(after.items(), key=lambda item: (-item[1], item[0]))[:3]
        )
        rows.append((_e(f"{verb} {resource}"), said, _number(total)))
    heads = (("after", "x"), ("comes most often, within ten minutes", "x"), ("seen", "n"))
    return f"<h2>What usually comes next</h2>{_table(heads, rows)}"


def _rhythm(profile: Profile) -> str:
    names = [gap for gap in GAPS if gap != "first"]
    counts = [profile.gaps[gap] for gap in names]
    if not sum(counts):
        return ""
    titles = [f"{gap}: {count:,} actions" for gap, count in zip(names, counts, strict=True)]
    return '<h2>Rhythm</h2><p class="note">time since its previous action</p>' + _bars(
        counts, dict(enumerate(names)), titles, 110
    )


def _behind(profile: Profile) -> str:
    if not profile.behind:
        return ""
    rows = [
        (_e(who), _e(deed_words(verb, resource, namespace)), _number(count))
        for (who, verb, resource, namespace), count in islice(
            sorted(profile.behind.items(), key=lambda item: (-item[1], item[0])), 12
        )
    ]
    heads = (("controller", "x"), ("did", "x"), ("times", "n"))
    note = "Objects that controllers made or changed because of what this principal wrote."
    return f'<h2>Done on its behalf</h2><p class="note">{note}</p>{_table(heads, rows)}{_more(len(rows), len(profile.behind))}'


def _refusals(profile: Profile) -> str:
    if not profile.refusals:
        return '<h2>Refusals</h2><p class="note">It was never refused anything.</p>'
    rows = [
        (f'<span class="bad">{_e(code)}</span> {_e(deed_words(verb, resource, namespace))}', seen)
        for (code, verb, resource, namespace), seen in top(profile.refusals, 12)
    ]
    total = sum(seen.count for seen in profile.refusals.values())
    note = f"{total:,} of {profile.actions:,} actions ({total / profile.actions:.1%}) were refused or failed."
    return _evidence(profile, "Refusals", note, rows) + _more(len(rows), len(profile.refusals))


def render(profile: Profile, sources: Sequence[str]) -> str:
    """The page.

    Args:
        profile: from `data.profile.gather`.
        sources: names of the logs it was gathered from.
    """
    name = profile.principal.name
    days = (profile.last - profile.first) / 86_400e6
    span = (
        f"{days:.1f} days"
        if days >= 2
        else f"{days * 24:.1f} hours"
        if days * 24 >= 2
        else f"{days * 1440:.0f} minutes"
    )
    when = f"{clock(profile.first)} to {clock(profile.last)} UTC"
    refused = sum(seen.count for seen in profile.refusals.values())
    facts = (
        _count(profile.actions, "action", "actions"),
        (span, "first to last"),
        _count(len(profile.deeds), "different action", "different actions"),
        _count(len({deed[2] for deed in profile.deeds} - {"-"}), "namespace", "namespaces"),
        _count(len(profile.clients), "client", "clients"),
        _count(len(profile.places), "address", "addresses"),
        (f"{refused / profile.actions:.1%}", "refused or failed"),
    )
    others = [alias for alias in profile.usernames if alias != name]
    tiles = "".join(
        f'<div class="fact"><b>{_e(value)}</b><span>{_e(what)}</span></div>' for value, what in facts
    )
    objects = {
        f"{resource} {called}" + (f" in {namespace}" if namespace != "-" else ""): seen
        for (resource, namespace, called), seen in profile.objects.items()
    }
    bodies = {
        f"{verb} {resource}: {traits.replace(',', ', ')}": seen
        for (verb, resource, traits), seen in profile.bodies.items()
    }
    rare = [(_e(deed_words(*deed)), seen) for deed, seen in rarest(profile.deeds, 15)]
    note = "Seen at most a tenth as often as its commonest action; the rarest and newest first."
    sections = (
        f"<h1>{_e(name)}</h1>",
        f'<p class="soft">{_e(profile.principal.kind)} · {when} · from {_e(", ".join(sources))}</p>',
        f'<p class="soft">Logged as {_e(listed(others))}; the identity rules make one of them.</p>'
        if others
        else "",
        f'<div class="facts">{tiles}</div>',
        _company(profile),
        f"<h2>When it acts</h2>{_timeline(profile)}{_week(profile)}",
        f"<h2>What it does</h2>{_matrix(profile)}{_deeds(profile)}",
        '<div class="two">',
        _simple(profile, "Clients", "client", profile.clients),
        _simple(profile, "Addresses", "address", profile.places),
        "</div>",
        _rhythm(profile),
        _next(profile),
        _evidence(profile, "Rarest actions", note, rare) if rare else "",
        _refusals(profile),
        '<div class="two">',
        _simple(
            profile, "Objects it touches most", "object", objects, "Generated parts of names are folded."
        ),
        _simple(profile, "Permissions it uses", "binding", profile.bindings),
        _simple(profile, "What its requests ask for", "traits of the body", bodies),
        _simple(profile, "Images", "repository", profile.images),
        _simple(profile, "Acts as", "impersonated", profile.masks),
        "</div>",
        _behind(profile),
    )
    body = "\n".join(section for section in sections if section)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Habits of {_e(name)}</title><style>{_STYLE}</style></head><body><main>
{body}
<footer>Made by <code>kubehabit data profile</code>. What Secrets and ConfigMaps hold is never read; times are UTC.</footer>
</main></body></html>
"""


def _company(profile: Profile) -> str:
    """Whom it is compared with, and why."""
    peers = "" if profile.peers else "It has no peers in this log."
    if len(profile.peers) > _NAMED_PEERS:
        left = len(profile.peers) - _LISTED_PEERS
        peers = f"Peers: {', '.join(profile.peers[:_LISTED_PEERS])}{f' and {left} more' if left > 0 else ''}"
    said = f'<p class="soft">{_e(peers)}</p>' if peers else ""
    return f"<h2>Whom it is compared with</h2><p>Peer group <b>{_e(profile.group)}</b>: it {_e(profile.reason)}.</p>{said}"
