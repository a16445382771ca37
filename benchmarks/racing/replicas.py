"""Rivals whose ranks train the whole network on batches of their own, and meet every H steps."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.rivals import Plain, PreparedRun

# Of DiLoCo's outer optimizer (Douillard et al. 2023).
OUTER_RATE, OUTER_MOMENTUM = 0.7, 0.9


class LocalSgd(Plain):
    """Local SGD: every H steps the weights become the ranks' mean; each optimizer's state stays its own.

    Args:
        prepared: data and network.
        period: H.
    """

    def __init__(self, prepared: PreparedRun, period: int) -> None:
        super().__init__(prepared)
        self.steps_together = dist.get_world_size()
        self._period = period
        self._met = False

    def step(self, batch: int) -> None:
        """Train on this rank's batch of the step's; `batch` is the number of the step."""
        super().step(self.steps_together * batch + dist.get_rank())
        self._met = (batch + 1) % self._period == 0
        if self._met:
            self._meet()

    def part(self) -> dict[str, Tensor]:
        """Return the state that the ranks share; empty between two meetings."""
        return super().part() if self._met else {}

    @torch.no_grad()
    def _meet(self) -> None:
        self._average([tensor for tensor in self.own.state_dict().values() if tensor.is_floating_point()])

    def _average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by the ranks' mean, in one message."""
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.steps_together
        means = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view_as(tensor))


class DiLoCo(LocalSgd):
    """DiLoCo: the mean change of H steps is the gradient of an outer SGD with Nesterov's momentum."""

    def __init__(self, prepared: PreparedRun, period: int) -> None:
        super().__init__(prepared, period)
        self._parameters = list(self.own.parameters())
        self._common = [parameter.detach().clone() for parameter in self._parameters]
        self._outer = torch.optim.SGD(self._common, OUTER_RATE, OUTER_MOMENTUM, nesterov=True)

    @torch.no_grad()
    def _meet(self) -> None:
        changes = [old - new for old, new in zip(self._common, self._parameters, strict=True)]
        buffers = [tensor for tensor in self.own.buffers() if tensor.is_floating_point()]
        self._average([*changes, *buffers])
        for common, change in zip(self._common, changes, strict=True):
            common.grad = change
        self._outer.step()
        for common, own in zip(self._common, self._parameters, strict=True):
            own.copy_(common)

    def saved(self) -> dict[str, Any]:
        """Return the rank's state, with the common weights and the outer optimizer's state."""
        outer = {"common": self._common, "outer": self._outer.state_dict()}
        return {**super().saved(), **outer}

    def restore(self, saved: dict[str, Any]) -> None:
        """Put the rank back to a checkpoint."""
        super().restore(saved)
        with torch.no_grad():
            for common, old in zip(self._common, saved["common"], strict=True):
                common.copy_(old)
        self._outer.load_state_dict(saved["outer"])
