"""slave.training.carried: the state before a window, what is counted as lost, the backup, and a layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.config.optimizer import OptimizerConfig
from common.data.streams import Streams
from common.data.windows import overlapping_windows
from common.models.recurrent import Gru, unroll
from common.optim.stepper import Stepper
from common.shards.backup import Backup
from common.shards.flat import Flat
from common.shards.working_copy import Push
from common.signals.values import plain
from common.synthesizers.time.auxiliary import Auxiliary
from common.synthesizers.time.module import TimeModule
from common.synthesizers.time.regression import TimeSynthesizer
from slave.training.carried import MOST_ENDS, Carried, CarriedState
from slave.training.future import Future
from slave.training.health import Health
from slave.training.layer import Layer

B, S = 2, 3


def streams(groups: int = 1, windows: int = 5) -> Streams:
    """Streams of a number of windows of 4 steps an epoch."""
    tokens = np.arange(4 * windows * groups * B + 4)
    found = Streams(overlapping_windows(tokens, 4, "text"), 0, B, groups)
    assert found.batches_per_epoch == windows * groups
    return found


def carried(groups: int = 1, windows: int = 5) -> Carried:
    return Carried(S, streams(groups, windows), B)


def after(batch: int) -> Tensor:
    return torch.full((B, S), float(batch))


def pass_on(states: Carried, *numbers: int) -> list[float]:
    """Take and put the windows; return a number of the state before each."""
    found = []
    for batch in numbers:
        found.append(float(states.take(batch)[0, 0]))
        states.put(batch, after(batch))
    return found


def test_each_group_has_a_state_of_its_own_and_an_epoch_begins_with_zeros() -> None:
    states = carried(groups=2, windows=3)
    assert pass_on(states, 0, 1, 2, 3, 4, 5, 6, 7, 8) == [0, 0, 0, 1, 2, 3, 0, 0, 6]
    assert states.lost == 0


def test_a_window_after_a_gap_takes_the_last_state_and_its_streams_are_counted() -> None:
    states = carried()
    assert pass_on(states, 0, 1, 3) == [0, 0, 1]
    assert states.lost == B


def test_a_window_that_was_overtaken_finds_its_state_and_others_go_on() -> None:
    states = carried(windows=50)
    assert pass_on(states, 0, 1, 5, 2, 3, 6, 4, 7) == [0, 0, 1, 1, 2, 5, 3, 6]
    assert states.lost == B
    # A gap beyond which nothing comes is forgotten.
    pass_on(states, 10, 13, 16, 19, 22, 25)
    assert len(states._group(0).ends) == MOST_ENDS
    assert states.lost == 7 * B


def test_a_state_of_another_epoch_is_none() -> None:
    states = carried()
    pass_on(states, 0, 1)
    assert pass_on(states, 7, 8) == [0, 7]
    assert states.lost == B


def test_a_slave_without_a_state_begins_with_zeros_and_counts_its_streams() -> None:
    states = carried()
    assert pass_on(states, 3, 4, 5) == [0, 3, 0]
    assert states.lost == B


def push(states: Carried, groups: list[int]) -> Push:
    return Backup("1/state-0", CarriedState(states, groups), 1, 1).initial()


def restored(states: Carried, groups: list[int], successor: Carried) -> Carried:
    pushed = push(states, groups)
    CarriedState(successor, groups).load(pushed.buffer)
    return successor


def test_a_successor_goes_on_exactly_where_the_weights_are() -> None:
    states = carried(groups=2)
    pass_on(states, 0, 1, 2, 3)
    states.next_batch = lambda: 4
    successor = restored(states, [0, 1], carried(groups=2))
    assert pass_on(successor, 4, 5) == [2, 3]
    assert successor.lost == 0


def test_windows_in_flight_are_taken_again_from_the_states_before_them() -> None:
    states = carried(groups=2)
    states.next_batch = lambda: 2
    pass_on(states, 0, 1, 2, 3, 4)
    successor = restored(states, [0, 1], carried(groups=2))
    assert pass_on(successor, 2, 3, 4) == [0, 1, 2]
    assert successor.lost == 0


def test_an_older_backup_is_used_and_counted() -> None:
    states = carried()
    pass_on(states, 0, 1)
    states.next_batch = lambda: 2
    successor = restored(states, [0], carried())
    assert pass_on(successor, 3, 4) == [1, 3]
    assert successor.lost == B


@pytest.mark.parametrize("seen", [0, 1])
def test_a_backup_without_a_state_restores_none(seen: int) -> None:
    states = carried()
    states.next_batch = lambda: seen
    pass_on(states, *range(seen))
    successor = restored(states, [0], carried())
    assert pass_on(successor, seen, seen + 1) == [0, seen]
    assert successor.lost == 0


def test_states_before_windows_that_the_weights_have_seen_are_dropped() -> None:
    states = carried(windows=1000)
    seen = 0
    states.next_batch = lambda: seen
    for batch in range(500):
        seen = max(0, batch - 3)
        pass_on(states, batch)
        assert len(states._group(0).before) <= 5


def test_a_restored_state_is_no_view_of_the_backups_memory() -> None:
    states = carried()
    pass_on(states, 0, 1)
    states.next_batch = lambda: 2
    pushed = push(states, [0])
    successor = carried()
    backup = CarriedState(successor, [0])
    backup.load(pushed.buffer)
    pushed.buffer[:] = 0
    before = successor.take(2)
    successor.put(2, after(2))
    # `delayed` keeps the state before window 2, while the backup goes on to the state before window 3.
    pass_on(successor, 3)
    successor.next_batch = lambda: 3
    backup.gather()
    assert torch.equal(before, after(1))


def recurrent_layer(early: int | None = None) -> Layer:
    """Layer 2, with a state of 5 numbers a stream and windows of 4 steps; `early` of M in time, if any."""
    torch.manual_seed(1)
    flat = Flat(nn.Sequential(nn.Linear(3, 4), Gru(4, 5), nn.Linear(5, 3)))
    settings = OptimizerConfig(name="sgd", learning_rate=0.1)
    future = None
    if early is not None:
        module = TimeModule(TimeSynthesizer(5, [4]), Auxiliary(5))
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        future = Future(module, Stepper(Flat(module), settings, 10), Health(), early)
    return Layer(2, flat, Stepper(flat, settings, 10), carried=Carried(5, streams(), B), future=future)


def test_a_second_forward_begins_at_the_state_of_the_first_and_moves_nothing() -> None:
    layer, xs = recurrent_layer(), torch.randn(4, B, 4, 3)
    passed = [layer.forward(batch, xs[batch]) for batch in range(3)]
    again = layer.forward_again(1, xs[1], passed[1].before)
    whole = layer.flat.module(torch.cat(list(xs), 1))
    assert torch.equal(plain(again.h), plain(passed[1].h))
    outputs = [*(plain(each.h) for each in passed), plain(layer.forward(3, xs[3]).h)]
    torch.testing.assert_close(torch.cat(outputs, 1), whole)
    # Truncated: the gradient at the input of window 1 is that of the window alone.
    layer.backward(again, torch.ones(B, 4, 3))
    x = xs[1].clone().requires_grad_()
    assert again.before is not None
    assert not again.before.requires_grad
    unroll(layer.flat.module.children(), x, again.before).output.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    torch.testing.assert_close(plain(again.u).grad, x.grad)
