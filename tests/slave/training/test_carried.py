"""slave.training.carried: the state before a window, what is counted as lost, and the backup."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from common.data.streams import Streams
from common.data.windows import overlapping_windows
from common.shards.backup import Backup
from common.shards.working_copy import Push
from slave.training.carried import MOST_ENDS, Carried, CarriedState

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
    CarriedState(successor, [0]).load(pushed.buffer)
    pushed.buffer[:] = 0
    pass_on(states, 2)
    assert pass_on(successor, 2) == [1]
