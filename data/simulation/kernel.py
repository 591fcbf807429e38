"""The simulation's clock: a heap of processes, generators that write events and yield the time until their next step.

Events are ordered by `stageTimestamp`, as an API server writes them: a process acts when its request completes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from heapq import heappop, heappush, heapreplace
from random import Random

import numpy as np

from data.simulation.api import STREAMS, Route, make_route
from data.simulation.cluster import ApiClient, uid_of
from data.simulation.config import SECOND

# Yields the microseconds until its next step.
Process = Iterator[int]
_FLUSH = 2048
_FAILURES = {
    403: '"status":"Failure","reason":"Forbidden",',
    404: '"status":"Failure","reason":"NotFound",',
    409: '"status":"Failure","reason":"Conflict",',
}
_CODES = {"create": 201}
_COLLECTION = ("create", "list", "watch", "deletecollection")
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_DASHES = (8, 13, 18, 23)


def audit_ids(seed: int) -> Iterator[str]:
    """Endless version 4 UUIDs from a seed."""
    random = np.random.default_rng(seed)
    while True:
        text = _HEX[random.integers(0, 16, (1024, 36), np.uint8)]
        text[:, _DASHES] = ord("-")
        text[:, 14] = ord("4")
        text[:, 19] = _HEX[8 + random.integers(0, 4, 1024, np.uint8)]
        block = text.tobytes().decode()
        for start in range(0, 36 * 1024, 36):
            yield block[start : start + 36]


def watch_query(seconds: int, revision: int) -> str:
    """Query of a watch that the server ends after some time."""
    return (
        f"watch=true\\u0026timeoutSeconds={seconds}\\u0026allowWatchBookmarks=true"
        f"\\u0026resourceVersion={revision}"
    )


class Kernel:
    """Runs processes in time order and turns their requests into lines of audit.k8s.io/v1.

    Attributes:
        now: current time, microseconds since 1970 UTC.
        random: the only source of randomness; calls come in a fixed order, so a seed determines the log.
        events: lines written so far.
    """

    def __init__(self, start: int, seed: int, policy: str, sink: Callable[[bytes], object]) -> None:
        self.now = start
        self.random = Random(seed)
        self.events = 0
        self.revision = 4000
        self._policy = policy
        self._sink = sink
        self._ids = audit_ids(seed)
        self._heap: list[tuple[int, int, Process]] = []
        self._sequence = 0
        self._lines: list[str] = []
        self._routes: dict[tuple[bool, bool, str, str, str], Route] = {}
        self._seconds: dict[int, str] = {}
        noise = Random(seed ^ 0x5EED)
        # Response times in microseconds: mostly a few milliseconds, writes a little slower, a heavy tail.
        self._reads = [int(1000 * noise.lognormvariate(0.55, 0.85)) + 90 for _ in range(4093)]
        self._writes = [int(1000 * noise.lognormvariate(1.6, 0.62)) + 800 for _ in range(4093)]
        self._turn = 0
        self.last = ("", "", 0)

    def set_sink(self, sink: Callable[[bytes], object]) -> None:
        """Flush, then write to another sink."""
        self.flush()
        self._sink = sink

    def spawn(self, process: Process, delay: int = 0) -> None:
        """Start a process after a delay in microseconds."""
        self._sequence += 1
        heappush(self._heap, (self.now + delay, self._sequence, process))

    def run(self, until: int, tick: Callable[[int], None] | None = None) -> None:
        """Run until a time. `tick` is called with the current time every few thousand events."""
        heap = self._heap
        lines = self._lines
        while heap:
            when, sequence, process = heap[0]
            if when >= until:
                break
            self.now = when
            try:
                delay = next(process)
            except StopIteration:
                heappop(heap)
            else:
                heapreplace(heap, (when + delay if delay > 0 else when + 1, sequence, process))
            if len(lines) >= _FLUSH:
                self.flush()
                if tick is not None:
                    tick(when)
        self.now = until
        self.flush()

    def flush(self) -> None:
        """Pass buffered lines to the sink."""
        if self._lines:
            self.events += len(self._lines)
            self._sink("".join(self._lines).encode())
            self._lines.clear()

    def stamp(self, moment: int) -> str:
        """RFC 3339 with microseconds, without the final Z."""
        second, rest = divmod(moment, SECOND)
        prefix = self._seconds.get(second)
        if prefix is None:
            if len(self._seconds) > 512:
                self._seconds.clear()
            prefix = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.")
            self._seconds[second] = prefix
        return f"{prefix}{rest:06d}"

    def _latency(self, write: bool) -> int:
        self._turn = turn = (self._turn + 1) % 4093
        return self._writes[turn] if write else self._reads[turn]

    def route(self, client: ApiClient, verb: str, full: str, namespace: str) -> Route:
        """Constant text of a kind of request, cached."""
        key = (client.machine, client.account, verb, full, namespace)
        found = self._routes.get(key)
        if found is None:
            if len(self._routes) > 200_000:
                self._routes.clear()
            found = self._routes[key] = make_route(
                self._policy, client.machine, verb, full, namespace, client.account
            )
        return found

    def call(
        self,
        client: ApiClient,
        verb: str,
        full: str,
        namespace: str = "",
        name: str = "",
        *,
        query: str = "",
        body: str = "",
        code: int = 0,
        hold: int = -1,
        hidden_name: bool = False,
        impersonate: str = "",
        behind: str = "",
    ) -> str:
        """One request for a resource.

        Args:
            full: `resource` or `resource/subresource`.
            query: query string with `&` written as the API server's JSON does (`\\u0026`), without `?`.
            body: request object as JSON; recorded only if the policy does.
            code: status code; 0: by authorization and verb.
            hold: microseconds until a streaming request (watch, log, exec) ends.
            hidden_name: leave the name out of the object reference (`generateName`).
            impersonate: JSON of the impersonated user.
            behind: path behind a proxy subresource.

        Returns:
            Audit ID, or "" if the policy drops the request.
        """
        level, path, tail, ref, ref_end, keeps_body = self.route(client, verb, full, namespace)
        if not level:
            return ""
        allowed, annotations = client.who.authorize(verb, full, namespace)
        if code and not allowed:
            annotations = client.who.too_wide
        code = code or (_CODES.get(verb, 200) if allowed else 403)
        if code == 403:
            annotations = client.who.refused
        write = verb in ("create", "update", "patch", "delete")
        if tail or (name and verb not in _COLLECTION):
            path = f"{path}/{name}{tail}{behind}"
        path = f"{path}?{query}" if query else path
        if name and not hidden_name:
            ref = f'{ref},"name":"{name}"'
        self.revision += verb == "update"
        ref = self._ref_end(verb, ref, ref_end, full.partition("/")[0] + namespace + name, tail)
        status = '"status":"Success",' if verb == "delete" and "pods" not in full else ""
        if code >= 400:
            status = _FAILURES.get(code, '"status":"Failure",')
        audit_id = next(self._ids)
        self.last = (verb, path, code)
        kept = f'"requestObject":{body},' if body and keeps_body and code != 403 else ""
        acting = f'"impersonatedUser":{impersonate},' if impersonate else ""
        now = self.now
        # A client sends its next request only after the last response.
        received = max(now - self._latency(write), client.done + client.busy)
        received = received if received < now - 60 else now - 90
        client.done = now
        streams = hold >= 0 and code < 400 and (verb == "watch" or tail[1:] in STREAMS)
        head = f'{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"{level}","auditID":"{audit_id}","stage":"'
        text = (
            f'","requestURI":"{path}","verb":"{verb}",{client.head(acting)}{ref}}},"responseStatus":{{"metadata":{{}},'
            f'{status}"code":{code}}},{kept}"requestReceivedTimestamp":"{self.stamp(received)}Z","stageTimestamp":"'
        )
        end = f'Z","annotations":{annotations}}}\n'
        if streams:
            self._lines.append(f"{head}ResponseStarted{text}{self.stamp(now)}{end}")
            self.spawn(self._finish(f"{head}ResponseComplete{text}", end), hold + 1)
        else:
            self._lines.append(f"{head}ResponseComplete{text}{self.stamp(now)}{end}")
        return audit_id

    def _ref_end(self, verb: str, ref: str, end: str, uid_from: str, tail: str) -> str:
        """An object reference with its last fields, which for an update name the object's version."""
        if verb == "update":
            ref += f',"uid":"{uid_of(uid_from)}"{end},"resourceVersion":"{self.revision}"'
        else:
            ref += end
        return ref + f',"subresource":"{tail[1:]}"' if tail else ref

    def _finish(self, text: str, end: str) -> Process:
        self._lines.append(f"{text}{self.stamp(self.now)}{end}")
        return
        yield 0

    def visit(self, client: ApiClient, path: str, code: int = 200) -> str:
        """One request outside the resource API (`/version`, discovery). Returns its audit ID, or "" if dropped."""
        if self._policy != "everything" and client.machine:
            return ""
        return self.fire(
            (
                '{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"',
                f'","stage":"ResponseComplete","requestURI":"{path}","verb":"get",{client.head("")}'
                f'"responseStatus":{{"metadata":{{}},{_FAILURES.get(code, "")}"code":{code}}},"requestReceivedTimestamp":"',
                f'Z","annotations":{client.who.outside(code)}}}\n',
            ),
            False,
        )

    def prepare(
        self, client: ApiClient, verb: str, full: str, namespace: str = "", name: str = "", query: str = ""
    ) -> tuple[str, str, str] | None:
        """Constant text of a repeated request, for `fire`; None if the policy drops it."""
        level, path, tail, ref, ref_end, _ = self.route(client, verb, full, namespace)
        if not level:
            return None
        _, annotations = client.who.authorize(verb, full, namespace)
        if name:
            path = f"{path}/{name}{tail}"
            ref += f',"name":"{name}"'
        ref = self._ref_end(verb, ref, ref_end, full + namespace + name, tail)
        path = f"{path}?{query}" if query else path
        return (
            f'{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"{level}","auditID":"',
            f'","stage":"ResponseComplete","requestURI":"{path}","verb":"{verb}",{client.head("")}{ref}}},'
            '"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"',
            f'Z","annotations":{annotations}}}\n',
        )

    def fire(self, prepared: tuple[str, str, str] | None, write: bool) -> str:
        """Send a prepared request now, if the policy keeps it. Returns its audit ID."""
        if prepared is None:
            return ""
        before, middle, after = prepared
        audit_id = next(self._ids)
        now = self.now
        received = self.stamp(now - min(self._latency(write), 1800))
        self._lines.append(
            f'{before}{audit_id}{middle}{received}Z","stageTimestamp":"{self.stamp(now)}{after}'
        )
        return audit_id
