"""Whether memory stays flat: a cluster at full speed, and what every process of it holds, second by second.

`python -m benchmarks soak [--minutes 10]` writes results/soak.json. In each profile `train` runs digits, the
first layer with two replicas, and is interrupted when the time is over. A process' slope is the least-squares
one of its resident memory after the first minute (of a short soak: third).
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

RESULT = Path(__file__).parent / "results" / "soak.json"
PROFILES = ("light", "basic")
MINUTES, SAMPLE_SECONDS, WARM_SECONDS = 10.0, 1.0, 60.0
# Far more batches than any soak comes to; snapshots as often as a run takes them.
SETTINGS = (
    "run.batches=100000000", "run.evaluate_every=2000", "downpour.replicas=[2, 1, 1]", "cluster.misses=20",
)  # fmt: skip
MIB = 1 << 20

# Of each process: seconds since the start, and bytes.
Samples = dict[str, list[tuple[float, int]]]


def soak(seconds: float, settings: Sequence[str], folder: Path) -> dict[str, Any]:
    """Train for so long; the slope of every process, MiB a minute, and how far the run came."""
    sets = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    command = [sys.executable, "-m", "deploy.cli", "train", *sets, "--run-dir", str(folder / "run")]
    with (folder / "said").open("w") as said:
        train = subprocess.Popen(
            command, stdout=said, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        try:
            samples = _sampled(train, seconds)
        finally:
            train.send_signal(signal.SIGINT)
            code = train.wait(60)
    if code != 130 or not samples:
        raise SystemExit(f"soak: train ended with {code}: {(folder / 'said').read_text()[-2000:]}")
    return {"seconds": seconds, **_reached(folder / "run"), "processes": _slopes(samples, seconds)}


def _sampled(train: subprocess.Popen[bytes], seconds: float) -> Samples:
    samples: Samples = defaultdict(list)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds and train.poll() is None:
        try:
            for process in [psutil.Process(train.pid), *psutil.Process(train.pid).children()]:
                words = process.cmdline()[3:4]
                name = f"{words[0] if words else 'starting'} {process.pid}"
                samples[name].append((passed, process.memory_info().rss))
        except psutil.NoSuchProcess:
            pass
        time.sleep(SAMPLE_SECONDS)
    return samples


def _slopes(samples: Samples, seconds: float) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    warm = min(WARM_SECONDS, seconds / 3)
    for name, each in samples.items():
        after = np.array([(when, held / MIB) for when, held in each if when > warm])
        # One that was not there to the end, as a data loader's own process, has no slope.
        if len(after) < 2 or after[-1, 0] < seconds - 5 * SAMPLE_SECONDS:
            continue
        slope = np.polyfit(after[:, 0] / 60, after[:, 1], 1)[0]
        kind = name.split()[0]
        number = sum(other.startswith(kind) for other in found) + 1
        found[f"{kind} {number}"] = {
            "mib_per_minute": round(float(slope), 3),
            "mib_at_first": round(float(after[0, 1]), 1),
            "mib_at_last": round(float(after[-1, 1]), 1),
        }
    return found


def _reached(run: Path) -> dict[str, Any]:
    """How far it came: batches, evaluations, events of the roster."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    events = [json.loads(line)["event"] for line in (run / "state" / "events.jsonl").read_text().splitlines()]
    steps = max((line.get("next_batch", 0) for line in lines), default=0)
    return {"batches": steps, "failed": events.count("failed")}


@click.command()
@click.option("--minutes", default=MINUTES, show_default=True, help="Of each profile.")
def command(minutes: float) -> None:
    """Soak in each profile, print and write down."""
    found = {}
    for profile in PROFILES:
        with tempfile.TemporaryDirectory() as folder:
            found[profile] = soak(60 * minutes, [f"cluster.profile={profile}"], Path(folder))
        print(profile, json.dumps(found[profile], indent=1), flush=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    RESULT.write_text(json.dumps({"machine": machine, "profiles": found}, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] = ()) -> None:
    """Run the command."""
    command.main(list(arguments), standalone_mode=False)
