"""Regression: squared or Huber loss, the mean over the numbers of a target."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from common.config.tasks import LOSSES, RegressionOptions
from common.data.targets import Targets
from common.tasks.base import Expansion, Task


class Regression(Task):
    """Outputs (B, D), targets (B, D) float32, or (B,) where D is 1.

    Args:
        targets: facts about the targets.
        bound: of the Huber loss, the residual from which the loss is linear; None: the squared loss.
    """

    def __init__(self, targets: Targets, bound: float | None) -> None:
        super().__init__(targets, targets.shape or (1,))
        self._bound = bound

    def describe_output(self) -> str:
        """Return the number of numbers in a target, for messages."""
        return f"the data has {self.outputs} numbers a target"

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean of r^2, or of Huber's h(r), over the residuals r of each example."""
        target = target.reshape_as(output)
        if self._bound is None:
            return F.mse_loss(output, target, reduction="none").mean(1)
        return F.huber_loss(output, target, reduction="none", delta=self._bound).mean(1)

    def expand(self, output: Tensor, target: Tensor) -> Expansion:
        """Expand in closed form: delta is 2 r / D, or r / D clamped to the bound."""
        residual = output - target.reshape_as(output)
        size = output.shape[1]
        if self._bound is None:
            return Expansion(
                residual * (2 / size), lambda: residual.square().sum() / size, lambda t: t * (2 / size)
            )
        bound = self._bound
        curved = residual.abs() < bound
        return Expansion(
            residual.clamp(-bound, bound) / size,
            lambda: self.total(output, target),
            lambda t: t * curved / size,
        )

    def tally(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return loss, number of examples, sums of squared and of absolute residuals, number of residuals."""
        residual = output - target.reshape_as(output)
        return {
            "loss": float(self.total(output, target)),
            "count": len(target),
            "squares": float(residual.square().sum()),
            "distances": float(residual.abs().sum()),
            "numbers": residual.numel(),
        }

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the mean squared and the mean absolute residual, in the targets' own units."""
        return {"mse": sums["squares"] / sums["numbers"], "mae": sums["distances"] / sums["numbers"]}


def build(options: RegressionOptions, targets: Targets) -> Regression:
    """Build the task."""
    return Regression(targets, options.bound if LOSSES[options.loss].bounded else None)
