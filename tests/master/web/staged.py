"""Pages of a master without a run: as many layers as a test wants, with made-up measurements."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from common.config import files
from common.observe.metrics import JOURNAL_SECONDS, Histogram
from common.observe.web import Site, serve_on_thread
from common.wire.counters import Counters
from common.wire.messages import Evaluation, Seat, StatusReply, Telemetry
from common.wire.stores import StoreState
from common.wire.use import Utilization
from master.tally import Tally
from master.web.history import History
from master.web.pages import pages
from master.web.view import View

LENGTH, SECONDS = 4000, 2.0


_COUNTED = Counters(pushes=30, pulls=3)
STORES = [
    StoreState(1, "serving", "machine-a", 7, "machine-a:1", 0.2, ["1/weights"], 4000, _COUNTED),
    StoreState(2, "late", "machine-b", 8, "machine-b:1", 33.4, ["2/weights"], 4000, _COUNTED),
    StoreState(3, "awaited"),
]


def status_of(layers: int, moment: int, replicas: int = 1) -> StatusReply:
    """Return the status of a run in so many layers at a moment; the second layer has lost a slave.

    A run with replicas has stores, too.
    """
    batches = 20 * moment
    seats = [_seat(layer, layers, moment, r) for layer in range(1, layers + 1) for r in range(replicas)]
    error = 5 + 85 * math.exp(-moment / 20)
    measured = {"error_percent": error}
    return StatusReply(
        name="a run with a name that is rather long",
        state="training",
        batches=batches,
        of_batches=LENGTH,
        training_seconds=SECONDS * moment,
        starts=1,
        seats=seats,
        versions={f"{layer}/weights": batches // 10 for layer in range(1, layers + 1)},
        delays={1: 30 * moment, 3: moment},
        counters=Counters(staleness={0: 9 * moment, 2: moment}, pushes=10 * moment, pulls=moment),
        stores=STORES if replicas > 1 else [],
        evaluation=Evaluation(batches // 100 * 100, error, error / 30, {"1/weights": 1}, measured),
    )


def _seat(layer: int, layers: int, moment: int, replica: int) -> Seat:
    if (layer, replica) == (2, 0):
        return Seat(layer, state="vacant")
    there = layer / layers
    cosine = 0.0 if layer == layers else (1 - math.exp(-moment / 25)) * (0.4 + 0.6 * there)
    told = Telemetry(
        steps=20 * moment,
        next_batch=20 * moment,
        in_flight=3,
        step_seconds=2.0 * moment,
        waiting_seconds=0.1 * moment * (1 + math.sin(moment / 9)),
        delays={1: 30 * moment, 3: moment},
        loss=(2.3 * math.exp(-moment / 30) if layer == layers else 0.0),
        gradient_cosine=cosine,
        samples_per_second=900 + 300 * math.sin(layer + moment / 7),
        sent_bytes=int(2e6 * moment * there),
        received_bytes=int(1e6 * moment),
        utilization=Utilization(cpu_percent=60 + 30 * math.sin(layer + moment / 11)),
    )
    return Seat(
        layer,
        replica,
        "training",
        f"s{layer}",
        f"machine-{layer}",
        1000 + layer,
        "cpu",
        layer,
        grants=1,
        telemetry=told,
    )


@contextmanager
def staged(layers: int, moments: int = 120, replicas: int = 1) -> Iterator[str]:
    """Serve the pages of such a run, and yield their address."""
    widths = [32] * (layers - 1)
    config = files.load(None, ["run.name=staged", f"network.options={{widths={widths}}}"])
    config = config.with_cuts(list(range(1, layers)))
    history, now = History(SECONDS, config.metrics), time.monotonic()
    for moment in range(moments):
        history.add(status_of(layers, moment, replicas), now - SECONDS * (moments - moment))
    view = View(
        config=config,
        status=lambda: status_of(layers, moments, replicas),
        shown=list,
        events=lambda: [
            {"event": "joined", "time": time.time(), "layer": layer, "replica": 0}
            for layer in range(1, layers + 1)
        ],
        address=lambda: "127.0.0.1:50051",
        mailbox_depth=lambda layer, replica: 0,
        seat=Tally().seat,
        tally=Tally(),
        journal=Histogram(JOURNAL_SECONDS),
        snapshots=Histogram(JOURNAL_SECONDS),
        pulses=list,
    )
    with serve_on_thread(Site(pages(view, history)), "127.0.0.1:0", "--web") as address:
        yield f"http://{address}"
