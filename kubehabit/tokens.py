"""`kubehabit token`: the tokens with which callers of a service prove who they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kubehabit import options as opt

app = opt.room("Make, list and revoke the tokens with which callers of `kubehabit serve` prove who they are.")
TokensFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        help="File of the tokens. Default: access.tokens of the settings, or tokens.json in KUBEHABIT_HOME.",
        dir_okay=False,
    ),
]


def _tokens_file(file: Path | None, config: Path | None) -> Path:
    from serving.settings import read_settings

    return file or read_settings(config or opt.shipped("serve.yaml")).access.tokens_path


@app.command("create")
def token_create(
    name: Annotated[str, typer.Argument(help="Name of the token, used in the access log.")],
    scopes: Annotated[
        list[str],
        typer.Option(
            "--scope",
            help="What it may do: ingest (send events), read (alerts, principals, model, metrics), analyst (read, verdicts and "
            "work on incidents) or admin (an analyst's decisions and every other change). May be repeated.",
            show_default=False,
        ),
    ],
    days: Annotated[
        float | None,
        typer.Option("--days", help="Days until it expires.", min=0.0001, show_default="never"),
    ] = None,
    requests_per_second: Annotated[
        float | None,
        typer.Option(
            "--requests-per-second", help="Rate limit of this token.", min=0.001, show_default="the settings'"
        ),
    ] = None,
    megabytes_per_second: Annotated[
        float | None,
        typer.Option(
            "--megabytes-per-second",
            help="The same, in megabytes of request bodies as sent.",
            min=0.001,
            show_default="the settings'",
        ),
    ] = None,
    given: Annotated[
        typer.FileText | None,
        typer.Option(
            "--from",
            help="Read a token made elsewhere (32 random characters or more) from this file, - for standard input.",
        ),
    ] = None,
    file: TokensFile = None,
    config: opt.ServeConfig = None,
) -> None:
    """Make a token and print it once: only its hash is kept. A running service accepts it a second later.

    Example:  `kubehabit token create pipeline --scope ingest --days 90 > pipeline.token`
    """
    from datetime import UTC, datetime

    from serving.access import tokens

    path = _tokens_file(file, config)
    made, secret = tokens.create(
        path,
        name,
        tokens.scopes_of(scopes),
        now=datetime.now(UTC),
        days=days,
        requests_per_second=requests_per_second,
        megabytes_per_second=megabytes_per_second,
        given=given.read().strip() if given is not None else None,
    )
    until = f"until {made.expires:%Y-%m-%d %H:%M} UTC" if made.expires is not None else "until it is revoked"
    typer.echo(
        f"{path}: token {made.name} for {', '.join(made.scopes)}, {until}. It is shown only now:", err=True
    )
    typer.echo(secret)


@app.command("list")
def token_list(file: TokensFile = None, config: opt.ServeConfig = None, as_json: opt.AsJson = False) -> None:
    """List the tokens: names, scopes and times; the tokens themselves are not kept.

    Example:  `kubehabit token list`
    """
    from datetime import UTC, datetime

    from rich.table import Table

    from kubehabit.tables.screen import show
    from serving.access.tokens import read_tokens

    tokens = read_tokens(_tokens_file(file, config))
    if as_json:
        opt.print_json([token.model_dump(mode="json", exclude={"sha256"}) for token in tokens])
        return
    table = Table("name", "scopes", "created", "expires", "rate")
    now = datetime.now(UTC)
    for token in tokens:
        expires = "never" if token.expires is None else f"{token.expires:%Y-%m-%d %H:%M}"
        rates = (("requests/s", token.requests_per_second), ("MiB/s", token.megabytes_per_second))
        table.add_row(
            token.name,
            ", ".join(token.scopes),
            f"{token.created:%Y-%m-%d %H:%M}",
            expires + (" (expired)" if token.expired(now) else ""),
            ", ".join(f"{rate:g} {unit}" for unit, rate in rates if rate is not None),
        )
    show(table)


@app.command("revoke")
def token_revoke(
    name: Annotated[str, typer.Argument(help="As `kubehabit token list` shows it.")],
    file: TokensFile = None,
    config: opt.ServeConfig = None,
) -> None:
    """Revoke a token. A running service refuses it a second later.

    Example:  `kubehabit token revoke pipeline`
    """
    from serving.access.tokens import revoke

    path = _tokens_file(file, config)
    revoke(path, name)
    typer.echo(f"{path}: token {name} is revoked.")
