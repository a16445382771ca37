"""common.data.streams: windows of parallel streams that follow each other, for every group and epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.data import batches
from common.data.batches import Batches
from common.data.datasets import Dataset
from common.data.streams import stream_rows
from common.data.windows import consecutive_windows, overlapping_windows
from common.errors import ConfigError
from common.signals.values import plain


def counting(tokens: int, window: int, tests: int = 100) -> Dataset:
    """A text whose token at place n is n."""
    train, test = np.arange(tokens), np.arange(tests)
    return Dataset(
        "counting",
        overlapping_windows(train, window, "train"),
        consecutive_windows(test, window, "test"),
        {},
        max(tokens, tests),
    )


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 40), st.integers(0, 9))
def test_a_group_reads_its_streams_window_by_window_and_an_epoch_reads_no_token_twice(
    size: int, groups: int, window: int, more: int, seed: int
) -> None:
    made = Batches(counting(size * groups * window + window + more, window), seed, size, groups)
    assert made.streams is not None
    count = made.batches_per_epoch
    taken = [plain(made.inputs(batch)) for batch in range(2 * count)]
    for batch in range(2 * count):
        assert taken[batch].shape == (size, window)
        assert torch.equal(made.labels(batch), taken[batch] + 1)
        assert made.streams.begins(batch) == (batch % count < groups)
        if not made.streams.begins(batch):
            assert torch.equal(taken[batch][:, 0], taken[batch - groups][:, -1] + 1)
    for epoch in (taken[:count], taken[count:]):
        tokens = torch.cat(epoch).flatten().tolist()
        assert len(set(tokens)) == len(tokens) == count * size * window


def test_over_epochs_every_token_occurs() -> None:
    made = Batches(counting(100, 7), 3, 4, 2)
    taken = [plain(made.inputs(batch)) for batch in range(40 * made.batches_per_epoch)]
    assert set(torch.cat(taken).flatten().tolist()) == set(range(99))


def test_more_streams_than_windows_are_refused_with_the_most_that_there_may_be() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^run.batch_size: 8 streams and 2 groups, .* 16 windows of 7 steps, .* at most 6, ",
    ):
        Batches(counting(100, 7), 0, 8, 2)
    assert Batches(counting(100, 7), 0, 6, 2).batches_per_epoch == 2


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 5))
def test_a_test_set_is_read_once_in_streams_of_which_the_longer_come_first(
    windows: int, streams: int, joined: int
) -> None:
    taken: list[list[int]] = [[] for _ in range(min(streams, windows))]
    before = len(taken)
    for rows in stream_rows(windows, streams, joined):
        assert len(rows) <= before
        before = len(rows)
        for stream, row in enumerate(rows.tolist()):
            assert not taken[stream] or row[0] == taken[stream][-1] + 1
            taken[stream] += row
    assert [row for rows in taken for row in rows] == list(range(windows))


def test_test_windows_join_steps_and_go_on() -> None:
    dataset = counting(100, 3, tests=40)  # 13 windows: streams of 4, 3, 3 and 3
    found = list(batches.test_windows(dataset, streams=4, joined=2))
    assert [tuple(plain(x).shape) for x, _ in found] == [(4, 6), (4, 3), (1, 3)]
    assert all(torch.equal(y, plain(x) + 1) for x, y in found)
    assert plain(found[0][0])[1].tolist() == [12, 13, 14, 15, 16, 17]
    assert plain(found[2][0])[0].tolist() == [9, 10, 11]
