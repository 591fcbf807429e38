"""The process itself: what it imports, how it ends, what it says when it cannot begin."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {"torch", "lightning", "pandas", "datasets", "matplotlib", "pyarrow", "sklearn", "onnx", "mlflow"}


def kubehabit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "kubehabit", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=os.environ | environment,
    )


def test_importing_the_app_imports_nothing_heavy() -> None:
    rooms = "serving.app, serving.rollout.loader, serving.rollout.score_file"
    code = f"import sys, {rooms}; print(*sorted(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert FORBIDDEN.isdisjoint(done.stdout.split())
    assert {"onnxruntime", "duckdb"}.isdisjoint(done.stdout.split())


@pytest.mark.slow
def test_serve_without_a_registry_ends_with_one_sentence(own_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    done = kubehabit("serve", "--port", port, KUBEHABIT_MODEL__STARTER="false")
    assert done.returncode == 2
    assert "error: There is no model registry" in done.stderr
    assert "kubehabit train" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (own_home / "mlflow.db").exists()


@pytest.mark.slow
def test_serve_on_a_port_in_use_ends_with_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = kubehabit("serve", "--port", port)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"error: Port {port} on 127.0.0.1 is in use: stop what listens there, or choose another one with --port."
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--host", "0.0.0.0"], "KUBEHABIT_TOKEN"),
        (["score", "LOG", "--model", "models:/kubehabit"], "names no model"),
        (["score", "LOG"], "There is no model registry"),
        (["score", "LOG", "--model", "FOLDER"], "holds no model bundle"),
    ],
)
def test_what_cannot_begin_says_why(tmp_path: Path, arguments: list[str], words: str) -> None:
    log = tmp_path / "audit.log"
    log.write_text("{}")
    names = {"LOG": str(log), "FOLDER": str(tmp_path)}
    done = kubehabit(*(names.get(argument, argument) for argument in arguments))
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
