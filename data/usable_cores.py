"""How many cores this process may use: those it may run on, and no more than its control groups let it have."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_cores(groups: Path = _GROUPS, own: Path = _OWN) -> int:
    """Number of cores, at least 1. A container that may use two cores of a machine of 64 gets 2.

    Args:
        groups: where control groups are mounted, version 1 or 2.
        own: names the groups of this process, as proc(5) does.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _quotas(groups, own))]))


def _quotas(groups: Path, own: Path) -> Iterator[float]:
    """What each group that this process is in may use, in cores, where that is limited."""
    for folder in _folders(groups, own):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()
            yield float(quota) / float(period)  # "max" is no number
    version_1 = groups / "cpu"
    with suppress(OSError, ValueError, ZeroDivisionError):
        microseconds = float((version_1 / "cpu.cfs_quota_us").read_text())
        if microseconds > 0:
            yield microseconds / float((version_1 / "cpu.cfs_period_us").read_text())


def _folders(groups: Path, own: Path) -> Iterator[Path]:
    """Folders of the group and of those it is part of, up to the root."""
    name = PurePosixPath("/")
    with suppress(OSError):
        for line in own.read_text().splitlines():
            if line.startswith("0::/"):
                name = PurePosixPath(line.removeprefix("0::"))
    for part in (name, *name.parents):
        yield groups / part.relative_to("/")
