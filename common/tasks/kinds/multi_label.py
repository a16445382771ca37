"""Multi-label classification: binary cross-entropy, the mean over the labels of an example."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config.tasks import NoOptions
from common.data.targets import Targets
from common.tasks.base import Expansion, Task


class MultiLabel(Task):
    """Outputs (B, C), targets (B, C) of 0 and 1."""

    def __init__(self, targets: Targets) -> None:
        super().__init__(targets, targets.shape)

    def describe_output(self) -> str:
        """Return the number of labels, for messages."""
        return f"the data has {self.outputs} labels an example"

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of each example."""
        return F.binary_cross_entropy_with_logits(output, target.to(output.dtype), reduction="none").mean(1)

    def expand(self, output: Tensor, target: Tensor) -> Expansion:
        """Expand with p = sigmoid(output): delta is (p - y) / C, the Hessian p (1 - p) / C."""
        p, size = torch.sigmoid(output), output.shape[1]
        return Expansion(
            (p - target) / size, lambda: self.total(output, target), lambda t: p * (1 - p) * t / size
        )

    def tally(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return loss, number of examples and of labels, wrong labels, true and found positive labels."""
        found, true = output > 0, target > 0.5
        return {
            "loss": float(self.total(output, target)),
            "count": len(target),
            "labels": target.numel(),
            "wrong": int((found != true).sum()),
            "positive": int(found.sum()) + int(true.sum()),
        }

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the share of wrong labels in per cent, and F1 over all labels."""
        # The sum of found and true positives is 2 TP + FP + FN, and FP + FN are the wrong labels.
        positive = sums["positive"]
        return {
            "label_error_percent": 100 * sums["wrong"] / sums["labels"],
            "f1": (positive - sums["wrong"]) / positive if positive else 1.0,
        }


def build(options: NoOptions, targets: Targets) -> MultiLabel:  # noqa: ARG001 - there are none
    """Build the task."""
    return MultiLabel(targets)
