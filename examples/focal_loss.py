"""A loss of one's own: the focal loss (Lin et al. 2017), which turns to the examples that are still wrong.

    layerwise train --set task.kind=examples/focal_loss.py:focal --set 'task.options={gamma=2}'

The function takes the output of the network and the targets of a batch, and returns the loss of each example.
Gradients come from autograd; the targets are whole numbers, so the network gets an output for each class.
"""

from torch import Tensor
from torch.nn import functional


def focal(output: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Return -(1 - p)^gamma log p of each example, (B,), with p the probability of the true class.

    Args:
        output: logits, (B, C).
        target: classes, (B,) int64.
        gamma: weight of the hard examples, from task.options; with 0 this is the cross-entropy.
    """
    log_p = -functional.cross_entropy(output, target, reduction="none")
    return -((1 - log_p.exp()) ** gamma) * log_p
