"""Reports of `kubehabit verify`."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.console import Console

from kubehabit.options import print_json
from kubehabit.tables.screen import show
from serving.forensics.evidence.export import check
from serving.forensics.evidence.page import check_page
from serving.forensics.verify import Report
from serving.forensics.verify import verify as verify_store


def checked_file(file: Path, key: Ed25519PublicKey | None, as_json: bool) -> bool:
    """Check a file of evidence or its page, and print the result; returns whether it is unchanged."""
    checked = check(file, key)
    checked.findings.extend(check_page(file))
    if as_json:
        print_json(checked)
        return not checked.findings
    state = "is NOT as it was made" if checked.findings else "is as it was made"
    of = f"incident {checked.incident}, " if checked.incident else ""
    missing = f" The store did not hold {checked.missing:,} more of the requests." if checked.missing else ""
    show(
        *(f"VERIFICATION FAILED  {finding}" for finding in checked.findings),
        f"{file} {state}: {of}{checked.events:,} events, exported {checked.created} by {checked.by}.{missing}",
        f"Signed with {checked.signed}." if checked.signed else "Not signed.",
        f"Check the store with: kubehabit verify --head {checked.head}",
    )
    return not checked.findings


def checked_store(
    folder: Path, key: Ed25519PublicKey | None, head: str | None, gap_minutes: float, as_json: bool
) -> bool:
    """Check an event store and print the result; returns whether it is unchanged.

    Args:
        folder: of the store.
        key: key that the ledger must be signed with.
        head: head of an earlier report.
        gap_minutes: time without an event that is reported as a gap.
        as_json: print JSON.
    """
    with Console(stderr=True).status("Reading the ledger") as status:
        report = verify_store(
            folder,
            key=key,
            head=head,
            gap_seconds=60 * gap_minutes,
            on_records=lambda count: status.update(f"{count:,} records checked"),
        )
    if as_json:
        print_json(report.to_dict())
    else:
        show(*_report(report))
    return report.is_sound


def _report(report: Report) -> list[str]:
    lines = [f"VERIFICATION FAILED  {finding.where}: {finding.what}" for finding in report.findings]
    for gap in report.gaps:
        span = (
            f"{gap.after} to {gap.before} ({gap.seconds / 60:,.0f} min)"
            if gap.after and gap.seconds
            else gap.before
        )
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
    unsigned = "The ledger is chained, not signed (events.signing_key)."
    return [
        *lines,
        f"Signed with {report.signed}." if report.signed else unsigned,
        f"Head: {report.head}  (keep it: --head shows later whether the ledger was cut off or rewritten)",
    ]
