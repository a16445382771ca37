"""A layer made faster by `torch.compile`, which fuses passes over memory: `cluster.compile`."""

from __future__ import annotations

import torch

from common.errors import ConfigError
from slave.training.decoupling import Layer


def compile_layer(layer: Layer, shape: tuple[int, ...], device: torch.device | str) -> None:
    """Compile what a layer computes, forward and backward; its state stays as it is.

    Args:
        layer: in training mode.
        shape: of a batch of its input, (B, ...).
        device: where it computes.

    Raises:
        ConfigError: it cannot be compiled here.
    """
    # Not `module.compile()`, which leaves an nn.Sequential as it is. In this process alone: torch's
    # helpers would outlive it for a while.
    layer.function = torch.compile(layer.flat.module, options={"compile_threads": 1})
    try:
        with layer.flat.buffers_kept():
            _, h = layer.forward(0, torch.zeros(shape, device=device))
            layer.backward(h, torch.zeros_like(h))
    except RuntimeError as error:
        # What a backend raised is wrapped.
        inner = getattr(error, "inner_exception", error)
        said = str(inner).strip().splitlines() or [type(inner).__name__]
        raise ConfigError(
            f"cluster.compile: layer {layer.k} cannot be compiled here: {said[0]}; install a C++ compiler "
            "(g++) and Python's headers, or leave this layer out, as in [true, false]"
        ) from error
    layer.flat.clear_gradients()
