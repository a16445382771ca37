"""Module of the shard k/time: M in time of a layer, and the auxiliary head if there is one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.synthesizers.time.auxiliary import Auxiliary
from common.synthesizers.time.regression import TimeSynthesizer


class TimeModule(nn.Module):
    """M in time and the auxiliary head, which one optimizer steps.

    Args:
        synthesizer: M.
        head: predicts M's gradient; None: there is no auxiliary task.
    """

    def __init__(self, synthesizer: TimeSynthesizer, head: Auxiliary | None) -> None:
        super().__init__()
        self.synthesizer = synthesizer
        self.head = head

    def auxiliary(self, early: Tensor, delta: Tensor) -> list[Tensor]:
        """Return the auxiliary loss, a sum over the batch, if there is a head; arguments as of `total`."""
        return [] if self.head is None else [self.head.total(early, delta)]

    @torch.no_grad()
    def divide(self, batch_size: int) -> None:
        """Divide the head's gradients by B, as M's own are."""
        for parameter in [] if self.head is None else self.head.parameters():
            if parameter.grad is not None:
                parameter.grad /= batch_size
