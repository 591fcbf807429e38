"""`kubehabit privacy`: where data of one person is, and its erasure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kubehabit import options as opt

app = opt.room("Show where data of one person is, and erase it from the files of a service on this machine.")
_PERSON = typer.Argument(
    metavar="PRINCIPAL", help="The person, as `kubehabit principals` names them.", show_default=False
)
_REASON = typer.Option(
    "--reason",
    help="Kept in the ledger for good, such as the number of the request. It must not name the person.",
)
_BY = typer.Option("--by", envvar="USER", help="Who does this; kept in the ledger for good.")
_CONFIG = opt.yaml_option("--config", "serve.yaml", "Settings of the service whose files these are")


@app.command("report")
def report(
    principal: Annotated[str, _PERSON],
    config: Annotated[Path | None, _CONFIG] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show what is kept of a person, where, and what an erasure would do with it. Changes nothing.

    Reads the files on this machine, also while the service runs.

    Example:  `kubehabit privacy report alice@example.com`

    Next:  `kubehabit evidence --principal NAME` to hand it out, or `kubehabit privacy erase NAME`.
    """
    from kubehabit.tables.privacy import report_screen
    from kubehabit.tables.screen import show
    from serving.privacy.erasure import unfinished
    from serving.privacy.places import find_person
    from serving.privacy.places import report as look
    from serving.settings import load_settings

    settings = load_settings(config)
    begun = unfinished(settings)
    found = look(settings, find_person(settings, principal), "" if begun is None else begun.begun)
    if as_json:
        opt.print_json(found)
    else:
        show(*report_screen(found))


@app.command("erase")
def erase(
    principal: Annotated[str, _PERSON],
    reason: Annotated[str, _REASON],
    by: Annotated[str, _BY] = "",
    pseudonyms: Annotated[Path | None, opt.PSEUDONYMS] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if the records are on hold; the ledger says so.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    config: Annotated[Path | None, _CONFIG] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Erase a person from events, alerts, state, history and logs of a stopped service. It cannot be undone.

    Events keep what was done to which object and when, under a pseudonym; `kubehabit verify` still shows that nothing else was
    changed, and that there was an erasure. If it is ended in the middle, the same command goes on. With --pseudonyms the person
    gets the pseudonym that datasets made with that key have; else a random one.

    Example:  `kubehabit privacy erase alice@example.com --reason "Request 2026-41"`

    Next:  `kubehabit verify`, then `kubehabit serve`.
    """
    from data.dataset.pseudonyms import load_key, pseudonym
    from data.visible_text import visible
    from serving.privacy import erasure
    from serving.settings import load_settings

    settings = load_settings(config)
    if not yes:
        typer.confirm(f"Erase {visible(principal)}? It cannot be undone.", abort=True)
    chosen = None if pseudonyms is None else pseudonym(principal, load_key(pseudonyms))
    done = erasure.erase(
        settings,
        principal,
        why=reason,
        by=by,
        force=force,
        pseudonym=chosen,
        say=lambda step: opt.say(f"erasing: {step}", err=True),
    )
    if as_json:
        opt.print_json(done)
        return
    for place, changed in done.items():
        opt.say(f"  {place:<44} {changed:,}")
    opt.say("Next: kubehabit verify. Backups, sinks and exported files are elsewhere: docs/privacy.md.")


@app.command("hold")
def hold(
    principal: Annotated[str, _PERSON],
    reason: Annotated[str, _REASON],
    by: Annotated[str, _BY] = "",
    release: Annotated[bool, typer.Option("--release", help="End the hold.")] = False,
    config: Annotated[Path | None, _CONFIG] = None,
) -> None:
    """Put the records of a person on hold, so that they are not erased while they are evidence; or release them.

    The ledger notes it, with a keyed hash in place of the name. Works also while the service runs.

    Example:  `kubehabit privacy hold alice@example.com --reason "Case 2026-117"`
    """
    from serving.privacy.erasure import hold as note
    from serving.settings import load_settings

    note(load_settings(config), principal, why=reason, by=by, released=release)
    opt.say("The records are released." if release else "The records are on hold.")
