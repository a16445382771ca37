"""What being watched costs a step: what the training thread adds, and a scrape on another thread."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common.wire.messages import JoinReply, Telemetry
from slave.network.meter import Exposition, Meter, Watched

RESULTS = Path(__file__).parent / "results" / "metrics.json"
ROUNDS = 20_000
SCRAPES = 100
SCRAPE_SECONDS = 5.0
# Of the digits' smallest layer on an idle core: the shortest step that there is.
STEP_SECONDS = 0.5e-3


def took(work: Callable[[], object], rounds: int) -> float:
    """Seconds a round, the best of five."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(rounds):
            work()
        best = min(best, (time.perf_counter() - began) / rounds)
    return best


def main() -> None:
    """Print both, and what part of a step they are."""
    meter = Meter()

    def step() -> None:
        meter.step.observe(0.001)
        meter.sent_bytes += 1000
        meter.received_bytes += 1000

    delays = dict(Counter(range(12)))
    watched = Watched(JoinReply(True, layer=1), meter, Telemetry(steps=1000, delays=delays), 0)
    exposition = Exposition("light", 64, lambda: watched)
    counting, scraping = took(step, ROUNDS), took(exposition.metrics, SCRAPES)
    found = {
        "counting_seconds": counting,
        "part_of_a_step": counting / STEP_SECONDS,
        "scrape_seconds": scraping,
        "part_of_the_time": scraping / SCRAPE_SECONDS,
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"counting: {1e6 * counting:.2f} us, {100 * found['part_of_a_step']:.2f} % of the shortest step")
    print(f"a scrape: {1e3 * scraping:.2f} ms, {100 * found['part_of_the_time']:.2f} % of the time")
