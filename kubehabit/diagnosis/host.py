"""Checks of the machine: folders, disk space, clock, open files and the port."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import urllib3

from data.paths import home
from kubehabit.diagnosis.check_result import CheckResult
from serving.settings import Settings

_MIB = 1 << 20
#: Below, a write can fail at any moment.
_LEAST_FREE = 256 * _MIB
_LITTLE_FREE = 2048 * _MIB
#: Clocks of machines and file systems differ by seconds.
_CLOCK_TOLERANCE = 300.0
#: Before this version was made.
_EARLIEST = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
#: Files, sockets to sinks and the registry, and libraries, beside the connections.
_OTHER_FILES = 256


def folders(settings: Settings) -> dict[str, Path]:
    """Folders that the service writes to, by the setting that names each."""
    found = {
        "KUBEHABIT_HOME": home(),
        "journal.path": settings.journal.resolved_path,
        "state.path": settings.state.resolved_path,
        "model.cache": settings.model.cache_dir,
        "dead_letters.path": settings.dead_letters.resolved_path.parent,
        "access.log.path": settings.access.log.resolved_path.parent,
    }
    return found | ({"events.path": settings.events.resolved_path} if settings.events.enabled else {})


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def check_home(settings: Settings) -> Iterator[CheckResult]:
    """Folders can be written to, and their disks have room."""
    free: dict[int, tuple[Path, int]] = {}
    for name, folder in folders(settings).items():
        place = _existing(folder)
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            sentence = f"{folder} ({name}) cannot be written to ({error.strerror}): give it to the user of the service."
            yield CheckResult("home", "error", sentence)
            continue
        free.setdefault(place.stat().st_dev, (folder, shutil.disk_usage(place).free))
    for folder, size in free.values():
        room = f"The disk of {folder} has {size / _MIB:,.0f} MiB free"
        if size < _LEAST_FREE:
            yield CheckResult("home", "error", f"{room}: make room, or the service stops taking events.")
        elif size < _LITTLE_FREE:
            limits = (
                f"events.max_gb ({settings.events.max_gb:g}) and journal.max_mb ({settings.journal.max_mb:g})"
            )
            yield CheckResult("home", "warning", f"{room}: make room, or lower {limits}.")
        else:
            yield CheckResult("home", "ok", f"{room}, and its folders can be written to.")


def check_clock(settings: Settings) -> Iterator[CheckResult]:
    """The clock is not behind what was written before."""
    now = time.time()
    shown = datetime.fromtimestamp(now, UTC).isoformat(" ", "seconds")
    if now < _EARLIEST:
        yield CheckResult("clock", "error", f"The clock says {shown}: set it, and let NTP keep it.")
        return
    written = (
        (path.stat().st_mtime, path) for folder in folders(settings).values() for path in _files(folder)
    )
    latest, path = max(written, default=(0.0, Path()))
    if latest > now + _CLOCK_TOLERANCE:
        when = datetime.fromtimestamp(latest, UTC).isoformat(" ", "seconds")
        sentence = f"The clock says {shown}, but {path} was written at {when}: set the clock, or find out what set it forward."
        yield CheckResult("clock", "error", sentence)
        return
    yield CheckResult("clock", "ok", f"The clock says {shown}, and nothing was written later.")


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if path.is_file())
    except OSError:  # not there yet, or reported by another check
        return


def check_open_files(settings: Settings) -> Iterator[CheckResult]:
    """The limit of open files has room for all connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.limits.connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        sentence = f"A process may open {hard:,} files, and the service needs {needed:,}: raise it (LimitNOFILE, ulimit -Hn)."
        yield CheckResult("open files", "error", sentence)
        return
    limit = "without limit" if hard == resource.RLIM_INFINITY else f"up to {hard:,}"
    yield CheckResult("open files", "ok", f"A process may open files {limit}; the service needs {needed:,}.")


def check_port(settings: Settings) -> Iterator[CheckResult]:
    """The address can be listened on, or the service listens there already."""
    place = f"{settings.host or '*'}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        sentence = f"{settings.host!r} is no address to listen on ({error.strerror}): correct host."
        yield CheckResult("port", "error", sentence)
        return
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _is_kubehabit(settings):
                yield CheckResult("port", "ok", f"A service answers at {place}.")
                return
            sentence = f"{place} cannot be listened on ({error.strerror}): stop what holds it, or choose another port."
            yield CheckResult("port", "error", sentence)
            return
    yield CheckResult("port", "ok", f"{place} is free.")


def _is_kubehabit(settings: Settings) -> bool:
    """Whether a service of ours answers at the address of the settings."""
    scheme = "http" if settings.tls.certificate is None else "https"
    host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}/healthz"
    try:
        with urllib3.PoolManager(cert_reqs="CERT_NONE", assert_hostname=False) as pool:
            answer = pool.request("GET", url, timeout=5.0, retries=False, redirect=False)
        return bool(json.loads(answer.data)["status"])
    except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError, TypeError):
        return False
