"""master.curriculum: levels from scores."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.data import BLOCK
from common.data.levels import Levels
from common.errors import MalformedError
from common.wire.curriculum import Curriculum, Score
from master.curriculum import MOST_KEPT, SOLVED, Grading, announce, decide

LOW, HIGH = 0.9 * SOLVED, 1.1 * SOLVED


def score(block: int, bits: float, answers: int = 10) -> Score:
    """Return a score of so many bits an answer."""
    return Score(block, bits * answers, answers)


@pytest.mark.parametrize(
    ("scores", "harder"),
    [
        ([], False),
        ([score(0, LOW)], True),
        ([score(0, HIGH)], False),
        ([score(0, LOW, 30), score(0, HIGH)], True),
        ([score(0, LOW), score(0, HIGH, 30)], False),
        ([Score(0, 0.0, 0)], False),
        ([score(0, math.nan)], False),
        ([score(0, math.inf)], False),
    ],
)
def test_a_level_is_raised_when_an_answer_costs_few_bits_over_all_replicas(
    scores: list[Score], harder: bool
) -> None:
    assert decide(Levels(), scores) == Levels((0, 200) if harder else (0,), 300)


def test_a_level_is_decided_once_all_replicas_are_through_the_block_and_no_block_is_passed_over() -> None:
    grading = Grading(2)
    assert not grading.hear(0, [score(0, LOW), score(1, LOW)])
    assert not grading.hear(1, [score(1, LOW)])
    assert grading.levels == Levels()
    # Block 3 follows from block 1, which has the first level: no second step from the same level.
    assert grading.hear(1, [score(0, LOW)])
    assert grading.levels == Levels((0, 200), 400)
    assert grading.awaited(400)
    assert not grading.awaited(399)


def test_repeated_late_and_far_scores_change_nothing_and_take_no_memory() -> None:
    grading = Grading(1)
    grading.hear(0, [score(0, LOW)])
    before = grading.levels
    for _ in range(3):
        assert not grading.hear(0, [score(0, LOW), score(1 + MOST_KEPT, LOW), score(10**9, LOW)])
    assert grading.levels == before
    assert not grading._scores


def test_a_successor_that_knows_less_does_not_take_a_score_back() -> None:
    grading = Grading(2)
    grading.hear(0, [score(0, LOW)])
    grading.hear(0, [Score(0, 0.0, 0)])
    grading.hear(1, [Score(0, 0.0, 0)])
    assert grading.levels == Levels((0, 200), 300)


def test_levels_outlive_the_master_and_scores_are_reported_again() -> None:
    grading = Grading(1)
    for block in range(3):
        grading.hear(0, [score(block, LOW)])
    restored = Grading.restore(1, json.loads(json.dumps(grading.dump())))
    assert restored.levels == grading.levels == Levels((0, 200, 400), 500)
    assert Grading.restore(1, {}).levels == Levels()
    with pytest.raises(MalformedError):
        Grading.restore(1, {"curriculum": {"starts": [7], "decided": 500}})
    assert announce(restored) == Curriculum([0, 200, 400], 500)
    assert announce(None) == Curriculum()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.booleans()), max_size=60))
def test_what_was_decided_is_never_taken_back(events: list[tuple[int, int, bool]]) -> None:
    grading = Grading(3)
    for replica, block, low in events:
        before = grading.levels
        changed = grading.hear(replica, [score(block, LOW if low else HIGH)])
        after = grading.levels
        assert changed == (after.decided > before.decided)
        assert all(after.number(batch) == before.number(batch) for batch in range(0, before.decided, BLOCK))
        assert [line["batch"] for line in grading.describe(before)] == [*after.starts[len(before.starts) :]]


def test_a_block_that_nobody_will_report_leaves_the_level() -> None:
    grading = Grading(2)
    grading.hear(0, [score(0, HIGH), score(1, LOW)])
    grading.give_up()
    assert grading.levels == Levels((0,), 300)
    grading.hear(1, [score(1, LOW)])
    assert grading.levels == Levels((0, 300), 400)
