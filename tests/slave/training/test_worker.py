"""slave.training.worker: rules as events and effects, and promises under any interleaving."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.config.sections import Config
from common.data.replicas import owner
from common.errors import MalformedError
from common.models import network
from common.shards.pushes import PushReply
from common.shards.working_copy import Push
from common.wire.boundary import Down, End, Ended, Lost, Message, Ready, Taken, Up
from common.wire.messages import HeartbeatReply, JoinReply
from common.wire.stages import Promise
from master.store.policies import policies
from master.store.store import Memory, Store
from slave.training import layers
from slave.training.worker import (
    Computed,
    Done,
    Effect,
    Event,
    Fetch,
    Fetched,
    Passed,
    Promised,
    Send,
    Worker,
)
from tests.slave.chain import Incarnation, configured, digits

SIZE, WIDTH = 4, 4


def run_of(unlock: str = "update", batches: int = 8, replicas: int = 1, n_push: int = 2) -> Config:
    """Configure three layers; layer 2 has replicas, which fetch every second step."""
    config = configured(
        options={"widths": [WIDTH, WIDTH]},
        batches=batches,
        batch_size=SIZE,
        unlock=unlock,
        in_flight=None if unlock == "none" else 3,
        gradient_options={"hidden": 0} if unlock in ("update", "local") else {},
        n_push=n_push,
    )
    return replace(config, downpour=replace(config.downpour, replicas=[1, replicas, 1], n_fetch=2))


class Slave(Incarnation):
    """Slave whose neighbours, master and schedule are played by the test."""

    def __init__(self, config: Config, k: int = 2) -> None:
        self.store = Store(Memory(), policies(config))
        super().__init__(config, k, 7, self.store)
        self.config = config

    def up(self, batch: int) -> Up:
        """Return h_{k-1} of a batch."""
        h = torch.rand(SIZE, WIDTH, generator=torch.Generator().manual_seed(batch))
        return Up(batch, h, layer=self.k, incarnation=3)

    def down(self, batch: int) -> Down:
        """Return delta_k of a batch."""
        return Down(batch, torch.ones(SIZE, WIDTH), layer=self.k, incarnation=7)

    def take(self, *events: Event) -> list[Effect]:
        """Hand events over, and let the worker advance as far as possible after every event."""
        effects: list[Effect] = []
        for event in events:
            effects += self.worker.handle(event)
            while self.worker.can_advance:
                effects += self.worker.advance()
        return effects

    def reply(self, push: Push) -> PushReply:
        """Have the store take a push."""
        return self.store.apply(push.header, [(0, push.buffer.data)])

    def version(self, shard: str) -> Fetched:
        """Return the store's version of a shard, as fetched by this slave."""
        reading = self.store.read(shard, self.number)
        try:
            return Fetched(shard, reading.header, bytes(reading.buffer))
        finally:
            reading.release()


def pushes(effects: Iterable[Effect]) -> list[Push]:
    return [effect for effect in effects if isinstance(effect, Push)]


def names(effects: Iterable[Effect]) -> list[str]:
    """Return the effects by name: a message by type, a push and a fetch with the shard."""
    found = []
    for effect in effects:
        match effect:
            case Send(message):
                found.append(type(message).__name__)
            case Push():
                found.append(f"Push {effect.header.shard}")
            case Fetch(shard):
                found.append(f"Fetch {shard}")
            case Passed() | Done():
                found.append(type(effect).__name__)
    return found


# --- a step, and the pushes that follow


def test_h_leaves_before_the_rest_of_the_step_and_pushes_come_behind_it() -> None:
    slave = Slave(run_of(n_push=1))
    list(slave.worker.handle(slave.up(0)))
    effects = slave.worker.advance()
    first = next(effects)
    assert isinstance(first, Send)
    assert isinstance(first.message, Up)
    assert slave.layer.stepped == []
    rest = list(effects)
    assert slave.layer.stepped == [0]
    assert names(rest) == ["Down", "Push 2/weights"]
    assert isinstance(rest[1], Computed)


def test_a_push_is_due_after_n_push_steps_and_the_next_once_the_master_has_answered() -> None:
    slave = Slave(run_of())
    assert names(slave.take(slave.up(0))) == ["Up", "Down"]
    effects = slave.take(slave.up(1))
    assert names(effects) == ["Up", "Down", "Push 2/weights"]
    (push,) = pushes(effects)
    assert push.header.next_batch == 2
    # M learns on every gradient from above; the shard of M has pushes of its own.
    effects = slave.take(slave.down(0), slave.up(2), slave.up(3), slave.down(1))
    assert names(effects) == ["Up", "Down", "Up", "Down", "Push 2/gradient"]
    # Two more steps were taken meanwhile: their updates go at once.
    assert names(slave.take(slave.reply(push))) == ["Push 2/weights"]
    assert not slave.worker.settled


def test_an_answer_to_another_shard_or_push_changes_nothing() -> None:
    slave = Slave(run_of())
    (push,) = pushes(slave.take(slave.up(0), slave.up(1)))
    assert names(slave.take(PushReply("9/weights", 0, 1), PushReply("2/weights", 0, 99))) == []
    assert not slave.worker.settled
    slave.take(slave.reply(push))
    assert slave.worker.settled


# --- fetches


def test_replicas_fetch_after_so_many_steps_and_one_version_at_a_time() -> None:
    slave = Slave(run_of(batches=16, replicas=2, n_push=100))
    effects = slave.take(slave.up(0), slave.up(2))
    assert names(effects) == ["Up", "Down", "Up", "Down", "Fetch 2/weights"]
    effects = slave.take(slave.down(0), slave.up(4), slave.down(2), slave.up(6))
    assert names(effects) == ["Up", "Down", "Fetch 2/gradient", "Up", "Down"]
    assert names(slave.take(slave.version("2/weights"))) == ["Fetch 2/weights"]
    assert slave.worker.pulls == 1


def test_a_fetch_that_failed_is_repeated_after_as_many_steps() -> None:
    slave = Slave(run_of(batches=16, replicas=2, n_push=100))
    slave.take(slave.up(0), slave.up(2))
    assert names(slave.take(Fetched("2/weights"))) == []
    assert names(slave.take(slave.down(0), slave.up(4))) == ["Up", "Down"]
    effects = slave.take(slave.down(2), slave.up(6))
    assert names(effects) == ["Fetch 2/gradient", "Up", "Down", "Fetch 2/weights"]
    assert slave.worker.pulls == 0


def test_a_fetched_version_is_taken_with_what_was_learned_since_the_push_on_top() -> None:
    slave = Slave(run_of(batches=16, replicas=2))
    (push,) = pushes(slave.take(slave.up(0), slave.up(2)))
    other = replace(push.header, incarnation=8, replica=1, fetched_sequence=0)
    parameters = slave.flat.parameters.detach().clone()
    learned = torch.from_numpy(push.local.copy())
    # A second replica's push has an equal change: the fetched version has both.
    slave.store.apply(other, [(0, push.buffer.data)])
    slave.take(slave.reply(push))
    slave.take(slave.version("2/weights"))
    torch.testing.assert_close(slave.flat.parameters.detach(), parameters + learned)


def test_a_refused_push_is_followed_by_a_fetch() -> None:
    slave = Slave(run_of(batches=16, replicas=2))
    (push,) = pushes(slave.take(slave.up(0), slave.up(2)))
    slave.take(slave.version("2/weights"))
    refused = PushReply("2/weights", 0, push.header.sequence, refused=True)
    assert names(slave.take(refused)) == ["Fetch 2/weights"]


def test_a_version_of_another_network_is_refused() -> None:
    slave = Slave(run_of(replicas=2))
    version = slave.version("2/gradient")
    with pytest.raises(MalformedError, match="not those of the network"):
        slave.take(replace(version, shard="2/weights"))


# --- neighbours


def test_unanswered_batches_go_out_again_once_a_neighbour_is_there() -> None:
    slave = Slave(run_of())
    slave.take(slave.up(0), slave.up(1), slave.down(0))
    (send,) = (effect for effect in slave.take(Ready(layer=3)) if isinstance(effect, Send))
    assert isinstance(send.message, Up)
    assert send.message.batch == 1


# --- the end


def test_at_the_end_the_rest_is_pushed_and_the_layer_is_done_once_all_is_answered() -> None:
    slave = Slave(run_of(batches=3))
    effects = slave.take(slave.up(0), slave.up(1), slave.up(2))
    assert names(effects) == ["Up", "Down", "Up", "Down", "Push 2/weights", "Up", "Down", "Passed"]
    end = End(3, layer=2, incarnation=3)
    effects = slave.take(slave.down(0), slave.down(1), slave.down(2), end)
    assert names(effects) == ["Push 2/gradient", "End"]
    assert not slave.trainer.through
    # Both shards have a push out: the rest waits for the answers.
    assert names(slave.take(Ended(3, layer=2, incarnation=7))) == ["Ended"]
    answered = []
    while not slave.worker.done:
        for copy, _ in slave.copies:
            if copy.unanswered is not None:
                answered += names(slave.take(slave.reply(copy.unanswered)))
    assert answered[-1] == "Done"
    assert answered.count("Done") == 1
    for copy, _ in slave.copies:
        assert slave.version(copy.name).buffer == copy._flat.buffer.numpy().tobytes()


def test_a_layer_that_is_done_still_answers_but_pushes_and_fetches_nothing() -> None:
    slave = finished(Slave(run_of(batches=3)))
    assert names(slave.take(slave.up(0))) == ["Down"]
    assert names(slave.take(End(3, layer=2, incarnation=4))) == ["Ended"]
    assert names(slave.take(Ready(layer=3), HeartbeatReply(begin=True, stop=True))) == ["End"]
    assert not slave.worker.over
    slave.take(HeartbeatReply(over=True))
    assert slave.worker.over


def finished(slave: Slave) -> Slave:
    """Bring a slave to the end of the run."""
    total = slave.config.run.batches
    for batch in range(total):
        slave.take(slave.up(batch), slave.down(batch))
    slave.take(End(total, layer=2, incarnation=3), Ended(total, layer=2, incarnation=7))
    while not slave.worker.done:
        slave.take(*(slave.reply(copy.unanswered) for copy, _ in slave.copies if copy.unanswered))
    return slave


# --- where no layer waits


def free_worker(batches: int) -> Worker:
    config = run_of("full", batches)
    blueprint = network.build(config, digits().inputs, digits().targets)
    trained = layers.build(config, blueprint, digits(), JoinReply(layer=1), None)
    return Worker(trained)


def test_a_layer_of_full_begins_goes_on_past_the_last_batch_and_stops_as_it_is_told() -> None:
    worker = free_worker(batches=2)
    assert not worker.can_advance
    assert list(worker.handle(HeartbeatReply(begin=True))) == []
    effects: list[Effect] = []
    for _ in range(4):
        assert worker.can_advance
        effects += worker.advance()
    assert names(effects) == ["Up", "Up", "Passed", "Up", "Up"]
    assert list(worker.handle(HeartbeatReply(stop=True))) == []
    assert names(worker.advance()) == ["Done"]
    assert not worker.can_advance


def test_a_layer_of_full_begins_nothing_while_it_is_held_and_ends_where_other_replicas_follow() -> None:
    worker = free_worker(batches=20)
    list(worker.handle(HeartbeatReply(begin=True)))
    list(worker.advance())
    assert list(worker.handle(HeartbeatReply(hold=4))) == [Promised()]
    assert worker.promise == Promise(4, 1)
    assert not worker.can_advance
    assert list(worker.handle(HeartbeatReply(hold=4))) == []
    assert list(worker.handle(HeartbeatReply())) == [Promised()]
    assert worker.promise == Promise()
    assert worker.can_advance
    list(worker.handle(HeartbeatReply(hold=5)))
    assert worker.promise == Promise(5, 1)
    list(worker.handle(HeartbeatReply(end=3)))
    assert names([*worker.advance(), *worker.advance()]) == ["Up", "Up", "Passed"]
    assert not worker.can_advance
    list(worker.handle(HeartbeatReply(end=3, stop=True)))
    assert names(worker.advance()) == ["Done"]
    assert not worker.released
    list(worker.handle(HeartbeatReply(end=3, rejoin=True)))
    assert worker.released


# --- any interleaving


class Interleavings(RuleBasedStateMachine):
    """Layer 2 of 3 between neighbours, a store and faults, in any order of events."""

    @initialize(
        unlock=st.sampled_from(["none", "update", "delayed", "local"]),
        replicas=st.sampled_from([1, 2]),
        n_push=st.integers(1, 3),
    )
    def start(self, unlock: str, replicas: int, n_push: int) -> None:
        self.slave = Slave(run_of(unlock, 6, replicas, n_push))
        self.unlock, self.replicas = unlock, replicas
        self.own = [batch for batch in range(6) if owner(batch, replicas) == 0]
        self.unsent = list(self.own)
        # Unanswered batches, from the layer below and to the layer above.
        self.below: list[int] = []
        self.above: list[int] = []
        self.lost_above: list[int] = []
        self.ended_below = self.end_sent = False
        self.pushes: dict[str, Push] = {}
        self.fetches: list[str] = []
        self.ends: list[Effect] = []

    @property
    def worker(self) -> Worker:
        return self.slave.worker

    def carry_out(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            done = any(isinstance(each, Done) for each in self.ends)
            match effect:
                case Send(message):
                    self.send(message)
                case Push():
                    assert not done
                    assert effect.header.shard not in self.pushes
                    self.pushes[effect.header.shard] = effect
                case Fetch(shard):
                    assert not done
                    assert shard not in self.fetches
                    self.fetches.append(shard)
                case Passed() | Done():
                    assert not any(type(each) is type(effect) for each in self.ends)
                    self.ends.append(effect)

    def send(self, message: Message) -> None:
        match message:
            case Up(batch) if batch not in self.above:
                self.above.append(batch)
            case Down(batch) | Taken(batch) | Lost(batch) if batch in self.below:
                self.below.remove(batch)
            case End():
                self.end_sent = True

    def handle(self, event: Event) -> None:
        self.carry_out(self.worker.handle(event))

    @precondition(lambda self: self.unsent and len(self.below) < 3)
    @rule()
    def come_from_below(self) -> None:
        self.below.append(self.unsent.pop(0))
        self.handle(self.slave.up(self.below[-1]))

    @precondition(lambda self: self.below)
    @rule(data=st.data())
    def come_again_from_below(self, data: st.DataObject) -> None:
        self.handle(self.slave.up(data.draw(st.sampled_from(self.below))))

    @precondition(lambda self: not self.unsent and not self.below)
    @rule()
    def end_below(self) -> None:
        self.ended_below = True
        self.handle(End(6, layer=2, incarnation=3))

    @precondition(lambda self: self.above)
    @rule(data=st.data(), lost=st.booleans())
    def come_from_above(self, data: st.DataObject, lost: bool) -> None:
        batch = data.draw(st.sampled_from(self.above))
        self.above.remove(batch)
        where: dict[str, Any] = {"layer": 2, "incarnation": 7}
        if lost:
            self.lost_above.append(batch)
            self.handle(Lost(batch, **where))
        else:
            self.handle(Taken(batch, **where) if self.unlock == "local" else self.slave.down(batch))

    @precondition(lambda self: self.end_sent)
    @rule()
    def end_above(self) -> None:
        self.handle(Ended(6, layer=2, incarnation=7))

    @precondition(lambda self: self.worker.can_advance)
    @rule()
    def advance(self) -> None:
        self.carry_out(self.worker.advance())

    @precondition(lambda self: self.pushes)
    @rule(data=st.data())
    def answer_a_push(self, data: st.DataObject) -> None:
        push = self.pushes.pop(data.draw(st.sampled_from(sorted(self.pushes))))
        self.handle(self.slave.reply(push))

    @precondition(lambda self: self.fetches)
    @rule(failed=st.booleans())
    def answer_a_fetch(self, failed: bool) -> None:
        shard = self.fetches.pop(0)
        self.handle(Fetched(shard) if failed else self.slave.version(shard))

    @rule(event=st.sampled_from([Ready(layer=3), HeartbeatReply(begin=True, stop=True)]))
    def interrupt(self, event: Event) -> None:
        self.handle(event)

    @invariant()
    def keeps_its_window_and_knows_its_pushes(self) -> None:
        assert self.worker.trainer.in_flight <= 3
        assert self.worker.settled == (not self.pushes)

    def teardown(self) -> None:
        """Go on to the end from any state."""
        if not hasattr(self, "slave"):
            return
        for _ in range(200):
            if self.worker.can_advance:
                self.advance()
            elif self.unsent and len(self.below) < 3:
                self.come_from_below()
            elif self.above:
                self.handle(self.slave.down(self.above[0]) if self.unlock != "local" else self.taken())
                self.above.pop(0)
            elif self.pushes:
                _, push = self.pushes.popitem()
                self.handle(self.slave.reply(push))
            elif not self.ended_below and not self.below:
                self.end_below()
            elif self.end_sent and not self.worker.trainer.through:
                self.end_above()
        self.check_the_end()

    def taken(self) -> Taken:
        return Taken(self.above[0], layer=2, incarnation=7)

    def check_the_end(self) -> None:
        assert sorted(type(each).__name__ for each in self.ends) == ["Done", "Passed"]
        assert not self.worker.can_advance
        # A layer that waits for gradients loses the batches lost above.
        waits = self.unlock in ("none", "delayed")
        lost = self.lost_above if waits else []
        assert Counter([*self.slave.layer.stepped, *lost]) == Counter(self.own)
        if self.replicas == 1:
            for copy, _ in self.slave.copies:
                assert self.slave.version(copy.name).buffer == copy._flat.buffer.numpy().tobytes()


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=25, stateful_step_count=40)
