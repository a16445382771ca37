"""Every Prometheus metric, declared once, and the plain counters that stand behind them.

Who trains or serves adds to plain numbers. What a scrape shows is put together when it is asked for, from
what there is at that moment: the series of a slave that has gone are not there any more.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

from common.lifecycle import cpu_seconds
from common.wire.messages import Utilization

PREFIX = "layerwise_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Staleness in pushes, delay in batches.
COUNT_BOUNDS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# A step of a small layer takes less than a millisecond, a push of a large shard a second.
SECONDS_BOUNDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)


@dataclass(frozen=True)
class Metric:
    """One family of series.

    Attributes:
        name: without the prefix; its unit, and `_total` for a counter, are in it.
        kind: counter, gauge or histogram.
        where: which processes show it: master, slave or both.
        labels: what tells its series apart, `profile` aside, which all have.
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
        """As Prometheus knows it."""
        return PREFIX + self.name


_SEAT = ("layer", "replica")
MASTER, SLAVE, BOTH = "master", "slave", "both"
DECLARED: list[Metric] = []


def _declared(kind: str, name: str, where: str, labels: tuple[str, ...], text: str, *bounds: float) -> Metric:
    metric = Metric(name, kind, where, labels, text, bounds)
    DECLARED.append(metric)
    return metric


def _counter(name: str, where: str, labels: tuple[str, ...], text: str) -> Metric:
    return _declared("counter", name, where, labels, text)


def _gauge(name: str, where: str, labels: tuple[str, ...], text: str) -> Metric:
    return _declared("gauge", name, where, labels, text)


def _seconds(name: str, where: str, labels: tuple[str, ...], text: str) -> Metric:
    return _declared("histogram", name, where, labels, text, *SECONDS_BOUNDS)


# --- the layers' training ---------------------------------------------------------------------------------
SAMPLES = _counter("samples_total", SLAVE, _SEAT, "Examples that the layer has stepped on.")
BATCHES = _counter("batches_total", SLAVE, _SEAT, "Batches that the layer has stepped on.")
LOST_BATCHES = _counter(
    "lost_batches_total", SLAVE, _SEAT, "Batches that never came, and those whose gradient never did."
)
STEP_SECONDS = _seconds("step_seconds", SLAVE, _SEAT, "One step of a layer, waiting included.")
WAITING_SECONDS = _counter(
    "waiting_seconds_total", SLAVE, _SEAT,
    "Time in which steps stood still for serializing, sending, a push or a fetch.",
)  # fmt: skip
GRADIENT_DELAY = _declared(
    "histogram", "gradient_delay_batches", SLAVE, _SEAT,
    "Delay of a gradient: batches that layer k started between sending h_k(b) and getting delta_k(b).",
    *COUNT_BOUNDS,
)  # fmt: skip
IN_FLIGHT = _gauge("in_flight_batches", SLAVE, _SEAT, "Batches that are out without their delta.")
LOSS = _gauge("loss", SLAVE, _SEAT, "Training loss an example, where the layer has one; a running mean.")
GRADIENT_LOSS = _gauge("gradient_loss", SLAVE, _SEAT, "L_M, the loss of M, an example; a running mean.")
INPUT_LOSS = _gauge("input_loss", SLAVE, _SEAT, "L_I, the loss of I, an example; a running mean.")
GRADIENT_COSINE = _gauge(
    "gradient_cosine", SLAVE, _SEAT, "Cosine between M's gradient and the one from above; a running mean."
)

# --- pushes and pulls -------------------------------------------------------------------------------------
PUSHES = _counter("pushes_total", MASTER, _SEAT, "Pushes that were applied.")
PULLS = _counter("pulls_total", MASTER, _SEAT, "Versions of shards that the slave was given.")
PUSH_STALENESS = _declared(
    "histogram", "push_staleness", MASTER, _SEAT,
    "Staleness of an applied push: what others pushed between the slave's fetch and its push.",
    *COUNT_BOUNDS,
)  # fmt: skip
STALENESS_BOUND = _gauge(
    "push_staleness_bound", MASTER, (), "The largest staleness that is taken, where there is a bound."
)
DUPLICATE_PUSHES = _counter(
    "duplicate_pushes_total", MASTER, _SEAT, "Pushes that came again and changed nothing."
)
REFUSED_PUSHES = _counter("refused_pushes_total", MASTER, _SEAT, "Pushes staler than the bound.")
FENCED_PUSHES = _counter("fenced_pushes_total", MASTER, (), "Pushes and calls of slaves without a lease.")
MALFORMED = _counter(
    "malformed_messages_total", MASTER, (), "Messages that were refused and changed nothing."
)
PUSH_SECONDS = _seconds("push_seconds", SLAVE, _SEAT, "From handing a push over to its answer.")
PULL_SECONDS = _seconds("pull_seconds", SLAVE, _SEAT, "From asking for a version of a shard to having it.")
JOURNAL_SECONDS = _seconds("journal_seconds", MASTER, (), "Making a push's outcome durable: its record.")
SNAPSHOT_SECONDS = _seconds("snapshot_seconds", MASTER, (), "Taking a snapshot.")
SHARD_VERSION = _gauge(
    "shard_version", MASTER, ("layer", "shard"), "Pushes that the shard has taken; k/weights, k/gradient, ..."
)
RECEIVED_BYTES = _counter("received_bytes_total", BOTH, (), "Tensors and messages that came, in bytes.")
SENT_BYTES = _counter("sent_bytes_total", BOTH, (), "Tensors and messages that were sent, in bytes.")
MAILBOX_DEPTH = _gauge(
    "mailbox_depth", BOTH, _SEAT, "Messages that wait for the slave: at the master's relay, in its own inbox."
)

# --- leases and the run -----------------------------------------------------------------------------------
LEASE_AGE = _gauge("lease_age_seconds", MASTER, _SEAT, "Since the slave's last heartbeat.")
GRANTS = _counter("leases_granted_total", MASTER, _SEAT, "Leases on the seat; more than one: replaced.")
FAILED_LEASES = _counter("leases_failed_total", MASTER, (), "Slaves that were silent for too long.")
SEATS = _gauge("seats", MASTER, (), "Layers times replicas: the slaves that the run needs.")
VACANT_SEATS = _gauge("vacant_seats", MASTER, (), "Seats that no slave holds while the run goes on.")
WAITING_SLAVES = _gauge("waiting_slaves", MASTER, (), "Slaves that wait for a seat.")
RUN_BATCHES = _gauge("run_batches", MASTER, (), "How far the run is.")
RUN_LENGTH = _gauge("run_length_batches", MASTER, (), "How far the run is to go.")
TEST_ERROR = _gauge("test_error_ratio", MASTER, (), "Test error, 0 to 1, as an evaluator last measured it.")
TEST_LOSS = _gauge("test_loss", MASTER, (), "Test loss an example, as an evaluator last measured it.")
STARTS = _counter("master_starts_total", MASTER, (), "Starts of a master on this state directory.")

# --- processes and machines -------------------------------------------------------------------------------
PROCESS_CPU = _counter("process_cpu_seconds_total", BOTH, _SEAT, "CPU time of the process.")
PROCESS_UTILIZATION = _gauge(
    "process_utilization_ratio", BOTH, _SEAT, "The processor time of the process; 1 is one core's."
)
PROCESS_MEMORY = _gauge("process_resident_memory_bytes", BOTH, _SEAT, "Memory that the process holds.")
CPU = _gauge("cpu_utilization_ratio", BOTH, _SEAT, "The machine's CPUs, 0 to 1.")
MEMORY = _gauge("memory_utilization_ratio", BOTH, _SEAT, "The machine's memory in use, 0 to 1.")
DISK = _gauge("disk_utilization_ratio", BOTH, _SEAT, "The process' disk in use, 0 to 1.")
GPU = _gauge("gpu_utilization_ratio", SLAVE, _SEAT, "The slave's GPU, 0 to 1, where it has one.")
GPU_MEMORY = _gauge("gpu_memory_utilization_ratio", SLAVE, _SEAT, "Its memory in use, 0 to 1.")


class Histogram:
    """How often values fell between bounds, and their sum; added to by any thread.

    A value counts for the first bound that it does not exceed.
    """

    def __init__(self, metric: Metric) -> None:
        self._bounds = metric.bounds
        self._lock = threading.Lock()
        self._counts = [0] * (len(metric.bounds) + 1)
        self._sum = 0.0

    @classmethod
    def of(cls, metric: Metric, values: Mapping[int, int]) -> Self:
        """One of values that were counted: value -> how often."""
        made = cls(metric)
        for value, often in values.items():
            made._counts[bisect_left(made._bounds, value)] += often
            made._sum += value * often
        return made

    def observe(self, value: float) -> None:
        """Count a value."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def read(self) -> tuple[list[int], float]:
        """How many values were at most each bound (and, last, how many in all), and their sum."""
        with self._lock:
            return list(accumulate(self._counts)), self._sum


class Scrape:
    """What one process shows at one moment.

    Args:
        where: master or slave.
        profile: the run's.
    """

    def __init__(self, where: str, profile: str) -> None:
        self._where = where
        self._profile = profile
        self._families: dict[str, Any] = {}

    def add(self, metric: Metric, value: float | Histogram, *labels: object) -> None:
        """One series, its labels' values in the metric's order."""
        assert metric.where in (self._where, BOTH), metric.name
        assert len(labels) == len(metric.labels), metric.name
        told = [*map(str, labels), self._profile]
        family = self._families.get(metric.name) or self._made(metric)
        if isinstance(value, Histogram):
            counts, total = value.read()
            bounds = [*map(_bound, metric.bounds), "+Inf"]
            family.add_metric(told, list(zip(bounds, counts, strict=True)), total)
        else:
            family.add_metric(told, value)

    def add_process(self, used: Utilization, *labels: object) -> None:
        """What the process has used, and how busy it and its machine were when that was last measured."""
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

    def _made(self, metric: Metric) -> Any:
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
        """The families, as prometheus_client asks for them."""
        return self._families.values()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        from prometheus_client import generate_latest

        text: bytes = generate_latest(self)
        return text


def _bound(bound: float) -> str:
    return f"{float(bound)}"


def sample_names(metric: Metric) -> Sequence[str]:
    """The names of a metric's series."""
    if metric.kind == "histogram":
        return [f"{metric.full_name}_{part}" for part in ("bucket", "sum", "count")]
    return [metric.full_name]


_PAGE = """\
# Metrics

Made from `common/observe/metrics.py` by `make dashboards`. Every series has the label `profile` beside
those named here. `layer` is k, `replica` counts from 0, `shard` is `k/weights`, `k/gradient` or the like.
Ratios are 0 to 1. Counters begin anew with their process, but for `layerwise_master_starts_total`. Buckets
of staleness and delay: {counts}; of seconds: {seconds}.

| metric | kind | shown by | labels | what it is |
| --- | --- | --- | --- | --- |
{rows}
"""


def documented() -> str:
    """All of them, as a page."""
    counts, seconds = (", ".join(f"{b:g}" for b in bounds) for bounds in (COUNT_BOUNDS, SECONDS_BOUNDS))
    rows = "\n".join(map(_row, DECLARED))
    return _PAGE.format(counts=counts, seconds=seconds, rows=rows)


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    where = "master, slave" if metric.where == BOTH else metric.where
    return f"| `{metric.full_name}` | {metric.kind} | {where} | {labels} | {metric.help} |"
