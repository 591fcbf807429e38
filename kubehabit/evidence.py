"""`kubehabit evidence` and `kubehabit verify`: keep what happened with proof, and check the proof."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kubehabit import options as opt

app = opt.room("")


@app.command("evidence")
def evidence(
    incident: Annotated[
        str | None,
        typer.Option(
            "--incident",
            help="ID of an incident: its report, and every request of it and of what followed.",
        ),
    ] = None,
    alert: Annotated[list[str] | None, opt.AlertIDs] = None,
    audit_id: Annotated[
        list[str] | None,
        typer.Option("--audit-id", help="Audit ID of a request; may be repeated."),
    ] = None,
    principal: Annotated[
        str | None,
        typer.Option("--principal", "-p", help="Every request of it from --since to --until."),
    ] = None,
    since: opt.SinceAny = None,
    until: opt.Until = None,
    note: Annotated[
        str, typer.Option("--note", help="Reason for the export; kept in the ledger.", show_default=False)
    ] = "",
    out: Annotated[Path, opt.Out] = Path("evidence"),
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Also print the page to PDF, with the Chromium of this machine.")
    ] = False,
    url: opt.Url = None,
    local: opt.Local = False,
    config: opt.ServiceConfig = None,
    store: opt.Store = None,
) -> None:
    """Export evidence: the original events with checksums and proof, the alerts, the model, and who exported it when.

    For an incident it also holds the report: where it began, how it spread, what was touched, what followed. Writes a JSON
    file that can be verified anywhere, an HTML page to read and print (a summary, and an annex of tables), which contains that
    file, and the events as CSV. The export is noted in the store's ledger. Reads a running service, or with --local its files
    on this machine.

    Example:  `kubehabit evidence --incident 7d0c6a1f52b8e934 --note "Case 2026-117" --out evidence`

    Next:  `kubehabit verify evidence/….json`
    """
    from kubehabit.client import evidence as client
    from kubehabit.client.printing import print_to_pdf
    from serving.forensics.evidence.export import Subject

    wanted = Subject(
        incident=incident,
        alerts=tuple(alert or ()),
        audit_ids=tuple(audit_id or ()),
        principal=principal,
        since=opt.moment(since),
        until=opt.moment(until),
        note=note,
    )
    if incident is not None and (alert or audit_id or principal):
        opt.fail("an incident is exported by itself: leave out --alert, --audit-id and --principal.")
    if local or config is not None or store is not None:
        made = client.from_files(wanted, store, config)
    else:
        made = client.from_service(wanted, opt.remote(url))
    path, events, missing = client.write(made, incident, out)
    if missing:
        opt.say(f"{missing:,} of the requests asked for are not in the store; the file names them.", err=True)
    opt.say(
        f"{events:,} events: {path}.html to read and print, {path}.json with the proof, {path}.csv as a table."
    )
    if pdf:
        opt.say(f"Printed: {print_to_pdf(path.with_name(path.name + '.html'))}")
    opt.say(f"Next: kubehabit verify {path}.json")


@app.command("verify")
def verify(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="A file of evidence, or its page. Without one the event store is checked.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    config: opt.ServiceConfig = None,
    store: opt.Store = None,
    archive: opt.Archive = None,
    head: Annotated[
        str | None,
        typer.Option(
            "--head",
            help="Head of an earlier report: shows whether the ledger was cut off or rewritten since.",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        opt.file_option("--key", "Ed25519 public key (PEM) that the ledger must be signed with."),
    ] = None,
    tsa_ca: Annotated[
        Path | None,
        opt.file_option(
            "--tsa-ca",
            "Certificates (PEM) of the time-stamp authority that must have stamped it; no network is needed.",
        ),
    ] = None,
    gap_minutes: Annotated[
        float, typer.Option("--gap-minutes", help="Time without an event that is reported as a gap.", min=0.0)
    ] = 10,
    as_json: opt.AsJson = False,
) -> None:
    """Check that no event in the store was changed, removed, added or reordered, and report gaps in time.

    Reads the files on this machine, also while the service runs, or with --archive their copy in object storage. Exit status 1
    says that something was changed.

    Example:  `kubehabit verify --key kubehabit.pub --head 1042:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08`

    Next:  keep the head that it prints somewhere else, for the next time.
    """
    from rich.console import Console

    from data.signing_keys import load_public_key
    from kubehabit.tables import evidence as tables
    from kubehabit.tables.screen import show
    from serving.forensics.archive import ArchivedStore
    from serving.forensics.evidence.export import check
    from serving.forensics.evidence.page import check_page
    from serving.forensics.timestamps import load_roots
    from serving.forensics.verify import verify as verify_store
    from serving.settings import load_settings

    public = None if key is None else load_public_key(key)
    roots = None if tsa_ca is None else load_roots(tsa_ca)
    if archive is not None and (file is not None or store is not None):
        opt.fail("leave out FILE and --store: --archive names what is checked.")
    if file is not None:
        checked = check(file, public, roots)
        checked.findings.extend(check_page(file))
        sound, lines = not checked.findings, tables.file_lines(file, checked)
        content: object = checked
    else:
        place = (
            ArchivedStore(archive)
            if archive is not None
            else (store or load_settings(config).events.resolved_path).absolute()
        )
        with Console(stderr=True).status("Reading the ledger") as status:
            report = verify_store(
                place,
                key=public,
                head=head,
                roots=roots,
                gap_seconds=60 * gap_minutes,
                on_records=lambda count: status.update(f"{count:,} records checked"),
            )
        sound, lines = report.is_sound, tables.store_lines(report)
        content = report.to_dict()
    if as_json:
        opt.print_json(content)
    else:
        show(*lines)
    raise typer.Exit(0 if sound else 1)
