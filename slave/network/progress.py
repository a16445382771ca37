"""Progress of one lease: seconds, counts and telemetry, for heartbeats and for scrapes."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.lifecycle import cpu_seconds, peak_rss_bytes
from common.observe.utilization import Probe
from common.wire.curriculum import Score
from common.wire.messages import JoinReply, Telemetry
from common.wire.stages import Promise
from common.wire.use import Utilization
from slave.network.meter import Meter
from slave.training.trained import TrainedLayer

log = logging.getLogger("layerwise.slave")

# Between two measurements of the telemetry.
TELEMETRY_SECONDS = 0.1


class Progress:
    """Telemetry of one lease, measured by the training thread; reads are thread-safe.

    Args:
        lease: granted by the master.
        meter: of the lease.
        batch_size: B.
        cpu_before: CPU seconds of this process under earlier leases.
        gpu: UUID of the GPU of the layer, if any.

    Attributes:
        waiting_seconds: part of the steps in which the trainer stood still.
        waits: the training thread waits for an event.
        pulls: number of versions fetched at the start.
        telemetry: the last measurement.
        scores: of layer K, of the last measurement.
        promise: answer to the master's question.
    """

    def __init__(
        self, lease: JoinReply, meter: Meter, batch_size: int, cpu_before: float, gpu: str | None
    ) -> None:
        self.waiting_seconds = 0.0
        self.waits = False
        self.pulls = 0
        self.telemetry = Telemetry(next_batch=lease.next_batch)
        self.scores: list[Score] = []
        self.promise = Promise()
        self._layer = lease.layer
        self._meter = meter
        self._batch_size = batch_size
        self._cpu_before = cpu_before
        self._probe = Probe(Path(), gpu)
        self._utilization = Utilization()
        self._step_seconds = 0.0
        self._measured_at = time.perf_counter()
        self._beat_at = (time.perf_counter(), 0)

    @property
    def measurement_due(self) -> bool:
        """Whether the telemetry has grown old."""
        return time.perf_counter() - self._measured_at > TELEMETRY_SECONDS

    def add(self, seconds: float, waited: float, *, stepped: bool) -> None:
        """Count the seconds of an event or advance, `waited` of them without computing."""
        self._step_seconds += seconds
        self.waiting_seconds += waited
        if stepped:
            self._meter.step.observe(seconds)

    def measure(self, trained: TrainedLayer, pulls: int, *, done: bool) -> None:
        """Bring the telemetry up to date; `pulls` counts the versions since the first."""
        if trained.health.fallback != self.telemetry.fallback:
            self._log_fallback(trained)
        self._measured_at = time.perf_counter()
        telemetry = trained.telemetry()
        self._meter.lost(telemetry.lost_batches)
        self.scores = trained.scores.report() if trained.scores else []
        self.telemetry = replace(
            telemetry,
            step_seconds=self._step_seconds,
            waiting_seconds=self.waiting_seconds,
            done=done,
            pulls=self.pulls + pulls,
        )

    def _log_fallback(self, trained: TrainedLayer) -> None:
        health = trained.health
        change = (
            "M's cosine is too low: waiting for true gradients"
            if health.fallback
            else "M's cosine is high enough again: going on with M's gradients"
        )
        log.warning("layer %d: %s (mean cosine %.2f)", self._layer, change, health.gradient_cosine)

    def now(self) -> Telemetry:
        """Return the telemetry, with the use of the machine at the last heartbeat."""
        return replace(self.telemetry, utilization=self._utilization, **self._counts())

    def _counts(self) -> dict[str, Any]:
        meter = self._meter
        below, above = meter.refused_around(self._layer)
        return {
            "refused_from_below": below,
            "refused_from_above": above,
            "sent_bytes": meter.sent_bytes,
            "received_bytes": meter.received_bytes,
        }

    def beat(self) -> Telemetry:
        """Return the telemetry for a heartbeat, with the resources used by the process."""
        now, telemetry = time.perf_counter(), self.telemetry
        then, steps = self._beat_at
        self._beat_at = (now, telemetry.steps)
        self._utilization = self._probe()
        return replace(
            telemetry,
            samples_per_second=(telemetry.steps - steps) * self._batch_size / (now - then),
            cpu_seconds=cpu_seconds() - self._cpu_before,
            peak_rss_bytes=peak_rss_bytes(),
            utilization=self._utilization,
            waits=self.waits,
            **self._counts(),
        )
