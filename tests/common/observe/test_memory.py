"""common.observe.memory: a container's limit counts, without the files in the cache."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from common.observe.memory import memory_percent

MIB = 1 << 20


def system(root: Path, line: str, folder: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(line + "\n")
    group = root / "sys/fs/cgroup" / folder
    group.mkdir(parents=True)
    for name, text in files.items():
        (group / name).write_text(text + "\n")
    return root


def second(limit: str, used: int, cached: int) -> tuple[str, str, dict[str, str]]:
    """A group of cgroup v2."""
    stat = f"anon 5\ninactive_file {cached}\nactive_file 7"
    return "0::/a", "a", {"memory.max": limit, "memory.current": str(used), "memory.stat": stat}


def first(limit: str, used: int, cached: int) -> tuple[str, str, dict[str, str]]:
    """A group of cgroup v1."""
    files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": str(used)}
    return "4:memory:/a", "memory/a", {**files, "memory.stat": f"cache 5\ntotal_inactive_file {cached}"}


@pytest.mark.parametrize("group", [first, second], ids=["first", "second"])
def test_the_use_of_a_container_s_limit_is_measured_without_the_cache(group: object, tmp_path: Path) -> None:
    assert callable(group)
    root = system(tmp_path, *group(str(100 * MIB), 399 * MIB // 4, 0))
    assert memory_percent(root) == pytest.approx(99.75)
    root = system(tmp_path / "cached", *group(str(100 * MIB), 399 * MIB // 4, 399 * MIB // 4))
    assert memory_percent(root) == pytest.approx(psutil.virtual_memory().percent, abs=20)


@pytest.mark.parametrize("group", [first("9223372036854771712", MIB, 0), second("max", MIB, 0)])
def test_without_a_limit_the_machine_s_memory_counts(
    group: tuple[str, str, dict[str, str]], tmp_path: Path
) -> None:
    assert 0 < memory_percent(system(tmp_path, *group)) < 99
    assert 0 < memory_percent(tmp_path / "nothing") < 99
