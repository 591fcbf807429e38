"""Reports of `kubehabit verify`, line by line."""

from __future__ import annotations

from pathlib import Path

from serving.forensics.evidence.export import Checked
from serving.forensics.verify import Report


def file_lines(file: Path, checked: Checked) -> list[str]:
    """What was found in a file of evidence."""
    state = "is NOT as it was made" if checked.findings else "is as it was made"
    of = f"incident {checked.incident}, " if checked.incident else ""
    missing = f" The store did not hold {checked.missing:,} more of the requests." if checked.missing else ""
    return [
        *(f"VERIFICATION FAILED  {finding}" for finding in checked.findings),
        f"{file} {state}: {of}{checked.events:,} events, exported {checked.created} by {checked.by}.{missing}",
        f"Signed with {checked.signed}." if checked.signed else "Not signed.",
        *([checked.stamped] if checked.stamped else []),
        f"Check the store with: kubehabit verify --head {checked.head}",
    ]


def store_lines(report: Report) -> list[str]:
    """What was found in an event store."""
    lines = [f"VERIFICATION FAILED  {finding.where}: {finding.what}" for finding in report.findings]
    for gap in report.gaps:
        minutes = f" ({gap.seconds / 60:,.0f} min)" if gap.after and gap.seconds else ""
        span = f"{gap.after} to {gap.before}{minutes}" if minutes else gap.before
        lines.append(f"gap        {span}: {gap.why}")
    changed = f"{len(report.findings)} things are NOT as they were written"
    rate = report.records / max(report.seconds, 1e-9)
    lines.append(
        f"{'All is as it was written' if report.is_sound else changed}: {report.records:,} records in {report.files:,} files, "
        f"{report.segments:,} segments, {report.lines:,} lines of the ledger, in {report.seconds:.1f} s ({rate:,.0f} records/s)."
    )
    if report.dropped:
        lines.append(
            f"{report.dropped:,} older records were dropped by retention; the ledger still holds the roots of their segments."
        )
    for one in report.erasures:
        forced = ", although it was on hold" if one.forced else ""
        why = (
            f"{one.records:,} records were erased on request ({one.pseudonym}) by {one.by}{forced}: {one.why}"
        )
        lines.append(f"erased     {one.time}: {why}")
    unsigned = "The ledger is chained, not signed (events.signing_key)."
    return [
        *lines,
        f"Signed with {report.signed}." if report.signed else unsigned,
        *([f"{report.stamps:,} time stamps. Last: {report.last_stamp}"] if report.stamps else []),
        f"Head: {report.head}  (keep it: --head shows later whether the ledger was cut off or rewritten)",
    ]
