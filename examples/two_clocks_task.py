"""Counts of odd digits and of 3s, the tasks of the two networks of examples/two_clocks.py."""

from torch import Tensor
from torch.nn import functional

# Steps of A for a tick of B, the T of the paper. Windows (time.window) have a multiple of them.
TICK = 4
# Columns of the targets.
ODD, THREES = 0, 1


def ticks(steps: Tensor) -> Tensor:
    """Return every 4th of the steps of a window, (B, T, ...)."""
    return steps[:, TICK - 1 :: TICK]


def cross_entropy(logits: Tensor, y: Tensor, column: int) -> Tensor:
    """Return the mean cross-entropy over a window's ticks, (B,)."""
    counts = ticks(y)[..., column]
    losses = functional.cross_entropy(logits.flatten(0, 1), counts.flatten(), reduction="none")
    return losses.view_as(counts).mean(1)


def error_percent(logits: Tensor, y: Tensor, column: int) -> Tensor:
    """Return the wrong counts of a window, of 100, (B,)."""
    return 100 * (logits.argmax(-1) != ticks(y)[..., column]).float().mean(1)


def threes(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of B's counts, (B,): the task of the whole."""
    return cross_entropy(output, target, THREES)
