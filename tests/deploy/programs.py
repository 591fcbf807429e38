"""Debian's programs, run for a test and stopped after it by their process id; a test whose program is missing is skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

#: The last two are where CI unpacks syslog-ng, which cannot be installed beside rsyslog, and kubectl and helm.
_PLACES = "/usr/bin:/usr/sbin:/opt/syslog-ng/usr/sbin:/opt/kubectl"


def program(name: str, how: str) -> str:
    """Path of a program; `how` to install it: Debian's package, or a sentence."""
    found = shutil.which(name) or shutil.which(name, path=_PLACES)
    if found is None:
        pytest.skip(f"{name} is not installed: {how if ' ' in how else f'apt-get install {how}'}")
    return found


@contextmanager
def running(*command: str, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """A program for as long as the block runs; what it said is shown when the test fails."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | (environment or {})
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            output, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate(timeout=30)
        print(output.decode("utf-8", "replace")[-20_000:])


def syslog_ng() -> tuple[list[str], dict[str, str]]:
    """Command and environment of syslog-ng, wherever it was unpacked."""
    binary = Path(program("syslog-ng", "syslog-ng-core syslog-ng-mod-http"))
    libraries = binary.parents[1] / "lib" / "syslog-ng"
    modules = next((folder for folder in sorted(libraries.glob("[0-9]*")) if folder.is_dir()), None)
    if modules is None or not (modules / "libhttp.so").exists():
        pytest.skip("syslog-ng has no HTTP output: apt-get install syslog-ng-mod-http")
    # It begins without its own configuration's includes, and asks for no capabilities that tests have not.
    return (
        [str(binary), "--foreground", "--no-caps", f"--module-path={modules}"],
        {"LD_LIBRARY_PATH": str(libraries)},
    )
