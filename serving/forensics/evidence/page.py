"""Evidence as one page of HTML: no script, nothing loaded from anywhere, made to be read, printed and filed."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from serving.forensics import clock
from serving.forensics.evidence import page_sections as sections_of
from serving.forensics.evidence.export import EMBEDDED, Export, is_page, parse_export, read_export
from serving.forensics.evidence.html import STYLE, anchor, facts, section, table, text
from serving.forensics.records import what_of


def render(export: bytes) -> str:
    """The page of a file of evidence. It holds the file itself, so that the page alone proves what it says.

    Args:
        export: the file, as `evidence.export` made it.
    """
    found = msgspec.json.decode(export, type=Export)
    content = msgspec.json.decode(found.content, type=dict[str, Any])
    noted = max(found.ledger.lines)
    sections = [(name, body) for name, body in _sections(content, found, noted) if body]
    incident = content.get("incident")
    title = f"Evidence of {len(content['events']):,} events"
    if incident is not None:
        title = f"Evidence of incident {incident['id']}"
    contents = "".join(f'<li><a href="#{anchor(name)}">{text(name)}</a></li>' for name, _ in sections)
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>",
        f"<h1>{text(title)}</h1>",
        "" if incident is None else sections_of.opening(incident, len(content["missing"])),
        f'<nav class=screen aria-label="Contents"><ol>{contents}</ol></nav>',
        *(section(name, body) for name, body in sections),
        _embedded(export, found),
        "</main></body></html>\n",
    ]
    return "".join(parts)


def check_page(path: Path) -> list[str]:
    """What is wrong with a page of evidence beside the export that it holds: sentences; none for a file that is no page.

    Raises:
        EvidenceError: there is no export in it.
    """
    raw = path.read_bytes()
    if not is_page(raw):
        return []
    export = read_export(path)
    _, content = parse_export(export, path)
    if _without_export(render(export).encode()) == _without_export(raw):
        return []
    made, here = content.get("product"), f"kubehabit {version('kubehabit')}"
    if made != here:
        return [
            f"The page was made by {made}, and this is {here}, which cannot say whether its words are those of the export in it. "
            "Use the version that made it, or read the JSON file."
        ]
    return ["The page does not say what the export in it says: it was changed."]


def _without_export(page: bytes) -> tuple[bytes, bytes]:
    """What stands before and after the export in a page; another machine may compress it to other bytes."""
    before, _, after = page.partition(EMBEDDED)
    return before, after.partition(b'"')[2]


def _sections(content: dict[str, Any], found: Export, noted: int) -> list[tuple[str, str]]:
    """Headings and what stands below them, in order."""
    events = content["events"]
    models = "".join(_model(model) for model in content["models"])
    incident = content.get("incident")
    if incident is None:
        return [
            ("This export", _summary(content, found, noted)),
            ("What was found unusual", _alerts(content["alerts"])),
            ("Timeline", sections_of.timeline(events, roles=False)),
            ("Chain of custody", _custody(content, found, noted)),
            ("The model that judged", models),
            ("Events as they were received", _originals(events, _RECEIVED)),
            ("Proof", _proof(found, noted)),
            ("Words", sections_of.words(content["words"])),
        ]
    by_part: dict[str, list[dict[str, Any]]] = {"suspect": [], "join": [], "consequence": []}
    for event in events:
        by_part[event["place"]["part"]].append(event)
    return [
        ("Where it began", sections_of.source(incident)),
        ("How it spread", sections_of.spread(content)),
        ("Blast radius", sections_of.blast_radius(content)),
        ("What was found unusual", _alerts(content["alerts"])),
        ("Timeline", sections_of.timeline(by_part["suspect"], roles=True)),
        ("What followed from it", sections_of.timeline(by_part["consequence"], roles=True)),
        ("What was done with the incident", sections_of.trail(incident)),
        ("This export", _summary(content, found, noted)),
        ("Chain of custody", _custody(content, found, noted)),
        ("The model that judged", models),
        ("Events of suspects as they were received", _originals(by_part["suspect"], _RECEIVED)),
        ("Events that only a join cites as they were received", _originals(by_part["join"], "")),
        ("Events that followed as they were received", _originals(by_part["consequence"], _FOLLOWED)),
        ("Proof", _proof(found, noted)),
        ("Words", sections_of.words(content["words"])),
    ]


def _embedded(export: bytes, found: Export) -> str:
    """The export within the page. A browser that follows the link keeps it as a file; nothing is loaded."""
    packed = base64.b64encode(gzip.compress(export, mtime=0)).decode()
    return (
        f'<p class=screen><a download="evidence-{found.sha256[:16]}.json.gz" {EMBEDDED.decode()}{packed}">'
        "The JSON file that this page was made of</a> is within the page.</p>"
    )


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
    shown = facts(
        [
            ("Exported", f"{content['created']} by {content['by']}"),
            ("Made with", content["product"]),
            ("Reason given", subject["note"]),
            ("Incident", subject["incident"]),
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
        shown += (
            f"<p class=bad>{len(missing):,} of the events asked for are not in the store: by age, because it was not on, or "
            f"because it had not taken them in yet ({content['behind']:,} batches behind): "
            f"<code>{text(', '.join(missing[:50]))}{' …' if len(missing) > 50 else ''}</code></p>"
        )
    return shown


def _alerts(alerts: Sequence[dict[str, Any]]) -> str:
    if not alerts:
        return ""
    parts = []
    for alert in alerts:
        techniques = ", ".join(f"{one['id']} {one['name']}" for one in alert["techniques"])
        parts.append(
            f"<h3>{text(alert['sentence'])}</h3>"
            + facts(
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


def _custody(content: dict[str, Any], found: Export, noted: int) -> str:
    this = msgspec.json.decode(found.ledger.lines[noted].entry, type=dict[str, Any])
    rows = [
        (line["time"], line["by"], line["note"], line["events"], line["sha256"])
        for line in (*content["custody"], this)
    ]
    return (
        "<p>Who exported events of this incident, of its alerts or of this principal, and when. The last line is this "
        "export. The lines are part of the ledger: none can be taken out unnoticed.</p>"
        + table(("When (UTC)", "Who", "Reason given", "Events", "SHA-256 of the content"), rows, whole=(0,))
    )


def _model(model: dict[str, Any]) -> str:
    card = model.get("card") or ""
    told = [
        (name, value)
        for name, value in model.items()
        if name != "card" and not isinstance(value, dict | list)
    ]
    shown = f"<pre class=card>{text(card)}</pre>" if card else ""
    return facts(told) + shown


_RECEIVED = (
    "<p>The text of each event is that of the API server, byte for byte, except for contents of Secrets and tokens, which are "
    "replaced by <code>[redacted]</code> before anything is written. It is spread over lines here; the JSON file has it as it "
    "came. <i>Original</i> is HMAC-SHA256 of the text before that, by the store's own key: it can be held against the API "
    "server's log, and tells nothing of the secret.</p>"
)
_FOLLOWED = "<p>Requests of controllers, scheduler and nodes: nobody's deed of their own.</p>"


def _originals(events: Sequence[dict[str, Any]], note: str) -> str:
    if not events:
        return ""
    parts = [note]
    for event in events:
        record = event["record"]
        parts.append(
            f"<h3>{text(clock.written(record['time']))} · {text(record['verb'])} {text(what_of(record))}</h3>"
            + facts(
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
            + f"<pre>{text(_indented(record['event']))}</pre>"
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
        "<p>Every event was hashed when it was recorded, and the hashes of a stretch of time were sealed as the "
        "root of a Merkle tree (RFC 6962) in a line of the store's ledger. Each line's hash is over the line before it. The "
        "JSON file of this export holds the path of every event to its line, and the lines up to the one that notes the export; "
        "<code>kubehabit verify FILE</code> follows them, on any machine, also from this page, which holds that file. "
        f"<code>kubehabit verify --head {noted}:{text(found.ledger.lines[noted].hash)}</code> holds the store itself "
        "against it.</p>"
        + facts([("Signed with the Ed25519 key", key or "no key: the lines are chained, not signed")])
        + table(("Line", "Hash", "Signature (Ed25519)"), rows)
    )
