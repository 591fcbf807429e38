"""Options that several commands share: one declaration, one meaning, one sentence of help for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from kubehabit.client import THIS_MACHINE

if TYPE_CHECKING:
    from kubehabit.client.local import LocalStore
    from kubehabit.client.remote import Remote

#: Model that evaluation, scoring and drift use unless another is named.
CHAMPION = "models:/kubehabit@champion"
#: Heading in `--help` of the options that say what is read: a running service, or the files of one.
_SOURCE = "What to read"
#: Of an option or argument that names a file.
_FILE: dict[str, Any] = {"exists": True, "dir_okay": False, "show_default": False}


def room(help_: str, *, cls: type[TyperGroup] | None = None, **options: Any) -> typer.Typer:
    """A group of commands, with the settings that all groups share."""
    return typer.Typer(cls=cls or TyperGroup, no_args_is_help=cls is None, help=help_, **options)


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
    return file_option(name, f"{what}, as a YAML file. Default: the shipped {file}.", **options)


def file_option(name: str, help_: str, **options: Any) -> Any:
    """An option that names a file that exists."""
    return typer.Option(name, help=help_, **_FILE, **options)


def fail(sentence: str, status: int = 2) -> None:
    """End the command with one sentence on standard error."""
    say(f"error: {sentence}", err=True)
    raise typer.Exit(status)


def say(text: str, *, err: bool = False) -> None:
    """Print a text on one line, with each of its characters visible."""
    from data.visible_text import visible

    typer.echo(visible(text), err=err)


def print_json(content: Any) -> None:
    """Print one JSON object on standard output; dataclasses and structs are written as the API writes them."""
    import msgspec

    say_json(json.dumps(content, indent=1, ensure_ascii=False, default=msgspec.to_builtins))


def say_json(text: str) -> None:
    """Print a JSON text; characters that are not visible are written as escapes of JSON, which mean the same."""
    from data.visible_text import visible

    # Raw tabs and line breaks stand between the parts of a JSON text, never in a string.
    text = text.replace("\r", " ")
    if any(visible(line) != line for line in text.split("\n")):
        text = "".join(one if one in "\n\t" or visible(one) == one else json.dumps(one)[1:-1] for one in text)
    typer.echo(text)


def with_pseudonyms(file: Path | None, as_json: bool) -> Callable[[Any], Any]:
    """What puts pseudonyms into a document, or JSON as text, before it is printed; without a key file, nothing changes."""
    if file is None:
        return lambda document: document
    if not as_json:
        raise typer.BadParameter("prints JSON only: add --json.", param_hint="--pseudonyms")
    from data.dataset.pseudonyms import load_key, without_people

    key = load_key(file)

    def replaced(document: Any) -> Any:
        if not isinstance(document, str):
            return without_people(document, key)
        return json.dumps(without_people(json.loads(document), key), ensure_ascii=False)

    return replaced


def show(answer: Any, screen: str, as_json: bool) -> None:
    """Print an answer as JSON, or as a function `module.function` of `kubehabit.tables` draws it."""
    if as_json:
        print_json(answer)
        return
    from kubehabit.tables.screen import show as show_screen

    module, _, function = screen.partition(".")
    show_screen(getattr(import_module(f"kubehabit.tables.{module}"), function)(answer))


# -- input and output -------------------------------------------------------------------------------------------


def _log(text: str) -> Any:
    """A path, or a log elsewhere by its URL."""
    from data.events.remote_log import log_of

    return log_of(text)


_LOG = "plain, .gz or .zst, in any format that docs/sources.md names"
Log = Annotated[Path, typer.Argument(help=f"Audit log: {_LOG}.", **_FILE)]
Logs = Annotated[
    list[Path],
    typer.Argument(
        metavar="LOG...",
        parser=_log,
        help=f"Audit logs, oldest first: {_LOG}; files, folders, URLs, or - for standard input.",
    ),
]
Dataset = typer.Option("--data", help="Dataset made by `kubehabit data build`.", exists=True, file_okay=False)
Labels = typer.Option(
    "--labels", help="Labels of the log: which requests were attacks (docs/scenarios.md).", **_FILE
)
Model = Annotated[
    str, typer.Option("--model", help="Model to use: models:/NAME@ALIAS, models:/NAME/VERSION, or a bundle.")
]
Report = typer.Option("--report", help="Write a Markdown report to this file.", dir_okay=False)
PSEUDONYMS = file_option(
    "--pseudonyms",
    "File with a key of 32 bytes or more: keyed pseudonyms take the place of people's names. Keep it apart from what is made.",
)
Out = typer.Option("--out", help="Folder to write to.", file_okay=False)
_JSON = "Print JSON on standard output"
Transplants = Annotated[
    int,
    typer.Option(
        "--transplants",
        help="Attack runs to put into other principals' clothes and judge on. 0: none.",
        min=0,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help=f"{_JSON}, for another program.")]
JsonLines = Annotated[bool, typer.Option("--json", help=f"{_JSON}, one object a line, for another program.")]

#: For commands that need the settings of the service and not the files that it keeps.
ServeConfig = Annotated[Path | None, yaml_option("--config", "serve.yaml", "Settings of the service")]

# -- a running service, or the files of one ---------------------------------------------------------------------

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="KUBEHABIT_URL",
        help=f"Address of a running `kubehabit serve`, asked with the token in KUBEHABIT_TOKEN. Default: {THIS_MACHINE}.",
        rich_help_panel=_SOURCE,
    ),
]
_LOCAL = "Read the service's files on this machine instead; no service needs to run."
Local = Annotated[bool, typer.Option("--local", help=_LOCAL, rich_help_panel=_SOURCE)]
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
        rich_help_panel=_SOURCE,
    ),
]

Spark = Annotated[
    str | None,
    typer.Option(
        "--spark",
        help="Master of an Apache Spark cluster that does it instead: local[4], spark://host:7077 ...",
    ),
]

Archive = Annotated[
    str | None,
    typer.Option(
        "--archive",
        help="URL of the event store's copy in object storage, with its cluster, as in s3://bucket/events/cluster=prod "
        "(implies --local).",
        metavar="URL",
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
    ),
]
Until = Annotated[str | None, typer.Option("--until", help="End, written as the start is.")]
_CURSOR = "Continue where the last answer ended."
Cursor = Annotated[int | None, typer.Option("--cursor", help=_CURSOR, min=0)]
TextCursor = Annotated[str | None, typer.Option("--cursor", help=_CURSOR)]
AlertIDs = typer.Option("--alert", help="ID of an alert; may be repeated.")
Note = Annotated[str, typer.Option("--note", help="Reason; kept in the incident's history.")]
By = Annotated[str, typer.Option("--by", envvar="USER", help="Your name; kept in the incident's history.")]


def remote(url: str | None) -> Remote:
    """The service at an address, with the token in KUBEHABIT_TOKEN."""
    from kubehabit.client.remote import Remote

    return Remote.at(url)


def alert_source(url: str | None, local: bool, config: Path | None) -> LocalStore | Remote:
    """The alert store on this machine if the options ask for it, else a running service."""
    if not local and config is None:
        return remote(url)
    from kubehabit.client.local import LocalStore

    return LocalStore(config)


def moment(text: str | None) -> int | None:
    """A time written by a person, in microseconds since 1970 UTC."""
    from serving.forensics.queries import moment_of

    return None if text is None else moment_of(text)
