"""Data that are read by row: mapped arrays and map-style data sets."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from common.config import files
from common.config.data import DataConfig
from common.data import datasets, holdings, mapped
from common.data.batches import Batches
from common.data.examples import Medium
from common.data.lazy import Lazy
from common.data.map_style import MapStyleRows
from common.errors import ConfigError
from common.signals.forms import PLAIN
from tests.common.data.whole import tensor, whole

PAIR = """
import numpy as np

class Squares:
    {attributes}
    def __init__(self, count):
        self.count = count
    def __len__(self):
        return self.count
    def __getitem__(self, row):
        x, y = np.full((2, 3), row % 251, np.uint8), row % 4
        {change}
        return x, y

def own():
    return Squares({train}), Squares(8)
"""

MAPPED = """
import numpy as np
from pathlib import Path

def own():
    folder = Path(__file__).parent
    return [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("x", "y", "t", "u")]
"""


def load(folder: Path, text: str) -> datasets.Dataset:
    (folder / "own.py").write_text(text)
    return datasets.load(DataConfig(dataset=f"{folder}/own.py:own"))


def pair(folder: Path, change: str = "", attributes: str = "pass", train: int = 20) -> datasets.Dataset:
    return load(folder, PAIR.format(change=change or "pass", attributes=attributes, train=train))


def saved(folder: Path, x: np.ndarray, y: np.ndarray) -> datasets.Dataset:
    for name, array in {"x": x, "y": y, "t": x[:4], "u": y[:4]}.items():
        np.save(folder / f"{name}.npy", array)
    return load(folder, MAPPED)


def test_pairs_are_read_by_row_and_brought_into_form(tmp_path: Path) -> None:
    dataset = pair(tmp_path)
    assert (dataset.inputs.only.shape, dataset.classes, len(dataset.train), len(dataset.test)) == (
        (1, 2, 3),
        4,
        20,
        8,
    )
    assert dataset.train.medium is Medium.CODE
    read = whole(dataset)
    assert (read.train_x.dtype.name, read.train_y.dtype.name) == ("uint8", "int64")
    assert read.train_y.tolist() == [row % 4 for row in range(20)]
    made = Batches(dataset, 0, 5)
    for batch in (0, 1, 2, 3):
        x, y = tensor(made.inputs(batch)), made.labels(batch)
        scaling = dataset.scalings[PLAIN]
        raw = torch.round((x[:, 0, 0, 0] * scaling.std[0] + scaling.mean[0]) * 255).long()
        assert (raw % 4).tolist() == y.tolist()


def test_pairs_and_arrays_in_memory_give_the_same_batches(tmp_path: Path) -> None:
    lazy = pair(tmp_path)
    plain = load(
        tmp_path,
        "import numpy as np\n"
        "def own():\n"
        "    x = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((2, 3), np.uint8)\n"
        "    return x, np.arange(20) % 4, x[:8], np.arange(8) % 4\n",
    )
    assert lazy.scalings == plain.scalings
    one, other = Batches(lazy, 3, 4), Batches(plain, 3, 4)
    for batch in range(12):
        assert torch.equal(tensor(one.inputs(batch)), tensor(other.inputs(batch)))
        assert torch.equal(one.labels(batch), other.labels(batch))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("return 1", "the training set: example 0 is a int; it must be a pair of input and target"),
        ("return x, y, 0", "the training set: example 0 is a tuple of 3; it must be a pair"),
        (
            "x = 3.5",
            "the training set begins with the input float64 () and the target int64 (); an input must",
        ),
        ("y = 'four'", "the training set begins with the input uint8 (2, 3) and the target <U4 (); an input"),
        (
            "x = np.full(2 + row, 1.0)",
            "the training set: example 0 has the shape (2,), example 1 (3,); give all",
        ),
        ("x = x * np.nan", "the training set: the input holds NaN, infinity or a number too large"),
        ("1 / 0", "the training set: example 0 raised ZeroDivisionError: division by zero; correct"),
    ],
)
def test_pairs_that_cannot_be_trained_on_are_refused_in_one_line(
    tmp_path: Path, change: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        pair(tmp_path, change)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/own.py:own: {told}")
    assert "\n" not in said


def test_empty_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"own: the training set is empty; give at least one example$"):
        pair(tmp_path, train=0)


@pytest.mark.parametrize("classes", ["9", "['nine'] * 9"])
def test_the_attribute_classes_says_how_many_there_are(tmp_path: Path, classes: str) -> None:
    assert pair(tmp_path, attributes=f"classes = {classes}").classes == 9


def test_a_long_set_without_the_attribute_is_refused_and_not_read(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="reading all 1000000008 examples takes long; give the training set an"
    ):
        pair(tmp_path, train=10**9)
    assert pair(tmp_path, attributes="classes = 4", train=10**9).classes == 4


def test_a_label_beyond_the_classes_is_refused_as_it_is_read(tmp_path: Path) -> None:
    dataset = pair(tmp_path, attributes="classes = 3")
    with pytest.raises(ConfigError, match="the training set holds the label 3, but has 3 classes"):
        whole(dataset)


def test_an_error_of_the_users_code_comes_to_the_trainer(tmp_path: Path) -> None:
    change = "self.reads = getattr(self, 'reads', 0) + 1; assert self.reads < 1010, 'torn'"
    dataset = pair(tmp_path, change, "classes = 4", train=10**6)
    made = Batches(dataset, 0, 2)
    with pytest.raises(ConfigError, match=r"example \d+ raised AssertionError: torn"):
        [made.inputs(batch) for batch in range(9)]


def test_the_users_code_runs_once_at_a_time_and_once_for_inputs_and_targets() -> None:
    class Counting:
        busy = calls = 0

        def __len__(self) -> int:
            return 100

        def __getitem__(self, row: int) -> tuple[float, int]:
            assert not self.busy
            self.busy, self.calls = 1, self.calls + 1
            self.busy = 0
            return float(row), row

    counting = Counting()
    rows = MapStyleRows(counting, "own")
    threads = [
        threading.Thread(target=lambda: (rows.inputs(np.arange(50)), rows.targets(np.arange(50))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert counting.calls == 50


def test_a_digest_of_pairs_reads_a_sample_alone(tmp_path: Path) -> None:
    dataset = pair(tmp_path, attributes="classes = 4", train=10**9)
    described = holdings.digest_data(dataset)
    assert described["train_x"].startswith("uint8 (1000000000, 1, 2, 3) with digest of a sample ")


@pytest.mark.parametrize(("dtype", "becomes"), [("u1", "uint8"), ("f8", "float32"), ("i2", "int64")])
def test_mapped_arrays_stay_mapped_and_give_the_batches_of_arrays_in_memory(
    tmp_path: Path, dtype: str, becomes: str
) -> None:
    x, y = np.arange(120).reshape(20, 6).astype(dtype), (np.arange(20) % 3).astype(np.int32)
    dataset = saved(tmp_path, x, y)
    assert isinstance(dataset.train, Lazy)
    assert isinstance(dataset.train.rows, mapped.MappedRows)
    assert isinstance(dataset.train.rows.x[PLAIN], mapped.FileColumn)
    assert (dataset.train.input_forms[PLAIN].dtype.name, dataset.train.target_dtype.name) == (
        becomes,
        "int64",
    )
    plain = load(tmp_path, MAPPED.replace(', mmap_mode="r"', ""))
    assert (dataset.scalings, dataset.classes) == (plain.scalings, plain.classes)
    one, other = Batches(dataset, 0, 4), Batches(plain, 0, 4)
    assert all(torch.equal(tensor(one.inputs(batch)), tensor(other.inputs(batch))) for batch in range(7))
    assert holdings.digest_data(dataset) == holdings.digest_data(plain)


def test_nan_in_mapped_arrays_is_refused_as_it_is_read(tmp_path: Path) -> None:
    x = np.ones((20, 6), np.float32)
    x[7, 1] = np.nan
    with pytest.raises(ConfigError, match="the training set: the input holds NaN"):
        saved(tmp_path, x, np.arange(20) % 3)


def test_labels_of_mapped_arrays_are_checked_before_the_start(tmp_path: Path) -> None:
    dataset = saved(tmp_path, np.ones((20, 6), np.float32), np.arange(20) % 3 * 2)
    config = files.load(None, [f"data.dataset={dataset.name}", "run.batch_size=4"])
    with pytest.raises(ConfigError, match="no example has the label 1, but labels go up to 4"):
        dataset.check_fit(config)


def test_a_private_mapping_keeps_its_pages(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((9, 2)))
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[3] = 7
    column = mapped.open_column(private)
    assert isinstance(column, mapped.ArrayColumn)
    assert column.read(np.array([3])).tolist() == [[7, 7]]
    assert mapped.is_mapped(private[2:])
    assert not mapped.is_mapped(np.zeros(3))


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "whole": lambda x: x,
    "part": lambda x: x[5:],
    "backwards": lambda x: x[::-1],
    "every third": lambda x: x[::3],
    "windows": lambda x: np.lib.stride_tricks.sliding_window_view(x[:, 0], 4),
    "columns": lambda x: x[:, 2:5],
    "transposed": lambda x: x.T,
    "scalars": lambda x: x[:, 1],
    "no subclass": np.asarray,
}


@pytest.mark.parametrize("view", VIEWS)
def test_any_view_of_a_mapping_gives_its_rows(tmp_path: Path, view: str) -> None:
    numbers = np.arange(5000, dtype=">i2")
    numbers.tofile(tmp_path / "x.bin")
    mapping = np.memmap(tmp_path / "x.bin", ">i2", "r", offset=4100, shape=(150, 8))
    array = VIEWS[view](mapping)
    column = mapped.open_column(array)
    assert isinstance(column, mapped.FileColumn) == (view not in ("transposed", "windows"))
    rows = np.array([3, 3, 0, len(array) - 1])
    for chosen in (rows, np.arange(len(array)), rows[:1]):
        read = column.read(chosen)
        assert read.tolist() == array[chosen].tolist()
        read += 1
    assert len(column) == len(array)
    assert mapping[0, 0] == 2050


def test_windows_of_a_plain_mapping_are_read_from_the_file(tmp_path: Path) -> None:
    np.arange(50, dtype=np.uint8).tofile(tmp_path / "x.bin")
    windows = np.lib.stride_tricks.sliding_window_view(np.memmap(tmp_path / "x.bin", np.uint8, "r"), 4)
    column = mapped.open_column(windows)
    assert isinstance(column, mapped.FileColumn)
    assert column.read(np.array([7, 46])).tolist() == [[7, 8, 9, 10], [46, 47, 48, 49]]


def test_a_mapped_file_that_was_cut_or_moved_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    np.zeros((90, 100), np.uint8).tofile(file)
    mapping = np.memmap(file, np.uint8, "r", shape=(90, 100))
    column = mapped.open_column(mapping)
    os.truncate(file, 5000)
    assert column.read(np.array([49])).tolist() == [[0] * 100]
    with pytest.raises(ConfigError, match=rf"^{file}: has become shorter; "):
        column.read(np.array([50]))
    file.unlink()
    with pytest.raises(ConfigError, match=rf"^{file}: cannot be read: No such file or directory; "):
        mapped.open_column(mapping)


@pytest.mark.parametrize("whole_rows", [True, False])
def test_a_process_stays_small_while_rows_are_read(tmp_path: Path, whole_rows: bool) -> None:
    file, rows = tmp_path / "x.bin", 1 << 16
    with file.open("wb") as out:
        for _ in range(16):
            out.write(bytes(16 << 20))
    x = np.memmap(file, np.uint8, "r", shape=(rows, 4096))
    column, process = mapped.open_column(x if whole_rows else x[:, ::2]), psutil.Process()
    assert isinstance(column, mapped.FileColumn) == whole_rows
    before = process.memory_info().rss
    for start in range(0, rows, 1 << 12):
        for first in range(start, start + (1 << 12), 512):
            column.read(np.arange(first, first + 512, 16))
            assert process.memory_info().rss - before < 100 << 20
