"""Prometheus metrics of a master, computed when a scrape asks for them."""

from __future__ import annotations

from bisect import bisect_right

from common.config.pushes import STALENESS_RULES
from common.observe import metrics
from common.observe.metrics import Histogram, Metric, Scrape
from common.observe.standstill import count_standing
from common.wire.messages import StatusReply
from master.web.view import View


def scrape(view: View) -> bytes:
    """Write every metric in Prometheus' text format; a seat without a slave has no series."""
    series, status = Scrape(metrics.MASTER, view.config.cluster.profile), view.status()
    _add_seats(series, view, status)
    for shard, version in status.versions.items():
        series.add(metrics.SHARD_VERSION, version, shard.partition("/")[0], shard)
    _add_run(series, view, status)
    for store in status.stores:
        if store.state != "awaited":
            series.add(metrics.STORE_AGE, store.report_age, store.number)
            series.add(metrics.STORE_BYTES, store.nbytes, store.number)
            series.add(metrics.STORE_PUSHES, store.counters.pushes, store.number)
            series.add(metrics.STORE_CPU, store.counters.cpu_seconds, store.number)
            series.add(metrics.STORE_DISK, store.utilization.disk_percent / 100, store.number)
    series.add_process(status.utilization, "", "")
    return series.text()


def _add_seats(series: Scrape, view: View, status: StatusReply) -> None:
    for seat in status.seats:
        if not seat.incarnation:
            continue
        where = seat.layer, seat.replica
        tally = view.seat(*where)
        series.add(metrics.LEASE_AGE, seat.lease_age, *where)
        series.add(metrics.GRANTS, seat.grants, *where)
        series.add(metrics.PUSHES, tally.pushes, *where)
        series.add(metrics.PULLS, tally.pulls, *where)
        series.add(metrics.DUPLICATE_PUSHES, tally.duplicate_pushes, *where)
        series.add(metrics.REFUSED_PUSHES, tally.refused_pushes, *where)
        series.add(metrics.PUSH_STALENESS, Histogram.of(metrics.PUSH_STALENESS, tally.staleness), *where)
        series.add(metrics.MAILBOX_DEPTH, view.mailbox_depth(*where), *where)
        if status.curriculum.starts:
            batch, levels = seat.telemetry.next_batch, status.curriculum
            series.add(metrics.LEVEL, bisect_right(levels.starts, batch), *where)
            series.add(metrics.UNDECIDED, int(batch >= levels.decided), *where)


def _add_run(series: Scrape, view: View, status: StatusReply) -> None:
    counters, evaluation, downpour = status.counters, status.evaluation, view.config.downpour
    vacant = 0 if status.state == "done" else sum(not seat.incarnation for seat in status.seats)
    values: list[tuple[Metric, float | Histogram]] = [
        (metrics.FENCED_PUSHES, counters.fenced),
        (metrics.MALFORMED, counters.malformed),
        (metrics.RECEIVED_BYTES, counters.bytes_received),
        (metrics.SENT_BYTES, counters.bytes_sent),
        (metrics.JOURNAL_SECONDS, view.journal),
        (metrics.SNAPSHOT_SECONDS, view.snapshots),
        (metrics.FAILED_LEASES, view.tally.failed_leases),
        (metrics.SEATS, len(status.seats)),
        (metrics.VACANT_SEATS, vacant),
        (metrics.STANDING_SEATS, count_standing(status, view.config)),
        (metrics.WAITING_SLAVES, status.waiting_slaves),
        (metrics.MISSING_SLAVES, 0 if status.resizing.start else status.resizing.missing),
        (metrics.RUN_BATCHES, status.batches),
        (metrics.RUN_LENGTH, status.of_batches),
        (metrics.STARTS, status.starts),
    ]
    for metric, value in values:
        series.add(metric, value)
    for reason, count in view.tally.refused_calls().items():
        series.add(metrics.REFUSED, count, reason)
    if evaluation.versions:
        if evaluation.test_error_percent is not None:
            series.add(metrics.TEST_ERROR, evaluation.test_error_percent / 100)
        for name, measured in view.config.order_metrics(evaluation.metrics).items():
            series.add(metrics.TEST_METRIC, measured, name)
        series.add(metrics.TEST_LOSS, evaluation.test_loss)
    if "bound" in STALENESS_RULES[downpour.staleness].heeds:
        series.add(metrics.STALENESS_BOUND, downpour.bound)
