"""`local`: each layer has a head and a loss of its own (Belilovsky et al. 2020; Miyato et al.'s control)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import Tensor

from common.errors import MalformedError
from common.optim.stepper import Stepper
from common.synthesizers import VirtualForward
from common.wire.boundary import Message, Up
from slave.training.decoupling import Layer
from slave.training.health import Health
from slave.training.parts import Parts


class Head:
    """v_k, stepped: h_k -> logits, a network like VFBN's v, trained on its own loss with the labels."""

    def __init__(self, module: VirtualForward, stepper: Stepper, health: Health) -> None:
        self._module = module
        self._stepper = stepper
        self._health = health

    def step(self, batch: int, h: Tensor, y: Tensor) -> Tensor:
        """The gradient of the loss of v(h) at h, shaped as h; v takes one step on the same loss."""
        delta, loss = self._module.supervise(h, y)
        self._stepper.step(batch)
        self._health.lost(loss, len(y))
        return delta


class LocalUnlock:
    """`local`: step on the gradient of the head's loss at once; none comes from above, and none goes down."""

    def __init__(self, layer: Layer, head: Head) -> None:
        self._layer = layer
        self._head = head
        self._sent: dict[int, Tensor] = {}

    def forward(self, batch: int, h_below: Tensor, y: Tensor) -> Iterator[Message]:
        """Take h_{k-1}(b), send h_k(b), step; the layer below is told that its batch was taken."""
        u, h = self._layer.forward(batch, h_below)
        self._sent[batch] = h.detach()
        yield Up(batch, self._sent[batch])
        self._layer.backward(h, self._head.step(batch, self._sent[batch], y))
        yield from self._layer.down(batch, u)
        self._layer.step(batch, len(y))

    def gradient(self, batch: int, delta: Tensor) -> Iterator[Message]:  # noqa: ARG002 - none comes
        """The layers above have none to give: another configuration than this slave's.

        Raises:
            MalformedError: always.
        """
        raise MalformedError(f"a gradient of batch {batch} came where every layer has a loss of its own")

    def lost(self, batch: int) -> Iterator[Message]:
        """It was taken above, or was lost there: the layer has stepped long ago."""
        del self._sent[batch]
        yield from ()

    def sent(self) -> dict[int, Tensor]:
        """h_k of the batches that are not answered, oldest first."""
        return dict(self._sent)

    def waiting(self) -> Collection[int]:
        """It steps at once."""
        return ()


def build(parts: Parts) -> LocalUnlock:
    """Build the unlock of a layer below the top, with a head."""
    return LocalUnlock(parts.layer, Head(*parts.make_head(), parts.health))
