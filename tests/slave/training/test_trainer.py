"""slave.training.trainer: the protocol's promises to neighbours, under any schedule and any fault."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.config.alignments import ALIGNMENTS
from common.config.optimizer import OptimizerConfig
from common.config.sections import Config
from common.config.synthesizers import GRADIENTS
from common.errors import MalformedError
from common.signals.values import plain
from common.wire.boundary import Down, End, Ended, Lost, Message, Ready, Up
from common.wire.messages import HeartbeatReply
from master.store.store import Memory, Store
from slave.training.decoupling import Synthesizer
from slave.training.worker import Effect, Send
from tests.slave.chain import Chain, Fault, Incarnation, configured

SGD = OptimizerConfig(name="sgd", learning_rate=0.01)
SEEDS = st.integers(0, 2**32 - 1)
# Unlocks, in the place of `update` a kind of M that changes the protocol, and ways of `alignment`.
WAYS = ["none", "update", "sg+prop", "delayed", "local", "feedback", "direct"]
UNLOCKS = st.sampled_from(WAYS)
WINDOWS = st.sampled_from([None, 1, 2, 5])
BREAKS = st.sampled_from(["break", "master"])
MANY = settings(
    max_examples=25,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


def faults(kinds: st.SearchStrategy[str]) -> st.SearchStrategy[list[Fault]]:
    return st.lists(st.builds(Fault, st.integers(1, 500), kinds, st.integers(1, 3)), min_size=1, max_size=6)


def small(unlock: str = "update", in_flight: int | None = None, batches: int = 12) -> Config:
    given: dict[str, Any] = {"unlock": unlock}
    if unlock in GRADIENTS:
        given = {"unlock": "update", "gradient": unlock}
    elif unlock in ALIGNMENTS:
        given = {"unlock": "alignment", "decoupling": {"alignment": unlock}}
    return configured(
        options={"widths": [4, 4]},
        batches=batches,
        batch_size=4,
        **given,
        gradient_options={"hidden": 0} if unlock in ("update", "local") else {},
        in_flight=in_flight if unlock != "none" else None,
        optimizer=SGD,
    )


def alone(k: int, unlock: str = "update", batches: int = 3, number: int = 7) -> Incarnation:
    """Build one slave of three, of incarnation 7; the test plays the neighbours."""
    config = small(unlock, batches=batches)
    store = Store(Memory())
    return Incarnation(config, k, number, store)


def activation(batch: int, incarnation: int = 3, layer: int = 2) -> Up:
    h = torch.rand(4, 4, generator=torch.Generator().manual_seed(batch))
    return Up(batch, h, layer=layer, incarnation=incarnation)


def gradient(batch: int, incarnation: int = 7) -> Down:
    return Down(batch, torch.ones(4, 4), layer=2, incarnation=incarnation)


def lost(batch: int, incarnation: int = 7) -> Lost:
    return Lost(batch, layer=2, incarnation=incarnation)


def end(batches: int = 3, incarnation: int = 3) -> End:
    return End(batches, layer=2, incarnation=incarnation)


def summaries(messages: Iterator[Message]) -> list[tuple[str, int, int, int]]:
    return [(m.kind.name, m.layer, m.batch, m.incarnation) for m in messages]


def exchange(slave: Incarnation, *messages: Message) -> list[tuple[str, int, int, int]]:
    """Return the slave's messages while receiving `messages` and advancing as far as possible."""
    answers = []
    for message in messages:
        answers += summaries(slave.trainer.receive(message))
        while slave.trainer.can_advance:
            answers += summaries(slave.trainer.advance())
    return answers


def accounts_for_every_batch(chain: Chain) -> None:
    """Check that no slave trained a batch twice, and that a layer's untrained batches count as lost."""
    total = chain.config.run.batches
    for k in (1, 2, 3):
        line = chain.of_layer(k)
        for slave in line:
            assert len(set(slave.layer.stepped)) == len(slave.layer.stepped)
        # A slave goes on from the predecessor's last push, and may receive an earlier batch, too.
        for i, slave in enumerate(line):
            stop = line[i + 1].first_batch if slave is not line[-1] else total
            trained = {batch for each in line[i:] for batch in each.layer.stepped}
            missing = set(range(slave.first_batch, stop)) - trained
            # A late batch that died with a slave behind its last push is counted by the successor, which is
            # sent the batch again, and gets LOST for it.
            assert sum(each.trainer.lost_batches for each in line[i:]) >= len(missing)
        assert line[-1].trainer.next_batch == total


# Without faults.


@MANY
@given(SEEDS, UNLOCKS, WINDOWS)
def test_without_faults_every_batch_passes_every_layer_once_and_in_order(
    seed: int, unlock: str, in_flight: int | None
) -> None:
    chain = Chain(small(unlock, in_flight), seed, gathered=True).run()
    for slave in chain.slaves:
        assert slave.layer.stepped == list(range(12))
        assert slave.trainer.steps == slave.trainer.next_batch == 12
        assert slave.trainer.lost_batches == slave.trainer.in_flight == 0
    sent = Counter((m.kind, m.layer, m.batch) for m in chain.sent)
    assert set(sent.values()) == {1}


@MANY
@given(SEEDS, UNLOCKS, WINDOWS)
def test_slaves_that_come_at_different_times_lose_nothing(
    seed: int, unlock: str, in_flight: int | None
) -> None:
    chain = Chain(small(unlock, in_flight), seed, gathered=False).run()
    for slave in chain.slaves:
        assert sorted(slave.layer.stepped) == list(range(12))
        assert slave.trainer.lost_batches == 0


@MANY
@given(SEEDS, WINDOWS)
def test_a_delay_is_the_batches_started_between_sending_h_and_getting_delta(
    seed: int, in_flight: int | None
) -> None:
    chain = Chain(small(in_flight=in_flight), seed).run()
    for slave in chain.slaves:
        assert slave.trainer.delays == slave.delays
    assert chain.slaves[0].delays.total() == 12


def test_delays_reach_the_window_and_no_further() -> None:
    longest = Counter[int]()
    for seed in range(30):
        for slave in Chain(small(), seed).run().slaves[:-1]:
            longest[slave.k] = max(longest[slave.k], *slave.delays)
    assert longest == {1: 4, 2: 2}


def test_unlock_none_takes_one_batch_at_a_time_through_the_whole_network() -> None:
    chain = Chain(small("none"), 3, gathered=True).run()
    rising = [(m.layer, m.batch) for m in chain.sent if isinstance(m, Up)]
    assert rising == [(k, b) for b in range(12) for k in (2, 3)]
    assert chain.slaves[0].trainer.delays == {0: 12}


def test_one_layer_alone_trains_through_its_batches() -> None:
    chain = Chain(configured(options={"widths": []}, batches=5, batch_size=4)).run()
    assert chain.slaves[0].layer.stepped == [0, 1, 2, 3, 4]
    assert chain.sent == []


class PairSpy(Synthesizer):
    """M with a record of every lesson."""

    pairs: list[tuple[Tensor, Tensor, Tensor]]

    def learn(self, batch: int, h: Tensor, y: Tensor, synthetic: Tensor | None, delta: Tensor) -> None:
        if "pairs" not in vars(self):
            self.pairs = []
        self.pairs.append((h, y, delta))
        super().learn(batch, h, y, synthetic, delta)


@MANY
@given(SEEDS, WINDOWS, faults(st.sampled_from(["break", "die"])))
def test_m_learns_on_the_h_it_sent_and_on_the_gradient_that_was_taken_at_that_very_h(
    seed: int, in_flight: int | None, strikes: list[Fault]
) -> None:
    spies: list[PairSpy] = []

    def spied(*parts: object) -> PairSpy:
        spies.append(PairSpy(*parts))  # type: ignore[arg-type]
        return spies[-1]

    chain = Chain(small(in_flight=in_flight), seed, strikes, make=spied).run()
    # The layer above makes a leaf u of every received h, and sends down the gradient of u.
    leaves = {id(u.grad): u for slave in chain.incarnations for u in slave.layer.inputs if u.grad is not None}
    batch_of = {id(m.h): m.batch for m in chain.sent if isinstance(m, Up)}
    learned = 0
    for spy in spies:
        for h, y, delta in vars(spy).get("pairs", []):
            assert leaves[id(delta)].data_ptr() == h.data_ptr()
            assert torch.equal(y, chain.batches.labels(batch_of[id(h)]))
            learned += 1
    assert learned == sum(slave.trainer.delays.total() for slave in chain.incarnations)


# With faults.


@MANY
@given(SEEDS, UNLOCKS, WINDOWS, faults(BREAKS))
def test_breaking_streams_lose_nothing(
    seed: int, unlock: str, in_flight: int | None, strikes: list[Fault]
) -> None:
    chain = Chain(small(unlock, in_flight), seed, strikes).run()
    for slave in chain.slaves:
        assert sorted(slave.layer.stepped) == list(range(12))
        assert slave.trainer.lost_batches == 0


@settings(MANY, max_examples=100)
@example(12110, "delayed", None, [Fault(96, "die", 2)])
@given(
    SEEDS,
    UNLOCKS,
    WINDOWS,
    faults(st.sampled_from(["break", "die", "die", "master"])),
)
def test_a_run_ends_and_accounts_for_every_batch_whatever_breaks_and_dies(
    seed: int, unlock: str, in_flight: int | None, strikes: list[Fault]
) -> None:
    chain = Chain(small(unlock, in_flight), seed, strikes).run()
    accounts_for_every_batch(chain)


@settings(MANY, max_examples=15)
@given(SEEDS, UNLOCKS, faults(st.sampled_from(["break", "die"])))
def test_the_store_ends_with_what_the_last_slaves_hold(seed: int, unlock: str, strikes: list[Fault]) -> None:
    chain = Chain(small(unlock), seed, strikes, wire=True).run()
    for slave in chain.slaves:
        for copy, _ in slave.copies:
            reading = chain.store.read(copy.name)
            assert bytes(reading.buffer) == copy._flat.buffer.numpy().tobytes()
            reading.release()


# One slave, with the neighbours played by the test.


def test_an_activation_that_comes_again_gets_the_same_answer_and_is_trained_once() -> None:
    slave = alone(2)
    first = list(slave.trainer.receive(activation(0))) + list(slave.trainer.advance())
    again = list(slave.trainer.receive(activation(0)))
    assert again == [m for m in first if isinstance(m, Down)]
    assert not slave.trainer.can_advance
    assert slave.layer.stepped == [0]


def test_an_activation_that_comes_again_before_its_answer_is_known_is_answered_once() -> None:
    slave = alone(2, "none")
    exchange(slave, activation(0), activation(0))
    assert exchange(slave, gradient(0)) == [("GRADIENT", 1, 0, 3)]


def test_a_newer_batch_may_overtake_those_that_are_sent_again() -> None:
    slave = alone(2)
    answers = exchange(slave, activation(2), activation(0), activation(1), activation(2))
    given_down = [answer for answer in answers if answer[1] == 1]
    assert given_down == [("GRADIENT", 1, batch, 3) for batch in (2, 0, 1, 2)]
    assert slave.trainer.lost_batches == 0


def test_batches_that_wait_are_taken_in_their_order_however_they_came() -> None:
    slave = alone(2)
    for batch in (2, 0, 1):
        list(slave.trainer.receive(activation(batch)))
    exchange(slave, end())
    assert slave.layer.stepped == [0, 1, 2]


def test_a_batch_trained_for_a_dead_slave_is_lost_to_its_successor_each_time_it_asks() -> None:
    slave = alone(2, batches=5)
    exchange(slave, activation(0, 3), activation(1, 3))
    answer = ("LOST", 1, 0, 4)
    assert summaries(slave.trainer.receive(activation(0, 4))) == [answer]
    # Also after a batch of the successor was exchange.
    exchange(slave, activation(2, 4))
    assert summaries(slave.trainer.receive(activation(0, 4))) == [answer]


def test_a_successors_activation_takes_the_place_of_one_that_waits() -> None:
    slave = alone(2)
    list(slave.trainer.receive(activation(0, 3)))
    assert ("GRADIENT", 1, 0, 4) in exchange(slave, activation(0, 4))
    assert slave.layer.stepped == [0]


def test_what_a_fenced_slave_sends_after_its_successor_is_ignored() -> None:
    slave = alone(2)
    list(slave.trainer.receive(activation(0, 4)))
    assert exchange(slave, activation(0, 3), activation(1, 3), end(incarnation=3)) == [
        ("ACTIVATION", 3, 0, 7),
        ("GRADIENT", 1, 0, 4),
    ]
    assert slave.layer.stepped == [0]


@pytest.mark.parametrize("unlock", ["none", "update"])
def test_an_answer_to_a_fenced_predecessor_is_ignored(unlock: str) -> None:
    slave = alone(2, unlock)
    exchange(slave, activation(0))
    before = slave.flat.buffer.clone()
    assert exchange(slave, gradient(0, incarnation=6), lost(0, incarnation=6)) == []
    assert slave.trainer.in_flight == 1
    assert torch.equal(slave.flat.buffer, before)


def test_a_gradient_that_comes_twice_is_learned_once() -> None:
    slave = alone(2, "none")
    exchange(slave, activation(0), gradient(0), gradient(0))
    assert slave.layer.stepped == [0]


def test_a_lost_batch_frees_the_window_is_counted_and_travels_down_where_layers_wait() -> None:
    waiting, unlocked = alone(2, "none"), alone(2, "update")
    for slave, answers in ((waiting, [("LOST", 1, 0, 3)]), (unlocked, [])):
        exchange(slave, activation(0))
        assert exchange(slave, lost(0)) == answers
        assert slave.trainer.in_flight == 0
        assert slave.trainer.lost_batches == 1
    assert summaries(waiting.trainer.receive(activation(0))) == [("LOST", 1, 0, 3)]
    assert waiting.layer.stepped == []


def test_batches_that_never_come_are_counted_once_end_is_taken() -> None:
    slave = alone(2, batches=9)
    exchange(slave, activation(4), *(gradient(b) for b in range(9)), activation(6), gradient(6), end(9))
    assert slave.trainer.lost_batches == 9 - 2
    assert slave.trainer.next_batch == 9


def test_end_is_sent_once_everything_is_answered() -> None:
    slave = alone(2, batches=1)
    assert "END" not in [kind for kind, *_ in exchange(slave, activation(0), end(1))]
    assert exchange(slave, gradient(0)) == [("END", 3, 1, 7)]


def test_end_is_answered_once_the_layers_above_have_and_again_when_it_comes_again() -> None:
    slave = alone(2, batches=1)
    exchange(slave, activation(0), gradient(0), end(1))
    assert summaries(slave.trainer.receive(end(1))) == []
    ended = Ended(1, layer=2, incarnation=7)
    assert summaries(slave.trainer.receive(ended)) == [("ENDED", 1, 1, 3)]
    assert summaries(slave.trainer.receive(ended)) == []
    assert summaries(slave.trainer.receive(end(1, incarnation=5))) == [("ENDED", 1, 1, 5)]
    assert slave.trainer.through


def test_end_is_sent_again_to_a_new_peer_even_after_its_predecessor_answered_it() -> None:
    slave = alone(2, batches=1)
    exchange(slave, activation(0), gradient(0), end(1))
    peer = Ready(layer=3)
    assert summaries(slave.trainer.receive(peer)) == [("END", 3, 1, 7)]
    exchange(slave, Ended(1, layer=2, incarnation=7))
    assert summaries(slave.trainer.receive(peer)) == [("END", 3, 1, 7)]


def test_a_first_layer_that_is_held_begins_nothing_and_goes_on_where_it_stopped() -> None:
    slave = alone(1, batches=9)
    assert summaries(slave.trainer.advance())[0] == ("ACTIVATION", 2, 0, 7)
    assert slave.trainer.hold() == 1
    assert not slave.trainer.can_advance
    slave.trainer.release()
    assert summaries(slave.trainer.advance())[0] == ("ACTIVATION", 2, 1, 7)


def test_a_first_layer_ends_where_other_replicas_follow_as_at_the_runs_end() -> None:
    slave = alone(1, batches=9)
    list(slave.trainer.advance())
    slave.trainer.hold()
    slave.trainer.end_at(2)
    assert summaries(slave.trainer.advance())[0] == ("ACTIVATION", 2, 1, 7)
    assert not slave.trainer.can_advance
    assert exchange(slave, gradient(0), gradient(1)) == [("END", 2, 2, 7)]
    exchange(slave, Ended(2, layer=1, incarnation=7))
    assert slave.trainer.through
    assert slave.trainer.next_batch == 2


def test_an_end_from_below_is_news_of_the_end_and_what_comes_behind_it_is_left_to_others() -> None:
    slave = alone(2, batches=9)
    assert ("END", 3, 1, 7) in exchange(slave, activation(0), gradient(0), end(1))
    assert exchange(slave, Ended(1, layer=2, incarnation=7)) == [("ENDED", 1, 1, 3)]
    # Whoever sent it has to be answered before it can end.
    assert exchange(slave, activation(1)) == [("LOST", 1, 1, 3)]
    assert slave.layer.stepped == [0]
    assert slave.trainer.lost_batches == 0
    with pytest.raises(MalformedError, match="END of batch 10 in a run of 9"):
        exchange(slave, end(10))


def test_what_dead_slaves_left_waits_but_not_without_bound() -> None:
    slave = alone(3, batches=40)
    for incarnation in range(1, 10):
        for batch in range(3):
            list(slave.trainer.receive(activation(3 * incarnation + batch, incarnation, layer=3)))
        slave.check()


def test_a_sender_that_does_not_keep_to_its_window_is_refused() -> None:
    slave = alone(3, batches=40)
    for batch in range(2 * slave.window_below + 1):
        list(slave.trainer.receive(activation(batch, layer=3)))
    with pytest.raises(MalformedError, match="window"):
        list(slave.trainer.receive(activation(39, layer=3)))


def test_what_is_unanswered_is_sent_again_to_a_new_peer_and_after_the_streams_broke() -> None:
    slave = alone(1)
    exchange(slave, Ready(layer=2))
    again = [("ACTIVATION", 2, batch, 7) for batch in range(3)]
    assert summaries(slave.trainer.receive(Ready(layer=2))) == again


def test_what_was_sent_is_sent_again_unchanged_by_the_steps_since() -> None:
    slave = alone(2)
    first = list(slave.trainer.receive(activation(0))) + list(slave.trainer.advance())
    copies = {m.kind: plain(signal).clone() for m in first for signal in m.carried().values()}
    exchange(slave, activation(1), activation(2))
    for message in slave.trainer.receive(Ready(layer=3)):
        if message.batch == 0:
            (signal,) = message.carried().values()
            assert torch.equal(plain(signal), copies[message.kind])


def test_with_unlock_none_a_batch_counts_as_seen_once_the_layer_has_stepped_on_it() -> None:
    slave = alone(1, "none")
    list(slave.trainer.advance())
    assert slave.trainer.next_batch == 0
    list(slave.trainer.receive(Down(0, torch.ones(4, 4), layer=1, incarnation=7)))
    assert slave.trainer.next_batch == 1


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_thousands_of_schedules_end_and_account_for_every_batch() -> None:
    for seed in range(1500):
        draw = random.Random(seed)
        unlock = draw.choice(WAYS)
        config = small(unlock, draw.choice([None, 1, 2, 5]), draw.choice([1, 2, 5, 12, 25]))
        kinds = draw.choice([["break"], ["die"], ["break", "die", "master"]])
        last = draw.choice([30, 200, 900])
        strikes = [
            Fault(draw.randrange(last), draw.choice(kinds), draw.randrange(1, 4))
            for _ in range(draw.randrange(12))
        ]
        accounts_for_every_batch(Chain(config, seed, strikes).run())


@pytest.mark.parametrize(
    "message",
    [
        activation(3),
        end(4),
        Up(0, torch.ones(5, 4), layer=2, incarnation=3),
        Up(0, torch.ones(4, 5), layer=2, incarnation=3),
    ],
)
def test_a_message_that_belongs_to_another_run_is_refused(message: Message) -> None:
    slave = alone(2, batches=3)
    with pytest.raises(MalformedError):
        exchange(slave, message)


@pytest.mark.parametrize("unlock", ["none", "update"])
def test_a_gradient_of_another_shape_than_its_h_is_refused(unlock: str) -> None:
    slave = alone(2, unlock)
    exchange(slave, activation(0))
    with pytest.raises(MalformedError, match="gradient"):
        exchange(slave, Down(0, torch.ones(1, 4), layer=2, incarnation=7))


def test_layers_end_where_a_stage_does_though_a_dead_slave_had_sent_batches_behind() -> None:
    two, three = alone(2, "none", batches=12), alone(3, "none", batches=12, number=8)
    slaves = {2: two, 3: three}

    def play(arriving: Message) -> None:
        """Hand a message over, and what follows, to layers 2 and 3; layer 1 is played by the test."""
        waiting = deque([arriving])
        while True:
            while waiting:
                message = waiting.popleft()
                if message.layer in slaves:
                    waiting.extend(sent(slaves[message.layer].worker.handle(message)))
            ready = next((each.worker for each in (three, two) if each.worker.can_advance), None)
            if ready is None:
                return
            waiting.extend(sent(ready.advance()))

    # A slave of layer 1 had sent batches 0 to 5 when it failed, and its successor ends the stage at 4.
    for batch in range(5):
        play(activation(batch))
    list(three.worker.handle(HeartbeatReply(end=4)))
    play(activation(5))
    list(two.worker.handle(HeartbeatReply(end=4)))
    play(end(4, incarnation=9))
    assert two.trainer.in_flight == 0
    assert two.trainer.through
    assert three.trainer.through


def sent(effects: Iterable[Effect]) -> list[Message]:
    return [effect.message for effect in effects if isinstance(effect, Send)]
