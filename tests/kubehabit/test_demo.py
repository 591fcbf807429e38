"""The demo: it leaves nothing running, touches only its own folder, and says in a sentence what is wrong."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data import paths
from data.errors import KubehabitError
from data.events.reader import open_lines
from data.paths import Recordings
from kubehabit import demo, demo_server

ROOT = Path(__file__).resolve().parents[2]

# An API in miniature: an event that says "odd" raises an alert; busy once; misbehaves when asked to.
STAND_IN = r"""
import gzip, http.server, json, os, signal, sys
mode = os.environ.get("STAND_IN", "")
if mode == "dies":
    sys.exit("port 1 is in use: choose another")
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
alerts, state = [], {"busy": True}
class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def answer(self, status, body, **headers):
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        if self.path == "/readyz":
            return self.answer(200, {})
        self.answer(200, alerts[int(self.path.rpartition("/")[2])])
    def do_POST(self):
        body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
        if mode == "refuses":
            return self.answer(413, {"detail": "too large: send less"})
        if state["busy"]:
            state["busy"] = False
            return self.answer(503, {}, Retry_After="0")
        raised = []
        for line in body.split(b"\n"):
            event = json.loads(line)
            if "odd" in event:
                alerts.append({"id": str(len(alerts)), "principal": "alice", "severity": "high",
                               "sentence": event["odd"], "firstSeen": "2026-11-23T14:31:46Z",
                               "lastSeen": "2026-11-23T14:31:47Z", "auditIDs": [event["auditID"]]})
                raised.append(alerts[-1]["id"])
            if "worse" in event:
                alerts[0]["severity"] = "critical"
                raised.append("0")
        self.answer(200, {"results": [], "alerts": raised})
host, port = sys.argv[sys.argv.index("--host") + 1], int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer((host, port), Api).serve_forever()
"""


@pytest.fixture
def serve(tmp_path: Path) -> tuple[str, ...]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return (sys.executable, str(script))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def write_log(path: Path, events: list[dict[str, Any]]) -> Path:
    path.write_bytes(gzip.compress("\n".join(json.dumps(event) for event in events).encode()))
    return path


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_log_is_played_whole_and_in_order_and_alerts_are_printed_as_they_come(
    serve: tuple[str, ...], home: Path, tmp_path: Path, console: Console
) -> None:
    events: list[dict[str, Any]] = [{"auditID": f"e{number}"} for number in range(1201)]
    for number in (3, 700, 1200):
        events[number]["odd"] = f"alice did [b]{number}[/b]"
    events[900]["worse"] = True
    log = write_log(tmp_path / "log.gz", events)
    with demo.Server(home, serve) as server:
        played = demo.play(server, log, console)
    assert played.events == 1201
    assert [alert["auditIDs"] for alert in played.alerts] == [["e3"], ["e700"], ["e1200"]]
    printouts = [line for line in printed(console).splitlines() if "alice did" in line]
    assert [line.split(maxsplit=1)[1] for line in printouts] == [
        "high         alice did [b]3[/b]",
        "high         alice did [b]700[/b]",
        "now critical alice did [b]3[/b]",
        "high         alice did [b]1200[/b]",
    ]


def test_a_refused_batch_is_one_sentence(
    serve: tuple[str, ...], home: Path, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "refuses")
    log = write_log(tmp_path / "log.gz", [{"auditID": "e"}])
    with demo.Server(home, serve) as server, pytest.raises(KubehabitError, match=r"413.*too large"):
        demo.play(server, log, console)


def test_a_server_that_cannot_start_is_quoted(
    serve: tuple[str, ...], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "dies")
    with (
        pytest.raises(KubehabitError, match="status 1: port 1 is in use: choose another"),
        demo.Server(home, serve),
    ):
        pass


def test_a_server_that_never_gets_ready_is_ended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_server, "START_SECONDS", 0.5)
    server = demo.Server(
        home, (sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    )
    with pytest.raises(KubehabitError, match="not ready"), server:
        pass
    assert not running(int(server.log.read_text()))


def test_a_server_that_dies_while_playing_is_noticed(
    serve: tuple[str, ...], home: Path, tmp_path: Path, console: Console
) -> None:
    log = write_log(tmp_path / "log.gz", [{"auditID": "e"}])
    with demo.Server(home, serve) as server:
        server.stop()
        with pytest.raises(KubehabitError, match="The API ended with status"):
            demo.play(server, log, console)


def test_a_server_that_ignores_sigterm_is_killed(
    serve: tuple[str, ...], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN", "deaf")
    monkeypatch.setattr(demo_server, "STOP_SECONDS", 0.2)
    with demo.Server(home, serve) as server:
        pid = server.pid
        assert pid is not None
        assert running(pid)
    assert not running(pid)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupting_the_demo_leaves_no_server(
    serve: tuple[str, ...], home: Path, number: signal.Signals, status: int
) -> None:
    code = f"""
import sys, time
from pathlib import Path
import typer
from kubehabit import demo
demo._chapters = lambda *_: serve()
def serve():
    with demo.Server(Path({str(home)!r}), {serve!r}) as server:
        print(server.pid, flush=True)
        time.sleep(60)
try:
    demo.run(Path({str(home)!r}) / "demo")
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert running(pid)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == status
    assert "The next demo begins again" in said
    assert not running(pid)


def test_a_signal_while_a_process_is_being_started_waits_until_it_is_known() -> None:
    steps = []

    def start() -> None:
        with demo_server.held_back():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            steps.append("known")
        steps.append("too far")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert steps == ["known"]


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(KubehabitError, match="--home"):
        demo._fresh(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_a_folder_of_an_earlier_demo_is_emptied(tmp_path: Path) -> None:
    home = demo._fresh(tmp_path / "demo")
    (home / "mlflow.db").write_text("old")
    assert [path.name for path in demo._fresh(home).iterdir()] == [demo.MARKER]


def test_the_demo_keeps_away_from_the_users_own_mlflow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    with demo._environment(home):
        assert "MLFLOW_TRACKING_URI" not in os.environ
        assert os.environ["KUBEHABIT_HOME"] == str(home)
    assert os.environ["MLFLOW_TRACKING_URI"] == "databricks"


def test_without_recordings_it_says_to_clone_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "files", lambda _: tmp_path)
    with pytest.raises(KubehabitError, match="Clone the project"):
        Recordings.shipped()


def test_the_report_tells_caught_missed_and_raised_apart(console: Console) -> None:
    run = {"family": "secrets", "principal": "alice", "mode": "same", "class": "generic"}
    quiet = run | {"detected": False, "severity": "none", "actions_to_detection": None}
    loud = run | {"detected": True, "severity": "high", "actions_to_detection": 1}
    block = {
        "attack_runs": 2,
        "recall": 0.5,
        "false_incidents": 3,
        "false_per_10k_person_actions": 1.25,
        "false_per_1m_system_actions": 0.0,
        "lookalikes_high": 1,
        "lookalikes": 2,
        "normal_person_actions": 4000,
        "normal_system_actions": 1000,
    }
    runs = [
        loud | {"scenario": "seen", "kind": "attack"},
        quiet | {"scenario": "overlooked", "kind": "attack"},
        loud | {"scenario": "honest", "kind": "benign-lookalike", "severity": "low"},
        loud | {"scenario": "feared", "kind": "benign-lookalike", "severity": "critical"},
    ]
    trivial = {
        "always silent": block | {"recall": 0.0, "false_incidents": 0},
        "always alarm": block | {"recall": 1.0, "false_incidents": 31},
    }
    alerts = [{"auditIDs": ["attack", "induced", "normal-1"]}, {"auditIDs": ["normal-1", "normal-2"]}]
    story = demo.Story(
        "run", "1", demo.Played(10, 1.0, alerts), {**block, "runs": runs, "baselines": trivial}
    )
    demo.report(story, {"attack", "induced"}, console)
    lines = [" ".join(line.split()) for line in printed(console).splitlines()]
    for expected in (
        "seen alice nothing caught 1",
        "overlooked alice nothing missed",
        "honest alice nothing noted",
        "feared alice nothing raised",
        "attacks caught 1 of 2 0 of 2 2 of 2",
        "false incidents 3 0 31",
        "normal actions under alarm 2 0 5,000",
        "look-alikes raised (high, critical) 1 of 2 1 of 2 1 of 2",
    ):
        assert expected in lines


@pytest.mark.slow
def test_the_whole_story_on_a_slice_of_the_recording(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logs to dataset to model to registry to API to verdict, each part real, with a few steps of training."""
    (tmp_path / "file").touch()  # nothing can be made below it
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/not-the-demo.db")
    whole = Recordings.shipped()
    normal, labelled = tmp_path / "normal.jsonl", tmp_path / "labelled.jsonl"
    normal.write_bytes(b"\n".join(islice(open_lines(whole.normal), 16_000)))
    labelled.write_bytes(b"\n".join(islice(open_lines(whole.labelled), 6_000)))
    labels = json.loads(whole.labels.read_text())
    home = tmp_path / "demo"

    story = demo.run(
        home,
        recordings=Recordings(normal, labelled, whole.labels),
        overrides=["--trainer.max_steps", "40", "--trainer.val_check_interval", "20"],
        console=console,
    )

    assert story.version == "1"
    assert story.played.events == story.figures["events"] == 6_000
    assert len(story.figures["runs"]) == len(labels)
    silent, alarm = (story.figures["baselines"][name] for name in ("always silent", "always alarm"))
    assert (silent["recall"], silent["false_incidents"]) == (0, 0)
    assert alarm["recall"] >= story.figures["recall"]
    assert alarm["false_incidents"] > story.figures["false_incidents"]
    for alert in story.played.alerts:
        assert alert["sentence"]
        assert alert["auditIDs"]
        assert alert["model"] == {"name": "kubehabit", "version": "1"}
    shown = printed(console)
    assert "Compared with two detectors that need no model" in shown
    assert "mlflow ui --backend-store-uri" in shown
    assert str(home / "mlflow.db") in shown
    assert f"KUBEHABIT_HOME={home}" in shown

    from mlflow import MlflowClient

    store = f"sqlite:///{home / 'mlflow.db'}"
    champion = MlflowClient(store, store).get_model_version_by_alias("kubehabit", "champion")
    assert (str(champion.version), champion.run_id) == ("1", story.run_id)
