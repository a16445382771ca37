"""Counters of a slave beside the telemetry: plain numbers, turned into metrics by a scrape."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from common.observe import metrics
from common.observe.health import SHORTEST_SILENCE_SECONDS, Pulse, health_page
from common.observe.metrics import Histogram, Metric, Scrape
from common.observe.web import Page
from common.wire.messages import JoinReply, Telemetry


@dataclass
class Meter:
    """Counters of a lease; a counter has a single thread that adds."""

    step: Histogram = field(default_factory=lambda: Histogram(metrics.STEP_SECONDS))
    push: Histogram = field(default_factory=lambda: Histogram(metrics.PUSH_SECONDS))
    pull: Histogram = field(default_factory=lambda: Histogram(metrics.PULL_SECONDS))
    sent_bytes: int = 0
    received_bytes: int = 0
    lost_batches: int = 0
    # By layer of the sender.
    refusals: Counter[int] = field(default_factory=Counter)
    # Time of the last answer to a push, by shard.
    answered_at: dict[str, float] = field(default_factory=dict)
    _pushed: dict[str, float] = field(default_factory=dict)

    def lost(self, batches: int) -> None:
        """Raise the number of lost batches to `batches`.

        An overtaken batch comes later after all, but a counter never falls.
        """
        self.lost_batches = max(self.lost_batches, batches)

    def refused(self, layer: int) -> None:
        """Count a refused message of a neighbour, or of layer K that broadcasts."""
        self.refusals[layer] += 1

    def refused_around(self, layer: int) -> tuple[int, int]:
        """Return the numbers of refused messages from layers below, and from layers above."""
        below = sum(count for other, count in self.refusals.items() if other < layer)
        return below, self.refusals.total() - below

    def pushing(self, shard: str, nbytes: int) -> None:
        """Note the start of a push of `nbytes` bytes."""
        self._pushed[shard] = time.perf_counter()
        self.sent_bytes += nbytes

    def pushed(self, shard: str) -> None:
        """Note the answer to a push."""
        self.answered_at[shard] = now = time.perf_counter()
        began = self._pushed.pop(shard, None)
        if began is not None:
            self.push.observe(now - began)

    def pulled(self, began: float, nbytes: int) -> None:
        """Note a pulled version of `nbytes` bytes, begun at `began` by `time.perf_counter`."""
        self.pull.observe(time.perf_counter() - began)
        self.received_bytes += nbytes


@dataclass(frozen=True)
class Watched:
    """State of a lease for a scrape."""

    lease: JoinReply
    meter: Meter
    telemetry: Telemetry
    inbox: int


@dataclass
class Exposition:
    """Pages of a slave: /metrics (layer and machine, while the slave has a lease) and /healthz.

    Attributes:
        profile: of the run.
        batch_size: B.
        watch: returns the state of the present lease; None between two leases.
        silence_limit: silence of the master in seconds beyond which the slave is not healthy.
    """

    profile: str = ""
    batch_size: int = 0
    watch: Callable[[], Watched] | None = None
    silence_limit: float = SHORTEST_SILENCE_SECONDS
    _answered_at: float = field(default_factory=time.monotonic)

    def note_answer(self) -> None:
        """Note that the master has answered; from any thread."""
        self._answered_at = time.monotonic()

    def health(self) -> Page:
        """Render /healthz: the age of the master's last answer to a heartbeat or a request for a lease."""
        return health_page([Pulse("heartbeat", time.monotonic() - self._answered_at, self.silence_limit)])

    def metrics(self) -> Page:
        """Render the metrics in the text format of Prometheus."""
        scrape = Scrape(metrics.SLAVE, self.profile)
        watched = self.watch() if self.watch else None
        if watched:
            self._add_layer(scrape, watched)
        return Page(scrape.text(), metrics.CONTENT_TYPE)

    def _add_layer(self, scrape: Scrape, watched: Watched) -> None:
        meter, telemetry = watched.meter, watched.telemetry
        values: list[tuple[Metric, float | Histogram]] = [
            (metrics.SAMPLES, telemetry.steps * self.batch_size),
            (metrics.BATCHES, telemetry.steps),
            (metrics.LOST_BATCHES, meter.lost_batches),
            (metrics.LOST_STATES, telemetry.lost_states),
            (metrics.REFUSED_SIGNALS, meter.refusals.total()),
            (metrics.STEP_SECONDS, meter.step),
            (metrics.WAITING_SECONDS, telemetry.waiting_seconds),
            (metrics.GRADIENT_DELAY, Histogram.of(metrics.GRADIENT_DELAY, telemetry.delays)),
            (metrics.IN_FLIGHT, telemetry.in_flight),
            (metrics.PUSH_SECONDS, meter.push),
            (metrics.PUSH_STEPS, telemetry.push_steps),
            (metrics.PULL_SECONDS, meter.pull),
            (metrics.MAILBOX_DEPTH, watched.inbox),
        ]
        # A layer without a loss, or without M, has no series rather than zeros.
        means = [
            (metrics.LOSS, telemetry.loss),
            (metrics.OWN_LOSS, telemetry.own_loss),
            (metrics.GRADIENT_LOSS, telemetry.gradient_loss),
            (metrics.INPUT_LOSS, telemetry.input_loss),
            (metrics.GRADIENT_COSINE, telemetry.gradient_cosine),
            (metrics.TIME_LOSS, telemetry.time_loss),
            (metrics.TIME_COSINE, telemetry.time_cosine),
            (metrics.TIME_AUX_LOSS, telemetry.time_aux_loss),
        ]
        for metric, value in [*values, *((metric, mean) for metric, mean in means if mean)]:
            scrape.add(metric, value, watched.lease.layer, watched.lease.replica)
        scrape.add_process(telemetry.utilization, watched.lease.layer, watched.lease.replica)
        scrape.add(metrics.RECEIVED_BYTES, meter.received_bytes)
        scrape.add(metrics.SENT_BYTES, meter.sent_bytes)
