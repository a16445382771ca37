"""The unlock modes: what a layer does with an input, and with a gradient, and what it sends.

Gradients are in the one convention of the design: the loss is the sum over the batch, so each example's row
is its own gradient; the division by B happens where a layer steps, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional

from common.errors import MalformedError
from common.flat import Flat
from common.messages import BoundaryKind
from common.schedule import Stepper
from common.synthesizers import GradientSynthesizer

# Losses and cosines are looked at every so many batches: that costs passes over h, and on a GPU a wait.
LOOK_EVERY = 8


@dataclass(frozen=True, eq=False)
class Message:
    """A boundary message as the trainer sees it; `tensor` is h_k of an ACTIVATION, delta_k of a GRADIENT.

    It is for replica `replica` of `layer`, and from replica `sender` of the neighbouring layer.
    """

    kind: BoundaryKind
    layer: int
    batch: int
    incarnation: int = 0
    tensor: Tensor | None = None
    replica: int = 0
    sender: int = 0


@dataclass
class Health:
    """What a layer knows of its own learning: running means, an example."""

    loss: float = 0.0
    gradient_loss: float = 0.0
    gradient_cosine: float = 0.0

    def note(self, name: str, value: float) -> None:
        """Take a value into a running mean over about the last fifty."""
        old = getattr(self, name)
        setattr(self, name, value if old == 0.0 else old + 0.02 * (value - old))

    def compare(self, synthetic: Tensor, delta: Tensor) -> None:
        """Take what M had said and what came in truth."""
        cosine = functional.cosine_similarity(synthetic.flatten(), delta.flatten(), dim=0)
        self.note("gradient_cosine", float(cosine))


class Layer:
    """One layer's module, stepped; f_k."""

    def __init__(self, k: int, flat: Flat, stepper: Stepper) -> None:
        self.k = k
        self.flat = flat
        self._stepper = stepper

    def forward(self, h_below: Tensor) -> tuple[Tensor, Tensor]:
        """(u, h): the input as a leaf of the graph and the output, (B, ...) each."""
        u = h_below.detach()
        if self.k > 1:
            u.requires_grad_()
        return u, self.flat.module(u)

    def backward(self, h: Tensor, delta: Tensor) -> None:
        """Go back from delta, (B, ...) like h; a first layer without parameters has nowhere to go."""
        if h.requires_grad:
            h.backward(delta)  # type: ignore[no-untyped-call]

    def step(self, batch: int, batch_size: int) -> None:
        """Step on the sum's gradient, divided by B here."""
        self.flat.gradients.mul_(1 / batch_size)
        self._stepper.step(batch)


class Synthesizing(Protocol):
    """M_k, wherever it runs."""

    def gradient(self, batch: int, h: Tensor, y: Tensor) -> Tensor:
        """Delta hat for h_k(b), shaped as it; now."""

    def learn(self, batch: int, h: Tensor, y: Tensor, synthetic: Tensor, delta: Tensor) -> None:
        """Learn from the gradient that came for that h; when is its own affair."""


class Synthesizer:
    """M_k in this process, stepped."""

    def __init__(self, module: GradientSynthesizer, flat: Flat, stepper: Stepper, health: Health) -> None:
        self.module = module
        self.flat = flat
        self._stepper = stepper
        self._health = health
        self._learned = 0

    def gradient(self, batch: int, h: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - served, it is asked by its batch
        """M_k(h_k(b), y), shaped as h."""
        return self.module.gradient(h, y)

    def learn(self, batch: int, h: Tensor, y: Tensor, synthetic: Tensor, delta: Tensor) -> None:
        """One step of M on the gradient that came for the very h that it was computed for."""
        loss = self.module.learn(h, y, delta)
        self._stepper.step(batch)
        if self._learned % LOOK_EVERY == 0:
            self._health.note("gradient_loss", float(loss))
            self._health.compare(synthetic, delta)
        self._learned += 1


class Unlock(Protocol):
    """What a layer does; each method yields what is to be sent as soon as it is known."""

    def forward(self, batch: int, h_below: Tensor, y: Tensor) -> Iterator[Tensor | Message]:
        """Take h_{k-1}(b). Yields h_k(b) as a tensor, unless it is the top; perhaps a GRADIENT for below."""

    def gradient(self, batch: int, delta: Tensor) -> Iterator[Message]:
        """Take delta_k(b) from above."""

    def lost(self, batch: int) -> Iterator[Message]:
        """delta_k(b) will never come."""

    def sent(self) -> dict[int, Tensor]:
        """h_k of the batches whose gradient has not come, oldest first."""

    def waiting(self) -> Collection[int]:
        """Batches that were taken, and that the layer has not stepped on."""


def _checked(delta: Tensor, h: Tensor) -> Tensor:
    """Delta, if it is shaped as its h.

    Raises:
        MalformedError: it is not, and might be broadcast.
    """
    if delta.shape != h.shape:
        raise MalformedError(f"a gradient of {tuple(delta.shape)} came for an h of {tuple(h.shape)}")
    return delta


def _down(layer: Layer, batch: int, u: Tensor) -> Iterator[Message]:
    """delta_{k-1}(b) for the layer below, if there is one."""
    if u.requires_grad:
        assert u.grad is not None
        yield Message(BoundaryKind.GRADIENT, layer.k - 1, batch, tensor=u.grad)


class Top:
    """Layer K steps on the loss's own gradient, whatever the unlock of the others."""

    def __init__(self, layer: Layer, health: Health) -> None:
        self._layer = layer
        self._health = health
        self._seen = 0

    def forward(self, batch: int, h_below: Tensor, y: Tensor) -> Iterator[Tensor | Message]:
        """Take h_{K-1}(b), send the loss's gradient down, step."""
        u, logits = self._layer.forward(h_below)
        loss = functional.cross_entropy(logits, y, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        yield from _down(self._layer, batch, u)
        self._layer.step(batch, len(y))
        if self._seen % LOOK_EVERY == 0:
            self._health.note("loss", float(loss.detach()) / len(y))
        self._seen += 1

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


@dataclass(frozen=True, eq=False)
class _Pair:
    """What M learns from once delta_k(b) comes, and what it had said."""

    h: Tensor
    y: Tensor
    synthetic: Tensor


class UpdateUnlock:
    """`update`: step on M's gradient at once; M learns when the true one comes (Jaderberg et al. 2016)."""

    def __init__(self, layer: Layer, synthesizer: Synthesizing) -> None:
        self._layer = layer
        self._synthesizer = synthesizer
        self._kept: dict[int, _Pair] = {}

    def forward(self, batch: int, h_below: Tensor, y: Tensor) -> Iterator[Tensor | Message]:
        """Take h_{k-1}(b), send h_k(b), step on M_k(h_k(b), y), send that step's delta_{k-1}(b) down."""
        u, h = self._layer.forward(h_below)
        sent = h.detach()
        yield sent
        synthetic = self._synthesizer.gradient(batch, sent, y)
        self._kept[batch] = _Pair(sent, y, synthetic)
        self._layer.backward(h, synthetic)
        yield from _down(self._layer, batch, u)
        self._layer.step(batch, len(y))

    def gradient(self, batch: int, delta: Tensor) -> Iterator[Message]:
        """M learns on delta_k(b) and its own h_k(b); nothing is sent."""
        pair = self._kept.pop(batch)
        self._synthesizer.learn(batch, pair.h, pair.y, pair.synthetic, _checked(delta, pair.h))
        yield from ()

    def lost(self, batch: int) -> Iterator[Message]:
        """M learns nothing from this batch; the layer has stepped long ago."""
        del self._kept[batch]
        yield from ()

    def sent(self) -> dict[int, Tensor]:
        """h_k of the batches whose gradient has not come, oldest first."""
        return {batch: pair.h for batch, pair in self._kept.items()}

    def waiting(self) -> Collection[int]:
        """It steps at once."""
        return ()


class NoUnlock:
    """`none`: back-propagation across slaves, one batch at a time through the network."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._graphs: dict[int, tuple[Tensor, Tensor]] = {}

    def forward(self, batch: int, h_below: Tensor, y: Tensor) -> Iterator[Tensor | Message]:  # noqa: ARG002
        """Take h_{k-1}(b), send h_k(b), and wait."""
        u, h = self._layer.forward(h_below)
        self._graphs[batch] = (u, h)
        yield h.detach()

    def gradient(self, batch: int, delta: Tensor) -> Iterator[Message]:
        """Go backward with delta_k(b), send delta_{k-1}(b) down, step."""
        u, h = self._graphs.pop(batch)
        self._layer.backward(h, _checked(delta, h))
        yield from _down(self._layer, batch, u)
        self._layer.step(batch, len(delta))

    def lost(self, batch: int) -> Iterator[Message]:
        """Nobody below will get a gradient for this batch either."""
        del self._graphs[batch]
        if self._layer.k > 1:
            yield Message(BoundaryKind.LOST, self._layer.k - 1, batch)

    def sent(self) -> dict[int, Tensor]:
        """h_k of the batches whose gradient has not come, oldest first."""
        return {batch: h.detach() for batch, (_, h) in self._graphs.items()}

    def waiting(self) -> Collection[int]:
        """It steps when the gradient comes."""
        return self._graphs
