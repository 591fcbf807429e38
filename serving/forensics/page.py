"""Evidence as one page of HTML: no script, nothing loaded from anywhere, made to be read, printed and filed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import msgspec

from serving.forensics import clock
from serving.forensics.evidence import Export

_STYLE = """
:root { --ink: #1c2430; --soft: #566173; --line: #d5dbe3; --card: #f6f8fa; --bad: #a3301a; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 25px; line-height: 1.25; margin: 0 0 6px; }
h2 { font-size: 18px; margin: 34px 0 6px; border-bottom: 2px solid var(--ink); }
h3 { font-size: 15px; margin: 20px 0 4px; overflow-wrap: anywhere; }
p { margin: 4px 0 10px; max-width: 80ch; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; color: var(--soft); font-weight: 600; white-space: nowrap; }
th, td { padding: 3px 10px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
td.t { white-space: nowrap; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 8px 0; font-size: 14px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: 12px/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; background: var(--card); border: 1px solid var(--line); padding: 8px 10px; margin: 4px 0; }
.soft { color: var(--soft); } .bad { color: var(--bad); font-weight: 600; } .card { white-space: pre-wrap; }
@page { margin: 16mm; }
@media print { body { font-size: 11px; } main { padding: 0; max-width: none; } h2, h3 { break-after: avoid; }
  tr, dl { break-inside: avoid; } a { color: inherit; } }
"""


def _e(text: object) -> str:
    return escape(str(text), quote=True)


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], times: int = 0) -> str:
    head = "".join(f'<th scope="col">{_e(text)}</th>' for text in heads)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=t' if at < times else ''}>{_e(cell)}</td>" for at, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _facts(facts: Iterable[tuple[str, object]]) -> str:
    return (
        "<dl>"
        + "".join(
            f"<dt>{_e(name)}</dt><dd>{_e(value)}</dd>" for name, value in facts if value not in ("", None, [])
        )
        + "</dl>"
    )


def what_of(record: dict[str, Any]) -> str:
    """What a record's request was about: `secrets payments/db`, `secrets in payments`, `nodes n1`, or its path."""
    if not record["resource"]:
        return str(record["path"].partition("?")[0])
    kind = "/".join(part for part in (record["resource"], record["subresource"]) if part)
    if record["namespace"] and not record["name"]:
        return f"{kind} in {record['namespace']}"
    name = "/".join(part for part in (record["namespace"], record["name"]) if part)
    return f"{kind} {name}".strip()


def render(export: bytes) -> str:
    """The page of a file of evidence.

    Args:
        export: the file, as `evidence.export` made it.
    """
    found = msgspec.json.decode(export, type=Export)
    content = msgspec.json.decode(found.content, type=dict[str, Any])
    noted = max(found.ledger.lines)
    events = content["events"]
    title = f"Evidence of {len(events):,} events"
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{_e(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{_e(title)}</h1>",
        _summary(content, found, noted),
        _alerts(content["alerts"]),
        _timeline(events),
        _custody(content, found, noted),
        _model(content["model"]),
        _originals(events),
        _proof(found, noted),
        "</main></body></html>\n",
    ]
    return "".join(parts)


def _summary(content: dict[str, Any], found: Export, noted: int) -> str:
    subject, clocks = content["subject"], content["clock"]
    sync = {
        True: "kept right by a time service, says the kernel",
        False: "not kept right by a time service, says the kernel",
    }
    span = ""
    if content["events"]:
        times = [event["record"]["time"] for event in content["events"]]
        span = f"{clock.written(min(times))} to {clock.written(max(times))}"
    text = _facts(
        [
            ("Exported", f"{content['created']} by {content['by']}"),
            ("Reason given", subject["note"]),
            ("Alerts", ", ".join(subject["alerts"])),
            ("Audit IDs asked for", len(subject["auditIDs"]) or ""),
            ("Principal", subject["principal"]),
            ("From", subject["since"]),
            ("Until", subject["until"]),
            ("Events span", span),
            ("SHA-256 of the content", found.sha256),
            ("Noted in the ledger as", f"line {noted + 1}, hash {found.ledger.lines[noted].hash}"),
            ("Time zone", clocks["zone"]),
            ("Clock of events", clocks["events"]),
            ("Clock of records", clocks["records"]),
            ("That clock is", sync.get(clocks["synchronised"], "unknown: the kernel could not be asked")),
        ]
    )
    missing = content["missing"]
    if missing:
        text += (
            f"<p class=bad>{len(missing):,} of the events asked for are not in the store, by age or because it was not on: "
            f"<code>{_e(', '.join(missing[:50]))}{' …' if len(missing) > 50 else ''}</code></p>"
        )
    return text


def _alerts(alerts: Sequence[dict[str, Any]]) -> str:
    if not alerts:
        return ""
    parts = ["<h2>What was found unusual</h2>"]
    for alert in alerts:
        techniques = ", ".join(f"{one['id']} {one['name']}" for one in alert["techniques"])
        parts.append(
            f"<h3>{_e(alert['sentence'])}</h3>"
            + _facts(
                [
                    ("Alert", alert["id"]),
                    ("Severity", alert["severity"]),
                    ("Principal", alert["principal"]),
                    ("First and last action", f"{alert['firstSeen']} to {alert['lastSeen']}"),
                    ("Actions", alert["actionCount"]),
                    ("ATT&CK", techniques),
                    ("Judged by", f"{alert['model']['name']} version {alert['model']['version']}"),
                ]
            )
        )
    return "".join(parts)


def _timeline(events: Sequence[dict[str, Any]]) -> str:
    rows = []
    shown: set[tuple[str, int]] = set()
    for event in events:
        record = event["record"]
        if (record["audit_id"], record["time"]) in shown:
            continue  # another stage of the same request; its text is below
        shown.add((record["audit_id"], record["time"]))
        who = record["username"] + (f" as {record['impersonated']}" if record["impersonated"] else "")
        rows.append(
            (
                clock.written(record["time"]),
                who,
                f"{record['verb']} {what_of(record)}",
                record["code"] or "",
                record["source_ips"].replace(",", ", "),
                record["user_agent"],
                record["audit_id"],
            )
        )
    heads = ("Time (UTC)", "Who", "Did", "Answer", "From", "Client", "Audit ID")
    return f"<h2>Timeline</h2>{_table(heads, rows, times=1)}"


def _custody(content: dict[str, Any], found: Export, noted: int) -> str:
    this = msgspec.json.decode(found.ledger.lines[noted].entry, type=dict[str, Any])
    rows = [
        (line["time"], line["by"], line["note"], line["events"], line["sha256"])
        for line in (*content["custody"], this)
    ]
    return (
        "<h2>Chain of custody</h2><p>Who exported events of these alerts or this principal, and when. The last line is this "
        "export. The lines are part of the ledger: none can be taken out unnoticed.</p>"
        + _table(("When (UTC)", "Who", "Reason given", "Events", "SHA-256 of the content"), rows, times=1)
    )


def _model(model: dict[str, Any] | None) -> str:
    if model is None:
        return ""
    card = model.get("card") or ""
    facts = [
        (name, value)
        for name, value in model.items()
        if name != "card" and not isinstance(value, dict | list)
    ]
    shown = f"<pre class=card>{_e(card)}</pre>" if card else ""
    return f"<h2>The model that judged</h2>{_facts(facts)}{shown}"


def _originals(events: Sequence[dict[str, Any]]) -> str:
    parts = [
        "<h2>Events as they were received</h2><p>The text of each event is that of the API server, byte for byte, except for "
        "contents of Secrets and tokens, which are replaced by <code>[redacted]</code> before anything is written. "
        "<i>Original</i> is HMAC-SHA256 of the text before that, by the store's own key: it can be held against the API "
        "server's log, and tells nothing of the secret.</p>"
    ]
    for event in events:
        record = event["record"]
        parts.append(
            f"<h3>{_e(clock.written(record['time']))} · {_e(record['verb'])} {_e(what_of(record))}</h3>"
            + _facts(
                [
                    ("Audit ID", record["audit_id"]),
                    ("Record", record["number"]),
                    ("Received", clock.written(record["received"])),
                    ("Credential", record["credential"]),
                    ("SHA-256 of the text", event["sha256"]),
                    ("Values redacted", record["redactions"] or ""),
                    ("Original (HMAC-SHA256)", record["original"]),
                    ("Hash of the record", event["proof"]["leaf"]),
                    ("Sealed in", f"line {event['proof']['line'] + 1} of the ledger"),
                ]
            )
            + f"<pre>{_e(_indented(record['event']))}</pre>"
        )
    return "".join(parts)


def _indented(text: str) -> str:
    """JSON spread over lines, for the eye; the checksums are over the text without that."""
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except ValueError:
        return text


def _proof(found: Export, noted: int) -> str:
    key = found.ledger.public_key
    rows = [
        (number + 1, line.hash, line.signature or "not signed")
        for number, line in sorted(found.ledger.lines.items())
    ]
    return (
        "<h2>Proof</h2><p>Every event was hashed when it was recorded, and the hashes of a stretch of time were sealed as the "
        "root of a Merkle tree (RFC 6962) in a line of the store's ledger. Each line's hash is over the line before it. The "
        "JSON file of this export holds the path of every event to its line, and the lines up to the one that notes the export; "
        "<code>kubehabit verify FILE.json</code> follows them, on any machine. "
        f"<code>kubehabit verify --head {noted}:{_e(found.ledger.lines[noted].hash)}</code> holds the store itself "
        "against it.</p>"
        + _facts([("Signed with the Ed25519 key", key or "no key: the lines are chained, not signed")])
        + _table(("Line", "Hash", "Signature (Ed25519)"), rows)
    )
