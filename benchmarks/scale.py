"""Throughput of a master with 1 to 64 slaves that push and pull shards of 1 MiB without pause.

`python -m benchmarks scale` writes results/scale.json; `--table` prints the table of docs/performance.md. The
slaves compute nothing and load no torch (`benchmarks.light_slaves`): up to 8 processes, then several threads
in each. They share the machine with the master, so the rate is what both ends reach together.

`--costs` measures before what a push, a pull and a heartbeat cost each end, with a single slave at a time,
and writes results/costs.json. From these costs comes the simulator's prediction (`benchmarks.crowd`).
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.crowd import COSTS, NBYTES, Cost, Costs, Crowd
from benchmarks.transfer import CommandProcess
from common.cores import count_cores

RESULTS = Path(__file__).parent / "results" / "scale.json"
SLAVES = (1, 2, 4, 8, 16, 32, 64)
PROCESSES = 8
# Shards over which one slave goes in turn, so that no cache has them.
COLD_SHARDS = 48
# Seats of the heartbeats whose cost is the difference: a master has work without any, too.
BEATING = (40, 240)
# A slave's shard in the master is two buffers, and in the slave one that goes and one that comes.
BUFFERS = 4
COST_SECONDS = 4.0
CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")

Durations = dict[str, list[float]]


@dataclass
class Cluster:
    """A master, stores and processes of light slaves, all there.

    Attributes:
        web: address of the master's pages, with a slash at the end.
        servers: the master, then the stores.
        clients: processes of slaves.
    """

    web: str
    servers: list[CommandProcess]
    clients: list[CommandProcess]

    def work(self, seconds: float, what: str = "both", how: str = "all") -> tuple[Durations, float]:
        """Have every client do an order; returns all durations, and the seconds that it took."""
        began = time.perf_counter()
        for client in self.clients:
            client.send_order(f"{seconds} {what} {how}")
        answers = [json.loads(client.read_line()) for client in self.clients]
        took = time.perf_counter() - began
        return {name: [each for answer in answers for each in answer[name]] for name in answers[0]}, took

    def cpu_seconds(self) -> tuple[list[float], float]:
        """Return the CPU seconds of each server, and of all clients."""
        clients = sum(client.cpu_seconds() for client in self.clients)
        return [server.cpu_seconds() for server in self.servers], clients


@contextmanager
def cluster(
    slaves: int, *, nbytes: int, stores: int = 0, processes: int | None = None, replicas: int = 1
) -> Iterator[Cluster]:
    """Context of a cluster of light slaves in at most so many processes, `replicas` of them on each layer."""
    processes = min(slaves, processes or PROCESSES)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def start(*command: str) -> CommandProcess:
            process = CommandProcess(*command)
            stack.callback(process.close)
            return process

        servers = [start(*master_command(Path(folder), slaves // replicas, stores, replicas))]
        address = servers[0].read_line().partition("listening on ")[2].partition(",")[0]
        web = servers[0].read_line().partition(": ")[2]
        for number in range(1, stores + 1):
            place = str(Path(folder) / f"store-{number}")
            servers.append(start("deploy.cli", "store", "--master", address, "--state-dir", place,
                                 "--log-level", "warning"))  # fmt: skip
            servers[-1].read_line()
        each = [str(slaves // processes), str(nbytes), *(["--stores"] if stores else [])]
        clients = [start("benchmarks.light_slaves", address, *each) for _ in range(processes)]
        for client in clients:
            client.read_line()
        yield Cluster(web, servers, clients)


def master_command(folder: Path, layers: int, stores: int, replicas: int) -> list[str]:
    """Return the command of a master with so many layers."""
    (folder / "run.toml").touch()
    settings = [f"network.options={{widths={[8] * max(1, layers - 1)}}}"]
    settings += [f"network.cuts={list(range(1, layers))}", "cluster.misses=20"]
    settings += [f"cluster.stores={stores}", f"downpour.replicas={replicas}"]
    command = ["deploy.cli", "master", str(folder / "run.toml"), "--listen", "127.0.0.1:0"]
    command += ["--state-dir", str(folder / "state"), "--log-level", "warning"]
    return [*command, *(part for setting in settings for part in ("--set", setting))]


def measure(slaves: int, seconds: float, stores: int = 0) -> dict[str, Any]:
    """Measure a master, or stores, with `slaves` slaves for `seconds`."""
    with cluster(slaves, nbytes=NBYTES, stores=stores) as running:
        servers, clients = running.cpu_seconds()
        durations, took = running.work(seconds)
        servers_after, clients_after = running.cpu_seconds()
        used = [after - before for before, after in zip(servers, servers_after, strict=True)]
        return {
            "slaves": slaves,
            "processes": len(running.clients),
            **row(durations["push"], durations["pull"], took, used[0]),
            "pushes": len(durations["push"]),
            "server_cpu_seconds": [round(each, 3) for each in used],
            "slaves_cpu_seconds": round(clients_after - clients, 3),
            "seconds": round(took, 3),
        }


def row(pushes: Sequence[float], pulls: Sequence[float], seconds: float, cpu: float) -> dict[str, Any]:
    """Summarize durations of pushes and pulls, given the whole time and the master's CPU time, in seconds."""
    count = len(pushes) + len(pulls)
    return {
        "mib_per_second": round(count * NBYTES / (1 << 20) / seconds, 1),
        "push_milliseconds": percentiles(pushes),
        "pull_milliseconds": percentiles(pulls),
        "master_cores": round(cpu / seconds, 3),
        "master_cpu_milliseconds": round(1e3 * cpu / count, 3),
    }


def measure_costs() -> dict[str, Any]:
    """Measure what a push, a pull and a heartbeat cost: with a shard in the caches, and with cold ones."""
    heartbeat = _measure_heartbeat()
    found: dict[str, Any] = {"machine": records.machine(), "nbytes": NBYTES, "cache_bytes": cache_bytes()}
    for name, shards in (("warm", 1), ("cold", COLD_SHARDS)):
        with cluster(shards, nbytes=NBYTES, processes=1) as running:
            costs = {what: _measure_cost(running, what) for what in ("push", "pull")}
        # Of a log-normal distribution.
        sigmas = [math.log(each["p90"] / each["alone"]) / 1.28 for each in costs.values()]
        found[name] = {**costs, "heartbeat": heartbeat, "sigma": round(max(sigmas), 3)}
    return found


def _measure_cost(running: Cluster, what: str) -> dict[str, float]:
    servers, clients = running.cpu_seconds()
    durations, _ = running.work(COST_SECONDS, what, "one")
    servers_after, clients_after = running.cpu_seconds()
    return _cost(durations[what], servers_after[0] - servers[0], clients_after - clients)


def _cost(durations: Sequence[float], server: float, slave: float) -> dict[str, float]:
    """Return milliseconds for each call, from the CPU seconds of all calls."""
    p50, p90 = np.percentile(durations, [50, 90])
    values = {"server": server / len(durations), "slave": slave / len(durations), "alone": p50, "p90": p90}
    return {name: round(1e3 * float(value), 4) for name, value in values.items()}


def _measure_heartbeat() -> dict[str, float]:
    found = []
    for seats in BEATING:
        with cluster(seats, nbytes=0, processes=2) as running:
            running.work(1.0)
            servers, clients = running.cpu_seconds()
            durations, took = running.work(COST_SECONDS)
            servers_after, clients_after = running.cpu_seconds()
            beats = durations["heartbeat"]
            cost = _cost(beats, servers_after[0] - servers[0], clients_after - clients)
            found.append((len(beats) / took, (servers_after[0] - servers[0]) / took, cost))
    (few, idle, _), (many, busy, cost) = found
    return {**cost, "server": round(1e3 * (busy - idle) / (many - few), 4)}


def cache_bytes() -> int:
    """Return the bytes of the largest cache; 32 MiB where the kernel does not tell."""
    try:
        text = CACHE.read_text(encoding="ascii").strip()
    except OSError:
        return 32 << 20
    return int(text.rstrip("KM")) << {"K": 10, "M": 20}.get(text[-1], 0)


def costs_of(slaves: int, measured: Mapping[str, Any]) -> Costs:
    """Return the costs with a number of slaves: the more bytes, the less of them are in the caches."""
    cold = min(1.0, slaves * BUFFERS * measured["nbytes"] / measured["cache_bytes"])
    ends = [Costs.of(measured[name]) for name in ("warm", "cold")]

    def mixed(kind: str) -> Cost:
        one, other = (getattr(end, kind) for end in ends)
        parts = ("server", "slave", "alone")
        return Cost(*((1 - cold) * getattr(one, name) + cold * getattr(other, name) for name in parts))

    return Costs(mixed("push"), mixed("pull"), mixed("heartbeat"), max(end.sigma for end in ends))


def predict(slaves: int, measured: Mapping[str, Any], stores: int = 0) -> dict[str, Any]:
    """Simulate slaves and servers that share this machine's cores."""
    return Crowd(slaves, stores, costs_of(slaves, measured), cores=count_cores()).run(seconds=5.0)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median and the 99th percentile, in milliseconds."""
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50": round(1e3 * float(p50), 2), "p99": round(1e3 * float(p99), 2)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the rows as a table: measured, and predicted by the simulator."""
    heads = ["slaves", "processes", "MiB/s", "push ms, p50", "p99", "pull ms, p50", "p99", "master, cores"]
    heads += ["its CPU ms a MiB", "cores in all", "MiB in two core seconds", "simulated, MiB/s"]
    heads += ["push ms, p50", "p99", "pull ms, p50", "p99"]
    lines: list[list[str]] = []
    for each in rows:
        times = [
            f"{found[what][name]:.1f}"
            for found in (each, each["simulated"])
            for what in ("push_milliseconds", "pull_milliseconds")
            for name in ("p50", "p99")
        ]
        lines.append(
            [
                *(str(each[name]) for name in ("slaves", "processes")),
                f"{each['mib_per_second']:,.0f}",
                *times[:4],
                f"{each['master_cores']:.2f}",
                f"{each['master_cpu_milliseconds']:.2f}",
                f"{cores(each):.2f}",
                f"{2 * each['mib_per_second'] / cores(each):,.0f}",
                f"{each['simulated']['mib_per_second']:,.0f}",
                *times[4:],
            ]
        )
    return records.markdown(heads, lines)


def cores(row: Mapping[str, Any]) -> float:
    """Return the cores that servers and slaves had."""
    return float((sum(row["server_cpu_seconds"]) + row["slaves_cpu_seconds"]) / row["seconds"])


def last_table() -> str:
    """Format the table of the last results.

    Raises:
        ConfigError: there are no results.
    """
    return table(records.read(RESULTS)["rows"])


def main(arguments: Sequence[str]) -> None:
    """Measure every number of slaves, print a line for every number, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration for each number of slaves")
    parser.add_argument("--costs", action="store_true", help="measure the costs anew, before")
    parser.add_argument("--table", action="store_true", help="print the table of the last results")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(last_table())
        return
    if chosen.costs:
        records.write(COSTS, measure_costs())
    costs = records.read(COSTS)
    rows: list[dict[str, Any]] = []
    for slaves in SLAVES:
        rows.append({**measure(slaves, chosen.seconds), "simulated": predict(slaves, costs)})
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    result = {"machine": records.machine(), "nbytes": NBYTES, "seconds": chosen.seconds, "rows": rows}
    records.write(RESULTS, result)
