"""Speed of a machine, measured before the first Join: machines of a run are compared, nothing more."""

from __future__ import annotations

import time

import torch

# Side of the matrices, and repeats of which the fastest counts: other processes may hold one up.
SIDE, REPEATS = 512, 5


def measure_speed(device: torch.device) -> float:
    """Return the multiply-adds a second, in 10^9, of a product of two matrices on a device."""
    with torch.no_grad():
        one = torch.ones(SIDE, SIDE, device=device)
        best = min(_time_product(one) for _ in range(REPEATS))
    return SIDE**3 / best / 1e9


def _time_product(one: torch.Tensor) -> float:
    """Return the seconds of a product, (SIDE, SIDE) by (SIDE, SIDE)."""
    began = time.perf_counter()
    (one @ one).sum().item()
    return max(time.perf_counter() - began, 1e-9)
