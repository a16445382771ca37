"""The bounds that docs/methods.md states for late gradients follow from the recurrence of the steps."""

from __future__ import annotations

import numpy as np
import pytest

from tests.integration.processes import ROOT


def is_stable(sharpness: float, momentum: float, delay: int, kappa: float = 0.0) -> bool:
    """Tell whether x falls under averaged momentum and a rate of 1, on sharpness x^2 / 2.

    With `kappa`, a late gradient has kappa (x now - x then) added to it.
    """
    # State: the newest delay + 1 values of x, and the mean gradient m.
    step = np.zeros((delay + 2, delay + 2))
    step[1 : delay + 1, :delay] = np.eye(delay)
    step[-1, -1] = momentum
    step[-1, delay] += (1 - momentum) * (sharpness - kappa)
    step[-1, 0] += (1 - momentum) * kappa
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


@pytest.mark.parametrize(
    ("delay", "ratio", "bound"),
    [
        *[(1, 0.5, 2.0), (2, 0.5, 1.05), (6, 0.5, 0.404), (1, 1, 38), (2, 1, 38), (6, 1, 38)],
        *[(1, 3, 7.6), (2, 3, 4.05), (6, 3, 0.678), (1, 10, 2.0), (2, 10, 1.06), (6, 10, 0.172)],
    ],
)
def test_a_pull_towards_the_h_that_was_sent_raises_it_again(delay: int, ratio: float, bound: float) -> None:
    assert is_stable(0.99 * bound, 0.9, delay, 0.99 * bound * ratio)
    assert not is_stable(1.01 * bound, 0.9, delay, 1.01 * bound * ratio)
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith(f"| {ratio:g} x ")]
    assert f"{float(f'{bound:.2g}'):g}" in [cell.strip() for cell in row.split("|")]
