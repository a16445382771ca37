"""Interfaces of the gradient synthesizer M and the input synthesizer I."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from common.tasks import Task


class GradientSynthesizer(nn.Module, ABC):
    """Gradient synthesizer M_k: (h_k, y) -> delta_k hat, the predicted gradient of L at h_k.

    The state consists of parameters and buffers alone, so one shard holds all of it. h is (B, *shape)
    float32, y (B, ...) the task's targets, and a delta has the shape of h.
    """

    @abstractmethod
    def gradient(self, h: Tensor, y: Tensor) -> Tensor:
        """Predict delta, in the shape of h and without a graph; no state changes.

        Each row is the gradient of its own example's loss (L is the sum over the batch), and depends on no
        other row.
        """

    @abstractmethod
    def learn(self, h: Tensor, y: Tensor, delta: Tensor) -> Tensor:
        """Add the gradient of L_M to the `.grad`s; L_M = (1/B) sum over the batch of ||delta hat - delta||^2.

        Each parameter's `.grad` is added to in place, or created if None. Running statistics move.

        Args:
            h: the very h_k for which `delta` was computed.
            y: targets of h's examples.
            delta: target: the gradient that layer k+1 sent for h.

        Returns:
            L_M before the step, a detached scalar.
        """


class Virtual(GradientSynthesizer):
    """M that is the gradient of a virtual network v, h -> output, which may be a layer's head, too."""

    @abstractmethod
    def supervise(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Train v on the task itself, with h as input: the head of a layer with a local loss.

        Adds the gradient of L / B to the `.grad`s, unless v is frozen.

        Returns:
            The gradient of L at h, shaped as h, and L, a scalar.
        """


class InputSynthesizer(nn.Module, ABC):
    """Input synthesizer I_k: x -> h_{k-1} hat, the predicted input of layer k.

    The state consists of parameters and buffers alone, so one shard holds all of it. x is (B, *input_shape)
    float32, and an h is (B, *shape) float32.
    """

    @abstractmethod
    def predict(self, x: Tensor) -> Tensor:
        """Predict h, (B, *shape) without a graph; no state changes, and rows are independent."""

    @abstractmethod
    def learn(self, x: Tensor, h: Tensor) -> Tensor:
        """Add the gradient of L_I to the `.grad`s; L_I = (1/B) sum over the batch of ||h hat - h||^2.

        Each parameter's `.grad` is added to in place, or created if None. Running statistics move.

        Args:
            x: the batch from which `h` was computed.
            h: target: the h_{k-1} that layer k-1 sent.

        Returns:
            L_I before the step, a detached scalar.
        """


def has_positions(shape: tuple[int, ...], task: Task) -> bool:
    """Return whether an example of h, (T, D), has a row for each position of the task's output, (T, N)."""
    return len(shape) == len(task.output_shape) == 2 and shape[0] == task.output_shape[0]
