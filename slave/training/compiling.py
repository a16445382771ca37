"""`cluster.compile`: speed a layer up with `torch.compile`, which fuses passes over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import ConfigError
from common.signals.values import Signal, split
from slave.training.layer import Layer


def compile_layer(layer: Layer, h_below: Signal, y: Tensor | None = None) -> None:
    """Compile a layer's forward and backward; its state does not change.

    Args:
        layer: the layer, in training mode.
        h_below: a batch of its input, (B, ...), on its device.
        y: targets of the batch, (B, ...), likewise, where a unit has a loss of its own.

    Raises:
        ConfigError: the layer cannot be compiled on this machine.
    """
    # Not `module.compile()`, which leaves an nn.Sequential uncompiled. One thread, to stay in this process:
    # torch's compile workers would outlive it for a while.
    layer.function = torch.compile(layer.function, options={"compile_threads": 1})
    before = layer.carried.zeros if layer.carried else None
    try:
        passed = layer.forward_again(0, h_below, before, y)
        after = [] if passed.after is None else [passed.after]
        ends = [*split(passed.h).values(), *after, *passed.losses]
        learned = [each for each in ends if each.requires_grad]
        # Not `layer.backward`, which would teach M in time.
        torch.autograd.backward(learned, [torch.zeros_like(each) for each in learned])
    except RuntimeError as error:
        # torch wraps the backend's error.
        inner = getattr(error, "inner_exception", error)
        lines = str(inner).strip().splitlines() or [type(inner).__name__]
        raise ConfigError(
            f"cluster.compile: layer {layer.k} cannot be compiled here: {lines[0]}; install a C++ compiler "
            "(g++) and Python's headers, or exclude this layer, as in [true, false]"
        ) from error
    layer.flat.clear_gradients()
