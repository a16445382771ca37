"""Random schedules of kills: slaves and masters die at random moments, and every sum stays exact.

`LAYERWISE_SCHEDULES=20 python -m pytest -m slow tests/faults/test_schedules.py` plays 20 in each profile.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.pusher import SHARD, delta
from tests.faults.test_exactly_once import Push, killed, status, subset, value
from tests.integration.processes import ROOT, Cli, HandMade, until

SCHEDULES = int(os.environ.get("LAYERWISE_SCHEDULES", "2"))
SLAVES, SECONDS = 3, 6.0


class Pushers:
    """Slaves that push integers, each killed and replaced on demand."""

    def __init__(self, cli: Cli, address: str) -> None:
        self._cli, self._address = cli, address
        self._living: list[subprocess.Popen[str]] = []
        self._outputs: list[Path] = []

    def add(self) -> None:
        """Start a slave."""
        output = self._cli.folder / f"slave-{len(self._outputs)}"
        self._outputs.append(output)
        with output.open("w") as file:
            self._living.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.faults.pusher", self._address, output.name],
                    cwd=ROOT, env=self._cli.environment, stdin=subprocess.PIPE, text=True, stdout=file,
                )
            )  # fmt: skip

    def kill(self, which: int) -> None:
        """Kill a slave without notice."""
        slave = self._living.pop(which)
        slave.kill()
        slave.communicate()

    def said(self, *words: str) -> list[Push]:
        """Pushes of which a slave has said one of some words; a line that a kill cut off is left out."""
        lines = [line for output in self._outputs for line in output.read_text().split("\n")[:-1]]
        found = [line.split() for line in lines]
        return [(int(who), int(sequence)) for word, who, sequence in found if word in words]

    def applied(self, which: int) -> int:
        """Number of acknowledged pushes of a slave."""
        return self._outputs[which].read_text().count("applied")

    def finish(self) -> None:
        """Let every slave end in order."""
        for slave in self._living:
            slave.communicate(timeout=90)
            assert slave.returncode == 0

    def end(self) -> None:
        """Kill what is left."""
        while self._living:
            self.kill(0)


@contextmanager
def pushing(cli: Cli, address: str) -> Iterator[Pushers]:
    """Slaves that all push while this lasts."""
    pushers = Pushers(cli, address)
    try:
        for _ in range(SLAVES):
            pushers.add()
        # The faults are for slaves that push: torch takes its time to be imported.
        until(lambda: all(pushers.applied(number) for number in range(SLAVES)), 150)
        yield pushers
    finally:
        pushers.end()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", range(SCHEDULES))
@pytest.mark.parametrize("profile", ["light", "basic"])
def test_under_a_random_schedule_of_kills_every_sum_is_exact(
    profile: str, seed: int, cli: Cli, by_hand: HandMade
) -> None:
    draws = random.Random(f"{profile} {seed}")
    moments = sorted(draws.uniform(0.0, SECONDS) for _ in range(draws.randint(3, 6)))
    arguments = [
        # More batches than any schedule pushes.
        "--set", "run.batches=1000000", "--set", "network.cuts=[]", "--set", f"downpour.replicas={SLAVES}",
        "--set", f"cluster.profile={profile}", "--set", "cluster.heartbeat_seconds=0.4",
        "--set", "cluster.misses=5", "--set", "cluster.snapshot_seconds=2",
    ]  # fmt: skip
    master = by_hand.master(*arguments)
    with pushing(cli, by_hand.address) as pushers:
        began, masters = time.monotonic(), 1
        for moment in moments:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            if draws.random() < 0.5:
                master = killed(by_hand, master, *arguments)
                masters += 1
            else:
                pushers.kill(draws.randrange(SLAVES))
                pushers.add()
        time.sleep(max(0.0, began + SECONDS - time.monotonic()))
        pushers.finish()
        sent, acknowledged = pushers.said("sent"), pushers.said("applied", "repeated")
    assert len(sent) == len({*sent})
    assert len(acknowledged) == len({*acknowledged}) > SECONDS
    assert {*acknowledged} <= {*sent}
    unknown = sorted({*sent} - {*acknowledged})
    reached = status(by_hand.address)
    rest = value(by_hand.address) - sum(delta(*push) for push in acknowledged)
    counted = subset(rest, unknown)
    assert counted is not None, "a push was lost, or counted twice"
    assert reached.versions[SHARD] == len(acknowledged) + len(counted)
    assert reached.starts == masters
