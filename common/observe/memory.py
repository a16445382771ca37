"""Memory in use: of the machine, or of the container where the container has less."""

from __future__ import annotations

from pathlib import Path

import psutil

from common.cgroups import ROOT, control_groups


def memory_percent(root: Path = ROOT) -> float:
    """Measure the memory in use, in percent: of the machine, or of the tightest limit of the container.

    Args:
        root: folder in place of / for the files of the control groups.
    """
    groups = (_group_percent(folder) for folder in control_groups("memory", root))
    return max(float(psutil.virtual_memory().percent), *groups, 0.0)


def _group_percent(folder: Path) -> float:
    """Measure the memory in use of one control group; 0 without a limit. Caches of files can be dropped."""
    try:
        if (folder / "memory.max").exists():
            limit, used, cache = (
                _number(folder, "memory.max"),
                _number(folder, "memory.current"),
                "inactive_file",
            )
        else:
            limit, used = (_number(folder, f"memory.{name}_in_bytes") for name in ("limit", "usage"))
            cache = "total_inactive_file"
        return 100 * max(0, used - _statistic(folder, cache)) / limit
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return 0.0


def _number(folder: Path, name: str) -> int:
    return int((folder / name).read_text(encoding="ascii"))


def _statistic(folder: Path, name: str) -> int:
    lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)
