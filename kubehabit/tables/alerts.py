"""Alerts and incidents on a terminal: tables for many, a page for one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from kubehabit.tables.screen import ItemList, Json, heading, items, line, new_table, when, with_more

if TYPE_CHECKING:
    from serving.rollout.score_file import ScoredLog

SEVERITY_STYLES = {"low": "cyan", "medium": "yellow", "high": "red", "critical": "bold red"}
_SESSION_LISTED = 8
_EDGES = 40
#: Roles of an action in a session: in words, and how it is shown.
_ROLES = {
    "flagged": ("flagged", "bold"),
    "contributor": ("contributed", ""),
    "session": ("in between", "dim"),
    "before": ("just before", "dim"),
}
_STATES = {"open": "bold", "closed": "dim", "merged": "dim"}


def _severity(name: str | None) -> RenderableType:
    return line(name or "", SEVERITY_STYLES.get(name or "", ""))


def alerts_table(page: Json) -> RenderableType:
    """A page of alerts, one a row."""
    rows = [
        (
            when(one["firstSeen"]),
            _severity(one["severity"]),
            one["sentence"],
            f"{one['actionCount']:,}",
            one["id"],
        )
        for one in page["alerts"]
    ]
    heads = ("when (UTC)", "severity", "what happened", "actions", "id")
    return (
        with_more(ItemList(*heads, rows=rows, text=2, right=(3,)), page["cursor"]) if rows else "No alerts."
    )


def scored_log(scored: ScoredLog) -> RenderableType:
    """The alerts of a log that was scored, and the totals."""
    model = scored.model
    left_out = scored.left_out
    missing = (
        f" {left_out.unreadable:,} record{'' if left_out.unreadable == 1 else 's'} unreadable,"
        f" {left_out.skipped.total():,} skipped."
        if left_out.sentence()
        else ""
    )
    totals = line(
        f"{scored.events:,} events, {scored.actions:,} actions, {len(scored.alerts):,} alerts; model {model.name} version "
        f"{model.version}.{missing} Use --json for audit IDs, reasons and next steps."
    )
    rows = [
        (one.first_seen.strftime("%Y-%m-%d %H:%M:%S"), _severity(one.severity), one.sentence)
        for one in scored.alerts
    ]
    found = [ItemList("when (UTC)", "severity", "what happened", rows=rows, text=2)] if rows else []
    return Group(*found, totals)


def incidents_table(page: Json) -> RenderableType:
    """A page of incidents, one a row."""
    rows = [
        (
            when(one.get("firstSeen")),
            _severity(one.get("severity")),
            line(one["state"], _STATES.get(one["state"], "")),
            f"Merged into {one['mergedInto']}." if one["state"] == "merged" else one["sentence"],
            f"{one['alertCount']:,}",
            one["id"],
        )
        for one in page["incidents"]
    ]
    heads = ("began (UTC)", "severity", "state", "what happened", "alerts", "id")
    return (
        with_more(ItemList(*heads, rows=rows, text=3, right=(4,)), page["cursor"])
        if rows
        else "No incidents."
    )


def _actions(actions: Iterable[Json]) -> Table:
    rows = []
    for action in actions:
        news = f" (new: {', '.join(action['news'])})" if action.get("news") else ""
        role, style = _ROLES.get(action["role"], (action["role"], "dim"))
        rows.append((action["time"][11:23], role, line(action["did"] + news, style), action["auditID"]))
    heads = ("when (UTC)", "why it is here", "what", "audit ID")
    table = new_table(*heads, rows=rows, expand=True)
    table.columns[0].no_wrap = True
    return table


def alert_page(alert: Json) -> RenderableType:
    """One alert: the sentence, what added up, what was expected, and what to do."""
    contributors = [f"{when(one['time'])}  {one['did']}" for one in alert.get("contributors") or ()]
    flagged = [f"{when(one['time'])}  {one['did']}  [{one['auditID']}]" for one in alert["actions"]]
    return Group(
        line(alert["sentence"], "bold"),
        line(_facts(alert), "dim"),
        *items("What contributed to it, each less suspicious", contributors),
        *items("What was flagged", flagged),
        *items("What was expected instead", alert["expected"]),
        *_ending(alert),
    )


def _facts(one: Json) -> str:
    return f"severity {one['severity']}: {'; '.join(one['severityReasons'])}; id {one['id']}"


def _ending(one: Json) -> list[RenderableType]:
    """Techniques, checks and terms, which end the page of an alert and of an incident."""
    techniques = [f"{each['id']} {each['name']} ({each['tactic']})" for each in one.get("techniques") or ()]
    parts = items("ATT&CK techniques (for Containers)", techniques)
    parts.append(
        heading("What to do (commands are for you to run; nothing is run by kubehabit)", "bold underline")
    )
    for check in one["checks"]:
        parts.append(line(f"- [{'contain' if check['kind'] == 'contain' else 'look'}] {check['text']}"))
        if check.get("command"):
            parts.append(line(f"      {check['command']}", "green"))
    terms = one.get("terms") or {}
    return parts + items("Glossary", (f"{term}: {meaning}" for term, meaning in terms.items()))


def incident_page(one: Json) -> RenderableType:
    """One incident: where it began, each session, how it spread, what followed, what to do, and what people did with it."""
    if one["state"] == "merged":
        return Group(line(f"Incident {one['id']} was merged into {one['mergedInto']}."), *_trail(one))
    parts: list[RenderableType] = [
        line(one["sentence"], "bold"),
        line(f"{one['state']}, {_facts(one)}", "dim"),
    ]
    source = one.get("source")
    if source:
        parts += [
            heading("Where it began", "bold underline"),
            line(f"{source['who']}, {when(source['time'])} UTC: {source['did']}  [{source['auditID']}]"),
            line(
                f"with {source['credential']}, from {source['address'] or 'an unknown address'}, client {source['client']}"
            ),
            line(f"{source['confidence']}: {source['why']}", "dim"),
        ]
    for session in one["sessions"]:
        parts += _session(session)
    ties = [
        f"{tie['source']} -> {tie['target']}: {tie['kind']}{' through ' + tie['via'] if tie['via'] else ''}; "
        f"{tie['confidence']}: {tie['why']}"
        for tie in one["ties"][:_EDGES]
    ]
    consequences = [
        f"{edge['source'].partition(':')[2]} -> {edge['did']} ({edge['count']:,} times; {edge['confidence']})"
        for edge in one["consequences"][:_EDGES]
    ]
    parts += items("Who may have come to act as whom", ties)
    parts += items("What the cluster did automatically because of it", consequences)
    return Group(*parts, *_ending(one), *_trail(one))


def _session(session: Json) -> list[RenderableType]:
    new = [word for word, flag in (("address", "newAddress"), ("client", "newClient")) if session[flag]]
    place = f"{session['principal']} from {session['address'] or '?'}" + (
        f" (new {' and '.join(new)})" if new else ""
    )
    listed = session["actions"][:_SESSION_LISTED]
    more = session["actionCount"] - len(listed)
    return [
        heading(f"{when(session['firstSeen'])}  {place}", "bold underline"),
        line(session["sentence"]),
        _actions(listed),
        *([line(f"and {more:,} more actions; --json has all audit IDs", "dim")] if more > 0 else []),
    ]


def _trail(one: Json) -> list[RenderableType]:
    lines = []
    for entry in one["trail"]:
        other = f" {entry['incident']}" if entry.get("incident") else ""
        note = f": {entry['note']}" if entry["note"] else ""
        who = entry["by"] or entry["caller"] or entry["address"] or "unknown"
        lines.append(f"{when(entry['time'])}  {entry['action']}{other} by {who}{note}")
    return [
        heading("What was done with this incident", "bold underline"),
        *(line(f"- {text}") for text in lines),
    ]
