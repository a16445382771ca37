"""Declaration of every Prometheus metric, and the plain counters behind the metrics.

Training and serving only add to plain numbers. A scrape builds its series when it is requested, from the
state at that moment, so the series of a slave that has left disappear.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

from common.lifecycle import cpu_seconds
from common.wire.use import Utilization

PREFIX = "layerwise_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Staleness in pushes, delay in batches.
COUNT_BOUNDS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# A step of a small layer takes less than a millisecond, a push of a large shard a second.
SECONDS_BOUNDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)


@dataclass(frozen=True)
class Metric:
    """A family of series.

    Attributes:
        name: name without the prefix, with the unit and, for a counter, `_total`.
        kind: counter, gauge or histogram.
        where: kinds of the processes that expose the metric, with commas between.
        labels: labels of its series, besides `profile`, which every series has.
        help: one line.
        bounds: upper bounds of a histogram's buckets.
    """

    name: str
    kind: str
    where: str
    labels: tuple[str, ...]
    help: str
    bounds: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """Name with the prefix, as stored by Prometheus."""
        return PREFIX + self.name

    def is_of(self, kind: str) -> bool:
        """Whether a process of a kind exposes the metric."""
        return kind in self.where.split(", ")


_SEAT = ("layer", "replica")
# Number of a store from 1, at most common.config.cluster.MOST_STORES.
_STORE = ("store",)
MASTER, SLAVE, STORE = "master", "slave", "store"
BOTH, KEEPERS, ALL = "master, slave", "master, store", "master, store, slave"
DECLARED: list[Metric] = []


def _declare(kind: str, name: str, where: str, labels: tuple[str, ...], text: str, *bounds: float) -> Metric:
    metric = Metric(name, kind, where, labels, text, bounds)
    DECLARED.append(metric)
    return metric


def _counter(name: str, where: str, labels: tuple[str, ...], text: str) -> Metric:
    return _declare("counter", name, where, labels, text)


def _gauge(name: str, where: str, labels: tuple[str, ...], text: str) -> Metric:
    return _declare("gauge", name, where, labels, text)


def _seconds(name: str, where: str, labels: tuple[str, ...], text: str) -> Metric:
    return _declare("histogram", name, where, labels, text, *SECONDS_BOUNDS)


# --- the layers' training ---------------------------------------------------------------------------------
SAMPLES = _counter("samples_total", SLAVE, _SEAT, "Examples that the layer has stepped on.")
BATCHES = _counter("batches_total", SLAVE, _SEAT, "Batches that the layer has stepped on.")
LOST_BATCHES = _counter(
    "lost_batches_total", SLAVE, _SEAT, "Batches that never arrived, or whose gradient never did."
)
LOST_STATES = _counter(
    "states_lost_total", SLAVE, _SEAT,
    "Times that a stream of a recurrent layer went on from zeros, or from another window's state.",
)  # fmt: skip
STEP_SECONDS = _seconds("step_seconds", SLAVE, _SEAT, "Duration of one step of a layer, waiting included.")
WAITING_SECONDS = _counter(
    "waiting_seconds_total", SLAVE, _SEAT,
    "Time in which steps waited for serialization, sending, a push or a fetch.",
)  # fmt: skip
GRADIENT_DELAY = _declare(
    "histogram", "gradient_delay_batches", SLAVE, _SEAT,
    "Delay of a gradient: batches that layer k started between sending h_k(b) and receiving delta_k(b).",
    *COUNT_BOUNDS,
)  # fmt: skip
IN_FLIGHT = _gauge("in_flight_batches", SLAVE, _SEAT, "Batches sent upwards whose delta is still missing.")
LOSS = _gauge("loss", SLAVE, _SEAT, "Training loss per example, if the layer has a loss; a running mean.")
OWN_LOSS = _gauge(
    "own_loss", SLAVE, _SEAT,
    "Losses of the layer's units that have a loss of their own, per example; a running mean.",
)  # fmt: skip
GRADIENT_LOSS = _gauge("gradient_loss", SLAVE, _SEAT, "L_M, the loss of M per example; a running mean.")
INPUT_LOSS = _gauge("input_loss", SLAVE, _SEAT, "L_I, the loss of I per example; a running mean.")
GRADIENT_COSINE = _gauge(
    "gradient_cosine",
    SLAVE,
    _SEAT,
    "Cosine between M's gradient and the gradient from above; a running mean.",
)

TIME_LOSS = _gauge(
    "time_loss", SLAVE, _SEAT, "Loss of M in time, of a recurrent layer, per stream; a running mean."
)
TIME_COSINE = _gauge(
    "time_cosine",
    SLAVE,
    _SEAT,
    "Cosine between the gradient of M in time and the target of M in time; a running mean.",
)
TIME_AUX_LOSS = _gauge(
    "time_aux_loss",
    SLAVE,
    _SEAT,
    "Loss of the auxiliary head of M in time (time.aux), per stream; a running mean.",
)

# --- pushes and pulls -------------------------------------------------------------------------------------
PUSHES = _counter("pushes_total", MASTER, _SEAT, "Pushes applied.")
PULLS = _counter("pulls_total", MASTER, _SEAT, "Versions of shards sent to the slave.")
PUSH_STALENESS = _declare(
    "histogram", "push_staleness", MASTER, _SEAT,
    "Staleness of an applied push: pushes by others between the slave's fetch and its push.",
    *COUNT_BOUNDS,
)  # fmt: skip
STALENESS_BOUND = _gauge(
    "push_staleness_bound", MASTER, (), "Largest accepted staleness, if the run has a bound."
)
DUPLICATE_PUSHES = _counter(
    "duplicate_pushes_total", MASTER, _SEAT, "Repeated pushes, which changed nothing."
)
REFUSED_PUSHES = _counter("refused_pushes_total", MASTER, _SEAT, "Pushes refused as staler than the bound.")
FENCED_PUSHES = _counter("fenced_pushes_total", MASTER, (), "Pushes and calls of slaves without a lease.")
MALFORMED = _counter(
    "malformed_messages_total", MASTER, (), "Malformed messages, which were refused and changed nothing."
)
REFUSED = _counter("refused_total", KEEPERS, ("reason",), "Refused calls, by the status that the caller got.")
REFUSED_SIGNALS = _counter(
    "refused_boundary_messages_total",
    SLAVE,
    _SEAT,
    "Messages of neighbouring layers refused: malformed, of another shape, or with NaN or Inf.",
)
PUSH_SECONDS = _seconds("push_seconds", SLAVE, _SEAT, "Time from a push's hand-over to its answer.")
PUSH_STEPS = _gauge("push_interval_steps", SLAVE, _SEAT, "Steps between two pushes, downpour.n_push.")
PULL_SECONDS = _seconds("pull_seconds", SLAVE, _SEAT, "Time from a request for a shard to its arrival.")
JOURNAL_SECONDS = _seconds("journal_seconds", KEEPERS, (), "Time to make a push's commit record durable.")
SNAPSHOT_SECONDS = _seconds("snapshot_seconds", MASTER, (), "Time to take a snapshot.")
SHARD_VERSION = _gauge(
    "shard_version", MASTER, ("layer", "shard"), "Pushes applied to the shard: k/weights, k/gradient, ..."
)
RECEIVED_BYTES = _counter("received_bytes_total", BOTH, (), "Bytes of tensors and messages received.")
SENT_BYTES = _counter("sent_bytes_total", BOTH, (), "Bytes of tensors and messages sent.")
MAILBOX_DEPTH = _gauge(
    "mailbox_depth",
    BOTH,
    _SEAT,
    "Messages waiting for the slave: in the master's relay, or in its own inbox.",
)

# --- leases and the run -----------------------------------------------------------------------------------
LEASE_AGE = _gauge("lease_age_seconds", MASTER, _SEAT, "Time since the slave's last heartbeat.")
GRANTS = _counter(
    "leases_granted_total", MASTER, _SEAT, "Leases granted on the seat; above 1, replaced slaves."
)
FAILED_LEASES = _counter("leases_failed_total", MASTER, (), "Leases ended because the slave was silent.")
SEATS = _gauge("seats", MASTER, (), "Layers times replicas: the number of slaves that the run needs.")
VACANT_SEATS = _gauge("vacant_seats", MASTER, (), "Seats without a slave in an unfinished run.")
STANDING_SEATS = _gauge(
    "standing_seats", MASTER, (), "Seats that do no batch for long, although slaves hold them."
)
WAITING_SLAVES = _gauge("waiting_slaves", MASTER, (), "Slaves that wait for a seat.")
MISSING_SLAVES = _gauge(
    "missing_slaves", MASTER, (), "Slaves without which a change of the number of replicas does not begin."
)
LEVEL = _gauge(
    "level", MASTER, _SEAT, "Level of the layer's next batch, from 1, where examples become harder."
)
UNDECIDED = _gauge(
    "level_undecided", MASTER, _SEAT, "1 while the layer waits for the level of its next batch, else 0."
)
RUN_BATCHES = _gauge("run_batches", MASTER, (), "Batches trained so far.")
RUN_LENGTH = _gauge("run_length_batches", MASTER, (), "Batches of the whole run.")
TEST_ERROR = _gauge("test_error_ratio", MASTER, (), "Test error of the last evaluation, 0 to 1.")
TEST_LOSS = _gauge("test_loss", MASTER, (), "Test loss per example of the last evaluation.")
TEST_METRIC = _gauge(
    "test_metric", MASTER, ("metric",), "Metric of the task at the last evaluation: perplexity, mse, ..."
)
STORE_AGE = _gauge("store_report_age_seconds", MASTER, _STORE, "Time since the store's last report.")
STORE_BYTES = _gauge("store_bytes", MASTER, _STORE, "Bytes of the tensors of the store's shards.")
STORE_PUSHES = _counter(
    "store_pushes_total", MASTER, _STORE, "Pushes that the store has applied, as last reported."
)
STORE_CPU = _counter(
    "store_cpu_seconds_total", MASTER, _STORE, "CPU time of the store's process, as last reported."
)
STORE_DISK = _gauge(
    "store_disk_utilization_ratio",
    MASTER,
    _STORE,
    "Part of the disk of the store's directory in use, 0 to 1.",
)
STARTS = _counter("master_starts_total", MASTER, (), "Starts of a master on this state directory.")

# --- processes and machines -------------------------------------------------------------------------------
PROCESS_CPU = _counter("process_cpu_seconds_total", ALL, _SEAT, "CPU time of the process.")
PROCESS_UTILIZATION = _gauge(
    "process_utilization_ratio", ALL, _SEAT, "Processor time of the process per second; 1 is one core."
)
PROCESS_MEMORY = _gauge("process_resident_memory_bytes", ALL, _SEAT, "Resident memory of the process.")
CPU = _gauge("cpu_utilization_ratio", ALL, _SEAT, "Utilization of the machine's CPUs, 0 to 1.")
MEMORY = _gauge("memory_utilization_ratio", ALL, _SEAT, "Part of the machine's memory in use, 0 to 1.")
DISK = _gauge("disk_utilization_ratio", ALL, _SEAT, "Part of the process' disk in use, 0 to 1.")
GPU = _gauge("gpu_utilization_ratio", SLAVE, _SEAT, "Utilization of the slave's GPU, 0 to 1, if it has one.")
GPU_MEMORY = _gauge("gpu_memory_utilization_ratio", SLAVE, _SEAT, "Part of the GPU's memory in use, 0 to 1.")


class Histogram:
    """Counts of values between bounds, and the sum; safe for all threads.

    A value counts for the first bound that it does not exceed.
    """

    def __init__(self, metric: Metric) -> None:
        self._bounds = metric.bounds
        self._lock = threading.Lock()
        self._counts = [0] * (len(metric.bounds) + 1)
        self._sum = 0.0

    @classmethod
    def of(cls, metric: Metric, values: Mapping[int, int]) -> Self:
        """Build a histogram from counted values: value -> count."""
        histogram = cls(metric)
        for value, count in values.items():
            histogram._counts[bisect_left(histogram._bounds, value)] += count
            histogram._sum += value * count
        return histogram

    def observe(self, value: float) -> None:
        """Count a value."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def read(self) -> tuple[list[int], float]:
        """Return the number of values up to every bound, ending with the total number, and the sum."""
        with self._lock:
            return list(accumulate(self._counts)), self._sum


class Scrape:
    """The metrics of a process at a moment.

    Args:
        where: MASTER, SLAVE or STORE.
        profile: the run's profile.
    """

    def __init__(self, where: str, profile: str) -> None:
        self._where = where
        self._profile = profile
        self._families: dict[str, Any] = {}

    def add(self, metric: Metric, value: float | Histogram, *labels: object) -> None:
        """Add a series, with label values in the metric's order."""
        assert metric.is_of(self._where), metric.name
        assert len(labels) == len(metric.labels), metric.name
        values = [*map(str, labels), self._profile]
        family = self._families.get(metric.name) or self._add_family(metric)
        if isinstance(value, Histogram):
            counts, total = value.read()
            bounds = [*map(_bound, metric.bounds), "+Inf"]
            family.add_metric(values, list(zip(bounds, counts, strict=True)), total)
        else:
            family.add_metric(values, value)

    def add_process(self, used: Utilization, *labels: object) -> None:
        """Add the process' CPU time, and the last measured utilization of the process and the machine."""
        self.add(PROCESS_CPU, cpu_seconds(), *labels)
        self.add(PROCESS_MEMORY, used.rss_bytes, *labels)
        parts = [
            (PROCESS_UTILIZATION, used.cpu_percent),
            (CPU, used.host_cpu_percent),
            (MEMORY, used.memory_percent),
            (DISK, used.disk_percent),
            (GPU, used.gpu_percent),
            (GPU_MEMORY, used.gpu_memory_percent),
        ]
        for metric, percent in parts:
            if percent is not None:
                self.add(metric, percent / 100, *labels)

    def _add_family(self, metric: Metric) -> Any:
        from prometheus_client import core

        kinds = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        labels = [*metric.labels, "profile"]
        family = kinds[metric.kind](metric.full_name, metric.help, labels=labels)
        self._families[metric.name] = family
        return family

    def collect(self) -> Iterable[Any]:
        """Return the families; called by prometheus_client."""
        return self._families.values()

    def text(self) -> bytes:
        """Format the metrics in Prometheus' text format."""
        from prometheus_client import generate_latest

        text: bytes = generate_latest(self)
        return text


def _bound(bound: float) -> str:
    return f"{float(bound)}"


def sample_names(metric: Metric) -> Sequence[str]:
    """List the names of a metric's series."""
    if metric.kind == "histogram":
        return [f"{metric.full_name}_{part}" for part in ("bucket", "sum", "count")]
    return [metric.full_name]


_PAGE = """\
# Metrics

Generated from `common/observe/metrics.py` by `make dashboards`. Every series has the label `profile` besides
the labels below. `layer` is k, `replica` counts from 0, `shard` is `k/weights`, `k/gradient` or a similar
name, `metric` a name of the run's task, `store` a number from 1. Ratios are 0 to 1. Counters restart with
their process, except `layerwise_master_starts_total`. Bucket bounds of staleness and delay: {counts}; of
seconds: {seconds}.

| metric | kind | shown by | labels | meaning |
| --- | --- | --- | --- | --- |
{rows}
"""


def reference_page() -> str:
    """Render the reference page of all metrics in Markdown."""
    counts, seconds = (", ".join(f"{b:g}" for b in bounds) for bounds in (COUNT_BOUNDS, SECONDS_BOUNDS))
    rows = "\n".join(map(_row, DECLARED))
    return _PAGE.format(counts=counts, seconds=seconds, rows=rows)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.full_name}` | {metric.kind} | {metric.where} | {labels} | {metric.help} |"
