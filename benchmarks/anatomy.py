"""Parts of a step: two layers and a master, with the microseconds of every part.

`python -m benchmarks anatomy --mnist FOLDER` writes results/anatomy.json. For each profile: the parts of a
step of every layer (`benchmarks.timing`), the CPU time of the process' other threads and of the master, and
the waiting according to the program's own metrics; from a further run, py-spy's samples. `--table` prints the
tables of docs/performance.md.
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

from benchmarks import records
from benchmarks.by_hand import Loopback, ManualCluster
from benchmarks.cluster import data_and_network
from benchmarks.links import COMMON
from benchmarks.profiler import sample
from benchmarks.slowing import cpu_seconds
from benchmarks.timing import EVENT, FOLDER, PARTS, STEP
from benchmarks.ways import NEVER, WARM
from common.errors import RunFailedError

RESULTS = Path(__file__).parent / "results" / "anatomy.json"
PROFILES = ("light", "basic")
LAYERS, LIMIT_SECONDS = 2, 600.0
SAMPLED_SECONDS = 10
# Number of functions in the table of py-spy's samples.
TABLE_FUNCTIONS = 12
# Threads of a layer's process besides its training thread, by name, with their work.
THREADS = {
    "sender": "sender: encodes h and delta",
    "network": "network: event loop, sends, receives, decodes",
    "grpc": "grpcio's own threads",
    "pusher": "pusher: sends pushes",
}

Row = dict[str, Any]


def measure(profile: str, settings: tuple[str, ...]) -> Row:
    """Measure a run of a profile.

    Raises:
        RunFailedError: the run did not reach its end.
    """
    own = _run_settings(profile, settings)
    own = _run_settings(profile, settings)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Slaves inherit the variable.
        os.environ[FOLDER] = name
        with ManualCluster(Loopback(), folder, own, LAYERS, slave="benchmarks.timing") as cluster:
            master = psutil.Process(cluster.master)
            _wait_for_files(folder, "began")
            before = cpu_seconds(master)
            _wait_for_files(folder, "json")
            used = cpu_seconds(master) - before
            cluster.wait_for_end()
            status = cluster.query("status")
        layers = {k: json.loads((folder / f"{k}.json").read_text(encoding="utf-8")) for k in _layers()}
    steps = layers["1"]["steps"]
    seats = {str(seat["layer"]): seat["telemetry"] for seat in status["seats"]}
    for k, layer in layers.items():
        telemetry = seats[k]
        layer["waiting"] = round(1e6 * telemetry["waiting_seconds"] / telemetry["steps"])
    return {"layers": layers, "master_microseconds": round(1e6 * used / steps)}


def profile_run(profile: str, settings: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Sample every layer's slave by py-spy in a run of a profile (`benchmarks.profiler`), then end the run.

    Raises:
        RunFailedError: the run did not reach its first steps, or ended while it was sampled.
    """
    endless = (*_run_settings(profile, settings), f"run.batches={NEVER}")
    network = Loopback()
    with (
        tempfile.TemporaryDirectory() as name,
        ManualCluster(network, Path(name), endless, LAYERS) as cluster,
    ):
        seats = cluster.wait_for_steps(WARM)["seats"]
        return sample({str(seat["layer"]): seat["pid"] for seat in seats}, SAMPLED_SECONDS)


def _run_settings(profile: str, settings: tuple[str, ...]) -> tuple[str, ...]:
    return (*settings, *COMMON[1:], f"network.layers={LAYERS}", f"cluster.profile={profile}")


def _layers() -> list[str]:
    return [str(k) for k in range(1, LAYERS + 1)]


def _wait_for_files(folder: Path, suffix: str) -> None:
    """Wait until every layer has written a file."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not all((folder / f"{k}.{suffix}").exists() for k in _layers()):
        if time.monotonic() > deadline:
            raise RunFailedError(
                f"not every slave has written its .{suffix} file within {LIMIT_SECONDS:g} s; "
                "run `layerwise train` with these settings to see why"
            )
        time.sleep(0.05)


def table(rows: Mapping[str, Row]) -> str:
    """Format the table of a step's microseconds: wall time (CPU time of the training thread)."""
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
    return records.markdown(heads, lines)


def functions(profiles: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Format the table of functions, with the percentage of time that a thread worked in each."""
    columns = [(profile, k) for profile in profiles for k in profiles[profile]]
    heads = ["% of the time", *(f"{profile}, layer {k}" for profile, k in columns)]
    each = [profiles[profile][k] for profile, k in columns]
    most: dict[str, float] = {}
    for column in each:
        most |= {name: max(percent, most.get(name, 0.0)) for name, percent in column.items()}
    names = sorted(most, key=lambda name: -most[name])[:TABLE_FUNCTIONS]
    lines = [[name, *(f"{column[name]:.1f}" if name in column else "-" for column in each)] for name in names]
    return records.markdown(heads, lines)


def _spent(part: list[int] | None) -> str:
    return "-" if part is None else f"{part[0]:,} ({part[1]:,})"


def _rest(layer: Row) -> str:
    parts = [spent for name, spent in layer["parts"].items() if name not in (STEP, EVENT)]
    whole = layer["parts"][STEP]
    return _spent([whole[clock] - sum(part[clock] for part in parts) for clock in (0, 1)])


def last_tables() -> str:
    """Format the tables of the last results.

    Raises:
        ConfigError: there are no results.
    """
    result = records.read(RESULTS)
    return f"{table(result['rows'])}\n\n{functions(result['functions'])}"


def main(arguments: list[str]) -> None:
    """Run every profile, print the tables and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks anatomy", description=__doc__)
    parser.add_argument(
        "--mnist", type=Path, help="folder of MNIST's files; without it, a small net on digits"
    )
    parser.add_argument("--batches", type=int, default=300, help="batches of a run")
    parser.add_argument("--table", action="store_true", help="print the tables of the last results")
    chosen = parser.parse_args(arguments)
    if chosen.table:
        print(last_tables())
        return
    network, batch_size = data_and_network(chosen.mnist, "mlp")
    settings = (*network, f"run.batch_size={batch_size}", f"run.batches={chosen.batches}")
    rows = {profile: measure(profile, settings) for profile in PROFILES}
    profiles = {profile: profile_run(profile, settings) for profile in PROFILES}
    result = {
        "machine": records.machine(),
        "settings": records.without_data_path(settings),
        "rows": rows,
        "spied_seconds": SAMPLED_SECONDS,
        "functions": profiles,
    }
    records.write(RESULTS, result)
    print(last_tables())
