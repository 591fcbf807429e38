"""Audit events for tests, as the API server writes them."""

import json
from datetime import datetime
from typing import Any


def event(**changes: Any) -> bytes:
    """One event as a JSON line; `changes` replace whole fields."""
    base: dict[str, Any] = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": "0f1e2d3c-0000-4000-8000-000000000001",
        "stage": "ResponseComplete",
        "requestURI": "/api/v1/namespaces/web/pods/web-5d4f8c7b9-x2x4z",
        "verb": "get",
        "user": {"username": "dev-1@example.com", "groups": ["dev:web", "system:authenticated"]},
        "sourceIPs": ["10.1.2.3", "127.0.0.1"],
        "userAgent": "kubectl/v1.30.1 (linux/amd64) kubernetes/6911225",
        "objectRef": {
            "resource": "pods",
            "namespace": "web",
            "name": "web-5d4f8c7b9-x2x4z",
            "apiVersion": "v1",
        },
        "responseStatus": {"metadata": {}, "code": 200},
        "requestReceivedTimestamp": "2026-01-05T09:30:00.000000Z",
        "stageTimestamp": "2026-01-05T09:30:00.010000Z",
        "annotations": {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""},
    }
    return json.dumps(base | changes).encode()


def listing(when: datetime, user: str, number: int = 0) -> bytes:
    """A request that a person makes every day, as a JSON line; `when` is in UTC, and `number` tells those of one time apart."""
    time = when.isoformat(timespec="microseconds") + "Z"
    return event(
        auditID=f"{user}-{time}-{number}",
        verb="list",
        requestURI="/api/v1/namespaces/web/pods",
        user={"username": user, "groups": ["dev:web", "system:authenticated"]},
        objectRef={"resource": "pods", "namespace": "web", "apiVersion": "v1"},
        requestReceivedTimestamp=time,
        stageTimestamp=time,
    )
