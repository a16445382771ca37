"""The master's /metrics: put together from what it knows when it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.observe import metrics
from common.observe.metrics import Histogram, Metric, Scrape
from common.wire.messages import StatusReply

if TYPE_CHECKING:
    from master.service import Master


def scraped(master: Master) -> bytes:
    """In Prometheus' text format; a seat without a slave has no series."""
    scrape, status = Scrape(metrics.MASTER, master.config.cluster.profile), master.status()
    _add_seats(scrape, master, status)
    for shard, version in status.versions.items():
        scrape.add(metrics.SHARD_VERSION, version, shard.partition("/")[0], shard)
    _add_run(scrape, master, status)
    scrape.add_process(status.utilization, "", "")
    return scrape.text()


def _add_seats(scrape: Scrape, master: Master, status: StatusReply) -> None:
    for seat in status.seats:
        if not seat.incarnation:
            continue
        where = seat.layer, seat.replica
        tally = master.counters.of_seat(*where)
        scrape.add(metrics.LEASE_AGE, seat.lease_age, *where)
        scrape.add(metrics.GRANTS, seat.grants, *where)
        scrape.add(metrics.PUSHES, tally.pushes, *where)
        scrape.add(metrics.PULLS, tally.pulls, *where)
        scrape.add(metrics.DUPLICATE_PUSHES, tally.duplicate_pushes, *where)
        scrape.add(metrics.REFUSED_PUSHES, tally.refused_pushes, *where)
        scrape.add(metrics.PUSH_STALENESS, Histogram.of(metrics.PUSH_STALENESS, tally.staleness), *where)
        scrape.add(metrics.MAILBOX_DEPTH, master.relay.depth(*where), *where)


def _add_run(scrape: Scrape, master: Master, status: StatusReply) -> None:
    counters, evaluation, downpour = status.counters, status.evaluation, master.config.downpour
    vacant = 0 if master.roster.over else sum(not seat.incarnation for seat in status.seats)
    values: list[tuple[Metric, float | Histogram]] = [
        (metrics.FENCED_PUSHES, counters.fenced),
        (metrics.MALFORMED, counters.malformed),
        (metrics.RECEIVED_BYTES, counters.bytes_received),
        (metrics.SENT_BYTES, counters.bytes_sent),
        (metrics.JOURNAL_SECONDS, master.state.journal),
        (metrics.SNAPSHOT_SECONDS, master.counters.snapshot),
        (metrics.FAILED_LEASES, master.counters.failed_leases),
        (metrics.SEATS, len(status.seats)),
        (metrics.VACANT_SEATS, vacant),
        (metrics.WAITING_SLAVES, status.waiting_slaves),
        (metrics.RUN_BATCHES, status.batches),
        (metrics.RUN_LENGTH, status.of_batches),
        (metrics.STARTS, status.starts),
    ]
    for metric, value in values:
        scrape.add(metric, value)
    if evaluation.versions:
        scrape.add(metrics.TEST_ERROR, evaluation.test_error_percent / 100)
        scrape.add(metrics.TEST_LOSS, evaluation.test_loss)
    if downpour.staleness == "bound":
        scrape.add(metrics.STALENESS_BOUND, downpour.bound)
