"""Kubernetes: each update of an alert as a core/v1 Event, so that `kubectl get events` shows it."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from serving.sinks.base import Secret, SinkSettings, SinkTlsSettings, Update, Url, rfc3339
from serving.sinks.http import HttpSink

# Bytes, the API server's limit.
_MAX_MESSAGE = 1024
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SERVICE_ACCOUNT = "system:serviceaccount:"


class KubernetesSettings(SinkSettings):
    """Alerts as Events in one namespace; the defaults are those of a pod with a service account.

    One namespace for all: write access to its Events suffices, and the principals concerned cannot read or delete them.
    """

    type: Literal["kubernetes"]
    server: Url = "https://kubernetes.default.svc"
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    token: Secret = Secret(file=_ACCOUNT / "token")
    tls: SinkTlsSettings = SinkTlsSettings(ca=_ACCOUNT / "ca.crt")

    def open(self) -> HttpSink:
        """The sink. Events are named after the update, so the API server rejects a repeat: a conflict is a success."""
        path = f"/api/v1/namespaces/{self.namespace}/events"
        body = partial(event, namespace=self.namespace)
        return HttpSink(
            self, self.server, body, path=path, token=self.token, tls=self.tls, ok=HTTPStatus.CONFLICT
        )


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:_MAX_MESSAGE].decode("utf-8", "ignore")


def event(update: Update, namespace: str) -> dict[str, Any]:
    """The alert as a core/v1 Event about a user."""
    alert = update.alert
    # Core Events take whole seconds.
    first, last = (rfc3339(time.replace(microsecond=0)) for time in (alert.first_seen, alert.last_seen))
    made: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"kubehabit-{update.key}",
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "kubehabit", "kubehabit/severity": alert.severity},
            "annotations": {"kubehabit/alert": alert.id, "kubehabit/update": update.key},
        },
        # An Event must be in its object's namespace; users have none.
        "involvedObject": {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "User",
            "name": alert.principal,
            "namespace": namespace,
        },
        "type": "Warning",
        "reason": "UnusualBehaviour",
        "message": _cut(f"[{alert.severity}] {alert.sentence}"),
        "source": {"component": "kubehabit"},
        "reportingComponent": "kubehabit",
        "firstTimestamp": first,
        "lastTimestamp": last,
        "count": min(alert.action_count, 2**31 - 1),
    }
    if alert.principal.startswith(_SERVICE_ACCOUNT):
        account_namespace, _, account = alert.principal.removeprefix(_SERVICE_ACCOUNT).partition(":")
        about = {"namespace": account_namespace, "name": account}
        made["related"] = {"apiVersion": "v1", "kind": "ServiceAccount", **about}
    return made
