"""Inputs of several tensors by name, from every source of a user's data."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config import files
from common.config.data import DataConfig
from common.data import batches, datasets, holdings, mapped
from common.data.batches import Batches
from common.data.examples import Arrays, Medium
from common.data.lazy import Lazy
from common.data.statistics import Scaling, mean_and_std
from common.errors import ConfigError
from common.signals.forms import SignalForm, TensorForm
from common.signals.values import Signal

COUNT, TESTS = 30, 7
GENERATOR = np.random.default_rng(0)
X: dict[str, np.ndarray] = {
    "x": GENERATOR.normal(3, 2, (COUNT, 4)),
    "image": GENERATOR.integers(0, 256, (COUNT, 2, 3, 3)).astype(np.uint8),
    "tokens": GENERATOR.integers(0, 11, (COUNT, 5)),
    "mask": GENERATOR.integers(0, 2, (COUNT, 5)).astype(bool),
    "age": GENERATOR.normal(40, 9, COUNT).astype(np.float32),
}
Y = np.arange(COUNT) % 3

OWN = """
import numpy as np
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ["x", "image", "tokens", "mask", "age"]

def read(mode=None):
    x = {name: np.load(HERE / f"{name}.npy", mmap_mode=mode) for name in NAMES}
    y = np.load(HERE / "label.npy", mmap_mode=mode)
    return x, y, {name: array[:7] for name, array in x.items()}, y[:7]

class Pairs:
    classes = 3
    def __init__(self, x, y):
        self.x, self.y = x, y
    def __len__(self):
        return len(self.y)
    def __getitem__(self, row):
        return {name: array[row] for name, array in self.x.items()}, self.y[row]

def table(x, y):
    import pyarrow
    columns = {name: pyarrow.array(array.tolist(), TYPES[name]()) for name, array in x.items()}
    return pyarrow.table({"y": pyarrow.array(y), **columns})

def nested(kind, depth):
    import pyarrow
    value = getattr(pyarrow, kind)()
    for _ in range(depth):
        value = pyarrow.list_(value)
    return value

TYPES = {
    "x": lambda: nested("float64", 1),
    "image": lambda: nested("uint8", 3),
    "tokens": lambda: nested("int64", 1),
    "mask": lambda: nested("bool_", 1),
    "age": lambda: nested("float32", 0),
}

def arrays():
    return read()

def mapped():
    return read("r")

def pairs():
    x, y, t, u = read()
    return Pairs(x, y), Pairs(t, u)

def tables():
    x, y, t, u = read()
    rows = table(x, y)
    rename = {"x": "vector"}
    return tuple(
        each.rename_columns([rename.get(name, name) for name in each.column_names])
        for each in (rows, table(t, u))
    )

def renamed():
    x, y, t, u = read()
    x["vector"], t["vector"] = x.pop("x"), t.pop("x")
    return x, y, t, u
"""
needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="the optional package pyarrow is not installed"
)
SOURCES = ["arrays", "mapped", "pairs", pytest.param("tables", marks=needs_pyarrow)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one data set in every form."""
    (tmp_path / "own.py").write_text(OWN)
    for name, array in {**X, "label": Y}.items():
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def load(folder: Path, source: str = "arrays", **options: Any) -> datasets.Dataset:
    return datasets.load(DataConfig(dataset=f"{folder}/own.py:{source}", **options))


def returned(folder: Path, expression: str) -> datasets.Dataset:
    """The data set of a function that returns what an expression says."""
    (folder / "own.py").write_text(f"import numpy as np\n\ndef own():\n    return {expression}\n")
    return load(folder, "own")


def tensors(signal: Signal) -> dict[str, Tensor]:
    assert isinstance(signal, dict)
    return signal


def equal(one: Signal, other: Signal) -> bool:
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_equal_named_tensors_in_every_batch(folder: Path, source: str) -> None:
    dataset = load(folder, source)
    plain = load(folder, "renamed" if source == "tables" else "arrays")
    media = {"arrays": Medium.MEMORY, "mapped": Medium.MEMORY, "pairs": Medium.CODE, "tables": Medium.FILE}
    assert dataset.train.medium is media[source]
    assert isinstance(dataset.train, Arrays if source == "arrays" else Lazy)
    assert (dataset.scalings, dataset.classes) == (plain.scalings, 3)
    made, other = Batches(dataset, 3, 4), Batches(plain, 3, 4)
    for batch in (0, 1, 2, 9, 30):
        assert equal(made.inputs(batch), other.inputs(batch))
        assert torch.equal(made.labels(batch), other.labels(batch))
    for (x, y), (t, u) in zip(batches.test_batches(dataset, 3), batches.test_batches(plain, 3), strict=True):
        assert equal(x, t)
        assert torch.equal(y, u)
    assert sum(len(y) for _, y in batches.test_batches(dataset, 3)) == TESTS


def test_each_tensor_has_the_form_and_the_scaling_that_it_would_have_alone(folder: Path) -> None:
    dataset = load(folder)
    assert dataset.inputs == SignalForm(
        {
            "x": TensorForm((4,)),
            "image": TensorForm((2, 3, 3)),
            "tokens": TensorForm((5,), "int64", 1 + int(X["tokens"].max())),
            "mask": TensorForm((5,), "bool"),
            "age": TensorForm(()),
        }
    )
    assert dataset.scalings == {
        "x": Scaling(*mean_and_std(X["x"].astype(np.float32), 1.0)),
        "image": Scaling(*mean_and_std(X["image"], 1 / 255), 1 / 255),
        "age": Scaling(*mean_and_std(X["age"], 1.0)),
    }
    made = Batches(dataset, 0, COUNT)
    x = tensors(made.inputs(0))
    for name in ("x", "image", "age"):
        axes = (0, 2, 3) if name == "image" else tuple(range(x[name].ndim))
        assert x[name].dtype is torch.float32
        np.testing.assert_allclose(x[name].mean(axes), 0, atol=1e-5)
        np.testing.assert_allclose(x[name].std(axes, correction=0), 1, atol=1e-4)


def test_masks_stay_bool_tokens_stay_whole_and_rows_stay_together(folder: Path) -> None:
    made = Batches(load(folder), 5, COUNT)
    x = tensors(made.inputs(1))
    assert (x["mask"].dtype, x["tokens"].dtype) == (torch.bool, torch.int64)
    rows = [np.flatnonzero((X["tokens"] == row.numpy()).all(1))[0] for row in x["tokens"]]
    assert sorted(rows) == list(range(COUNT))
    assert torch.equal(x["mask"], torch.from_numpy(X["mask"][rows]))
    assert torch.equal(made.labels(1), torch.from_numpy(Y[rows]))


@pytest.mark.parametrize("source", SOURCES)
def test_a_batch_depends_on_seed_and_number_alone_and_is_the_callers_own(folder: Path, source: str) -> None:
    dataset = load(folder, source)
    first, second = Batches(dataset, 1, 4), Batches(dataset, 1, 4)
    ahead = {batch: tensors(second.inputs(batch)) for batch in (8, 3, 0)}
    for batch in (0, 3, 8):
        for tensor in tensors(first.inputs(batch)).values():
            tensor.zero_()
        assert equal(first.inputs(batch), ahead[batch])
    assert not equal(first.inputs(0), Batches(dataset, 2, 4).inputs(0))


def test_mapped_tensors_are_read_from_their_files_and_others_from_memory(folder: Path) -> None:
    dataset = load(folder, "mapped")
    assert isinstance(dataset.train, Lazy)
    assert isinstance(dataset.train.rows, mapped.MappedRows)
    assert all(isinstance(column, mapped.FileColumn) for column in dataset.train.rows.x.values())
    assert dataset.inputs.tensors["tokens"] == TensorForm((5,), "int64", 0)
    text = OWN.replace('"age"]', '"age"]\n').replace(
        '    return read("r")',
        "    x, y, t, u = read('r')\n    x['age'] = np.array(x['age'])\n    return x, y, t, u",
    )
    (folder / "own.py").write_text(text)
    mixed = load(folder, "mapped")
    assert equal(Batches(mixed, 0, 4).inputs(0), Batches(dataset, 0, 4).inputs(0))


def test_named_tensors_keep_their_shape(tmp_path: Path) -> None:
    x = "{'gray': np.ones((4, 5, 6), np.uint8), 'mask': np.ones((4, 5, 6), bool)}"
    dataset = returned(tmp_path, f"{x}, np.arange(4) % 2, {x}, np.arange(4) % 2")
    assert dataset.inputs.tensors == {"gray": TensorForm((5, 6)), "mask": TensorForm((5, 6), "bool")}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["mask", "tokens"])
def test_holdings_differ_when_one_tensor_differs(folder: Path, source: str, name: str) -> None:
    before = holdings.digest_data(load(folder, source))
    changed = X[name].copy()
    changed[20, 2] = 1 - changed[20, 2] if name == "tokens" else not changed[20, 2]
    np.save(folder / f"{name}.npy", changed)
    after = holdings.digest_data(load(folder, source))
    assert [each for each in before if before[each] != after[each]] == [f'train_x["{name}"]']


def test_holdings_name_every_tensor(folder: Path) -> None:
    described = holdings.digest_data(load(folder))
    assert list(described) == [
        *(f'train_x["{name}"]' for name in X), "train_y", *(f'test_x["{name}"]' for name in X), "test_y"
    ]  # fmt: skip
    assert described['test_x["mask"]'].startswith("bool (7, 5) with digest ")
    assert holdings.digest_data(load(folder, "mapped")) == described


def test_test_batches_of_wide_tensors_are_small() -> None:
    part = Arrays(
        {"a": np.zeros((9, 1 << 21), bool), "b": np.zeros((9, 1 << 21), np.uint8)}, np.zeros(9, int)
    )
    dataset = datasets.Dataset("own", part, part, {}, 2)
    assert [len(y) for _, y in batches.test_batches(dataset)] == [4, 4, 1]


def test_a_built_in_network_and_an_augmentation_refuse_named_tensors(folder: Path) -> None:
    dataset = load(folder)
    named = "{x: (B, 4), image: (B, 2, 3, 3), tokens: int64 (B, 5), mask: bool (B, 5), age: (B)}"
    config = files.load(None, [f"data.dataset={dataset.name}", "run.batch_size=4"])
    with pytest.raises(
        ConfigError, match=rf"^network\.model: mlp takes one tensor, .* are {re.escape(named)}; "
    ):
        dataset.check_fit(config)
    with pytest.raises(
        ConfigError, match=rf"^data\.augment: crop-flip is for images .* {re.escape(named)}; "
    ):
        load(folder, augment="crop-flip")
    own = dataclasses.replace(config.network, model="own.py:build")
    dataset.check_fit(dataclasses.replace(config, network=own))
