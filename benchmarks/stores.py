"""CPU time of the busiest server process for each push: the master alone, and with stores.

`python -m benchmarks stores` writes results/stores.json; `--table` prints the table of docs/performance.md.
64 light slaves (`benchmarks.light_slaves`) push and pull shards of 1 MiB without pause, on one machine with
the servers. The numbers of stores take turns, round by round, and a ratio is taken within a round. Beside
each is what 64 such slaves get where every process has a core to itself, by the simulator
(`benchmarks.crowd`).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.crowd import COSTS, Costs, Crowd
from benchmarks.scale import measure
from benchmarks.spread import spread

RESULTS = Path(__file__).parent / "results" / "stores.json"
SLAVES, STORES = 64, (0, 2, 4)


def play(rounds: int, seconds: float) -> list[list[dict[str, Any]]]:
    """Measure every number of stores in each round; returns the rows by round."""
    found = []
    for turn in range(rounds):
        # Nobody is always first.
        order = STORES if turn % 2 == 0 else STORES[::-1]
        rows = {stores: {"stores": stores, **measure(SLAVES, seconds, stores)} for stores in order}
        found.append([rows[stores] for stores in STORES])
        for each in found[-1]:
            print(each["stores"], f"{busiest(each):.3f} ms a push", flush=True)
    return found


def busiest(row: Mapping[str, Any]) -> float:
    """Return the CPU milliseconds of the busiest server process for each push of the whole run."""
    return float(1e3 * max(row["server_cpu_seconds"]) / row["pushes"])


def all_servers(row: Mapping[str, Any]) -> float:
    """Return the CPU milliseconds of all server processes for each push."""
    return float(1e3 * sum(row["server_cpu_seconds"]) / row["pushes"])


def predict(costs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Simulate the slaves where each process has a core of its own."""
    return [
        {"stores": stores, **Crowd(SLAVES, stores, Costs.of(costs["cold"])).run(seconds=5.0)}
        for stores in STORES
    ]


def table(result: Mapping[str, Any]) -> str:
    """Format the results as a table."""
    heads = ["stores", "CPU ms a push, busiest process", "of one master's", "all server processes, ms"]
    heads += ["pushes/s", "push ms, p50", "p99", "with cores for all: pushes/s", "push ms, p50", "p99"]
    rounds = result["rounds"]
    lines = []
    for place, ideal in enumerate(result["simulated"]):
        rows = [turn[place] for turn in rounds]
        ratio = spread([busiest(turn[place]) / busiest(turn[0]) for turn in rounds])
        p50, p99 = (
            spread([row["push_milliseconds"][name] for row in rows])["median"] for name in ("p50", "p99")
        )
        lines.append(
            [
                str(ideal["stores"]),
                f"{spread([busiest(row) for row in rows])['median']:.2f}",
                f"{ratio['median']:.2f} ({ratio['p25']:.2f} to {ratio['p75']:.2f})",
                f"{spread([all_servers(row) for row in rows])['median']:.2f}",
                f"{spread([row['mib_per_second'] / 2 for row in rows])['median']:,.0f}",
                f"{p50:.0f}",
                f"{p99:.0f}",
                f"{ideal['pushes_per_second']:,.0f}",
                f"{ideal['push_milliseconds']['p50']:.0f}",
                f"{ideal['push_milliseconds']['p99']:.0f}",
            ]
        )
    return records.markdown(heads, lines)


def last_table() -> str:
    """Format the table of the last results.

    Raises:
        ConfigError: there are no results.
    """
    return table(records.read(RESULTS))


def main(arguments: Sequence[str]) -> None:
    """Measure, write the results and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks stores", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each with every number of stores")
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement")
    parser.add_argument("--table", action="store_true", help="print the table of the last results")
    chosen = parser.parse_args(arguments)
    if not chosen.table:
        simulated = predict(records.read(COSTS))
        rounds = play(chosen.rounds, chosen.seconds)
        settings = {"machine": records.machine(), "slaves": SLAVES, "seconds": chosen.seconds}
        records.write(RESULTS, {**settings, "rounds": rounds, "simulated": simulated})
    print(last_table())
