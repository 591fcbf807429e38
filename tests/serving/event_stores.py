"""Event stores to test with: small ones, made of known events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.forensics.event_store import EventStore
from serving.settings import EventSettings
from tests.serving.fakes import raw_event

ISSUED = "authentication.kubernetes.io/issued-credential-id"
CREDENTIAL = "authentication.kubernetes.io/credential-id"


def new_store(folder: Path, **settings: Any) -> EventStore:
    """A store that seals only on request."""
    return EventStore(EventSettings(path=folder, **{"seal_seconds": 3600, "memory_mb": 256} | settings))


def body(events: Sequence[dict[str, Any]]) -> bytes:
    """A request body as kube-apiserver's webhook sends it."""
    listed = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": list(events)}
    return json.dumps(listed, separators=(",", ":")).encode()


def with_credential(event: dict[str, Any], credential: str) -> dict[str, Any]:
    """An event whose caller used a credential that the API server names."""
    return event | {"user": event["user"] | {"uid": "u-1", "extra": {CREDENTIAL: [credential]}}}


def story() -> list[dict[str, Any]]:
    """Alice works in team-a; mallory comes, lists Secrets and reads one of payments."""
    return [
        *(raw_event(number, user="alice@corp") for number in range(20)),
        *(
            raw_event(number, user="bob@corp", resource="secrets", namespace="payments", name="db")
            for number in (20, 21, 22)
        ),
        with_credential(
            raw_event(
                30, user="mallory@corp", verb="list", resource="secrets", namespace="payments", name=""
            ),
            "JTI=3f2a8c1e",
        ),
        with_credential(
            raw_event(31, user="mallory@corp", resource="secrets", namespace="payments", name="db", code=403),
            "JTI=3f2a8c1e",
        ),
        raw_event(32, user="mallory@corp", verb="list", resource="secrets", namespace="", name=""),
        raw_event(33, user="alice@corp", namespace="payments", name="web-0"),
    ]
