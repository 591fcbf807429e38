"""Speed and memory of the scoring service: a real `kubehabit serve`, and a load generator in a process of its own.

The load is the labelled recording that ships with kubehabit, as kube-apiserver's webhook sends it: EventLists of 400 events.
What is reported is CPU time of the service, because the generator shares the machine. For comparison, bare decoding of the same
bytes and bare reconstruction of the same windows are measured in the same run.

Run: python -m benchmarks.bench_serving [--model models:/kubehabit@champion] [--quick] [--no-install] [--soak MINUTES]

The model is trained on the other recording by the first run (some minutes), and kept in `.kubehabit/bench-serving`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.load import write_bodies
from benchmarks.report import Row, at_most, report
from data.events.audit_event import AuditEvent

ROOT = Path(__file__).resolve().parent.parent
RECORDINGS = ROOT / "data" / "recordings"
KEPT = ROOT / ".kubehabit" / "bench-serving"
#: Events in a batch: the default of kube-apiserver's webhook (--audit-webhook-batch-max-size).
BATCH = 400

PRINCIPALS, ACTIONS_EACH = 10_000, 60
_TICKS = os.sysconf("SC_CLK_TCK")
_ITEM = b'{"kind":"Event","apiVersion":"audit.k8s.io/v1",'
_HEAD, _TAIL = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[', b"]}\n"
_USER = re.compile(rb'"user":\{"username":"([^"]+)"')
_PERSON = re.compile(rb'[^":]+@[^"]+|system:serviceaccount:(?!kube-)[^"]+')
#: Seconds after which the service has given freed memory back: see `serving/process/resources.py`.
_TRIMMED = 35

#: Load average per core above which the machine counts as busy.
_BUSY_FROM = 0.5


# -- the model -------------------------------------------------------------------------------------------------


def registered(home: Path) -> str:
    """The MLflow store of a home folder in which a model is champion; trained on the shipped recording if there is none."""
    store = f"sqlite:///{home / 'mlflow.db'}"
    finished = home / "trained"  # written last: a training that was killed leaves a store as well
    if not finished.is_file():
        shutil.rmtree(home, ignore_errors=True)
        print(f"Training a model on the shipped recording, once; it stays in {home}.", flush=True)
        environment = {**os.environ, "KUBEHABIT_HOME": str(home)}
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "kubehabit"]
        dataset = home / "dataset"
        for arguments in (
            ["data", "build", str(RECORDINGS / "normal.jsonl.zst"), "--out", str(dataset)],
            ["train", "--config", str(ROOT / "configs" / "train.yaml"), "--data", str(dataset)],
        ):
            subprocess.run([*command, *arguments], check=True, env=environment, cwd=ROOT)
        finished.touch()
    return store


# -- the service -----------------------------------------------------------------------------------------------


class Server:
    """A `kubehabit serve` of its own, on a free port of loopback, with an empty home.

    Attributes:
        port: where it listens.
        seconds_to_ready: from the start of the process until /readyz said yes.
    """

    def __init__(self, model: Model, folder: Path, **settings: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBEHABIT_")}
        environment |= {
            "MLFLOW_TRACKING_URI": model.store,
            "MLFLOW_REGISTRY_URI": model.store,
            "KUBEHABIT_HOME": str(folder),
            "KUBEHABIT_PORT": str(self.port),
            "KUBEHABIT_LOG__LEVEL": "error",
            "KUBEHABIT_MODEL__NAME": model.name,
            "KUBEHABIT_MODEL__ALIAS": model.alias,
            **settings,
        }
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / "server.log").open("ab")
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [model.python, "-m", "kubehabit", "serve"],
            env=environment,
            cwd=ROOT,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            while self._status("/readyz") != 200:
                if self.process.poll() is not None or time.perf_counter() - began > 120:
                    raise RuntimeError(
                        f"The service did not start:\n{(folder / 'server.log').read_text()[-2000:]}"
                    )
                time.sleep(0.01)
        except BaseException:
            self.close()
            raise
        self.seconds_to_ready = time.perf_counter() - began

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and wait until it has."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()

    def _status(self, path: str) -> int:
        try:
            return self.get(path)[0]
        except OSError:
            return 0

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        return self.request("GET", path)

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def figure(self, name: str) -> float:
        """Sum of a metric over its labels."""
        text = self.get("/metrics")[1].decode()
        lines = re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([0-9.e+-]+)$", text, re.MULTILINE)
        return sum(map(float, lines))

    def handled(self) -> float:
        """Events whose fate is settled."""
        return self.figure("kubehabit_events_total")

    def settle(self, events: float) -> float:
        """Wait until so many events are settled, or nothing happens any more for 10 seconds; how many are."""
        best, since = -1.0, time.monotonic()
        while (now := self.handled()) < events and time.monotonic() - since < 10:
            if now > best:
                best, since = now, time.monotonic()
            time.sleep(0.05)
        return now

    def rest(self) -> None:
        """Wait until the event store holds all that was scored, too."""
        while self.figure("kubehabit_event_store_behind_batches"):
            time.sleep(0.25)

    def cpu(self) -> float:
        """Seconds of processor time the process has had, in user and kernel, with those of its own that have ended."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICKS

    def resident(self) -> float:
        """Resident memory, MB."""
        return self._memory("VmRSS")

    def peak(self) -> float:
        """The highest that resident memory has been, MB."""
        return self._memory("VmHWM")

    def _memory(self, name: str) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) * 1024 / 1e6


@dataclass(frozen=True, slots=True)
class Model:
    """A registered model, and what serves it.

    Attributes:
        store: the MLflow store.
        name, alias: of the model in it.
        python: interpreter of the environment that serves.
    """

    store: str
    name: str
    alias: str
    python: str = sys.executable


def load(bodies: Path, port: int, day: date, *arguments: str) -> dict[str, Any]:
    """Run the load generator; what it says of the answers."""
    command = [sys.executable, "-m", "benchmarks.load", str(bodies), "--port", str(port), "--day", str(day)]
    done = subprocess.run([*command, *arguments], check=True, stdout=subprocess.PIPE, cwd=ROOT)
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def refused(answers: Mapping[str, Any]) -> int:
    """Requests that did not succeed."""
    return sum(times for status, times in answers["statuses"].items() if not 200 <= int(status) < 300)


# -- what is sent ----------------------------------------------------------------------------------------------


def raw_lines(name: str, most: int | None = None) -> list[bytes]:
    """Events of a recording, as its file has them."""
    from data.events.reader import open_lines

    return list(islice(open_lines(RECORDINGS / f"{name}.jsonl.zst"), most))


def lines_of(name: str) -> list[bytes]:
    """Events of a recording as kube-apiserver has them in an EventList: without kind and version of their own."""
    return [b"{" + line[len(_ITEM) :] if line.startswith(_ITEM) else line for line in raw_lines(name)]


def event_lists(lines: Sequence[bytes], size: int = BATCH) -> list[tuple[bytes, int]]:
    """Bodies of so many events, each with its number of events."""
    return [
        (_HEAD + b",".join(part) + _TAIL, len(part))
        for part in (lines[begin : begin + size] for begin in range(0, len(lines), size))
    ]


def crowd(lines: Sequence[bytes], principals: int, actions: int) -> Iterator[bytes]:
    """Stretches of what people and workloads did, each under a name that nobody else has; in turns of a hundred principals."""
    mine: dict[bytes, list[bytes]] = {}
    for line in lines:
        match = _USER.search(line)
        if match and _PERSON.fullmatch(match[1]):
            mine.setdefault(match[1], []).append(line)
    stretches = [
        (name, own[begin : begin + actions])
        for name, own in mine.items()
        for begin in range(0, len(own) - actions + 1, actions)
    ]
    for begin in range(0, principals, 100):
        chosen = []
        for number in range(begin, min(begin + 100, principals)):
            name, own = stretches[number % len(stretches)]
            head, at, tail = name.rpartition(b"@" if b"@" in name else b":")
            letters = bytes(97 + number // 26**power % 26 for power in range(3))  # digits would be folded
            new = b'"username":"' + head + (letters + at if at == b"@" else at + letters + b"-") + tail
            chosen.append([line.replace(b'"username":"' + name, new, 1) for line in own])
        for turn in zip(*chosen, strict=True):
            yield from turn


# -- measurements ----------------------------------------------------------------------------------------------


class _List(msgspec.Struct):
    items: list[AuditEvent]


def bare_decode(bodies: Sequence[tuple[bytes, int]]) -> float:
    """CPU microseconds an event of the compiled decoder alone, on the same bytes; the best of three."""
    decode = msgspec.json.Decoder(_List).decode
    events = sum(count for _, count in bodies)
    times = []
    for _ in range(3):
        began = time.process_time()
        for body, _ in bodies:
            decode(body)
        times.append(time.process_time() - began)
    return 1e6 * min(times) / events


def percentile(milliseconds: Sequence[float], share: float) -> float:
    """The value that so many percent do not exceed."""
    return float(np.percentile(milliseconds, share, method="higher"))


def throughput(server: Server, bodies: Path, day: date, requests: int, first: int = 0) -> dict[str, float]:
    """As fast as it is answered, two requests under way: CPU and wall time an event, until all are scored.

    Returns:
        `cpu` and `stored`, microseconds an event until all are scored, and until the event store holds them too; `rate`,
        events/s; `lost`, events; `refused`, requests.
    """
    server.rest()
    handled, cpu, began = server.handled(), server.cpu(), time.perf_counter()
    answers = load(
        bodies,
        server.port,
        day,
        *("--requests", str(requests), "--connections", "2", "--first", str(first)),
    )
    settled = server.settle(handled + answers["events"])
    settled_at, scored = time.perf_counter(), server.cpu()
    server.rest()
    return {
        "cpu": 1e6 * (scored - cpu) / answers["events"],
        "stored": 1e6 * (server.cpu() - cpu) / answers["events"],
        "rate": answers["events"] / (settled_at - began),
        "lost": answers["events"] - (settled - handled),
        "refused": refused(answers),
    }


def first_alerts(server: Server, bodies: Sequence[tuple[bytes, int]], most: int) -> list[float]:
    """Seconds from the beginning of a request until the stream shows an alert that it raised; of so many requests."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/v1/alerts/stream")
    stream = connection.getresponse()
    shown: dict[str, float] = {}
    changed = threading.Condition()

    def follow() -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            for line in stream:
                if line.startswith(b"data:"):
                    alert = json.loads(line[5:])
                    with changed:
                        shown[alert["id"]] = time.perf_counter()
                        changed.notify_all()

    threading.Thread(target=follow, daemon=True).start()
    waited: list[float] = []
    for body, _ in bodies:
        if len(waited) == most:
            break
        began = time.perf_counter()
        status, answer = server.request("POST", "/v1/score", body)
        if status != 200:
            raise RuntimeError(f"/v1/score answered {status}: {answer[:300]!r}")
        raised = json.loads(answer)["alerts"]
        if raised:
            with changed:
                while not all(shown.get(alert, 0.0) > began for alert in raised):
                    if not changed.wait(10):
                        raise RuntimeError(f"The stream did not show {raised} within 10 seconds.")
                waited.append(max(shown[alert] for alert in raised) - began)
    connection.close()
    return waited


def differing(server: Server, bundle: Path, bodies: Sequence[tuple[bytes, int]]) -> tuple[int, int]:
    """Events of the labelled recording whose verdict over HTTP is not that of the offline evaluation, and all events.

    Offline is the path of `kubehabit evaluate`: the log read in its own chunks through `detection.detector.Detector`.
    """
    from data.events.reader import DeadLetterFile, read_events
    from detection.bundle import Bundle
    from detection.detector import Detector

    offline: list[tuple[str, float, bool, str]] = []
    detector = Detector(Bundle.load(bundle))
    with tempfile.TemporaryDirectory() as folder:
        letters = DeadLetterFile(Path(folder) / "dead.jsonl")
        for chunk in read_events(RECORDINGS / "labelled.jsonl.zst", letters):
            scores = detector.score(chunk)
            rows: list[tuple[str, float, bool, str]] = [("folded", 0.0, False, "none")] * len(chunk)
            for row, event in enumerate(scores.event.tolist()):
                rows[event] = (
                    "scored",
                    float(scores.evidence[row]),
                    bool(scores.flagged[row]),
                    scores.severity[row],
                )
            offline += rows
    differ, at = 0, 0
    for body, count in bodies:
        status, answer = server.request("POST", "/v1/score", body)
        if status != 200:
            raise RuntimeError(f"/v1/score answered {status}: {answer[:300]!r}")
        results = json.loads(answer)["results"]
        for result, (fate, evidence, flagged, severity) in zip(
            results, offline[at : at + count], strict=True
        ):
            differ += (
                result["status"] != fate
                or result.get("flagged", False) != flagged
                or result.get("severity", "none") != severity
                or abs(result.get("evidence", 0.0) - evidence) > 1e-3
            )
        at += count
    return differ, at


def serving_environment(folder: Path) -> tuple[Path, float]:
    """What `pip install .` makes of a new virtual environment: its interpreter, and MB of its site-packages without pip."""
    environment, source = folder / "environment", folder / "source"
    # A copy of what is committed and what is not yet: building in place would leave build/ behind.
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in names:
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    try:
        subprocess.run(
            [sys.executable, "-m", "venv", str(environment)], check=True, stdout=subprocess.DEVNULL
        )
    except subprocess.CalledProcessError:  # Debian's python3 without python3-venv
        subprocess.run([sys.executable, "-m", "virtualenv", "-q", str(environment)], check=True)
    python = environment / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "-c", "requirements/lock.txt", str(source)]
    subprocess.run(install, check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    [packages] = (environment / "lib").glob("python*/site-packages")
    size = sum(
        path.stat().st_size
        for path in packages.rglob("*")
        if path.is_file()
        and not path.relative_to(packages).parts[0].startswith(("pip", "setuptools", "wheel"))
    )
    return python, size / 1e6


def soak(server: Server, bodies: Path, day: date, rate: float, minutes: float) -> list[Row]:
    """Steady load: memory after the warm-up (the first third), errors and lost events."""
    samples: list[tuple[float, float]] = []
    stop = threading.Event()
    began = time.perf_counter()

    def watch() -> None:
        while not stop.wait(5):
            samples.append((time.perf_counter() - began, server.resident()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    handled, cpu = server.handled(), server.cpu()
    answers = load(
        bodies,
        server.port,
        day,
        *("--rate", str(rate / BATCH), "--seconds", str(60 * minutes), "--connections", "4", "--first", "1"),
    )
    settled = server.settle(handled + answers["events"])
    stop.set()
    watcher.join()
    late = [(when, size) for when, size in samples if when > 20 * minutes]
    middle, end = late[: len(late) // 2], late[len(late) // 2 :]
    level = statistics.median(size for _, size in middle)
    growth = statistics.median(size for _, size in end) - level
    slope = float(np.polyfit([when / 3600 for when, _ in late], [size for _, size in late], 1)[0])
    took = f", {minutes:g} minutes at {rate:,.0f} events/s"
    return [
        Row(f"soak: events{took}", answers["events"], "events"),
        Row("soak: memory after the warm-up", level, "MB"),
        at_most("soak: growth of memory, last third against the second", round(growth, 1), "MB", 5.0),
        Row("soak: slope of memory after the warm-up", slope, "MB/hour"),
        at_most("soak: requests refused or broken", refused(answers), "requests", 0),
        at_most("soak: events lost", answers["events"] - (settled - handled), "events", 0),
        Row("soak: p99 of a batch", percentile(answers["milliseconds"], 99), "ms"),
        Row("soak: CPU", 1e6 * (server.cpu() - cpu) / answers["events"], "us/event"),
    ]


# -- the whole -------------------------------------------------------------------------------------------------


def marked(rows: Sequence[Row], busy: bool) -> list[Row]:
    """The rows, those that depend on what else the machine does marked if it was busy."""
    return [
        Row(f"{row.name} (busy machine)", row.value, row.unit, row.bar, row.ok)
        if busy and row.unit.startswith(("us", "ms", "s", "events/s", "times"))
        else row
        for row in rows
    ]


def is_busy() -> bool:
    """Whether others keep the machine from being ours."""
    return os.getloadavg()[0] > _BUSY_FROM * (os.cpu_count() or 1)


def speed(model: Model, bundle: Path, folder: Path, bodies: Path, quick: bool) -> tuple[list[Row], float]:
    """CPU time an event, and its parts; also the highest rate."""
    from benchmarks.load import read_bodies
    from benchmarks.serving_parts import bare_reconstruction, breakdown

    batches, day = read_bodies(bodies), DAY
    requests = len(batches)
    rows, found = [], {}
    lines, warm = lines_of("normal")[-20_000:], folder / "warm.bodies"
    write_bodies(warm, event_lists(lines))
    for name, size in (("on", "20000"), ("off", "0")):
        settings = {"KUBEHABIT_MODEL__CACHED_WINDOWS": size}
        with Server(model, folder / f"speed-{name}", **settings) as server:
            # Tables and memos fill, as after any start; the recording itself comes for the first time when it counts.
            throughput(server, warm, day, len(event_lists(lines)))
            found[name] = throughput(server, bodies, day, requests)
            hits = server.figure("kubehabit_cached_windows_total")
            asked = hits + server.figure("kubehabit_computed_windows_total")
            if name == "on" and asked:
                rows.append(Row("windows found in the cache", 100 * hits / asked, "% of all windows"))
    on, off = found["on"], found["off"]
    decode = bare_decode(batches)
    whole, newest = bare_reconstruction(bundle, batches[: requests // 4 if quick else None])
    graph = whole if newest is None else newest
    parts = breakdown(bundle, batches)
    rows = [
        at_most("end to end, cache on", on["cpu"], "us/event", 165),
        at_most("end to end, cache off", off["cpu"], "us/event", 500),
        Row("and until the event store holds them, cache off", off["stored"], "us/event"),
        Row("bare compiled decode of the same bytes", decode, "us/event"),
        Row("bare onnxruntime, one thread: the whole graph", whole, "us/event"),
        *(
            []
            if newest is None
            else [Row("bare onnxruntime: the graph for the newest action", newest, "us/event")]
        ),
        Row("end to end over bare decode", off["cpu"] / decode, "times"),
        Row("end to end over bare onnxruntime, the graph that is used", off["cpu"] / graph, "times"),
        Row("end to end over bare onnxruntime, the whole graph", off["cpu"] / whole, "times"),
        Row("wall-clock rate, cache on, generator on the same machine", on["rate"], "events/s"),
        Row("wall-clock rate, cache off, generator on the same machine", off["rate"], "events/s"),
        at_most("events lost", on["lost"] + off["lost"], "events", 0),
        at_most("requests refused", on["refused"] + off["refused"], "requests", 0),
        *rows,
        *(Row(f"part: {name}", took, "us/event") for name, took in parts.items()),
        Row("part: HTTP, writing, and the rest of the process", off["cpu"] - sum(parts.values()), "us/event"),
    ]
    return rows, on["rate"]


def latency(model: Model, folder: Path, bodies: Path, rate: float, seconds: float) -> list[Row]:
    """How long callers wait, and how soon an alert is in the stream."""
    from benchmarks.load import read_bodies

    single = folder / "single.bodies"
    write_bodies(single, [(line, 1) for line in raw_lines("labelled", 20_000)])
    with Server(model, folder / "latency") as server:
        batches = read_bodies(bodies)
        waits = first_alerts(server, batches, 30)
        handled = server.handled()
        warm = load(bodies, server.port, DAY, "--requests", "40", "--first", "1")
        # What is acknowledged but not scored yet is ahead of what comes next, and a burst is stored long after it came.
        server.settle(handled + warm["events"])
        server.rest()
        ones = load(
            single,
            server.port,
            DAY,
            *("--path", "/v1/score", "--rate", "200", "--seconds", str(seconds), "--connections", "8"),
            *("--first", "2"),
        )
        pace = ("--rate", str(rate / 2 / BATCH), "--seconds", str(seconds), "--connections", "8")
        many = load(bodies, server.port, DAY, *pace, "--first", "3")
        judged = load(
            bodies, server.port, DAY, *pace, "--path", "/v1/score", "--first", str(many["rounds"] + 1)
        )
    half = f"at half the highest rate ({rate / 2:,.0f} events/s)"
    return [
        at_most("p99 of one event at 200 requests/s", percentile(ones["milliseconds"], 99), "ms", 15),
        Row("p50 of one event at 200 requests/s", percentile(ones["milliseconds"], 50), "ms"),
        at_most(f"p99 of a batch to /v1/audit, {half}", percentile(many["milliseconds"], 99), "ms", 250),
        at_most(f"p99 of a batch to /v1/score, {half}", percentile(judged["milliseconds"], 99), "ms", 250),
        Row("p50 of a batch to /v1/audit", percentile(many["milliseconds"], 50), "ms"),
        Row("p50 of a batch to /v1/score", percentile(judged["milliseconds"], 50), "ms"),
        at_most(
            "latency runs: requests refused", refused(ones) + refused(many) + refused(judged), "requests", 0
        ),
        at_most(f"from a request to its alert in the stream, worst of {len(waits)}", max(waits), "s", 1.0),
    ]


def start_and_memory(model: Model, folder: Path) -> list[Row]:
    """How soon it is ready, and what it keeps in memory."""
    times = []
    for _ in range(3):
        with Server(model, folder / "start") as server:
            times.append(server.seconds_to_ready)
            empty = server.resident()
    lines = list(crowd(lines_of("normal"), PRINCIPALS, ACTIONS_EACH))
    bodies = folder / "crowd.bodies"
    write_bodies(bodies, event_lists(lines))
    with Server(model, folder / "memory") as server:
        requests = -(-len(lines) // BATCH)
        answers = load(bodies, server.port, DAY, "--requests", str(requests))
        server.settle(answers["events"])
        server.rest()
        highest = server.peak()
        time.sleep(_TRIMMED)
        held = server.figure("kubehabit_principals")
        state = server.figure("kubehabit_state_bytes")
        full = server.resident()
    return [
        at_most(
            "from process start to ready, first start (model copied from the registry)", times[0], "s", 3.0
        ),
        at_most("from process start to ready, later starts", max(times[1:]), "s", 3.0),
        Row("resident, just started", empty, "MB"),
        Row("principals in memory", held, "principals"),
        at_most(f"resident with {PRINCIPALS:,} principals of {ACTIONS_EACH} actions each", full, "MB", 350),
        Row(
            "highest while they came as fast as they were taken, and were put into the event store",
            highest,
            "MB",
        ),
        Row("state of a principal: its last actions and its habits", state / max(held, 1), "bytes"),
    ]


def verdicts(model: Model, bundle: Path, folder: Path, bodies: Path) -> list[Row]:
    """Whether serving says what the offline evaluation says."""
    from benchmarks.load import read_bodies

    with Server(model, folder / "verdicts") as server:
        differ, events = differing(server, bundle, read_bodies(bodies))
    return [
        at_most(f"verdicts that differ from offline evaluation, of {events:,} events", differ, "events", 0)
    ]


#: When the recordings were made.
DAY = date(2026, 11, 23)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a registered model, models:/NAME@ALIAS, of MLFLOW_TRACKING_URI")
    parser.add_argument("--home", type=Path, default=KEPT, help="where the model trained here is kept")
    parser.add_argument("--quick", action="store_true", help="10 seconds for each latency instead of 60")
    parser.add_argument(
        "--no-install", action="store_true", help="serve from this environment, not from a new one"
    )
    parser.add_argument("--only", choices=("speed", "latency", "memory", "verdicts"), nargs="+")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="steady load instead of all else")
    parser.add_argument("--rate", type=float, help="events/s of the soak; default: half the highest rate")
    chosen = parser.parse_args()
    if chosen.model:
        from data.paths import registry_uri

        match = re.fullmatch(r"models:/([^/@]+)@([^/@]+)", chosen.model)
        if match is None:
            parser.error("--model is models:/NAME@ALIAS")
        model = Model(registry_uri(), match[1], match[2])
    else:
        model = Model(registered(chosen.home), "kubehabit", "champion")
    os.environ["MLFLOW_TRACKING_URI"] = os.environ["MLFLOW_REGISTRY_URI"] = model.store
    from serving.registry.client import ModelReference, open_bundle

    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bodies = folder / "recording.bodies"
        write_bodies(bodies, event_lists(lines_of("labelled")))
        wanted = ModelReference(model.name, alias=model.alias)
        bundle = open_bundle(wanted, folder / "bundles", lambda opened, _: opened.path)[0]
        if chosen.soak:
            with Server(model, folder / "soak") as server:
                found = throughput(server, bodies, DAY, 100)
                rows = soak(server, bodies, DAY, chosen.rate or found["rate"] / 2, chosen.soak)
            report("serving-soak", [Row("load average before", before, "runnable"), *rows])
            return
        rows = [Row("load average before", before, "runnable"), Row("cores", os.cpu_count() or 1, "cores")]
        parts: dict[str, Callable[[], list[Row]]] = {
            "memory": lambda: start_and_memory(model, folder),
            "verdicts": lambda: verdicts(model, bundle, folder, bodies),
        }
        wanted = chosen.only or ["speed", "latency", *parts]
        if chosen.no_install:
            print("What serves is this environment, which has more in it than the service needs.", flush=True)
        else:
            python, size = serving_environment(folder)
            model = replace(model, python=str(python))
            rows.append(at_most("installed serving environment", size, "MB", 450))
        highest = 0.0
        if {"speed", "latency"} & set(wanted):
            busy = is_busy()
            found_rows, highest = speed(model, bundle, folder, bodies, chosen.quick)
            rows += marked(found_rows, busy)
        if "latency" in wanted:
            busy = is_busy()
            rows += marked(latency(model, folder, bodies, highest, 10 if chosen.quick else 60), busy)
        for part, measure in parts.items():
            if part in wanted:
                busy = is_busy()
                rows += marked(measure(), busy)
    report("serving", rows)


if __name__ == "__main__":
    main()
