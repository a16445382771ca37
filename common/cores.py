"""Cores open to the process: affinity, bounded by the quota of the container."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from common.cgroups import ROOT, control_groups


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
    """Return the quota of processor time, in cores; infinity without a quota."""
    return min(map(_quota, control_groups("cpu", root)), default=math.inf)


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
