"""The bounds that docs/methods.md states for late gradients follow from the recurrence of the steps."""

from __future__ import annotations

import numpy as np
import pytest

from tests.integration.processes import ROOT


def is_stable(sharpness: float, momentum: float, delay: int) -> bool:
    """Tell whether x falls under averaged momentum and a rate of 1, on sharpness x^2 / 2."""
    # State: the newest delay + 1 values of x, and the mean gradient m.
    step = np.zeros((delay + 2, delay + 2))
    step[1 : delay + 1, :delay] = np.eye(delay)
    step[-1, -1] = momentum
    step[-1, delay] = (1 - momentum) * sharpness
    step[0, 0] = 1
    step[0] -= step[-1]
    return bool(np.abs(np.linalg.eigvals(step)).max() < 1)


@pytest.mark.parametrize(
    ("momentum", "delay", "bound"),
    [(0.9, 0, 38.0), (0.9, 1, 1.0), (0.5, 1, 1.0), (0.0, 1, 1.0), (0.9, 2, 0.512), (0.9, 6, 0.181)],
)
def test_a_late_gradient_lowers_the_sharpness_that_a_rate_bears(
    momentum: float, delay: int, bound: float
) -> None:
    assert is_stable(0.999 * bound, momentum, delay)
    assert not is_stable(1.01 * bound, momentum, delay)
    if momentum == 0.9:
        # The page rounds to two digits.
        page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
        assert f"| {delay} | {float(f'{bound:.2g}'):g} |" in page
