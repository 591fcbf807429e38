"""`kubehabit alerts`: read alerts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kubehabit.filters import query_command
from kubehabit.options import (
    AsJson,
    Cursor,
    ListsByDefault,
    Local,
    ServiceConfig,
    Url,
    print_json,
    remote,
    room,
)

if TYPE_CHECKING:
    from kubehabit.client.local import LocalStore

app = room(
    """
    Read alerts. Without a command: list them.

    `kubehabit alerts --severity high --state open --verdict none`

    `kubehabit alerts list --help` explains every filter.
    """,
    cls=ListsByDefault,
)
_FILTERS = query_command(
    "serving.alerts.query:AlertListQuery",
    ("severity", "principal", "namespace", "state", "verdict", "text", "since"),
)


def local_store(local: bool, config: Path | None) -> LocalStore | None:
    """The alert store on this machine if the options ask for it, or None for a running service."""
    if not local and config is None:
        return None
    from kubehabit.client.local import LocalStore

    return LocalStore(config)


def show(answer: Any, table: str, as_json: bool) -> None:
    """Print an answer as JSON, or with a function of `kubehabit.tables.alerts`."""
    if as_json:
        print_json(answer)
        return
    from kubehabit.tables import alerts

    alerts.show(getattr(alerts, table)(answer))


@app.command("list", cls=_FILTERS)
def alerts_list(
    ctx: typer.Context,
    limit: Annotated[
        int, typer.Option("--limit", help="Largest number of alerts, newest first.", min=1, max=500)
    ] = 50,
    cursor: Cursor = None,
    url: Url = None,
    local: Local = False,
    config: ServiceConfig = None,
    as_json: AsJson = False,
) -> None:
    """List alerts, newest first. All filters must match, as in the console's list.

    Reads a running service, or with --local its files on this machine.

    Example:  `kubehabit alerts list --severity high --namespace payments --verdict none --since 7d`

    Next:  `kubehabit alerts show ID`, or `kubehabit incidents` for what belongs together.
    """
    from kubehabit.client.local import page_of_alerts

    answer = page_of_alerts(ctx.obj, limit, cursor, local_store(local, config) or remote(url))
    show(answer, "alerts_table", as_json)


@app.command("show")
def alerts_show(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="ID of the alert.", show_default=False)],
    url: Url = None,
    local: Local = False,
    config: ServiceConfig = None,
    as_json: AsJson = False,
) -> None:
    """Show one alert: what contributed to it, what was expected instead, and what to do.

    Reads a running service, or with --local its files on this machine.

    Example:  `kubehabit alerts show 7d0c6a1f52b8e934`

    Next:  `kubehabit incidents show ID`, for what belongs together.
    """
    store = local_store(local, config)
    answer = remote(url).get("alerts", alert_id) if store is None else store.alert(alert_id)
    show(answer, "alert_page", as_json)
