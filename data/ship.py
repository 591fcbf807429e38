"""Sending a growing log to a scoring service as it is written: through rotation, restarts and outages of either side.

The position is stored once the service has answered for all lines up to it, so none is lost. A kill between the answer and the
storing sends that batch again; the service recognises an event that it has had.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from data.audit_event import DeadLetter
from data.errors import KubehabitError
from data.follow import Checkpoint, Follower
from data.reader import DeadLetterFile

_BODY_BYTES = 1 << 20
"""Lines in one request; a longer line goes alone."""
_TIMEOUT = 60.0
_LONGEST_WAIT = 30.0
_LATER = frozenset((408, 425, 429))
_UNREADABLE = frozenset((400, 413, 422))
"""Answers that are about what was sent, not about who sent it: sent again it would be refused again."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """A POST would be sent on as a GET, and its token to somebody else."""


_OPENER = urllib.request.build_opener(_NoRedirects)


def _bodies(lines: Sequence[bytes]) -> Iterator[bytes]:
    body: list[bytes] = []
    size = 0
    for line in lines:
        if body and size + len(line) >= _BODY_BYTES:
            yield b"\n".join(body)
            body, size = [], 0
        body.append(line)
        size += len(line) + 1
    if any(line.strip() for line in body):
        yield b"\n".join(body)


class Shipper:
    """Sends the lines of a log to `/v1/score` of a service.

    Args:
        log: the log that is written to.
        url: where the service is, such as `http://127.0.0.1:8646`.
        checkpoint: where the position is kept; lines that the service refuses to read are kept beside it, in `<name>.dead.jsonl`.
        token: the service's token, if it has one.
        say: called with a sentence when something hinders: lines that are gone, a service that does not answer.
        seconds: time between two looks at the log, and before the first repetition of what failed.

    Raises:
        KubehabitError: the URL is none, or the checkpoint cannot be used.
    """

    def __init__(
        self,
        log: Path,
        url: str,
        checkpoint: Path,
        *,
        token: str = "",
        say: Callable[[str], None],
        seconds: float = 1.0,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise KubehabitError(f"{url!r} is no address of a service: give one like http://127.0.0.1:8646.")
        self._url = url.rstrip("/") + "/v1/score"
        self._checkpoint = Checkpoint(checkpoint)
        position, _ = self._checkpoint.load()
        self._follower = Follower(log, position, on_gap=say)
        self._log = log
        self._dead = DeadLetterFile(checkpoint.with_name(f"{checkpoint.name}.dead.jsonl"))
        self._token, self._say, self._seconds = token, say, seconds
        self.counts: dict[str, int] = {"scored": 0, "folded": 0, "rejected": 0, "flagged": 0}

    def run(self, stop: threading.Event) -> None:
        """Send what is there and what comes, until `stop` is set.

        Raises:
            KubehabitError: the log cannot be read, or the service refuses what it is sent for good.
        """
        for batch in self._follower.follow(stop, self._seconds):
            if not all(self._send(body, stop) for body in _bodies(batch.lines)):
                return
            self._checkpoint.save(batch.position)

    def _send(self, body: bytes, stop: threading.Event) -> bool:
        """Send one body, again and again if need be. False if stopped before the service had it."""
        headers = {"Content-Type": "application/x-ndjson"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        wait = self._seconds
        while True:
            try:
                request = urllib.request.Request(self._url, body, headers)
                with _OPENER.open(request, timeout=_TIMEOUT) as answer:
                    counts = json.load(answer)["counts"]
                for name in self.counts:
                    self.counts[name] += int(counts[name])
                return True
            except urllib.error.HTTPError as error:
                why = f"{error.code} {error.reason}"
                error.close()
                if error.code in _UNREADABLE:
                    return self._send_apart(body, stop, why)
                if error.code < 500 and error.code not in _LATER:
                    raise KubehabitError(
                        f"{self._url} refuses the log ({why}). Check the address and KUBEHABIT_TOKEN; "
                        "nothing is lost, what was not taken is sent at the next start."
                    ) from error
            except (OSError, ValueError, KeyError, TypeError) as error:
                why = str(getattr(error, "reason", error)) or type(error).__name__
            self._say(f"{self._url} does not take the log ({why}); trying again in {wait:g} s.")
            if stop.wait(wait):
                return False
            wait = min(2 * wait, _LONGEST_WAIT)

    def _send_apart(self, body: bytes, stop: threading.Event, why: str) -> bool:
        """Send what was refused as it stood in halves, down to the lines that are at fault: those go to the dead letters."""
        lines = [line for line in body.split(b"\n") if line.strip()]
        if len(lines) > 1:
            middle = len(lines) // 2
            return all(self._send(b"\n".join(part), stop) for part in (lines[:middle], lines[middle:]))
        self._dead.add(str(self._log), DeadLetter(1, f"refused: {why}", lines[0]))
        self.counts["rejected"] += 1
        self._say(f"{self._url} cannot read a line ({why}): it is kept in {self._dead.path}.")
        return True
