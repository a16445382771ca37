"""What a slave counts beside its telemetry: plain numbers, put together when somebody looks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from common.observe import metrics
from common.observe.metrics import Histogram, Metric, Scrape
from common.observe.web import Page
from common.wire.messages import JoinReply, Telemetry


@dataclass
class Meter:
    """One lease's counters; each is added to by one thread."""

    step: Histogram = field(default_factory=lambda: Histogram(metrics.STEP_SECONDS))
    push: Histogram = field(default_factory=lambda: Histogram(metrics.PUSH_SECONDS))
    pull: Histogram = field(default_factory=lambda: Histogram(metrics.PULL_SECONDS))
    sent_bytes: int = 0
    received_bytes: int = 0
    lost_batches: int = 0
    _pushed: dict[str, float] = field(default_factory=dict)

    def lost(self, batches: int) -> None:
        """So many are lost now. One that was only overtaken comes after all, but a counter does not fall."""
        self.lost_batches = max(self.lost_batches, batches)

    def pushing(self, shard: str, nbytes: int) -> None:
        """A push is handed over."""
        self._pushed[shard] = time.perf_counter()
        self.sent_bytes += nbytes

    def pushed(self, shard: str) -> None:
        """It was answered."""
        began = self._pushed.pop(shard, None)
        if began is not None:
            self.push.observe(time.perf_counter() - began)

    def pulled(self, began: float, nbytes: int) -> None:
        """A version that was asked for at `began`, of `time.perf_counter`, is here."""
        self.pull.observe(time.perf_counter() - began)
        self.received_bytes += nbytes


@dataclass(frozen=True)
class Watched:
    """A lease that is being trained under, as far as a scrape needs it."""

    lease: JoinReply
    meter: Meter
    telemetry: Telemetry
    inbox: int


@dataclass
class Exposition:
    """The slave's /metrics: of its layer and its machine, while it has a lease.

    `watch` gives what there is to see of the present lease; None between two.
    """

    profile: str = ""
    batch_size: int = 0
    watch: Callable[[], Watched] | None = None

    def metrics(self) -> Page:
        """As Prometheus reads it."""
        scrape = Scrape(metrics.SLAVE, self.profile)
        watched = self.watch() if self.watch else None
        if watched:
            self._add_layer(scrape, watched)
        return Page(scrape.text(), metrics.CONTENT_TYPE)

    def _add_layer(self, scrape: Scrape, watched: Watched) -> None:
        meter, told = watched.meter, watched.telemetry
        values: list[tuple[Metric, float | Histogram]] = [
            (metrics.SAMPLES, told.steps * self.batch_size),
            (metrics.BATCHES, told.steps),
            (metrics.LOST_BATCHES, meter.lost_batches),
            (metrics.STEP_SECONDS, meter.step),
            (metrics.WAITING_SECONDS, told.waiting_seconds),
            (metrics.GRADIENT_DELAY, Histogram.of(metrics.GRADIENT_DELAY, told.delays)),
            (metrics.IN_FLIGHT, told.in_flight),
            (metrics.PUSH_SECONDS, meter.push),
            (metrics.PULL_SECONDS, meter.pull),
            (metrics.MAILBOX_DEPTH, watched.inbox),
        ]
        # A layer that has none of its own, or no M, says nothing rather than zero.
        means = [
            (metrics.LOSS, told.loss),
            (metrics.GRADIENT_LOSS, told.gradient_loss),
            (metrics.INPUT_LOSS, told.input_loss),
            (metrics.GRADIENT_COSINE, told.gradient_cosine),
        ]
        for metric, value in [*values, *((metric, mean) for metric, mean in means if mean)]:
            scrape.add(metric, value, watched.lease.layer, watched.lease.replica)
        scrape.add_process(told.utilization, watched.lease.layer, watched.lease.replica)
        scrape.add(metrics.RECEIVED_BYTES, meter.received_bytes)
        scrape.add(metrics.SENT_BYTES, meter.sent_bytes)
