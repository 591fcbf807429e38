"""Kubernetes: each update of an alert as a core/v1 Event, so that `kubectl get events` shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from serving.sinks.base import Secret, SinkSettings, TlsSettings, Update, Url, read_url
from serving.sinks.http import HttpPost

# Bytes, the API server's limit.
_MAX_MESSAGE = 1024
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_CONFLICT = 409
_SERVICE_ACCOUNT = "system:serviceaccount:"


class KubernetesSettings(SinkSettings):
    """Alerts as Events in one namespace; the defaults are those of a pod with a service account.

    One namespace for all: write access to its Events suffices, and the principals concerned cannot read or delete them.
    """

    type: Literal["kubernetes"]
    server: Url = "https://kubernetes.default.svc"
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    token: Secret = Secret(file=_ACCOUNT / "token")
    tls: TlsSettings = TlsSettings(ca=_ACCOUNT / "ca.crt")

    def open(self) -> KubernetesSink:
        """The sink."""
        return KubernetesSink(self)


class KubernetesSink:
    """Creates Events named after the update, so the API server itself rejects a repeat."""

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._http = HttpPost(settings.timeout_seconds, settings.tls)

    def send(self, update: Update) -> None:
        """Create one Event; a conflict means it arrived before."""
        namespace = self._settings.namespace
        url = f"{read_url(self._settings.server).rstrip('/')}/api/v1/namespaces/{namespace}/events"
        body = msgspec.json.encode(event(update, namespace))
        self._http.post(url, body, {"Content-Type": "application/json"}, self._settings.token, ok=_CONFLICT)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _cut(text: str) -> str:
    return text.encode("utf-8", "replace")[:_MAX_MESSAGE].decode("utf-8", "ignore")


def event(update: Update, namespace: str) -> dict[str, Any]:
    """The alert as a core/v1 Event about a user."""
    alert = update.alert
    # Core Events take whole seconds.
    first, last = (
        moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")
        for moment in (alert.first_seen, alert.last_seen)
    )
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
        made["related"] = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "namespace": account_namespace,
            "name": account,
        }
    return made
