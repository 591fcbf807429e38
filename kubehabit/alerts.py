"""`kubehabit alerts`: read alerts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kubehabit import options as opt
from kubehabit.filters import query_command

app = opt.room(
    """
    Read alerts. Without a command: list them.

    `kubehabit alerts --severity high --state open --verdict none`

    `kubehabit alerts list --help` explains every filter.
    """,
    cls=opt.ListsByDefault,
)
_FILTERS = query_command(
    "serving.alerts.query:AlertListQuery",
    ("severity", "principal", "namespace", "state", "verdict", "technique", "text", "since", "until"),
)


@app.command("list", cls=_FILTERS)
def alerts_list(
    ctx: typer.Context,
    limit: Annotated[
        int, typer.Option("--limit", help="Largest number of alerts, newest first.", min=1, max=500)
    ] = 50,
    cursor: opt.Cursor = None,
    url: opt.Url = None,
    local: opt.Local = False,
    config: opt.ServiceConfig = None,
    as_json: opt.AsJson = False,
    pseudonyms: Annotated[Path | None, opt.PSEUDONYMS] = None,
) -> None:
    """List alerts, newest first. All filters must match, as in the console's list.

    Reads a running service, or with --local its files on this machine. --pseudonyms needs --json.

    Example:  `kubehabit alerts list --severity high --namespace payments --verdict none --since 7d`

    Next:  `kubehabit alerts show ID`, or `kubehabit incidents` for what belongs together.
    """
    shown = opt.with_pseudonyms(pseudonyms, as_json)
    filters = ctx.obj.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    answer = opt.alert_source(url, local, config).get("alerts", **filters, limit=limit, cursor=cursor)
    opt.show(shown(answer), "alerts.alerts_table", as_json)


@app.command("show")
def alerts_show(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="ID of the alert.")],
    url: opt.Url = None,
    local: opt.Local = False,
    config: opt.ServiceConfig = None,
    as_json: opt.AsJson = False,
    pseudonyms: Annotated[Path | None, opt.PSEUDONYMS] = None,
) -> None:
    """Show one alert: what contributed to it, what was expected instead, and what to do.

    Reads a running service, or with --local its files on this machine. --pseudonyms needs --json.

    Example:  `kubehabit alerts show 7d0c6a1f52b8e934`

    Next:  `kubehabit incidents show ID`, for what belongs together.
    """
    shown = opt.with_pseudonyms(pseudonyms, as_json)
    answer = opt.alert_source(url, local, config).get("alerts", alert_id)
    opt.show(shown(answer), "alerts.alert_page", as_json)
