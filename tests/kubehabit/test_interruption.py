"""A long command that is stopped says what was kept, ends with a shell's status, and goes on later."""

from __future__ import annotations

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
    for command, kept in (("score", "Nothing is stored"), ("send", "send the same files again")):
        done = CliRunner().invoke(app, [command, str(tmp_path / "a.log")])
        assert done.exit_code == 130
        assert "Stopped by Ctrl-C." in done.stderr
        assert kept in done.stderr
