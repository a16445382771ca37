"""slave.training.free: steps and learning of unlock `full`, under any loss of messages."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.config.data import DataConfig
from common.config.decoupling import DecouplingConfig
from common.config.downpour import DownpourConfig
from common.config.network import NetworkConfig
from common.config.run import RunConfig
from common.config.sections import Config
from common.data import batches, datasets
from common.data.replicas import owner
from common.errors import MalformedError
from common.models import network
from common.optim.lessons import teach
from common.signals.values import plain
from common.wire.boundary import Down, Message, Ready, Taken, Up
from common.wire.messages import JoinReply
from common.wire.signals import from_wire, to_wire
from deploy.evaluation.evaluator import estimate_statistics
from slave.training.decoupling import Synthesizer
from slave.training.free import FreeTrainer
from slave.training.layers import build
from slave.training.trained import TrainedLayer
from slave.training.unlocks.full import Predictor

DIGITS = datasets.load(DataConfig())
SLOTS = 3


def configured(
    widths: tuple[int, ...] = (6, 5), counts: list[int] | int = 1, size: int = 4, probability: float = 1.0
) -> Config:
    return Config(
        RunConfig(batches=20, batch_size=size),
        DataConfig(),
        NetworkConfig(options={"widths": list(widths)}, cuts=list(range(1, len(widths) + 1))),
        DecouplingConfig("full", in_flight=SLOTS, step_probability=probability),
        downpour=DownpourConfig(n_push=10**9, replicas=counts),
    )


def build_seat(config: Config, k: int, replica: int = 0, next_batch: int = 0) -> TrainedLayer:
    blueprint = network.build(config, DIGITS.inputs, DIGITS.targets)
    lease = JoinReply(True, False, k, replica, 10 * k + replica, next_batch)
    trained = build(config, blueprint, DIGITS, lease, None)
    trained.trainer.begin()
    return trained


def free(seat: TrainedLayer) -> FreeTrainer:
    assert isinstance(seat.trainer, FreeTrainer)
    return seat.trainer


def parts(seat: TrainedLayer) -> tuple[Tensor, Tensor, Tensor]:
    """The parameters of the layer, of M and of I."""
    unlock: Any = free(seat)._unlock
    flats = [seat.layer.flat, unlock._synthesizer._synthesizer.flat, unlock._predictor._predictor.flat]
    first, second, third = (flat.parameters.detach().clone() for flat in flats)
    return first, second, third


def test_a_layer_steps_on_its_own_input_and_gradient_and_sends_both_with_what_they_belong_to() -> None:
    config = configured()
    seat, twin = build_seat(config, 2), build_seat(config, 2)
    unlock: Any = free(twin)._unlock
    layer = twin.layer
    x, y = free(twin)._x(0), free(twin)._y(0)
    passed = layer.forward(0, unlock._predictor.predict(0, x))
    u, h = plain(passed.u), plain(passed.h)
    h.backward(unlock._synthesizer.gradient(0, h.detach(), y))  # type: ignore[no-untyped-call]
    layer.step(0, len(y))
    up, down = free(seat).advance()
    assert isinstance(up, Up)
    assert isinstance(down, Down)
    assert (up.layer, up.batch, up.incarnation) == (3, 0, 20)
    assert (down.layer, down.batch, down.incarnation) == (1, 0, 20)
    torch.testing.assert_close(up.h, h.detach())
    torch.testing.assert_close(down.u, u.detach())
    torch.testing.assert_close(down.delta, u.grad)
    torch.testing.assert_close(parts(seat)[0], parts(twin)[0])


@pytest.mark.parametrize("lead", [None, 1, 5])
def test_a_layer_stands_still_after_a_long_silence_of_one_side_until_something_comes(
    lead: int | None,
) -> None:
    config = configured()
    if lead:
        config = replace(config, decoupling=replace(config.decoupling, lead=lead))
    seats = [build_seat(config, k) for k in (1, 2)]
    below, middle = map(free, seats)
    for _ in range(lead or 32):
        assert middle.can_advance
        list(middle.advance())
        (up,) = below.advance()
        # No message comes from above.
        list(middle.receive(up))
    assert not middle.can_advance
    # Some messages from below arrive, so the lower side goes on.
    assert not below.can_advance
    (_, down) = free(build_seat(configured(), 2)).advance()
    list(below.receive(down))
    assert below.can_advance
    # A new slave above, or an opened stream: earlier messages may be lost.
    list(middle.receive(Ready(layer=2, incarnation=1)))
    assert middle.can_advance


def test_m_learns_at_the_input_that_came_with_the_gradient_and_i_on_h_with_x_made_anew() -> None:
    config = configured()
    seat, twin = build_seat(config, 2), build_seat(config, 2)
    trainer, other = free(seat), free(twin)
    u, delta, h = torch.rand(4, 5), torch.randn(4, 5), torch.rand(4, 6)
    list(trainer.receive(Down(7, delta, u, layer=2)))
    list(trainer.receive(Up(9, h, layer=2)))
    before = parts(seat)
    trainer._learn()
    unlock: Any = other._unlock
    m, i = unlock._synthesizer._synthesizer, unlock._predictor._predictor
    assert isinstance(m, Synthesizer)
    assert isinstance(i, Predictor)
    steps = config.lesson_steps
    teach(m.module.learn, m._stepper, 7, steps, u, other._batches.labels(7), delta)
    i._module.learn(plain(other._batches.inputs(9)), h)
    i._stepper.step(9)
    after, expected = parts(seat), parts(twin)
    assert torch.equal(after[0], before[0])
    for name in (1, 2):
        assert not torch.equal(after[name], before[name])
        assert torch.equal(after[name], expected[name])


def test_before_each_step_at_most_one_message_of_each_kind_is_learned_on() -> None:
    trainer = free(build_seat(configured(), 2))
    for batch in range(3):
        list(trainer.receive(Down(batch, torch.ones(4, 5), torch.ones(4, 5), layer=2)))
    for learned in (1, 2, 3, 3):
        list(trainer.advance())
        assert trainer.delays.total() == learned


def test_a_layer_goes_on_past_the_runs_batches_until_it_is_told_to_stop() -> None:
    trainer = free(build_seat(configured(), 1, next_batch=18))
    for _ in range(5):
        assert trainer.can_advance
        list(trainer.advance())
    assert trainer.next_batch == 23
    assert not trainer.through
    trainer.stop()
    assert trainer.through
    assert not trainer.can_advance


@pytest.mark.parametrize(
    "message",
    [
        Down(0, torch.ones(4, 5), layer=2),
        Down(0, torch.ones(4, 5), torch.ones(1, 5), layer=2),
        Down(0, torch.ones(4, 6), torch.ones(4, 6), layer=2),
        Up(0, torch.ones(4, 5), layer=2),
        Up(0, torch.ones(5, 6), layer=2),
    ],
    ids=["no input", "input of one", "gradient of another shape", "h of another shape", "another batch size"],
)
def test_tensors_of_another_run_are_refused(message: Message) -> None:
    trainer = free(build_seat(configured(), 2))
    list(trainer.receive(message))
    # A gradient without an input is of another unlock.
    compared = "configuration" if isinstance(message, Down) and message.u is None else "network"
    with pytest.raises(MalformedError, match=f"same {compared}"):
        list(trainer.advance())


@settings(max_examples=12)
@given(
    st.lists(st.integers(1, 3), min_size=3, max_size=3),
    st.sampled_from([0.0, 0.3, 0.95]),
    st.sampled_from([1.0, 0.5]),
    st.integers(0, 2**32),
)
def test_whatever_is_lost_late_or_out_of_order_every_layer_goes_on_and_nothing_grows(
    counts: list[int], lost: float, probability: float, seed: int
) -> None:
    config, chance = configured(counts=counts, probability=probability), random.Random(seed)
    trainers = {(k, r): free(build_seat(config, k, r)) for k in (1, 2, 3) for r in range(counts[k - 1])}
    speeds = {place: chance.choice([0.5, 1.0, 2.0]) for place in trainers}
    under_way: deque[Message] = deque()
    stepped: dict[tuple[int, int], list[int]] = {place: [] for place in trainers}
    while min(trainer.next_batch for trainer in trainers.values()) < 8:
        if under_way and chance.random() < 0.6:
            under_way.rotate(chance.randrange(-2, 3))
            message = from_wire(to_wire(under_way.popleft()))
            if chance.random() >= lost:
                assert not list(trainers[message.layer, message.replica].receive(message))
            continue
        (place,) = chance.choices(list(trainers), list(speeds.values()))
        stepped[place].append(trainers[place].next_batch)
        for message in trainers[place].advance():
            assert message.replica == owner(message.batch, counts[message.layer - 1])
            assert message.carried().keys() == message.signals.keys()
            under_way.append(message)
        for trainer in trainers.values():
            assert len(trainer._activations) <= SLOTS
            assert len(trainer._gradients) <= SLOTS
            assert trainer.in_flight == trainer.lost_batches == 0
    for (k, r), seen in stepped.items():
        assert seen == [b for b in range(seen[-1] + 1) if owner(b, counts[k - 1]) == r]
        assert len(seen) == trainers[k, r].steps


def error_percent(module: nn.Module) -> float:
    module.eval()
    with torch.no_grad():
        wrong = sum(int((module(x).argmax(1) != y).sum()) for x, y in batches.test_batches(DIGITS))
    return 100 * wrong / len(DIGITS.test)


@pytest.mark.slow
def test_layers_that_run_at_their_own_speeds_learn_the_digits_together() -> None:
    config, chance = configured(widths=(64, 64), size=64), random.Random(3)
    seats = [build_seat(config, k) for k in (1, 2, 3)]
    trainers = [free(seat) for seat in seats]
    under_way: list[Message] = []
    while min(trainer.next_batch for trainer in trainers) < 600:
        (trainer,) = chance.choices(trainers, [1.0, 1.5, 2.0])
        under_way += trainer.advance()
        while len(under_way) > 4:
            message = under_way.pop(chance.randrange(3))
            list(trainers[message.layer - 1].receive(message))
    chain = nn.Sequential(*(seat.layer.flat.module for seat in seats))
    data = batches.Batches(DIGITS, 0, 64)
    estimate_statistics(chain, map(data.inputs, range(20)))
    assert error_percent(chain) < 8
    assert all(seat.health.gradient_cosine > 0.3 for seat in seats[:2])


def test_statistics_are_the_mean_over_the_real_batches_and_the_same_each_time() -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    inputs = [torch.rand(8, 3) for _ in range(5)]
    weights = [parameter.clone() for parameter in chain.parameters()]
    found = []
    for _ in range(2):
        estimate_statistics(chain.eval(), inputs)
        found.append([buffer.clone() for buffer in chain.buffers()])
        assert not any(module.training for module in chain.children())
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, chain.parameters(), strict=True))
    with torch.no_grad():
        outputs = [chain[0](x) for x in inputs]
    torch.testing.assert_close(chain[1].running_mean, torch.stack([h.mean(0) for h in outputs]).mean(0))
    torch.testing.assert_close(chain[1].running_var, torch.stack([h.var(0) for h in outputs]).mean(0))
    assert chain[1].momentum == 0.1


def fixed_below(folder: Path) -> Config:
    """Two layers, of which the first is frozen."""
    (folder / "own.py").write_text(
        "from torch import nn\n"
        "def build(classes):\n"
        "    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 6)).requires_grad_(False)\n"
        "    return [first, nn.Linear(6, classes)]\n"
    )
    return replace(configured(), network=NetworkConfig(f"{folder}/own.py:build", cuts=[1], options={}))


def test_a_layer_that_wants_no_gradient_stands_still_without_a_word_from_above_too(tmp_path: Path) -> None:
    config = fixed_below(tmp_path)
    fixed, top = (free(build_seat(config, k)) for k in (1, 2))
    for _ in range(config.lead):
        assert [type(message) for message in fixed.advance()] == [Up]
    assert not fixed.can_advance
    (taken,) = top.advance()
    assert isinstance(taken, Taken)
    list(fixed.receive(taken))
    assert fixed.can_advance


def test_a_gradient_for_a_layer_that_wants_none_is_refused(tmp_path: Path) -> None:
    fixed = free(build_seat(fixed_below(tmp_path), 1))
    list(fixed.receive(Down(0, torch.zeros(4, 6), torch.zeros(4, 6), layer=1)))
    with pytest.raises(MalformedError, match=r"came to layer 1, where nothing learns; .* the same network"):
        list(fixed.advance())
