"""Faults of the machine under load: a disk that is full or refuses, a database that goes, a clock that jumps, a second process.

Each comes while batches are sent, stays for a while and goes. A sender sends what is refused again, as a webhook does.
Afterwards everything must be as if nothing had been.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.errors import KubehabitError
from serving.delivery import outbox
from serving.runtime import Runtime
from serving.storage.receipt_clock import ReceiptClock
from tests.serving.postgres import Postgres
from tests.soak import fork_server
from tests.soak.expected import Expected, judge, look_at
from tests.soak.fault_points import FaultPoints
from tests.soak.fork_server import Ended, Sigkill
from tests.soak.material import Material
from tests.soak.service import BatchSender, Lifetime, Tell, finish, live, prepare_process, start

#: Seconds that a fault stays, at least and at most.
_SHORT, _LONG = 0.3, 1.5
#: Longer than SQLite waits for a lock.
_LOCKED_SECONDS = 6.0
#: Size of a disk that can be filled up, MiB.
_DISK_MIB = 96
_DAY_NS = 86_400 * 10**9
_WAIT = 60.0


@dataclass(slots=True)
class Trouble:
    """What one run of a fault needs: `chance` decides moment and length."""

    life: Lifetime
    material: Material
    chance: random.Random
    tell: Tell = lambda *_, **__: None

    @property
    def seconds(self) -> float:
        """How long the fault stays."""
        return _SHORT + (_LONG - _SHORT) * self.chance.random()


#: Called by the process that serves, with a context manager around the time of the fault.
Fault = Callable[[Trouble, Runtime], contextlib.AbstractContextManager[object]]


@dataclass(slots=True)
class Suffered:
    """A fault and what came of it; no problems is good."""

    name: str
    seconds: float = 0.0
    refused: int = 0
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {name: getattr(self, name) for name in ("name", "seconds", "refused", "problems")}


# -- faults within the process ------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk_full(trouble: Trouble, _: Runtime) -> Iterator[None]:
    """The disk of the home, a real one, has no byte left."""
    if shutil.disk_usage(trouble.life.home).total > _DISK_MIB << 20:
        raise RuntimeError("the home is not on a disk of its own, and this would fill up another one")
    ballast = trouble.life.home / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0")
    yield
    ballast.unlink()


@contextlib.contextmanager
def writes_refused(_: Trouble, __: Runtime) -> Iterator[None]:
    """The kernel refuses every write to a file, SQLite's too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def failing(number: int) -> Fault:
    """A fault in which every change to a file fails with an errno."""

    @contextlib.contextmanager
    def fault(_: Trouble, __: Runtime) -> Iterator[None]:
        points = _installed[-1]
        points.failing = number
        try:
            yield
        finally:
            points.failing = 0

    return fault


#: That of the process that serves.
_installed: list[FaultPoints] = []


@contextlib.contextmanager
def sqlite_locked(trouble: Trouble, _: Runtime) -> Iterator[None]:
    """Another program holds the lock of the alert store for longer than SQLite waits."""
    other = sqlite3.connect(trouble.life.home / "serving.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
        time.sleep(_LOCKED_SECONDS)
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextlib.contextmanager
def sink_down(trouble: Trouble, _: Runtime) -> Iterator[None]:
    """What the sink writes to cannot be written."""
    path = trouble.life.home / "out.jsonl"
    aside = path.with_suffix(".aside")
    if path.exists():
        path.rename(aside)
    path.mkdir()
    try:
        yield
    finally:
        path.rmdir()
        if aside.exists():
            aside.rename(path)


@contextlib.contextmanager
def clock_jumps(trouble: Trouble, runtime: Runtime) -> Iterator[None]:
    """The machine's clock jumps ahead or back, by up to 400 days, and alerts are pruned by it."""
    days = trouble.chance.choice((-400, -1, -0.04, 0.04, 2, 400))
    _steps.append(int(days * _DAY_NS))
    try:
        runtime.engine.store.prune()
        yield
        runtime.engine.store.prune()
    finally:
        _steps.append(0)


_steps: list[int] = [0]


def _jumping_clock() -> None:
    """Let this process's clock be moved by `_steps`."""
    time_ns, seconds = time.time_ns, time.time
    time.time_ns = lambda: time_ns() + _steps[-1]
    time.time = lambda: seconds() + _steps[-1] / 1e9
    ReceiptClock.__init__.__defaults__ = (time.time_ns, time.monotonic_ns)
    outbox.now = lambda: datetime.fromtimestamp(time.time(), UTC)


@contextlib.contextmanager
def registry_down(trouble: Trouble, runtime: Runtime) -> Iterator[None]:
    """The registry is gone for a while, and has another champion when it is back."""
    champion = trouble.life.home / "champion"
    champion.unlink()
    assert runtime.watch is not None
    if runtime.watch.look().result != "unavailable":
        trouble.tell("problem", what="a registry that is down was not noticed")
    yield
    champion.write_text("2")
    if runtime.watch.look().result not in ("swapped", "unchanged"):
        trouble.tell("problem", what="the champion of a registry that is back is not served")


FAULTS: dict[str, tuple[str, Fault]] = {
    "disk full": ("ingest", disk_full),
    "every write refused": ("ingest", writes_refused),
    "disk read-only": ("ingest", failing(errno.EROFS)),
    "input/output errors": ("ingest", failing(errno.EIO)),
    "no space, from one moment to the next": ("ingest", failing(errno.ENOSPC)),
    "SQLite locked": ("ingest", sqlite_locked),
    "sink down": ("ingest", sink_down),
    "clock jumps": ("ingest", clock_jumps),
    "registry down": ("reload", registry_down),
}


def serve_through(trouble: Trouble, fault: Fault) -> None:
    """Serve, with a fault from a random batch on: batches go on coming while it lasts."""
    points = FaultPoints()
    points.install()
    _installed.append(points)
    _jumping_clock()
    life, material, tell = trouble.life, trouble.material, trouble.tell
    runtime, service = start(life, material)
    tell("ready")
    sender = BatchSender(replace(life, kind=""), material, runtime, tell)
    begin = trouble.chance.randrange(2, len(material.bodies) - 2)
    gone = threading.Event()

    def suffer() -> None:
        try:
            with fault(trouble, runtime):
                gone.wait(trouble.seconds)
        except Exception as error:
            tell("problem", what=f"the fault itself failed: {error!r}")

    thread = threading.Thread(target=suffer)
    for number in range(len(material.bodies)):
        if number == begin:
            thread.start()
        sender.send(number)
    thread.join()
    finish(life, material, runtime, tell)
    service.close()


# -- faults outside of it -----------------------------------------------------------------------------------------


class Faults:
    """Runs faults against homes of their own.

    Args:
        material: model and batches.
        folder: for the homes.
        expected: what an undisturbed service says, by kind.
    """

    def __init__(self, material: Material, folder: Path, expected: Callable[[str], Expected]) -> None:
        self._material, self._folder, self._expected = material, folder, expected

    @property
    def names(self) -> list[str]:
        """All faults."""
        found = [*FAULTS, "killed on a full disk", "PostgreSQL killed", "two processes"]
        return [name for name in found if can_mount() or "full" not in name]

    def run(self, name: str, seed: int) -> Suffered:
        """Let a service suffer a fault; at a moment and for a time that the seed decides."""
        chance = random.Random(f"{seed}-{name}")
        home = self._folder / f"{seed}-{name.replace(' ', '-')}"
        began = time.monotonic()
        with _disk(home):
            if name == "killed on a full disk":
                suffered = self._killed_on_a_full_disk(home, chance)
            elif name == "PostgreSQL killed":
                suffered = self._postgres_killed(home, chance)
            elif name == "two processes":
                suffered = self._two_processes(home)
            else:
                kind, fault = FAULTS[name]
                suffered = self._inside(name, Lifetime(home, kind, seed=seed), fault, chance)
            log = home / "log"
            if log.exists() and "Traceback" in (text := log.read_text(errors="replace")):
                suffered.problems.append(
                    "an unexpected error: " + text[text.index("Traceback") - 300 :][:1500]
                )
        suffered.seconds = round(time.monotonic() - began, 1)
        return suffered

    def _inside(self, name: str, life: Lifetime, fault: Fault, chance: random.Random) -> Suffered:
        if life.kind == "reload":
            (life.home / "champion").write_text("1")

        def work(tell: Tell) -> None:
            prepare_process(life, log=life.home / "log")
            serve_through(Trouble(life, self._material, chance, tell), fault)

        return self._judged(name, life, fork_server.run(work))

    def _judged(self, name: str, life: Lifetime, ended: Ended) -> Suffered:
        suffered = Suffered(name, refused=len(ended.all("refused")))
        suffered.problems += [one["what"] for one in ended.all("problem")]
        if ended.how != "closed":
            suffered.problems.append(
                f"it {ended.how}: {(ended.last('failed') or {}).get('trace', '')[-2000:]}"
            )
            return suffered
        suffered.problems += judge(life, ended, look_at(life), self._expected(life.kind))
        return suffered

    def _killed_on_a_full_disk(self, home: Path, chance: random.Random) -> Suffered:
        """Killed while the disk is full, started on the full disk, killed again, started when there is room."""
        life, material = Lifetime(home, "ingest", seed=0), self._material
        middle = chance.randrange(3, len(material.bodies) - 3)

        def fill_up(tell: Tell) -> None:
            prepare_process(life, log=home / "log")
            runtime, _ = start(life, material)
            sender = BatchSender(replace(life, kind=""), material, runtime, tell)
            for number in range(middle):
                sender.send(number)
            disk_full(Trouble(life, material, chance), runtime).__enter__()
            tell("ready")
            sender.send(middle)  # until it is killed, unless the journal has room left in a block of the disk

        def start_anyway(tell: Tell) -> None:
            prepare_process(life, log=home / "log")
            try:
                live(life, material, tell)
            except KubehabitError as error:
                tell("sentence", text=str(error))

        full = fork_server.run(fill_up, Sigkill(0.5, "ready"))
        again = fork_server.run(start_anyway, Sigkill(1.0))
        if again.how not in ("killed", "closed"):
            return self._judged("killed on a full disk", life, again)
        (home / "ballast").unlink()
        first = max([0, *(one["number"] + 1 for one in full.all("acknowledged"))])

        def go_on(tell: Tell) -> None:
            prepare_process(life, log=home / "log")
            live(replace(life, first=first), material, tell)

        suffered = self._judged("killed on a full disk", life, fork_server.run(go_on))
        suffered.refused += len(full.all("refused"))
        return suffered

    def _postgres_killed(self, home: Path, chance: random.Random) -> Suffered:
        """The database server is killed three times under load, and comes back after a while."""
        server = Postgres()
        try:
            server.start()
            life = Lifetime(home, "postgres", seed=0, store=server.database())
            stop = threading.Event()
            times = [(chance.random(), chance.random()) for _ in range(3)]

            def kill_and_start() -> None:
                _wait_for(lambda: (home / "ready").exists() or stop.is_set())
                for before, between in times:
                    if stop.wait(before):
                        return
                    server.kill()
                    time.sleep(between)
                    server.start()

            def work(tell: Tell) -> None:
                prepare_process(life, log=home / "log")
                runtime, service = start(life, self._material)
                (home / "ready").touch()
                sender = BatchSender(replace(life, kind=""), self._material, runtime, tell)
                for number in range(len(self._material.bodies)):
                    sender.send(number)
                    time.sleep(0.05)
                finish(life, self._material, runtime, tell)
                service.close()

            killer = threading.Thread(target=kill_and_start)
            killer.start()
            try:
                ended = fork_server.run(work)
            finally:
                stop.set()
                killer.join()
            return self._judged("PostgreSQL killed", life, ended)
        finally:
            server.stop()

    def _two_processes(self, home: Path) -> Suffered:
        """A second process on the home of one that works is refused with a sentence, and changes nothing."""
        life, material = Lifetime(home, "ingest", seed=0), self._material
        sign = home / "second-was-refused"

        def first(tell: Tell) -> None:
            prepare_process(life, log=home / "log")
            runtime, service = start(life, material)
            sender = BatchSender(replace(life, kind=""), material, runtime, tell)
            middle = len(material.bodies) // 2
            for number in range(len(material.bodies)):
                sender.send(number)
                if number == middle:
                    (home / "second-may-come").touch()
                    _wait_for(sign.exists)
            sign.unlink()
            finish(life, material, runtime, tell)
            service.close()

        def second(tell: Tell) -> None:
            prepare_process(life, log=home / "log-of-the-second")
            try:
                start(life, material)
            except KubehabitError as error:
                tell("sentence", text=str(error))

        ended: list[Ended] = []
        working = threading.Thread(target=lambda: ended.append(fork_server.run(first)))
        working.start()
        _wait_for((home / "second-may-come").exists)
        refused = fork_server.run(second)
        sign.touch()
        working.join()
        suffered = self._judged("two processes", life, ended[0])
        sentence = refused.last("sentence")
        if sentence is None or "Another process" not in sentence["text"]:
            suffered.problems.append(f"the second process: {refused.how}, {refused.messages}")
        return suffered


def _wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _WAIT
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.01)


def can_mount() -> bool:
    """Whether this process may mount a disk of its own, without which no disk can be filled up."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


@contextlib.contextmanager
def _disk(home: Path) -> Iterator[None]:
    """A folder on a small disk of its own, if one may be mounted."""
    home.mkdir(parents=True)
    mounted = False
    if can_mount():
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m,mode=0700", "tmpfs", str(home)]
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", str(home)], check=True)
        shutil.rmtree(home, ignore_errors=True)
