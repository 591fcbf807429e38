from __future__ import annotations

import os
from pathlib import Path

import pytest

from data.usable_cores import usable_cores


@pytest.fixture(autouse=True)
def big_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def limited(groups: Path, group: str, quota: str) -> None:
    folder = groups / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(f"{quota} 100000\n")


def in_group(folder: Path, group: str) -> Path:
    own = folder / "own"
    own.write_text(f"0::{group}\n")
    return own


def test_without_control_groups_it_is_the_cores_that_the_process_may_run_on(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, tmp_path / "missing") == 64


@pytest.mark.parametrize(
    ("quota", "cores"), [("200000", 2), ("150000", 2), ("10000", 1), ("max", 64), ("9900000", 64)]
)
def test_a_container_has_what_its_limit_allows(tmp_path: Path, quota: str, cores: int) -> None:
    limited(tmp_path, ".", quota)
    assert usable_cores(tmp_path, in_group(tmp_path, "/")) == cores


def test_the_lowest_limit_of_a_group_and_those_above_it_counts(tmp_path: Path) -> None:
    own = in_group(tmp_path, "/system.slice/kubehabit.service")
    limited(tmp_path, "system.slice/kubehabit.service", "max")
    limited(tmp_path, "system.slice", "400000")
    assert usable_cores(tmp_path, own) == 4
    limited(tmp_path, "system.slice/kubehabit.service", "300000")
    assert usable_cores(tmp_path, own) == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 64), ("250000", 3)])
def test_limits_of_control_groups_version_1(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path, in_group(tmp_path, "/")) == cores


@pytest.mark.parametrize("text", ["", "100000", "x y", "100000 0"])
def test_a_limit_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path, in_group(tmp_path, "/")) == 64
