"""A chain of real trainers in one process, driven by a seeded schedule that may break and replace them.

What is modelled is the light profile: each slave has two streams to the master, whose relay keeps a mailbox
for each while it is open. A message is sent into the slave's outbox, transmitted to its receiver's mailbox
(or dropped, where there is none), received into that slave's inbox and handled there. Layers, synthesizers,
replicas, the parameter store and the data are the real ones.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from common import synthesizers
from common.config.data import DataConfig
from common.config.decoupling import DecouplingConfig
from common.config.downpour import DownpourConfig
from common.config.network import NetworkConfig
from common.config.optimizer import OptimizerConfig
from common.config.run import RunConfig
from common.config.sections import Config
from common.data import datasets
from common.data.batches import Batches
from common.data.datasets import Dataset
from common.models import network
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.shards.working_copy import Push, Replica
from common.synthesizers import GradientSynthesizer, VirtualForward
from common.wire.boundary import Direction, Down, Lost, Message, Ready, Taken, Up
from common.wire.payloads import decode_boundary, encode_boundary
from common.wire.signals import from_wire, to_wire
from master.store.store import Memory, Store
from slave.training.decoupling import Layer, Predicting, Synthesizer, Unlock
from slave.training.health import Fallback, Health
from slave.training.parts import Parts
from slave.training.trainer import Trainer
from slave.training.unlocks import build

UP, DOWN = Direction.UP, Direction.DOWN

MakeSynthesizer = Callable[[GradientSynthesizer, Flat, Stepper, Health, int], Synthesizer]


@lru_cache(maxsize=1)
def digits() -> Dataset:
    """The digits, loaded once."""
    return datasets.load(DataConfig())


def configured(
    *,
    model: str = "mlp",
    options: dict[str, object] | None = None,
    batches: int = 20,
    batch_size: int = 8,
    unlock: str = "update",
    gradient: str = "vfbn",
    gradient_options: dict[str, object] | None = None,
    in_flight: int | None = None,
    n_push: int = 3,
    decoupling: dict[str, Any] | None = None,
    optimizer: OptimizerConfig | None = None,
) -> Config:
    """A run on the digits, cut into a layer a unit."""
    config = Config(
        RunConfig(batches=batches, batch_size=batch_size),
        DataConfig(),
        NetworkConfig(model, options or {"widths": [6, 6, 6]}),
        DecouplingConfig(unlock, gradient, gradient_options or {}, in_flight=in_flight, **(decoupling or {})),
        optimizer or OptimizerConfig(),
        DownpourConfig(n_push=n_push),
    )
    blueprint = network.build(config, digits().input_shape, digits().classes)
    return network.cut(config, blueprint, digits().input_shape, digits().classes)


class WatchedLayer(Layer):
    """A layer that keeps account of what it was given."""

    def __init__(self, k: int, flat: Flat, stepper: Stepper, seed: int, *, goes_down: bool) -> None:
        super().__init__(k, flat, stepper, seed, goes_down=goes_down)
        self.forwards = 0
        self.inputs: list[Tensor] = []
        self.stepped: list[int] = []

    def forward(self, batch: int, h_below: Tensor) -> tuple[Tensor, Tensor]:
        """Count it, and keep the leaf, whose `.grad` will be what is sent down."""
        u, h = super().forward(batch, h_below)
        self.forwards += 1
        self.inputs.append(u)
        return u, h

    def step(self, batch: int, batch_size: int) -> None:
        """Note whose step it was."""
        super().step(batch, batch_size)
        self.stepped.append(batch)


class Incarnation:
    """One slave under one lease: what `slave.network.session` composes, without its threads."""

    def __init__(
        self, config: Config, k: int, number: int, store: Store, batches: Batches, make: MakeSynthesizer
    ) -> None:
        self.k, self.number = k, number
        self.first_batch = store.next_batch(f"{k}/weights")
        self.replicas: list[tuple[Replica, Stepper]] = []
        fallback = config.decoupling.fallback_cosine
        self.health = Health(None if fallback is None else Fallback(fallback))
        # What the tests compare the trainer's own counts with.
        self.sent_at: dict[int, int] = {}
        self.out: set[int] = set()
        self.delays: Counter[int] = Counter()
        self._config, self._store, self._make = config, store, make
        blueprint = network.build(config, digits().input_shape, digits().classes)
        cuts = config.network.cuts or []
        self.flat = Flat(network.layer(blueprint, cuts, k).train())
        stepper = self._stepper("weights", self.flat)
        goes_down = config.decoupling.unlock != "local"
        self.layer = WatchedLayer(k, self.flat, stepper, config.run.seed, goes_down=goes_down)
        self.window = 0 if k == config.layers else config.decoupling.window(k, config.layers)
        self.window_below = config.decoupling.window(k - 1, config.layers)
        self.trainer = Trainer(
            k,
            batches,
            config.run.batches,
            self._unlock(partial(self._module, network.boundary(blueprint, cuts, k))),
            window=self.window,
            window_below=self.window_below,
            incarnation=number,
            next_batch=self.first_batch,
            shape_below=network.boundary(blueprint, cuts, k - 1) if k > 1 else None,
        )

    @property
    def done(self) -> bool:
        """Through, and all that was learned is with the master."""
        return self.trainer.through and all(replica.unanswered is None for replica, _ in self.replicas)

    def check(self) -> None:
        """What holds at any time: the window is kept to, and nothing grows without bound."""
        trainer = self.trainer
        assert trainer.in_flight == len(self.out) <= self.window
        for inputs in trainer._inputs.values():
            assert len(inputs._waiting) <= 2 * self.window_below + 1
        assert len(trainer._answers) <= 2 * self.window_below
        assert max(trainer.delays, default=0) < max(self.window, 1)
        assert len(trainer._owed) <= max(self.window, 1)

    def _unlock(self, module: Callable[[], GradientSynthesizer]) -> Unlock:
        def make_predictor() -> Predicting:
            raise AssertionError("a layer that waits for its input has no I")

        return build(
            Parts(
                self._config,
                self.layer,
                self.health,
                lambda: self._synthesizer(module()),
                make_predictor,
                lambda: self._head(module()),
            )
        )

    def _module(self, shape: tuple[int, ...]) -> GradientSynthesizer:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.k)
            return synthesizers.build(self._config.decoupling, shape, digits().classes)

    def _synthesizer(self, module: GradientSynthesizer) -> Synthesizer:
        flat = Flat(module)
        every = self._config.decoupling.synthesizer_every
        stepper = self._stepper("gradient", flat)
        self.synthesizer = self._make(module, flat, stepper, self.health, every)
        return self.synthesizer

    def _head(self, module: GradientSynthesizer) -> tuple[VirtualForward, Stepper]:
        assert isinstance(module, VirtualForward)
        return module, self._stepper("gradient", Flat(module))

    def _stepper(self, shard: str, flat: Flat) -> Stepper:
        optimizer = self._config.optimizer if shard == "weights" else self._config.optimizer.synthesizer
        stepper = Stepper(flat, optimizer, self._config.run.batches)
        replica = Replica(f"{self.k}/{shard}", flat, self._config.downpour.n_push, self.number)
        if replica.name not in self._store.versions():
            initial = replica.initial()
            self._store.create(initial.header, [(0, initial.buffer.data)])
        reading = self._store.read(replica.name, self.number)
        replica.begin(reading.header, bytes(reading.buffer))
        reading.release()
        self.replicas.append((replica, stepper))
        return stepper


@dataclass
class Seat:
    """A layer's place: its present slave, and what is on its way from and to it."""

    slave: Incarnation | None = None
    connected: bool = False
    outbox: dict[Direction, deque[Message]] = field(default_factory=lambda: {UP: deque(), DOWN: deque()})
    mailbox: dict[Direction, deque[Message]] = field(default_factory=lambda: {UP: deque(), DOWN: deque()})
    # None stands for a stream that is open again.
    inbox: deque[Message | None] = field(default_factory=deque)
    # What fenced slaves had in their outboxes may still come through.
    ghosts: dict[Direction, deque[Message]] = field(default_factory=lambda: {UP: deque(), DOWN: deque()})


class DeadlockError(AssertionError):
    """Nothing can happen any more, and the run is not over."""


@dataclass(frozen=True)
class Fault:
    """After so many events the layer's streams "break", its slave may "die", the "master" starts anew."""

    after: int
    kind: str
    layer: int


Event = tuple[str, int, Callable[[], None]]


class Chain:
    """K slaves, the relay between them and the store under them.

    Args:
        config: of the run.
        seed: of the schedule.
        faults: what goes wrong, and when.
        gathered: whether all streams are open before anything is sent, as they seldom are.
        pushes: whether the store is told of what was learned.
        wire: whether messages go through their encoded form.
        make: builds each M's stepping, for tests that look into it.
    """

    def __init__(
        self,
        config: Config,
        seed: int = 0,
        faults: Iterable[Fault] = (),
        *,
        gathered: bool = False,
        pushes: bool = True,
        wire: bool = False,
        make: MakeSynthesizer = Synthesizer,
    ) -> None:
        self.config = config
        self.store = Store(Memory())
        self.batches = Batches(digits(), config.run.seed, config.run.batch_size)
        self.incarnations: list[Incarnation] = []
        self.seats = [Seat() for _ in range(config.layers)]
        self.events = 0
        self.sent: list[Message] = []
        self.deepest_mailbox = 0
        self._random = random.Random(seed)
        self._faults = sorted(faults, key=lambda fault: fault.after, reverse=True)
        self._pushes, self._wire, self._make = pushes, wire, make
        self._speeds: dict[tuple[str, int], float] = {}
        self._bytes: dict[str, tuple[int, bytes]] = {}
        for k in range(1, config.layers + 1):
            self._start(k)
            self.seats[k - 1].connected = gathered

    @property
    def slaves(self) -> list[Incarnation]:
        """Those that live now, the lowest layer first."""
        return [seat.slave for seat in self.seats if seat.slave is not None]

    @property
    def over(self) -> bool:
        """Whether every layer is done."""
        return len(self.slaves) == len(self.seats) and all(slave.done for slave in self.slaves)

    def of_layer(self, k: int) -> list[Incarnation]:
        """Every slave that layer k has had."""
        return [each for each in self.incarnations if each.k == k]

    def run(self) -> Chain:
        """Let things happen until the run is over.

        Raises:
            DeadlockError: nothing can, or too much did.
        """
        limit = 400 * self.config.run.batches * len(self.seats)
        while not self.over:
            self.events += 1
            while self._faults and self._faults[-1].after <= self.events:
                self._strike(self._faults.pop())
            events = list(self._possible())
            if not events or self.events > limit:
                raise DeadlockError(self._told())
            weights = [self._speed(kind, k) for kind, k, _ in events]
            self._random.choices(events, weights)[0][2]()
            for slave in self.slaves:
                slave.check()
        return self

    def network(self) -> nn.Sequential:
        """The layers as one module, for evaluation."""
        return nn.Sequential(*(slave.flat.module for slave in self.slaves))

    def _speed(self, kind: str, k: int) -> float:
        if (kind, k) not in self._speeds:
            self._speeds[kind, k] = self._random.choice([0.02, 0.2, 1.0, 1.0, 1.0, 5.0])
        return self._speeds[kind, k]

    def _possible(self) -> Iterator[Event]:
        for k, seat in enumerate(self.seats, 1):
            for way in (UP, DOWN):
                if seat.ghosts[way]:
                    yield f"ghost {way}", k, partial(self._transmit, k, way, ghost=True)
            slave = seat.slave
            if slave is None:
                yield "start", k, partial(self._start, k)
                continue
            if slave.trainer.can_advance:
                yield "advance", k, partial(self._advance, k, slave)
            if seat.inbox:
                yield "handle", k, partial(self._handle, k)
            if not seat.connected:
                yield "open", k, partial(self._open, k)
            for way in (UP, DOWN):
                if seat.connected and seat.outbox[way]:
                    yield f"transmit {way}", k, partial(self._transmit, k, way)
                if seat.mailbox[way]:
                    yield f"receive {way}", k, partial(self._receive, k, way)
            for replica, _ in slave.replicas:
                if replica.unanswered is not None:
                    yield "push", k, partial(self._push, replica, replica.unanswered)

    def _advance(self, k: int, slave: Incarnation) -> None:
        self._send(k, slave.trainer.advance())

    def _send(self, k: int, messages: Iterator[Message]) -> None:
        slave = self.seats[k - 1].slave
        assert slave is not None
        for message in messages:
            self.sent.append(message)
            if isinstance(message, Up) and message.batch not in slave.sent_at:
                slave.sent_at[message.batch] = slave.layer.forwards
                slave.out.add(message.batch)
            assert message.direction is not None
            self.seats[k - 1].outbox[message.direction].append(message)
        for replica, stepper in slave.replicas if self._pushes else ():
            batch = slave.trainer.next_batch
            pushed = replica.flush(stepper.steps, batch) if slave.trainer.through else None
            pushed = pushed or replica.due(stepper.steps, batch)
            if pushed:
                self._bytes[replica.name] = (pushed.header.sequence, pushed.buffer.tobytes())

    def _handle(self, k: int) -> None:
        seat = self.seats[k - 1]
        assert seat.slave is not None
        message = seat.inbox.popleft()
        if message is None:
            self._send(k, seat.slave.trainer.unanswered())
            return
        if isinstance(message, Down | Lost | Taken):
            self._account(seat.slave, message)
        self._send(k, seat.slave.trainer.receive(message))

    def _account(self, slave: Incarnation, message: Message) -> None:
        if message.incarnation == slave.number and message.batch in slave.out:
            slave.out.remove(message.batch)
            if isinstance(message, Down):
                slave.delays[slave.layer.forwards - slave.sent_at[message.batch]] += 1

    def _transmit(self, k: int, way: Direction, *, ghost: bool = False) -> None:
        seat = self.seats[k - 1]
        message = (seat.ghosts if ghost else seat.outbox)[way].popleft()
        if self._wire:
            message = from_wire(decode_boundary(encode_boundary(to_wire(message))))
        assert message.layer == k + way
        self._deliver(message.layer, way, message)

    def _deliver(self, k: int, way: Direction, message: Message) -> None:
        if self.seats[k - 1].connected:
            mailbox = self.seats[k - 1].mailbox[way]
            mailbox.append(message)
            self.deepest_mailbox = max(self.deepest_mailbox, len(mailbox))

    def _receive(self, k: int, way: Direction) -> None:
        self.seats[k - 1].inbox.append(self.seats[k - 1].mailbox[way].popleft())

    def _push(self, replica: Replica, push: Push) -> None:
        assert self._bytes[replica.name] == (push.header.sequence, push.buffer.tobytes())
        reply = self.store.apply(push.header, [(0, push.buffer.data)])
        # Its answer may be lost: it is then sent once more.
        if self._random.random() < 0.8:
            replica.answered(reply)
            slave = next(slave for slave in self.slaves if replica in [each for each, _ in slave.replicas])
            self._send(slave.k, iter(()))

    def _start(self, k: int) -> None:
        number = len(self.incarnations) + 1
        slave = Incarnation(self.config, k, number, self.store, self.batches, self._make)
        self.incarnations.append(slave)
        self.seats[k - 1].slave = slave

    def _open(self, k: int) -> None:
        seat = self.seats[k - 1]
        for way in (UP, DOWN):
            seat.outbox[way].clear()
            seat.mailbox[way].clear()
        seat.connected = True
        seat.inbox.append(None)
        if k > 1:
            self._deliver(k - 1, UP, Ready(layer=k))

    def _strike(self, fault: Fault) -> None:
        if fault.kind == "master":
            for k in range(1, len(self.seats) + 1):
                self._strike(Fault(fault.after, "break", k))
            return
        seat = self.seats[fault.layer - 1]
        seat.connected = False
        for way in (UP, DOWN):
            seat.mailbox[way].clear()
        if fault.kind == "die" and seat.slave is not None:
            for way in (UP, DOWN):
                seat.ghosts[way].extend(seat.outbox[way])
                seat.outbox[way].clear()
            seat.inbox.clear()
            self.store.forget(seat.slave.number)
            seat.slave = None

    def _told(self) -> str:
        lines = [f"after {self.events} events:"]
        for k, seat in enumerate(self.seats, 1):
            trainer = seat.slave.trainer if seat.slave else None
            state = trainer and {name: value for name, value in vars(trainer).items() if name != "_unlock"}
            lines.append(f"layer {k}: {state}; {dataclasses.replace(seat, slave=None)}")
        return "\n".join(lines)
