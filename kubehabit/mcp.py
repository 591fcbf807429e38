"""`kubehabit mcp`: let an assistant ask a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kubehabit import options as opt

app = opt.room("")


@app.command("mcp")
def serve_assistant(
    url: opt.Url = None,
    rbac: Annotated[
        Path | None,
        typer.Option(
            "--rbac",
            help="RBAC of the cluster, a file or folder of JSON or YAML, for the tool rbac_paths.",
            exists=True,
            show_default=False,
        ),
    ] = None,
    allow_writes: Annotated[
        bool,
        typer.Option(
            "--allow-writes",
            help="Also offer tools that decide: verdicts, notes, closing incidents. The token needs the scope analyst.",
        ),
    ] = False,
    by: Annotated[
        str,
        typer.Option("--by", envvar="USER", help="Your name; kept with what --allow-writes decides."),
    ] = "",
) -> None:
    """Serve tools for an assistant over the Model Context Protocol, on standard input and output.

    The assistant's program starts this command; it asks the running service at --url with the token in KUBEHABIT_TOKEN, for
    which the scope read is enough. Text of the log reaches the assistant quoted and cut, with the audit IDs of what it rests on.

    Example:  `kubehabit mcp --url https://kubehabit.example:8646`

    Next:  docs/mcp.md has the configuration of common assistants.
    """
    from kubehabit.assistant.mcp_server import build_server
    from kubehabit.assistant.proof_tools import ProofTools
    from kubehabit.assistant.read_tools import ReadTools
    from kubehabit.assistant.write_tools import WriteTools

    service = opt.remote(url)
    writes = WriteTools(service, by) if allow_writes else None
    build_server(ReadTools(service), ProofTools(service, rbac), writes).run("stdio")
