"""Whole run in one process under a virtual clock: real workers and the real store on simulated machines.

A configuration fixes the events, and on one build of torch the numbers to the last bit. Tensors are computed
at the start of a computation's virtual time; messages leave at the end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from common.config.resizing import resized
from common.config.sections import Config
from common.data.datasets import Dataset
from common.data.replicas import BatchRoutes, may_stop
from common.errors import ConfigError, RunFailedError
from common.models import network
from common.models.network import Blueprint
from common.shards.narrow import push_nbytes
from common.shards.pushes import Buffer, Header, PushReply
from common.shards.table import Table
from common.shards.working_copy import Push
from common.wire import precision
from common.wire.boundary import Direction, Down, Message, OutputGradient, Ready, Up
from common.wire.counters import Counters
from common.wire.messages import HeartbeatReply, JoinReply, Seat, StatusReply
from deploy.simulation.clock import Clock
from deploy.simulation.fleet import Fleet, plan
from deploy.simulation.hollow import hollow
from deploy.simulation.machine import Machine
from deploy.simulation.paces import paces, shard_nbytes
from deploy.simulation.simulated_master import SimulatedMaster
from deploy.simulation.wires import Wires
from master.curriculum import Grading, announce
from slave.training import layers
from slave.training.worker import (
    Done,
    Effect,
    Event,
    Fetch,
    Fetched,
    Passed,
    Scored,
    Send,
    Worker,
)

# Size of a message without a tensor, and of a tensor's header.
HEADER_NBYTES = 100


class Driver:
    """Simulated run.

    Raises:
        ConfigError: the run cannot be simulated.

    Args:
        config: of the run, resolved; section `simulation` describes the machines.
        dataset: trained on.
        trains: whether tensors are computed; without, the protocol runs on shards of no size.

    Attributes:
        master: the master.
        deaths: number of slaves that died.
        messages: number of messages between layers.
    """

    def __init__(self, config: Config, dataset: Dataset, *, trains: bool) -> None:
        if config.cluster.served:
            raise ConfigError('cluster.synthesis: "master" is not simulated; leave it out')
        self.config = config
        self.deaths = self.messages = 0
        self._dataset, self._trains = dataset, trains
        # With `full` messages may be lost, and no layer waits.
        self._free = config.decoupling.slots is not None
        self._clock = Clock()
        self._draws = random.Random(config.simulation.seed)  # noqa: S311 - no secret: a schedule
        self._wires = Wires(config.simulation, self._draws)
        self._paces = paces(config, self._blueprint())
        nbytes = partial(shard_nbytes, self._paces)
        self.master = SimulatedMaster(config, self._clock, self._wires, nbytes)
        self._grading = Grading(config.replicas[-1]) if config.curriculum else None
        self._through = self._incarnations = self._undone = 0
        work = {k: pace.step + pace.answer for k, pace in enumerate(self._paces, 1)}
        self._fleet = Fleet(config, self._draws, work)
        # The present stage, and the configuration with its replicas.
        self._stages, self._stage, self._staged = plan(config), 0, config
        self._begin_stage()
        for machine, seconds in self._fleet.values("deaths").items():
            self._clock.at(seconds, partial(self._die, machine))

    @property
    def seconds(self) -> float:
        """Virtual time since the start of the run."""
        return self._clock.now

    @property
    def machines(self) -> list[Machine]:
        """Machines of the present slaves, the lowest layer first."""
        return list(self._fleet.present.values())

    def run(self) -> Iterator[int]:
        """Process events until the run is over; yields the number of batches that all layers have pushed.

        Raises:
            RunFailedError: no event is left before the end of the run.
        """
        reported = 0
        while self._undone or self._follow_stage():
            if not self._clock.advance():
                unfinished = [f"layer {m.layer}.{m.replica}" for m in self.machines if not m.done]
                raise RunFailedError(
                    f"the simulated run stands still before {', '.join(unfinished)} are done"
                )
            if self._through > reported:
                reported = self._through
                yield reported

    def pull(self, shard: str) -> tuple[Header, Buffer]:
        """Return the master's present version of a shard.

        Raises:
            NotFoundError: the master has no shard of the name.
        """
        return self.master.read(shard)

    def seats(self) -> list[Seat]:
        """Return the state and telemetry of every slave."""
        return [self._seat_of(machine) for machine in self.machines]

    def status(self) -> StatusReply:
        """Return the run's status, as a master reports a run."""
        delays: Counter[int] = Counter()
        for machine in self._fleet.all():
            delays += machine.delays
        return StatusReply(
            name=self.config.run.name,
            state="training" if self._undone else "done",
            batches=self._through,
            of_batches=self.config.run.batches,
            training_seconds=self.seconds,
            seats=self.seats(),
            versions=self.master.store.versions(),
            delays=dict(delays),
            waiting_fraction=dict.fromkeys(range(1, self.config.layers + 1), 0.0),
            lost_batches=sum(machine.lost_batches for machine in self._fleet.all()),
            lost_states=sum(machine.lost_states for machine in self._fleet.all()),
            counters=Counters(
                staleness=dict(self.master.staleness), pushes=self.master.pushes, pulls=self.master.pulls
            ),
            curriculum=announce(self._grading),
        )

    def utilization(self, k: int) -> float:
        """Return the fraction of the time in which the slaves of layer k computed."""
        own = [machine for machine in self._fleet.all() if machine.layer == k]
        return sum(machine.busy_seconds for machine in own) / (len(own) * max(self.seconds, 1e-12))

    def _seat_of(self, machine: Machine) -> Seat:
        state = "done" if machine.done else "training" if machine.worker else "vacant"
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
        return network.build_initial(self.config, self._dataset.inputs, self._dataset.targets)

    def _begin_stage(self) -> None:
        """Seat a slave on every machine of the present stage."""
        self._undone = len(self.machines)
        for machine in self.machines:
            self._seat(machine)
            self._clock.at(self.seconds, partial(self._turn, machine))

    def _follow_stage(self) -> bool:
        """Go on with the next stage, a heartbeat after every slave is done; False: there is none."""
        if self._stages.end(self._stage) is None:
            return False
        self._stage += 1
        start, counts = self._stages.starts[self._stage], self._stages.replicas[self._stage]
        for machine in self.machines:
            machine.retire()
        self._fleet.deal(counts)
        self._staged = resized(self.config, counts)
        self.master.store.deal(start, counts)
        self._undone = len(self.machines)
        self._clock.at(self.seconds + self.config.cluster.heartbeat_seconds, self._begin_stage)
        return True

    def _seat(self, machine: Machine) -> None:
        """Seat a new slave at the master's versions."""
        self._incarnations += 1
        k, r = machine.layer, machine.replica
        first = self.master.store.next_batch(f"{k}/weights", r)
        levels = announce(self._grading)
        end = self._stages.end(self._stage) or 0
        lease = JoinReply(True, False, k, r, self._incarnations, first, curriculum=levels, end=end)
        begin = partial(self.master.begin, lease)
        if self._trains:
            trained = layers.build(self._staged, self._blueprint(), self._dataset, lease, begin)
        else:
            pace, wants = self._paces[k - 1], [False, *(each.wants_gradient for each in self._paces)]
            trained = hollow(self._staged, lease, pace.shards, begin, (wants[k - 1], wants[k]))
        if end:
            trained.trainer.end_at(end)
        machine.take(lease, Worker(trained, adapts=self.config.downpour.adapts))
        self._tell(machine, HeartbeatReply(begin=True))
        # A slave may be through a block at once: its predecessor was, or a warm start leaves it none.
        self._grade(machine)

    def _die(self, machine: Machine) -> None:
        if machine.worker is None or machine.done:
            return
        self.deaths += 1
        self.master.store.forget(machine.lease.incarnation)
        machine.die()
        self._clock.at(self.seconds + self.config.simulation.restart_seconds, partial(self._replace, machine))

    def _replace(self, machine: Machine) -> None:
        """Seat a successor; the layer below sends unanswered batches again."""
        self._seat(machine)
        k, r = machine.layer, machine.replica
        for sender in BatchRoutes.of(self._staged, k, r).senders(k):
            self._deliver(self._fleet.present[k - 1, sender], Ready(sender=r))
        self._turn(machine)

    def _turn(self, machine: Machine) -> None:
        """Let a slave work until a computation takes time or no work is left."""
        while machine.worker is not None and machine.busy_until <= self.seconds:
            if machine.inbox:
                took = self._handle(machine, machine.worker, machine.inbox.popleft())
            elif machine.worker.can_advance:
                took = self._advance(machine, machine.worker)
            else:
                return
            if took:
                machine.busy_seconds += took
                machine.busy_until = self.seconds + took
                self._clock.at(machine.busy_until, partial(self._turn, machine))

    def _advance(self, machine: Machine, worker: Worker) -> float:
        """Let a slave go on; returns the seconds of computing."""
        pace, before = self._paces[machine.layer - 1], worker.trainer.steps
        noise = self._noise(machine) if worker.trainer.can_advance else 1.0
        effects = list(worker.advance())
        took = pace.step * noise if worker.trainer.steps > before else 0.0
        self._carry_out(machine, effects, took, pace.until_sent * noise)
        return took

    def _handle(self, machine: Machine, worker: Worker, event: Event) -> float:
        """Let a slave take an event; returns the seconds of computing."""
        took = 0.0
        if isinstance(event, Down | OutputGradient) and worker.trainer.awaits(event.batch):
            took = self._paces[machine.layer - 1].answer * self._noise(machine)
        self._carry_out(machine, worker.handle(event), took, took)
        return took

    def _carry_out(self, machine: Machine, effects: Iterable[Effect], took: float, until_sent: float) -> None:
        """Carry effects out: h_k after `until_sent` seconds, the rest after `took`, the end of computing."""
        for effect in effects:
            match effect:
                case Send():
                    when = until_sent if isinstance(effect.message, Up) else took
                    self._after(machine, when, partial(self._send, machine, effect.message))
                case Push():
                    self._after(machine, took, partial(self._push, machine, effect))
                case Fetch():
                    self._after(machine, took, partial(self._fetch, machine, effect))
                case Passed():
                    self._stop_free()
                case Scored():
                    self._grade(machine)
                case Done():
                    machine.done = True
                    self._undone -= 1

    def _stop_free(self) -> None:
        """Stop all layers of unlock `full` once the slowest has passed the run's batches."""
        batches = self._stages.end(self._stage) or self.config.run.batches
        if may_stop((machine.next_batch for machine in self.machines), batches):
            for machine in self.machines:
                self._tell(machine, HeartbeatReply(stop=True))

    def _grade(self, machine: Machine) -> None:
        """Take the scores of a slave of layer K at once, and tell all slaves the levels that follow."""
        scores = machine.worker.trained.scores if machine.worker else None
        if self._grading and scores and self._grading.hear(machine.replica, scores.report()):
            for each in self.machines:
                if each.worker is not None:
                    self._tell(each, HeartbeatReply(curriculum=announce(self._grading)))
                    self._clock.at(self.seconds, partial(self._turn, each))

    def _tell(self, machine: Machine, reply: HeartbeatReply) -> None:
        """Hand a slave the answer to a heartbeat, even during a computation."""
        assert machine.worker is not None
        self._carry_out(machine, machine.worker.handle(reply), 0.0, 0.0)

    def _noise(self, machine: Machine) -> float:
        jitter = self.config.simulation.jitter
        return machine.slowness * (self._draws.lognormvariate(0.0, jitter) if jitter else 1.0)

    def _after(self, machine: Machine, took: float, event: Callable[[], None]) -> None:
        """Have an event happen after a computation of `took` seconds; 0: now."""
        if took:
            self._clock.at(self.seconds + took, self._guard(machine, event))
        else:
            event()

    def _send(self, machine: Machine, message: Message) -> None:
        """Send a boundary message, directly or through the master."""
        self.messages += 1
        direct = self.config.cluster.direct
        if self._free and any(self._wires.lost() for _ in range(1 if direct else 2)):
            return
        below, again = min(machine.layer, message.layer), not self._free
        pace = self._paces[below - 1]
        each = pace.up_nbytes if message.direction is Direction.UP else pace.down_nbytes
        nbytes = HEADER_NBYTES + len(message.carried()) * each
        receiver = self._fleet.present[message.layer, message.replica]
        deliver = partial(self._deliver, receiver, self._as_received(message))
        if direct:
            arrival = self._wires.arrival(self.seconds, machine.link, receiver.link, nbytes, resent=again)
            self._clock.at(arrival, deliver)
        else:
            pass_on = partial(self.master.send, receiver.link, nbytes, deliver, resent=again)
            self.master.ask(machine.link, nbytes, pass_on, resent=again)

    def _as_received(self, message: Message) -> Message:
        return message.map_tensors(lambda tensor: precision.round_trip(tensor, self.config.cluster.wire))

    def _push(self, machine: Machine, push: Push) -> None:
        header = push.header

        def arrived() -> None:
            self._answer(machine, self.master.apply(push), HEADER_NBYTES, header.shard)
            self._follow()

        if machine.worker is not None and machine.worker.pace is not None:
            machine.worker.pace.begin(
                push.header.shard, self.seconds, machine.worker.steps(push.header.shard)
            )
        table = self._table(machine, header.shard, header.fragment, header.fragments)
        nbytes = HEADER_NBYTES + push_nbytes(table, header.precision)
        self.master.ask(machine.link, nbytes, self._guard(machine, arrived), header.shard)

    def _fetch(self, machine: Machine, fetch: Fetch) -> None:
        lease = machine.lease

        def arrived() -> None:
            table = self._table(machine, fetch.shard, fetch.fragment, fetch.fragments)
            self._answer(
                machine, self.master.fetched(lease, fetch), HEADER_NBYTES + table.nbytes, fetch.shard
            )

        self.master.ask(machine.link, HEADER_NBYTES, self._guard(machine, arrived), fetch.shard)

    def _answer(self, machine: Machine, answer: PushReply | Fetched, nbytes: int, shard: str) -> None:
        """Send a slave the answer of the process that keeps a shard."""
        deliver = self._guard(machine, partial(self._deliver, machine, answer))
        self.master.send(machine.link, nbytes, deliver, shard)

    def _table(self, machine: Machine, shard: str, fragment: int, fragments: int) -> Table:
        """Return the table of a push or fetch."""
        pushed = self._paces[machine.layer - 1].shards[shard].pushed
        return pushed.fragment(fragment, fragments)[0] if fragments else pushed

    def _follow(self) -> None:
        """Count the batches of which the master has every layer's push."""
        if self._trains:
            counts = [self.master.store.next_batch(f"{k}/weights") for k in range(1, self.config.layers + 1)]
            self._through = min(counts)

    def _deliver(self, machine: Machine, event: Event) -> None:
        """Put an event into the inbox of the present slave, if any."""
        if machine.worker is not None:
            if isinstance(event, PushReply) and machine.worker.pace is not None:
                machine.worker.pace.answer(event.shard, self.seconds, machine.worker.steps(event.shard))
            machine.inbox.append(event)
            self._turn(machine)

    def _guard(self, machine: Machine, event: Callable[[], None]) -> Callable[[], None]:
        """Return the event, guarded: without effect once the present slave is dead."""
        lease = machine.lease

        def happen() -> None:
            if machine.lease is lease and machine.worker is not None:
                event()

        return happen
