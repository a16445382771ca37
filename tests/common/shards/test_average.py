"""common.shards.average: the share of new weights in their average."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.shards.average import move, share

BATCHES = st.integers(1, 10**6)


@given(BATCHES, BATCHES, BATCHES, st.integers(1, 10**5))
def test_what_the_average_keeps_does_not_depend_on_the_cut_into_pushes(
    first: int, second: int, third: int, horizon: int
) -> None:
    a, b, c = first, first + second, first + second + third
    kept = (1 - share(a, b, horizon)) * (1 - share(b, c, horizon))
    assert 1 - share(a, c, horizon) == pytest.approx(kept, rel=1e-9, abs=1e-12)


def test_in_a_long_run_a_weight_fades_by_e_in_a_horizon_of_batches() -> None:
    assert 1 - share(50_000, 51_000, 1000) == pytest.approx(1 / math.e)
    assert share(50_000, 50_001, 1000) == pytest.approx(1e-3, rel=1e-3)


def test_a_young_average_looks_back_on_a_tenth_of_the_batches_whatever_the_horizon() -> None:
    assert share(200, 201, 1000) == share(200, 201, 10**6) == pytest.approx(10 / 200, rel=0.05)
    # Half of the way on, the initial weights have a thousandth.
    assert 1 - share(400, 800, 1000) == pytest.approx(2**-10)


def test_the_first_batch_has_the_whole_average_and_no_batch_nothing() -> None:
    assert share(0, 7, 1000) == share(0, 0, 1000) == 1
    assert share(7, 7, 1000) == 0


def test_equal_weights_stay_as_they_are_to_the_bit() -> None:
    weights = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    average = weights.copy()
    for batch in range(20):
        move(average, weights, share(batch, batch + 1, 7), out=average)
    assert np.array_equal(average, weights)
