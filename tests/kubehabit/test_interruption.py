"""A long command that is stopped says what was kept, ends with a shell's status, and goes on later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from kubehabit.interruption import interruptible
from kubehabit.main import app

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "data" / "recordings" / "normal.jsonl.zst"


def test_a_build_that_is_terminated_says_so_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    command = [sys.executable, "-m", "kubehabit", "data", "build", *([str(RECORDING)] * 6), "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("parts/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "Stopped by SIGTERM. The parts of the logs that were read are kept" in said
    assert "Traceback" not in said
    assert not (out / "card.json").exists()


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_shows_in_the_status_however_a_library_answers_it(how: type[BaseException]) -> None:
    def library() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if how is SystemExit:
                sys.exit(1)  # as Lightning does
            raise

    with pytest.raises(typer.Exit) as ended, interruptible("Kept."):
        library()
    assert ended.value.exit_code == 130


def test_other_ends_stay_as_they_are() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, interruptible("Kept."):
        raise SystemExit(3)
    assert ended.value.code == 3
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupted_command_says_what_was_kept_and_ends_as_a_shell_expects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "a.log").write_text("{}")
    monkeypatch.setattr("serving.rollout.score_file.score_log", stopped)
    monkeypatch.setattr("kubehabit.client.send.Sender.send", stopped)
    monkeypatch.setattr("data.simulation.simulate", stopped)
    log = str(tmp_path / "a.log")
    for command, kept in (
        (("score", log), "Nothing is stored"),
        (("send", log), "send the same files again"),
        (("data", "simulate", "--out", str(tmp_path / "twin")), "are not whole"),
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 130
        assert "Stopped by Ctrl-C." in done.stderr
        assert kept in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("step", "options", "kept"),
    [
        (None, [], "no checkpoint yet, so nothing is kept: start it again"),
        ("older", [], "no checkpoint yet, so nothing is kept: start it again"),
        ("newer", [], "Step 50 is kept: go on with --resume last"),
        ("older", ["--resume", "run"], "Step 50 is kept: go on with --resume run"),
    ],
)
def test_a_training_that_is_stopped_offers_to_go_on_only_from_its_own_checkpoint(
    step: str | None, options: list[str], kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEHABIT_HOME", str(tmp_path))
    checkpoint = tmp_path / "checkpoints" / "run" / "step=50.ckpt"

    def stopped(*_: object, **__: object) -> None:
        if step is not None:
            checkpoint.parent.mkdir(parents=True)
            checkpoint.write_bytes(b"")
            (checkpoint.parent / "train.yaml").write_text("")
            at = time.time() + (60 if step == "newer" else -60)
            os.utime(checkpoint, (at, at))
        raise KeyboardInterrupt

    monkeypatch.setattr("training.train.train", stopped)
    done = CliRunner().invoke(app, ["train", "--data", str(tmp_path), *options])
    assert done.exit_code == 130
    assert kept in " ".join(done.stderr.split())
