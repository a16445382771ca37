"""common.data.series: a user's rows as the steps of a series, in windows of streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.config.data import DataConfig
from common.data import batches, datasets
from common.data.batches import Batches
from common.data.examples import Arrays, epoch_length
from common.data.series import Windows, cut_series
from common.errors import ConfigError
from common.signals.forms import PLAIN
from common.signals.values import split

SERIES = """
import numpy as np

def series(path=None):
    x = np.arange({rows} * 2, dtype=np.float32).reshape(-1, 2)
    y = np.arange({rows}) % 7
    {load}
    return {{"pair": x, "token": y}}, y, {{"pair": x[:10], "token": y[:10]}}, y[:10]
"""


@given(st.integers(1, 5), st.integers(0, 30), st.integers(0, 9))
def test_windows_of_training_begin_at_every_row_and_those_of_tests_lie_side_by_side(
    length: int, more: int, chosen: int
) -> None:
    count = length + more
    steps = Arrays({PLAIN: np.arange(count * 3).reshape(count, 3)}, np.arange(count))
    train, test = cut_series(steps, steps, length, "own")
    assert (len(train), epoch_length(train)) == (more + 1, (more + 1) // min(length, more + 1))
    assert (len(test), test.stride) == (count // length, 1)
    for windows in (train, test):
        row = chosen % len(windows)
        start = row * windows.spacing
        rows = np.array([row, 0])
        np.testing.assert_array_equal(windows.targets(rows)[0], np.arange(start, start + length))
        x = windows.inputs(rows)[PLAIN]
        np.testing.assert_array_equal(x[0], steps.x[PLAIN][start : start + length])
        assert x.shape == (2, *windows.input_forms[PLAIN].shape)
        assert windows.target_shape == (length,)


def own(folder: Path, rows: int = 60, load: str = "") -> DataConfig:
    (folder / "own.py").write_text(SERIES.format(rows=rows, load=load))
    return DataConfig(dataset=f"{folder}/own.py:series")


def test_a_users_rows_are_the_steps_of_streams_that_go_on(tmp_path: Path) -> None:
    dataset = datasets.load(own(tmp_path), 4)
    assert isinstance(dataset.train, Windows)
    # The scaling is that of the rows, and tokens are counted over all.
    assert dataset.scalings["pair"] == datasets.load(own(tmp_path)).scalings["pair"]
    assert dataset.inputs.tensors["token"].vocabulary == 7
    assert dataset.targets.shape == (4,)
    source = Batches(dataset, 0, 3, 1)
    first, second = (source.labels(batch) for batch in (0, 1))
    assert first.shape == (3, 4)
    assert torch.equal(second[:, 0], (first[:, -1] + 1) % 7)
    x = split(source.inputs(0))
    assert x["pair"].shape == (3, 4, 2)
    assert torch.equal(x["token"], first)
    taken = torch.cat([y.flatten() for _, y in batches.test_windows(dataset, streams=1)])
    assert taken.tolist() == [0, 1, 2, 3, 4, 5, 6, 0]


def test_fewer_rows_than_a_window_are_refused(tmp_path: Path) -> None:
    told = (
        r"^time.window: 11 needs 11 rows at least, each a step, but the test set of .*own.py:series has 10; "
    )
    with pytest.raises(ConfigError, match=told):
        datasets.load(own(tmp_path), 11)


def test_a_function_may_take_the_path_of_the_data(tmp_path: Path) -> None:
    data = own(tmp_path, load="x = x + np.load(path / 'shift.npy')")
    (tmp_path / "there").mkdir()
    np.save(tmp_path / "there" / "shift.npy", np.float32(100))
    dataset = datasets.load(data, path=tmp_path / "there")
    assert dataset.train.inputs(np.zeros(1, np.int64))["pair"].tolist() == [[100, 101]]
    with pytest.raises(ConfigError, match=r"own.py:series: raised TypeError: .*; correct the function$"):
        datasets.load(data)
