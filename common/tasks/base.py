"""Interface of a task.

The loss of an example is the mean over its positions. Gradients are those of the sum over the examples (L),
so that each example's row is its own; only a step divides by B.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.targets import Targets
from common.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Expansion:
    """Second-order expansion of L at a batch of outputs, without a graph.

    Attributes:
        delta: gradient of L at the output, in the output's shape. The caller may change it.
        total: computes L, a scalar.
        hessian: computes the product of L's Hessian with a tangent, in the output's shape.
    """

    delta: Tensor
    total: Callable[[], Tensor]
    hessian: Callable[[Tensor], Tensor]


class Task(ABC):
    """Loss, target, metrics and the shape of the output.

    Args:
        targets: facts about the targets.
        output_shape: shape of one example of the network's output.

    Attributes:
        targets: as given.
        output_shape: as given; the last number is the number of outputs, at each position if there are
            several.
    """

    def __init__(self, targets: Targets, output_shape: tuple[int, ...]) -> None:
        self.targets = targets
        self.output_shape = output_shape

    @property
    def outputs(self) -> int:
        """Number of outputs, at each position if there are several."""
        return self.output_shape[-1]

    def fit(self, shape: tuple[int, ...], where: str) -> Task:
        """Return the task for a network whose output has this shape, for one example.

        Args:
            shape: of the last unit's output.
            where: name of the unit, for messages.

        Raises:
            ConfigError: another shape than the task's.
        """
        if shape != self.output_shape:
            raise ConfigError(
                f"{where} gives {_format_batch(shape)}, but {self.describe_output()}; it must give "
                f"{_format_batch(self.output_shape)}"
            )
        return self

    @abstractmethod
    def describe_output(self) -> str:
        """Return the reason for the output's shape, for messages: "the data has 10 classes"."""

    @abstractmethod
    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each example, (B,), with a graph."""

    def total(self, output: Tensor, target: Tensor) -> Tensor:
        """Return L, the sum over the examples: a scalar, with a graph."""
        return self.losses(output, target).sum()

    @abstractmethod
    def expand(self, output: Tensor, target: Tensor) -> Expansion:
        """Expand L at a batch of outputs, which needs no graph and gets none."""

    @abstractmethod
    def tally(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return sums over a batch of the test set, to be added up for `metrics`.

        `loss` is a sum of losses, and `count` the number that turns the sum into the test loss.
        """

    @abstractmethod
    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics by name, from the sums over the test set."""

    def for_synthesis(self) -> Task:
        """Return the task that M and heads learn: of the same targets, at a cost with a bound."""
        return self

    @property
    def context_size(self) -> int:
        """Number of rows of the tables that `context` takes."""
        return self.targets.classes if self.targets.labels else math.prod(self.targets.shape)

    def context(self, target: Tensor, table: Tensor) -> Tensor:
        """Return the product of the targets' context with a table (context_size, width): (B, width).

        A label's context is its one-hot vector, so that the product is a look-up; other targets are their own
        context, as a vector of numbers.
        """
        if self.targets.labels:
            return F.embedding(target, table)
        return target.reshape(len(target), -1).to(table.dtype) @ table

    def blank(self, batch_size: int) -> Tensor:
        """Return a batch of zeros in the form of targets, on torch's default device."""
        dtype = torch.int64 if self.targets.classes else torch.float32
        return torch.zeros(batch_size, *self.targets.shape, dtype=dtype)


def _format_batch(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['B', *map(str, shape)])})"
