"""Cost of observation: the training thread's counting in every step, and a scrape on a second thread."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common import strict_json
from common.wire.messages import JoinReply, Telemetry
from slave.network.meter import Exposition, Meter, Watched

RESULTS = Path(__file__).parent / "results" / "metrics.json"
ROUNDS = 20_000
SCRAPES = 100
SCRAPE_SECONDS = 5.0
# The shortest step: of the smallest layer for the digits, on an idle core.
STEP_SECONDS = 0.5e-3


def seconds_per_call(work: Callable[[], object], rounds: int) -> float:
    """Measure the mean seconds of a call over `rounds` calls, the best of five times."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(rounds):
            work()
        best = min(best, (time.perf_counter() - began) / rounds)
    return best


def main() -> None:
    """Print and write the two costs, and the share of a step and of the time."""
    meter = Meter()

    def step() -> None:
        meter.step.observe(0.001)
        meter.sent_bytes += 1000
        meter.received_bytes += 1000

    delays = dict(Counter(range(12)))
    watched = Watched(JoinReply(True, layer=1), meter, Telemetry(steps=1000, delays=delays), 0)
    exposition = Exposition("light", 64, lambda: watched)
    counting = seconds_per_call(step, ROUNDS)
    scraping = seconds_per_call(exposition.metrics, SCRAPES)
    result = {
        "counting_seconds": counting,
        "part_of_a_step": counting / STEP_SECONDS,
        "scrape_seconds": scraping,
        "part_of_the_time": scraping / SCRAPE_SECONDS,
    }
    RESULTS.write_text(strict_json.encode(result, indent=2) + "\n", encoding="utf-8")
    print(f"counting: {1e6 * counting:.2f} us, {100 * result['part_of_a_step']:.2f} % of the shortest step")
    print(f"a scrape: {1e3 * scraping:.2f} ms, {100 * result['part_of_the_time']:.2f} % of the time")
