"""kube-apiserver's audit webhook as others see it: what it sends, and how it tries again.

After plugin/pkg/audit/webhook and pkg/util/webhook of k8s.io/apiserver, and rest of k8s.io/client-go: one EventList a request,
`?timeout=30s`, five attempts with a pause that grows by half, and within each attempt up to ten more for an answer that says
`Retry-After`. Pauses are a thousandth of those in life.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_ATTEMPTS, _GROWTH, _AGAIN = 5, 1.5, 10
_TIMEOUT = 30.0


def event_list(lines: Sequence[bytes]) -> bytes:
    """Logged lines as the webhook sends them: kind and version are the list's, not the items'; a newline ends it."""
    items = []
    for line in lines:
        event = json.loads(line)
        items.append({key: value for key, value in event.items() if key not in ("kind", "apiVersion")})
    document = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


@dataclass
class Webhook:
    """One connection of the webhook backend, kept open between batches.

    Attributes:
        statuses: of all answers, in order; 0 where there was none.
        dropped: batches that were given up.
    """

    port: int
    token: str = ""
    initial_backoff: float = 0.01
    statuses: list[int] = field(default_factory=list)
    dropped: int = 0

    def __post_init__(self) -> None:
        self._connection: http.client.HTTPConnection | None = None

    def process(self, lines: Sequence[bytes]) -> bool:
        """Send a batch as often as kube-apiserver would; False if it gives it up."""
        body, pause = event_list(lines), self.initial_backoff
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(pause)
                pause *= _GROWTH
            if self._do(body):
                return True
        self.dropped += 1
        return False

    def _do(self, body: bytes) -> bool:
        for _ in range(1 + _AGAIN):
            status, retry_after = self._post(body)
            self.statuses.append(status)
            if not (retry_after and (status == 429 or status >= 500)):
                return 200 <= status < 300
            time.sleep(int(retry_after) / 1000)
        return False

    def _post(self, body: bytes) -> tuple[int, str]:
        headers = {
            "Host": f"127.0.0.1:{self.port}",
            "User-Agent": "kube-apiserver/v1.29.3 (linux/amd64) kubernetes/6813625",
            "Content-Length": str(len(body)),
            "Accept": "application/json, */*",
            "Content-Type": "application/json",
            "Accept-Encoding": "gzip",
        } | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT)
            self._connection.putrequest(
                "POST", "/v1/audit?timeout=30s", skip_host=True, skip_accept_encoding=True
            )
            for name, value in headers.items():
                self._connection.putheader(name, value)
            self._connection.endheaders(body)
            answer = self._connection.getresponse()
            answer.read()
            return answer.status, answer.getheader("Retry-After", "")
        except (OSError, http.client.HTTPException):
            self.close()
            return 0, ""

    def lose_the_answer(self, lines: Sequence[bytes]) -> None:
        """Send a batch and go away before the answer comes, as when a proxy times out."""
        body = event_list(lines)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT)
        connection.request("POST", "/v1/audit?timeout=30s", body, {"Content-Type": "application/json"})
        connection.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
