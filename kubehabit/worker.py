"""`kubehabit worker`: one of several processes that score many clusters out of Kafka."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from kubehabit import options as opt

app = opt.room("")


@app.command("worker")
def worker(
    config: opt.ServeConfig = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            help="Folder of a model's bundle, in place of the registered champion.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Score the audit logs of many clusters out of Kafka, shared with all workers of the same group (docs/scale.md).

    The key of a record names its cluster, its value is what /v1/audit takes: an event, NDJSON or an EventList. Each cluster has
    habits and an alert store of its own. When a worker ends or another one starts, its clusters go on elsewhere from their last
    checkpoint, and no alert is lost or doubled. SIGTERM finishes, writes a last checkpoint and leaves the group.

    Example:  `KUBEHABIT_WORKER__SOURCE=kafka://kafka:9092/audit kubehabit worker`

    Next:  `kubehabit serve` with ingest.publish, which puts into Kafka what API servers send.
    """
    from serving.process.resources import configure_allocator
    from serving.registry.client import started_client

    configure_allocator()
    with started_client() if bundle is None else nullcontext():
        from serving.fleet.process import run_worker

        run_worker(config or opt.shipped("serve.yaml"), bundle)
