"""`kubehabit backup` and `kubehabit restore`: everything that a service has learned and stored, in one folder and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kubehabit import options as opt
from kubehabit.interruption import interruptible

app = opt.room("")


@app.command("backup")
@interruptible(
    "The copy is not complete and has no backup.json: remove it, or name another folder, and start again."
)
def backup(
    out: Annotated[Path, opt.Out],
    config: opt.ServeConfig = None,
) -> None:
    """Copy a service, running or stopped, into a new folder: what it learned, alerts, events, models, tokens.

    Each file gets a checksum. Alerts in PostgreSQL are left out: dump that database right after this command. serve.yaml and the
    private keys of TLS and of the ledger are not copied either. Keep the copy as safe as the original: it holds the same.

    Example:  `kubehabit backup --config /etc/kubehabit/serve.yaml --out /backup/kubehabit-monday`

    Next:  `kubehabit restore /backup/kubehabit-monday`, on a machine or in a folder that has none.
    """
    from rich.console import Console

    from kubehabit.backup.copying import back_up
    from kubehabit.backup.parts import ServiceParts
    from serving.settings import read_settings

    with Console(stderr=True).status("Copying") as status:
        made = back_up(
            ServiceParts.from_settings(read_settings(config)),
            out,
            lambda name: status.update(f"Copying {name}"),
        )
    opt.say(f"{len(made.files):,} files, {made.size / 1e6:,.1f} MB in {out}.")
    for note in made.notes:
        opt.say(f"Note: {note}")


@app.command("restore")
@interruptible("What was restored so far is not complete: empty the home and start again.")
def restore(
    folder: Annotated[
        Path, typer.Argument(help="Folder that `kubehabit backup` made.", exists=True, file_okay=False)
    ],
    config: opt.ServeConfig = None,
) -> None:
    """Put a backup where the settings say, for a service to go on from there; all of it is checked first.

    The places must be empty, and may be others than those it was made from: nothing in it refers to the original.

    Example:  `KUBEHABIT_HOME=/var/lib/kubehabit kubehabit restore /backup/kubehabit-monday`

    Next:  `kubehabit verify`, then `kubehabit serve`.
    """
    from rich.console import Console

    from kubehabit.backup.parts import ServiceParts
    from kubehabit.backup.restoring import restore as put_back
    from serving.settings import read_settings

    with Console(stderr=True).status("Checking") as status:
        made = put_back(
            folder,
            ServiceParts.from_settings(read_settings(config)),
            lambda name: status.update(f"Restoring {name}"),
        )
    opt.say(f"Restored {len(made.files):,} files of {made.made}.")
    for note in made.notes:
        opt.say(f"Note: {note}")
