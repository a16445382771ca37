"""Simulates runs of many seeds and sums up: `python -m tests.faults.simulated --seeds 20000 --first 0`."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable

from tests.faults.simulated.oracle import PROMISES
from tests.faults.simulated.world import Outcome, simulate

# Seeds between two lines of progress.
PROGRESS = 500
# Failing seeds whose details are shown.
SHOWN = 20


def run_seeds(seeds: Iterable[int], processes: int = 2) -> list[Outcome]:
    """Simulate seeds in several processes, in the order of the seeds; progress goes to standard error."""
    context = multiprocessing.get_context("spawn")
    outcomes: list[Outcome] = []
    with context.Pool(processes) as pool:
        for outcome in pool.imap(simulate, seeds, chunksize=8):
            outcomes.append(outcome)
            if outcome.violations:
                print(f"seed {outcome.seed}: {outcome.details[0]}", file=sys.stderr, flush=True)
            if not len(outcomes) % PROGRESS:
                print(f"{len(outcomes)} seeds", file=sys.stderr, flush=True)
    return outcomes


def summarize(outcomes: list[Outcome], seconds: float) -> dict[str, object]:
    """Sum the outcomes up, with every failing seed."""
    broken: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        broken.update(outcome.violations)
        counts.update(outcome.counts)
    failing = [outcome for outcome in outcomes if outcome.violations]
    return {
        "seeds": len(outcomes),
        "seconds": round(seconds, 1),
        "promises": {promise: broken[promise] for promise in PROMISES},
        "counts": dict(counts),
        "failing": [outcome.seed for outcome in failing],
        "details": {outcome.seed: outcome.details[:3] for outcome in failing[:SHOWN]},
    }


def main() -> int:
    """Run the command; exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.simulated", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="number of seeds")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--processes", type=int, default=2, help="processes at a time")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON alone")
    parser.add_argument("--log", action="store_true", help="print every event of the first seed, and no more")
    arguments = parser.parse_args()
    if arguments.log:
        log: list[str] = []
        outcome = simulate(arguments.first, log)
        print(*log, *outcome.details, outcome.digest, sep="\n")
        return 0
    began = time.monotonic()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    summary = summarize(run_seeds(seeds, arguments.processes), time.monotonic() - began)
    if arguments.json:
        print(json.dumps(summary))
    else:
        for name, value in summary.items():
            print(f"{name}: {value}")
    return 1 if summary["failing"] else 0


if __name__ == "__main__":
    sys.exit(main())
