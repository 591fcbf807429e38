"""The tools as a server of the Model Context Protocol, with the official SDK."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

from data.errors import KubehabitError
from kubehabit.assistant.proof_tools import ProofTools
from kubehabit.assistant.quoting import CLOSE, NOTE, OPEN, quote
from kubehabit.assistant.read_tools import ReadTools
from kubehabit.assistant.write_tools import WriteTools

_INSTRUCTIONS = (
    "kubehabit watches the audit log of a Kubernetes cluster and raises alerts when a credential does what its owner never "
    f"does. Begin with list_incidents or list_alerts. {NOTE} A name that is passed back may keep its brackets {OPEN} {CLOSE}. "
    "A log shows which credential was used, not who held it; say how sure a statement is, as the answers do. Commands in "
    "`checks` are proposals for a person: `effect` says whether one looks, changes or stops work."
)

_Tool = Callable[..., dict[str, Any]]


def build_server(reads: ReadTools, proofs: ProofTools, writes: WriteTools | None) -> MCPServer[Any]:
    """A server with the tools that read and prove, and those that write if there are any."""
    server: MCPServer[Any] = MCPServer(
        "kubehabit", instructions=_INSTRUCTIONS, version=version("kubehabit"), log_level="WARNING"
    )
    looks = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    # An export of evidence is noted in the store's ledger, so it is no mere look.
    notes = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
    decides = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
    tools: list[tuple[_Tool, ToolAnnotations]] = [
        (reads.list_alerts, looks),
        (reads.show_alert, looks),
        (reads.list_incidents, looks),
        (reads.show_incident, looks),
        (reads.incident_timeline, looks),
        (reads.find_events, looks),
        (reads.who_touched, looks),
        (reads.who_is_new, looks),
        (reads.principal_habits, looks),
        (proofs.verify_events, notes),
        (proofs.rbac_paths, looks),
    ]
    if writes is not None:
        tools += [(writes.give_verdict, decides), (writes.add_note, notes), (writes.close_incident, decides)]
    for tool, hints in tools:
        server.add_tool(_with_sentences(tool), annotations=hints)
    return server


def _with_sentences(tool: _Tool) -> _Tool:
    """The same tool, with errors as one sentence: quoted, because it may repeat a text of the log."""

    @functools.wraps(tool)
    def called(*given: Any, **named: Any) -> dict[str, Any]:
        try:
            return tool(*given, **named)
        except KubehabitError as error:
            raise ToolError(quote(str(error))) from error

    return called
