"""A user's loss for kickback, which says nothing under a softmax."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def squares(output: Tensor, target: Tensor) -> Tensor:
    """Half the squared distance to the one-hot label."""
    return 0.5 * (output - functional.one_hot(target, output.shape[1])).square().sum(1)
