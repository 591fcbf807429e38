"""`kubehabit data`: audit logs to the dataset that training reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kubehabit import options as opt
from kubehabit.interruption import interruptible

app = opt.room("Turn audit logs into the dataset that training reads.")


@app.command("build")
def data_build(
    logs: opt.Logs,
    out: Annotated[Path, opt.Out],
    dead_letters: Annotated[
        Path | None,
        typer.Option(
            "--dead-letters", help="File for records that are not audit events, each with the reason."
        ),
    ] = None,
    trusted_hops: Annotated[
        int | None,
        typer.Option(
            "--trusted-hops",
            help="Proxies of your own before the API server that add X-Forwarded-For. Default: 0; `data inspect` advises.",
            min=0,
            max=16,
        ),
    ] = None,
    identity: Annotated[
        Path | None, opt.yaml_option("--identity", "identity.yaml", "Who counts as one principal")
    ] = None,
    pseudonyms: Annotated[Path | None, opt.PSEUDONYMS] = None,
    spark: opt.Spark = None,
) -> None:
    """Build a dataset: read audit logs, turn events into actions, and actions into each principal's sequence.

    The vocabulary is fitted here, on these logs only, so give it normal work. Records that are not audit events
    are counted and skipped. With --pseudonyms the names of people are in neither the dataset nor a model trained on it.

    Example:  `kubehabit data build audit.log.gz --out .kubehabit/dataset`

    Next:  `kubehabit train --data .kubehabit/dataset`
    """
    from data.actions.encoder import ActionSettings
    from data.dataset.build import build
    from data.dataset.pseudonyms import load_key
    from data.paths import given

    changes: dict[str, object] = {} if trusted_hops is None else {"trusted_hops": trusted_hops}
    if identity is not None:
        changes["identity"] = given(identity)
    settings = ActionSettings.shipped(**changes)
    key = None if pseudonyms is None else load_key(pseudonyms)
    with interruptible("The parts of the logs that were read are kept: the same command goes on from there."):
        summary = build(logs, out, settings=settings, dead_letters=dead_letters, pseudonyms=key, spark=spark)
    typer.echo(summary.describe())
    typer.echo(f"Next: kubehabit train --data {out}")


@app.command("inspect")
def data_inspect(
    logs: opt.Logs,
    policy: Annotated[
        Path | None,
        opt.file_option(
            "--policy",
            "Audit policy (YAML): say what it would leave of the log, and what of detection that costs.",
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            "--price",
            help="With --policy: what your provider charges for a GB of log, in any currency.",
            min=0,
        ),
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show what is in an audit log, and what its audit policy leaves out that detection needs. Changes nothing.

    With --policy, for a log in the API server's own format: what would be dropped by which rule, what that saves, and which
    actions and fields detection would lose.

    Example:  `kubehabit data inspect /var/log/kubernetes/audit/ --policy deploy/kube-apiserver/audit-policy.yaml --price 0.50`

    Next:  `kubehabit data build`, or a better audit policy first.
    """
    from rich.console import Console

    from data.events.audit_policy import AuditPolicy
    from data.reports.log_summary import inspect
    from data.reports.policy_effect import policy_effect
    from kubehabit.tables.screen import show

    if policy is not None:
        effect = policy_effect(logs, AuditPolicy.from_file(policy), Console(stderr=True))
        if as_json:
            opt.print_json(effect.to_dict(price))
        else:
            show(effect.screen(price))
        return
    if price is not None:
        raise typer.BadParameter(
            "It needs --policy, the audit policy whose saving is to be priced.", param_hint="--price"
        )
    found = inspect(logs, Console(stderr=True))
    if as_json:
        opt.print_json(found.to_dict())
    else:
        show(found.screen())


@app.command("simulate")
def data_simulate(
    out: Annotated[Path, opt.Out],
    principals: Annotated[
        int, typer.Option("--principals", help="Approximate number of principals.", min=10, max=1_000_000)
    ] = 100,
    days: Annotated[float, typer.Option("--days", help="Simulated days in total.", min=0.001)] = 7,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.", min=0)] = 1,
    attacks: Annotated[
        str, typer.Option("--attacks", help="all, none, or names of scenarios separated by commas.")
    ] = "all",
    config: Annotated[
        Path | None, opt.yaml_option("--config", "simulate.yaml", "Settings on top of the shipped ones")
    ] = None,
    profile: Annotated[
        str, typer.Option("--profile", help="Profile of the settings: default, or recording.")
    ] = "default",
) -> None:
    """Simulate a cluster: the audit log of synthetic weeks, with attacks and labels.

    Writes normal.jsonl.zst (normal work), labelled.jsonl.zst (with attacks and look-alikes) and labels.json.

    Example:  `kubehabit data simulate --out .kubehabit/twin --principals 500 --days 28 --seed 7`

    Next:  `kubehabit data build .kubehabit/twin/normal.jsonl.zst --out .kubehabit/dataset`
    """
    from data.simulation import simulate
    from data.simulation.config import load_settings

    settings = load_settings(config, profile)
    with interruptible(f"The logs in {out} are not whole: the same command writes them again."):
        summary = simulate(out, principals, days, seed, attacks=attacks, settings=settings, progress=True)
    typer.echo(summary.describe())
