"""`kubehabit serve` as a child process of the demo, which never outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import urllib3

from data.errors import KubehabitError

SERVE = (sys.executable, "-m", "kubehabit", "serve")
START_SECONDS = 90.0
STOP_SECONDS = 10.0


class Server:
    """`kubehabit serve` as a process group of its own, on a free port of the loopback address.

    Use it as a context: the group is ended on the way out, whatever the reason.
    """

    def __init__(self, home: Path, command: Sequence[str] = SERVE) -> None:
        self._command = command
        self.log = home / "serve.log"
        self.url = ""
        self.seconds_to_ready = 0.0
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBEHABIT_")}
        environment["KUBEHABIT_HOME"] = str(self._home)
        command = [*self._command, "--host", "127.0.0.1", "--port", str(port)]
        began = time.monotonic()
        try:
            with self.log.open("wb") as log, held_back():
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._wait_until_ready(began + START_SECONDS)
        except BaseException:
            self.stop()
            raise
        self.seconds_to_ready = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Process id of the server; None when it is not running."""
        return self._process.pid if self._process is not None else None

    def _wait_until_ready(self, deadline: float) -> None:
        answer = "no answer"
        while time.monotonic() < deadline:
            self.raise_if_dead()
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                response = urllib3.request("GET", f"{self.url}/readyz", timeout=5, retries=False)
                if response.status == HTTPStatus.OK:
                    return
                answer = f"{response.status} {response.data[:200].decode('utf-8', 'replace')}"
            time.sleep(0.1)
        raise KubehabitError(
            f"The API was not ready after {START_SECONDS:.0f} s ({answer}). Its log: {self.log}"
        )

    def raise_if_dead(self) -> None:
        """Raise a KubehabitError with the last line of the server's log if it has ended."""
        if self._process is not None and (status := self._process.poll()) is not None:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = lines[-1].removeprefix("error: ") if lines else "it said nothing"
            raise KubehabitError(f"The API ended with status {status}: {last} (its log: {self.log})")

    def stop(self) -> None:
        """End the process group: with SIGTERM, then with SIGKILL."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        with held_back():
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def held_back() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while a process is started or ended, so that none runs without being known."""
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.signal(number, lambda number, _: held.append(number))) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
