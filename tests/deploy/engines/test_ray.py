"""`train --on ray` on a real Ray cluster: a run ends at its error though a node dies, and leaves nothing."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.engines.progress import batches
from tests.deploy.engines.ray_cluster import RayCluster, why_not
from tests.integration.processes import ROOT, Cli, until

WHY = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(WHY), reason=WHY),
]

# The default network in a file of the user's, which imports another from beside it.
NETWORK = """
from torch import nn

from beside import hidden

def build(input_shape, classes):
    first = nn.Sequential(nn.Flatten(), *hidden(64, 256))
    return [first, nn.Sequential(*hidden(256, 256)), nn.Linear(256, classes)]
"""
BESIDE = """
from torch import nn

def hidden(inputs, outputs):
    return nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()
"""


@pytest.fixture
def cluster(cli: Cli, tmp_path: Path) -> Iterator[RayCluster]:
    # Ray notes its address there.
    (tmp_path / "nodes" / "ray").mkdir(parents=True)
    environment = {**cli.environment, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "nodes")}
    with RayCluster(environment) as started:
        yield started
    until(lambda: not cli.processes(), 30)


def kept(folder: Path) -> list[Path]:
    """Return the folders of certificates and code on the nodes."""
    return list(folder.glob("nodes/layerwise-*"))


PROGRAM = """
import sys
import layerwise
keys = {"run.batches": 100, "run.batch_size": 32, "cluster.misses": 20}
result = layerwise.train(run_dir="run", progress=False, on="ray", address=sys.argv[1], **keys)
print(result.summary["batches"])
"""


def test_a_program_trains_on_the_cluster(cluster: RayCluster, cli: Cli) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, cluster.address],
        cwd=cli.folder,
        env={**cli.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.returncode, done.stdout) == (0, "100\n"), done.stderr
    until(lambda: not cluster.used() and not kept(cli.folder), 30)


def test_a_run_survives_a_node_and_an_interrupt_and_leaves_nothing(cluster: RayCluster, cli: Cli) -> None:
    run = cli.folder / "run"
    (cli.folder / "net.py").write_text(NETWORK)
    (cli.folder / "beside.py").write_text(BESIDE)
    on = ["train", "--on", "ray", "--address", cluster.address]
    keys = ["network.model=net.py:build", "run.batches=2500", "run.batch_size=32", "cluster.misses=20"]
    train = cli.start(*on, "--run-dir", "run", *[part for key in keys for part in ("--set", key)])
    until(lambda: batches(run), 240)
    assert cluster.used() == len(kept(cli.folder)) == len(cli.of_kind("slave")) == 3

    cluster.kill_node()
    # A spare takes the layer, or Ray has moved the place first.
    cli.wait_for(train, "started", "stderr")
    train.send_signal(signal.SIGINT)
    resume = cli.wait_for(train, "resume with: layerwise ", "stderr").partition("layerwise ")[2]
    assert train.wait(60) == 130
    until(lambda: not cluster.used() and not kept(cli.folder), 30)
    assert cli.of_kind("slave") == cli.of_kind("master") == []

    done = cli.run(*shlex.split(resume), timeout=600)
    assert done.returncode == 0, done.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test_error_percent"] < 6
    assert summary["batches"] >= 2500
    assert "from batch" in (run / "logs" / "slave-1.log").read_text()
    assert not (run / "tls" / "authority").exists()
    until(lambda: not cluster.used() and not kept(cli.folder), 30)

    waits = cli.start(*on, "--cpus", "3")
    line = cli.wait_for(waits, "wait for room in the Ray cluster", "stderr")
    assert "each asks for 3 CPU, and there is 4 CPU in all, 4 CPU of it free" in line
    waits.send_signal(signal.SIGINT)
    assert waits.wait(60) == 130
