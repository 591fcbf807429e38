"""HTML for evidence: the few elements that its pages are made of, and how they look on a screen and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

# No ligatures: whoever copies a checksum out of a printed page must get its letters, not one sign for two of them.
STYLE = """
:root { --ink: #1c2430; --soft: #566173; --line: #d5dbe3; --card: #f6f8fa; --bad: #a3301a; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  font-variant-ligatures: none; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 25px; line-height: 1.25; margin: 0 0 6px; }
h2 { font-size: 18px; margin: 34px 0 6px; border-bottom: 2px solid var(--ink); }
h3 { font-size: 15px; margin: 20px 0 4px; overflow-wrap: anywhere; }
p { margin: 4px 0 10px; max-width: 80ch; }
p.lead { font-size: 18px; line-height: 1.4; margin: 10px 0 16px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; color: var(--soft); font-weight: 600; white-space: nowrap; }
th, td { padding: 3px 10px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
td.t { white-space: nowrap; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 8px 0; font-size: 14px; }
dt { color: var(--soft); max-width: 30ch; } dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: 12px/1.45 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; background: var(--card); border: 1px solid var(--line); padding: 8px 10px; margin: 4px 0; }
nav ol { columns: 2; margin: 4px 0; padding-left: 22px; font-size: 14px; }
.soft { color: var(--soft); } .bad { color: var(--bad); font-weight: 600; } .card { white-space: pre-wrap; }
@page { margin: 16mm; }
@media (max-width: 640px) { dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; } nav ol { columns: 1; } }
@media print { body { font-size: 11px; } main { padding: 0; max-width: none; } h2, h3 { break-after: avoid; }
  tr, dl { break-inside: avoid; } a { color: inherit; } .screen { display: none; } .wide { overflow: visible; } }
"""


def text(value: object) -> str:
    """A value as text of the page: whatever stands in the log, it is no markup."""
    return escape(str(value), quote=True)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], whole: Sequence[int] = ()) -> str:
    """A table; the cells of the columns `whole` are not broken."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in heads)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=t' if at in whole else ''}>{text(cell)}</td>" for at, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and values; those without a value are left out."""
    return (
        "<dl>"
        + "".join(
            f"<dt>{text(name)}</dt><dd>{text(value)}</dd>"
            for name, value in pairs
            if value not in ("", None, [])
        )
        + "</dl>"
    )


def section(name: str, content: str) -> str:
    """A section with its heading; nothing if there is nothing in it."""
    return f'<h2 id="{anchor(name)}">{text(name)}</h2>{content}' if content else ""


def anchor(name: str) -> str:
    """By what a link leads to a section."""
    return name.lower().replace(" ", "-")
