"""Training under one lease: the layer, M and their replicas on one side, the network's inbox on the other."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from common.errors import LayerwiseError, NotFoundError
from common.lifecycle import cpu_seconds, peak_rss_bytes
from common.observe.utilization import Probe
from common.optim.stepper import Stepper
from common.shards.pushes import PushReply
from common.shards.working_copy import Backup, Replica
from common.wire import precision
from common.wire.boundary import Message
from common.wire.messages import (
    HeartbeatReply,
    JoinReply,
    SynthesisKind,
    SynthesisMessage,
    Telemetry,
    Utilization,
)
from slave.network.endpoint import Endpoint
from slave.network.links import Boundary
from slave.network.mail import Inbox
from slave.network.meter import Meter, Watched
from slave.network.network import Network
from slave.network.prepared import Prepared
from slave.network.transfer import Fetched
from slave.training import layers
from slave.training.free import FreeTrainer
from slave.training.layers import Seated
from slave.training.moments import Moments

log = logging.getLogger("layerwise.slave")

# How often the telemetry is made anew, and how long the last pushes may take when the slave is asked to stop.
TELEMETRY_SECONDS = 0.1
FAREWELL_SECONDS = 5.0


class Session:
    """One lease: the layer's replicas, its trainer, and the connections to the master.

    Args:
        ground: what the slave has prepared.
        lease: what the master granted.
        cpu_before: CPU seconds of this process that went into earlier leases, and count there.

    Raises:
        LayerwiseError: as soon as the lease or the run cannot go on.
    """

    def __init__(
        self, ground: Prepared, lease: JoinReply, endpoint: Endpoint, cpu_before: float = 0.0
    ) -> None:
        self._ground = ground
        self._cpu_before = cpu_before
        self._probe = Probe(Path.cwd(), ground.gpu)
        self._used = Utilization()
        self._lease = lease
        self._config = ground.config
        self._step_seconds = 0.0
        self._waiting_seconds = 0.0
        self._pulls = 0
        self._done = False
        self._came_far = False
        self._telemetry = Telemetry(next_batch=lease.next_batch)
        self._measured_at = time.perf_counter()
        self._beat_at = (time.perf_counter(), 0)
        self._meter = Meter()
        self._network = Network(
            endpoint,
            lease,
            self._config.cluster.heartbeat_seconds,
            ground.options.wait,
            self._latest_telemetry,
            self._meter,
            self._boundary(),
        )
        self.inbox: Inbox = self._network.inbox
        # The top layer has no M, and the first no I.
        needs = lease.layer < self._config.layers or self._config.decoupling.row.predicts
        self._served = needs and self._config.cluster.served
        self._network.start()
        try:
            self._seated = built = self._built()
        except BaseException as error:
            self._network.leave(str(error) or type(error).__name__)
            self._network.close()
            raise
        self._trainer, self._replicas, self._health = built.trainer, built.replicas, built.health
        # One that waits for nobody would go far before its neighbours are there.
        self._begun = not isinstance(self._trainer, FreeTrainer)

    def run(self) -> None:
        """Train until the run is over.

        Raises:
            FencedError: the lease has passed to another.
            LayerwiseError: the run cannot go on here.
        """
        self._network.exchange()
        if self._served:
            self._network.converse()
        while True:
            event = self._next_event()
            while event is not None:
                if isinstance(event, HeartbeatReply) and event.over:
                    return
                self._handle(event)
                event = self._next_event() if not self.inbox.empty() else None
            if self._can_advance:
                self._step(self._trainer.advance())
            self._check_done()

    def watched(self) -> Watched:
        """What there is to see of it now, from any thread."""
        telemetry = replace(self._telemetry, utilization=self._used)
        return Watched(self._lease, self._meter, telemetry, len(self.inbox))

    def ask(self, question: SynthesisMessage) -> SynthesisMessage:
        """Ask what the master runs; the step stands still until it answers."""
        began = time.perf_counter()
        try:
            return self._network.ask(question)
        finally:
            self._waiting_seconds += time.perf_counter() - began

    def tell(self, lesson: SynthesisMessage) -> None:
        """Tell it what has no answer."""
        self._network.tell(lesson)

    def wake(self, event: object) -> None:
        """Have whatever this waits for end by an event: it was asked to stop."""
        self._network.deliver(event)

    def leave(self, reason: str) -> None:
        """Push what was learned, wait a little for the answers, and give the lease back."""
        self._farewell()
        self._measure()
        self._network.leave(reason)

    def _farewell(self) -> None:
        deadline = time.monotonic() + FAREWELL_SECONDS
        self._flush()
        while any(replica.unanswered for replica, _ in self._replicas):
            try:
                event = self.inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if isinstance(event, LayerwiseError):
                break
            if isinstance(event, PushReply):
                self._answered(event)
                self._flush()

    def close(self) -> None:
        """End the connections."""
        self._network.close()

    def _next_event(self) -> object | None:
        """What has come; waits for it only where there is nothing else to do."""
        try:
            return self.inbox.get(block=not self._can_advance, timeout=TELEMETRY_SECONDS)
        except queue.Empty:
            self._measure()
            return None

    def _handle(self, event: object) -> None:
        if isinstance(event, Message):
            self._meter.received_bytes += sum(map(self._nbytes, event.carried().values()))
            self._step(self._trainer.receive(event.map_tensors(self._to_device)))
        elif isinstance(event, PushReply):
            self._answered(event)
        elif isinstance(event, Fetched):
            self._rebase(event)
        elif isinstance(event, HeartbeatReply):
            self._told(event)
        elif isinstance(event, BaseException):
            raise event

    def _told(self, reply: HeartbeatReply) -> None:
        """Where no layer waits for another, the master says when to begin and when to stop."""
        self._begun = self._begun or reply.begin
        if reply.stop and isinstance(self._trainer, FreeTrainer):
            self._trainer.stop()

    @property
    def _can_advance(self) -> bool:
        return self._begun and self._trainer.can_advance

    def _rebase(self, event: Fetched) -> None:
        """Go over to a version that was fetched; the step stands still meanwhile."""
        began = time.perf_counter()
        for replica, _ in self._replicas:
            if replica.name == event.shard and event.header is None:
                replica.fetch_failed()
            elif replica.name == event.shard and event.header is not None:
                replica.fetched(event.header, event.buffer)
                self._pulls += 1
        took = time.perf_counter() - began
        self._waiting_seconds += took
        self._step_seconds += took

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._ground.device)

    def _nbytes(self, tensor: torch.Tensor) -> int:
        """Return the bytes that a tensor took on its way."""
        return precision.nbytes(tuple(tensor.shape), self._config.cluster.wire)

    def _step(self, messages: Iterator[Message]) -> None:
        """Let the trainer work, send what it says, push what is due; and take the time."""
        began, waited, steps = time.perf_counter(), 0.0, self._trainer.steps
        for message in messages:
            before = time.perf_counter()
            self._network.send(message)
            waited += time.perf_counter() - before
        before = time.perf_counter()
        for replica, stepper in self._replicas:
            push = replica.due(stepper.steps, self._trainer.next_batch)
            if push:
                self._network.push(push)
            if replica.fetch_due(stepper.steps):
                self._network.fetch(replica.name)
        now = time.perf_counter()
        self._waiting_seconds += waited + now - before
        self._step_seconds += now - began
        if self._trainer.steps > steps:
            self._meter.step.observe(now - began)
        if now - self._measured_at > TELEMETRY_SECONDS:
            self._measure()

    def _flush(self) -> None:
        for replica, stepper in self._replicas:
            push = replica.flush(stepper.steps, self._trainer.next_batch)
            if push:
                self._network.push(push)

    def _answered(self, reply: PushReply) -> None:
        for replica, _ in self._replicas:
            if replica.name == reply.shard:
                replica.answered(reply)

    def _check_done(self) -> None:
        """Once the layer is through, push the rest; once that is answered, tell the master.

        One that waits for nobody tells it before, too: the master then knows when all may stop.
        """
        if not self._came_far and self._trainer.next_batch >= self._config.run.batches:
            self._came_far = True
            self._measure()
            self._network.beat()
        if not self._trainer.through or self._done:
            return
        self._flush()
        if all(replica.unanswered is None for replica, _ in self._replicas):
            if self._served:
                self.ask(SynthesisMessage(SynthesisKind.SETTLE, incarnation=self._lease.incarnation))
            self._done = True
            self._measure()
            self._network.beat()

    def _measure(self) -> None:
        if self._health.fallback != self._telemetry.fallback:
            self._say_fallback()
        self._measured_at = time.perf_counter()
        told = self._seated.telemetry()
        self._meter.lost(told.lost_batches)
        self._telemetry = replace(
            told,
            step_seconds=self._step_seconds,
            waiting_seconds=self._waiting_seconds,
            done=self._done,
            pulls=self._pulls,
        )

    def _say_fallback(self) -> None:
        what = (
            "M's cosine is too low: waiting for true gradients"
            if self._health.fallback
            else "M's cosine is high enough again: going on with M's gradients"
        )
        log.warning("layer %d: %s (mean cosine %.2f)", self._lease.layer, what, self._health.gradient_cosine)

    def _latest_telemetry(self) -> Telemetry:
        """On the network's thread, once a heartbeat: the newest telemetry, with what the process has used."""
        now, telemetry = time.perf_counter(), self._telemetry
        then, steps = self._beat_at
        self._beat_at = (now, telemetry.steps)
        rate = (telemetry.steps - steps) * self._config.run.batch_size / (now - then)
        self._used = self._probe()
        return replace(
            telemetry,
            samples_per_second=rate,
            cpu_seconds=cpu_seconds() - self._cpu_before,
            peak_rss_bytes=peak_rss_bytes(),
            utilization=self._used,
        )

    def _built(self) -> Seated:
        """The layer at the master's version, ready to train."""
        ground = self._ground
        compiled = self._config.compiled[self._lease.layer - 1]
        if compiled:
            log.info("compiling layer %d", self._lease.layer)
        built = layers.seated(
            self._config,
            ground.blueprint(),
            ground.dataset,
            self._lease,
            self._begin,
            ground.device,
            self if self._served else None,
            compiled=compiled,
        )
        self._back_up(built.replicas)
        log.info(
            "layer %d of %d on %s, from batch %d: %s",
            self._lease.layer,
            self._config.layers,
            ground.device,
            self._lease.next_batch,
            f"{built.flat.parameters.numel():,} parameters",
        )
        return built

    def _boundary(self) -> Boundary:
        """Who is above and below, and how much may be on its way."""
        k, count, place = self._lease.layer, self._config.layers, layers.place(self._config, self._lease)
        return Boundary(
            tuple(place.senders(k)),
            tuple(place.receivers()) if k < count else (),
            max(self._config.decoupling.window(each, count) for each in (k - 1, k)),
            self._config.decoupling.slots,
            self._config.cluster.wire,
        )

    def _begin(self, replica: Replica) -> bool:
        """Bring a replica to the master's version of its shard; False where it had to be created."""
        try:
            found, existed = self._network.pull(replica.name), True
        except NotFoundError:
            self._network.push(replica.initial())
            self._await_reply(replica.name)
            found, existed = self._network.pull(replica.name), False
        replica.begin(*found)
        self._pulls += 1
        return existed

    def _back_up(self, replicas: list[tuple[Replica, Stepper]]) -> None:
        """Go on with what the optimizers of this seat's last slave remembered; back up what ours do."""
        moments = Moments({replica.name.partition("/")[2]: stepper for replica, stepper in replicas})
        every, lease = self._config.cluster.backup_steps, self._lease
        if not every or not moments.table.tensors:
            return
        name = f"{lease.layer}/optimizer"
        backup = Backup(name, moments, every, lease.incarnation, replica=lease.replica)
        # Created now: what is used for the first time here and at the master would hold up a step later.
        if not self._begin(backup) and lease.next_batch:
            log.info("there is no backup of layer %d's optimizers: they begin anew", lease.layer)
        replicas.append((backup, replicas[0][1]))

    def _await_reply(self, shard: str) -> None:
        while True:
            event = self.inbox.get()
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, PushReply) and event.shard == shard:
                return
