"""`kubehabit who`: who touched an object, and who is new in a namespace."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from kubehabit import options as opt

who_app = opt.room(
    """
    Ask who did something, from every event that was received. No alert is needed.

    `kubehabit who touched secret payments/db --since 7d`

    `kubehabit who is new in payments --since 7d`
    """
)
_who_is = opt.room("Ask who is new somewhere.")
_who_is_new = opt.room("Ask who is new in a namespace.")
who_app.add_typer(_who_is, name="is")
_who_is.add_typer(_who_is_new, name="new")


@who_app.command("touched")
def who_touched(
    kind: Annotated[
        str,
        typer.Argument(metavar="KIND", help="Kind, as kubectl takes it: secret, pods, crb."),
    ],
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAMESPACE/][NAME]",
            help="payments/db is that object; payments/ is the whole namespace; db is that name in any namespace. "
            "Default: every object of the kind.",
        ),
    ] = None,
    since: opt.Since = "7d",
    until: opt.Until = None,
    exact: Annotated[bool, typer.Option("--exact", help="Hide list-only access to the whole kind.")] = False,
    url: opt.Url = None,
    local: opt.Local = False,
    config: opt.ServiceConfig = None,
    store: opt.Store = None,
    archive: opt.Archive = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show who touched an object: how, how often, when, from where and with which client; denied attempts too.

    A principal that listed or watched all Secrets of the namespace, or of the cluster, has seen this one as well.
    Reads a running service, or with --local its files on this machine.

    Example:  `kubehabit who touched secret payments/db --since 7d`

    Next:  `kubehabit principal NAME` for one of them, or `kubehabit events` for every event.
    """
    from kubehabit.client.events import answers_of, object_of
    from kubehabit.tables import events as tables

    answers = answers_of(url, local, config, store, archive=archive)
    wanted = replace(object_of(kind, what), since=opt.moment(since), until=opt.moment(until))
    found = answers.touched(wanted, listings=not exact)
    if as_json:
        opt.print_json({"touched": found})
    else:
        tables.touched(found, wanted, what, since, answers)


@_who_is_new.command("in")
def who_is_new_in(
    namespace: Annotated[str, typer.Argument(metavar="NAMESPACE", help="Namespace that they came to.")],
    since: opt.Since = "7d",
    until: opt.Until = None,
    url: opt.Url = None,
    local: opt.Local = False,
    config: opt.ServiceConfig = None,
    store: opt.Store = None,
    archive: opt.Archive = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show which principals came to a namespace for the first time.

    First means as far back as the store goes, which the answer says.
    Reads a running service, or with --local its files on this machine.

    Example:  `kubehabit who is new in payments --since 7d`

    Next:  `kubehabit events --namespace payments --principal NAME` for what one of them did there.
    """
    from kubehabit.client.events import answers_of
    from kubehabit.tables import events as tables
    from serving.forensics.clock import written

    answers = answers_of(url, local, config, store, archive=archive)
    found = answers.newcomers(namespace, opt.moment(since) or 0, opt.moment(until))
    if as_json:
        earliest = answers.earliest()
        begins = None if earliest is None else written(earliest)
        opt.print_json({"newcomers": found, "storeBegins": begins})
    else:
        tables.newcomers(found, namespace, since, answers)
