"""Training under one lease: the layer, M and their replicas on one side, the network's inbox on the other."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from common import batches, datasets, network, synthesizers
from common.config import Config
from common.datasets import Dataset
from common.errors import ConfigError, LayerwiseError, NotFoundError
from common.flat import Flat
from common.lifecycle import cpu_seconds, peak_rss_bytes
from common.messages import HeartbeatReply, JoinReply, PushReply, Telemetry
from common.network import Blueprint
from common.replicas import Place
from slave.decoupling import Health, Layer, Message, NoUnlock, Synthesizer, Top, Unlock, UpdateUnlock
from slave.links import Reopened
from slave.network import Network
from slave.replica import Replica
from slave.schedule import AccruingStepper, Stepper
from slave.trainer import Trainer
from slave.transfer import Fetched

if TYPE_CHECKING:
    from slave.service import Options

log = logging.getLogger("layerwise.slave")

# How often the telemetry is made anew, and how long the last pushes may take when the slave is asked to stop.
TELEMETRY_SECONDS = 0.1
FAREWELL_SECONDS = 5.0


@dataclass(frozen=True)
class Ground:
    """What a slave prepares once, whatever layer it will be given."""

    config: Config
    dataset: Dataset
    device: torch.device
    options: Options

    @staticmethod
    def prepare(config: Config, options: Options) -> Ground:
        """Load the data and see that the network can be built here.

        Raises:
            ConfigError: this machine lacks the data, the user's code or the device.
        """
        device = _device(options.device)
        dataset = datasets.load(config.data, path=options.data, code=options.code)
        return Ground(config, dataset, device, options)

    def blueprint(self) -> Blueprint:
        """The network with its initial parameters."""
        return network.build(self.config, self.dataset.input_shape, self.dataset.classes, self.options.code)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: is no device; use auto, cpu or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices here; use auto or cpu"
        )
    return device


class Session:
    """One lease: the layer's replicas, its trainer, and the connections to the master.

    Raises:
        LayerwiseError: as soon as the lease or the run cannot go on.
    """

    def __init__(self, ground: Ground, lease: JoinReply) -> None:
        self._ground = ground
        self._lease = lease
        self._config = ground.config
        self._health = Health()
        self._step_seconds = 0.0
        self._waiting_seconds = 0.0
        self._pulls = 0
        self._done = False
        self._telemetry = Telemetry(next_batch=lease.next_batch)
        self._measured_at = time.perf_counter()
        self._beat_at = (time.perf_counter(), 0)
        self._replicas: list[tuple[Replica, Stepper]] = []
        self._network = Network(
            ground.options.master,
            lease,
            self._config.cluster.heartbeat_seconds,
            ground.options.wait,
            self._latest_telemetry,
        )
        self.inbox: queue.SimpleQueue[object] = self._network.inbox
        self._network.start()
        try:
            self._trainer = self._built()
        except BaseException as error:
            self._network.leave(str(error) or type(error).__name__)
            self._network.close()
            raise

    def run(self) -> None:
        """Train until the run is over.

        Raises:
            FencedError: the lease has passed to another.
            LayerwiseError: the run cannot go on here.
        """
        self._network.exchange()
        while True:
            event = self._next_event()
            while event is not None:
                if isinstance(event, HeartbeatReply):
                    return
                self._handle(event)
                event = self._next_event() if not self.inbox.empty() else None
            if self._trainer.can_advance:
                self._step(self._trainer.advance())
            self._check_done()

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
            return self.inbox.get(block=not self._trainer.can_advance, timeout=TELEMETRY_SECONDS)
        except queue.Empty:
            self._measure()
            return None

    def _handle(self, event: object) -> None:
        if isinstance(event, Message):
            event = replace(event, tensor=self._placed(event.tensor))
            self._step(self._trainer.receive(event))
        elif isinstance(event, PushReply):
            self._answered(event)
        elif isinstance(event, Fetched):
            self._rebase(event)
        elif isinstance(event, Reopened):
            self._step(self._trainer.unanswered())
        elif isinstance(event, BaseException):
            raise event

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

    def _placed(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(self._ground.device)

    def _step(self, messages: Iterator[Message]) -> None:
        """Let the trainer work, send what it says, push what is due; and take the time."""
        began, waited = time.perf_counter(), 0.0
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
        """Once the layer is through, push the rest; once that is answered, tell the master."""
        if not self._trainer.through or self._done:
            return
        self._flush()
        if all(replica.unanswered is None for replica, _ in self._replicas):
            self._done = True
            self._measure()
            self._network.beat()

    def _measure(self) -> None:
        trainer = self._trainer
        self._measured_at = time.perf_counter()
        self._telemetry = Telemetry(
            steps=trainer.steps,
            next_batch=trainer.next_batch,
            lost_batches=trainer.lost_batches,
            in_flight=trainer.in_flight,
            step_seconds=self._step_seconds,
            waiting_seconds=self._waiting_seconds,
            delays=dict(trainer.delays),
            loss=self._health.loss,
            gradient_loss=self._health.gradient_loss,
            gradient_cosine=self._health.gradient_cosine,
            done=self._done,
            pulls=self._pulls,
        )

    def _latest_telemetry(self) -> Telemetry:
        """On the network's thread, once a heartbeat: the newest telemetry, with what the process has used."""
        now, telemetry = time.perf_counter(), self._telemetry
        then, steps = self._beat_at
        self._beat_at = (now, telemetry.steps)
        rate = (telemetry.steps - steps) * self._config.run.batch_size / (now - then)
        return replace(
            telemetry, samples_per_second=rate, cpu_seconds=cpu_seconds(), peak_rss_bytes=peak_rss_bytes()
        )

    def _built(self) -> Trainer:
        """The layer at the master's version, ready to train."""
        config, k, layers = self._config, self._lease.layer, self._config.layers
        blueprint = self._ground.blueprint()
        cuts = config.network.cuts or []
        flat = Flat(network.layer(blueprint, cuts, k), self._ground.device)
        flat.module.train()
        stepper = self._stepper(flat)
        self._replicate(f"{k}/weights", flat, stepper)
        unlock = self._unlock(Layer(k, flat, stepper), network.boundary(blueprint, cuts, k))
        log.info(
            "layer %d of %d on %s, from batch %d: %s",
            k,
            layers,
            self._ground.device,
            self._lease.next_batch,
            f"{flat.parameters.numel():,} parameters",
        )
        return Trainer(
            k,
            batches.Batches(self._ground.dataset, config.run.seed, config.run.batch_size),
            config.run.batches,
            unlock,
            window=0 if k == layers else config.decoupling.window(k, layers),
            window_below=config.decoupling.window(k - 1, layers),
            incarnation=self._lease.incarnation,
            next_batch=self._lease.next_batch,
            place=self._place(),
            shape_below=network.boundary(blueprint, cuts, k - 1) if k > 1 else None,
        )

    def _stepper(self, flat: Flat) -> Stepper:
        config = self._config
        kind = AccruingStepper if config.downpour.push == "gradient" else Stepper
        return kind(flat, config.optimizer, config.run.batches)

    def _place(self) -> Place:
        """Which replica this is, between those of the layers below and above."""
        k, counts = self._lease.layer, self._config.replicas
        below, above = counts[max(k - 2, 0)], counts[min(k, len(counts) - 1)]
        return Place(self._lease.replica, counts[k - 1], below, above, self._config.downpour.warm_start)

    def _unlock(self, layer: Layer, shape: tuple[int, ...]) -> Unlock:
        if layer.k == self._config.layers:
            return Top(layer, self._health)
        if self._config.decoupling.unlock == "none":
            return NoUnlock(layer)
        return UpdateUnlock(layer, self._synthesizer(layer.k, shape))

    def _synthesizer(self, k: int, shape: tuple[int, ...]) -> Synthesizer:
        config = self._config
        with torch.random.fork_rng(devices=[]):
            # A stream of its own for each layer's M, apart from the network's.
            torch.default_generator.manual_seed((config.run.seed << 20) + k)
            module = synthesizers.build(config.decoupling, shape, self._ground.dataset.classes)
        flat = Flat(module, self._ground.device)
        stepper = Stepper(flat, config.optimizer.synthesizer, config.run.batches)
        self._replicate(f"{k}/gradient", flat, stepper)
        return Synthesizer(module, flat, stepper, self._health)

    def _replicate(self, shard: str, flat: Flat, stepper: Stepper) -> None:
        """Bring a module to the master's version of its shard, which is created if it is not there."""
        accrued = stepper if isinstance(stepper, AccruingStepper) else None
        downpour = self._config.downpour
        others = accrued is not None or self._config.replicas[self._lease.layer - 1] > 1
        replica = Replica(
            shard,
            flat,
            downpour.n_push,
            self._lease.incarnation,
            downpour.n_fetch if others else 0,
            accrued,
            self._lease.replica,
        )
        try:
            replica.begin(*self._network.pull(shard))
        except NotFoundError:
            self._network.push(replica.initial())
            self._await_reply(shard)
            replica.begin(*self._network.pull(shard))
        self._pulls += 1
        self._replicas.append((replica, stepper))

    def _await_reply(self, shard: str) -> None:
        while True:
            event = self.inbox.get()
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, PushReply) and event.shard == shard:
                return
