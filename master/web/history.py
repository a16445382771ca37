"""How the run went so far: a bounded number of moments, the whole run always among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from common.observe.percentiles import percentiles
from common.wire.messages import StatusReply

CAPACITY = 600


@dataclass(frozen=True)
class Moment:
    """What a chart shows at one time; None where there is nothing to say."""

    time: float
    batches: int
    samples_per_second: float
    test_error_percent: float | None
    staleness_p50: int | None
    staleness_p99: int | None
    delay_p50: int | None
    delay_p99: int | None


class History:
    """Moments at even times. When there are too many every second one goes, and the next come half as often.

    Args:
        seconds: between two moments at first.
        capacity: of moments, even.
    """

    def __init__(self, seconds: float, capacity: int = CAPACITY) -> None:
        self._seconds = seconds
        self._capacity = capacity
        self._moments: list[Moment] = []
        self._staleness: Counter[int] = Counter()
        self._delays: Counter[int] = Counter()

    def due(self, now: float) -> bool:
        """Whether the next moment has come."""
        return not self._moments or now - self._moments[-1].time >= self._seconds

    def add(self, status: StatusReply, now: float) -> None:
        """Keep this moment."""
        if len(self._moments) == self._capacity:
            # The newest stays: the next is due one new interval after it.
            del self._moments[::2]
            self._seconds *= 2
        staleness, delays = Counter(status.counters.staleness), Counter(status.delays)
        stale, late = _since(self._staleness, staleness), _since(self._delays, delays)
        self._staleness, self._delays = staleness, delays
        evaluated = bool(status.evaluation.versions)
        self._moments.append(
            Moment(
                now,
                status.batches,
                throughput(status),
                status.evaluation.test_error_percent if evaluated else None,
                stale.get("p50"),
                stale.get("p99"),
                late.get("p50"),
                late.get("p99"),
            )
        )

    def columns(self) -> dict[str, list[Any]]:
        """Every moment, a list for each of its fields."""
        rows = [asdict(moment) for moment in self._moments]
        return {field.name: [row[field.name] for row in rows] for field in fields(Moment)}


def _since(before: Mapping[int, int], now: Counter[int]) -> dict[str, int]:
    """Quantiles of what was counted since; nothing where nothing was."""
    fresh = {value: often - before.get(value, 0) for value, often in now.items()}
    fresh = {value: often for value, often in fresh.items() if often > 0}
    return percentiles(fresh) if fresh else {}


def throughput(status: StatusReply) -> float:
    """Samples a second that go through the whole network: those of its slowest layer."""
    by_layer: Counter[int] = Counter()
    for seat in status.seats:
        # A slave that has gone trains nothing, whatever it last said.
        by_layer[seat.layer] += seat.telemetry.samples_per_second if seat.incarnation else 0.0  # type: ignore[assignment]
    return float(min(by_layer.values(), default=0.0))
