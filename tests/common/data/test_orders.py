"""Orders of epochs: permutations of any size, offsets of examples that overlap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data import orders
from common.data.examples import Arrays, cover
from common.data.orders import Bijection, EpochOrders, words
from common.signals.forms import PLAIN


def overlapping(count: int, stride: int) -> Arrays:
    numbers = np.arange(count)
    return replace(Arrays({PLAIN: numbers[:, None]}, numbers), stride=stride)


@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 9))
def test_a_bijection_takes_every_number_once(count: int, seed: int, epoch: int) -> None:
    numbers = Bijection(count, words(6, seed, epoch))(0, count)
    assert numbers.dtype == np.int64
    assert sorted(numbers.tolist()) == list(range(count))


def test_a_bijection_of_a_seed_stays_as_it_is_for_ever() -> None:
    assert Bijection(10**12, words(6, 3, 1))(5, 8).tolist() == [16447246596, 550686624061, 241008664928]


def test_parts_of_a_bijection_are_parts_of_the_whole() -> None:
    order = Bijection(1000, words(6, 0, 0))
    assert order(250, 260).tolist() == order(0, 1000)[250:260].tolist()


def test_a_bijection_spreads_neighbours_and_differs_by_epoch() -> None:
    first, second = (Bijection(10**9, words(6, 0, epoch))(0, 20_000) for epoch in (0, 1))
    for numbers in (first, second):
        # Uniform numbers: tenths of the range get 2,000 each, deviation 42; neighbours are not related.
        counts = np.bincount(numbers // 10**8, minlength=10)
        assert abs(counts - 2000).max() < 250
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.05
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_long_epochs_are_shuffled_without_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(orders.shuffle(100, 0, 0), Bijection)
    monkeypatch.setattr(orders, "LARGEST_PERMUTATION", 99)
    assert isinstance(orders.shuffle(100, 0, 0), Bijection)


@given(st.integers(1, 300), st.data(), st.integers(0, 2**40))
def test_an_epoch_of_overlapping_examples_takes_one_of_every_stride(
    count: int, drawn: st.DataObject, seed: int
) -> None:
    stride = drawn.draw(st.integers(1, count))
    epochs = EpochOrders(overlapping(count, stride), seed)
    rows = np.sort(epochs.rows(3, 0, epochs.length))
    assert epochs.length == count // stride
    assert rows[0] >= 0
    assert rows[-1] < count
    assert set(np.diff(rows).tolist()) <= {stride}


def test_every_row_occurs_over_epochs() -> None:
    epochs = EpochOrders(overlapping(17, 5), 0)
    seen = {int(row) for epoch in range(200) for row in epochs.rows(epoch, 0, epochs.length)}
    assert seen == set(range(17))


@given(st.integers(1, 300), st.data())
def test_a_cover_reaches_both_ends_without_a_hole(count: int, drawn: st.DataObject) -> None:
    stride = drawn.draw(st.integers(1, count))
    rows = cover(overlapping(count, stride))
    assert (rows[0], rows[-1]) == (0, count - 1)
    assert np.diff(rows).max(initial=0) <= stride
