"""Growth of memory: a cluster at full speed, with every process' memory sampled every second.

`python -m benchmarks soak [--minutes 10]` writes results/soak.json. In each profile `train` learns the
digits, with two replicas of the first layer, and is interrupted when the time is over. A process' slope is
the least-squares slope of its resident memory after ten minutes, or after half of a shorter soak.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil

from common import strict_json
from common.cores import count_cores

RESULT = Path(__file__).parent / "results" / "soak.json"
PROFILES = ("light", "basic")
MINUTES, SAMPLE_SECONDS = 10.0, 1.0
# Caches and pools fill for so long, and `train` loads what evaluates; at most the share of a soak.
WARM_SECONDS, WARM_SHARE = 600.0, 0.5
# More batches than any soak reaches; snapshots at a run's usual interval.
SETTINGS = (
    "run.batches=100000000", "run.evaluate_every=2000", "downpour.replicas=[2, 1, 1]", "cluster.misses=20",
)  # fmt: skip
MIB = 1 << 20

# For each process: seconds since the start, and resident bytes.
Samples = dict[str, list[tuple[float, int]]]


def soak(seconds: float, settings: Sequence[str], folder: Path) -> dict[str, Any]:
    """Train for `seconds`; return every process' slope in MiB a minute, and the run's progress."""
    sets = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    command = [sys.executable, "-P", "-m", "deploy.cli", "train", *sets, "--run-dir", str(folder / "run")]
    with (folder / "log").open("w") as log:
        train = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            samples = _sample(train, seconds)
        finally:
            train.send_signal(signal.SIGINT)
            code = train.wait(60)
    if code != 130 or not samples:
        raise SystemExit(f"soak: train ended with {code}: {(folder / 'log').read_text()[-2000:]}")
    return {"seconds": seconds, **_progress(folder / "run"), "processes": _slopes(samples, seconds)}


def _sample(train: subprocess.Popen[bytes], seconds: float) -> Samples:
    samples: Samples = defaultdict(list)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds and train.poll() is None:
        try:
            for process in [psutil.Process(train.pid), *psutil.Process(train.pid).children()]:
                words = process.cmdline()[4:5]
                name = f"{words[0] if words else 'starting'} {process.pid}"
                samples[name].append((passed, process.memory_info().rss))
        except psutil.NoSuchProcess:
            pass
        time.sleep(SAMPLE_SECONDS)
    return samples


def _slopes(samples: Samples, seconds: float) -> dict[str, dict[str, float]]:
    slopes: dict[str, dict[str, float]] = {}
    warm = min(WARM_SECONDS, WARM_SHARE * seconds)
    for name, each in samples.items():
        after = np.array([(when, nbytes / MIB) for when, nbytes in each if when > warm])
        # Processes that ended early, such as a helper that loads data, have no slope.
        if len(after) < 2 or after[-1, 0] < seconds - 5 * SAMPLE_SECONDS:
            continue
        slope = np.polyfit(after[:, 0] / 60, after[:, 1], 1)[0]
        kind = name.split()[0]
        number = sum(other.startswith(kind) for other in slopes) + 1
        slopes[f"{kind} {number}"] = {
            "mib_per_minute": round(float(slope), 3),
            "mib_at_first": round(float(after[0, 1]), 1),
            "mib_at_last": round(float(after[-1, 1]), 1),
        }
    return slopes


def _progress(run: Path) -> dict[str, Any]:
    """Return the number of trained batches, and the number of failed slaves."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    events = [json.loads(line)["event"] for line in (run / "state" / "events.jsonl").read_text().splitlines()]
    steps = max((line.get("next_batch", 0) for line in lines), default=0)
    return {"batches": steps, "failed": events.count("failed")}


@click.command()
@click.option("--minutes", default=MINUTES, show_default=True, help="Minutes in each profile.")
def command(minutes: float) -> None:
    """Soak in every profile, print and write the results."""
    results = {}
    for profile in PROFILES:
        with tempfile.TemporaryDirectory() as folder:
            results[profile] = soak(60 * minutes, [f"cluster.profile={profile}"], Path(folder))
        print(profile, strict_json.encode(results[profile], indent=1), flush=True)
    machine = {"cores": count_cores(), "python": platform.python_version()}
    content = strict_json.encode({"machine": machine, "profiles": results}, indent=1)
    RESULT.write_text(content + "\n", encoding="utf-8")


def main(arguments: Sequence[str] = ()) -> None:
    """Run the command."""
    command.main(list(arguments), standalone_mode=False)
