"""The script of `manifest slurm` on a real Slurm: runs end at their errors, and outlive their time limits."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.engines.progress import batches
from tests.deploy.engines.slurm_cluster import SlurmCluster, why_not
from tests.integration.processes import ROOT, Cli, until

WHY = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.skipif(bool(WHY), reason=WHY)]


@pytest.fixture
def cluster(tmp_path: Path, cli: Cli) -> Iterator[SlurmCluster]:
    folder = tmp_path / "slurm"
    folder.mkdir()
    made = SlurmCluster(folder)
    programs = tmp_path / "programs"
    programs.mkdir()
    program = programs / "layerwise"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m deploy.cli "$@"\n')
    program.chmod(0o755)
    made.environment |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LAYERWISE_TEST": cli.environment["LAYERWISE_TEST"],
    }
    try:
        made.start()
        yield made
    finally:
        made.close()


def submit(cluster: SlurmCluster, cli: Cli, name: str, *options: str) -> tuple[str, Path]:
    """Submit a run of digits in three layers; its job, and its folder."""
    (cli.folder / "run.toml").touch()
    folder = cli.folder / name
    printed = cli.run("manifest", "slurm", "run.toml", "--run-dir", str(folder), *options)
    assert printed.returncode == 0, printed.stderr
    script = cli.folder / f"{name}.sh"
    script.write_text(printed.stdout)
    return cluster.ask("sbatch", "--parsable", str(script), cwd=cli.folder).strip(), folder


def resumed(folder: Path) -> bool:
    """Return whether a slave of a run has begun at a later batch than the first."""
    logs = [path.read_text() for path in folder.glob("logs/slave-*.log")]
    return any(re.search(r"from batch [1-9]", log) for log in logs)


def test_runs_end_at_their_errors_and_outlive_their_time_limits(cluster: SlurmCluster, cli: Cli) -> None:
    # The long run meets its time limit of a minute while the short one is told of a limit, goes on, and ends.
    endless, long = submit(
        cluster, cli, "long", "--time", "1", "--insecure", "--set", "run.batches=10_000_000"
    )
    short, folder = submit(cluster, cli, "short", "--set", "run.batches=1500")
    until(lambda: batches(folder), 120)
    cluster.ask("scancel", "--signal=USR1", "--batch", short)
    until(lambda: cluster.job(short)["Restarts"] == "1", 60)
    until(lambda: cluster.job(endless)["Restarts"] != "0", 90)

    until(lambda: cluster.job(short)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), 240)
    output = "".join(path.read_text() for path in cli.folder.glob("*.log"))
    assert cluster.job(short)["JobState"] == "COMPLETED", output
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["test_error_percent"] < 6
    assert summary["batches"] >= 1500
    for private in (folder, folder / "state", folder / "tls" / "master"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not (folder / "tls" / "authority").exists()

    # A minute is short on a busy machine: it is enough that the slaves went on from a later batch.
    until(lambda: resumed(long), 120)
    assert "the time limit is near" in output
    assert stat.S_IMODE((long / "state" / "join.token").stat().st_mode) == 0o600


def test_a_run_with_stores_goes_on_in_the_next_job_and_ends_at_its_error(
    cluster: SlurmCluster, cli: Cli
) -> None:
    job, folder = submit(cluster, cli, "stores", "--set", "run.batches=1500", "--set", "cluster.stores=2")
    until(lambda: batches(folder), 120)
    cluster.ask("scancel", "--signal=USR1", "--batch", job)
    until(lambda: cluster.job(job)["Restarts"] == "1", 60)
    until(lambda: cluster.job(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), 240)
    output = "".join(path.read_text() for path in cli.folder.glob("*.log"))
    assert cluster.job(job)["JobState"] == "COMPLETED", output
    assert json.loads((folder / "summary.json").read_text())["test_error_percent"] < 6
    assert resumed(folder)
    # A job may be over a moment before the last of its processes.
    until(lambda: not cli.of_kind("store"), 30)
    for number in (1, 2):
        assert list((folder / f"store-{number}" / "shards").iterdir())
        # Stopped in order: the slaves' last pushes were there.
        assert "interrupted" in (folder / "logs" / f"store-{number - 1}.log").read_text()


def test_a_run_that_fails_ends_its_job_with_the_code_of_the_command(cluster: SlurmCluster, cli: Cli) -> None:
    job, _ = submit(cluster, cli, "bad", "--tls", str(cli.folder / "none"))
    until(lambda: cluster.job(job)["JobState"] == "FAILED", 60)
    assert cluster.job(job)["ExitCode"] == "2:0"
    assert "none" in next(cli.folder.glob("*.log")).read_text()
