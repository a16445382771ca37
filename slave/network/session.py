"""Training under one lease: the network's events go into the worker, the worker's effects to the network."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable

from common.data.replicas import BatchRoutes, far_seats
from common.errors import LayerwiseError
from common.observe.health import silence_limit
from common.shards.pushes import PushReply
from common.shards.working_copy import Push
from common.signals.values import Signal, count, form_of
from common.wire import precision
from common.wire.boundary import Message, Ready
from common.wire.messages import JoinReply, SynthesisKind, SynthesisMessage
from slave.network.endpoint import Endpoint
from slave.network.mail import Inbox
from slave.network.meter import Meter, Watched
from slave.network.network import Network
from slave.network.opening import Opening
from slave.network.pair import Boundary
from slave.network.prepared import Prepared
from slave.network.progress import TELEMETRY_SECONDS, Progress
from slave.training.device import Transfers
from slave.training.worker import (
    Computed,
    Done,
    Effect,
    Event,
    Fetch,
    Passed,
    Promised,
    Scored,
    Send,
    Worker,
)

# For the answers to the last pushes, when the slave is asked to stop.
FAREWELL_SECONDS = 5.0


class Session:
    """Training under one lease: a worker, and connections for the effects.

    Args:
        prepared: configuration, data and device of the slave.
        lease: granted by the master.
        endpoint: of this process.
        cpu_before: CPU seconds of this process under earlier leases.

    Attributes:
        opened: the layer is there, ready to train.
    """

    def __init__(
        self, prepared: Prepared, lease: JoinReply, endpoint: Endpoint, cpu_before: float = 0.0
    ) -> None:
        self._prepared = prepared
        self._lease = lease
        self._config = config = prepared.config
        self._transfers = Transfers.of(prepared.device, prepared.config)
        self._meter = Meter()
        self._progress = Progress(lease, self._meter, config.run.batch_size, cpu_before, prepared.gpu)
        silence = silence_limit(config.cluster.heartbeat_seconds, config.cluster.misses)
        self._network = Network(
            endpoint,
            lease,
            config.cluster.heartbeat_seconds,
            prepared.options.wait,
            self._progress.beat,
            self._meter,
            self._boundary(),
            lambda: self._progress.scores,
            lambda: self._progress.promise,
            in_stores=config.cluster.stores > 0,
            # The master fails a dead neighbour sooner.
            neighbours_patience=max(prepared.options.wait, 2 * silence),
        )
        self.inbox: Inbox = self._network.inbox
        # The top layer has no M, and the first no I.
        needs = lease.layer < config.layers or config.decoupling.row.predicts
        self._served = needs and config.cluster.served
        self.opened = False
        self._worker: Worker

    def open(self) -> None:
        """Connect, and build the layer at the master's version.

        Raises:
            LayerwiseError: the lease has ended, the master does not answer, or the layer cannot be built.
            BaseException: the event that `wake` delivered meanwhile.
        """
        self._network.start()
        serving = self if self._served else None
        trained = Opening(self._network, self._prepared, self._lease, self._progress).build(serving)
        self._worker = Worker(trained, adapts=self._config.downpour.adapts)
        self.opened = True

    @property
    def released(self) -> bool:
        """Whether the master wants the lease back, for other replicas."""
        return self._worker.released and not self._worker.over

    @property
    def trained(self) -> bool:
        """Whether a batch was trained on."""
        return self.opened and self._worker.trainer.steps > 0

    def run(self) -> None:
        """Train until the run is over, or the master wants the lease back.

        Raises:
            FencedError: the lease has passed to a successor.
            LayerwiseError: the run cannot go on here.
        """
        admission = self._worker.trained.admission
        assert admission is not None
        self._network.exchange(admission.check)
        if self._served:
            self._network.converse()
        while not (self._worker.over or self._worker.released):
            can_advance = self._worker.can_advance
            event = self._next_event(block=not can_advance)
            if event is not None:
                self._handle(event)
            # Waiting events go before a further forward.
            elif can_advance:
                self._carry_out(self._worker.advance())

    def watched(self) -> Watched:
        """Return the present state for a scrape, from any thread."""
        return Watched(self._lease, self._meter, self._progress.now(), len(self.inbox))

    def ask(self, question: SynthesisMessage) -> SynthesisMessage:
        """Ask the master's M or I; the step stands still until the answer."""
        began = time.perf_counter()
        try:
            return self._network.ask(question)
        finally:
            self._progress.waiting_seconds += time.perf_counter() - began

    def tell(self, lesson: SynthesisMessage) -> None:
        """Send a lesson to the master's M or I, without an answer."""
        self._network.tell(lesson)

    def wake(self, event: object) -> None:
        """End every wait with an event, when the slave is to stop."""
        self._network.deliver(event)

    def leave(self, reason: str) -> None:
        """Push the rest, wait a little for the answers, and give the lease back."""
        if self.opened:
            self._farewell()
            self._measure()
        self._network.leave(reason)

    def close(self) -> None:
        """End the connections."""
        self._network.close()

    def _farewell(self) -> None:
        deadline = time.monotonic() + FAREWELL_SECONDS
        self._carry_out(self._worker.flush())
        while not self._worker.settled:
            try:
                event = self.inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return
            if isinstance(event, LayerwiseError):
                return
            if isinstance(event, PushReply):
                self._carry_out(self._worker.handle(event))
                self._carry_out(self._worker.flush())

    def _next_event(self, *, block: bool) -> object | None:
        """Return the next event, or None; with `block` wait while the telemetry is fresh."""
        if not block and self.inbox.empty():
            return None
        self._progress.waits = block
        try:
            event = self.inbox.get(timeout=TELEMETRY_SECONDS)
        except queue.Empty:
            self._measure()
            return None
        self._progress.waits = False
        return event

    def _handle(self, event: object) -> None:
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, Message):
            self._meter.received_bytes += sum(map(self._nbytes, event.carried().values()))
            event = self._transfers.receive(event)
        if isinstance(event, Ready):
            self._network.resume(event)
        assert isinstance(event, Event)
        if isinstance(event, PushReply) and self._worker.pace is not None:
            now = self._meter.answered_at[event.shard]
            self._worker.pace.answer(event.shard, now, self._worker.steps(event.shard))
        self._carry_out(self._worker.handle(event))

    def _nbytes(self, signal: Signal) -> int:
        """Return the bytes of a signal on the wire."""
        return precision.signal_nbytes(form_of(signal), count(signal), self._config.cluster.wire)

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """Carry effects out one by one, and count the seconds of sending and exchanging shards as waiting."""
        steps, began = self._worker.trainer.steps, time.perf_counter()
        waited, computed = 0.0, False
        for effect in effects:
            before = time.perf_counter()
            if isinstance(effect, Computed):
                computed, exchange_began = True, before
            else:
                self._do(effect)
            if not computed:
                waited += time.perf_counter() - before
        now = time.perf_counter()
        if computed:
            waited += now - exchange_began
        self._progress.add(now - began, waited, stepped=self._worker.trainer.steps > steps)
        if self._progress.measurement_due:
            self._measure()

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._network.send(self._transfers.leave(effect.message))
            case Push():
                if self._worker.pace is not None:
                    now, steps = time.perf_counter(), self._worker.steps(effect.header.shard)
                    self._worker.pace.begin(effect.header.shard, now, steps)
                self._network.push(effect)
            case Fetch():
                self._network.fetch(effect)
            case Passed() | Scored() | Promised():
                self._report()
            case Done():
                if self._served:
                    settle = SynthesisMessage(SynthesisKind.SETTLE, incarnation=self._lease.incarnation)
                    self._network.ask(settle)
                self._report()

    def _report(self) -> None:
        """Tell the master the telemetry at once."""
        self._measure()
        self._network.beat()

    def _measure(self) -> None:
        self._progress.promise = self._worker.promise
        self._progress.measure(self._worker.trained, self._worker.pulls, done=self._worker.done)

    def _boundary(self) -> Boundary:
        """Return the neighbours above and below, and the bounds of messages under way."""
        k, count = self._lease.layer, self._config.layers
        routes = BatchRoutes.of(self._config, k, self._lease.replica)
        far = far_seats(self._config, k, self._lease.replica)
        return Boundary(
            tuple(routes.senders(k)),
            tuple(routes.receivers()) if k < count else (),
            max(self._config.decoupling.window(each, count) for each in (1 if far else k - 1, k)),
            self._config.decoupling.slots,
            self._config.cluster.wire,
            # Twice the window: an answer may be under way. A layer without a window answers nothing.
            None if self._config.decoupling.slots else 2 * self._config.decoupling.window(k - 1, count),
            tuple(far),
        )
