"""`kubehabit doctor`: check a deployment, and say what is missing."""

from __future__ import annotations

import typer

from kubehabit import options as opt

app = opt.room("")
_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


@app.command("doctor")
def doctor(
    config: opt.ServeConfig = None,
    as_json: opt.AsJson = False,
) -> None:
    """Check the deployment of a service on this machine, and say in sentences what is missing and what to do.

    Checks the settings, folders and disk space, the clock, open files, the port, tokens and TLS, the alert store, the event
    store's ledger, the sinks, and the model with its parity check. Sends nothing; it downloads the champion, as a start would.
    Exit status 1 says that something must be fixed.

    Example:  `kubehabit doctor --config /etc/kubehabit/serve.yaml`

    Next:  fix each error, in order; then `kubehabit serve`.
    """
    from dataclasses import asdict

    from rich.console import Console

    from kubehabit.diagnosis.diagnose import diagnose
    from kubehabit.tables.screen import line, new_table, show

    with Console(stderr=True).status("Checking") as status:
        findings = list(diagnose(config, lambda check: status.update(f"Checking: {check}")))
    errors = sum(one.level == "error" for one in findings)
    warnings = sum(one.level == "warning" for one in findings)
    if as_json:
        opt.print_json(
            {"errors": errors, "warnings": warnings, "findings": [asdict(one) for one in findings]}
        )
    else:
        rows = [(line(one.level, _STYLES[one.level]), one.check, one.sentence) for one in findings]
        summary = f"{errors} to fix, {warnings} to look at." if errors or warnings else "Nothing to fix."
        show(new_table("", "check", "what was found", rows=rows), "", summary)
    raise typer.Exit(1 if errors else 0)
