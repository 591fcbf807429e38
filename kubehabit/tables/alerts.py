"""Alerts and incidents on a terminal: tables for many, a page for one. Texts of the log are shown as they are, not as markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from serving.rollout.score_file import ScoredLog

SEVERITY_STYLES = {"low": "cyan", "medium": "yellow", "high": "red", "critical": "bold red"}
_SESSION_LISTED = 8
_EDGES = 40
_ROLES = {
    "flagged": "flagged",
    "contributor": "contributed",
    "session": "in between",
    "before": "just before",
}
_STATES = {"open": "bold", "closed": "dim", "merged": "dim"}

Json = Mapping[str, Any]


def _when(text: str | None) -> str:
    """A time of the API (RFC 3339, UTC) to the second."""
    return "" if not text else text[:19].replace("T", " ")


def _severity(name: str | None) -> Text:
    return Text(name or "", style=SEVERITY_STYLES.get(name or "", ""))


def _with_more(table: Table, page: Json) -> RenderableType:
    """A page of a list, and how to see the next."""
    if page["cursor"] is None:
        return table
    more = Text(f"There are more: the same with --cursor {page['cursor']}, or a larger --limit.", style="dim")
    return Group(table, more)


def alerts_table(page: Json) -> RenderableType:
    """A page of alerts, one a row."""
    alerts: Sequence[Json] = page["alerts"]
    table = Table("when (UTC)", "severity", "what happened", "actions", "id", expand=True, show_lines=True)
    for column in (0, 4):
        table.columns[column].no_wrap = True
    table.columns[3].justify = "right"
    for alert in alerts:
        table.add_row(
            _when(alert["firstSeen"]),
            _severity(alert["severity"]),
            Text(alert["sentence"]),
            f"{alert['actionCount']:,}",
            alert["id"],
        )
    return _with_more(table, page) if alerts else Text("No alerts.")


def scored_log(scored: ScoredLog) -> RenderableType:
    """The alerts of a log that was scored, and the totals."""
    model = scored.model
    totals = Text(
        f"{scored.events:,} events, {scored.actions:,} actions, {len(scored.alerts):,} alerts; model {model.name} version "
        f"{model.version}. Use --json for audit IDs, reasons and next steps."
    )
    if not scored.alerts:
        return totals
    table = Table("when (UTC)", "severity", "what happened", expand=True, show_lines=True)
    table.columns[0].no_wrap = True
    for alert in scored.alerts:
        when = Text(alert.first_seen.strftime("%Y-%m-%d %H:%M:%S"))
        table.add_row(when, _severity(alert.severity), Text(alert.sentence))
    return Group(table, totals)


def incidents_table(page: Json) -> RenderableType:
    """A page of incidents, one a row."""
    incidents: Sequence[Json] = page["incidents"]
    table = Table(
        "began (UTC)", "severity", "state", "what happened", "alerts", "id", expand=True, show_lines=True
    )
    for column in (0, 5):
        table.columns[column].no_wrap = True
    table.columns[4].justify = "right"
    for one in incidents:
        sentence = one["sentence"]
        if one["state"] == "merged":
            sentence = f"Merged into {one['mergedInto']}."
        table.add_row(
            _when(one.get("firstSeen")),
            _severity(one.get("severity")),
            Text(one["state"], style=_STATES.get(one["state"], "")),
            Text(sentence),
            f"{one['alertCount']:,}",
            one["id"],
        )
    return _with_more(table, page) if incidents else Text("No incidents.")


def _actions(actions: Iterable[Json]) -> Table:
    table = Table("when (UTC)", "why it is here", "what", "audit ID", expand=True, box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    table.columns[3].overflow = "fold"
    for action in actions:
        news = f" (new: {', '.join(action['news'])})" if action.get("news") else ""
        style = "bold" if action["role"] == "flagged" else "" if action["role"] == "contributor" else "dim"
        table.add_row(
            action["time"][11:23],
            _ROLES.get(action["role"], action["role"]),
            Text(action["did"] + news, style=style),
            action["auditID"],
        )
    return table


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold underline")


def _checks(checks: Iterable[Json]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for check in checks:
        mark = "contain" if check["kind"] == "contain" else "look"
        lines.append(Text(f"- [{mark}] {check['text']}"))
        if check.get("command"):
            lines.append(Text(f"      {check['command']}", style="green"))
    return lines


def alert_page(alert: Json) -> RenderableType:
    """One alert: the sentence, what added up, what was expected, and what to do."""
    parts: list[RenderableType] = [Text(alert["sentence"], style="bold")]
    parts.append(
        Text(
            f"severity {alert['severity']}: {'; '.join(alert['severityReasons'])}; id {alert['id']}",
            style="dim",
        )
    )
    if alert.get("contributors"):
        parts.append(_heading("What contributed to it, each less suspicious"))
        parts += [Text(f"- {_when(one['time'])}  {one['did']}") for one in alert["contributors"]]
    parts.append(_heading("What was flagged"))
    for action in alert["actions"]:
        parts.append(Text(f"- {_when(action['time'])}  {action['did']}  [{action['auditID']}]"))
    if alert["expected"]:
        parts.append(_heading("What was expected instead"))
        parts += [Text(f"- {line}") for line in alert["expected"]]
    return Group(*parts, *_ending(alert))


def _ending(one: Json) -> list[RenderableType]:
    """Techniques, checks and terms, as alerts and incidents end alike."""
    parts: list[RenderableType] = []
    if one.get("techniques"):
        parts.append(_heading("ATT&CK techniques (for Containers)"))
        parts += [Text(f"- {each['id']} {each['name']} ({each['tactic']})") for each in one["techniques"]]
    parts.append(_heading("What to do (commands are for you to run; nothing is run by kubehabit)"))
    parts += _checks(one["checks"])
    if one.get("terms"):
        parts.append(_heading("Glossary"))
        parts += [Text(f"- {term}: {meaning}") for term, meaning in one["terms"].items()]
    return parts


def incident_page(one: Json) -> RenderableType:
    """One incident: where it began, each session, how it spread, what followed, what to do, and what people did with it."""
    if one["state"] == "merged":
        return Group(Text(f"Incident {one['id']} was merged into {one['mergedInto']}."), *_trail(one))
    parts: list[RenderableType] = [Text(one["sentence"], style="bold")]
    parts.append(
        Text(
            f"{one['state']}, severity {one['severity']}: {'; '.join(one['severityReasons'])}; id {one['id']}",
            style="dim",
        )
    )
    source = one.get("source")
    if source:
        parts.append(_heading("Where it began"))
        parts.append(
            Text(f"{source['who']}, {_when(source['time'])} UTC: {source['did']}  [{source['auditID']}]")
        )
        parts.append(
            Text(
                f"with {source['credential']}, from {source['address'] or 'an unknown address'}, client {source['client']}"
            )
        )
        parts.append(Text(f"{source['confidence']}: {source['why']}", style="dim"))
    for session in one["sessions"]:
        new = [
            word
            for word, flag in (("address", session["newAddress"]), ("client", session["newClient"]))
            if flag
        ]
        place = f"{session['principal']} from {session['address'] or '?'}" + (
            f" (new {' and '.join(new)})" if new else ""
        )
        parts.append(_heading(f"{_when(session['firstSeen'])}  {place}"))
        parts.append(Text(session["sentence"]))
        parts.append(_actions(session["actions"][:_SESSION_LISTED]))
        more = session["actionCount"] - min(len(session["actions"]), _SESSION_LISTED)
        if more > 0:
            parts.append(Text(f"and {more:,} more actions; --json has all audit IDs", style="dim"))
    if one["ties"]:
        parts.append(_heading("Who may have come to act as whom"))
        for tie in one["ties"][:_EDGES]:
            through = f" through {tie['via']}" if tie["via"] else ""
            parts.append(
                Text(
                    f"- {tie['source']} -> {tie['target']}: {tie['kind']}{through}; {tie['confidence']}: {tie['why']}"
                )
            )
    if one["consequences"]:
        parts.append(_heading("What the cluster did automatically because of it"))
        for edge in one["consequences"][:_EDGES]:
            cause = edge["source"].partition(":")[2]
            parts.append(Text(f"- {cause} -> {edge['did']} ({edge['count']:,} times; {edge['confidence']})"))
    return Group(*parts, *_ending(one), *_trail(one))


def _trail(one: Json) -> list[RenderableType]:
    parts: list[RenderableType] = [_heading("What was done with this incident")]
    for entry in one["trail"]:
        other = f" {entry['incident']}" if entry.get("incident") else ""
        note = f": {entry['note']}" if entry["note"] else ""
        who = entry["by"] or entry["caller"] or entry["address"] or "unknown"
        parts.append(Text(f"- {_when(entry['time'])}  {entry['action']}{other} by {who}{note}"))
    return parts


def show(what: RenderableType) -> None:
    """Print to standard output."""
    Console(highlight=False).print(what)
