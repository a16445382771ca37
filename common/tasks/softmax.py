"""Expansion of cross-entropy, -sum of a log p over the last dimension, with p = softmax(output).

a are weights of the classes, one-hot for a plain label, and A is their sum. Then delta is A p - a, and the
Hessian times t is A (t - <p, t>) p.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from common.tasks.base import Expansion


def expansion(p: Tensor, delta: Tensor, total: Callable[[], Tensor], mass: Tensor | None = None) -> Expansion:
    """Return the expansion at outputs (..., C).

    Args:
        p: softmax of the output.
        delta: A p - a.
        total: computes L.
        mass: A, (..., 1); None: 1.
    """

    def hessian(tangent: Tensor) -> Tensor:
        product: Tensor = (tangent - torch.linalg.vecdot(p, tangent).unsqueeze(-1)).mul_(p)
        return product if mass is None else product.mul_(mass)

    return Expansion(delta, total, hessian)
