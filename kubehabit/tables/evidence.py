"""Reports of `kubehabit verify`."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.console import Console

from kubehabit.tables.events import print_json
from serving.forensics.evidence.export import check
from serving.forensics.evidence.page import check_page
from serving.forensics.verify import Report
from serving.forensics.verify import verify as verify_store
from serving.settings import load_settings


def checked_file(file: Path, key: Ed25519PublicKey | None, as_json: bool) -> bool:
    """Check a file of evidence or its page, and print the result; returns whether it is unchanged."""
    checked = check(file, key)
    checked.findings.extend(check_page(file))
    if as_json:
        print_json(checked)
        return not checked.findings
    for finding in checked.findings:
        print(f"VERIFICATION FAILED  {finding}")
    state = "is as it was made" if not checked.findings else "is NOT as it was made"
    of = f"incident {checked.incident}, " if checked.incident else ""
    lacking = (
        f" It says of {checked.missing:,} more requests that the store did not hold them."
        if checked.missing
        else ""
    )
    print(
        f"{file} {state}: {of}{checked.events:,} events, exported {checked.created} by {checked.by}.{lacking}"
    )
    print(f"Signed with {checked.signed}." if checked.signed else "Not signed.")
    print(f"Check the store with: kubehabit verify --head {checked.head}")
    return not checked.findings


def checked_store(
    store: Path | None,
    config: Path | None,
    key: Ed25519PublicKey | None,
    head: str | None,
    gap_minutes: float,
    as_json: bool,
) -> bool:
    """Check the event store and print the result; returns whether it is unchanged.

    Args:
        store: its folder; that of the settings when None.
        config: settings of the service; the shipped ones when None.
        key: key that the ledger must be signed with.
        head: head of an earlier report.
        gap_minutes: time without an event that is reported as a gap.
        as_json: print JSON.
    """
    folder = (store or load_settings(config).events.resolved_path).absolute()
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
        _print_report(report)
    return report.is_sound


def _print_report(report: Report) -> None:
    for finding in report.findings:
        print(f"VERIFICATION FAILED  {finding.where}: {finding.what}")
    for gap in report.gaps:
        if gap.after and gap.seconds:
            print(f"gap        {gap.after} to {gap.before} ({gap.seconds / 60:,.0f} min): {gap.why}")
        else:
            print(f"gap        {gap.before}: {gap.why}")
    state = (
        "All is as it was written"
        if report.is_sound
        else f"{len(report.findings)} things are NOT as they were written"
    )
    rate = report.records / max(report.seconds, 1e-9)
    print(
        f"{state}: {report.records:,} records in {report.files:,} files, {report.segments:,} segments, {report.lines:,} lines "
        f"of the ledger, in {report.seconds:.1f} s ({rate:,.0f} records/s)."
    )
    if report.dropped:
        print(
            f"{report.dropped:,} older records were dropped by retention; the ledger still holds the roots of their segments."
        )
    print(
        f"Signed with {report.signed}."
        if report.signed
        else "The ledger is chained, not signed (events.signing_key)."
    )
    print(f"Head: {report.head}  (keep it: --head shows later whether the ledger was cut off or rewritten)")
