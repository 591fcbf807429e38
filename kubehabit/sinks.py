"""`kubehabit test-alert`: see that alerts arrive where people are."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from kubehabit import options as opt

app = opt.room("")
_STYLES = {"sent": "green", "filtered": "yellow", "failed": "bold red", "refused": "bold red"}


@app.command("test-alert")
def try_sinks(
    config: opt.ServeConfig = None,
    sink: Annotated[
        list[str] | None,
        typer.Option("--sink", help="Only this sink, by its name; can be repeated. Default: all."),
    ] = None,
    severity: Annotated[
        Literal["low", "medium", "high", "critical"],
        typer.Option("--severity", help="Severity of the alert, for sinks that filter by it."),
    ] = "critical",
    as_json: opt.AsJson = False,
) -> None:
    """Send a made-up alert through every sink of a configuration, and say whether each receiver took it.

    The alert says that it is a test. It is sent at once and only once, past the outbox, and is not stored. Exit status 1 says
    that a receiver did not take it.

    Example:  `kubehabit test-alert --config /etc/kubehabit/serve.yaml --sink pager`

    Next:  look whether it arrived where people see it; docs/sinks.md has the settings of each type.
    """
    from dataclasses import asdict

    from kubehabit.tables.screen import line, new_table, show
    from serving.settings import read_settings
    from serving.sinks.trial import send_test_alert

    sinks = read_settings(config or opt.shipped("serve.yaml")).sinks
    names = {one.name for one in sinks}
    if not names:
        opt.fail("The configuration has no sinks: name the receivers of alerts in it (docs/sinks.md).")
    if unknown := sorted(set(sink or ()) - names):
        opt.fail(f"There is no sink {unknown[0]}: the configuration has {', '.join(sorted(names))}.")
    sent = list(send_test_alert([one for one in sinks if not sink or one.name in sink], severity))
    failed = sum(one.outcome in ("failed", "refused") for one in sent)
    if as_json:
        opt.print_json([asdict(one) for one in sent])
    else:
        rows = [(line(one.outcome, _STYLES[one.outcome]), one.sink, one.type, one.sentence) for one in sent]
        show(new_table("", "sink", "type", "what happened", rows=rows), "")
    raise typer.Exit(1 if failed else 0)
