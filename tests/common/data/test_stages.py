"""Stages: every batch has one replica at every layer, whatever the changes, and neighbours agree on it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.replicas import BatchRoutes, meet, owner
from common.data.stages import Stages, count_own
from common.errors import MalformedError
from common.wire.stages import Stage

COUNTS = st.integers(1, 5)
WARM = st.integers(0, 9)


@st.composite
def stages(draw: st.DrawFn) -> Stages:
    """Stages of a run of two to four layers, which change at any batches."""
    layers = draw(st.integers(2, 4))
    each = st.lists(COUNTS, min_size=layers, max_size=layers)
    found = Stages.first(draw(each))
    for start in sorted(draw(st.sets(st.integers(1, 60), max_size=4))):
        found = found.extended(start, draw(each))
    return found


@given(stages(), WARM)
def test_every_batch_has_one_replica_at_every_layer(plan: Stages, warm: int) -> None:
    for number, (start, end) in enumerate(pairwise([*plan.starts, 80])):
        counts = plan.replicas[number]
        assert plan.end(number) == (None if end == 80 else end)
        for k, count in enumerate(counts, 1):
            trained = [
                [b for b in range(start, end) if owner(b, count, warm) == replica] for replica in range(count)
            ]
            assert sorted(batch for own in trained for batch in own) == [*range(start, end)]
            for replica, own in enumerate(trained):
                assert all(plan.owner(batch, k, warm) == replica for batch in own)


@given(stages(), WARM)
def test_neighbours_meet_and_agree_on_sender_and_receiver_of_every_batch(plan: Stages, warm: int) -> None:
    for batch in range(70):
        counts = plan.replicas[plan.number(batch)]
        for k in range(1, len(counts)):
            here, there = plan.owner(batch, k, warm), plan.owner(batch, k + 1, warm)
            above = counts[k] if k == len(counts) - 1 else counts[k + 1]
            lower = BatchRoutes(here, counts[k - 1], counts[max(k - 2, 0)], counts[k], warm)
            upper = BatchRoutes(there, counts[k], counts[k - 1], above, warm)
            assert (lower.receiver(batch), upper.sender(batch)) == (there, here)
            assert there in lower.receivers()
            assert here in upper.senders(k + 1)
            assert upper.between(here)(batch)
            assert meet((k, here), (k + 1, there), counts, broadcasts=False)


@given(st.integers(0, 30), st.integers(0, 60), COUNTS, WARM)
def test_own_batches_are_counted(first: int, end: int, replicas: int, warm: int) -> None:
    for replica in range(replicas):
        own = [batch for batch in range(first, end) if owner(batch, replicas, warm) == replica]
        assert count_own(first, end, replica, replicas, warm) == len(own)


@given(stages())
def test_stages_pass_through_messages_and_can_be_cut(plan: Stages) -> None:
    layers = len(plan.replicas[0])
    assert Stages.of(plan.to_messages(), layers) == plan
    assert plan.through(len(plan.starts) - 1) == plan
    assert plan.through(0) == Stages.first(plan.replicas[0])


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [Stage(1, [1, 1])],
        [Stage(0, [1])],
        [Stage(0, [1, 0])],
        [Stage(0, [1, 1]), Stage(0, [2, 2])],
        [Stage(0, [1, 1]), Stage(9, [2, 2]), Stage(5, [1, 1])],
    ],
)
def test_a_list_of_stages_of_no_run_is_refused(messages: list[Stage]) -> None:
    with pytest.raises(MalformedError, match="no run of 2 layers"):
        Stages.of(messages, 2)
