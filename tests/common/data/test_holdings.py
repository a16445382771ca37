"""Digests of data sets, and versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.config.files import load
from common.data import datasets, holdings
from common.data.datasets import Dataset
from common.data.examples import Arrays
from common.signals.forms import PLAIN


def dataset(rows: int = 3000, seed: int = 0) -> Dataset:
    x = np.random.default_rng(seed).integers(0, 255, (rows, 4), dtype=np.uint8)
    y = np.arange(rows) % 3
    return Dataset("own", Arrays({PLAIN: x}, y), Arrays({PLAIN: x[:10].copy()}, y[:10]), {}, 3)


def arrays(of: Dataset) -> Arrays:
    assert isinstance(of.train, Arrays)
    return of.train


def changed(one: Dataset, other: Dataset, most: int = holdings.MOST_BYTES) -> list[str]:
    """Names of the arrays that a comparison tells apart."""
    before, after = (holdings.digest_data(each, most) for each in (one, other))
    return [name for name in before if before[name] != after[name]]


def test_equal_data_have_equal_digests_whatever_their_memory_looks_like() -> None:
    one, other = dataset(), dataset()
    train = arrays(other)
    object.__setattr__(train, "x", {PLAIN: np.asfortranarray(train.x[PLAIN])})
    assert changed(one, other) == []


def test_one_changed_number_changes_the_digest_of_its_array() -> None:
    other = dataset()
    arrays(other).x[PLAIN][1234, 2] ^= 1
    assert changed(dataset(), other) == ["train_x"]


def test_labels_in_another_order_and_other_shapes_are_told_apart() -> None:
    other = dataset()
    train = arrays(other)
    object.__setattr__(train, "y", (train.y + 1) % 3)
    assert changed(dataset(), other) == ["train_y"]
    assert changed(dataset(), dataset(rows=2999)) == ["train_x", "train_y"]


@pytest.mark.parametrize("row", [0, 2999])
def test_a_large_data_set_is_compared_by_a_sample_with_both_ends(row: int) -> None:
    described = holdings.digest_data(dataset(), most=1000)
    assert described["train_x"].startswith("uint8 (3000, 4) with digest of a sample ")
    other = dataset()
    arrays(other).x[PLAIN][row] ^= 1
    assert changed(dataset(), other, most=1000) == ["train_x"]
    # Another shuffle or split changes nearly every row.
    assert "train_x" in changed(dataset(), dataset(seed=1), most=1000)


def test_a_users_files_and_the_versions_belong_to_the_holdings(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("")
    config = load(None, [f"network.model={tmp_path}/own.py:build"])
    held = holdings.take_stock(config, datasets.load(config.data))
    assert list(held.files) == ["network.model own.py"]
    assert set(held.versions) == {"python", "torch", "layerwise"}
    assert set(held.data) == {"train_x", "train_y", "test_x", "test_y"}
