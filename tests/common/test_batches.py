from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common import batches, config, datasets
from common.batches import Batches
from common.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def numbered(count: int, tests: int = 7) -> datasets.Dataset:
    """A data set whose example n holds the number n and has the label n."""
    x, t = np.arange(count, dtype=np.float32)[:, None], np.arange(tests, dtype=np.float32)[:, None]
    y, u = np.arange(count), np.arange(tests)
    return datasets.Dataset("numbered", x, y, t, u, (0.0,), (1.0,), 1.0, count)


def coloured() -> datasets.Dataset:
    generator = np.random.default_rng(0)
    x, t = (generator.integers(0, 256, (count, 3, 4, 5)).astype(np.uint8) for count in (30, 7))
    y, u = (generator.integers(0, 10, count) for count in (30, 7))
    return datasets.Dataset("coloured", x, y, t, u, (0.4, 0.5, 0.6), (0.2, 0.3, 0.1), 1 / 255, 10)


def normalized(dataset: datasets.Dataset, raw: np.ndarray) -> np.ndarray:
    mean, std = np.array(dataset.mean)[:, None, None], np.array(dataset.std)[:, None, None]
    return np.asarray((raw * dataset.scale - mean) / std)


@settings(deadline=None)
@given(st.integers(1, 60), st.data(), st.integers(0, 2**40), st.integers(0, 5))
def test_an_epoch_takes_every_example_once_but_for_an_incomplete_last_batch(
    count: int, drawn: st.DataObject, seed: int, epoch: int
) -> None:
    size = drawn.draw(st.integers(1, count))
    made = Batches(numbered(count), seed, size)
    assert made.an_epoch == count // size
    taken = torch.cat([made.labels(epoch * made.an_epoch + place) for place in range(made.an_epoch)])
    assert len(taken) == len(set(taken.tolist())) == made.an_epoch * size


def test_inputs_and_labels_of_a_batch_agree_in_whatever_order_they_are_asked_for() -> None:
    made = Batches(numbered(100), 5, 8)
    asked = [0, 50, 3, 13, 12, 11, 24, 0, 399]
    inputs = [made.inputs(batch) for batch in asked]
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
        "import hashlib; from common import config, datasets; from common.batches import Batches; "
        "made = Batches(datasets.load(config.Data()), 3, 64); "
        "print(hashlib.sha256(b''.join(made.inputs(b).numpy().tobytes() + made.labels(b).numpy().tobytes() "
        "for b in (0, 21, 22, 1000))).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    made = Batches(datasets.load(config.Data()), 3, 64)
    content = b"".join(
        made.inputs(b).numpy().tobytes() + made.labels(b).numpy().tobytes() for b in (0, 21, 22, 1000)
    )
    assert done.stdout.strip() == hashlib.sha256(content).hexdigest()


def test_the_order_of_a_seed_stays_as_it_is_for_ever() -> None:
    assert Batches(numbered(1437), 0, 8).labels(0).tolist() == [1136, 489, 327, 379, 1242, 703, 501, 354]
    assert Batches(numbered(1437), 0, 8).labels(179).tolist() == [788, 1241, 116, 551, 176, 1194, 171, 155]


def test_bytes_are_normalized_by_channel() -> None:
    dataset = coloured()
    made = Batches(dataset, 0, 30)
    raw = dataset.train_x[datasets.shuffled(30, 0, 0)]
    np.testing.assert_allclose(made.inputs(0).numpy(), normalized(dataset, raw), atol=1e-5)


def test_digits_come_out_with_mean_zero_and_deviation_one() -> None:
    digits = datasets.load(config.Data())
    x = Batches(digits, 0, 1437).inputs(0)
    assert x.shape == (1437, 1, 8, 8)
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std().item() == pytest.approx(1, abs=1e-3)


def test_a_batch_larger_than_the_training_set_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^run\.batch_size: 4096 is more than the 1437 training examples of digits; "
    ):
        Batches(datasets.load(config.Data()), 0, 4096)


def test_a_batch_is_the_callers_own() -> None:
    dataset = numbered(10)
    made = Batches(dataset, 0, 4)
    before = made.inputs(0).clone(), made.labels(0).clone()
    made.inputs(0).zero_()
    made.labels(0).zero_()
    for x, y in batches.test_batches(dataset):
        x.zero_()
        y.zero_()
    assert torch.equal(made.inputs(0), before[0])
    assert torch.equal(made.labels(0), before[1])
    assert dataset.test_x[:, 0].tolist() == dataset.test_y.tolist() == list(range(7))


@pytest.mark.parametrize(("size", "sizes"), [(3, [3, 3, 1]), (7, [7]), (1000, [7])])
def test_the_test_set_is_gone_through_once_and_whole_in_its_own_order(size: int, sizes: list[int]) -> None:
    dataset = coloured()
    parts = list(batches.test_batches(dataset, size))
    assert [len(x) for x, _ in parts] == sizes
    x, y = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    np.testing.assert_allclose(x.numpy(), normalized(dataset, dataset.test_x), atol=1e-5)
    assert y.tolist() == dataset.test_y.tolist()
