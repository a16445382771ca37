"""slave.training.pacing: pushes take their share of the time at most, and noise changes nothing."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from common.config.downpour import FEWEST_STEPS
from common.shards.flat import Flat
from common.shards.working_copy import WorkingCopy
from slave.training.pacing import MOST_STEPS, ROOM, SHARE, PushPace, choose

SECONDS = st.floats(1e-6, 1e3)
STEPS = st.integers(FEWEST_STEPS, MOST_STEPS)


@given(STEPS, SECONDS, SECONDS)
def test_pushes_take_at_most_their_share_unless_the_longest_interval_is_too_short(
    n: int, push: float, step: float
) -> None:
    chosen = choose(n, push / step)
    assert FEWEST_STEPS <= chosen <= MOST_STEPS
    assert push <= SHARE * chosen * step * (1 + 1e-9) or chosen == MOST_STEPS
    # And not much less than the share, unless the shortest interval is long enough.
    assert push >= SHARE * chosen * step / ROOM**3.2 / 1.1 or chosen == FEWEST_STEPS


@given(STEPS, SECONDS, SECONDS, st.lists(st.floats(1 / 1.1, 1.1), min_size=1, max_size=20))
def test_measurements_that_vary_a_little_change_a_chosen_number_once_at_most(
    n: int, push: float, step: float, noise: list[float]
) -> None:
    chosen = choose(n, push / step)
    found = [chosen := choose(chosen, push * factor / step) for factor in noise]
    assert len({*found}) <= 2
    assert sum(one != other for one, other in itertools.pairwise(found)) <= 1


def paced(*names: str) -> tuple[PushPace, list[WorkingCopy]]:
    copies = [WorkingCopy(name, Flat(nn.Linear(2, 2)), FEWEST_STEPS, 1) for name in names]
    return PushPace(copies), copies


def play(pace: PushPace, names: tuple[str, ...], push: float, step: float, rounds: int = 10) -> None:
    """Push every `pace.n` steps: the shards' pushes are handed over at once, and follow one another."""
    now, steps = 0.0, 0
    for _ in range(rounds):
        now, steps = now + pace.n * step, steps + pace.n
        for name in names:
            pace.begin(name, now, steps)
        for number, name in enumerate(names, 1):
            late = number * push
            pace.answer(name, now + late, steps + int(late / step))
        now, steps = now + len(names) * push, steps + int(len(names) * push / step)


@pytest.mark.parametrize("names", [("1/weights",), ("1/weights", "1/gradient")])
def test_the_pushes_of_all_shards_share_the_link_and_get_one_number(names: tuple[str, ...]) -> None:
    pace, copies = paced(*names)
    play(pace, names, push=0.1, step=0.01)
    assert {copy.n_push for copy in copies} == {pace.n}
    assert len(names) * 0.1 / (pace.n * 0.01) <= SHARE
    assert pace.n <= 200 * len(names) * ROOM**3


def test_on_a_fast_link_the_fewest_steps_stay() -> None:
    pace, copies = paced("1/weights")
    play(pace, ("1/weights",), push=0.0001, step=0.01)
    assert pace.n == copies[0].n_push == FEWEST_STEPS


def test_a_link_that_becomes_slow_and_fast_again_is_followed_and_one_late_answer_is_not() -> None:
    pace, _ = paced("1/weights")
    play(pace, ("1/weights",), push=0.1, step=0.01)
    slow = pace.n
    pace.begin("1/weights", 1000.0, 100_000)
    pace.answer("1/weights", 1030.0, 103_000)
    assert pace.n == slow
    draws = random.Random(0)
    fresh, _ = paced("1/weights")
    for push in (0.1, 0.001):
        play(fresh, ("1/weights",), push=push * draws.uniform(0.95, 1.05), step=0.01)
    assert fresh.n == FEWEST_STEPS


def test_backups_take_the_link_too_but_keep_their_own_pace() -> None:
    pace, _ = paced("1/weights")
    for steps in (10, 20, 30):
        pace.begin("1/optimizer", steps * 0.01, steps)
        pace.begin("1/weights", steps * 0.01, steps)
        pace.answer("1/optimizer", steps * 0.01 + 5.0, steps + 5)
        # Behind the backup for five seconds; then a millisecond of its own.
        pace.answer("1/weights", steps * 0.01 + 5.001, steps + 5)
    assert pace.n == FEWEST_STEPS


def test_the_fragments_of_a_layer_share_the_time_of_whole_pushes() -> None:
    """Four fragments of a quarter of the seconds each get the number of steps of one whole push."""
    copy = WorkingCopy("1/weights", Flat(nn.Linear(2, 2)), FEWEST_STEPS, 1, fragments=4)
    pace = PushPace([copy])
    now, steps = 0.0, 0
    for _ in range(60):
        apart = -(-pace.n // 4)
        now, steps = now + apart * 0.01, steps + apart
        pace.begin("1/weights", now, steps)
        now, steps = now + 0.025, steps + 2
        pace.answer("1/weights", now, steps)
    assert 4 * 0.025 / (pace.n * 0.01) <= SHARE
    assert pace.n <= 200 * ROOM**3


def test_a_shard_that_steps_once_in_four_batches_is_pushed_by_its_own_steps() -> None:
    """With `accumulate` = 4 the weights' pushes are four times as far apart as those of M."""
    names = ("1/weights", "1/gradient")
    pace, _ = paced(*names)
    for batches in range(0, 8000, 400):
        now = batches * 0.01
        pace.begin(names[0], now, batches // 4)
        pace.begin(names[1], now, batches)
        pace.answer(names[0], now + 0.1, (batches + 10) // 4)
        pace.answer(names[1], now + 0.2, batches + 20)
    share = 0.1 / (pace.n * 0.04) + 0.1 / (pace.n * 0.01)
    assert SHARE / ROOM**3.2 <= share <= SHARE


def test_fetches_are_no_more_frequent_than_paced_pushes_and_no_more_than_was_asked_for() -> None:
    copy = WorkingCopy("1/weights", Flat(nn.Linear(2, 2)), FEWEST_STEPS, 1, n_fetch=20)
    pace = PushPace([copy])
    steps = 0
    for push, fewest in ((0.1, 200), (0.0001, 20)):
        play(pace, ("1/weights",), push=push, step=0.01, rounds=20)
        interval = max(20, pace.n)
        assert interval >= fewest
        assert not copy.fetch_due(steps + interval - 1)
        assert copy.fetch_due(steps + interval)
        copy.fetch_failed()
        steps += interval
