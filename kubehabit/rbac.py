"""`kubehabit rbac`: what roles and bindings allow, what of it a log shows in use, and whether the log agrees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kubehabit import options as opt
from kubehabit.logs import following, read_all

if TYPE_CHECKING:
    from rich.console import RenderableType

    from detection.authorization.rbac import ObjectKey

app = opt.room(
    """
    Compare what roles and bindings allow with what an audit log shows.

    All commands read files on this machine and change nothing. RBAC comes from
    `kubectl get clusterroles,clusterrolebindings,roles,rolebindings -A -o json > rbac.json`,
    taken when the log begins: changes in the log are followed.
    """
)
_RBAC_HELP = "RBAC when the log begins: a file or folder of JSON or YAML, .gz too."
_RBAC = Annotated[Path, typer.Option("--rbac", help=_RBAC_HELP, exists=True, show_default=False)]
_Sarif = Annotated[bool, typer.Option("--sarif", help="Print SARIF 2.1.0, for code scanning.")]
_User = Annotated[
    str,
    typer.Argument(metavar="USER", help="User name as the log has it, such as system:serviceaccount:web:ci."),
]
_Groups = Annotated[
    list[str] | None,
    typer.Option("--group", help="Group of the user besides those that the log shows; can be repeated."),
]


@app.command("check")
def check(logs: opt.Logs, rbac: _RBAC, as_json: opt.AsJson = False, as_sarif: _Sarif = False) -> None:
    """Check a log against RBAC: requests that were allowed though nothing allows them, and other contradictions.

    A contradiction is proof, not a suspicion: either the API server let a request past a check, or RBAC was changed without a
    trace in the log, or the files of --rbac are not of the moment at which the log begins. What only a cloud's authorizer, a
    webhook or the node authorizer can know is counted as unknown. Exit status 1 says that there are contradictions.

    Example:  `kubehabit rbac check audit.log.gz --rbac rbac.json`

    Next:  `kubehabit events --principal USER` for each user it names.
    """
    from detection.authorization.agreement import agree
    from detection.authorization.authorizer import Authorizer
    from detection.authorization.files import read_rbac
    from detection.authorization.node_authorizer import NodeAuthorizer
    from detection.authorization.node_graph import NodeGraph
    from kubehabit.tables.rbac import check_object, check_screen
    from kubehabit.tables.rbac_sarif import check_sarif

    graph = NodeGraph()
    known, follower = read_rbac(rbac, graph)
    authorizer = Authorizer(known, NodeAuthorizer(graph))
    found = check_object(agree(read_all(logs), authorizer, follower))
    if as_sarif:
        opt.print_json(check_sarif(found, rbac))
    else:
        _show(found, check_screen(found), as_json)
    raise typer.Exit(1 if found["contradictions"] else 0)


@app.command("report")
def report(
    logs: opt.Logs,
    rbac: _RBAC,
    user: Annotated[
        list[str] | None,
        typer.Option("--user", help="Only this user; can be repeated. Default: all of the log."),
    ] = None,
    as_json: opt.AsJson = False,
    as_sarif: _Sarif = False,
) -> None:
    """Report rights that were granted and never used in a log, those that lead to others first.

    Example:  `kubehabit rbac report audit.log.gz --rbac rbac.json --user system:serviceaccount:web:ci`

    Next:  `kubehabit rbac role USER`, and `kubehabit rbac whatif` before you change anything.
    """
    from detection.authorization.files import read_rbac
    from detection.authorization.least_privilege import granted_rights
    from detection.authorization.usage import count_usage
    from kubehabit.tables.rbac import report_object, report_screen
    from kubehabit.tables.rbac_sarif import report_sarif

    known, follower = read_rbac(rbac)
    usage = count_usage(following(logs, follower))
    names = [name for name in sorted(usage) if not user or name in user]
    found = [report_object(name, granted_rights(known, name, usage[name])) for name in names]
    found.sort(key=lambda one: -one["riskyUnused"])
    if as_sarif:
        opt.print_json(report_sarif(found, rbac))
    else:
        _show(found, report_screen(found, whole=bool(user)), as_json)


@app.command("role")
def role(
    user: _User,
    logs: opt.Logs,
    rbac: _RBAC,
    by_name: Annotated[
        bool, typer.Option("--by-name", help="Allow only the objects that were touched, where they were few.")
    ] = False,
) -> None:
    """Print the smallest roles, as YAML, that allow exactly what a user did in a log; how often is in the comments.

    Requests that were refused (401, 403) are no use of a right; those that found nothing or conflicted are.

    Example:  `kubehabit rbac role system:serviceaccount:web:ci audit.log.gz --rbac rbac.json > role.yaml`

    Next:  `kubehabit rbac whatif audit.log.gz --rbac rbac.json --proposed role.yaml --remove ...`
    """
    from detection.authorization.files import read_rbac
    from detection.authorization.role_manifest import role_yaml
    from detection.authorization.usage import count_usage

    known, follower = read_rbac(rbac)
    usage = count_usage(following(logs, follower)).get(user)
    if usage is None:
        opt.fail(f"{user} did nothing in this log that was allowed: `kubehabit rbac report` lists who did.")
        return
    typer.echo(role_yaml(user, usage, known, by_name=by_name))


@app.command("whatif")
def whatif(
    logs: opt.Logs,
    rbac: _RBAC,
    proposed: Annotated[
        Path | None,
        typer.Option(
            "--proposed",
            help="Roles and bindings to put in: a file or folder.",
            exists=True,
            show_default=False,
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            "--remove", help="Role or binding to take out: clusterroles/NAME, or rolebindings/NAMESPACE/NAME."
        ),
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Say which requests of a log a change of RBAC would have denied. Exit status 1 says that there are some.

    Example:  `kubehabit rbac whatif audit.log.gz --rbac rbac.json --remove clusterrolebindings/ci-admin`

    Next:  apply the change if it denies nothing that is needed.
    """
    from detection.authorization.authorizer import Authorizer
    from detection.authorization.files import read_objects, read_rbac
    from detection.authorization.least_privilege import what_if
    from kubehabit.tables.rbac_changes import whatif_object, whatif_screen

    known, follower = read_rbac(rbac)
    changes = list(read_objects(proposed)) if proposed is not None else []
    removed = [_key(text) for text in remove or ()]
    if missing := [text for text, key in zip(remove or (), removed, strict=True) if key not in known]:
        opt.fail(f"{missing[0]} is not in {rbac}: check its name and namespace.")
    if not changes and not removed:
        opt.fail("Nothing would change: name --proposed FILE, or --remove ROLE-OR-BINDING, or both.")
    found = whatif_object(what_if(read_all(logs), Authorizer(known), follower, changes, removed))
    _show(found, whatif_screen(found), as_json)
    raise typer.Exit(1 if found["denied"] else 0)


@app.command("who-can")
def who_can(
    verb: Annotated[str, typer.Argument(help="Verb, such as get, list, create or impersonate.")],
    resource: Annotated[
        str, typer.Argument(help="Resource as RESOURCE[/SUBRESOURCE][.GROUP], or a path that begins with /.")
    ],
    rbac: _RBAC,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Namespace. Default: all of the cluster.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="Name of one object.")] = "",
    as_json: opt.AsJson = False,
) -> None:
    """Say who may do something, and by which binding.

    Example:  `kubehabit rbac who-can list secrets -n payments --rbac rbac.json`

    Next:  `kubehabit rbac report`, to see which of them ever did.
    """
    from detection.authorization.files import read_rbac
    from detection.authorization.requests import AccessRequest
    from kubehabit.tables.rbac_changes import who_can_rows, who_can_screen

    request = AccessRequest.from_words(verb, resource, namespace, name)
    found = who_can_rows(read_rbac(rbac)[0], request)
    _show(found, who_can_screen(str(request), found), as_json)


@app.command("path")
def path(user: _User, rbac: _RBAC, group: _Groups = None, as_json: opt.AsJson = False) -> None:
    """Show whom a user can become by its rights, step by step, and whether that ends at everything.

    A step is possible by RBAC alone; admission and what runs where may still stand in its way.

    Example:  `kubehabit rbac path system:serviceaccount:web:ci --rbac rbac.json`

    Next:  take away the right of the first step that is not needed; `kubehabit rbac whatif` says whether it is.
    """
    from detection.authorization.escalation import Escalation
    from detection.authorization.files import read_rbac
    from detection.authorization.node_graph import NodeGraph
    from kubehabit.tables.rbac_changes import path_rows, path_screen

    graph = NodeGraph()
    known, _ = read_rbac(rbac, graph)
    steps = Escalation(known, on_nodes=graph.accounts())
    found = path_rows(steps.paths(user, (*steps.groups_of(user), *(group or ()))))
    _show(found, path_screen(user, found), as_json)


def _key(text: str) -> ObjectKey:
    from detection.authorization.rbac import RESOURCES, ObjectKey

    resource, _, rest = text.partition("/")
    parts = rest.split("/")
    if resource not in RESOURCES or not rest or len(parts) != (1 if RESOURCES[resource][1] else 2):
        opt.fail(f"{text} names no role or binding: write clusterroles/NAME, or rolebindings/NAMESPACE/NAME.")
    return ObjectKey(resource, "" if len(parts) == 1 else parts[0], parts[-1])


def _show(content: object, screen: Sequence[RenderableType], as_json: bool) -> None:
    from kubehabit.tables.screen import show

    if as_json:
        opt.print_json(content)
    else:
        show(*screen)
