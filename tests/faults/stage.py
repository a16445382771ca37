"""Four stores as real processes behind links that can be cut, and slaves that push to a shard in each."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial

import numpy as np

from common.net.addresses import split_address
from common.wire.messages import StatusReply
from common.wire.stores import StoreState
from tests.faults.proxy import Proxy
from tests.faults.pusher import delta
from tests.faults.scene import free_address
from tests.faults.test_exactly_once import Push, killed, status, subset, value
from tests.integration.processes import ROOT, Cli, HandMade, until

STORES = LAYERS = 4
# One layer for each store: the shards are as large as each other, so each store is dealt one.
SETTINGS = [
    # More batches than any test pushes.
    "--set", "run.batches=1000000", "--set", "network.options={widths=[8, 8, 8]}",
    "--set", "network.cuts=[1, 2, 3]", "--set", f"cluster.stores={STORES}",
    "--set", "cluster.heartbeat_seconds=0.4", "--set", "cluster.misses=5",
]  # fmt: skip
# Pushes of each layer after a fault, and pushes of a layer that may be left without an answer.
SOME, MOST_UNKNOWN = 30, 8


class Stage:
    """A master, four stores, each behind links that can be cut, and a slave for each layer that pushes.

    Attributes:
        to_master: of each store, the way to the master.
        to_slaves: of each store, the way of slaves to it.
    """

    def __init__(self, cli: Cli, by_hand: HandMade, stack: ExitStack) -> None:
        self.folder = cli.folder
        self._cli, self._by_hand = cli, by_hand
        self.master = by_hand.master(*SETTINGS, "--set", "cluster.snapshot_seconds=1")
        self.to_master: dict[int, Proxy] = {}
        self.to_slaves: dict[int, Proxy] = {}
        self._listen = {number: free_address() for number in range(1, STORES + 1)}
        self._stores: dict[int, subprocess.Popen[str]] = {}
        port = split_address(by_hand.address)[1]
        for number, listen in self._listen.items():
            # The token is found by the master's port.
            ends = split_address(by_hand.address), (f"127.0.0.{1 + number}", port)
            self.to_master[number] = stack.enter_context(Proxy(partial(_same, ends[0]), ends[1]))
            self.to_slaves[number] = stack.enter_context(Proxy(partial(split_address, listen)))
            self.start(number)
            # One after the other: the numbers are given in the order of joining.
            until(partial(self.serves, number))
        self._slaves: list[subprocess.Popen[str]] = []
        for number in range(LAYERS):
            self.add_slave()
            until(partial(self.more_push_than, number), 150)

    def start(self, number: int) -> None:
        """Start a store on its directory, at its old address."""
        place = "--listen", self._listen[number], "--advertise", self.to_slaves[number].address
        address = self.to_master[number].address
        self._stores[number] = self._by_hand.store(number, *place, address=address)

    def kill(self, number: int) -> None:
        """Kill a store without notice."""
        self._stores[number].kill()
        self._stores[number].wait()

    def signal(self, number: int, what: signal.Signals) -> None:
        """Stop a store, or let it continue."""
        self._stores[number].send_signal(what)

    def kill_master(self) -> None:
        """Kill the master, and start it again at its place."""
        self.master = killed(self._by_hand, self.master, *SETTINGS, "--set", "cluster.snapshot_seconds=1")

    def add_slave(self) -> None:
        """Start a slave, which takes the lowest free layer."""
        output = self.folder / f"slave-{len(self._slaves)}"
        with output.open("w") as file:
            command = [sys.executable, "-m", "tests.faults.pusher", self._by_hand.address]
            self._slaves.append(
                subprocess.Popen(
                    [*command, output.name, "stores"],
                    cwd=ROOT,
                    env=self._cli.environment,
                    stdin=subprocess.PIPE,
                    text=True,
                    stdout=file,
                )
            )

    def kill_slave(self, which: int) -> None:
        """Kill a slave without notice."""
        self._slaves[which].kill()
        self._slaves[which].communicate()

    def end(self, *, orderly: bool) -> None:
        """Let every slave end in order, or kill what is left."""
        for slave in self._slaves:
            if slave.poll() is None:
                if orderly:
                    slave.communicate(timeout=90)
                    assert slave.returncode == 0
                slave.kill()
                slave.communicate()

    def status(self) -> StatusReply:
        """What the master says of the run."""
        return status(self._by_hand.address)

    def state(self, number: int) -> StoreState:
        """What the master says of a store."""
        return self.status().stores[number - 1]

    def serves(self, number: int) -> bool:
        """Whether a store reports."""
        return self.state(number).state == "serving"

    def more_push_than(self, count: int) -> bool:
        """Whether more than so many slaves push."""
        pushing = (any(word == "applied" for word, _ in self.lines(n)) for n in range(len(self._slaves)))
        return sum(pushing) > count

    def lines(self, which: int) -> list[tuple[str, Push]]:
        """What a slave has said."""
        # A line that a kill cut off is left out.
        lines = [line.split() for line in (self.folder / f"slave-{which}").read_text().split("\n")[:-1]]
        return [(word, (int(who), int(number))) for word, who, number in lines]

    def said(self, layer: int, *words: str) -> list[Push]:
        """Pushes of a layer of which slaves have said one of some words."""
        lines = [line for which in range(len(self._slaves)) for line in self.lines(which)]
        layers = {who: k for word, (who, k) in lines if word == "holds"}
        return [push for word, push in lines if word in words and layers[push[0]] == layer]

    def acknowledged(self) -> list[int]:
        """Number of acknowledged pushes of each layer."""
        return [len(self.said(k, "applied", "repeated")) for k in range(1, LAYERS + 1)]

    def go_on(self, *besides: int, some: int = SOME) -> None:
        """Wait for some pushes of every layer, but of those besides."""
        before = self.acknowledged()

        def moved() -> bool:
            counts = zip(self.acknowledged(), before, strict=True)
            return all(now >= then + some for k, (now, then) in enumerate(counts, 1) if k not in besides)

        until(moved)

    def next_snapshot(self) -> None:
        """Wait for a snapshot that begins from now on."""
        newest = self.status().snapshot.number
        # The next one may be under way.
        until(lambda: self.status().snapshot.number >= newest + 2)

    def count(self) -> None:
        """Check what the slaves said against what the stores hold."""
        for k in range(1, LAYERS + 1):
            sent, acknowledged = self.said(k, "sent"), self.said(k, "applied", "repeated")
            assert len(sent) == len({*sent})
            assert len(acknowledged) == len({*acknowledged}) > SOME
            unknown = sorted({*sent} - {*acknowledged})
            assert len(unknown) <= MOST_UNKNOWN
            shard = f"{k}/weights"
            total = np.sum([delta(*push) for push in acknowledged], axis=0)
            counted = subset(value(self._by_hand.address, shard) - total, unknown)
            assert counted is not None, f"a push to {shard} was lost, or counted twice"
            version = len(acknowledged) + len(counted)
            # The master knows the version of the last push once the store has reported.
            until(partial(self._has_version, shard, version))
            print(
                f"{shard}: {len(acknowledged)} acknowledged, {len(unknown)} not answered, version {version}"
            )

    def _has_version(self, shard: str, version: int) -> bool:
        return self.status().versions.get(shard) == version


def _same(end: tuple[str, int]) -> tuple[str, int]:
    return end
