"""`kubehabit report`: what auditors ask for regularly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubehabit import options as opt

if TYPE_CHECKING:
    from kubehabit.client.month import Month

app = opt.room("Write reports for auditors.")


@app.command("monthly")
def monthly(
    month: Annotated[
        str | None,
        typer.Option(
            "--month", help="Month in UTC, such as 2026-11. Default: the last one.", show_default=False
        ),
    ] = None,
    out: Annotated[Path, opt.Out] = Path("reports"),
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Also print the page to PDF, with the Chromium of this machine.")
    ] = False,
    controls: Annotated[
        Path | None,
        opt.yaml_option(
            "--controls", "controls.yaml", "Controls and the sections that are evidence for them"
        ),
    ] = None,
    url: opt.Url = None,
    local: opt.Local = False,
    config: opt.ServiceConfig = None,
) -> None:
    """Report a month of log review: what came in, what was raised, who decided what and how fast, and whether it is unchanged.

    A table says for SOC 2, ISO 27001, PCI DSS and NIS2 which section is evidence for which control, and what remains yours.
    Writes an HTML page and the same as JSON. With --local it also reads the event store and checks every record, as
    `kubehabit verify` does; a running service is only asked for alerts and incidents.

    Exit status 1 says that the store is not as it was written.

    Example:  `kubehabit report monthly --month 2026-11 --local --out reports`

    Next:  keep the head of the ledger that it names, for `kubehabit verify --head` next month.
    """
    import json
    from datetime import UTC, datetime

    from kubehabit.client.month import Month, gather
    from kubehabit.client.printing import print_to_pdf
    from serving.forensics.evidence.monthly import render_monthly
    from serving.settings import read_yaml

    now = datetime.now(UTC)
    chosen = Month.named(month, now)
    found = gather(opt.alert_source(url, local, config), chosen, now)
    if local or config is not None:
        found |= _from_events(config, chosen)
    found["controls"] = read_yaml(controls or opt.shipped("controls.yaml"))["controls"]
    out.mkdir(parents=True, exist_ok=True)
    page = out / f"log-review-{chosen.name}.html"
    texts = {page: render_monthly(found), page.with_suffix(".json"): json.dumps(found, indent=1) + "\n"}
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
    opt.say(f"{page} to read and print, {page.with_suffix('.json')} for programs.")
    if pdf:
        opt.say(f"Printed: {print_to_pdf(page)}")
    if "integrity" not in found:
        opt.say(
            "Events and their integrity are not in it: use --local on the machine of the service.", err=True
        )
    elif not found["integrity"]["sound"]:
        opt.fail("VERIFICATION FAILED: the report has the findings; see `kubehabit verify`.", 1)


def _from_events(config: Path | None, month: Month) -> dict[str, Any]:
    """What the event store adds; nothing where there is none."""
    from rich.console import Console

    from kubehabit.client.event_files import answers_of_files
    from kubehabit.client.month import gather_events
    from serving.forensics.verify import verify
    from serving.settings import load_settings

    settings = load_settings(config)
    folder = settings.events.resolved_path
    if not (folder / "ledger.jsonl").exists():
        return {}
    with Console(stderr=True).status("Checking the event store") as status:
        report = verify(folder, on_records=lambda count: status.update(f"{count:,} records checked"))
    return gather_events(answers_of_files(settings, None), month, report, settings.events.retention_days)
