"""The command line: it teaches, it is quick to answer, and what goes wrong is one sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import kubehabit
from data.errors import KubehabitError

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [
    ["data", "build"],
    ["train"],
    ["evaluate"],
    ["ablate"],
    ["promote"],
    ["drift"],
    ["serve"],
    ["score"],
    ["who", "touched"],
    ["who", "is", "new", "in"],
    ["events"],
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
    return CliRunner().invoke(kubehabit.app, list(arguments))


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
    code = "import sys, kubehabit; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for heavy in ("data", "training", "serving", "numpy", "torch", "mlflow", "fastapi", "onnxruntime"):
        assert f"'{heavy}'" not in loaded


def test_a_kubehabit_error_is_one_sentence_and_its_own_exit_status(
    monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    class RefusedError(KubehabitError):
        exit_code = 4

    def score_log(*_: Any) -> int:
        raise RefusedError("The registry is not there. Train first.")

    stand_in(monkeypatch, "serving.score", score_log=score_log)
    result = invoke("score", str(log))
    assert result.exit_code == 4
    assert result.stderr == "error: The registry is not there. Train first.\n"
    assert result.stdout == ""


def test_a_bug_is_not_dressed_up_as_bad_input(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    def score_log(*_: Any) -> int:
        raise ZeroDivisionError

    stand_in(monkeypatch, "serving.score", score_log=score_log)
    assert isinstance(invoke("score", str(log)).exception, ZeroDivisionError)


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

    stand_in(monkeypatch, "serving.score", score_log=score_log)
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


def test_evaluate_writes_its_figures_where_it_is_told(
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
            }
        ],
    }
    stand_in(monkeypatch, "training.evaluation.evaluate", evaluate=lambda *_, **__: figures)
    out = tmp_path / "new" / "out.json"
    result = invoke("evaluate", "--log", str(log), "--json", str(out))
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text()) == figures
    assert "miner" in result.output


def test_score_passes_the_exit_status_on(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    stand_in(monkeypatch, "serving.score", score_log=lambda *_: 3)
    assert invoke("score", str(log), "--json").exit_code == 3


def test_serve_hands_the_shipped_settings_over(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    stand_in(monkeypatch, "serving.server", serve=lambda *arguments: seen.extend(arguments))
    assert invoke("serve", "--port", "9000").exit_code == 0
    assert (seen[0].name, seen[1], seen[2]) == ("serve.yaml", None, 9000)


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = invoke("data", "build", str(tmp_path / "gone.log"), "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "gone.log" in re.sub(r"[\s│]", "", result.output)  # in a frame, which a long path may not fit in
