"""A PostgreSQL of the tests' own: Debian's server on a fresh cluster, reachable by a socket that only the tests know."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

DEADLINE = 60.0
_databases = count(1)


def binary(name: str) -> str:
    """Path of one of PostgreSQL's programs; the test is skipped where there is none."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name, path=":".join([*map(str, places), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install postgresql")
    return found


def _unprivileged() -> str | None:
    """Whom to run the server as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


class Postgres:
    """One cluster in a folder of its own; started, killed and started again by its process id."""

    def __init__(self) -> None:
        initdb, self._server = binary("initdb"), binary("postgres")
        self._user = _unprivileged()
        # Not pytest's folder: that belongs to who runs the tests, and the path of a socket must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="kubehabit-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        command = [initdb, "--pgdata", str(self._folder / "data"), "--username", "tests", "--auth", "trust"]
        subprocess.run(
            [*command, "--encoding", "UTF8", "--locale", "C", "--no-sync"],
            check=True,
            capture_output=True,
            user=self._user,
            cwd="/",
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._folder),
            "shared_buffers": "16MB",
            # A killed process loses nothing that the kernel has; only a power cut would.
            "fsync": "off",
            # Nobody's default, and so a check that kubehabit does not rely on it.
            "synchronous_commit": "off",
        }
        command = [self._server, "-D", str(self._folder / "data")]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd="/")
        engine = sa.create_engine(self._url("public"), poolclass=sa.NullPool)
        give_up = time.monotonic() + DEADLINE
        while True:
            try:
                engine.connect().close()
                return
            except sa.exc.OperationalError:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    raise AssertionError((self._folder / "log").read_text()) from None
                time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash does: SIGKILL. Its children notice and end as well."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(DEADLINE)

    def stop(self) -> None:
        """End it and remove all it held."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nothing of it is needed any more
            self._process.wait(DEADLINE)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _url(self, schema: str) -> str:
        return f"postgresql+psycopg://tests@/postgres?host={self._folder}&options=-csearch_path%3D{schema}"

    def database(self) -> str:
        """URL of what looks like a new, empty database: a schema of its own, which costs a hundredth of a database."""
        name = f"test_{next(_databases)}"
        engine = sa.create_engine(self._url("public"), poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        return self._url(name)
