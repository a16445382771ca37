from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.data import DataConfig
from common.data import batches, datasets, orders
from common.data.batches import Batches
from common.data.examples import Arrays
from common.data.statistics import Scaling
from common.errors import ConfigError
from common.signals.forms import PLAIN
from tests.common.data.whole import tensor, whole

ROOT = Path(__file__).resolve().parents[3]


def numbered(count: int, tests: int = 7) -> datasets.Dataset:
    """A data set whose example n holds the number n and has the label n."""
    x, t = np.arange(count, dtype=np.float32)[:, None], np.arange(tests, dtype=np.float32)[:, None]
    y, u = np.arange(count), np.arange(tests)
    return datasets.Dataset(
        "numbered", Arrays({PLAIN: x}, y), Arrays({PLAIN: t}, u), {PLAIN: Scaling((0.0,), (1.0,))}, count
    )


def coloured() -> datasets.Dataset:
    generator = np.random.default_rng(0)
    x, t = (generator.integers(0, 256, (count, 3, 4, 5)).astype(np.uint8) for count in (30, 7))
    y, u = (generator.integers(0, 10, count) for count in (30, 7))
    scaling = Scaling((0.4, 0.5, 0.6), (0.2, 0.3, 0.1), 1 / 255)
    return datasets.Dataset("coloured", Arrays({PLAIN: x}, y), Arrays({PLAIN: t}, u), {PLAIN: scaling}, 10)


def normalized(dataset: datasets.Dataset, raw: np.ndarray) -> np.ndarray:
    scaling = dataset.scalings[PLAIN]
    mean, std = np.array(scaling.mean)[:, None, None], np.array(scaling.std)[:, None, None]
    return np.asarray((raw * scaling.scale - mean) / std)


@given(st.integers(1, 60), st.data(), st.integers(0, 2**40), st.integers(0, 5))
def test_an_epoch_takes_every_example_once_but_for_an_incomplete_last_batch(
    count: int, drawn: st.DataObject, seed: int, epoch: int
) -> None:
    size = drawn.draw(st.integers(1, count))
    made = Batches(numbered(count), seed, size)
    assert made.batches_per_epoch == count // size
    taken = torch.cat(
        [made.labels(epoch * made.batches_per_epoch + place) for place in range(made.batches_per_epoch)]
    )
    assert len(taken) == len(set(taken.tolist())) == made.batches_per_epoch * size


def test_inputs_and_labels_of_a_batch_agree_in_whatever_order_they_are_asked_for() -> None:
    made = Batches(numbered(100), 5, 8)
    asked = [0, 50, 3, 13, 12, 11, 24, 0, 399]
    inputs = [tensor(made.inputs(batch)) for batch in asked]
    labels = [made.labels(batch) for batch in reversed(asked)]
    for x, y in zip(inputs, reversed(labels), strict=True):
        assert x[:, 0].tolist() == y.tolist()
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((8, 1), torch.float32, (8,), torch.int64)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, other = Batches(numbered(64), 0, 64), Batches(numbered(64), 1, 64)
    orders = [made.labels(batch).tolist() for made in (first, other) for batch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 6


def test_batches_are_the_same_in_every_process() -> None:
    code = (
        "import hashlib; from common.config.data import DataConfig; from common.data import datasets; "
        "from common.data.batches import Batches; made = Batches(datasets.load(DataConfig()), 3, 64); "
        "print(hashlib.sha256(b''.join(made.inputs(b).numpy().tobytes() + made.labels(b).numpy().tobytes() "
        "for b in (0, 21, 22, 1000))).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    made = Batches(datasets.load(DataConfig()), 3, 64)
    content = b"".join(
        tensor(made.inputs(b)).numpy().tobytes() + made.labels(b).numpy().tobytes() for b in (0, 21, 22, 1000)
    )
    assert done.stdout.strip() == hashlib.sha256(content).hexdigest()


def test_the_order_of_a_seed_stays_as_it_is_for_ever() -> None:
    assert Batches(numbered(1437), 0, 8).labels(0).tolist() == [1136, 489, 327, 379, 1242, 703, 501, 354]
    assert Batches(numbered(1437), 0, 8).labels(179).tolist() == [788, 1241, 116, 551, 176, 1194, 171, 155]


def test_bytes_are_normalized_by_channel() -> None:
    dataset = coloured()
    made = Batches(dataset, 0, 30)
    raw = whole(dataset).train_x[orders.permutation(30, 0, 0)]
    np.testing.assert_allclose(tensor(made.inputs(0)).numpy(), normalized(dataset, raw), atol=1e-5)


def test_digits_come_out_with_mean_zero_and_deviation_one() -> None:
    digits = datasets.load(DataConfig())
    x = tensor(Batches(digits, 0, 1437).inputs(0))
    assert x.shape == (1437, 1, 8, 8)
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std().item() == pytest.approx(1, abs=1e-3)


def test_a_batch_larger_than_the_training_set_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^run\.batch_size: 4096 is more than the 1437 training examples of digits; "
    ):
        Batches(datasets.load(DataConfig()), 0, 4096)


def test_a_batch_is_the_callers_own() -> None:
    dataset = numbered(10)
    made = Batches(dataset, 0, 4)
    before = tensor(made.inputs(0)).clone(), made.labels(0).clone()
    tensor(made.inputs(0)).zero_()
    made.labels(0).zero_()
    for x, y in batches.test_batches(dataset):
        tensor(x).zero_()
        y.zero_()
    assert torch.equal(tensor(made.inputs(0)), before[0])
    assert torch.equal(made.labels(0), before[1])
    assert whole(dataset).test_x[:, 0].tolist() == whole(dataset).test_y.tolist() == list(range(7))


@pytest.mark.parametrize(("size", "sizes"), [(3, [3, 3, 1]), (7, [7]), (1000, [7])])
def test_the_test_set_is_gone_through_once_and_whole_in_its_own_order(size: int, sizes: list[int]) -> None:
    dataset = coloured()
    parts = list(batches.test_batches(dataset, size))
    assert [len(x) for x, _ in parts] == sizes
    x, y = torch.cat([tensor(x) for x, _ in parts]), torch.cat([y for _, y in parts])
    np.testing.assert_allclose(x.numpy(), normalized(dataset, whole(dataset).test_x), atol=1e-5)
    assert y.tolist() == whole(dataset).test_y.tolist()


def varied(seed: int = 0, size: int = 10) -> Batches:
    return Batches(dataclasses.replace(coloured(), augment="crop-flip"), seed, size)


def test_augmented_batches_are_the_same_whenever_they_are_asked_for_and_vary_from_epoch_to_epoch() -> None:
    first, second = varied(), varied()
    ahead = [tensor(second.inputs(batch)) for batch in (7, 3, 0)]
    assert all(
        torch.equal(tensor(first.inputs(batch)), x)
        for batch, x in zip((0, 3, 7), reversed(ahead), strict=True)
    )
    plain = Batches(coloured(), 0, 10)
    assert torch.equal(first.labels(3), plain.labels(3))
    assert tensor(first.inputs(3)).shape == tensor(plain.inputs(3)).shape
    assert not torch.equal(tensor(first.inputs(3)), tensor(plain.inputs(3)))
    whole = [tensor(varied(seed, 30).inputs(batch)).flatten(1) for seed, batch in ((0, 0), (0, 1), (1, 0))]
    assert not torch.equal(*(x.sum(1).sort().values for x in whole[:2]))
    assert not torch.equal(*(x.sum(1).sort().values for x in whole[::2]))


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_every_crop_is_a_window_of_the_bordered_image_or_of_its_mirror(
    channels: int, height: int, width: int, seed: int
) -> None:
    images = np.random.default_rng(seed).integers(1, 256, (4, channels, height, width)).astype(np.uint8)
    kept = images.copy()
    cut = batches.crop_and_flip(images, orders.words(4, seed, 0))
    assert (cut.dtype, cut.shape) == (images.dtype, images.shape)
    assert np.array_equal(images, kept)
    for image, result in zip(images, cut, strict=True):
        bordered = np.pad(image, ((0, 0), (4, 4), (4, 4)))
        windows = [
            bordered[:, row : row + height, column : column + width]
            for row in range(9)
            for column in range(9)
        ]
        assert any(np.array_equal(result, w) or np.array_equal(result, w[:, :, ::-1]) for w in windows)


def test_crops_reach_every_place_and_mirror_every_other_image() -> None:
    images = np.zeros((4000, 1, 9, 9), np.uint8)
    images[:, 0, 4, 3:5] = 1, 2
    cut = batches.crop_and_flip(images, orders.words(4000, 1, 0))
    rows, columns = (cut == 1).nonzero()[2:]
    assert set(rows.tolist()) == set(range(9))
    assert set(columns.tolist()) == set(range(9))
    left_of = np.pad(cut, ((0, 0), (0, 0), (0, 0), (1, 1)))
    ones, twos = (np.argwhere(left_of == value)[:, [0, 3]] for value in (1, 2))
    both = {int(n): column for n, column in ones if n in set(twos[:, 0])}
    mirrored = [both[int(n)] > column for n, column in twos if int(n) in both]
    assert 0.45 < sum(mirrored) / len(mirrored) < 0.55


def test_the_test_set_is_never_augmented() -> None:
    plain, augmented = coloured(), dataclasses.replace(coloured(), augment="crop-flip")
    for (x, _), (expected, _) in zip(
        batches.test_batches(augmented), batches.test_batches(plain), strict=True
    ):
        assert torch.equal(tensor(x), tensor(expected))


def test_augmenting_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "points.py").write_text(
        "import numpy as np\ndef points(): return np.eye(4), np.arange(4), np.eye(4), np.arange(4)\n"
    )
    with pytest.raises(
        ConfigError, match=r'^data.augment: crop-flip is for images .* \(4,\); choose "none"$'
    ):
        datasets.load(DataConfig(f"{tmp_path}/points.py:points", augment="crop-flip"))
    assert datasets.load(DataConfig(augment="crop-flip")).augment == "crop-flip"
