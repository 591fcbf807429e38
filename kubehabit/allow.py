"""`kubehabit allow`: exceptions by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kubehabit import options as opt

app = opt.room(
    """
    Allow something for a while: who, what, why and until when, in a file to keep in git.

    What an exception allows raises no alert and becomes no habit; what would have been flagged is kept and counted.
    """
)
ExceptionsFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        help="File of the exceptions. Default: alerts.exceptions of the settings, or exceptions.yaml in KUBEHABIT_HOME.",
        dir_okay=False,
    ),
]


def _exceptions_file(file: Path | None, config: Path | None) -> Path:
    from serving.settings import read_settings

    return file or read_settings(config or opt.shipped("serve.yaml")).alerts.exceptions_path


def _patterns(option: str, what: str) -> Any:
    help_ = f"{what}, or a prefix that ends with *. May be repeated; without it: any."
    return typer.Option(option, help=help_, show_default=False)


@app.command("add")
def allow_add(
    name: Annotated[str, typer.Argument(help="Name of the exception, unique in its file.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, such as a change's number.")],
    until: Annotated[
        str,
        typer.Option("--expires", help="Last day, such as 2026-12-24, or an RFC 3339 time (of the events)."),
    ],
    principal: Annotated[
        str, typer.Option("--principal", help="Who, or a prefix that ends with *.", show_default=False)
    ] = "",
    group: Annotated[
        str, typer.Option("--group", help="Peer group, as alerts name it (peerGroup).", show_default=False)
    ] = "",
    verbs: Annotated[list[str] | None, _patterns("--verb", "Verb")] = None,
    resources: Annotated[
        list[str] | None, _patterns("--resource", "Resource, such as apps/deployments")
    ] = None,
    namespaces: Annotated[list[str] | None, _patterns("--namespace", "Namespace")] = None,
    names: Annotated[list[str] | None, _patterns("--name", "Object, as alerts name it")] = None,
    by: Annotated[str, typer.Option("--by", help="Who makes the exception.", show_default=False)] = "",
    file: ExceptionsFile = None,
    config: opt.ServeConfig = None,
) -> None:
    """Add an exception to the file; a running service holds to it at once.

    Example:  `kubehabit allow add migration --principal alice@corp --verb list --resource secrets --namespace payments
    --reason CHG-1021 --expires 2026-12-24`
    """
    from detection.exceptions import HabitException
    from serving.alerts.exceptions import append_exception

    path = _exceptions_file(file, config)
    entry = HabitException(
        name=name,
        reason=reason,
        expires=until,
        principal=principal,
        group=group,
        verbs=tuple(verbs or ()),
        resources=tuple(resources or ()),
        namespaces=tuple(namespaces or ()),
        names=tuple(names or ()),
        by=by,
    )
    append_exception(path, entry)
    opt.say(f"{path}: exception {name}, until {entry.until:%Y-%m-%d %H:%M} UTC.")


@app.command("list")
def allow_list(url: opt.Url = None, as_json: opt.AsJson = False) -> None:
    """List the exceptions of a running service: until when, and what each has allowed.

    Example:  `kubehabit allow list --json`
    """
    from kubehabit.client.remote import Remote

    opt.show(Remote.at(url).get("exceptions"), "exceptions.exceptions_table", as_json)


@app.command("check")
def allow_check(file: ExceptionsFile = None, config: opt.ServeConfig = None) -> None:
    """Check the file of exceptions: exit status 2 if it cannot be used, 1 if an exception in it has expired.

    Example:  `kubehabit allow check --file exceptions.yaml`
    """
    from datetime import UTC, datetime

    from serving.alerts.exceptions import read_exceptions

    path = _exceptions_file(file, config)
    found = read_exceptions(path)
    expired = found.expired(datetime.now(UTC))
    opt.say(f"{path}: {len(found)} exceptions, {len(expired)} of them expired.")
    for entry in expired:
        opt.say(f"  {entry.name} expired on {entry.until:%Y-%m-%d}: {entry.reason}")
    if expired:
        raise typer.Exit(1)
