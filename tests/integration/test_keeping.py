"""`layerwise snapshot` and `rollback`, and a power cut, with slaves that train."""

from __future__ import annotations

import json
import re

import psutil
import pytest

from tests.integration.processes import QUICK, Cli, HandMade, until


def _versions(cluster: HandMade) -> dict[str, int]:
    versions: dict[str, int] = cluster.status()["versions"]
    return versions


@pytest.mark.slow
def test_a_run_is_put_back_and_the_same_slaves_take_it_to_its_end(cli: Cli, by_hand: HandMade) -> None:
    by_hand.master(*QUICK, "--set", "run.batches=800")
    slaves = [by_hand.slave() for _ in range(3)]
    until(lambda: by_hand.status()["batches"] > 50)
    taken = cli.json("snapshot", "--master", by_hand.address, "--json")
    until(lambda: by_hand.status()["batches"] > 250)
    rolled = cli.json("rollback", "--master", by_hand.address, "--to", str(taken["number"]), "--json")
    assert rolled["snapshot"]["versions"] == taken["versions"]
    assert rolled["before"]["1/weights"] > taken["versions"]["1/weights"]
    assert rolled["fenced"] == 3
    until(lambda: all(seat["grants"] == 2 and seat["beat"] > 1 for seat in by_hand.status()["seats"]))
    # A process that joins again brings only what it has used since.
    said = sum(seat["telemetry"]["cpu_seconds"] for seat in by_hand.status()["seats"])
    assert 0 < said <= sum(sum(psutil.Process(slave.pid).cpu_times()[:2]) for slave in slaves)
    # Some that were given up are learned anew: what is reached was never skipped.
    assert [slave.wait(90) for slave in slaves] == [0, 0, 0]
    status = by_hand.status()
    assert (status["state"], status["batches"]) == ("done", 800)
    assert [seat["grants"] for seat in status["seats"]] == [2, 2, 2]
    assert cli.json("evaluate", "--master", by_hand.address, "--json")["test_error_percent"] < 10


def test_the_commands_say_what_there_is_and_what_is_wrong(cli: Cli, by_hand: HandMade) -> None:
    by_hand.master(*QUICK)
    master = ["--master", by_hand.address]
    assert cli.run("snapshot", *master, "--list").stdout == "no snapshots yet\n"
    assert re.match(r"snapshot 1 of \S+ \S+, 0.0 MiB: no shards yet\n", cli.run("snapshot", *master).stdout)
    assert '[{"number": 1, ' in cli.run("snapshot", *master, "--list", "--json").stdout
    refused = cli.run("rollback", *master, "--to", "9")
    assert refused.returncode == 3
    assert "there is no snapshot 9; there are [1]" in refused.stderr
    (cli.folder / "state" / "snapshots" / "1" / "snapshot.json").write_text("{")
    assert "snapshot 1: cannot be used: " in cli.run("snapshot", *master, "--list").stdout
    failed = cli.run("rollback", *master)
    assert failed.returncode == 4
    assert "snapshots/1/snapshot.json: is torn" in failed.stderr
    assert cli.run("rollback", *master, "--to", "0").returncode == 2
    assert cli.run("snapshot", "--master", "127.0.0.1:42921").returncode == 3


@pytest.mark.slow
def test_after_a_power_cut_training_goes_on_from_the_newest_snapshot(cli: Cli, by_hand: HandMade) -> None:
    """A kill, and another boot's identity: what the kernel would say after the machine was started anew."""
    training = [*QUICK, "--set", "run.batches=800", "--set", "cluster.snapshot_seconds=1"]
    master = by_hand.master(*training)
    slaves = [by_hand.slave() for _ in range(3)]
    snapshots = cli.folder / "state" / "snapshots"
    until(lambda: snapshots.exists() and any(path.name.isdecimal() for path in snapshots.iterdir()))
    # Of what is learned: backups of optimizers are few.
    until(lambda: min(at for name, at in _versions(by_hand).items() if "optimizer" not in name) > 20)
    master.kill()
    master.wait()
    (cli.folder / "state" / "boot").write_text("00000000-0000-4000-8000-000000000000")
    by_hand.master(*training, listen=by_hand.address)
    assert [slave.wait(90) for slave in slaves] == [0, 0, 0]
    assert by_hand.status()["batches"] == 800
    events = [json.loads(line) for line in (cli.folder / "state" / "events.jsonl").read_text().splitlines()]
    (said,) = [event for event in events if event["event"] == "recovered"]
    assert said["snapshot"] > 0
    assert said["lost_pushes"] == sum(
        said["before"][name] - said["after"].get(name, 0) for name in said["before"]
    )
