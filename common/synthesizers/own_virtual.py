"""VFBN's M with a v of the user's own, by autograd (`virtual` has the closed form of the built-in v).

delta hat = d L(y, v(h)) / dh, where L is the task's loss; its derivative in v's parameters takes a second
backward pass. Batch normalization in v has running statistics where M predicts, so that rows are independent,
and the batch's statistics where v learns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from common.config.synthesizers import VfbnOptions
from common.errors import ConfigError
from common.shards.flat import table_of
from common.synthesizers.base import Virtual
from common.tasks import Task

Shape = tuple[int, ...]
Found = TypeVar("Found")
# Builds v from the shape of an example's h, and that of an example's output.
BuildV = Callable[[Shape, Shape], nn.Module]
# Errors of a machine, not of v: another slave may go on. Older torch has no class for a GPU's failure.
OF_THE_DEVICE: tuple[type[Exception], ...] = (
    torch.cuda.OutOfMemoryError,
    getattr(torch, "AcceleratorError", torch.cuda.OutOfMemoryError),
)


class OwnVirtual(Virtual):
    """M of VFBN with a module of the user's as v, h (B, *shape) -> output (B, *output_shape).

    Args:
        options: of M; `v` names the user's function.
        shape: of an example's h.
        task: of the run; `output_shape` is that of its `for_synthesis()`.
        build_v: calls the user's function.

    Raises:
        ConfigError: the module cannot be used as v.
    """

    def __init__(self, options: VfbnOptions, shape: Shape, task: Task, build_v: BuildV) -> None:
        super().__init__()
        self.task = task = task.for_synthesis()
        self.trained = options.trained
        self._supervised = options.supervised
        self._where = f"decoupling.gradient_options.v: {options.v}"
        self.v = build_v(shape, task.output_shape)
        # A lazy module has its parameters behind the first forward.
        self._check_output(shape)
        self._check_state()

    def gradient(self, h: Tensor, y: Tensor) -> Tensor:
        """Compute the gradient at h of v's loss."""
        self.eval()
        leaf = _leaf(h)
        with torch.enable_grad():
            total = self._total(leaf, y)
            delta = self._differentiate(lambda: torch.autograd.grad(total, leaf)[0])
        return delta.detach()

    def learn(self, h: Tensor, y: Tensor, delta: Tensor) -> Tensor:
        """Add the gradients of L_M and, times `supervised`, of L / B, unless v is frozen.

        Returns:
            L_M, a scalar.
        """
        self.train(self.trained)
        leaf = _leaf(h)
        with torch.enable_grad():
            total = self._total(leaf, y)
            synthetic = self._differentiate(
                lambda: torch.autograd.grad(total, leaf, create_graph=self.trained)[0]
            )
            loss = (synthetic - delta.detach()).square().sum() / len(h)
            learned = loss + total * (self._supervised / len(h)) if self._supervised else loss
            # A gradient that is constant in v's parameters has no graph. A pass to the parameters alone would
            # leave out the node that stands for a derivative that is missing.
            if self.trained and learned.requires_grad:
                self._differentiate(learned.backward)
        return loss.detach()

    def supervise(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Train v on the task itself; batch normalization is that of a layer in training."""
        self.train(self.trained)
        leaf = _leaf(h)
        with torch.enable_grad():
            total = self._total(leaf, y)
            wanted = [leaf, *(self._parameters_learned if self.trained else [])]
            self._differentiate(lambda: torch.autograd.backward(total / len(h), inputs=wanted))
        if leaf.grad is None:
            raise self._error(
                "gives its output without a gradient at h; compute the output from h by operations of torch, "
                "without detach()"
            )
        return leaf.grad.mul_(len(h)), total.detach()

    @property
    def _parameters_learned(self) -> list[nn.Parameter]:
        return [each for each in self.parameters() if each.requires_grad]

    def _total(self, h: Tensor, y: Tensor) -> Tensor:
        """Compute L at v(h), a scalar with a graph."""
        return self.task.total(self._forward(h), y)

    def _forward(self, h: Tensor) -> Tensor:
        try:
            output = self.v(h)
        except OF_THE_DEVICE:
            raise
        except (Exception, SystemExit) as error:
            raise self._error(f"fails for an h of {tuple(h.shape)}: {_first_line(error)}") from error
        due = (len(h), *self.task.output_shape)
        if not isinstance(output, Tensor) or output.shape != due or output.dtype != h.dtype:
            raise self._error(
                f"gives {_describe(output)} for an h of {tuple(h.shape)}; it must give floats {due}, "
                "output_shape for each example"
            )
        return output

    def _differentiate(self, work: Callable[[], Found]) -> Found:
        """Run a backward pass."""
        try:
            return work()
        except ConfigError:  # of the task, which names its own key
            raise
        except OF_THE_DEVICE:
            raise
        except (Exception, SystemExit) as error:
            raise self._error(
                f"fails in the derivative of its gradient: {_first_line(error)}; compute the output from h "
                "by operations of torch that have a second derivative, without detach()"
            ) from error

    def _check_state(self) -> None:
        try:
            table_of(self)
        except ConfigError as error:
            raise self._error(str(error)) from None
        except Exception as error:
            raise self._error(
                f"has a parameter or buffer that cannot be kept: {_first_line(error)}; use each "
                "in the forward"
            ) from error
        if self.trained and not self._parameters_learned:
            raise self._error("has no parameters to train; give it some, or choose trained = false")

    def _check_output(self, shape: Shape) -> None:
        """Check the output for two examples; the state does not change."""
        self.eval()
        with torch.no_grad():
            output = self._forward(torch.rand(2, *shape))
        if not output.is_meta and not bool(torch.isfinite(output).all()):
            raise self._error("gives NaN or infinity for an h from 0 to 1; correct the module")

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"{self._where}: {text}")


def _leaf(h: Tensor) -> Tensor:
    # On a GPU feature maps have their channels last in memory, where a user's views may fail.
    return h.detach().contiguous().requires_grad_()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"a {type(value).__name__}"
