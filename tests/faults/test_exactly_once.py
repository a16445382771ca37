"""A push counts once: under masters that are killed, answers that are lost, rejoins and rollbacks."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest

from common.errors import FencedError
from common.net.addresses import split_address
from common.net.data.client import locate
from common.wire.messages import StatusReply
from deploy.evaluation.reader import Reader
from tests.faults.proxy import Proxy
from tests.faults.pusher import SHARD, Pusher, delta
from tests.integration.processes import ROOT, Cli, HandMade, until

SLAVES, SECONDS, KILLS, SEED = 4, 20.0, 5, 3
# Leases that outlast everything: none of these is about silence, and answers that are lost make some.
ONE_LAYER = [
    # More batches than any test pushes.
    "--set", "run.batches=1000000", "--set", "network.cuts=[]",
    "--set", "cluster.heartbeat_seconds=0.4", "--set", "cluster.misses=150",
]  # fmt: skip
# No snapshot but those that a test asks for.
RARELY = ["--set", "cluster.snapshot_seconds=1000"]
# A lease that outlasts a master's restart, and what a channel waits between two attempts to reach it.
LASTING = ["--set", "cluster.heartbeat_seconds=3"]

Push = tuple[int, int]


def value(address: str, shard: str = SHARD) -> npt.NDArray[np.float32]:
    """What the master holds, or a store."""
    with Reader(address) as reader:
        return np.frombuffer(reader.pull(shard)[1], np.float32)


def status(address: str) -> StatusReply:
    with Reader(address) as reader:
        return reader.status()


def killed(by_hand: HandMade, master: subprocess.Popen[str], *arguments: str) -> subprocess.Popen[str]:
    """Kill a master; the next one, at its place."""
    master.kill()
    master.wait()
    return by_hand.master(*arguments, listen=by_hand.address)


# --- many slaves, many deaths -----------------------------------------------------------------------------


@contextmanager
def pushing(cli: Cli, address: str, *options: str) -> Iterator[list[list[tuple[str, Push]]]]:
    """Slaves that push while this lasts; afterwards, what each of them said."""
    said: list[list[tuple[str, Push]]] = []
    slaves = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.pusher", address, f"slave-{number}", *options],
            cwd=ROOT, env=cli.environment, stdin=subprocess.PIPE, text=True,
            stdout=(cli.folder / f"slave-{number}").open("w"),
        )
        for number in range(SLAVES)
    ]  # fmt: skip
    try:
        # The fault is for slaves that push: torch takes its time to be imported.
        until(
            lambda: all((cli.folder / f"slave-{n}").read_text().count("applied") for n in range(SLAVES)), 150
        )
        yield said
        for slave in slaves:
            slave.communicate(timeout=60)
            assert slave.returncode == 0
    finally:
        for slave in slaves:
            slave.kill()
            slave.wait()
    for number in range(SLAVES):
        lines = (cli.folder / f"slave-{number}").read_text().splitlines()
        words = [line.split() for line in lines]
        said.append([(word, (int(who), int(sequence))) for word, who, sequence in words])


@pytest.mark.slow
def test_under_masters_that_are_killed_every_acknowledged_push_counts_once(
    cli: Cli, by_hand: HandMade
) -> None:
    """Four slaves push integers to one shard for 20 s; at five random moments the master is killed."""
    arguments = [*ONE_LAYER, "--set", f"downpour.replicas={SLAVES}", "--set", "cluster.snapshot_seconds=3"]
    master = by_hand.master(*arguments)
    chance = random.Random(SEED)
    moments = sorted(chance.uniform(0.0, SECONDS) for _ in range(KILLS))
    with pushing(cli, by_hand.address) as said:
        began = time.monotonic()
        for moment in moments:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            master = killed(by_hand, master, *arguments)
        time.sleep(max(0.0, began + SECONDS - time.monotonic()))
    reached = counted_once(by_hand.address, said)
    assert reached.starts == KILLS + 1


@pytest.mark.slow
def test_under_stores_that_are_killed_every_acknowledged_push_counts_once(
    cli: Cli, by_hand: HandMade
) -> None:
    """Four slaves push integers to a shard in a store; the store, the master, and both are killed in turn."""
    arguments = [*ONE_LAYER, "--set", f"downpour.replicas={SLAVES}", "--set", "cluster.snapshot_seconds=3"]
    arguments += ["--set", "cluster.stores=2"]
    master = by_hand.master(*arguments)
    stores = {number: by_hand.store(number) for number in (1, 2)}
    chance = random.Random(SEED)
    with pushing(cli, by_hand.address, "stores") as said:
        (keeper,) = [each.number for each in status(by_hand.address).stores if SHARD in each.shards]
        for victims in (("store",), ("master",), ("store", "master"), ("store",)):
            time.sleep(chance.uniform(1.0, 3.0))
            if "store" in victims:
                stores[keeper].kill()
                stores[keeper].wait()
            if "master" in victims:
                master = killed(by_hand, master, *arguments)
            if "store" in victims:
                stores[keeper] = by_hand.store(keeper)
        time.sleep(2.0)
    with Reader(by_hand.address) as reader:
        version = reader.pull(SHARD)[0].version
    # The master knows the version of the last push once the store has reported.
    until(lambda: status(by_hand.address).versions.get(SHARD) == version)
    counted_once(by_hand.address, said)


def counted_once(address: str, said: list[list[tuple[str, Push]]]) -> StatusReply:
    """Check what slaves said against what the run holds; the run's status."""
    sent, acknowledged, repeated = (
        [push for slave in said for word, push in slave if word in words]
        for words in (("sent",), ("applied", "repeated"), ("repeated",))
    )
    assert len(sent) == len({*sent})
    unknown = sorted({*sent} - {*acknowledged})
    reached = status(address)
    print(
        f"{len(acknowledged)} acknowledged, {len(repeated)} of them after a lost answer, "
        f"{len(unknown)} not answered, version {reached.versions[SHARD]}, starts {reached.starts}"
    )
    assert len(acknowledged) > 1000
    assert len(unknown) <= SLAVES * KILLS
    rest = value(address) - sum(delta(*push) for push in acknowledged)
    counted = subset(rest, unknown)
    assert counted is not None, "a push was lost, or counted twice"
    assert reached.versions[SHARD] == len(acknowledged) + len(counted)
    return reached


def subset(total: npt.NDArray[np.float32], pushes: list[Push]) -> list[Push] | None:
    """Which pushes, each at most once, add up to the total; None if none do."""
    # A thousand numbers tell which one is in: what is in is the whole of them, seen along its own delta.
    if not pushes:
        return [] if not total.any() else None
    deltas = np.stack([delta(*push) for push in pushes])
    weights = np.rint(np.linalg.lstsq(deltas.T, total, rcond=None)[0])
    if not np.isin(weights, (0, 1)).all() or not np.array_equal(weights @ deltas, total):
        return None
    return list(itertools.compress(pushes, weights))


@pytest.fixture
def proxy(by_hand: HandMade, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Before the master's port for shards, where slaves of this process look for that."""
    with Proxy(lambda: locate(by_hand.address)) as made:
        monkeypatch.setattr("slave.network.transfer.locate", lambda *_: split_address(made.address))
        yield made


# --- one push ---------------------------------------------------------------------------------------------


def test_a_push_whose_answer_is_lost_counts_once(cli: Cli, by_hand: HandMade, proxy: Proxy) -> None:
    by_hand.master(*ONE_LAYER, *RARELY)
    with Pusher(by_hand.address, "a") as slave:
        slave.begin()
        lose_the_answer(proxy, slave, by_hand.address)
        proxy.restore()
        reply = slave.answer()
        assert (reply.sequence, reply.version, reply.applied) == (1, 1, False)
        assert np.array_equal(value(by_hand.address), delta(slave.lease.incarnation, 1))
        assert status(by_hand.address).counters.duplicate_pushes == 1
        slave.push()
        assert slave.answer().applied


def lose_the_answer(proxy: Proxy, slave: Pusher, address: str) -> None:
    """A push that the master applies, and of which the slave does not hear."""
    version = status(address).versions[SHARD]
    proxy.swallow()
    slave.push()
    until(lambda: status(address).versions[SHARD] == version + 1)


def test_a_push_whose_answer_died_with_the_master_counts_once(
    cli: Cli, by_hand: HandMade, proxy: Proxy
) -> None:
    """The slave keeps its lease over the master's restart: what it sends again is recognised."""
    master = by_hand.master(*ONE_LAYER, *RARELY, *LASTING)
    with Pusher(by_hand.address, "a") as slave:
        slave.begin()
        lose_the_answer(proxy, slave, by_hand.address)
        killed(by_hand, master, *ONE_LAYER, *RARELY, *LASTING)
        proxy.restore()
        assert not slave.answer().applied
        who = slave.lease.incarnation
        assert np.array_equal(value(by_hand.address), delta(who, 1))
        (seat,) = status(by_hand.address).seats
        assert (seat.incarnation, seat.grants) == (who, 1)


def test_a_slave_that_asks_again_after_the_masters_restart_is_who_it_was(cli: Cli, by_hand: HandMade) -> None:
    master = by_hand.master(*ONE_LAYER, *RARELY)
    with Pusher(by_hand.address, "a") as slave:
        slave.begin()
        slave.push()
        assert slave.answer().applied
        who = slave.lease.incarnation
    killed(by_hand, master, *ONE_LAYER, *RARELY)
    with Pusher(by_hand.address, "a") as again:
        assert again.lease.incarnation == who
        again.push()  # The first once more.
        assert (again.sequence, again.answer().applied) == (1, False)
        again.begin()
        again.push()
        assert again.answer().applied
    assert np.array_equal(value(by_hand.address), delta(who, 1) + delta(who, 2))


def test_a_push_whose_answer_was_lost_before_a_rollback_is_refused_after_it(
    cli: Cli, by_hand: HandMade, proxy: Proxy
) -> None:
    by_hand.master(*ONE_LAYER, *RARELY)
    with Pusher(by_hand.address, "a") as slave:
        slave.begin()
        slave.push()
        assert slave.answer().applied
        cli.json("snapshot", "--master", by_hand.address, "--json")
        lose_the_answer(proxy, slave, by_hand.address)
        rolled = cli.json("rollback", "--master", by_hand.address, "--json")
        assert (rolled["snapshot"]["number"], rolled["before"], rolled["fenced"]) == (1, {SHARD: 2}, 1)
        proxy.restore()
        with pytest.raises(FencedError):
            slave.answer()
    who = slave.lease.incarnation
    assert np.array_equal(value(by_hand.address), delta(who, 1))
    with Pusher(by_hand.address, "a") as again:
        assert again.lease.incarnation == who + 1
        again.begin()
        again.push()
        assert again.answer().applied
    assert np.array_equal(value(by_hand.address), delta(who, 1) + delta(who + 1, 1))


def test_a_push_that_is_under_way_when_the_run_is_rolled_back_and_the_master_killed(
    cli: Cli, by_hand: HandMade
) -> None:
    """Neither the kill nor what was acknowledged after the snapshot brings back what was given up."""
    master = by_hand.master(*ONE_LAYER, *RARELY)
    with Pusher(by_hand.address, "a") as slave:
        slave.begin()
        cli.json("snapshot", "--master", by_hand.address, "--json")
        slave.push()
        assert slave.answer().applied
        cli.json("rollback", "--master", by_hand.address, "--json")
        killed(by_hand, master, *ONE_LAYER, *RARELY)
        slave.push()
        with pytest.raises(FencedError):
            slave.answer()
    assert not value(by_hand.address).any()


def test_an_interrupted_master_keeps_a_snapshot_of_where_it_was(cli: Cli, by_hand: HandMade) -> None:
    """A machine that is switched off in order loses nothing, though its boot is another afterwards."""
    master = by_hand.master(*ONE_LAYER, *RARELY)
    with Pusher(by_hand.address, "a") as slave:
        slave.begin()
        slave.push()
        assert slave.answer().applied
        who = slave.lease.incarnation
    master.send_signal(signal.SIGTERM)
    master.wait(20)
    (cli.folder / "state" / "boot").write_text("00000000-0000-4000-8000-000000000000")
    by_hand.master(*ONE_LAYER, *RARELY)
    assert np.array_equal(value(by_hand.address), delta(who, 1))
