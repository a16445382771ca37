"""Course of the run: a bounded number of moments over the whole run, for the live page's charts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from common.observe.percentiles import percentiles
from common.wire.messages import Evaluation, StatusReply
from master.web.layers import LayerMeter, Reading

CAPACITY = 600


@dataclass(frozen=True)
class Moment:
    """Values of the charts at a time of a monotonic clock; None without a measurement.

    `metric` is the run's first metric, or the test loss of a task without metrics, as evaluated at
    `metric_batches` batches. `layers` has the values of each layer by measure.
    """

    time: float
    batches: int
    samples_per_second: float
    metric: float | None
    metric_batches: int | None
    staleness_p50: int | None
    staleness_p99: int | None
    delay_p50: int | None
    delay_p99: int | None
    layers: Reading


# Columns of the whole run.
_COLUMNS = [field.name for field in fields(Moment) if field.name != "layers"]


class History:
    """Moments at even intervals; at capacity every second moment is dropped, and the interval doubles.

    Args:
        seconds: first interval.
        metrics: names of the run's metrics, the first for the chart.
        capacity: most moments, an even number.
    """

    def __init__(self, seconds: float, metrics: Sequence[str], capacity: int = CAPACITY) -> None:
        self._seconds = seconds
        self._metrics = metrics
        self._capacity = capacity
        self._moments: list[Moment] = []
        self._staleness: Counter[int] = Counter()
        self._delays: Counter[int] = Counter()
        self._meter = LayerMeter()

    def due(self, now: float) -> bool:
        """Whether the next moment is due, in seconds of a monotonic clock."""
        return not self._moments or now - self._moments[-1].time >= self._seconds

    def add(self, status: StatusReply, now: float) -> None:
        """Add a moment."""
        if len(self._moments) == self._capacity:
            # The newest stays: the next moment is due a new interval later.
            del self._moments[::2]
            self._seconds *= 2
        staleness, delays = Counter(status.counters.staleness), Counter(status.delays)
        stale, late = _since(self._staleness, staleness), _since(self._delays, delays)
        self._staleness, self._delays = staleness, delays
        self._moments.append(
            Moment(
                now,
                status.batches,
                throughput(status),
                self._metric(status.evaluation),
                status.evaluation.batches if status.evaluation.versions else None,
                stale.get("p50"),
                stale.get("p99"),
                late.get("p50"),
                late.get("p99"),
                self._meter.read(status, now),
            )
        )

    def _metric(self, evaluation: Evaluation) -> float | None:
        if not evaluation.versions:
            return None
        known = (evaluation.metrics[name] for name in self._metrics if name in evaluation.metrics)
        return next(known, evaluation.test_loss)

    def columns(self, epoch: float = 0.0) -> dict[str, list[Any]]:
        """Return all moments as columns, by field; `epoch` is the time of the clock's zero, in seconds."""
        columns = {name: [getattr(moment, name) for moment in self._moments] for name in _COLUMNS}
        return {**columns, "time": self._times(epoch)}

    def by_layer(self, measure: str, epoch: float = 0.0) -> dict[str, list[Any]]:
        """Return the times, and a measure's values at those times for each of the layers 1..K.

        Args:
            measure: a name of `master.web.layers.MEASURES`.
            epoch: time of the clock's zero, in seconds.
        """
        columns = zip(*(moment.layers[measure] for moment in self._moments), strict=True)
        return {
            "time": self._times(epoch),
            "layers": [[_short(value) for value in column] for column in columns],
        }

    def _times(self, epoch: float) -> list[float]:
        return [moment.time + epoch for moment in self._moments]


def _short(value: float) -> float | None:
    """Return a value with four digits, as a chart needs; None for NaN."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _since(before: Mapping[int, int], now: Counter[int]) -> dict[str, int]:
    """Percentiles of the counts since the last moment; empty without counts."""
    fresh = {value: often - before.get(value, 0) for value, often in now.items()}
    fresh = {value: often for value, often in fresh.items() if often > 0}
    return percentiles(fresh) if fresh else {}


def throughput(status: StatusReply) -> float:
    """Samples a second through the whole network: the rate of the slowest layer."""
    by_layer: Counter[int] = Counter()
    for seat in status.seats:
        # A departed slave trains no more, whatever its last telemetry.
        by_layer[seat.layer] += seat.telemetry.samples_per_second if seat.incarnation else 0.0  # type: ignore[assignment]
    return float(min(by_layer.values(), default=0.0))
