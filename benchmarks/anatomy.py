"""Where a step's time goes: two layers and a master, each part of a step in microseconds.

`python -m benchmarks anatomy --mnist FOLDER` writes results/anatomy.json: of each profile the parts of a step
of each layer (`benchmarks.timed`), what the other threads of its process and the master use meanwhile, and
the waiting that the program's own metrics say; of a run of its own what py-spy sees. `--table` prints
docs/performance.md's tables of it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmarks import kept
from benchmarks.cluster import ground
from benchmarks.links import COMMON, Cluster, Loopback
from benchmarks.slowing import cpu_seconds
from benchmarks.spied import spied
from benchmarks.timed import EVENT, FOLDER, PARTS, STEP
from benchmarks.ways import NEVER, WARM
from common.errors import RunFailedError

RESULTS = Path(__file__).parent / "results" / "anatomy.json"
PROFILES = ("light", "basic")
LAYERS, LIMIT_SECONDS = 2, 600.0
SPIED_SECONDS = 10
# Of the functions that py-spy saw, so many are in the table.
SHOWN = 12
# What a layer's process does beside its training thread: the thread's name, and what it is for.
THREADS = {
    "sender": "sender: encodes h and delta",
    "network": "network: event loop, sends, receives, decodes",
    "grpc": "grpcio's own threads",
    "pusher": "pusher: sends pushes",
}

Row = dict[str, Any]


def measured(profile: str, settings: tuple[str, ...]) -> Row:
    """One run of a profile.

    Raises:
        RunFailedError: it did not come to its end.
    """
    own = _own(profile, settings)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Slaves inherit it.
        os.environ[FOLDER] = name
        with Cluster(Loopback(), folder, own, LAYERS, slave="benchmarks.timed") as cluster:
            master = psutil.Process(cluster.master)
            _await(folder, "began")
            before = cpu_seconds(master)
            _await(folder, "json")
            used = cpu_seconds(master) - before
            cluster.trained()
            status = cluster.asked("status")
        layers = {k: json.loads((folder / f"{k}.json").read_text(encoding="utf-8")) for k in _layers()}
    steps = layers["1"]["steps"]
    seats = {str(seat["layer"]): seat["telemetry"] for seat in status["seats"]}
    for k, layer in layers.items():
        told = seats[k]
        layer["waiting"] = round(1e6 * told["waiting_seconds"] / told["steps"])
    return {"layers": layers, "master_microseconds": round(1e6 * used / steps)}


def seen(profile: str, settings: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """What py-spy sees of each layer's slave in a run of a profile, which it ends then (`benchmarks.spied`).

    Raises:
        RunFailedError: it did not come to its steps, or not to the seconds.
    """
    endless = (*_own(profile, settings), f"run.batches={NEVER}")
    with tempfile.TemporaryDirectory() as name, Cluster(Loopback(), Path(name), endless, LAYERS) as cluster:
        seats = cluster.stepped(WARM)["seats"]
        return spied({str(seat["layer"]): seat["pid"] for seat in seats}, SPIED_SECONDS)


def _own(profile: str, settings: tuple[str, ...]) -> tuple[str, ...]:
    return (*settings, *COMMON[1:], f"network.layers={LAYERS}", f"cluster.profile={profile}")


def _layers() -> list[str]:
    return [str(k) for k in range(1, LAYERS + 1)]


def _await(folder: Path, suffix: str) -> None:
    """Until every layer has written its file."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not all((folder / f"{k}.{suffix}").exists() for k in _layers()):
        if time.monotonic() > deadline:
            raise RunFailedError("a slave did not come to its last step; see `layerwise slave` by hand")
        time.sleep(0.05)


def table(rows: Mapping[str, Row]) -> str:
    """Microseconds of a step: in wall time, and in CPU time of the training thread."""
    columns = [(profile, k) for profile in rows for k in rows[profile]["layers"]]
    heads = ["microseconds a step", *(f"{profile}, layer {k}" for profile, k in columns)]
    lines: list[list[str]] = []
    layers = [rows[profile]["layers"][k] for profile, k in columns]
    for name in [name for _, _, name in PARTS if name != EVENT]:
        lines.append([name, *(_spent(layer["parts"].get(name)) for layer in layers)])
    lines.append(["the rest of a step", *(_rest(layer) for layer in layers)])
    lines.append([EVENT, *(_spent(layer["parts"].get(EVENT)) for layer in layers)])
    lines.append(["**from step to step**", *(f"**{layer['microseconds']:,}**" for layer in layers)])
    lines.append(["waiting, as the metrics count it", *(f"{layer['waiting']:,}" for layer in layers)])
    for thread, what in THREADS.items():
        lines.append([f"beside it, {what}", *(f"{layer['threads'].get(thread, 0):,}" for layer in layers)])
    shared = [f"{rows[profile]['master_microseconds']:,}" if k == "1" else "" for profile, k in columns]
    lines.append(["beside it, the master", *shared])
    return kept.markdown(heads, lines)


def functions(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Per cent of the time that a thread was found at work in a function, by profile and layer."""
    columns = [(profile, k) for profile in found for k in found[profile]]
    heads = ["% of the time", *(f"{profile}, layer {k}" for profile, k in columns)]
    each = [found[profile][k] for profile, k in columns]
    most: dict[str, float] = {}
    for column in each:
        most |= {name: max(percent, most.get(name, 0.0)) for name, percent in column.items()}
    shown = sorted(most, key=lambda name: -most[name])[:SHOWN]
    lines = [[name, *(f"{column[name]:.1f}" if name in column else "-" for column in each)] for name in shown]
    return kept.markdown(heads, lines)


def _spent(part: list[int] | None) -> str:
    return "-" if part is None else f"{part[0]:,} ({part[1]:,})"


def _rest(layer: Row) -> str:
    parts = [spent for name, spent in layer["parts"].items() if name not in (STEP, EVENT)]
    whole = layer["parts"][STEP]
    return _spent([whole[clock] - sum(part[clock] for part in parts) for clock in (0, 1)])


def last_tables() -> str:
    """The tables of the last results.

    Raises:
        ConfigError: there are none.
    """
    result = kept.read(RESULTS)
    return f"{table(result['rows'])}\n\n{functions(result['functions'])}"


def main(arguments: list[str]) -> None:
    """Run each profile, print the table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks anatomy", description=__doc__)
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's files; else a small net on the digits")
    parser.add_argument("--batches", type=int, default=300, help="of a run")
    parser.add_argument("--table", action="store_true", help="print the tables of the last results")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(last_tables())
        return
    network, batch_size = ground(chosen.mnist, "mlp")
    settings = (*network, f"run.batch_size={batch_size}", f"run.batches={chosen.batches}")
    rows = {profile: measured(profile, settings) for profile in PROFILES}
    found = {profile: seen(profile, settings) for profile in PROFILES}
    result = {"machine": kept.machine(), "settings": kept.settings_of(settings), "rows": rows}
    kept.write(RESULTS, {**result, "spied_seconds": SPIED_SECONDS, "functions": found})
    print(last_tables())
