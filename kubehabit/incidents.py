"""`kubehabit incidents`: read incidents and decide on them."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from kubehabit import options as opt
from kubehabit.filters import query_command

app = opt.room(
    """
    Read incidents and decide on them. Without a command: list them.

    `kubehabit incidents --state open --severity high`

    `kubehabit incidents list --help` explains every filter.
    """,
    cls=opt.ListsByDefault,
)
IncidentID = Annotated[str, typer.Argument(metavar="ID", help="ID of the incident.")]


_FILTERS = query_command(
    "serving.incidents.query:IncidentListQuery",
    (
        *("state", "severity", "principal", "namespace", "assignee", "outcome", "text", "order"),
        *("since", "until"),
    ),
)


@app.command("list", cls=_FILTERS)
def incidents_list(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", help="Largest number of incidents.", min=1, max=200)] = 50,
    cursor: opt.TextCursor = None,
    url: opt.Url = None,
    local: opt.Local = False,
    config: opt.ServiceConfig = None,
    as_json: opt.AsJson = False,
) -> None:
    """List incidents, newest first unless --order says otherwise. All filters must match, as in the console's list.

    Reads a running service, or with --local its files on this machine.

    Example:  `kubehabit incidents list --state open --severity high --namespace payments --since 7d`

    Next:  `kubehabit incidents show ID`.
    """
    filters = ctx.obj.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    answer = opt.alert_source(url, local, config).get("incidents", **filters, limit=limit, cursor=cursor)
    opt.show(answer, "alerts.incidents_table", as_json)


@app.command("show")
def incidents_show(
    incident_id: IncidentID,
    url: opt.Url = None,
    local: opt.Local = False,
    config: opt.ServiceConfig = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show one incident: where it began, how it spread, what followed, what to do.

    Reads a running service, or with --local its files on this machine.

    Example:  `kubehabit incidents show 7d0c6a1f52b8e934`

    Next:  `kubehabit evidence --incident ID`, to keep it with proof; `kubehabit incidents close ID`, once it is dealt with.
    """
    answer = opt.alert_source(url, local, config).get("incidents", incident_id)
    opt.show(answer, "alerts.incident_page", as_json)


@app.command("containment")
def incidents_containment(
    incident_id: IncidentID,
    days: Annotated[
        float,
        typer.Option("--days", help="Days before it whose use of rights is kept.", min=0.01, max=36_500),
    ] = 7,
    url: opt.Url = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show which bindings made an incident possible, and the smallest change of RBAC that would have stopped it.

    The change takes nothing away that was in use before; it is printed as YAML, and nothing is applied. Asks a running service
    with authorization.snapshot and its event store.

    Example:  `kubehabit incidents containment 7d0c6a1f52b8e934`

    Next:  read the YAML, then `kubectl apply --dry-run=server -f -` with it.
    """
    answer = opt.remote(url).get("incidents", incident_id, "containment", days=days)
    opt.show(answer, "rights.containment_page", as_json)


def _decide(url: str | None, incident_id: str, action: str, body: dict[str, object], as_json: bool) -> None:
    answer = opt.remote(url).post("incidents", incident_id, action, body=body)
    opt.show(answer, "alerts.incident_page", as_json)


@app.command("merge")
def incidents_merge(
    incident_id: IncidentID,
    other: Annotated[
        str,
        typer.Argument(metavar="OTHER", help="ID of the incident that is merged into it."),
    ],
    note: opt.Note = "",
    by: opt.By = "",
    url: opt.Url = None,
    as_json: opt.AsJson = False,
) -> None:
    """Merge another incident into one. Nothing is deleted; the history keeps who did it and why.

    Asks a running service.

    Example:  `kubehabit incidents merge 7d0c6a1f52b8e934 9f2c11d04ab7e621 --note "Same laptop."`
    """
    _decide(url, incident_id, "merge", {"incident": other, "note": note, "by": by}, as_json)


@app.command("split")
def incidents_split(
    incident_id: IncidentID,
    alert: Annotated[list[str], opt.AlertIDs],
    note: opt.Note = "",
    by: opt.By = "",
    url: opt.Url = None,
    as_json: opt.AsJson = False,
) -> None:
    """Move some alerts into a new incident and show it. The two are never joined again automatically.

    Asks a running service.

    Example:  `kubehabit incidents split 7d0c6a1f52b8e934 --alert 9f2c11d04ab7e621 --note "Planned migration."`
    """
    _decide(url, incident_id, "split", {"alerts": alert, "note": note, "by": by}, as_json)


@app.command("close")
def incidents_close(
    incident_id: IncidentID,
    outcome: Annotated[
        Literal["malicious", "normal", "unclear"], typer.Option("--outcome", help="What it turned out to be.")
    ] = "unclear",
    note: opt.Note = "",
    by: opt.By = "",
    url: opt.Url = None,
    as_json: opt.AsJson = False,
) -> None:
    """Close an incident. Later alerts of the same principals begin a new one.

    Asks a running service.

    Example:  `kubehabit incidents close 7d0c6a1f52b8e934 --outcome malicious --note "Token revoked."`
    """
    _decide(url, incident_id, "close", {"outcome": outcome, "note": note, "by": by}, as_json)


@app.command("note")
def incidents_note(
    incident_id: IncidentID,
    text: Annotated[str, typer.Argument(help="Text of the note.")],
    by: opt.By = "",
    url: opt.Url = None,
    as_json: opt.AsJson = False,
) -> None:
    """Add a note to the history of an incident. It changes nothing else, and cannot be changed later.

    Asks a running service.

    Example:  `kubehabit incidents note 7d0c6a1f52b8e934 "Called Judy: it was not her." --by carol`
    """
    _decide(url, incident_id, "notes", {"note": text, "by": by}, as_json)
