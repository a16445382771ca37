"""Cores open to the process: affinity, bounded by the quota of the container."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def count_cores(root: Path = ROOT) -> int:
    """Count the whole cores open to the process; at least 1.

    Args:
        root: folder in place of / for the files of the control groups.
    """
    return max(1, int(min(count_allowed(), cpu_quota(root))))


def count_allowed() -> int:
    """Count the cores of the affinity."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def cpu_quota(root: Path = ROOT) -> float:
    """Return the quota of processor time, in cores; infinity without a quota.

    Every control group from the leaf to the root bounds the time, in cgroup v1 and v2 alike.
    """
    return min(map(_quota, _folders(root)), default=math.inf)


def _folders(root: Path) -> Iterator[Path]:
    """Yield the folders of the control groups of the process."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux, or no /proc
        return
    for number, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        # A container may see a path of its host, which the container's own mount lacks: the mount counts too.
        group = Path(*(part for part in path.split("/") if part not in ("", "..")))
        yield from (mount / folder for folder in (group, *group.parents))


def _quota(folder: Path) -> float:
    """Read the quota of one control group, in cores."""
    try:
        if (both := folder / "cpu.max").exists():
            quota, period = both.read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return math.inf
