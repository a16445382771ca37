"""What every synthesizer promises to the layer that steps on what it makes up."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class GradientSynthesizer(nn.Module, ABC):
    """M_k: (h_k, y) -> delta_k hat, the gradient of the loss in layer k's output, made up at once.

    Its state is its parameters and buffers alone, so that a shard holds all of it. h is (B, *shape) float32,
    y (B,) int64, and a delta is shaped as h.
    """

    @abstractmethod
    def gradient(self, h: Tensor, y: Tensor) -> Tensor:
        """Delta hat, shaped as h and without a graph; no state changes.

        Each row is the gradient of its own example's loss (the loss summed over the batch), and depends on no
        other row.
        """

    @abstractmethod
    def learn(self, h: Tensor, y: Tensor, delta: Tensor) -> Tensor:
        """Add the gradient of L_M = (1/B) sum over the batch of ||delta hat - delta||^2 to the `.grad`s.

        Each parameter's `.grad` is added to in place, and made where there is none. Running statistics move.

        Args:
            h: the very h_k that `delta` was computed for.
            y: its labels.
            delta: the target, the gradient that layer k+1 sent for this h.

        Returns:
            L_M before the step, a detached scalar.
        """


class InputSynthesizer(nn.Module, ABC):
    """I_k: x -> h_{k-1} hat, the input of layer k, made up at once.

    Its state is its parameters and buffers alone, so that a shard holds all of it. x is (B, *input_shape)
    float32, and an h is (B, *shape) float32.
    """

    @abstractmethod
    def predict(self, x: Tensor) -> Tensor:
        """H hat, (B, *shape) without a graph; no state changes, and each row depends on its own x alone."""

    @abstractmethod
    def learn(self, x: Tensor, h: Tensor) -> Tensor:
        """Add the gradient of L_I = (1/B) sum over the batch of ||h hat - h||^2 to the `.grad`s.

        Each parameter's `.grad` is added to in place, and made where there is none. Running statistics move.

        Args:
            x: the batch that `h` was computed from.
            h: the target, h_{k-1} that layer k-1 sent.

        Returns:
            L_I before the step, a detached scalar.
        """
