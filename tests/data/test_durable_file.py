"""Files that are replaced whole, and drafts that a kill left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from data.durable_file import clear_drafts, replacing, write_durably


def test_a_draft_that_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    left, young = tmp_path / ".head.json.0a1b2c3d.part", tmp_path / ".head.json.44444444.part"
    other = tmp_path / ".ledger.json.0a1b2c3d.part"
    for path in (left, young, other):
        path.touch()
    long_ago = time.time() - 3600
    for path in (left, other):
        os.utime(path, (long_ago, long_ago))
    write_durably(tmp_path / "head.json", b"{}")
    assert {path.name for path in tmp_path.iterdir()} == {"head.json", young.name, other.name}


def test_its_only_writer_clears_every_draft_of_a_folder_and_nothing_else(tmp_path: Path) -> None:
    for name in (".160.digests.fed52012.part", ".head.json.44444444.part", "head.json", ".part", "kept.part"):
        (tmp_path / name).touch()
    clear_drafts(tmp_path)
    clear_drafts(tmp_path / "missing")
    assert {path.name for path in tmp_path.iterdir()} == {"head.json", "kept.part"}


def test_after_an_error_the_file_is_as_before_and_there_is_no_draft(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", b"before")
    with pytest.raises(TypeError), replacing(tmp_path / "a") as file:
        file.write("half")  # type: ignore[arg-type]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]
