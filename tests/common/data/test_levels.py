"""common.data.levels: the list of levels, and the batches that follow from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config import files
from common.config.data import BLOCK
from common.data import datasets
from common.data.batches import Batches
from common.data.levels import MOST_LEVELS, Levels
from common.errors import ConfigError, MalformedError
from common.signals.values import plain
from common.wire.curriculum import Curriculum

KEYS = ["data.dataset=copy", "network.model=lstm", "run.batch_size=4"]


def batches(*more: str) -> Batches:
    config = files.load(None, [*KEYS, "time.window=3", *more])
    return Batches.of(config, datasets.of(config))


def grown(solved: list[bool]) -> Levels:
    """Return the levels after blocks that were solved or not."""
    levels = Levels()
    for each in solved:
        levels = levels.extended(solved=each)
    return levels


@given(st.lists(st.booleans(), max_size=40))
def test_a_list_only_grows_and_a_level_lasts_two_blocks_at_least(solved: list[bool]) -> None:
    levels = Levels()
    for each in solved:
        more = levels.extended(solved=each)
        assert more.decided == levels.decided + BLOCK
        for batch in range(0, levels.decided, BLOCK // 2):
            assert more.number(batch) == levels.number(batch)
        # The level of block j + 2 is one more than that of a solved block j.
        block = levels.source * BLOCK
        last = levels.number(levels.decided - 1)
        assert more.number(more.decided - 1) == max(last, levels.number(block) + each)
        levels = more
    assert Levels.of(levels.to_message()) == levels
    assert levels.solved == len(levels.starts) - 1


def test_there_is_a_last_level() -> None:
    assert grown([True] * 3 * MOST_LEVELS).solved == MOST_LEVELS - 1


@pytest.mark.parametrize(
    ("starts", "decided"),
    [([], 200), ([100], 200), ([0, 250], 400), ([0, 100], 300), ([0, 300, 200], 500), ([0, 300], 300),
     ([0], 100), ([0], 250), ([200 * n for n in range(MOST_LEVELS + 1)], 10**6)],
)  # fmt: skip
def test_a_list_of_no_run_is_refused(starts: list[int], decided: int) -> None:
    with pytest.raises(MalformedError, match="are those of no run"):
        Levels.of(Curriculum(starts, decided))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.booleans(), min_size=4, max_size=12),
    st.sampled_from([1, 2, [2, 3]]),
    st.data(),
)
def test_every_process_and_every_resumed_run_constructs_equal_batches_from_the_list(
    solved: list[bool], replicas: int | list[int], data: st.DataObject
) -> None:
    more = (f"downpour.replicas={replicas}",)
    whole = batches(*more)
    whole.learn(grown(solved).to_message())
    # One that joined early, and heard of the levels one by one, out of order too; one that joins now.
    early, late = batches(*more), batches(*more)
    for length in data.draw(st.permutations(range(len(solved) + 1))):
        early.learn(grown(solved[:length]).to_message())
    late.learn(whole.levels.to_message() if whole.levels else Curriculum())
    assert whole.levels is not None
    for batch in data.draw(st.lists(st.integers(0, whole.levels.decided - 1), min_size=3, max_size=6)):
        x, y = plain(whole.inputs(batch)), whole.labels(batch)
        assert x.shape == y.shape == (4, 3)
        for other in (early, late):
            assert torch.equal(plain(other.inputs(batch)), x)
            assert torch.equal(other.labels(batch), y)


@given(st.lists(st.booleans(), min_size=2, max_size=8), st.integers(1, 3))
def test_a_level_begins_streams_that_go_on_until_its_end(solved: list[bool], replicas: int) -> None:
    made = batches(f"downpour.replicas={replicas}")
    made.learn(grown(solved).to_message())
    streams, levels = made.streams, made.levels
    assert streams is not None
    assert levels is not None
    begun = [batch for batch in range(levels.decided) if streams.begins(batch)]
    # Each group begins once a level.
    assert begun == [start + group for start in levels.starts for group in range(replicas)]
    for batch in range(levels.decided - replicas):
        if not streams.begins(batch + replicas):
            assert streams.epoch(batch) == streams.epoch(batch + replicas)


def test_a_batch_whose_level_is_not_decided_does_not_exist() -> None:
    made = batches()
    assert made.has(199)
    assert not made.has(200)
    made.learn(Curriculum([0], 300))
    assert made.has(200)
    made.learn(Curriculum())
    assert made.has(299)
    with pytest.raises(AssertionError):
        made.inputs(300)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["data.dataset=copy"], r"time\.window: is unset, but .*copy.* give time\.window = T"),
        (["data.dataset=repeat-copy", "time.gradient=dni"], r"time\.window: is unset"),
        (["data.dataset=copy", "time.window=3"], r'time\.window: network\.model = "mlp" has no recurrent'),
        (
            [*KEYS, "time.window=3", "decoupling.unlock=full", "decoupling.lead=100"],
            r"decoupling\.lead: 100 .* give at least 101",
        ),
        ([*KEYS, "time.window=3", "data.path=x"], r'data\.path: unknown key for data\.dataset = "copy"'),
        ([*KEYS, "time.window=3", "data.context=3"], r"data\.context: unknown key"),
        ([*KEYS, "time.window=3", "task.kind=classification"], r"task\.kind: .* leave task\.kind out"),
    ],
)
def test_a_run_that_cannot_be_is_refused_by_its_key(keys: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        files.load(None, keys)


def test_files_for_data_that_the_program_makes_are_refused(tmp_path: Path) -> None:
    config = files.load(None, [*KEYS, "time.window=3"])
    with pytest.raises(ConfigError, match=r"^--data .*: copy is made by the program.* leave --data out"):
        datasets.of(config, path=tmp_path)
    with pytest.raises(ConfigError, match=r"^run\.batch_size: 2000000 streams are .* at most 1048576"):
        batches("run.batch_size=2000000")
