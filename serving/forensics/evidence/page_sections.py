"""The sections of a page of evidence that tell of an incident: the sentence, where it began, how it spread, what was touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving.forensics import clock
from serving.forensics.evidence.html import facts, table, text
from serving.forensics.queries import moment_of
from serving.forensics.records import what_of

_ROLES = {
    "flagged": "flagged",
    "contributor": "added up",
    "before": "just before",
    "session": "in between",
    "consequence": "followed",
    "join": "cited by a join",
}
_OBJECTS = 400
"""Rows of the table of what was touched; the JSON file has all."""


def moment(written: str | None) -> str:
    """A time of the API as the page writes all of them."""
    return "" if not written else clock.written(moment_of(written))


def opening(incident: Mapping[str, Any], missing: int) -> str:
    """The sentence, and what there is to know first."""
    reasons = "; ".join(incident["severityReasons"])
    lacking = (
        f"<p class=bad>{missing:,} of its requests are not in this file: see below, under this export.</p>"
        if missing
        else ""
    )
    return (
        f"<p class=lead>{text(incident['sentence'])}</p>"
        + facts(
            [
                ("Incident", f"{incident['id']} ({incident['state']})"),
                ("Severity", f"{incident['severity']}: {reasons}" if reasons else incident["severity"]),
                ("First moment", moment(incident["firstSeen"])),
                ("Last moment", moment(incident["lastSeen"])),
                ("Credentials out of their habits", ", ".join(incident["principals"])),
                (
                    "Looks like (ATT&CK)",
                    ", ".join(f"{one['id']} {one['name']}" for one in incident["techniques"]),
                ),
            ]
        )
        + lacking
        + "<p>All times are UTC. The words used are explained at the end. What is told here of persons is told of their "
        "credentials: a log shows which credential was used, not who held it. What controllers and other machinery did because "
        "of it is kept apart: it is nobody's deed of their own.</p>"
    )


def source(incident: Mapping[str, Any]) -> str:
    """Where it began."""
    found = incident["source"]
    if found is None:
        return "<p>The log does not tell.</p>"
    return facts(
        [
            ("Principal", found["principal"]),
            ("Who that is", found["who"]),
            ("First action that counted", f"{moment(found['time'])}: {found['did']}"),
            ("Its audit ID", found["auditID"]),
            ("Credential", found["credential"]),
            ("Address", found["address"]),
            ("Client", found["client"]),
            ("How sure", found["confidence"]),
            ("Because", found["why"]),
        ]
    )


def spread(content: Mapping[str, Any]) -> str:
    """Every join, explained."""
    joined = content["spread"]
    between = [one for one in joined if one["source"]]
    others = [one for one in joined if not one["source"]]
    parts = ["<h3>From one credential to another</h3>"]
    if between:
        parts.append(
            table(
                ("Time (UTC)", "From", "May act as", "By", "How sure", "Because", "Audit ID"),
                [
                    (
                        one["time"],
                        one["source"],
                        one["target"],
                        one["what"],
                        one["confidence"],
                        one["why"],
                        one["auditID"],
                    )
                    for one in between
                ],
                whole=(0,),
            )
        )
    else:
        parts.append("<p>Nothing in the log leads from one credential to another.</p>")
    parts.append("<h3>What brought the alerts together</h3>")
    if others:
        parts.append(
            table(
                ("When (UTC)", "What", "How sure", "Because"),
                [(one["time"], one["what"], one["confidence"], one["why"]) for one in others],
                whole=(0,),
            )
        )
    else:
        parts.append("<p>There is one alert, joined with no other.</p>")
    return "".join(parts)


def blast_radius(content: Mapping[str, Any]) -> str:
    """What was touched, and who may be acted as."""
    found = content["blastRadius"]
    counts = ", ".join(f"{count:,} {did}" for did, count in found["counts"].items())
    rows = [
        (
            _to_the_second(one["first"]),
            _to_the_second(one["last"]),
            one["object"],
            one["did"],
            f"{one['count']:,}",
            "counted" if one["flagged"] else "",
            one["sensitivity"],
            ", ".join(one["by"]),
        )
        for one in found["objects"]
    ]
    more = len(rows) - _OBJECTS
    return (
        facts(
            [
                ("Requests", counts),
                (
                    "Not counted here",
                    f"{found['aside']:,} requests of the same credentials at the time, from addresses and with clients of which "
                    "nothing counted: most likely their owners'"
                    if found["aside"]
                    else "",
                ),
                ("Namespaces reached", ", ".join(found["namespaces"])),
                ("Namespaces tried, all refused", ", ".join(found["tried"])),
                ("May be acted as since", ", ".join(found["reached"])),
                ("Requests that followed from it", found["consequences"] or ""),
            ]
        )
        + table(
            ("First (UTC)", "Last (UTC)", "What", "Came to", "Times", "", "Sensitivity", "By"),
            rows[:_OBJECTS],
            whole=(0, 1, 3, 4, 5, 6),
        )
        + (f"<p>and {more:,} more, in the JSON file</p>" if more > 0 else "")
        + "<p class=soft>Counted over the requests of this file that came from where something was flagged or added up "
        "(<i>counted</i>), and what else came from there. <i>Tried</i> was refused or failed. What a program did inside a "
        "container, no audit log tells.</p>"
    )


def _to_the_second(written: str) -> str:
    return written[:19].replace("T", " ")


def trail(incident: Mapping[str, Any]) -> str:
    """What people and the service decided about the incident."""
    return table(
        ("When (UTC)", "What", "By", "Caller and address", "Note"),
        [
            (
                moment(entry["time"]),
                f"{entry['action']} {entry['incident'] or ''}".strip(),
                entry["by"],
                ", ".join(part for part in (entry["caller"], entry["address"]) if part),
                entry["note"],
            )
            for entry in incident["trail"]
        ],
        whole=(0,),
    )


def timeline(events: Sequence[Mapping[str, Any]], *, roles: bool) -> str:
    """Requests in the order of time; with what each has to do with the incident, where there is one."""
    rows: list[tuple[object, ...]] = []
    shown: set[tuple[str, int]] = set()
    for event in events:
        record = event["record"]
        if (record["audit_id"], record["time"]) in shown:
            continue  # another stage of the same request; its text is below
        shown.add((record["audit_id"], record["time"]))
        who = record["username"] + (f" as {record['impersonated']}" if record["impersonated"] else "")
        row = (
            clock.written(record["time"]),
            who,
            f"{record['verb']} {what_of(record)}",
            record["code"] or "",
            record["source_ips"].replace(",", ", "),
            record["user_agent"],
            record["audit_id"],
        )
        rows.append((row[0], _ROLES[event["place"]["role"]], *row[1:]) if roles else row)
    heads = (
        "Time (UTC)",
        *(("Part",) if roles else ()),
        "Who",
        "Did",
        "Answer",
        "From",
        "Client",
        "Audit ID",
    )
    return table(heads, rows, whole=(0,)) if rows else ""


def words(found: Mapping[str, str]) -> str:
    """The glossary."""
    return facts(found.items())
