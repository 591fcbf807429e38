"""`kubehabit events`, `principals` and `principal`: what happened, and the habits of who did it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kubehabit import options as opt
from kubehabit.filters import query_command

if TYPE_CHECKING:
    from kubehabit.client.event_export import EventPages


class EventFormat(StrEnum):
    """Formats of exported events."""

    JSON = "json"
    OCSF = "ocsf"
    ECS = "ecs"
    PARQUET = "parquet"


#: Formats that take all events unless a limit is given, and how many are shown otherwise.
_WHOLE = (EventFormat.OCSF, EventFormat.ECS, EventFormat.PARQUET)
_SHOWN = 100

app = opt.room("")
_FILTERS = query_command(
    "serving.api.parameters:EventQuery",
    (
        *("principal", "credential", "verb", "resource", "subresource", "namespace", "name", "address"),
        *("user_agent", "code", "audit_id", "alert", "since", "until"),
    ),
)


@app.command("events", cls=_FILTERS)
def events(
    ctx: typer.Context,
    newest: Annotated[bool, typer.Option("--newest", help="Begin with the newest.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            help="Largest number of events. Default: 100; all with --format ocsf, ecs or parquet.",
            min=1,
            show_default=False,
        ),
    ] = None,
    cursor: opt.TextCursor = None,
    original: Annotated[
        bool,
        typer.Option(
            "--original",
            help="Print the events' own text, one a line; secrets are redacted. With --format: beside the rest.",
        ),
    ] = False,
    form: Annotated[
        EventFormat | None,
        typer.Option(
            "--format",
            help="json, ocsf (API Activity) and ecs (Elastic Common Schema) print one object a line; parquet needs --to.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="Write to this file; only with --format.", dir_okay=False, show_default=False
        ),
    ] = None,
    url: opt.Url = None,
    local: opt.Local = False,
    config: opt.ServiceConfig = None,
    store: opt.Store = None,
    archive: opt.Archive = None,
    as_json: opt.JsonLines = False,
    pseudonyms: Annotated[Path | None, opt.PSEUDONYMS] = None,
) -> None:
    """List the events that were received, oldest first. All filters must match.

    Reads a running service, or with --local its files on this machine. --pseudonyms needs --json or --original.

    Example:  `kubehabit events --credential 3f2a8c1e-0d5b-4b7e-9f10-2a6c8e4d7b91 --since 14:02`

    Next:  `kubehabit evidence --audit-id ID --out FOLDER`, to keep some of them with proof.
    """
    from kubehabit.client.event_export import EventPages
    from kubehabit.client.events import answers_of
    from kubehabit.tables import events as tables
    from kubehabit.tables.screen import more

    if form is not None and pseudonyms is not None:
        raise typer.BadParameter(
            "exports in a format hold names as they are: use --json.", param_hint="--pseudonyms"
        )
    shown = opt.with_pseudonyms(pseudonyms, as_json or original)
    if form is None and to is not None:
        raise typer.BadParameter("give --format as well.", param_hint="--to")
    if form is EventFormat.PARQUET and to is None:
        raise typer.BadParameter("name the Parquet file with --to.", param_hint="--format")
    answers = answers_of(url, local, config, store, archive=archive)
    most = limit if limit is not None or form in _WHOLE else _SHOWN
    pages = EventPages(answers, ctx.obj.filter(), limit=most, cursor=cursor, newest=newest)
    if form is not None:
        _export(pages, form, to, original)
    elif original:
        for record in pages.records():
            opt.say_json(shown(record.event))
    elif as_json:
        for record in pages.records(texts=False):
            opt.say_json(shown(tables.json_line(record)))
    else:
        tables.events([*pages.records(texts=False)], answers)
    if pages.cursor is not None:
        opt.say(more(pages.cursor), err=True)


def _export(pages: EventPages, form: EventFormat, to: Path | None, original: bool) -> None:
    """Write events in a format, to a file or to standard output."""
    from kubehabit.client.event_export import json_lines, write_lines, write_parquet_file

    texts = original or form is not EventFormat.JSON
    records = pages.records(texts=texts)
    if form is EventFormat.PARQUET and to is not None:
        count = write_parquet_file(records, to, original=original)
        opt.say(f"{count:,} events -> {to}", err=True)
        return
    lines = json_lines(records, form, original=original)
    if to is None:
        for line in lines:
            opt.say_json(line)
        return
    count = write_lines(lines, to)
    opt.say(f"{count:,} events -> {to}", err=True)


@app.command("principals")
def principals(
    search: Annotated[
        str,
        typer.Argument(metavar="[SEARCH]", help="Part of the name or of the peer group.", show_default=False),
    ] = "",
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="human, serviceaccount, node, component, controller or anonymous.",
        ),
    ] = None,
    order: Annotated[
        str,
        typer.Option("--order", help="last (most recent activity), name, or nearest (closest to an alert)."),
    ] = "last",
    limit: Annotated[int, typer.Option("--limit", help="Largest number of principals.", min=1, max=500)] = 50,
    cursor: opt.TextCursor = None,
    url: opt.Url = None,
    as_json: opt.AsJson = False,
) -> None:
    """List the principals that a running service knows, from training or because they acted since.

    Asks a running service.

    Example:  `kubehabit principals ci-deployer --order nearest`

    Next:  `kubehabit principal NAME`, for the habits of one.
    """
    given = {"search": search or None, "kind": kind, "order": order, "limit": limit, "cursor": cursor}
    opt.show(opt.remote(url).get("principals", **given), "principals.principals_table", as_json)


@app.command("principal")
def principal(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A user name; a service account is system:serviceaccount:NAMESPACE:NAME.",
        ),
    ],
    since: opt.SinceAny = None,
    until: opt.Until = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(
            "--log",
            help="Read this audit log, file or folder, instead of what a service keeps; may be repeated.",
            exists=True,
            rich_help_panel="What to read",
        ),
    ] = None,
    url: opt.Url = None,
    local: opt.Local = False,
    config: opt.ServiceConfig = None,
    store: opt.Store = None,
    archive: opt.Archive = None,
    history: Annotated[
        Path | None,
        typer.Option(
            "--history",
            help="History file to read (implies --local). Default: history.path of the settings.",
            dir_okay=False,
            rich_help_panel="What to read",
        ),
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show one principal: what it did and when, from where and with which client, how unusual that was, and how its peers differ.

    Reads a running service, or with --local its files on this machine, or with --log an audit log that no service has seen.

    Example:  `kubehabit principal alice@example.com --log audit.log.gz`

    Next:  `kubehabit events --principal NAME`, for each event.
    """
    import msgspec

    from kubehabit.client.event_files import answers_of_logs
    from kubehabit.client.events import answers_of, life_of
    from kubehabit.tables import events as tables

    span = (opt.moment(since), opt.moment(until))
    if log and (local or config or store or history or archive):
        raise typer.BadParameter(
            "leave out --local, --config, --store, --history and --archive.", param_hint="--log"
        )
    if log:
        with answers_of_logs(log) as answers:
            found, past = life_of(answers, name, *span)
    else:
        found, past = life_of(answers_of(url, local, config, store, history, archive), name, *span)
    if as_json:
        opt.print_json(msgspec.to_builtins(found) | past)
    else:
        tables.principal(found, past)
