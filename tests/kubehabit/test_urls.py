"""Commands that read logs take them by URL, here from a running S3 server, with the results that files of this machine have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

from kubehabit.main import app

#: By the clock of the machine, not of the log.
_OF_A_RUN = ("raised", "updated", "raisedAt", "updatedAt")


@pytest.fixture
def here_and_there(tmp_path: Path, s3: str, labelled_lines: list[bytes]) -> tuple[Path, str]:
    """The same two files in a folder and in a bucket, of which the first by name is the later one."""
    folder = tmp_path / "logs"
    folder.mkdir()
    half = len(labelled_lines) // 2
    for name, lines in (("b.log", labelled_lines[:half]), ("a.log.gz", labelled_lines[half:])):
        content = b"\n".join(lines) + b"\n"
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        with fsspec.open(f"{s3}/prod/{name}", "wb") as file:
            file.write((folder / name).read_bytes())
    return folder, f"{s3}/prod"


def run(*arguments: object) -> Any:
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.slow
def test_a_dataset_of_a_bucket_is_that_of_a_folder(tmp_path: Path, here_and_there: tuple[Path, str]) -> None:
    folder, url = here_and_there
    run("data", "build", folder / "b.log", folder / "a.log.gz", "--out", tmp_path / "here")
    run("data", "build", url, "--out", tmp_path / "folder")
    run("data", "build", f"{url}/b.log", f"{url}/a*.gz", "--out", tmp_path / "files")
    built = [
        {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (tmp_path / "here", tmp_path / "folder", tmp_path / "files")
    ]
    assert len(built[0]) > 3
    assert built[0] == built[1] == built[2]


@pytest.mark.slow
def test_a_backtest_of_a_bucket_is_that_of_a_folder(
    tmp_path: Path, here_and_there: tuple[Path, str], tiny_bundle: Path
) -> None:
    folder, url = here_and_there
    found = []
    for number, log in enumerate((f"prod={folder}", url)):  # its name is the last part of the URL
        out = tmp_path / str(number)
        answer = json.loads(run("backtest", log, "--model", tiny_bundle, "--out", out, "--json").stdout)
        alerts = [json.loads(line) for line in (out / "prod" / "alerts.jsonl").read_bytes().splitlines()]
        for alert in alerts:
            for name in _OF_A_RUN:
                alert.pop(name, None)
        found.append((answer[0]["days"], alerts))
    assert len(found[0][1]) > 1
    assert found[0] == found[1]


def test_a_bucket_that_does_not_answer_is_a_sentence(tmp_path: Path, s3: str) -> None:
    done = CliRunner().invoke(app, ["data", "build", f"{s3}-not-there/x.log", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "There is no log s3://" in done.output.replace("\n", " ")
