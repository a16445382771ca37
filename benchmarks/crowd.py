"""Thousands of simulated light slaves on a master and its stores, from costs that were measured.

`python -m benchmarks crowd` writes results/crowd.json; `--table` prints the table of docs/performance.md. The
slaves do what `benchmarks.light_slaves` do: a push and a pull by turns, and a heartbeat a second. Clock and
links, the dealing of shards to stores and the shards themselves are those of `layerwise simulate`; a shard
has no bytes here, and its messages have the bytes of a real one.
"""

from __future__ import annotations

import argparse
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import records
from common.config.simulation import SimulationConfig
from common.shards.pushes import Header, Operation
from common.shards.table import lay_out
from deploy.simulation.clock import Clock
from deploy.simulation.wires import Link, Wires
from master.store.store import Memory, Store
from master.stores import deal

RESULTS = Path(__file__).parent / "results" / "crowd.json"
COSTS = Path(__file__).parent / "results" / "costs.json"
SLAVES, STORES = (64, 256, 1000, 4096), (0, 1, 2, 4, 8, 16, 32, 64)
NBYTES = 1 << 20
# Of a message without a shard.
SMALL_NBYTES = 100
BEAT_SECONDS = 1.0
# Of virtual time: before it counts, and while it does.
WARM_SECONDS, SECONDS = 3.0, 10.0
# A resource that is busy for so much of the time is what bounds the rest.
FULL = 0.9
TABLE = lay_out([("weight", "float32", (1,), "parameter")])


@dataclass(frozen=True)
class Cost:
    """Seconds of a push, a pull or a heartbeat.

    Attributes:
        server: CPU time of the process that keeps the shard.
        slave: CPU time of the slave.
        alone: from the request to the answer, of a slave that is alone.
    """

    server: float
    slave: float
    alone: float

    @property
    def before(self) -> float:
        """Time of the slave and the way before the server works; the rest of the slave's is beside it."""
        return max(0.0, self.alone - self.server)


@dataclass(frozen=True)
class Costs:
    """Costs from real runs, and the spread of a single slave's: sigma of a log-normal factor of mean 1."""

    push: Cost
    pull: Cost
    heartbeat: Cost
    sigma: float

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> Costs:
        """Build from what `python -m benchmarks scale` has measured, in milliseconds."""
        each = {
            name: Cost(*(1e-3 * measured[name][part] for part in ("server", "slave", "alone")))
            for name in ("push", "pull", "heartbeat")
        }
        return cls(each["push"], each["pull"], each["heartbeat"], measured["sigma"])


class Cores:
    """Cores of a machine, first come, first served.

    Args:
        clock: virtual.
        count: of cores; None: one for everybody who asks.
    """

    def __init__(self, clock: Clock, count: int | None) -> None:
        self._clock = clock
        self._free = count
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self.busy_seconds = 0.0

    def run(self, seconds: float, then: Callable[[], None]) -> None:
        """Work for some seconds on a core, as soon as one is free."""
        if self._free is None:
            self._begin(seconds, then)
            return
        self._queue.append((seconds, then))
        self._next()

    def _next(self) -> None:
        while self._free and self._queue:
            self._free -= 1
            self._begin(*self._queue.popleft())

    def _begin(self, seconds: float, then: Callable[[], None]) -> None:
        self.busy_seconds += seconds
        self._clock.at(self._clock.now + seconds, partial(self._end, then))

    def _end(self, then: Callable[[], None]) -> None:
        if self._free is not None:
            self._free += 1
            self._next()
        then()


class Server:
    """Process of the master or a store: one thing at a time, behind a link."""

    def __init__(self, cores: Cores) -> None:
        self.link = Link()
        self._cores = cores
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self._works = False
        self.busy_seconds = 0.0

    def run(self, seconds: float, then: Callable[[], None]) -> None:
        """Work for some seconds, after what has come before."""
        self._queue.append((seconds, then))
        self._next()

    def _next(self) -> None:
        if not self._works and self._queue:
            self._works = True
            seconds, then = self._queue.popleft()
            self.busy_seconds += seconds
            self._cores.run(seconds, partial(self._end, then))

    def _end(self, then: Callable[[], None]) -> None:
        self._works = False
        then()
        self._next()


@dataclass
class Slave:
    """Simulated slave, with its shard and the process that keeps the shard."""

    number: int
    server: Server
    link: Link = field(default_factory=Link)
    sequence: int = 0


class Crowd:
    """Slaves, each with a shard, on a master and its stores.

    Args:
        slaves: number of slaves.
        stores: number of stores; 0: the master keeps the shards.
        costs: from real runs.
        cores: of the one machine on which everything runs; None: each process has its own core.
        pause: seconds between two turns of a slave.
        bandwidth: bytes a second of each process' link, each way.
        latency: seconds of a message on the way.
        seed: of the draws.
    """

    def __init__(
        self,
        slaves: int,
        stores: int,
        costs: Costs,
        *,
        cores: int | None = None,
        pause: float = 0.0,
        bandwidth: float = 1e15,
        latency: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._clock = Clock()
        self._draws = random.Random(seed)  # noqa: S311 - no secret
        settings = SimulationConfig(bandwidth_bytes_per_second=bandwidth, latency_seconds=latency, jitter=0.0)
        self._wires = Wires(settings, self._draws)
        self._costs, self._pause, self._bandwidth = costs, pause, bandwidth
        self._cores = Cores(self._clock, cores)
        self.servers = [Server(self._cores) for _ in range(1 + stores)]
        self._shards = Store(Memory())
        dealt = dict.fromkeys(range(1, 1 + stores), 0)
        self._slaves = []
        for number in range(slaves):
            place = deal(dealt) if stores else 0
            if stores:
                dealt[place] += NBYTES
            self._slaves.append(Slave(number, self.servers[place]))
        self._durations: dict[str, list[float]] = {"push": [], "pull": [], "heartbeat": []}

    def run(self, seconds: float = SECONDS) -> dict[str, Any]:
        """Let the slaves work, and return what came of it."""
        for slave in self._slaves:
            first = self._draws.random()
            header = Header(f"{slave.number + 1}/weights", Operation.CREATE, incarnation=1, table=TABLE)
            self._shards.create(header, [(0, bytes(4))])
            self._clock.at(first * max(self._pause, 1e-3), partial(self._push, slave))
            self._clock.at(first * BEAT_SECONDS, partial(self._beat, slave))
        for store in self.servers[1:]:
            self._clock.at(self._draws.random() * BEAT_SECONDS, partial(self._report, store))
        self._advance(WARM_SECONDS)
        busy = [server.busy_seconds for server in self.servers]
        for each in self._durations.values():
            each.clear()
        self._advance(WARM_SECONDS + seconds)
        assert sum(self._shards.versions().values()) >= len(self._durations["push"])
        shares = [
            (server.busy_seconds - then) / seconds for server, then in zip(self.servers, busy, strict=True)
        ]
        pushes, pulls = len(self._durations["push"]), len(self._durations["pull"])
        keepers = max(1, len(self.servers) - 1)
        # Shards are of one size, so the links of those that keep them are as busy as each other.
        link = max(pushes, pulls) * NBYTES / keepers / self._bandwidth / seconds
        return {
            "pushes_per_second": round(pushes / seconds, 1),
            "mib_per_second": round((pushes + pulls) * NBYTES / (1 << 20) / seconds, 1),
            **{f"{name}_milliseconds": _percentiles(each) for name, each in self._durations.items()},
            "master_cores": round(shares[0], 3),
            "store_cores": round(max(shares[1:], default=0.0), 3),
            "link": round(link, 3),
        }

    def _advance(self, until: float) -> None:
        while self._clock.now < until and self._clock.advance():
            continue

    def _ask(
        self,
        kind: str,
        slave: Slave,
        server: Server,
        sizes: tuple[int, int],
        work: Callable[[], None],
        then: Callable[[], None],
    ) -> None:
        """Make a call of some bytes, with an answer of some bytes."""
        began, cost, noise = self._clock.now, getattr(self._costs, kind), self._noise()
        before = min(cost.before, cost.slave)
        # Of the slave's time the part that it takes beside the server.
        waiting = [2]

        def answered() -> None:
            waiting[0] -= 1
            if not waiting[0]:
                self._durations[kind].append(self._clock.now - began)
                then()

        def served() -> None:
            work()
            arrival = self._wires.arrival(self._clock.now, server.link, slave.link, sizes[1])
            self._clock.at(arrival, answered)

        def arrived() -> None:
            server.run(cost.server * noise, served)
            self._cores.run((cost.slave - before) * noise, answered)

        def sent() -> None:
            # What is neither's work: a thread that wakes up.
            on_the_way = (cost.before - before) * noise
            arrival = self._wires.arrival(self._clock.now, slave.link, server.link, sizes[0])
            self._clock.at(arrival + on_the_way, arrived)

        self._cores.run(before * noise, sent)

    def _push(self, slave: Slave) -> None:
        slave.sequence += 1

        def apply() -> None:
            header = Header(
                f"{slave.number + 1}/weights",
                Operation.UPDATE,
                incarnation=1,
                sequence=slave.sequence,
                table=TABLE,
            )
            self._shards.apply(header, [(0, bytes(4))])

        self._ask("push", slave, slave.server, (NBYTES, SMALL_NBYTES), apply, partial(self._pull, slave))

    def _pull(self, slave: Slave) -> None:
        def read() -> None:
            self._shards.read(f"{slave.number + 1}/weights", 1).release()

        def paused() -> None:
            self._clock.at(self._clock.now + self._pause, partial(self._push, slave))

        self._ask("pull", slave, slave.server, (SMALL_NBYTES, NBYTES), read, paused)

    def _beat(self, slave: Slave) -> None:
        due = self._clock.now + BEAT_SECONDS

        def rest() -> None:
            self._clock.at(due, partial(self._beat, slave))

        sizes = SMALL_NBYTES, SMALL_NBYTES
        self._ask("heartbeat", slave, self.servers[0], sizes, lambda: None, rest)

    def _report(self, store: Server) -> None:
        """Report to the master, as a store does: for the master about the work of a heartbeat."""
        self.servers[0].run(self._costs.heartbeat.server, lambda: None)
        self._clock.at(self._clock.now + BEAT_SECONDS, partial(self._report, store))

    def _noise(self) -> float:
        """Draw a factor of mean 1."""
        sigma = self._costs.sigma
        return self._draws.lognormvariate(-0.5 * sigma * sigma, sigma)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, [50, 99]) if seconds else (0.0, 0.0)
    return {"p50": round(1e3 * float(p50), 2), "p99": round(1e3 * float(p99), 2)}


def find_bound(row: Mapping[str, Any]) -> str:
    """Name what is full: cores or links; without any, the slaves' own pace."""
    names = {"master_cores": "master's core", "store_cores": "stores' cores", "link": "links"}
    return ", ".join(text for name, text in names.items() if row[name] >= FULL) or "slaves' pace"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the rows as a table."""
    heads = ["stores", "slaves", "pushes/s", "MiB/s", "push ms, p50", "p99", "pull ms, p50", "p99"]
    heads += ["heartbeat ms, p99", "master, cores", "a store, cores", "a link, %", "bound"]
    lines = []
    for row in rows:
        push, pull = row["push_milliseconds"], row["pull_milliseconds"]
        lines.append(
            [
                *(f"{row[name]:,}" for name in ("stores", "slaves")),
                *(f"{row[name]:,.0f}" for name in ("pushes_per_second", "mib_per_second")),
                *(f"{value:,.1f}" for value in (push["p50"], push["p99"], pull["p50"], pull["p99"])),
                f"{row['heartbeat_milliseconds']['p99']:,.1f}",
                f"{row['master_cores']:.2f}",
                f"{row['store_cores']:.2f}" if row["stores"] else "-",
                f"{100 * row['link']:.0f}",
                find_bound(row),
            ]
        )
    return records.markdown(heads, lines)


def last_table() -> str:
    """Format the table of the last results.

    Raises:
        ConfigError: there are no results.
    """
    return table(records.read(RESULTS)["rows"])


def main(arguments: Sequence[str]) -> None:
    """Simulate every number of slaves and stores, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks crowd", description=__doc__)
    parser.add_argument("--slaves", type=int, nargs="+", default=SLAVES, metavar="N")
    parser.add_argument("--stores", type=int, nargs="+", default=STORES, metavar="N")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two turns of a slave")
    parser.add_argument("--gbit", type=float, default=10.0, help="link of each process, each way")
    parser.add_argument("--table", action="store_true", help="print the table of the last results")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(last_table())
        return
    costs = Costs.of(records.read(COSTS)["cold"])
    rows = []
    for stores in chosen.stores:
        for slaves in chosen.slaves:
            crowd = Crowd(
                slaves,
                stores,
                costs,
                pause=chosen.pause,
                bandwidth=chosen.gbit * 1.25e8,
                latency=SimulationConfig().latency_seconds,
            )
            rows.append({"stores": stores, "slaves": slaves, **crowd.run()})
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    settings = {"pause": chosen.pause, "gbit": chosen.gbit, "nbytes": NBYTES, "seconds": SECONDS}
    records.write(RESULTS, {**settings, "rows": rows})
