from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import files
from common.config.data import DataConfig
from common.data import datasets, orders
from common.data.batches import Batches
from common.data.statistics import mean_and_std
from common.errors import ConfigError
from common.signals.forms import PLAIN
from tests.common.data.whole import tensor, whole

ROOT = Path(__file__).resolve().parents[3]
MNIST = ROOT.parent / "shared" / "data" / "mnist"


def test_digits_are_all_of_scikit_learns_each_once() -> None:
    from sklearn.datasets import load_digits

    digits, theirs = datasets.load(DataConfig()), load_digits()
    x = np.concatenate([whole(digits).train_x, whole(digits).test_x]).reshape(-1, 64)
    y = np.concatenate([whole(digits).train_y, whole(digits).test_y])
    expected = np.column_stack([theirs.data, theirs.target]).astype(int)
    assert sorted(np.column_stack([x, y]).tolist()) == sorted(expected.tolist())


def test_digits_come_raw_as_images_with_their_measures() -> None:
    digits = datasets.load(DataConfig())
    assert (whole(digits).train_x.dtype.name, whole(digits).train_y.dtype.name) == ("uint8", "int64")
    assert (whole(digits).train_x.shape, whole(digits).test_x.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert (digits.inputs.only.shape, digits.classes, digits.scalings[PLAIN].scale) == ((1, 8, 8), 10, 1 / 16)
    assert digits.scalings[PLAIN].mean == pytest.approx((whole(digits).train_x.mean() / 16,))
    assert digits.scalings[PLAIN].std == pytest.approx((whole(digits).train_x.std() / 16,))


def test_digits_are_split_the_same_way_for_ever_with_every_class_on_both_sides() -> None:
    digits = datasets.load(DataConfig())
    assert whole(digits).train_y[:12].tolist() == [4, 5, 3, 8, 2, 5, 8, 0, 1, 2, 6, 2]
    assert whole(digits).test_y[:12].tolist() == [7, 6, 9, 4, 3, 6, 5, 9, 7, 1, 0, 0]
    assert np.bincount(whole(digits).test_y).min() > 20


def test_loading_imports_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; from common.config.data import DataConfig; from common.data import datasets; "
        "datasets.load(DataConfig()); "
        "print([name for name in ('torch', 'sklearn', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_whole_mnist_is_read_and_has_its_published_measures() -> None:
    if not MNIST.is_dir():
        pytest.skip("MNIST is not there: it is looked for in ../shared/data/mnist")
    mnist = datasets.load(DataConfig(dataset="mnist", path=str(MNIST)))
    assert (whole(mnist).train_x.shape, whole(mnist).test_x.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert np.bincount(whole(mnist).train_y).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    mean, std = mean_and_std(whole(mnist).train_x, mnist.scalings[PLAIN].scale)
    assert mean == pytest.approx(mnist.scalings[PLAIN].mean, abs=5e-5)
    assert std == pytest.approx(mnist.scalings[PLAIN].std, abs=5e-5)


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_a_path_that_is_no_folder_is_refused_and_nothing_is_downloaded(tmp_path: Path, name: str) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(ConfigError, match=re.escape(f"data.path: {absent} is not a folder; ")):
        datasets.load(DataConfig(dataset=name, path=str(absent)))
    assert list(tmp_path.iterdir()) == []


def test_a_slaves_own_folder_takes_the_place_of_the_configured_one(tmp_path: Path) -> None:
    configured = DataConfig(dataset="mnist", path=str(tmp_path / "only on the master's machine"))
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}: lacks train-images-idx3-ubyte.gz, ")):
        datasets.load(configured, path=tmp_path)
    with pytest.raises(ConfigError, match=re.escape(f"--data: {tmp_path / 'absent'} is not a folder; ")):
        datasets.load(configured, path=tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "file", "home"),
    [
        ("mnist", "t10k-labels-idx1-ubyte.gz", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
        ("fashion-mnist", "train-images-idx3-ubyte.gz", "http://fashion-mnist.s3-website"),
        ("cifar10", "cifar-10-binary.tar.gz", "https://www.cs.toronto.edu/~kriz/"),
    ],
)
def test_a_folder_that_lacks_files_is_told_which_and_where_from(
    tmp_path: Path, name: str, file: str, home: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        datasets.load(DataConfig(dataset=name, path=str(tmp_path)))
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}: lacks ")
    assert file in said
    assert home in said
    assert "\n" not in said


def test_a_shuffled_order_is_a_permutation_fixed_by_its_seed_and_stream() -> None:
    assert orders.permutation(8, 3, 1).tolist() == [0, 6, 7, 5, 2, 1, 4, 3]
    assert sorted(orders.permutation(1000, 0, 0)) == list(range(1000))
    found = {tuple(orders.permutation(50, seed, stream)) for seed in range(9) for stream in range(9)}
    assert len(found) == 81


def test_measures_are_of_each_channel_over_many_blocks() -> None:
    x = np.random.default_rng(0).integers(0, 256, (9000, 3, 2, 2)).astype(np.uint8)
    x[:, 1] //= 4
    mean, std = mean_and_std(x, 1 / 255)
    assert mean == pytest.approx((x / 255).mean(axis=(0, 2, 3)))
    assert std == pytest.approx((x / 255).std(axis=(0, 2, 3)))


@pytest.mark.parametrize("value", [0.0, 0.1, -7e5])
def test_what_never_varies_can_be_divided_by_its_deviation(value: float) -> None:
    mean, std = mean_and_std(np.full((5000, 4), value, np.float32), 1.0)
    assert mean == pytest.approx((value,))
    assert std == (1.0,)


def test_a_users_bytes_are_measured_per_channel_as_images_are(tmp_path: Path) -> None:
    dataset = users(
        tmp_path, "np.arange(5 * 2 * 3 * 3, dtype=np.uint8).reshape(5, 2, 3, 3)", "[0, 1, 2, 1, 6]"
    )
    assert (dataset.inputs.only.shape, dataset.scalings[PLAIN].scale, dataset.classes) == (
        (2, 3, 3),
        1 / 255,
        7,
    )
    assert dataset.scalings[PLAIN].mean == pytest.approx((whole(dataset).train_x / 255).mean(axis=(0, 2, 3)))
    assert dataset.scalings[PLAIN].std == pytest.approx((whole(dataset).train_x / 255).std(axis=(0, 2, 3)))


def test_a_users_floats_are_measured_as_they_are_with_one_number_for_vectors(tmp_path: Path) -> None:
    dataset = users(tmp_path, "np.linspace(-3, 9, 20).reshape(5, 4)", "[0, 1, 0, 1, 0]")
    assert (dataset.inputs.only.shape, dataset.scalings[PLAIN].scale, dataset.classes) == ((4,), 1.0, 2)
    assert dataset.scalings[PLAIN].mean == pytest.approx((3.0,))
    assert dataset.scalings[PLAIN].std == pytest.approx((whole(dataset).train_x.std(),))


def users(folder: Path, x: str, y: str) -> datasets.Dataset:
    file = folder / "own.py"
    file.write_text(
        f"import numpy as np\ndef own():\n    x, y = {x}, np.array({y})\n    return x, y, x[:2], y[:2]\n"
    )
    return datasets.load(DataConfig(dataset=f"{file}:own"))


def test_the_example_of_ones_own_data_loads_from_a_folder_given_to_a_slave() -> None:
    spirals = datasets.load(DataConfig(dataset="/elsewhere/my_data.py:spirals"), code=ROOT / "examples")
    assert (whole(spirals).train_x.shape, whole(spirals).test_x.shape, spirals.classes) == (
        (2400, 2),
        (600, 2),
        3,
    )
    assert whole(spirals).train_x.dtype == np.float32


@pytest.mark.parametrize(
    ("train_y", "test_y", "told"),
    [
        ("[[1], [0]]", "[[1]]", r"train_y is int64 \(2, 1\); it must be whole numbers of the shape \(2,\)"),
        ("[1.0, 0.0]", "[1.0]", r"train_y is float32 \(2,\); it must be whole numbers"),
        ("[1, 0]", "[-1]", "test_y holds the label -1; the classes are numbered from 0"),
    ],
)
def test_targets_that_are_no_classes_are_refused(
    tmp_path: Path, train_y: str, test_y: str, told: str
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "import numpy as np\n"
        f"def own(): return np.zeros((2, 3)), np.array({train_y}), np.zeros((1, 3)), np.array({test_y})\n"
    )
    config = files.load(None, [f"data.dataset={file}:own", "run.batch_size=2"])
    with pytest.raises(ConfigError, match=rf"^data\.dataset: {re.escape(str(file))}:own: {told}"):
        datasets.load(config.data).check_fit(config)


def test_whole_numbers_are_not_scaled(tmp_path: Path) -> None:
    dataset = users(tmp_path, "np.arange(20).reshape(5, 4)", "[0, 1, 0, 1, 0]")
    assert (dataset.inputs.only.dtype, dataset.scalings) == ("int64", {})
    x = tensor(Batches(dataset, 0, 5).inputs(0))
    assert (x.dtype, sorted(x[:, 0].tolist())) == (torch.int64, [0, 4, 8, 12, 16])
