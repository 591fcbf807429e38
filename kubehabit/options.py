"""Options that several commands share: one declaration, one meaning, one sentence of help for each."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from kubehabit.client import THIS_MACHINE

if TYPE_CHECKING:
    from kubehabit.client.remote import Remote

#: Model that evaluation, scoring and drift use unless another is named.
CHAMPION = "models:/kubehabit@champion"
#: Address of `kubehabit serve` with its shipped settings.
#: Heading in `--help` of the options that say what is read: a running service, or the files of one.
_SOURCE = "What to read"


def room(help_: str, *, cls: type[TyperGroup] | None = None, **options: Any) -> typer.Typer:
    """A group of commands, with the settings that all groups share."""
    return typer.Typer(
        cls=cls or TyperGroup,
        no_args_is_help=cls is None,
        rich_markup_mode="markdown",
        help=help_,
        **options,
    )


class ListsByDefault(TyperGroup):
    """A group whose `list` command runs when no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` in front of options that no command precedes."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def shipped(name: str) -> Path:
    """Path of a configuration file that is installed with kubehabit."""
    return Path(str(files("configs") / name))


def yaml_option(name: str, file: str, what: str, **options: Any) -> Any:
    """An option that names a YAML file and defaults to a shipped one."""
    return typer.Option(
        name,
        help=f"{what}, as a YAML file. Default: the shipped {file}.",
        exists=True,
        dir_okay=False,
        show_default=False,
        **options,
    )


def fail(sentence: str, status: int = 2) -> None:
    """End the command with one sentence on standard error."""
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(status)


def print_json(content: Any) -> None:
    """Print one JSON object on standard output."""
    typer.echo(json.dumps(content, indent=1, ensure_ascii=False))


# -- input and output -------------------------------------------------------------------------------------------

_LOG = "plain, .gz or .zst, in any format that docs/sources.md names"
Log = Annotated[
    Path, typer.Argument(help=f"Audit log: {_LOG}.", exists=True, dir_okay=False, show_default=False)
]
Logs = Annotated[
    list[Path],
    typer.Argument(
        metavar="LOG...",
        help=f"Audit logs, oldest first: {_LOG}; files, folders, or - for standard input.",
        show_default=False,
    ),
]
Dataset = typer.Option(
    "--data", help="Dataset made by `kubehabit data build`.", exists=True, file_okay=False, show_default=False
)
Labels = typer.Option(
    "--labels",
    help="Labels of the log: which requests were attacks (docs/scenarios.md).",
    exists=True,
    dir_okay=False,
    show_default=False,
)
Model = Annotated[
    str, typer.Option("--model", help="Model to use: models:/NAME@ALIAS, models:/NAME/VERSION, or a bundle.")
]
Report = typer.Option("--report", help="Write a Markdown report to this file.", dir_okay=False)
Out = typer.Option("--out", help="Folder to write to.", file_okay=False, show_default=False)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, for another program.")]
JsonLines = Annotated[
    bool,
    typer.Option("--json", help="Print JSON on standard output, one object a line, for another program."),
]

# -- a running service, or the files of one ---------------------------------------------------------------------

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="KUBEHABIT_URL",
        help=f"Address of a running `kubehabit serve`, asked with the token in KUBEHABIT_TOKEN. Default: {THIS_MACHINE}.",
        show_default=False,
        rich_help_panel=_SOURCE,
    ),
]
Local = Annotated[
    bool,
    typer.Option(
        "--local",
        help="Read the service's files on this machine instead; no service needs to run.",
        rich_help_panel=_SOURCE,
    ),
]
ServiceConfig = Annotated[
    Path | None,
    yaml_option(
        "--config",
        "serve.yaml",
        "Settings of the service whose files are read (implies --local)",
        rich_help_panel=_SOURCE,
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="Folder of the event store to read (implies --local). Default: events.path of the settings.",
        file_okay=False,
        show_default=False,
        rich_help_panel=_SOURCE,
    ),
]

Since = Annotated[
    str,
    typer.Option(
        "--since",
        help="Start: how long ago (30m, 12h, 7d), a time today in UTC (14:02), a day, or an RFC 3339 time.",
    ),
]
SinceAny = Annotated[
    str | None,
    typer.Option(
        "--since",
        help="Start: 30m, 12h, 7d, 14:02 (UTC), 2026-11-24, or an RFC 3339 time. Default: all that is kept.",
        show_default=False,
    ),
]
Until = Annotated[str | None, typer.Option("--until", help="End, written like --since.", show_default=False)]
Cursor = Annotated[
    int | None,
    typer.Option("--cursor", help="Continue where the last answer ended.", min=0, show_default=False),
]
AlertIDs = typer.Option("--alert", help="ID of an alert; may be repeated.", show_default=False)
Note = Annotated[str, typer.Option("--note", help="Reason; kept in the incident's history.")]
By = Annotated[str, typer.Option("--by", envvar="USER", help="Your name; kept in the incident's history.")]


def remote(url: str | None) -> Remote:
    """The service at an address, with the token in KUBEHABIT_TOKEN."""
    from kubehabit.client.remote import Remote

    return Remote.at(url)


def moment(text: str | None) -> int | None:
    """A time written by a person, in microseconds since 1970 UTC."""
    from serving.forensics.queries import moment_of

    return None if text is None else moment_of(text)
