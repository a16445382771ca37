"""Measures of each layer over the time since the last look, for the live page's charts on demand."""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

from common.observe.percentiles import percentiles
from common.wire.messages import StatusReply, Telemetry

Reading = Mapping[str, "array[float]"]
_Pair = tuple[Telemetry, Telemetry]


class LayerMeter:
    """Reads the measures of every layer from two statuses; NaN where there is none.

    A slave's counters count from the last look, or from the slave's first look.
    """

    def __init__(self) -> None:
        self._before: dict[int, Telemetry] = {}
        self._looked_at = math.nan

    def read(self, status: StatusReply, now: float) -> Reading:
        """Return the values of the layers 1..K by measure; `now` is in seconds of a monotonic clock."""
        layers: dict[int, list[_Pair]] = defaultdict(list)
        present: dict[int, Telemetry] = {}
        for seat in status.seats:
            pairs = layers[seat.layer]
            if seat.incarnation:
                present[seat.incarnation] = seat.telemetry
                pairs.append((self._before.get(seat.incarnation, seat.telemetry), seat.telemetry))
        seconds = now - self._looked_at
        self._before, self._looked_at = present, now
        return {
            name: array("f", [measure(layers[layer], seconds) for layer in sorted(layers)])
            for name, measure in MEASURES.items()
        }


def _mean(values: Iterable[float | None]) -> float:
    """Return the mean over slaves; a telemetry's 0 says that nothing has been measured."""
    known = [value for value in values if value]
    return fmean(known) if known else math.nan


def _gauge(name: str) -> Callable[[list[_Pair], float], float]:
    return lambda pairs, _: _mean(getattr(now, name) for _, now in pairs)


def _used(name: str) -> Callable[[list[_Pair], float], float]:
    return lambda pairs, _: _mean(getattr(now.utilization, name) for _, now in pairs)


def _rate(name: str) -> Callable[[list[_Pair], float], float]:
    def measure(pairs: list[_Pair], seconds: float) -> float:
        grown: int = sum(getattr(now, name) - getattr(before, name) for before, now in pairs)
        return grown / seconds

    return lambda pairs, seconds: measure(pairs, seconds) if pairs else math.nan


def _samples(pairs: list[_Pair], _: float) -> float:
    return sum(now.samples_per_second for _, now in pairs) if pairs else math.nan


def _waiting(pairs: list[_Pair], _: float) -> float:
    """Compute the percentage of the steps' time in which a step stood still."""
    seconds = sum(now.step_seconds - before.step_seconds for before, now in pairs)
    waited = sum(now.waiting_seconds - before.waiting_seconds for before, now in pairs)
    return 100 * waited / seconds if seconds > 0 else math.nan


def _delay(pairs: list[_Pair], _: float) -> float:
    fresh: Counter[int] = Counter()
    for before, now in pairs:
        fresh.update({delay: n - before.delays.get(delay, 0) for delay, n in now.delays.items()})
    known = {delay: n for delay, n in fresh.items() if n > 0}
    return percentiles(known)["p50"] if known else math.nan


# By name: a function of each slave's telemetry at the last look and now, and the seconds between.
MEASURES: dict[str, Callable[[list[_Pair], float], float]] = {
    "loss": _gauge("loss"),
    "own_loss": _gauge("own_loss"),
    "gradient_cosine": _gauge("gradient_cosine"),
    "time_cosine": _gauge("time_cosine"),
    "samples_per_second": _samples,
    "waiting_percent": _waiting,
    "cpu_percent": _used("cpu_percent"),
    "gpu_percent": _used("gpu_percent"),
    "sent_bytes_per_second": _rate("sent_bytes"),
    "received_bytes_per_second": _rate("received_bytes"),
    "delay": _delay,
}
