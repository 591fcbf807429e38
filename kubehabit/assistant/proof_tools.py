"""Tools that prove: that events are as they were received, and whom a principal can become by its rights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from data.errors import KubehabitError
from kubehabit.assistant.quoting import answer, unquote
from kubehabit.assistant.read_tools import Answer, Principal, Text, only
from kubehabit.client.remote import Remote

if TYPE_CHECKING:
    from detection.authorization.rbac import ObjectKey

_PROVED_AT_ONCE = 200
_BINDINGS_TRACED = 5


class ProofTools:
    """Asks a running service, and reads a file of rights; each public method is one tool.

    Args:
        service: the running service.
        rbac: roles and bindings of the cluster, as `kubectl get -o json` writes them; without them `rbac_paths` is an error.
    """

    def __init__(self, service: Remote, rbac: Path | None = None) -> None:
        self._service = service
        self._rbac = rbac

    def verify_events(
        self,
        audit_ids: Annotated[list[Text], Field(max_length=_PROVED_AT_ONCE)] = [],  # noqa: B006 - the SDK copies it
        alert_id: Annotated[str, Field(description="All requests of this alert", max_length=64)] = "",
    ) -> Answer:
        """Prove that requests are stored as they were received: hashes are followed to the store's ledger. Noted there."""
        from serving.forensics.evidence.export import check

        wanted: dict[str, Any] = {"auditIDs": [unquote(one) for one in audit_ids]}
        wanted |= {"alerts": [unquote(alert_id)] if alert_id else [], "note": "verified for an assistant"}
        made = self._service.post_for_file("evidence", body=wanted)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "evidence.json"
            file.write_bytes(made)
            checked = check(file)
        return answer(
            {
                "sound": not checked.findings,
                "findings": checked.findings,
                "events": checked.events,
                "missing": checked.missing,
                "signedBy": checked.signed or None,
                "ledgerHead": checked.head,
            },
            audit_ids=wanted["auditIDs"] or self._service.get("alerts", unquote(alert_id))["auditIDs"],
        )

    def rbac_paths(self, user: Principal, groups: Annotated[list[Text], Field(max_length=50)] = []) -> Answer:  # noqa: B006
        """Show whom a user can become by its rights, step by step, and who last changed the bindings that allow it."""
        from detection.authorization.escalation import Escalation
        from detection.authorization.files import read_rbac
        from detection.authorization.node_graph import NodeGraph
        from kubehabit.tables.rbac_changes import path_rows

        if self._rbac is None:
            raise KubehabitError(
                "There is no file of roles and bindings: start `kubehabit mcp` with --rbac rbac.json (docs/rbac.md)."
            )
        graph = NodeGraph()
        steps = Escalation(read_rbac(self._rbac, graph)[0], on_nodes=graph.accounts())
        name = unquote(user)
        paths = steps.paths(name, (*steps.groups_of(name), *map(unquote, groups)))
        used = (step.grant.binding for path in paths.values() for step in path if step.grant is not None)
        bindings = [*dict.fromkeys(binding for binding in used if binding is not None)][:_BINDINGS_TRACED]
        changes = [change for one in bindings for change in self._changes_of(one)]
        return answer({"user": name, "paths": path_rows(paths), "changesOfBindings": changes})

    def _changes_of(self, binding: ObjectKey) -> list[dict[str, Any]]:
        """The last requests that wrote a binding."""
        about = {"resource": binding.resource, "namespace": binding.namespace or None, "name": binding.name}
        verbs = ["create", "update", "patch", "delete"]
        found = self._service.get("events", order="newest", limit=5, verb=verbs, **about)
        return [only(one, ("auditID", "time", "principal", "verb", "objectRef")) for one in found["events"]]
