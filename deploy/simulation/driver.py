"""A whole run in one process under a virtual clock: the real trainers and store on made-up machines.

The same configuration gives the same events, and the same numbers to the last bit, on the same build of
torch. What a slave computes is done at once when its event comes; what it sends leaves when it would be done.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from common.config.sections import Config
from common.config.simulation import seat_of
from common.data.datasets import Dataset
from common.errors import ConfigError, RunFailedError
from common.models import network
from common.models.network import Blueprint
from common.shards.pushes import Buffer, Header, PushReply
from common.shards.working_copy import Push
from common.wire import precision
from common.wire.boundary import Down, Message, Ready, Up
from common.wire.messages import Counters, JoinReply, Seat, StatusReply
from deploy.simulation.center import Center
from deploy.simulation.clock import Clock
from deploy.simulation.hollow import hollow
from deploy.simulation.machine import Event, Fetched, Machine, Reopened
from deploy.simulation.paces import paces
from deploy.simulation.wires import Wires
from slave.training import layers
from slave.training.free import FreeTrainer

# Of a message without a tensor, and of what goes before one.
HEADER_NBYTES = 100


class Driver:
    """One run.

    Raises:
        ConfigError: the run cannot be simulated.

    Args:
        config: of the run, resolved; its section `simulation` makes up the machines.
        dataset: what is trained on.
        trains: whether tensors are computed; without, all goes the same way on shards of no size.

    Attributes:
        center: the master.
        deaths: slaves that died.
        messages: that were sent between layers.
    """

    def __init__(self, config: Config, dataset: Dataset, *, trains: bool) -> None:
        if config.cluster.served:
            raise ConfigError('cluster.synthesis: "master" is not simulated; leave it out')
        self.config = config
        self.deaths = self.messages = 0
        self._dataset, self._trains = dataset, trains
        # Any message may be lost, and no layer waits for another.
        self._free = config.decoupling.slots is not None
        self._clock = Clock()
        self._draws = random.Random(config.simulation.seed)  # noqa: S311 - it makes up a schedule
        self._wires = Wires(config.simulation, self._draws)
        self._paces = paces(config, self._blueprint(), dataset)
        self.center = Center(config, self._clock, self._wires)
        self._through = self._incarnations = self._undone = 0
        self._machines = self._made_up()
        for machine in self._machines.values():
            self._seat(machine)
            self._clock.at(0.0, partial(self._turn, machine))
        for machine, seconds in self._named("deaths").items():
            self._clock.at(seconds, partial(self._die, machine))

    @property
    def seconds(self) -> float:
        """Virtual time since the run began."""
        return self._clock.now

    @property
    def machines(self) -> list[Machine]:
        """Every slave's, the lowest layer's first."""
        return list(self._machines.values())

    def run(self) -> Iterator[int]:
        """Let things happen until the run is over; yields how many batches the master has of all layers.

        Raises:
            RunFailedError: it can never be over.
        """
        told = 0
        while self._undone:
            if not self._clock.advance():
                left = [f"layer {m.layer}.{m.replica}" for m in self.machines if not m.done]
                raise RunFailedError(f"the simulated run stands still before {', '.join(left)} are done")
            if self._through > told:
                told = self._through
                yield told

    def pull(self, shard: str) -> tuple[Header, Buffer]:
        """The master's present version of a shard.

        Raises:
            NotFoundError: there is no such shard.
        """
        return self.center.read(shard)

    def seats(self) -> list[Seat]:
        """What each slave has to say."""
        return [self._told(machine) for machine in self.machines]

    def status(self) -> StatusReply:
        """What a master would say of the run now."""
        delays: Counter[int] = Counter()
        for machine in self.machines:
            delays += machine.delays
        return StatusReply(
            name=self.config.run.name,
            state="training" if self._undone else "done",
            batches=self._through,
            of_batches=self.config.run.batches,
            training_seconds=self.seconds,
            seats=self.seats(),
            versions=self.center.store.versions(),
            delays=dict(delays),
            waiting_fraction=dict.fromkeys(range(1, self.config.layers + 1), 0.0),
            lost_batches=sum(machine.lost_batches for machine in self.machines),
            counters=Counters(
                staleness=dict(self.center.staleness), pushes=self.center.pushes, pulls=self.center.pulls
            ),
        )

    def utilization(self, k: int) -> float:
        """The part of the time in which layer k's slaves have computed."""
        own = [machine for machine in self.machines if machine.layer == k]
        return sum(machine.busy_seconds for machine in own) / (len(own) * max(self.seconds, 1e-12))

    def _told(self, machine: Machine) -> Seat:
        state = "done" if machine.done else "training" if machine.seated else "vacant"
        return Seat(
            layer=machine.layer,
            replica=machine.replica,
            state=state,
            device="simulated",
            incarnation=machine.lease.incarnation,
            beat=self._through,
            telemetry=machine.telemetry(),
        )

    def _blueprint(self) -> Blueprint:
        return network.build(self.config, self._dataset.input_shape, self._dataset.classes)

    def _made_up(self) -> dict[tuple[int, int], Machine]:
        settings = self.config.simulation
        machines = {}
        for k, replicas in enumerate(self.config.replicas, 1):
            for r in range(replicas):
                slow = self._draws.random() < settings.stragglers
                machines[k, r] = Machine(k, r, settings.straggler_factor if slow else 1.0)
        self._machines = machines
        for machine, factor in self._named("slowed").items():
            machine.slowness = factor
        self._undone = len(machines)
        return machines

    def _named(self, key: str) -> dict[Machine, float]:
        """The machines that a key of the section names, and what for."""
        found = {}
        for name, value in getattr(self.config.simulation, key).items():
            machine = self._machines.get(seat_of(name, f"simulation.{key}"))
            if machine is None:
                raise ConfigError(
                    f'simulation.{key}: there is no slave "{name}" among {self.config.replicas} replicas of '
                    f"{self.config.layers} layers; name layer.replica, counted from 1.0"
                )
            found[machine] = float(value)
        return found

    def _seat(self, machine: Machine) -> None:
        """Have a slave take a place, with the master's versions."""
        self._incarnations += 1
        k, r = machine.layer, machine.replica
        first = self.center.store.next_batch(f"{k}/weights", r)
        lease = JoinReply(True, False, k, r, self._incarnations, first)
        begin = partial(self.center.begin, lease)
        if self._trains:
            seated = layers.seated(self.config, self._blueprint(), self._dataset, lease, begin)
        else:
            seated = hollow(self.config, lease, self._paces[k - 1].shard_nbytes, begin)
        machine.take(lease, seated)

    def _die(self, machine: Machine) -> None:
        if machine.seated is None or machine.done:
            return
        self.deaths += 1
        self.center.store.forget(machine.lease.incarnation)
        machine.die()
        self._clock.at(self.seconds + self.config.simulation.restart_seconds, partial(self._replace, machine))

    def _replace(self, machine: Machine) -> None:
        """A successor takes the place; those below send it again what they have no answer to."""
        self._seat(machine)
        machine.inbox.append(Reopened())
        for sender in layers.place(self.config, machine.lease).senders(machine.layer):
            self._deliver(self._machines[machine.layer - 1, sender], Ready(sender=machine.replica))
        self._turn(machine)

    def _turn(self, machine: Machine) -> None:
        """Let a slave do what it can until it computes or there is nothing to do."""
        while machine.seated is not None and machine.busy_until <= self.seconds:
            if machine.inbox:
                took = self._handle(machine, machine.inbox.popleft())
            elif machine.seated.trainer.can_advance:
                took = self._advance(machine)
            else:
                self._rest(machine)
                return
            if took:
                machine.busy_seconds += took
                machine.busy_until = self.seconds + took
                self._clock.at(machine.busy_until, partial(self._turn, machine))

    def _advance(self, machine: Machine) -> float:
        assert machine.seated is not None
        trainer, before = machine.seated.trainer, machine.seated.trainer.steps
        messages = list(trainer.advance())
        pace, noise = self._paces[machine.layer - 1], self._noise(machine)
        took = pace.step * noise if trainer.steps > before else 0.0
        for message in messages:
            early = isinstance(message, Up)
            self._leave(machine, message, pace.until_sent * noise if early else took)
        self._exchange(machine, took)
        if self._free:
            self._stop_free()
        return took

    def _stop_free(self) -> None:
        """Where no layer waits for another, have all stop once every one has gone through the batches."""
        seated = [machine.seated for machine in self.machines]
        if all(each and each.trainer.next_batch >= self.config.run.batches for each in seated):
            for each in seated:
                if each is not None and isinstance(each.trainer, FreeTrainer):
                    each.trainer.stop()

    def _handle(self, machine: Machine, event: Event) -> float:
        """Take what has come; the seconds of computing that follow."""
        assert machine.seated is not None
        trainer, took = machine.seated.trainer, 0.0
        if isinstance(event, Message):
            if isinstance(event, Down) and not self._free:
                took = self._paces[machine.layer - 1].answer * self._noise(machine)
            self._leave_all(machine, trainer.receive(event), took)
        elif isinstance(event, Reopened):
            self._leave_all(machine, trainer.unanswered(), took)
        else:
            self._answered(machine, event)
        self._exchange(machine, took)
        return took

    def _answered(self, machine: Machine, event: PushReply | Fetched) -> None:
        assert machine.seated is not None
        shard = event.shard if isinstance(event, PushReply) else event.header.shard
        for replica, _ in machine.seated.replicas:
            if replica.name == shard and isinstance(event, PushReply):
                replica.answered(event)
            elif replica.name == shard and isinstance(event, Fetched):
                replica.fetched(event.header, event.buffer)

    def _exchange(self, machine: Machine, took: float) -> None:
        """Push what is due and fetch what is, once the computing is done."""
        assert machine.seated is not None
        for replica, stepper in machine.seated.replicas:
            push = replica.due(stepper.steps, machine.seated.trainer.next_batch)
            if push:
                self._after(machine, took, partial(self._push, machine, push))
            if replica.fetch_due(stepper.steps):
                self._after(machine, took, partial(self._fetch, machine, replica.name))

    def _rest(self, machine: Machine) -> None:
        """Once the layer is through, push the rest; once that is answered, the slave is done."""
        assert machine.seated is not None
        if not machine.seated.trainer.through or machine.done:
            return
        for replica, stepper in machine.seated.replicas:
            push = replica.flush(stepper.steps, machine.seated.trainer.next_batch)
            if push:
                self._push(machine, push)
        if all(replica.unanswered is None for replica, _ in machine.seated.replicas):
            machine.done = True
            self._undone -= 1

    def _noise(self, machine: Machine) -> float:
        jitter = self.config.simulation.jitter
        return machine.slowness * (self._draws.lognormvariate(0.0, jitter) if jitter else 1.0)

    def _leave_all(self, machine: Machine, messages: Iterable[Message], took: float) -> None:
        for message in messages:
            self._leave(machine, message, took)

    def _leave(self, machine: Machine, message: Message, took: float) -> None:
        self._after(machine, took, partial(self._send, machine, message))

    def _after(self, machine: Machine, took: float, event: Callable[[], None]) -> None:
        """At once, or when the computing is done."""
        if took:
            self._clock.at(self.seconds + took, self._owned(machine, event))
        else:
            event()

    def _send(self, machine: Machine, message: Message) -> None:
        """Send a boundary message: straight to its receiver, or by way of the master."""
        self.messages += 1
        direct = self.config.cluster.direct
        if self._free and any(self._wires.lost() for _ in range(1 if direct else 2)):
            return
        below, again = min(machine.layer, message.layer), not self._free
        nbytes = HEADER_NBYTES + len(message.carried()) * self._paces[below - 1].boundary_nbytes
        receiver = self._machines[message.layer, message.replica]
        deliver = partial(self._deliver, receiver, self._as_received(message))
        if direct:
            arrival = self._wires.arrival(self.seconds, machine.link, receiver.link, nbytes, resent=again)
            self._clock.at(arrival, deliver)
        else:
            pass_on = partial(self.center.send, receiver.link, nbytes, deliver, resent=again)
            self.center.ask(machine.link, nbytes, pass_on, resent=again)

    def _as_received(self, message: Message) -> Message:
        return message.map_tensors(lambda tensor: precision.rounded(tensor, self.config.cluster.wire))

    def _push(self, machine: Machine, push: Push) -> None:
        def arrived() -> None:
            reply = self.center.apply(push)
            self.center.send(
                machine.link, HEADER_NBYTES, self._owned(machine, partial(self._deliver, machine, reply))
            )
            self._follow()

        nbytes = HEADER_NBYTES + self._paces[machine.layer - 1].shard_nbytes[push.header.shard]
        self.center.ask(machine.link, nbytes, self._owned(machine, arrived))

    def _fetch(self, machine: Machine, shard: str) -> None:
        nbytes = HEADER_NBYTES + self._paces[machine.layer - 1].shard_nbytes[shard]
        lease = machine.lease

        def arrived() -> None:
            fetched = self.center.fetched(lease, shard)
            self.center.send(
                machine.link, nbytes, self._owned(machine, partial(self._deliver, machine, fetched))
            )

        self.center.ask(machine.link, HEADER_NBYTES, self._owned(machine, arrived))

    def _follow(self) -> None:
        """See which batches all layers are through with, by the master's account."""
        if self._trains:
            counts = [self.center.store.next_batch(f"{k}/weights") for k in range(1, self.config.layers + 1)]
            self._through = min(counts)

    def _deliver(self, machine: Machine, event: Event) -> None:
        """Into the inbox of whoever is there."""
        if machine.seated is not None:
            machine.inbox.append(event)
            self._turn(machine)

    def _owned(self, machine: Machine, event: Callable[[], None]) -> Callable[[], None]:
        """The event, unless the slave that is there now has died by then."""
        lease = machine.lease

        def happen() -> None:
            if machine.lease is lease and machine.seated is not None:
                event()

        return happen
