"""What is installed is verified: `make audit` tells its three results apart, and torch is compared with its hash."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "requirements"))
import audit
import install_torch


def answering(monkeypatch: pytest.MonkeyPatch, packages: list[dict[str, Any]] | None, code: int = 0) -> None:
    """Let pip-audit report on these packages, or fail without a report."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        report = next(word for word in command if word.startswith("--output=")).removeprefix("--output=")
        if packages is not None:
            Path(report).write_text(json.dumps({"dependencies": packages}))
        return subprocess.CompletedProcess(command, code, "", "ERROR: could not connect\n")

    monkeypatch.setattr(subprocess, "run", run)


SOUND = {"name": "sound", "version": "1.0", "vulns": []}
BROKEN = {"name": "broken", "version": "0.1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["0.2"]}]}
UNKNOWN = {
    "name": "unknown",
    "skip_reason": "Dependency not found on PyPI and could not be audited: unknown (1)",
}


def test_a_clean_result_is_zero(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answering(monkeypatch, [SOUND])
    assert audit.main([]) == 0
    assert "No known vulnerability" in capsys.readouterr().out


def test_findings_are_listed_with_the_version_that_fixes_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch, [SOUND, BROKEN, UNKNOWN], code=1)
    assert audit.main([]) == 1
    assert "broken 0.1: PYSEC-1, fixed in 0.2" in capsys.readouterr().out


@pytest.mark.parametrize("packages", [None, [SOUND, UNKNOWN]])
def test_an_unreachable_database_is_never_a_clean_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], packages: list[dict[str, Any]] | None
) -> None:
    answering(monkeypatch, packages, code=0 if packages else 1)
    assert audit.main([]) == 3
    assert "NOT AUDITED" in capsys.readouterr().err


def test_a_wheel_of_torch_is_installed_only_if_its_hash_is_locked(tmp_path: Path) -> None:
    wheel = tmp_path / "torch-0+cpu-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    locked = f"torch==0 \\\n    --hash=sha256:{hashlib.sha256(b'a wheel').hexdigest()}\n"
    assert install_torch.refusal(wheel, locked) is None
    wheel.write_bytes(b"another")
    assert "make lock" in (install_torch.refusal(wheel, locked) or "")
