"""The command line: it teaches, it is quick to answer, and what goes wrong is one sentence."""

import errno
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from data.errors import KubehabitError
from kubehabit.main import app

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    ["data", "build"],
    ["data", "inspect"],
    ["data", "simulate"],
    ["train"],
    ["tune"],
    ["evaluate"],
    ["ablate"],
    ["promote"],
    ["drift"],
    ["serve"],
    ["score"],
    ["send"],
    ["model"],
    ["principals"],
    ["who", "touched"],
    ["who", "is", "new", "in"],
    ["events"],
    *(["rules", name] for name in ("list", "explain", "test", "import-sigma")),
    *(["rbac", name] for name in ("check", "report", "role", "whatif", "who-can", "path")),
    ["test-alert"],
    ["alerts", "list"],
    ["alerts", "show"],
    ["incidents", "list"],
    ["incidents", "show"],
    ["principal"],
    ["evidence"],
    ["verify"],
    ["demo"],
]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **functions: Any) -> None:
    """Put a room's function in place of the real one: what is tested here is only the door."""
    fake = ModuleType(module)
    for name, function in functions.items():
        setattr(fake, name, function)
    monkeypatch.setitem(sys.modules, module, fake)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.log"
    path.write_text("")
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command_gives_an_example_and_what_comes_next(command: list[str]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert "Example:" in result.output
    assert "Next:" in result.output
    assert f"kubehabit {' '.join(command)}" in result.output


def test_help_of_the_whole_points_a_newcomer_to_the_demo() -> None:
    assert "kubehabit demo" in invoke("--help").output


def test_the_command_line_loads_no_room_before_a_command_needs_it() -> None:
    code = "import sys, kubehabit.main; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for heavy in (
        "data",
        "training",
        "serving",
        "numpy",
        "torch",
        "mlflow",
        "fastapi",
        "onnxruntime",
        "pydantic",
    ):
        assert f"'{heavy}'" not in loaded


def test_a_kubehabit_error_is_one_sentence_and_its_own_exit_status(
    monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    class RefusedError(KubehabitError):
        exit_code = 4

    def score_log(*_: Any) -> None:
        raise RefusedError("The registry is not there. Train first.")

    stand_in(monkeypatch, "serving.rollout.score_file", score_log=score_log)
    result = invoke("score", str(log))
    assert result.exit_code == 4
    assert result.stderr == "error: The registry is not there. Train first.\n"
    assert result.stdout == ""


def test_a_bug_is_not_dressed_up_as_bad_input(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    def score_log(*_: Any) -> int:
        raise ZeroDivisionError

    stand_in(monkeypatch, "serving.rollout.score_file", score_log=score_log)
    assert isinstance(invoke("score", str(log)).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (
            errno.EACCES,
            "error: Cannot use /var/out: Permission denied. Name another place, or change its permissions.",
        ),
        (
            errno.EROFS,
            "error: Cannot use /var/out: Read-only file system. Name another place, or change its permissions.",
        ),
        (errno.ENOSPC, "error: No space left on device: make room, and give the command again."),
    ],
)
def test_a_place_that_cannot_be_written_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, log: Path, number: int, says: str
) -> None:
    def score_log(*_: Any) -> None:
        raise OSError(number, os.strerror(number), "/var/out")

    stand_in(monkeypatch, "serving.rollout.score_file", score_log=score_log)
    result = invoke("score", str(log))
    assert (result.exit_code, result.stderr) == (2, says + "\n")


def test_a_file_of_our_own_that_is_not_there_is_a_bug(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    def score_log(*_: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "configs/gone.yaml")

    stand_in(monkeypatch, "serving.rollout.score_file", score_log=score_log)
    assert isinstance(invoke("score", str(log)).exception, FileNotFoundError)


@pytest.mark.parametrize("missing", ["torch", "datasets", "mlflow.pyfunc"])
def test_a_missing_training_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)

    stand_in(monkeypatch, "training.train", train=train)
    result = invoke("train", "--data", str(tmp_path))
    assert result.exit_code == 2
    assert "kubehabit[train]" in result.stderr


def test_a_missing_module_of_our_own_is_a_bug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'training.gone'", name="training.gone")

    stand_in(monkeypatch, "training.train", train=train)
    assert isinstance(invoke("train", "--data", str(tmp_path)).exception, ModuleNotFoundError)


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    def score_log(*_: Any) -> int:
        raise KeyboardInterrupt

    stand_in(monkeypatch, "serving.rollout.score_file", score_log=score_log)
    assert invoke("score", str(log)).exit_code == 130


def test_ctrl_c_that_lightning_answered_exits_130_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    stand_in(monkeypatch, "training.train", train=train)
    assert invoke("train", "--data", str(tmp_path)).exit_code == 130


def test_what_train_does_not_know_goes_to_lightning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []

    def train(config: Path, data: Path, overrides: list[str], **chosen: Any) -> SimpleNamespace:
        seen.extend([config, data, overrides])
        return SimpleNamespace(
            run_id="r1", model_name="kubehabit", version="7", metrics={"val_nll": 1.5}, alias="champion"
        )

    stand_in(monkeypatch, "training.train", train=train)
    result = invoke("train", "--data", str(tmp_path), "--trainer.max_steps", "5", "--model.latent=8")
    assert result.exit_code == 0, result.output
    config, data, overrides = seen
    assert (config.name, config.is_file()) == ("train.yaml", True)
    assert data == tmp_path
    assert overrides == ["--trainer.max_steps", "5", "--model.latent=8"]
    assert "r1" in result.output
    assert "version 7" in result.output


def test_evaluate_prints_its_figures_for_people_or_as_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: Path
) -> None:
    figures = {
        "recall": 0.5,
        "attack_runs": 2,
        "runs": [
            {
                "scenario": "miner",
                "kind": "attack",
                "class": "generic",
                "principal": "alice",
                "detected": True,
            },
            {
                "scenario": "upgrade",
                "kind": "benign",
                "class": "look-alike",
                "principal": "bob",
                "detected": True,
                "severity": "high",
            },
            {
                "scenario": "token",
                "kind": "attack",
                "class": "generic",
                "principal": "carol",
                "detected": False,
            },
        ],
    }
    stand_in(monkeypatch, "training.evaluation.evaluate", evaluate=lambda *_, **__: figures)
    result = invoke("evaluate", "--log", str(log), "--json", "--report", str(tmp_path / "out.md"))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == figures
    assert "out.md" in result.stderr
    shown = invoke("evaluate", "--log", str(log))
    lines = [line.split() for line in shown.output.splitlines()]
    assert ["caught", "generic", "miner", "alice"] in lines
    assert ["raised", "high", "look-alike", "upgrade", "bob"] in lines  # honest work is raised, never caught
    assert ["missed", "generic", "token", "carol"] in lines
    assert ["of", "them", "caught", "(recall)", "50%"] in lines
    assert "attack_runs" not in shown.output


def test_every_json_option_is_a_flag_and_every_report_a_file() -> None:
    def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        for name, command in getattr(group, "commands", {}).items():
            yield f"{path}{name}", command
            yield from commands(command, f"{path}{name} ")

    meanings: dict[str, set[str]] = {}
    for name, command in commands(typer.main.get_command(app)):
        for option in command.get_params(typer.Context(command)):
            for flag in getattr(option, "opts", []):
                meanings.setdefault(flag, set()).add(option.help or "")
                if flag == "--json":
                    assert option.is_flag, name
                if flag in ("--report", "--out", "--state", "--config"):
                    assert not getattr(option, "is_flag", False), name
    for flag in ("--url", "--local", "--store", "--out", "--report", "--cursor", "--until", "--model"):
        assert len(meanings[flag]) == 1, flag
    assert all(text.startswith("Print JSON on standard output") for text in meanings["--json"])
    assert all("YAML file. Default: the shipped" in text for text in meanings["--config"])


@pytest.mark.parametrize(
    "command",
    [
        ["alerts", "list"],
        ["alerts", "show"],
        ["incidents", "list"],
        ["incidents", "show"],
        ["who", "touched"],
        ["who", "is", "new", "in"],
        ["events"],
        ["principal"],
        ["evidence"],
    ],
    ids=" ".join,
)
def test_what_can_be_read_in_two_ways_says_so_in_one_way(command: list[str]) -> None:
    shown = " ".join(invoke(*command, "--help").output.split())
    assert "Reads a running service, or with --local its files on this machine" in shown
    for flag in ("What to read", "--url", "--local", "--config", "KUBEHABIT_URL"):
        assert flag in shown


@pytest.mark.parametrize(
    "command",
    [
        ["principals"],
        ["model"],
        ["send"],
        *(["incidents", verb] for verb in ("merge", "split", "close", "note")),
    ],
    ids=" ".join,
)
def test_what_only_a_service_answers_says_so(command: list[str]) -> None:
    shown = " ".join(invoke(*command, "--help").output.split())
    assert "Asks a running service" in shown
    assert "--local" not in shown


def test_the_version_is_that_of_the_installed_package() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"kubehabit {version('kubehabit')}\n")


def test_shells_can_complete_commands() -> None:
    environment = {"_KUBEHABIT_COMPLETE": "complete_bash", "COMP_WORDS": "kubehabit ver", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "kubehabit"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["verify"]


def test_help_is_quick() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "kubehabit", "--help"], cwd=ROOT, capture_output=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.4  # 0.15 s on an idle machine


def test_the_list_of_commands_shows_each_ones_whole_first_paragraph_without_loading_rich() -> None:
    code = """
import sys
from typer.testing import CliRunner
from kubehabit.main import app
print(CliRunner().invoke(app, ["--help"]).output)
sys.exit("rich" in sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    words = " ".join(shown.stdout.split())
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        assert " ".join(command.help.partition("\n\n")[0].split()) in words


@pytest.mark.parametrize("room", ["data", "serving"])
def test_a_foreign_package_under_the_name_of_a_room_is_named(tmp_path: Path, room: str) -> None:
    foreign = tmp_path / room
    foreign.mkdir()
    (foreign / "__init__.py").write_text("raise RuntimeError('imported')\n")
    done = subprocess.run(
        [sys.executable, "-c", "from kubehabit.main import main; main()", "--help"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith(f"error: another package named '{room}' hides kubehabit's own")
    assert str(foreign) in sentence


def test_score_passes_the_exit_status_on(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    unreadable = SimpleNamespace(unreadable=2, sentence=lambda: "2 records could not be read.")
    scored = SimpleNamespace(alerts=[], left_out=unreadable, why_nothing="")
    stand_in(monkeypatch, "serving.rollout.score_file", score_log=lambda *_: scored)
    result = invoke("score", str(log), "--json")
    assert result.exit_code == 1
    assert "2 records could not be read." in result.stderr


def test_serve_hands_the_shipped_settings_over(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    stand_in(monkeypatch, "serving.server", serve=lambda *arguments: seen.extend(arguments))
    assert invoke("serve", "--port", "9000").exit_code == 0
    assert (seen[0].name, seen[1], seen[2]) == ("serve.yaml", None, 9000)


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = invoke("data", "build", str(tmp_path / "gone.log"), "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "gone.log" in re.sub(r"[\s│]", "", result.output)  # in a frame, which a long path may not fit in
