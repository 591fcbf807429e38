"""The script for a GPU, on the processor: what it needs of the training is still there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, report
from tests.conftest import SMALL, Trained

_SMALL = [option for option in SMALL if option.startswith("--model")]


@pytest.mark.slow
def test_each_precision_that_the_device_has_reaches_the_same_loss(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    given = [
        str(trained.dataset),
        "--device",
        "cpu",
        "--steps",
        "3",
        "--batch",
        "32",
        "--data.validation_windows=64",
    ]
    assert gpu.main([*given, *_SMALL]) == 0
    rows = {row["name"]: row["value"] for row in json.loads((tmp_path / "gpu.json").read_text())}
    possible = [precision for precision, kind in gpu.PRECISIONS.items() if gpu.computes("cpu", kind)]
    assert "32-true" in possible
    assert ("difference of the held-back losses" in rows) == (possible == list(gpu.PRECISIONS))
    for precision in possible:
        assert rows[f"{precision}: steps"] == 3
        assert 0 < rows[f"{precision}: share of it"] < 100
        assert rows[f"{precision}: held-back loss"] > 1


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([str(tmp_path)]) == 2
    assert "--device cpu" in capsys.readouterr().err
