"""Profile `basic` with real processes: whole runs, and slaves and masters that are killed."""

from __future__ import annotations

import json
import re
import signal
import time
from typing import Any

import numpy as np
import psutil
import pytest

from deploy.evaluation.reader import Reader
from tests.integration.processes import QUICK, Cli, HandMade, until

# Patient: on a crowded machine, too, a lease ends where a test ends it.
BASIC = [*QUICK, "--set", "cluster.profile=basic", "--set", "cluster.misses=10"]
REACHED = re.compile(r"neighbours reach this slave at (\S+)")


def _telemetry(cluster: HandMade) -> list[dict[str, Any]]:
    return [seat["telemetry"] for seat in cluster.status()["seats"]]


@pytest.mark.slow
def test_a_run_with_replicas_learns_and_says_its_profile(cli: Cli) -> None:
    sets = ["run.batches=600", "downpour.replicas=[2, 1, 2]"]
    summary = cli.json("train", *BASIC, *(part for each in sets for part in ("--set", each)), "--json")
    assert summary["profile"] == "basic"
    assert summary["slaves"] == 5
    assert summary["lost_batches"] == summary["restarts"] == 0
    assert summary["test_error_percent"] < 12
    assert summary["delay"]["max"] > 0


@pytest.mark.slow
def test_back_propagation_across_slaves_goes_straight_from_slave_to_slave(cli: Cli) -> None:
    sets = ["run.batches=200", "decoupling.unlock=none"]
    summary = cli.json("train", *BASIC, *(part for each in sets for part in ("--set", each)), "--json")
    assert summary["delay"] == {"p50": 0, "p99": 0, "max": 0}
    assert summary["lost_batches"] == 0
    assert summary["test_error_percent"] < 15


@pytest.mark.slow
def test_killed_slaves_and_a_killed_master_are_started_again(cli: Cli) -> None:
    sets = ["--set", "run.batches=2500", "--set", "cluster.backup_steps=20"]
    process = cli.start("train", *BASIC, *sets, "--run-dir", "run", "--json")
    cli.wait_for(process, "test error", "stderr")
    cli.of_kind("slave")[1].kill()
    cli.wait_for(process, "slave-2 was killed by signal 9; restarting it", "stderr")
    cli.wait_for(process, "test error", "stderr")
    cli.of_kind("master")[0].kill()
    cli.wait_for(process, "master was killed by signal 9; restarting it", "stderr")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    summary = json.loads(out)
    assert summary["restarts"] == 2
    assert summary["test_error_percent"] < 8
    assert summary["lost_batches"] < 50


@pytest.mark.slow
def test_by_hand_each_slave_has_its_own_address_and_a_successor_another(cli: Cli, by_hand: HandMade) -> None:
    by_hand.master(*BASIC, "--set", "run.batches=6000", "--set", "cluster.backup_steps=10")
    slaves = [
        by_hand.slave("--listen", f"127.0.0.{number}:0", "--advertise", f"127.0.0.{number}:0")
        for number in (2, 3, 4)
    ]
    for slave, number in zip(slaves, (2, 3, 4), strict=True):
        found = REACHED.search(cli.wait_for(slave, "neighbours reach", "stderr"))
        assert found
        assert found[1].startswith(f"127.0.0.{number}:")
    until(lambda: by_hand.status()["batches"] > 200)
    seat = by_hand.status()["seats"][1]
    victim = next(slave for slave in slaves if slave.pid == seat["pid"])
    victim.kill()
    successor = by_hand.slave("--listen", "127.0.0.5:0")
    cli.wait_for(successor, "layer 2 of 3", "stderr")
    before = _count(by_hand, "2/optimizer")
    assert before >= 100
    until(lambda: by_hand.status()["seats"][1]["telemetry"]["steps"] > seat["telemetry"]["steps"] + 300)
    # Begun anew, the count would have to catch up first.
    assert _count(by_hand, "2/optimizer") > before + 200
    assert [each["grants"] for each in by_hand.status()["seats"]] == [1, 2, 1]


def _count(cluster: HandMade, shard: str) -> float:
    """The steps that the layer's optimizer has taken, as the master knows it."""
    with Reader(cluster.address) as reader:
        header, buffer = reader.pull(shard)
    count: np.ndarray[Any, Any] = header.table.arrays(buffer)["weights.count"]
    return float(count)


@pytest.mark.slow
def test_while_the_master_is_away_the_neighbours_do_not_notice(cli: Cli, by_hand: HandMade) -> None:
    arguments = (*BASIC, "--set", "run.batches=1500")
    master = by_hand.master(*arguments)
    slaves = [by_hand.slave() for _ in range(3)]
    until(lambda: by_hand.status()["batches"] > 50)
    reached = max(each["next_batch"] for each in _telemetry(by_hand))
    master.send_signal(signal.SIGKILL)
    master.wait(10)
    assert reached < 1500
    # They go through the rest of the run, and have nothing left to do but to ask for the master.
    until(lambda: _idle([slave.pid for slave in slaves]))
    by_hand.master(*arguments, listen=by_hand.address)
    assert [slave.wait(60) for slave in slaves] == [0, 0, 0]
    status = by_hand.status()
    assert status["state"] == "done"
    assert status["lost_batches"] == 0
    assert [seat["grants"] for seat in status["seats"]] == [1, 1, 1]
    # What had to wait for the master came in one push of each shard, or two.
    assert status["versions"]["1/weights"] < 1500 / 10


def _idle(pids: list[int]) -> bool:
    """Whether processes have computed next to nothing for a second."""
    before = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids]
    time.sleep(1)
    return all(
        sum(psutil.Process(pid).cpu_times()[:2]) < then + 0.2 for pid, then in zip(pids, before, strict=True)
    )


def test_addresses_that_cannot_be_are_refused(cli: Cli, by_hand: HandMade) -> None:
    by_hand.master(*BASIC)
    refused = cli.run("slave", "--master", by_hand.address, "--listen", "0.0.0.0:0")
    assert refused.returncode == 2
    assert "--insecure" in refused.stderr
    taken = cli.run("slave", "--master", by_hand.address, "--listen", by_hand.address)
    assert taken.returncode == 3
    assert f"--listen {by_hand.address}: cannot be listened on" in taken.stderr


def test_light_has_no_use_for_addresses(cli: Cli, by_hand: HandMade) -> None:
    by_hand.master(*QUICK)
    for option in ("--listen", "--advertise"):
        refused = cli.run("slave", "--master", by_hand.address, option, "127.0.0.1:0")
        assert refused.returncode == 2
        assert f'{option} 127.0.0.1:0: has no meaning with cluster.profile = "light"' in refused.stderr
