"""Master and slaves started by hand, in either order, as on machines of their own."""

from __future__ import annotations

import signal

import pytest

from tests.integration.processes import QUICK, Cli, HandMade, until


def _seats(cluster: HandMade) -> list[str]:
    return [seat["state"] for seat in cluster.status()["seats"]]


def test_slaves_wait_for_the_master_train_and_end_while_it_stays(cli: Cli, by_hand: HandMade) -> None:
    early = [by_hand.slave(address="127.0.0.1:42917") for _ in range(2)]
    for slave in early:
        cli.wait_for(slave, "no master at 127.0.0.1:42917 yet", "stderr")
    master = by_hand.master(*QUICK, "--set", "run.batches=300", listen="127.0.0.1:42917")
    slaves = [*early, by_hand.slave()]
    assert [slave.wait(60) for slave in slaves] == [0, 0, 0]
    assert master.poll() is None
    status = by_hand.status()
    assert status["state"] == "done"
    assert status["batches"] == 300
    assert [seat["state"] for seat in status["seats"]] == ["done"] * 3
    assert cli.json("evaluate", "--master", by_hand.address, "--json")["test_error_percent"] < 10
    assert cli.run("export", "--master", by_hand.address, "--output", "m.pt").returncode == 0
    assert (cli.folder / "m.pt").exists()
    # A slave that comes late has nothing to do.
    assert by_hand.slave().wait(30) == 0
    table = cli.run("status", "--master", by_hand.address).stdout
    assert "layerwise: done" in table
    summary = cli.json("evaluate", "--master", by_hand.address, "--watch", "watched", "--json")
    learned = {name: at for name, at in status["versions"].items() if not name.endswith("/optimizer")}
    assert summary["versions"] == learned
    assert (cli.folder / "watched" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_slave_that_is_stopped_and_started_again_goes_on(
    cli: Cli, by_hand: HandMade, how: signal.Signals
) -> None:
    by_hand.master(*QUICK, "--set", "run.batches=4000")
    slaves = [by_hand.slave() for _ in range(3)]
    until(lambda: by_hand.status()["batches"] > 100)
    seat = by_hand.status()["seats"][1]
    victim = next(slave for slave in slaves if slave.pid == seat["pid"])
    victim.send_signal(how)
    assert victim.wait(20) == (130 if how is signal.SIGTERM else -9)
    until(lambda: "vacant" in _seats(by_hand), 5)
    problem = by_hand.status()["problems"][0]
    assert problem["what"] == "layer 2: the slave has failed or left"
    assert f"layerwise slave --master {by_hand.address}" in problem["advice"]
    page = cli.run("status", "--master", by_hand.address).stdout
    assert max(map(len, page.splitlines())) <= 80
    assert page.index(problem["what"]) < page.index("batch")
    before = by_hand.status()["versions"]["2/weights"]
    slaves.append(by_hand.slave())
    line = cli.wait_for(slaves[-1], "layer 2 of 3", "stderr")
    # It goes on from the master's version: ten batches a push, less none that was acknowledged.
    assert int(line.split("from batch ")[1].split(":")[0]) >= 10 * before - 10
    until(lambda: by_hand.status()["versions"]["2/weights"] > before)
    assert by_hand.status()["seats"][1]["grants"] == 2


def test_a_waiting_slave_takes_over(cli: Cli, by_hand: HandMade) -> None:
    by_hand.master(*QUICK, "--set", "run.batches=4000")
    slaves = [by_hand.slave() for _ in range(3)]
    until(lambda: "vacant" not in _seats(by_hand))
    spare = by_hand.slave()
    cli.wait_for(spare, "every layer has a slave; waiting", "stderr")
    # What a lease takes beside the shards is done before there is one.
    cli.wait_for(spare, "ready for a lease on any layer", "stderr")
    slaves[0].kill()
    cli.wait_for(spare, "layer", "stderr")
    until(lambda: by_hand.status()["batches"] > 50)


def test_a_slave_without_a_master_gives_up(cli: Cli) -> None:
    done = cli.run("slave", "--master", "127.0.0.1:42919", "--wait", "0.5")
    assert done.returncode == 3
    assert "127.0.0.1:42919" in done.stderr.splitlines()[-1]


def test_a_second_master_on_the_port_or_the_state_directory_is_refused(cli: Cli, by_hand: HandMade) -> None:
    by_hand.master()
    other = cli.run("master", "run.toml", "--listen", by_hand.address, "--state-dir", "other")
    assert other.returncode == 3
    assert by_hand.address.split(":")[1] in other.stderr
    same = cli.run("master", "run.toml", "--listen", "127.0.0.1:0", "--state-dir", "state")
    assert same.returncode == 3
    assert "another master is using this state directory" in same.stderr
