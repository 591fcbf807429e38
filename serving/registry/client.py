"""Fetches models from the MLflow registry: alias lookup and artifact download, nothing unpickled.

Bundles are cached by version, so that a restart needs no download and an unreachable registry is no outage.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from data.durable_file import write_durably
from data.errors import BundleError, KubehabitError
from data.paths import STARTER, registry_uri, starter_bundle, tracking_uri

if TYPE_CHECKING:
    from detection.bundle import Bundle

T = TypeVar("T")
_log = logging.getLogger("kubehabit.registry")
_MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_SAFE = re.compile(r"[A-Za-z0-9._-]+")
_PASSWORD = re.compile(r"//[^/@\s]*@")
_MARK = "bundle.json"
# Of folders that are being downloaded into, and of the file in them that is locked meanwhile.
_FETCHING, _LOCK = ".fetching-", "lock"
# Such a folder may not be locked yet.
_BEGUN_SECONDS = 60.0
_RACY_SECONDS = 2.0
TRAIN = "Train and register one with: kubehabit train --data DIR"


class RegistryError(KubehabitError):
    """The registry has no such model, or the model cannot be used."""


class RegistryUnavailableError(RegistryError):
    """The registry is missing, damaged or out of reach; a cached download may replace it."""


class NoRegistryError(RegistryUnavailableError):
    """There is no registry yet: nothing was ever registered on this machine."""


class NoSuchModelError(RegistryError):
    """The registry answers, and has no such model, version or alias."""


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A registered model by alias or by version."""

    name: str
    alias: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        return f"models:/{self.name}" + (f"@{self.alias}" if self.alias else f"/{self.version}")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A bundle on this machine; a folder has its own name and version "-".

    Attributes:
        directory: for `Bundle.load`.
        downloaded: whether this call downloaded it.
        notice: message to the operator, if any.
    """

    directory: Path
    name: str
    version: str
    source: Literal["registry", "cache", "folder", "starter"]
    downloaded: bool = False
    notice: str | None = None


def parse_model(text: str) -> ModelReference | Path:
    """Parse `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `starter` or the path of a bundle.

    Raises:
        RegistryError: it names no model.
        KubehabitError: this installation has no starter model.
    """
    if match := _MODEL_URI.fullmatch(text):
        return ModelReference(**match.groupdict())
    if text.startswith("models:"):
        raise RegistryError(
            f"{text!r} names no model: write models:/kubehabit@champion or models:/kubehabit/3."
        )
    return starter_bundle() if text == STARTER else Path(text)


def open_starter(reason: str, check: Callable[[Bundle, Fetched], T], trusted_hops: int = 0) -> T:
    """The model that is installed with kubehabit, as `open_bundle` opens one.

    Args:
        reason: why no other is served, a sentence.
        check: as of `open_bundle`.
        trusted_hops: proxies before the API server whose X-Forwarded-For is believed.

    Raises:
        KubehabitError: this installation has none.
        BundleError: it was changed.
    """
    from detection.bundle import Bundle

    bundle = Bundle.load(starter_bundle())
    bundle = replace(bundle, settings=replace(bundle.settings, trusted_hops=trusted_hops))
    notice = (
        "The starter model is served, which knows no principal of this cluster: it learns habits as events come in. "
        f"Once it has seen some days of normal work, train your own: kubehabit retrain. ({reason})"
    )
    return check(bundle, Fetched(bundle.path, STARTER, bundle.checksum[:12], "starter", notice=notice))


@dataclass(frozen=True, slots=True)
class LocatedVersion:
    """The version that a reference resolves to at the moment.

    Attributes:
        directory: its place in the cache. Its name identifies the registration too: a registry that is deleted and refilled
            starts at version 1 again.
    """

    name: str
    version: str
    directory: Path


def open_bundle(
    wanted: ModelReference | Path, cache: Path, check: Callable[[Bundle, Fetched], T]
) -> tuple[T, Fetched]:
    """Load and verify a bundle; if the registry is out of reach or its version unusable, the last good one in the cache.

    Args:
        wanted: registered model, or a folder that holds a bundle.
        cache: folder of downloaded bundles.
        check: turns the bundle into what is served; raises BundleError if it cannot.

    Returns:
        The result of `check`, and where the bundle came from, with a notice if it is not the wanted one.

    Raises:
        RegistryError: there is no such model, or no registry and nothing in the cache.
        BundleError: the bundle fails its checksums or `check`, or has an unknown format, and there is no earlier one.
    """
    from detection.bundle import Bundle

    if isinstance(wanted, Path):
        fetched = Fetched(wanted, wanted.name, "-", "folder")
        return check(Bundle.load(bundle_in(wanted, str(wanted))), fetched), fetched
    try:
        return open_located(locate(wanted, cache), cache, wanted, check)
    except (RegistryUnavailableError, BundleError) as error:
        last = _last_good(cache, wanted)
        if last is None:
            raise
        notice = f"{error} Until then the last good download is served: version {last.version}."
    _log.warning(notice)
    stands_in = replace(last, notice=notice)
    return check(Bundle.load(last.directory), stands_in), stands_in


def open_located(
    located: LocatedVersion, cache: Path, wanted: ModelReference, check: Callable[[Bundle, Fetched], T]
) -> tuple[T, Fetched]:
    """Fetch, load and verify a located version, and note it as the last good one.

    Raises:
        RegistryUnavailableError: its files cannot be fetched at the moment.
        BundleError: it fails its checksums or `check`, or has an unknown format; its cached copy is deleted.
    """
    from detection.bundle import Bundle

    fetched = download(located)
    try:
        try:
            bundle = Bundle.load(fetched.directory)
        except BundleError:
            if fetched.downloaded:
                raise
            what = fetched.name, fetched.version
            _log.warning("the cached copy of %s version %s is damaged; fetching it again", *what)
            shutil.rmtree(fetched.directory, ignore_errors=True)
            fetched = download(located)
            bundle = Bundle.load(fetched.directory)
        made = check(bundle, fetched)
    except BundleError:
        # The next start must not find this copy again.
        shutil.rmtree(fetched.directory, ignore_errors=True)
        raise
    _remember(cache, wanted, fetched)
    return made, fetched


def locate(wanted: ModelReference, cache: Path) -> LocatedVersion:
    """Resolve a reference; an unchanged SQLite registry is not asked again.

    Raises:
        RegistryUnavailableError: the registry is missing, damaged or out of reach.
        RegistryError: it has no such model.
    """
    key, stamp = (registry_uri(), wanted), _stamp(registry_uri())
    known, found = _last_answers.pop(key, (None, {}))
    if stamp is None or known != stamp:
        found = ask("locate", **asdict(wanted))
    if stamp is not None:
        _last_answers[key] = stamp, found
    origin = f"{found['source']}\0{found['registered']}".encode()
    number = found["version"]
    directory = cache / folder_of(wanted.name) / f"{number}-{hashlib.sha256(origin).hexdigest()[:12]}"
    return LocatedVersion(wanted.name, number, directory)


_last_answers: dict[tuple[str, ModelReference], tuple[tuple[object, ...] | None, dict[str, Any]]] = {}


def _stamp(uri: str) -> tuple[object, ...] | None:
    """Changes with every write to a SQLite store; None for others, and shortly after a write, as file times are coarse."""
    path = _sqlite_file(uri)
    if path is None:
        return None
    stamps: list[tuple[int, int, int] | None] = []
    for file in (path, path.with_name(f"{path.name}-wal")):
        try:
            found = file.stat()
        except OSError:
            stamps.append(None)
            continue
        if time.time() - found.st_mtime < _RACY_SECONDS:
            return None
        stamps.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return tuple(stamps)


def download(located: LocatedVersion) -> Fetched:
    """Download a version's bundle into the cache, unless it is there.

    Raises:
        RegistryUnavailableError: its files cannot be fetched.
        BundleError: they contain no bundle.
    """
    directory, name, number = located.directory, located.name, located.version
    if (directory / _MARK).is_file():
        return Fetched(directory, name, number, "registry")
    directory.parent.mkdir(parents=True, exist_ok=True)
    _clear_downloads(directory.parent)
    beside = {"dir": str(directory.parent), "prefix": _FETCHING}
    with (
        tempfile.TemporaryDirectory(**beside, ignore_cleanup_errors=True) as temporary,
        (Path(temporary) / _LOCK).open("wb") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = Path(ask("download", name=name, version=number, to=temporary)["bundle"])
        shutil.rmtree(directory, ignore_errors=True)
        found.rename(directory)  # atomic: a kill leaves no half bundle under the final name
    return Fetched(directory, name, number, "registry", downloaded=True)


def _clear_downloads(folder: Path) -> None:
    """Delete what processes left that were killed while they downloaded: a whole bundle each time."""
    for left in folder.glob(f"{_FETCHING}*"):
        try:
            if left.stat().st_mtime > time.time() - _BEGUN_SECONDS:
                continue
            with (left / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process downloads into it, or has just deleted it
            continue
        shutil.rmtree(left, ignore_errors=True)


def ask(what: str, **arguments: str | None) -> dict[str, Any]:
    """Call the MLflow client in a subprocess; raises what `serving.registry.worker` does, RegistryUnavailableError if it died."""
    _check_sqlite(registry_uri())
    _check_sqlite(tracking_uri())
    answer = _answer_of_client(what, arguments)
    for kind in (RegistryError, RegistryUnavailableError, NoSuchModelError, BundleError):
        if answer.get("error") == kind.__name__:
            raise kind(answer["message"])
    return answer


class _RegistryProcess:
    """A subprocess that runs `serving.registry.worker`."""

    def __init__(self) -> None:
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `close` closes it
        self._last_line = ""
        pipe, command = subprocess.PIPE, [sys.executable, "-m", "serving.registry.worker"]
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._stderr, text=True)
        except OSError as error:
            raise RegistryUnavailableError(
                f"The MLflow client cannot be started ({error.strerror}): is there memory for another process?"
            ) from error

    def ask(self, request: dict[str, str | None]) -> dict[str, Any]:
        """Its answer to a request; raises RegistryUnavailableError if it died."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(BrokenPipeError):  # reported below
            print(json.dumps(request), file=stdin, flush=True)
        try:
            answer: dict[str, Any] = json.loads(stdout.readline())
        except ValueError:
            stop_client()
            self.close()
            raise RegistryUnavailableError(
                f"The MLflow client broke off ({_without_password(self._last_line)}). Check the installation of mlflow-skinny."
            ) from None
        return answer

    def close(self) -> None:
        """End the process."""
        if not self._stderr.closed:
            self._process.communicate()
            self._stderr.seek(0)
            lines = self._stderr.read().strip().splitlines()
            self._last_line = (lines or [f"status {self._process.returncode}"])[-1]
            self._stderr.close()


_started: _RegistryProcess | None = None


@contextlib.contextmanager
def started_client() -> Iterator[None]:
    """MLflow's client started early, as its import takes as long as the service's; all requests use it until `stop_client`."""
    global _started
    if _started is None:
        with contextlib.suppress(RegistryUnavailableError):  # raised by the first request
            _started = _RegistryProcess()
    try:
        yield
    finally:
        stop_client()


def stop_client() -> None:
    """End the client that was started early, to free its memory."""
    global _started
    if _started is not None:
        _started.close()
        _started = None


def _answer_of_client(what: str, arguments: dict[str, str | None]) -> dict[str, Any]:
    request = {"ask": what} | arguments
    if _started is not None:
        return _started.ask(request)
    with contextlib.closing(_RegistryProcess()) as client:
        return client.ask(request)


def bundle_in(folder: Path, what: str) -> Path:
    """The folder that holds `bundle.json`, at or below `folder`; raises BundleError if there is none."""
    if (folder / _MARK).is_file():
        return folder
    found = sorted(folder.rglob(_MARK)) if folder.is_dir() else []
    if not found:
        raise BundleError(f"{what} holds no model bundle ({_MARK} is missing). {TRAIN}")
    return found[0].parent


def _sqlite_file(uri: str) -> Path | None:
    parts = urlsplit(uri)
    # sqlite:///relative and sqlite:////absolute
    return Path(unquote(parts.path[1:])) if parts.scheme.partition("+")[0] == "sqlite" else None


def _check_sqlite(uri: str) -> None:
    """Raise RegistryUnavailableError for a SQLite store that is missing or half-written, which MLflow would silently create."""
    path = _sqlite_file(uri)
    if path is None:
        return
    if not path.is_file() or path.stat().st_size == 0:
        raise NoRegistryError(f"There is no model registry at {path}. {TRAIN}; or set MLFLOW_TRACKING_URI.")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as store:
            found = store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    except sqlite3.Error as error:
        raise RegistryUnavailableError(
            f"The model registry {path} cannot be read ({error}). Restore it from a backup, or move it away and "
            "register the model again: kubehabit train --data DIR"
        ) from error
    missing = {"registered_models", "model_versions", "registered_model_aliases"} - {
        name for (name,) in found
    }
    if missing:
        raise RegistryUnavailableError(
            f"The model registry {path} is incomplete (no table {sorted(missing)[0]}): a training may have been cut off "
            "while it was being made. Move it away and run kubehabit train --data DIR again."
        )


def one_line(error: BaseException) -> str:
    """Class and first line of an error, without the passwords of URLs in it."""
    text = _without_password((str(error).splitlines() or [""])[0])
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _without_password(line: str) -> str:
    return _PASSWORD.sub("//", line)[:200].rstrip(".")


def folder_of(name: str) -> str:
    """A folder name for a registered model, whatever its characters."""
    is_safe = _SAFE.fullmatch(name) and name.strip(".")
    return name if is_safe else hashlib.sha256(name.encode()).hexdigest()[:16]


def _pointer(cache: Path, wanted: ModelReference) -> Path:
    kind = f"alias-{wanted.alias}" if wanted.alias else f"version-{wanted.version}"
    return cache / folder_of(wanted.name) / f"{folder_of(kind)}.json"


def _remember(cache: Path, wanted: ModelReference, fetched: Fetched) -> None:
    """Record a verified bundle as the last good one."""
    noted = {"version": fetched.version, "directory": fetched.directory.name}
    write_durably(_pointer(cache, wanted), json.dumps(noted).encode())


def _last_good(cache: Path, wanted: ModelReference) -> Fetched | None:
    """The bundle that was last served for this reference, if it is still there."""
    pointer = _pointer(cache, wanted)
    try:
        noted = json.loads(pointer.read_text(encoding="utf-8"))
        directory = pointer.parent / Path(str(noted["directory"])).name
        version = str(noted["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not (directory / _MARK).is_file():
        return None
    return Fetched(directory, wanted.name, version, "cache")
