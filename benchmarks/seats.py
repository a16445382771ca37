"""Roster, status and metrics of a thousand seats in a real master.

`python -m benchmarks seats` writes results/seats.json; `--table` prints the table of docs/performance.md. The
slaves (`benchmarks.light_slaves`) load no torch and train nothing: each holds a lease, on a connection of its
own, by a heartbeat a second that tells about as much as that of a slave that trains. Then each page is asked
for, again and again, while the heartbeats go on.
"""

from __future__ import annotations

import argparse
import json
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.scale import cluster, percentiles

RESULTS = Path(__file__).parent / "results" / "seats.json"
SEATS, REPLICAS = (96, 296, 1000), 8
PAGES = ("status", "metrics", "history")
ASKED = 10


def measure(seats: int, seconds: float) -> dict[str, Any]:
    """Measure a master with so many slaves, on layers of 8 replicas each."""
    began = time.perf_counter()
    with cluster(seats, nbytes=0, replicas=REPLICAS) as running:
        joined = time.perf_counter() - began
        (before,), _ = running.cpu_seconds()
        beats, took = running.work(seconds)
        (after,), _ = running.cpu_seconds()
        share = (after - before) / took
        asked = {page: _ask(running.web, page) for page in PAGES}
        resident = running.servers[0].resident_bytes()
    return {
        "seats": seats,
        "joined_seconds": round(joined, 1),
        "heartbeats_per_second": round(len(beats["heartbeat"]) / took, 1),
        "heartbeat_milliseconds": percentiles(beats["heartbeat"]),
        "master_cores": round(share, 3),
        "heartbeat_cpu_milliseconds": round(1e3 * (after - before) / len(beats["heartbeat"]), 3),
        "resident_mib": round(resident / (1 << 20)),
        "pages": asked,
    }


def _ask(web: str, page: str) -> dict[str, Any]:
    """Ask for a page some times; returns its size and the milliseconds."""
    seconds = []
    for _ in range(ASKED):
        began = time.perf_counter()
        with urllib.request.urlopen(f"{web}{page}") as answer:  # noqa: S310 - the master's own pages
            body = answer.read()
        seconds.append(time.perf_counter() - began)
    if page == "status":
        assert all(seat["incarnation"] for seat in json.loads(body)["seats"])
    return {
        "kib": round(len(body) / 1024),
        "milliseconds": percentiles(seconds),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the rows as a table."""
    heads = ["seats", "all there after, s", "heartbeats/s", "heartbeat ms, p50", "p99", "master, cores"]
    heads += ["CPU ms a heartbeat", "MiB"]
    heads += [part for page in PAGES for part in (f"/{page}, KiB", "ms, p50")]
    lines = []
    for row in rows:
        pages = [row["pages"][page] for page in PAGES]
        beat = row["heartbeat_milliseconds"]
        lines.append(
            [
                f"{row['seats']:,}",
                f"{row['joined_seconds']:.0f}",
                f"{row['heartbeats_per_second']:,.0f}",
                *(f"{beat[name]:.1f}" for name in ("p50", "p99")),
                f"{row['master_cores']:.2f}",
                f"{row['heartbeat_cpu_milliseconds']:.2f}",
                f"{row['resident_mib']:,}",
                *(
                    cell
                    for page in pages
                    for cell in (
                        f"{page['kib']:,}",
                        f"{page['milliseconds']['p50']:.0f}",
                    )
                ),
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
    """Measure every number of seats, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks seats", description=__doc__)
    parser.add_argument("--seats", type=int, nargs="+", default=SEATS, metavar="N", help="multiples of 8")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration for each number of seats")
    parser.add_argument("--table", action="store_true", help="print the table of the last results")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(last_table())
        return
    rows = []
    for seats in chosen.seats:
        rows.append(measure(seats, chosen.seconds))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    records.write(RESULTS, {"machine": records.machine(), "seconds": chosen.seconds, "rows": rows})
