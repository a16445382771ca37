"""Fuzzes real masters and slaves: `python -m tests.faults.fuzz --frames 1000000 --json`.

Mutated frames and calls go to every port, before and after authentication, in the clear and over TLS. A
defect is a process that ends, a traceback, a status that nobody raises on purpose, a connection that is not
ended, a state that a stranger changed, or threads, files or memory that grow; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.errors import LayerwiseError
from tests.faults.fuzz.cluster import Cluster, Counts
from tests.faults.fuzz.ways import Ways
from tests.integration.processes import until

# Clusters by name: settings, certificates, and the share of the frames.
CLUSTERS: dict[str, tuple[tuple[str, ...], bool, float]] = {
    "basic": (("cluster.profile=basic",), False, 0.4),
    "light, served synthesis": (("cluster.profile=light", "cluster.synthesis=master"), False, 0.2),
    "basic, TLS": (("cluster.profile=basic",), True, 0.4),
}
# Part of the frames after which caches are full and the allocator has settled.
WARM = 0.3
# Growth from then on: what grows with frames or connections grows far beyond this.
MOST = {"threads": 3, "files": 4, "mib": 24}
# A process whose port is closed ends within so long.
END_SECONDS = 10.0
# Connections and calls of the past end within so long.
SETTLE_SECONDS = 40.0
# A process may say so much of a frame: lines are for what happens rarely.
LOG_BYTES_PER_FRAME = 20


def fuzz(name: str, frames: int, seed: int) -> dict[str, Any]:
    """Fuzz one cluster; returns what was seen."""
    settings, tls, _ = CLUSTERS[name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), settings, tls=tls) as cluster:
        ways, sent = Ways(cluster, seed), 0
        idle = cluster.counts()
        first = time.monotonic()
        sent = play(cluster, ways, sent, int(WARM * frames))
        seconds = time.monotonic() - first
        warm = settled(cluster, idle)
        first = time.monotonic()
        sent = play(cluster, ways, sent, frames)
        seconds += time.monotonic() - first
        last = settled(cluster, warm)
        wrong = [*cluster.defects(), *ways.wrong(), *growth(warm, last, sent)]
        refused = 0 if cluster.has_ended() else cluster.status().seats[1].telemetry.refused_from_below
    return {
        "frames": sent,
        "seconds": round(time.monotonic() - began, 1),
        "frames_per_second": round(sent / seconds),
        "ways": {
            way: {
                "frames": tally.frames,
                "seconds": round(tally.seconds, 1),
                "statuses": dict(tally.statuses.most_common()),
            }
            for way, tally in sorted(ways.tallies.items())
        },
        "refused_by_the_slave": refused,
        "counts": {"idle": idle, "warm": warm, "last": last},
        "wrong": wrong,
    }


def play(cluster: Cluster, ways: Ways, sent: int, frames: int) -> int:
    """Send frames up to a number, or to the end of a process; returns how many have been sent."""
    while sent < frames and not cluster.has_ended():
        try:
            sent += ways.offer()
        except LayerwiseError:
            # A process that ends closes its port first.
            with suppress(AssertionError):
                until(cluster.has_ended, END_SECONDS)
            if not cluster.has_ended():
                raise
    return sent


def settled(cluster: Cluster, before: Counts) -> Counts:
    """Wait for the ends of connections, and return the counts; at once where a process has ended."""

    def calm() -> bool:
        return bool(cluster.defects()) or not growth(before, cluster.counts(), 1 << 60, ("threads", "files"))

    with suppress(AssertionError):
        until(calm, SETTLE_SECONDS)
    return cluster.counts()


def growth(before: Counts, after: Counts, frames: int, what: tuple[str, ...] = tuple(MOST)) -> list[str]:
    """Return what has grown."""
    wrong = [
        f"{kind}: {each} have grown from {before[kind][each]} to {after[kind][each]}"
        for kind in after
        for each in what
        if kind in before and after[kind][each] > before[kind][each] + MOST[each]
    ]
    for kind in after.keys() & before.keys():
        if after[kind]["log"] - before[kind]["log"] > LOG_BYTES_PER_FRAME * frames + (64 << 10):
            wrong.append(f"{kind}: has written {after[kind]['log']} bytes about {frames} frames")
    return wrong


def run(frames: int, seed: int) -> dict[str, Any]:
    """Fuzz every cluster in turn, and sum up."""
    found = {}
    for name, (_, _, share) in CLUSTERS.items():
        found[name] = fuzz(name, int(share * frames), seed)
        print(f"{name}: {found[name]['frames']} frames", file=sys.stderr, flush=True)
    return {
        "frames": sum(each["frames"] for each in found.values()),
        "seconds": round(sum(each["seconds"] for each in found.values()), 1),
        "seed": seed,
        "wrong": [f"{name}: {what}" for name, each in found.items() for what in each["wrong"]],
        "clusters": found,
    }


def main() -> int:
    """Run the command; exit code 1 for a defect."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000, help="number of frames and calls")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations")
    parser.add_argument("--only", choices=CLUSTERS, help="fuzz this cluster alone")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON alone")
    arguments = parser.parse_args()
    if arguments.only:
        summary = fuzz(arguments.only, arguments.frames, arguments.seed)
    else:
        summary = run(arguments.frames, arguments.seed)
    print(json.dumps(summary, indent=None if arguments.json else 1))
    return 1 if summary["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
