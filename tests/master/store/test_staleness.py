"""master.store.staleness: every rule by definition, at any staleness."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.config.pushes import STALENESS_RULES
from master.store.staleness import StalenessRule, compensate

STALENESS = st.integers(0, 10**6)
admits, weight = STALENESS_RULES["bound"].admits, STALENESS_RULES["scale"].weight
NUMBERS = arrays(np.float64, 5, elements=st.floats(-10, 10))
Numbers = npt.NDArray[np.float64]


@given(STALENESS, STALENESS)
def test_a_bound_admits_exactly_what_is_not_above_it_and_a_fresh_push_always(
    staleness: int, bound: int
) -> None:
    assert admits(staleness, bound) == (staleness <= bound)
    assert admits(0, bound)


@given(STALENESS)
def test_a_scaled_push_and_its_staleness_multiply_to_one_and_a_fresh_one_counts_whole(staleness: int) -> None:
    assert weight(staleness) * staleness == pytest.approx(min(staleness, 1))
    assert weight(0) == weight(1) == 1.0
    assert 0 < weight(staleness + 1) <= weight(staleness)


@given(NUMBERS, NUMBERS, NUMBERS, st.floats(0, 2))
def test_compensation_is_the_papers_formula_and_changes_no_operand(
    gradient: Numbers, now: Numbers, fetched: Numbers, strength: float
) -> None:
    before = [each.copy() for each in (gradient, now, fetched)]
    made = compensate(gradient, now, fetched, strength)
    np.testing.assert_allclose(made, gradient + strength * gradient * gradient * (now - fetched), atol=1e-9)
    for each, kept in zip((gradient, now, fetched), before, strict=True):
        np.testing.assert_array_equal(each, kept)


@given(NUMBERS, NUMBERS, NUMBERS, st.floats(0, 2))
def test_without_a_delay_or_without_strength_nothing_is_compensate(
    gradient: Numbers, now: Numbers, fetched: Numbers, strength: float
) -> None:
    np.testing.assert_array_equal(compensate(gradient, now, now, strength), gradient)
    np.testing.assert_array_equal(compensate(gradient, now, fetched, 0.0), gradient)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_compensation_is_exact_where_the_squared_gradient_is_the_curvature(
    curvature: Numbers, now: Numbers, fetched: Numbers
) -> None:
    """For a linear gradient a + c (w - w_fetched) with c = lambda a^2 the result is the gradient at w."""
    gradient = np.sqrt(np.abs(curvature) / 0.5)
    np.testing.assert_allclose(
        compensate(gradient, now, fetched, 0.5), gradient + np.abs(curvature) * (now - fetched), atol=1e-9
    )


@given(STALENESS, st.sampled_from(["any", "bound", "scale", "compensate"]))
def test_a_rule_does_its_own_part_alone(staleness: int, name: str) -> None:
    rule = StalenessRule(name, bound=7)
    assert rule.admits(staleness) == (name != "bound" or staleness <= 7)
    assert rule.weight(staleness) == (weight(staleness) if name == "scale" else 1.0)
    assert rule.compensates == (name == "compensate")
