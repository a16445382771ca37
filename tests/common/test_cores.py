"""common.cores: affinity and quota bound the cores, in both versions of control groups."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.cores import count_cores, cpu_quota


def written(root: Path, **files: str) -> Path:
    """A folder in place of /; in the names two underscores stand for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


def second(root: Path, group: str, quotas: dict[str, str]) -> Path:
    """A system with cgroup v2: the group of this process, and `cpu.max` by group."""
    written(root, proc__self__cgroup=f"0::{group}")
    for folder, text in quotas.items():
        path = root / "sys/fs/cgroup" / folder / "cpu.max"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


def first(root: Path, group: str, quota: str, folder: str = "") -> Path:
    """A system with cgroup v1: the group of this process, and the quota of a folder."""
    written(root, proc__self__cgroup=f"5:memory:/elsewhere\n4:cpu,cpuacct:{group}\n0::/")
    path = root / "sys/fs/cgroup/cpu,cpuacct" / folder
    path.mkdir(parents=True)
    (path / "cpu.cfs_quota_us").write_text(f"{quota}\n", encoding="utf-8")
    (path / "cpu.cfs_period_us").write_text("100000\n", encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({"": "50000 100000"}, 0.5),
        ({"a/b": "max 100000", "": "max 100000"}, math.inf),
        ({"a/b": "max 100000", "a": "150000 100000"}, 1.5),
        ({"a/b": "100000 100000", "a": "300000 100000"}, 1.0),
        ({"a/b": "nonsense"}, math.inf),
        ({"a/b": "100000 0"}, math.inf),
        ({}, math.inf),
    ],
)
def test_the_tightest_quota_of_a_group_and_those_around_it_counts(
    quotas: dict[str, str], expected: float, tmp_path: Path
) -> None:
    assert cpu_quota(second(tmp_path, "/a/b", quotas)) == expected


@pytest.mark.parametrize("group", ["/docker/abc", "/../../host", "/"])
def test_a_container_that_sees_the_path_of_its_host_has_the_quota_of_its_mount(
    group: str, tmp_path: Path
) -> None:
    assert cpu_quota(second(tmp_path / "second", group, {"": "50000 100000"})) == 0.5
    assert cpu_quota(first(tmp_path / "first", group, "50000")) == 0.5


@pytest.mark.parametrize(("quota", "expected"), [("150000", 1.5), ("-1", math.inf)])
def test_the_first_version_of_control_groups_is_read(quota: str, expected: float, tmp_path: Path) -> None:
    assert cpu_quota(first(tmp_path, "/a", quota, folder="a")) == expected


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == math.inf
    assert count_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_a_quota_below_a_core_is_one_core(tmp_path: Path) -> None:
    assert count_cores(second(tmp_path, "/", {"": "10000 100000"})) == 1


def on_one_core(code: str, **environment: str) -> str:
    """Run code in a process of one allowed core; its output."""
    core = str(min(os.sched_getaffinity(0)))
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        ["taskset", "-c", core, sys.executable, "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_process_on_one_allowed_core_counts_one() -> None:
    assert on_one_core("from common.cores import count_cores; print(count_cores())") == "1"


THREADS_OF_A_SLAVE = """
from pathlib import Path
from deploy.engines.local import LocalEngine, share_cores
from deploy.runs.directory import RunDirectory
import sys
print(LocalEngine(RunDirectory(Path(sys.argv[1])), share_cores(1))._environment["OMP_NUM_THREADS"])
"""


def test_a_slave_that_train_starts_on_one_allowed_core_gets_one_thread(tmp_path: Path) -> None:
    code = THREADS_OF_A_SLAVE.replace("sys.argv[1]", repr(str(tmp_path / "run")))
    assert on_one_core(code) == "1"


THREADS_UNDER_A_QUOTA = """
import common.models.threads as threads, torch
threads.count_cores = lambda: 3
threads.use_allowed_cores()
print(torch.get_num_threads())
"""


def test_torch_takes_the_quota_s_threads_unless_the_user_chose() -> None:
    assert on_one_core(THREADS_UNDER_A_QUOTA) == "3"
    assert on_one_core(THREADS_UNDER_A_QUOTA, OMP_NUM_THREADS="2") == "2"
