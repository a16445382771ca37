"""Packing of a signal's float tensors into one tensor, since M, I and heads map a tensor to a tensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.errors import ConfigError
from common.signals.forms import PLAIN, SignalForm, TensorForm
from common.signals.values import Signal, join, split

Shape = tuple[int, ...]


class Packing:
    """The float tensors of a signal as one tensor: side by side where shapes allow, else as one vector.

    Vectors and rows of positions are joined in their last dimension, feature maps (C, H, W) in the channels.

    Args:
        form: of the signal, with at least one float tensor.

    Attributes:
        shape: of one example of the packed tensor.
    """

    def __init__(self, form: SignalForm) -> None:
        self._shapes = {name: each.shape for name, each in form.floats.tensors.items()}
        assert self._shapes, form
        shapes = list(self._shapes.values())
        self._axis = _common_axis(shapes)
        # Numbers (B,) become vectors of one number, since M and I take vectors at least.
        self._alone = len(shapes) == 1 and bool(shapes[0])
        if self._alone:
            self.shape = shapes[0]
        elif self._axis is None:
            self.shape = (sum(map(math.prod, shapes)),)
        else:
            self.shape = _joined(shapes, self._axis)

    def pack(self, signal: Signal) -> Tensor:
        """Return the float tensors as one, (B, *shape); a single one as it is, but for numbers (B,)."""
        tensors = [split(signal)[name] for name in self._shapes]
        if self._alone:
            return tensors[0]
        if self._axis is None:
            return torch.cat([tensor.reshape(len(tensor), -1) for tensor in tensors], 1)
        return torch.cat(tensors, self._axis + 1)

    def unpack(self, packed: Tensor) -> Signal:
        """Return the float tensors of a packed tensor: the inverse of `pack`, but for integer tensors."""
        if self._alone:
            return join(dict.fromkeys(self._shapes, packed))
        shapes = self._shapes.values()
        if self._axis is None:
            parts = torch.split(packed, [math.prod(shape) for shape in shapes], 1)
        else:
            parts = torch.split(packed, [shape[self._axis] for shape in shapes], self._axis + 1)
        each = zip(self._shapes.items(), parts, strict=True)
        return join({name: part.reshape(len(part), *shape) for (name, shape), part in each})


class InputPacking:
    """The part of x that I takes: the float tensors packed, or the tokens where x has no floats.

    Raises:
        ConfigError: x has neither.
    """

    def __init__(self, form: SignalForm) -> None:
        tokens = {name: each for name, each in form.tensors.items() if each.vocabulary}
        self._packing = Packing(form) if form.floats.tensors else None
        if self._packing is None and not tokens:
            raise ConfigError(
                f"decoupling.unlock: full predicts from the data's floats or tokens, but its examples are "
                f'{form.describe()}; choose "update"'
            )
        self._tokens = next(iter(tokens), PLAIN)
        self.taken = form.tensors[self._tokens] if self._packing is None else TensorForm(self._packing.shape)

    def pack(self, x: Signal) -> Tensor:
        """Return the tensor that I takes, of B examples in the form `taken`."""
        return split(x)[self._tokens] if self._packing is None else self._packing.pack(x)


def _common_axis(shapes: list[Shape]) -> int | None:
    """Return the only dimension of an example in which the shapes may differ; None: others differ too."""
    dimensions = len(shapes[0])
    if not dimensions:
        return None
    axis = 0 if dimensions == 3 else dimensions - 1
    rests = {(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    return axis if len(rests) == 1 else None


def _joined(shapes: list[Shape], axis: int) -> Shape:
    size = sum(shape[axis] for shape in shapes)
    return (*shapes[0][:axis], size, *shapes[0][axis + 1 :])
