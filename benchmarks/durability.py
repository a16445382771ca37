"""Cost of durable pushes: shards in mapped files against shards in memory alone.

`python -m benchmarks durability` writes results/durability.json. Each way is a master and a slave's client,
in processes without other work; the ways take turns, round by round. A round's time is the whole of it, so it
includes the kernel's occasional work for mapped files. A ratio is taken within a round, and given as median
and quartiles over the rounds.
"""

from __future__ import annotations

import asyncio
import json
import platform
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.spread import spread
from benchmarks.transfer import CommandProcess
from common import strict_json
from common.config.files import load
from common.cores import count_cores
from common.lifecycle import keep_freed_memory
from common.shards.table import Table
from master import service
from master.disk.state import StateDirectory
from master.store.shard import BufferPair
from master.store.store import Memory

RESULT = Path(__file__).parent / "results" / "durability.json"
SIZES = {"1 MiB": 1 << 20, "64 MiB": 64 << 20}
# A round takes each way about a second.
REPEATS = {"1 MiB": 300, "64 MiB": 20}
ROUNDS = 8
# Seconds between snapshots; the third way takes them far more often than a run would, to show their cost.
WAYS = {"memory": 1000, "mapped": 1000, "mapped, a snapshot every 5 s": 5}

Rates = dict[str, dict[str, list[float]]]


class InMemory(StateDirectory):
    """A state directory with shards in memory only."""

    def create(self, name: str, table: Table, nbytes: int | None = None) -> BufferPair:
        """Allocate a shard in the process' memory."""
        return Memory().create(name, table, table.nbytes if nbytes is None else nbytes)

    def survey(self) -> tuple[dict[str, BufferPair], dict[str, str]]:
        """Report an empty directory."""
        return {}, {}


def serve(way: str, folder: Path) -> None:
    """Run a master of a single layer until termination."""
    keep_freed_memory()
    config = load(None, ["network.cuts=[]", f"cluster.snapshot_seconds={WAYS[way]}"])
    state = (InMemory if way == "memory" else StateDirectory)(folder)
    asyncio.run(service.run_until_signal(config, "127.0.0.1:0", 0, "127.0.0.1:0", state))


def measure() -> Rates:
    """Measure pushes per second in every round, by size and by way."""
    rates: Rates = {size: {way: [] for way in WAYS} for size in SIZES}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clients = {way: _client(way, folder / way, stack) for way in WAYS}
        for turn in range(ROUNDS + 1):
            for size, nbytes in SIZES.items():
                # The order rotates: writes that one way leaves to the disk slow the next way.
                for way in [*WAYS][turn % len(WAYS) :] + [*WAYS][: turn % len(WAYS)]:
                    clients[way].send_order(f"push {nbytes} {REPEATS[size]}")
                    seconds = sum(json.loads(clients[way].read_line()))
                    # The first round warms every process up.
                    if turn:
                        rates[size][way].append(REPEATS[size] / seconds)
    return rates


def _client(way: str, folder: Path, stack: ExitStack) -> CommandProcess:
    server = CommandProcess("benchmarks.durability", way, str(folder))
    stack.callback(server.close)
    address = server.read_line().partition("listening on ")[2].partition(",")[0]
    client = CommandProcess("benchmarks.endpoints", "layerwise", "client", address)
    stack.callback(client.close)
    return client


def summarize(measurements: Rates) -> dict[str, object]:
    """Summarize the rates, and every way's cost relative to memory, in per cent."""
    cases = {}
    for size, rates in measurements.items():
        memory = rates["memory"]
        cases[size] = {
            "pushes_per_second": {way: spread(each, 2) for way, each in rates.items()},
            "megabytes_per_second": {
                way: spread([rate * SIZES[size] / 1e6 for rate in each], 1) for way, each in rates.items()
            },
            "cost_percent": {
                way: spread([100 * (1 - rate / base) for rate, base in zip(each, memory, strict=True)], 2)
                for way, each in rates.items()
                if way != "memory"
            },
        }
    machine = {"cores": count_cores(), "python": platform.python_version()}
    return {"machine": machine, "rounds": ROUNDS, "cases": cases}


def main() -> None:
    """Measure, print and write the results."""
    summary = summarize(measure())
    RESULT.write_text(strict_json.encode(summary, indent=1) + "\n", encoding="utf-8")
    print(strict_json.encode(summary, indent=1))


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
