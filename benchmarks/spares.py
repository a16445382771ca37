"""Seconds from the loss of a slave to the first step of its spare.

`python -m benchmarks spares` kills the slave of a layer (SIGKILL) while a spare waits, for an MLP and a `gpt`
on random bytes, and writes results/spares.json; `--table` prints the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.by_hand import LIMIT_SECONDS, Loopback, ManualCluster
from benchmarks.spread import format_spread, spread
from common.errors import RunFailedError
from common.observe import metrics

RESULTS = Path(__file__).parent / "results" / "spares.json"
LAYERS, STEPS, LOOK_SECONDS = 3, 20, 0.01
# Forever, for a benchmark.
COMMON = ("run.batches=10000000", f"network.layers={LAYERS}", "run.batch_size=32")
TEXT_BYTES = 1 << 16
NETWORKS = {
    "mlp": ("network.options={widths = [512, 512, 512, 512, 512, 512]}",),
    "gpt": (
        "data.dataset=text",
        "decoupling.unlock=update",
        "data.tokens=bytes",
        "data.context=64",
        "network.model=gpt",
        "network.options={width = 128, heads = 4, blocks = 8}",
    ),
}
# Of a round, in the order of the table.
PARTS = ("granted", "opened", "stepped")


class Watched(ManualCluster):
    """Cluster with a spare, and the spare's pages at a known port."""

    def __init__(self, folder: Path, settings: Sequence[str]) -> None:
        super().__init__(Loopback(), folder, settings, LAYERS)
        self._state = folder / "state"
        self._log = folder / f"slave-{LAYERS + 1}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._pages = f"127.0.0.1:{free.getsockname()[1]}"

    def _command(self, machine: int, *arguments: str) -> list[str]:
        more = ["--log-format=json", f"--metrics={self._pages}"] if machine > LAYERS else []
        return super()._command(machine, *arguments, *more)

    def lose(self, layer: int) -> dict[str, float]:
        """Kill the slave of a layer; return the seconds until the spare has the seat, the layer, a step."""
        self.add_slaves(1)
        self._wait_for("waiting to replace one")
        self._settle()
        status = self.query("status")
        pid = next(seat["pid"] for seat in status["seats"] if seat["layer"] == layer)
        machine = self.machine(pid)
        killed = time.time()
        self._processes[f"slave-{machine}"].kill()
        while not self._steps():
            if time.time() - killed > LIMIT_SECONDS:
                raise RunFailedError(f"the spare takes no step: {self._last_line(self._log.name)}")
            time.sleep(LOOK_SECONDS)
        stepped = time.time() - killed
        events = (self._state / "events.jsonl").read_text(encoding="utf-8").splitlines()
        granted = next(line["time"] for line in map(json.loads, events) if line["event"] == "replaced")
        opened = self._wait_for(f"layer {layer} of {LAYERS} on")["time"]
        return {"granted": granted - killed, "opened": opened - granted, "stepped": stepped}

    def _settle(self) -> None:
        """Wait until the spare uses no core: what it does ahead is done."""
        pid = self.pids[f"slave-{LAYERS + 1}"]
        before = -1.0
        while (now := _cpu_seconds(pid)) - before > 0.05:
            before = now
            time.sleep(1.0)

    def _steps(self) -> bool:
        with urllib.request.urlopen(f"http://{self._pages}/metrics", timeout=5) as page:
            text = page.read().decode()
        return bool(re.search(rf"^{metrics.BATCHES.full_name}\{{.*\}} [1-9]", text, re.MULTILINE))

    def _wait_for(self, message: str) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < deadline:
            for line in self._log.read_text(encoding="utf-8").splitlines():
                if message in line:
                    found: dict[str, Any] = json.loads(line)
                    return found
            time.sleep(LOOK_SECONDS)
        raise RunFailedError(f"the spare never said {message!r}: {self._last_line(self._log.name)}")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(network: str, rounds: int) -> dict[str, Any]:
    """Measure the loss of the middle layer's slave, in clusters of their own."""
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            settings = [*COMMON, *NETWORKS[network]]
            if network == "gpt":
                text = folder / "text.txt"
                text.write_bytes(np.random.default_rng(1).bytes(TEXT_BYTES))
                settings.append(f"data.path={text}")
            with Watched(folder, settings) as cluster:
                cluster.wait_for_steps(STEPS)
                found.append(cluster.lose(LAYERS // 2 + 1))
    return {part: spread([each[part] for each in found], 2) for part in PARTS}


def table(rows: dict[str, Any]) -> str:
    """Format the table."""
    heads = ["network", "seat granted after, s", "opening, s", "first step after, s"]
    return records.markdown(
        heads,
        [[f"`{name}`", *(format_spread(row[part], ".2f") for part in PARTS)] for name, row in rows.items()],
    )


def main(arguments: list[str]) -> None:
    """Measure, and write the results; or print the table of the last ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks spares")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args(arguments)
    if not options.table:
        rows = {network: measure(network, options.rounds) for network in options.networks}
        records.write(options.out, {"machine": records.machine(), "rows": rows})
    print(table(records.read(options.out)["rows"]))
