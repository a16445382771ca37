"""Arrow tables, Arrow files and Parquet files as data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.config.data import DataConfig
from common.data import datasets, tables
from common.data.batches import Batches
from common.data.lazy import Lazy
from common.errors import ConfigError
from common.signals.forms import PLAIN
from tests.common.data.whole import tensor, whole

pyarrow = pytest.importorskip("pyarrow", reason="the optional package pyarrow is not installed")

X = np.arange(30 * 4, dtype=np.float32).reshape(30, 4)
Y = np.arange(30) % 3


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "layerwise" / "parquet"


def table(x: Any = X, y: Any = Y, names: tuple[str, ...] = ("image", "label"), **more: Any) -> Any:
    columns = [pyarrow.array(list(x)), pyarrow.array(y), *map(pyarrow.array, more.values())]
    return pyarrow.table(columns, names=[*names, *more])


def write(file: Path, content: Any) -> Path:
    if file.suffix == ".parquet":
        from pyarrow import parquet

        parquet.write_table(content, file, row_group_size=7)
        return file
    new = pyarrow.ipc.new_stream if file.suffix == ".stream" else pyarrow.ipc.new_file
    with new(str(file), content.schema) as writer:
        writer.write_table(content, max_chunksize=7)
    return file


def load(folder: Path, expression: str) -> datasets.Dataset:
    (folder / "own.py").write_text(
        "from pathlib import Path\n"
        "def own():\n"
        "    import pyarrow, pyarrow.dataset\n"
        "    here = Path(__file__).parent\n"
        f"    return {expression}\n"
    )
    return datasets.load(DataConfig(dataset=f"{folder}/own.py:own"))


def opened(value: Any) -> Lazy:
    rows = tables.open_rows(value, "own")
    assert rows is not None
    return Lazy.of(rows, "own")


@pytest.mark.parametrize(
    ("suffix", "expression"),
    [
        ("arrow", "here / 'a.arrow', here / 'a.arrow'"),
        ("stream", "[str(here / 'a.stream')], here / 'a.stream'"),
        ("parquet", "here / 'a.parquet', here / 'a.parquet'"),
        ("parquet", "pyarrow.dataset.dataset(here / 'a.parquet'), here / 'a.parquet'"),
    ],
)
def test_files_give_the_batches_of_arrays(tmp_path: Path, suffix: str, expression: str) -> None:
    write(tmp_path / f"a.{suffix}", table())
    dataset = load(tmp_path, expression)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    plain = load(
        tmp_path, "[__import__('numpy').load(here / f'{name}.npy') for name in ('x', 'y', 'x', 'y')]"
    )
    assert (dataset.scalings, dataset.classes) == (plain.scalings, 3)
    one, other = Batches(dataset, 0, 4), Batches(plain, 0, 4)
    for batch in range(9):
        assert torch.equal(tensor(one.inputs(batch)), tensor(other.inputs(batch)))
        assert torch.equal(one.labels(batch), other.labels(batch))


def test_a_parquet_file_is_rewritten_once(tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / "a.parquet", table())
    opened(file)
    (written,) = cache.iterdir()
    before = written.stat().st_mtime_ns
    opened(file)
    assert [each.stat().st_mtime_ns for each in cache.iterdir()] == [before]
    write(file, table(X + 1))
    assert opened(file).inputs(np.array([0]))[PLAIN].tolist() == [[1, 2, 3, 4]]


def test_several_files_are_one_set(tmp_path: Path) -> None:
    examples = opened(
        [write(tmp_path / "0.arrow", table(X[:10], Y[:10])), write(tmp_path / "1.parquet", table())]
    )
    assert len(examples) == 40
    assert examples.inputs(np.array([39, 9, 10]))[PLAIN].tolist() == X[[29, 9, 0]].tolist()


def test_columns_beside_x_and_y_are_inputs_by_name_but_an_index_of_pandas() -> None:
    mask = Y > 0
    examples = opened(table(names=("x", "y"), mask=mask, __index_level_0__=Y))
    assert {name: form.shape for name, form in examples.input_forms.items()} == {"x": (4,), "mask": ()}
    assert examples.inputs(np.array([1, 2]))["mask"].tolist() == [True, True]
    assert opened(table(__index_level_0__=Y)).inputs(np.array([1]))[PLAIN].tolist() == [[4, 5, 6, 7]]


@pytest.mark.parametrize("names", [("y", "x"), ("y", "image"), ("label", "x")])
def test_of_two_columns_x_is_the_input_or_y_the_target_in_any_order(names: tuple[str, str]) -> None:
    turned = pyarrow.table({names[0]: Y, names[1]: list(X)})
    assert opened(turned).inputs(np.array([1]))[PLAIN].tolist() == [[4, 5, 6, 7]]


def test_tables_lists_of_lists_and_tensors_of_one_shape_are_read(tmp_path: Path) -> None:
    images = np.arange(30 * 6, dtype=np.uint8).reshape(30, 2, 3)
    nested = table([image.tolist() for image in images])
    assert opened(nested).inputs(np.array([3, 5]))[PLAIN].tolist() == images[[3, 5]].tolist()
    tensors = pyarrow.table(
        {"x": pyarrow.FixedShapeTensorArray.from_numpy_ndarray(images), "y": pyarrow.array(Y)}
    )
    examples = opened(tensors.slice(2))
    assert examples.input_forms[PLAIN].shape == (1, 2, 3)
    assert examples.inputs(np.array([1, 3]))[PLAIN][:, 0].tolist() == images[[3, 5]].tolist()
    fixed = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(X.reshape(-1)), 4)
    assert opened(pyarrow.table({"x": fixed, "y": Y}).slice(2)).inputs(np.array([1]))[PLAIN].tolist() == [
        X[3].tolist()
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (table(more=Y), "own has the columns image, label, more; select the input and the target, in this"),
        (table(names=("x", "x")), "own has the column x twice; rename one of them"),
        (
            table(names=("x", "y"), id=["a"] * 30),
            "own: the column id holds string; give numbers, or",
        ),
        (table([[1.0, 2.0], [1.0]], [0, 1]), "own: the column image holds lists of 1 and of 2; give all the"),
        (table([[1.0], [None]], [0, 1]), "own: the column image lacks a value in some row; remove the row"),
        (table([[1.0], None], [0, 1]), "own: the column image lacks a value in some row; remove the row"),
        (table([[1.0], [2.0]], ["a", "b"]), "own: the column label holds string; give numbers, or lists of"),
        (table([1.0, 2.0], [0, 1]), "own begins with the input double () and the target int64 (); an input"),
        (table([], []), "own is empty; "),
    ],
)
def test_tables_that_cannot_be_trained_on_are_refused(content: Any, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        whole(datasets.Dataset("own", opened(content), opened(content), {}, 1))
    assert str(caught.value).startswith(told.replace("double", "float64"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["torn.parquet", "torn.arrow", "absent.arrow", "empty.arrow", "absent.parquet"]
)
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.arrow").touch()
    for torn in ("torn.parquet", "torn.arrow"):
        (tmp_path / torn).write_bytes(b"PAR1 and no more")
    with pytest.raises(
        ConfigError, match=rf"^own: {tmp_path}/{name} cannot be read \(.+\); give an Arrow file"
    ):
        tables.open_rows(tmp_path / name, "own")


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("form", ["new_file", "new_stream"])
def test_a_compressed_file_is_refused_before_more_than_a_batch_is_in_memory(
    tmp_path: Path, codec: str, form: str
) -> None:
    rows = np.zeros((1 << 14, 64), np.float32)
    content = pyarrow.table(
        {"x": pyarrow.FixedSizeListArray.from_arrays(rows.reshape(-1), 64), "y": rows[:, 0]}
    )
    file = tmp_path / "a.arrow"
    options = pyarrow.ipc.IpcWriteOptions(compression=codec)
    with getattr(pyarrow.ipc, form)(str(file), content.schema, options=options) as writer:
        writer.write_table(content, max_chunksize=1 << 10)
    pool = pyarrow.proxy_memory_pool(pyarrow.default_memory_pool())
    before = pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pool)
    try:
        with pytest.raises(ConfigError, match=rf"^own: {file} is compressed, .* or as Parquet$"):
            tables.open_rows(file, "own")
    finally:
        pyarrow.set_memory_pool(before)
    assert 0 < pool.max_memory() < rows.nbytes / 8


def test_an_uncompressed_file_takes_no_memory(tmp_path: Path) -> None:
    write(tmp_path / "a.arrow", table())
    before = pyarrow.total_allocated_bytes()
    rows = tables.open_rows(tmp_path / "a.arrow", "own")
    assert rows is not None
    assert len(rows) == 30
    assert pyarrow.total_allocated_bytes() == before


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow, .*; pip install 'layerwise\[arrow\]', or "):
        tables.open_rows("a.parquet", "own")


@pytest.mark.parametrize("name", ["a.arrow", "a.parquet"])
def test_a_pointer_of_git_lfs_is_no_table(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    with pytest.raises(ConfigError, match=rf"^own: {tmp_path}/{name}: is a pointer of Git LFS, "):
        tables.open_rows(tmp_path / name, "own")
