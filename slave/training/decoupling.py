"""What the unlock modes are made of: a layer and M, stepped, and what the layer owes its neighbours.

The modes themselves are in `slave.training.unlocks`. Gradients are in the one convention of the design: the
loss is the sum over the batch, so each example's row is its own gradient; the division by B happens where a
layer steps, and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from torch import Tensor
from torch.nn import functional

from common.draws import mix, seeded_torch
from common.errors import MalformedError
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.synthesizers import GradientSynthesizer
from common.wire.boundary import Down, Message, Taken
from slave.training.health import Health


class Layer:
    """One layer's module, stepped; f_k.

    Args:
        k: the layer.
        flat: its module.
        stepper: steps it.
        seed: of the run. What a forward draws (dropout's mask) is a function of (seed, k, b) alone.
        goes_down: whether the layer below is owed delta_{k-1}.

    Attributes:
        function: h_k of h_{k-1}: the module, or the module compiled.
    """

    def __init__(
        self, k: int, flat: Flat, stepper: Stepper, seed: int = 0, *, goes_down: bool = True
    ) -> None:
        self.k = k
        self.flat = flat
        self.function: Callable[[Tensor], Tensor] = flat.module
        self._stepper = stepper
        self._seed = seed
        self._goes_down = goes_down and k > 1

    def forward(self, batch: int, h_below: Tensor) -> tuple[Tensor, Tensor]:
        """(u, h): the input as a leaf of the graph and the output, (B, ...) each."""
        return self._forward(batch, h_below)

    def again(self, batch: int, h_below: Tensor) -> tuple[Tensor, Tensor]:
        """The same for a batch that went forward before: its mask, today's weights; no statistic moves."""
        with self.flat.keep_buffers():
            return self._forward(batch, h_below)

    def _forward(self, batch: int, h_below: Tensor) -> tuple[Tensor, Tensor]:
        u = h_below.detach()
        if self._goes_down:
            u.requires_grad_()
        with seeded_torch(mix(self._seed, self.k, batch), u.device):
            return u, self.function(u)

    def backward(self, h: Tensor, delta: Tensor) -> None:
        """Go back from delta, (B, ...) like h; a first layer without parameters has nowhere to go."""
        if h.requires_grad:
            h.backward(delta)  # type: ignore[no-untyped-call]

    def step(self, batch: int, batch_size: int) -> None:
        """Step on the sum's gradient, divided by B here."""
        self._stepper.step(batch, batch_size)

    def down(self, batch: int, u: Tensor) -> Iterator[Message]:
        """Yield the answer for layer k - 1 after a backward: delta_{k-1}(b), or that there is none."""
        if u.requires_grad:
            assert u.grad is not None
            yield Down(batch, u.grad)
        elif self.k > 1:
            yield Taken(batch)


class Synthesizing(ABC):
    """M_k, wherever it runs; it learns from every `every`-th true gradient."""

    def __init__(self, health: Health, every: int = 1) -> None:
        self._health = health
        self._every = every
        self._came = 0

    @abstractmethod
    def gradient(self, batch: int, h: Tensor, y: Tensor) -> Tensor:
        """Delta hat of h_k(b), shaped as h."""

    @abstractmethod
    def teach(self, batch: int, h: Tensor, y: Tensor, delta: Tensor) -> Tensor | float:
        """One step of M; L_M before it, or the last that is known."""

    def learn(self, batch: int, h: Tensor, y: Tensor, synthetic: Tensor | None, delta: Tensor) -> None:
        """Take the gradient that came for the very h that M is asked for.

        `synthetic` is what M had said there; None: it was not asked.
        """
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
    """M_k in this process, stepped."""

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
        """One step of M; L_M before it."""
        loss = self.module.learn(h, y, delta)
        self._stepper.step(batch)
        return loss


class Predicting(Protocol):
    """I_k, wherever it runs."""

    def predict(self, batch: int, x: Tensor) -> Tensor:
        """Return the predicted h_{k-1} of x_b."""

    def learn(self, batch: int, x: Tensor, h: Tensor) -> None:
        """Learn from h_{k-1} of batch b, as the layer below sent it."""


class Unlock(Protocol):
    """Rule of a layer's steps; each method yields each message as soon as it is known, not yet addressed."""

    def forward(self, batch: int, h_below: Tensor, y: Tensor) -> Iterator[Message]:
        """Take h_{k-1}(b). Yields `Up`, unless it is the top; perhaps the answer for the layer below."""

    def gradient(self, batch: int, delta: Tensor) -> Iterator[Message]:
        """Take delta_k(b) from above."""

    def lost(self, batch: int) -> Iterator[Message]:
        """delta_k(b) will never come: it was lost above, or the layers above have none to give."""

    def sent(self) -> dict[int, Tensor]:
        """h_k of the batches whose gradient has not come, oldest first."""

    def waiting(self) -> Collection[int]:
        """Batches that were taken, and that the layer has not stepped on."""


def checked(delta: Tensor, h: Tensor) -> Tensor:
    """Delta, if it is shaped as its h.

    Raises:
        MalformedError: it is not, and might be broadcast.
    """
    if delta.shape != h.shape:
        raise MalformedError(f"a gradient of {tuple(delta.shape)} came for an h of {tuple(h.shape)}")
    return delta


class Top:
    """Layer K steps on the loss's own gradient, whatever the unlock of the others."""

    def __init__(self, layer: Layer, health: Health) -> None:
        self._layer = layer
        self._health = health

    def forward(self, batch: int, h_below: Tensor, y: Tensor) -> Iterator[Message]:
        """Take h_{K-1}(b), send the loss's gradient down, step."""
        u, logits = self._layer.forward(batch, h_below)
        loss = functional.cross_entropy(logits, y, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        yield from self._layer.down(batch, u)
        self._layer.step(batch, len(y))
        self._health.lost(loss, len(y))

    def gradient(self, batch: int, delta: Tensor) -> Iterator[Message]:  # noqa: ARG002 - never called
        """Nothing is above."""
        raise AssertionError(f"a gradient of batch {batch} came to the top layer")

    def lost(self, batch: int) -> Iterator[Message]:
        """Nothing is above."""
        raise AssertionError(f"batch {batch} was lost above the top layer")

    def sent(self) -> dict[int, Tensor]:
        """Nothing is above."""
        return {}

    def waiting(self) -> Collection[int]:
        """It steps at once."""
        return ()
