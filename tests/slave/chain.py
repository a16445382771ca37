"""Chain of real workers in one process, driven by a seeded schedule of steps, broken streams and deaths.

The profile is light: a slave has two streams to the master, whose relay keeps a mailbox for an open stream.
A message goes from the sender's outbox to the receiver's mailbox (or is dropped without a mailbox), then to
the receiver's inbox, and is handled there. Workers, store and data are real.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

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
from common.optim.stepper import UNCHANGED, Adjustment
from common.shards.working_copy import Push, WorkingCopy
from common.signals.values import Signal, plain
from common.wire.boundary import Direction, Down, Lost, Message, OutputGradient, Ready, Taken, Up
from common.wire.messages import JoinReply
from common.wire.payloads import decode_boundary, encode_boundary
from common.wire.signals import from_wire, to_wire
from master.store.store import Memory, Store
from slave.training import layers
from slave.training.decoupling import Synthesizer
from slave.training.layer import Forward, Layer
from slave.training.trainer import WindowedTrainer
from slave.training.worker import Effect, Send, Worker

UP, DOWN = Direction.UP, Direction.DOWN


@lru_cache(maxsize=1)
def digits() -> Dataset:
    """Load the digits, once."""
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
    """Configure a run on the digits, cut into a layer a unit."""
    config = Config(
        RunConfig(batches=batches, batch_size=batch_size),
        DataConfig(),
        NetworkConfig(model, options or {"widths": [6, 6, 6]}),
        DecouplingConfig(unlock, gradient, gradient_options or {}, in_flight=in_flight, **(decoupling or {})),
        optimizer or OptimizerConfig(),
        DownpourConfig(n_push=n_push),
    )
    blueprint = network.build(config, digits().inputs, digits().targets)
    return network.cut(config, blueprint)


class WatchedLayer(Layer):
    """Layer with a record of inputs and steps."""

    def __init__(self, *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        self.forwards = 0
        self.inputs: list[Tensor] = []
        self.stepped: list[int] = []

    def forward(self, batch: int, h_below: Signal, y: Tensor | None = None) -> Forward:
        """Count the forward, and keep the leaf u, whose `.grad` is later sent down."""
        passed = super().forward(batch, h_below, y)
        self.forwards += 1
        self.inputs.append(plain(passed.u))
        return passed

    def step(self, batch: int, batch_size: int, adjustment: Adjustment = UNCHANGED) -> None:
        """Record the batch of the step."""
        super().step(batch, batch_size, adjustment)
        self.stepped.append(batch)


class Incarnation:
    """Slave under one lease: the worker, and a record of steps and messages."""

    def __init__(
        self,
        config: Config,
        k: int,
        number: int,
        store: Store,
        make: Callable[..., Synthesizer] = Synthesizer,
        *,
        pushes: bool = True,
    ) -> None:
        self.k, self.number = k, number
        self.first_batch = store.next_batch(f"{k}/weights")
        # Counts that the tests compare with the trainer's own.
        self.sent_at: dict[int, int] = {}
        self.out: set[int] = set()
        self.delays: Counter[int] = Counter()
        self._store = store
        blueprint = network.build(config, digits().inputs, digits().targets)
        lease = JoinReply(True, False, k, 0, number, self.first_batch)
        with patch.object(layers, "Layer", WatchedLayer), patch.object(layers, "Synthesizer", make):
            trained = layers.build(config, blueprint, digits(), lease, self._begin)
        assert isinstance(trained.layer, WatchedLayer)
        assert isinstance(trained.trainer, WindowedTrainer)
        copies = trained.copies if pushes else []
        self.worker = Worker(dataclasses.replace(trained, copies=copies))
        self.layer, self.trainer, self.health = trained.layer, trained.trainer, trained.health
        self.flat, self.copies = trained.layer.flat, trained.copies
        self.window = 0 if k == config.layers else config.decoupling.window(k, config.layers)
        self.window_below = config.decoupling.window(k - 1, config.layers)

    @property
    def synthesizer(self) -> Synthesizer:
        """M, of unlock `update`."""
        unlock: Any = self.trainer._unlock
        synthesizer = unlock._synthesizer._synthesizer
        assert isinstance(synthesizer, Synthesizer)
        return synthesizer

    def check(self) -> None:
        """Check the invariants: the window is kept, and every queue is bounded."""
        trainer = self.trainer
        assert trainer.in_flight == len(self.out) <= self.window
        for inputs in trainer._inputs.values():
            assert len(inputs._waiting) <= 2 * self.window_below + 1
        assert len(trainer._answers) <= 2 * self.window_below
        assert max(trainer.delays, default=0) < max(self.window, 1)
        assert len(trainer._owed) <= max(self.window, 1)

    def _begin(self, copy: WorkingCopy) -> None:
        if copy.name not in self._store.versions():
            initial = copy.initial()
            self._store.create(initial.header, [(0, initial.buffer.data)])
        reading = self._store.read(copy.name, self.number)
        copy.begin(reading.header, bytes(reading.buffer))
        reading.release()


@dataclass
class Seat:
    """Seat of a layer: the present slave, and the messages under way."""

    slave: Incarnation | None = None
    connected: bool = False
    outbox: dict[Direction, deque[Message]] = field(default_factory=lambda: {UP: deque(), DOWN: deque()})
    mailbox: dict[Direction, deque[Message]] = field(default_factory=lambda: {UP: deque(), DOWN: deque()})
    inbox: deque[Message] = field(default_factory=deque)
    # By shard, the unanswered push, and a copy of the bytes.
    pushes: dict[str, tuple[Push, bytes]] = field(default_factory=dict)
    # Messages from the outboxes of fenced slaves, which may still arrive.
    ghosts: dict[Direction, deque[Message]] = field(default_factory=lambda: {UP: deque(), DOWN: deque()})


class DeadlockError(AssertionError):
    """No event is possible before the end of the run."""


@dataclass(frozen=True)
class Fault:
    """Fault after a number of events: "break" of a layer's streams, "die" of the slave, "master" restarts."""

    after: int
    kind: str
    layer: int


Event = tuple[str, int, Callable[[], None]]


class Chain:
    """K slaves, the relay and the store.

    Args:
        config: of the run.
        seed: of the schedule.
        faults: faults of the run.
        gathered: whether all streams are open before the first message, unlike most real runs.
        pushes: whether slaves push to the store.
        wire: whether messages are encoded and decoded.
        make: class of M with the optimizer, for tests that record calls.
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
        make: Callable[..., Synthesizer] = Synthesizer,
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
        for k in range(1, config.layers + 1):
            self._start(k)
            self.seats[k - 1].connected = gathered

    @property
    def slaves(self) -> list[Incarnation]:
        """Living slaves, the lowest layer first."""
        return [seat.slave for seat in self.seats if seat.slave is not None]

    @property
    def over(self) -> bool:
        """Whether every layer is done."""
        return len(self.slaves) == len(self.seats) and all(slave.worker.done for slave in self.slaves)

    def of_layer(self, k: int) -> list[Incarnation]:
        """Return every past and present slave of layer k."""
        return [each for each in self.incarnations if each.k == k]

    def run(self) -> Chain:
        """Let events happen until the run is over.

        Raises:
            DeadlockError: no event is possible, or the limit of events is reached.
        """
        limit = 400 * self.config.run.batches * len(self.seats)
        while not self.over:
            self.events += 1
            while self._faults and self._faults[-1].after <= self.events:
                self._strike(self._faults.pop())
            events = list(self._possible())
            if not events or self.events > limit:
                raise DeadlockError(self._describe())
            weights = [self._speed(kind, k) for kind, k, _ in events]
            self._random.choices(events, weights)[0][2]()
            for slave in self.slaves:
                slave.check()
        return self

    def network(self) -> nn.Sequential:
        """Return the layers as one module, for evaluation."""
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
            if slave.worker.can_advance:
                yield "advance", k, partial(self._carry_out, k, slave, slave.worker.advance())
            if seat.inbox:
                yield "handle", k, partial(self._handle, k)
            if not seat.connected:
                yield "open", k, partial(self._open, k)
            for way in (UP, DOWN):
                if seat.connected and seat.outbox[way]:
                    yield f"transmit {way}", k, partial(self._transmit, k, way)
                if seat.mailbox[way]:
                    yield f"receive {way}", k, partial(self._receive, k, way)
            for push, content in seat.pushes.values():
                yield "push", k, partial(self._push, k, push, content)

    def _carry_out(self, k: int, slave: Incarnation, effects: Iterator[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    self._send(k, slave, message)
                case Push():
                    content = effect.buffer.tobytes()
                    assert (
                        self.seats[k - 1].pushes.setdefault(effect.header.shard, (effect, content))[0]
                        is effect
                    )

    def _send(self, k: int, slave: Incarnation, message: Message) -> None:
        self.sent.append(message)
        if isinstance(message, Up) and message.batch not in slave.sent_at:
            slave.sent_at[message.batch] = slave.layer.forwards
            slave.out.add(message.batch)
        assert message.direction is not None
        self.seats[k - 1].outbox[message.direction].append(message)

    def _handle(self, k: int) -> None:
        seat = self.seats[k - 1]
        assert seat.slave is not None
        event = seat.inbox.popleft()
        if isinstance(event, Down | Lost | Taken):
            self._account(seat.slave, event)
        self._carry_out(k, seat.slave, seat.slave.worker.handle(event))

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
        assert isinstance(message, OutputGradient) or message.layer == k + way
        self._deliver(message.layer, way, message)

    def _deliver(self, k: int, way: Direction, message: Message) -> None:
        if self.seats[k - 1].connected:
            mailbox = self.seats[k - 1].mailbox[way]
            mailbox.append(message)
            self.deepest_mailbox = max(self.deepest_mailbox, len(mailbox))

    def _receive(self, k: int, way: Direction) -> None:
        self.seats[k - 1].inbox.append(self.seats[k - 1].mailbox[way].popleft())

    def _push(self, k: int, push: Push, content: bytes) -> None:
        assert push.buffer.tobytes() == content
        reply = self.store.apply(push.header, [(0, push.buffer.data)])
        # A lost answer has the push sent once more.
        if self._random.random() < 0.8:
            seat = self.seats[k - 1]
            assert seat.slave is not None
            del seat.pushes[push.header.shard]
            self._carry_out(k, seat.slave, seat.slave.worker.handle(reply))

    def _start(self, k: int) -> None:
        number = len(self.incarnations) + 1
        slave = Incarnation(self.config, k, number, self.store, self._make, pushes=self._pushes)
        self.incarnations.append(slave)
        self.seats[k - 1].slave = slave

    def _open(self, k: int) -> None:
        seat = self.seats[k - 1]
        for way in (UP, DOWN):
            seat.outbox[way].clear()
            seat.mailbox[way].clear()
        seat.connected = True
        if k < len(self.seats):
            seat.inbox.append(Ready(layer=k + 1))
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
            seat.pushes.clear()
            self.store.forget(seat.slave.number)
            seat.slave = None

    def _describe(self) -> str:
        lines = [f"after {self.events} events:"]
        for k, seat in enumerate(self.seats, 1):
            trainer = seat.slave.trainer if seat.slave else None
            state = trainer and {name: value for name, value in vars(trainer).items() if name != "_unlock"}
            lines.append(f"layer {k}: {state}; {dataclasses.replace(seat, slave=None)}")
        return "\n".join(lines)
