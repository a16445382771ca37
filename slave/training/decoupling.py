"""Parts of the unlocks in `slave.training.unlocks`: a layer, M and I with their steppers, and layer K.

The loss is the sum over the batch, so each row of a gradient is an example's own. Only a step divides by B.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

import torch
from torch import Tensor

from common.draws import mix, seeded_torch
from common.errors import MalformedError
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.synthesizers import GradientSynthesizer
from common.tasks import Task
from common.wire.boundary import Down, Message, Taken
from slave.training.health import Health


class Layer:
    """Module of layer k with its optimizer; f_k.

    Args:
        k: the layer.
        flat: the module.
        stepper: optimizer of the module.
        autocast: dtype of matrix products in the forward; None: float32. The output is float32 in any case.
        seed: of the run. Random numbers of a forward (dropout's mask) are a function of (seed, k, b) alone.
        goes_down: whether the layer below receives delta_{k-1}.
        first_unit: number of the layer's first unit in the network, from 1.

    Attributes:
        function: maps h_{k-1} to h_k: the module, or the module compiled.
    """

    def __init__(
        self,
        k: int,
        flat: Flat,
        stepper: Stepper,
        seed: int = 0,
        *,
        goes_down: bool = True,
        autocast: torch.dtype | None = None,
        first_unit: int = 1,
    ) -> None:
        self.k = k
        self.first_unit = first_unit
        self.flat = flat
        self.function: Callable[[Tensor], Tensor] = flat.module
        self._stepper = stepper
        self._seed = seed
        self._autocast = autocast
        self._goes_down = goes_down and k > 1

    def forward(self, batch: int, h_below: Tensor) -> tuple[Tensor, Tensor]:
        """Return (u, h): the input as a leaf of the graph, and the output, both (B, ...)."""
        return self._forward(batch, h_below)

    def forward_again(self, batch: int, h_below: Tensor) -> tuple[Tensor, Tensor]:
        """Repeat the forward of a batch: the mask of the first, the present weights; no statistic moves."""
        with self.flat.keep_buffers():
            return self._forward(batch, h_below)

    def _forward(self, batch: int, h_below: Tensor) -> tuple[Tensor, Tensor]:
        u = h_below.detach()
        if self._goes_down:
            u.requires_grad_()
        with seeded_torch(mix(self._seed, self.k, batch), u.device):
            return u, self._compute(u)

    def _compute(self, u: Tensor) -> Tensor:
        if self._autocast is None:
            return self.function(u)
        with torch.autocast(u.device.type, self._autocast):
            return self.function(u).float()

    def backward(self, h: Tensor, delta: Tensor) -> None:
        """Back-propagate delta, (B, ...) like h; do nothing in a first layer without parameters."""
        if h.requires_grad:
            h.backward(delta)  # type: ignore[no-untyped-call]

    def step(self, batch: int, batch_size: int) -> None:
        """Step on the gradient of the loss's sum, divided by B."""
        self._stepper.step(batch, batch_size)

    def down(self, batch: int, u: Tensor) -> Iterator[Message]:
        """Yield the answer for layer k - 1 after a backward: delta_{k-1}(b), else `Taken`."""
        if u.requires_grad:
            assert u.grad is not None
            yield Down(batch, u.grad)
        elif self.k > 1:
            yield Taken(batch)


class Synthesizing(ABC):
    """M_k, in this process or in the master; learns from every `every`-th true gradient."""

    def __init__(self, health: Health, every: int = 1) -> None:
        self._health = health
        self._every = every
        self._came = 0

    @abstractmethod
    def gradient(self, batch: int, h: Tensor, y: Tensor) -> Tensor:
        """Delta hat of h_k(b), shaped as h."""

    @abstractmethod
    def teach(self, batch: int, h: Tensor, y: Tensor, delta: Tensor) -> Tensor | float:
        """Step M once; return L_M before the step, or the last known L_M."""

    def learn(self, batch: int, h: Tensor, y: Tensor, synthetic: Tensor | None, delta: Tensor) -> None:
        """Learn from the true gradient at h; `synthetic` is M's earlier prediction at h, None without one."""
        self._came += 1
        if (self._came - 1) % self._every:
            return
        looks = self._health.looks("gradient")
        if looks and synthetic is None:
            synthetic = self.gradient(batch, h, y)
        loss = self.teach(batch, h, y, delta)
        if looks and synthetic is not None:
            self._health.learned(loss, synthetic, delta)


class Synthesizer(Synthesizing):
    """M_k in this process, with its optimizer."""

    def __init__(
        self, module: GradientSynthesizer, flat: Flat, stepper: Stepper, health: Health, every: int = 1
    ) -> None:
        super().__init__(health, every)
        self.module = module
        self.flat = flat
        self._stepper = stepper

    def gradient(self, batch: int, h: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - where M is elsewhere
        """Delta hat of h_k(b), shaped as h."""
        return self.module.gradient(h, y)

    def teach(self, batch: int, h: Tensor, y: Tensor, delta: Tensor) -> Tensor:
        """Step M once; return L_M before the step."""
        loss = self.module.learn(h, y, delta)
        self._stepper.step(batch)
        return loss


class Predicting(Protocol):
    """I_k, in this process or in the master."""

    def predict(self, batch: int, x: Tensor) -> Tensor:
        """Return the predicted h_{k-1} of x_b."""

    def learn(self, batch: int, x: Tensor, h: Tensor) -> None:
        """Learn from the h_{k-1} that the layer below computed for the batch."""


class Unlock(Protocol):
    """Rule of a layer's steps; messages come as soon as the tensors are computed, yet without receivers."""

    def forward(self, batch: int, h_below: Tensor, y: Tensor) -> Iterator[Message]:
        """Take h_{k-1}(b); yields `Up` below the top, and perhaps the answer for the layer below."""

    def gradient(self, batch: int, delta: Tensor) -> Iterator[Message]:
        """Take delta_k(b) from above."""

    def lost(self, batch: int) -> Iterator[Message]:
        """Give up waiting for delta_k(b), which was lost above or never computed."""

    def sent(self) -> dict[int, Tensor]:
        """Return h_k of the batches without an answer, oldest first."""

    def waiting(self) -> Collection[int]:
        """Return the batches taken without a step."""


def check_gradient(delta: Tensor, h: Tensor) -> Tensor:
    """Return delta after a check of its shape.

    Raises:
        MalformedError: the shape is not that of h, and torch might broadcast delta.
    """
    if delta.shape != h.shape:
        raise MalformedError(f"a gradient of {tuple(delta.shape)} came for an h of {tuple(h.shape)}")
    return delta


class Top:
    """Unlock of layer K, which steps on the gradient of the loss under every unlock below."""

    def __init__(self, layer: Layer, health: Health, task: Task) -> None:
        self._layer = layer
        self._health = health
        self._task = task

    def forward(self, batch: int, h_below: Tensor, y: Tensor) -> Iterator[Message]:
        """Take h_{K-1}(b), send delta_{K-1}(b) down, and step."""
        u, output = self._layer.forward(batch, h_below)
        loss = self._task.total(output, y)
        loss.backward()  # type: ignore[no-untyped-call]
        yield from self._layer.down(batch, u)
        self._layer.step(batch, len(y))
        self._health.lost(loss, len(y))

    def gradient(self, batch: int, delta: Tensor) -> Iterator[Message]:  # noqa: ARG002 - never called
        """Raise: no layer above sends a gradient."""
        raise AssertionError(f"a gradient of batch {batch} came to the top layer")

    def lost(self, batch: int) -> Iterator[Message]:
        """Raise: no layer above loses a batch."""
        raise AssertionError(f"batch {batch} was lost above the top layer")

    def sent(self) -> dict[int, Tensor]:
        """Return no batch: no answer comes from above."""
        return {}

    def waiting(self) -> Collection[int]:
        """Return no batch: layer K steps at once."""
        return ()
