"""Checks of the machine: Python, packages, cores, open files, disk."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path

from common.config.sections import Config
from common.cores import count_allowed, count_cores, cpu_quota
from common.models.resolution import resolve_without_torch
from common.versions import installed_version, lowest_versions, release_numbers
from deploy.doctor.findings import Verdict, failed, ok, warning
from deploy.doctor.setup import Setup

# Open files of any process, and of a master for each slave: connections, shards, their commit records.
BASE_FILES, FILES_A_SEAT = 64, 16
MIB = 1 << 20
# Free space below which a run cannot begin, and below which a longer run may fail.
LEAST_DISK_BYTES, AMPLE_DISK_BYTES = 64 * MIB, 1024 * MIB
LEAST_INODES = 1000


def examine_python(setup: Setup) -> Verdict:  # noqa: ARG001 - every check takes the set-up
    """Check the interpreter."""
    if sys.maxsize < 1 << 32:
        return failed(
            f"Python {platform.python_version()} of 32 bits", "install a Python of 64 bits: torch needs it"
        )
    return ok(f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}")


def examine_packages(setup: Setup) -> Verdict:  # noqa: ARG001
    """Check the installed packages against the supported versions."""
    found = {name: (lowest, installed_version(name)) for name, lowest in lowest_versions().items()}
    wrong = [
        f"{name} {version or 'is missing'} (needs {lowest})"
        for name, (lowest, version) in found.items()
        if version is None or release_numbers(version) < release_numbers(lowest)
    ]
    if wrong:
        return failed(", ".join(wrong), "install the package anew, in an environment of its own")
    return ok(f"{len(found)} packages in supported versions")


def examine_cores(setup: Setup) -> Verdict:
    """Check the number of cores, and the threads in the environment."""
    cores, quota, allowed = count_cores(setup.root), cpu_quota(setup.root), count_allowed()
    if quota < 1:
        return warning(
            f"the container's quota is {quota:g} cores: computing stands still for most of the time",
            "raise the container's CPU limit to at least one core for each process",
        )
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads) > cores:
        return warning(
            f"OMP_NUM_THREADS={threads} on {cores} cores: threads wait for each other",
            f"unset OMP_NUM_THREADS, or set it to {cores} or less",
        )
    bound = f", of {allowed} in the affinity and a quota of {quota:g}" if quota < allowed else ""
    return ok(f"cores: {cores}{bound}")


def examine_files(setup: Setup) -> Verdict:
    """Check the hard limit of open files; processes raise the soft limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    seats = _count_seats(setup.config)
    needed = BASE_FILES + FILES_A_SEAT * seats
    if hard != resource.RLIM_INFINITY and hard < needed:
        return failed(
            f"at most {hard} open files; a master of {seats} slaves needs about {needed}",
            "raise the hard limit: ulimit -Hn, or LimitNOFILE= of the service",
        )
    return ok("any number of open files" if hard == resource.RLIM_INFINITY else f"at most {hard} open files")


def _count_seats(config: Config | None) -> int:
    """Count the slaves of a run; 1 without a run, or if the count requires a built network."""
    resolved = resolve_without_torch(config) if config and config.cluster.distributed else None
    return sum(resolved.replicas) if resolved else 1


def examine_disk(setup: Setup) -> Verdict:  # noqa: ARG001
    """Check the disk of the current folder, the default place of runs and states."""
    folder = Path.cwd()
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    found = f"{free / MIB:,.0f} MiB free for {folder}"
    if disk.f_flag & os.ST_RDONLY or not os.access(folder, os.W_OK | os.X_OK):
        return failed(f"{folder} cannot be written", "start from another folder, or give --run-dir")
    if free < LEAST_DISK_BYTES or (disk.f_files and disk.f_favail < LEAST_INODES):
        inodes = f" and {disk.f_favail} more files" if disk.f_files else ""
        return failed(found + inodes, "free space, or start from a folder on another disk")
    if free < AMPLE_DISK_BYTES:
        return warning(found, "free space: snapshots keep several copies of every parameter")
    return ok(found)
