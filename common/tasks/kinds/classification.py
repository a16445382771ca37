"""Classification: cross-entropy over classes, with label smoothing and weights of classes.

Smoothing by e over C classes with weights w: the loss is -sum over c of a_c log p_c, where a_c is w_c e / C,
and (1 - e) w_y more for the label y.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config.tasks import ClassificationOptions
from common.data.targets import Targets
from common.errors import ConfigError
from common.tasks import softmax
from common.tasks.base import Expansion, Task


class Classification(Task):
    """Cross-entropy: outputs (B, C), targets (B,) int64."""

    def __init__(self, options: ClassificationOptions, targets: Targets) -> None:
        super().__init__(targets, (targets.classes,))
        self._smoothing = options.label_smoothing
        self._weights = None if options.class_weights is None else torch.tensor(options.class_weights)

    def describe_output(self) -> str:
        """Return the number of classes, for messages."""
        return f"the data has {self.targets.classes} classes"

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of each example."""
        return self._cross_entropy(output, target, "none")

    def total(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the sum of the cross-entropies, by a single kernel of torch."""
        return self._cross_entropy(output, target, "sum")

    def expand(self, output: Tensor, target: Tensor) -> Expansion:
        """Expand in closed form."""
        p = torch.softmax(output, 1)
        if self._weights is None and not self._smoothing:
            delta = p.scatter_add(1, target.unsqueeze(1), p.new_full((1, 1), -1.0).expand(len(target), 1))
            return softmax.expansion(p, delta, lambda: -p.gather(1, target.unsqueeze(1)).log().sum())
        a = self._spread(output, target)
        mass = a.sum(1, keepdim=True)
        return softmax.expansion(p, mass * p - a, lambda: -(a * F.log_softmax(output, 1)).sum(), mass)

    def tally(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return loss, number of examples and number of wrong ones."""
        wrong = int((output.argmax(1) != target).sum())
        return {"loss": float(self.total(output, target)), "count": len(target), "wrong": wrong}

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the error in per cent."""
        return {"error_percent": 100 * sums["wrong"] / sums["count"]}

    def _cross_entropy(self, output: Tensor, target: Tensor, reduction: str) -> Tensor:
        weights = None if self._weights is None else self._weights.to(output)
        return F.cross_entropy(output, target, weights, reduction=reduction, label_smoothing=self._smoothing)

    def _spread(self, output: Tensor, target: Tensor) -> Tensor:
        """Return a, (B, C)."""
        classes = output.shape[1]
        weights = torch.ones(classes).to(output) if self._weights is None else self._weights.to(output)
        label = F.one_hot(target, classes).to(output)
        return weights * ((1 - self._smoothing) * label + self._smoothing / classes)


def build(options: ClassificationOptions, targets: Targets) -> Classification:
    """Build the task.

    Raises:
        ConfigError: another number of weights than of classes.
    """
    weights = options.class_weights
    if weights is not None and len(weights) != targets.classes:
        raise ConfigError(
            f"task.options.class_weights: {len(weights)} weights for {targets.classes} classes; give one each"
        )
    return Classification(options, targets)
