"""Loss of a user: a function in a file, `task.kind = "path/to/file.py:function"`.

The function takes output and target, (B, ...) each, and returns the loss of each example, (B,);
`task.options` are further keyword arguments. Gradients and products with the Hessian come from autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from common.config.task import TaskConfig
from common.config.user_code import format_error
from common.data.targets import Targets
from common.errors import ConfigError
from common.tasks import derived
from common.tasks.base import Expansion, Task


class UserTask(Task):
    """Loss of a user; outputs and targets have any shape.

    Args:
        config: section [task].
        function: the user's.
        targets: facts about the targets.
        output_shape: shape of one example of the network's output; None: a vector, with a number for each
            class of the data, or for each number of a target.
    """

    def __init__(
        self,
        config: TaskConfig,
        function: Callable[..., Any],
        targets: Targets,
        output_shape: tuple[int, ...] | None = None,
    ) -> None:
        if output_shape is None:
            output_shape = (targets.classes or math.prod(targets.shape),)
        super().__init__(targets, output_shape)
        self._config = config
        self._function = function

    def fit(self, shape: tuple[int, ...], where: str) -> UserTask:  # noqa: ARG002 - no shape is wrong
        """Return the task for a network whose output has this shape."""
        return UserTask(self._config, self._function, self.targets, shape)

    def describe_output(self) -> str:
        """Return the absence of a rule, for messages."""
        return "the loss is a user's"

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the function's value.

        Raises:
            ConfigError: the function raises, or its value is no loss of each example.
        """
        try:
            losses = self._function(output, target, **self._config.options)
        except (Exception, SystemExit) as error:
            file = getattr(getattr(self._function, "__code__", None), "co_filename", "")
            raise self._error(
                f"raised {format_error(error, file)} for an output {tuple(output.shape)} and a target "
                f"{tuple(target.shape)}; correct the function, or task.options, its keyword arguments"
            ) from error
        count = len(target)
        if not isinstance(losses, Tensor) or losses.shape != (count,) or not losses.is_floating_point():
            raise self._error(
                f"returned {_describe(losses)} for {count} examples; return the loss of each example, floats "
                f"({count},): take the mean over all dimensions but the first"
            )
        if output.requires_grad and not losses.requires_grad:
            raise self._error(
                "returned losses without a gradient; compute them from the output by torch, without detach()"
            )
        return losses

    def expand(self, output: Tensor, target: Tensor) -> Expansion:
        """Expand by autograd."""
        return derived.expansion(self.losses, output, target)

    def tally(self, output: Tensor, target: Tensor) -> dict[str, float]:
        """Return loss and number of examples."""
        return {"loss": float(self.total(output, target)), "count": len(target)}

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:  # noqa: ARG002 - the loss says all
        """Return no metric: the test loss is the user's own."""
        return {}

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"task.kind: {self._config.kind}: {text}")


def _describe(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"
