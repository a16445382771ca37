"""`local`: a head and a loss for every layer (Belilovsky et al. 2020; the control of Miyato et al. 2017)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from common.errors import MalformedError
from common.optim.lessons import step_in_parts
from common.optim.stepper import Stepper
from common.signals.packing import Packing
from common.signals.values import Signal, map_tensors
from common.synthesizers import Virtual, draw_seed, seeded
from common.wire.boundary import Message, Up
from slave.training.health import Health
from slave.training.layer import Layer
from slave.training.parts import Parts


class Head:
    """Head v_k with its optimizer: h_k -> logits, a network like VFBN's v, trained on a loss of its own.

    The float tensors of h_k are packed into one.

    Args:
        module: the head.
        stepper: of the head.
        health: record of the head's loss.
        packing: of h_k.
        steps: number of the head's steps on a batch, each on a part of the examples.
        seed: of the draws of a user's v.
    """

    def __init__(
        self,
        module: Virtual,
        stepper: Stepper,
        health: Health,
        packing: Packing,
        steps: int = 1,
        seed: int = 0,
    ) -> None:
        self._steps = steps
        self._seed = seed
        self._module = module
        self._packing = packing
        self._stepper = stepper
        self._health = health

    def step(self, batch: int, h: Signal, y: Tensor) -> Signal:
        """Return the gradient of the head's loss at h, in the form of h's floats; the head steps too.

        Each part of the batch has the gradient of the head before the part's step.
        """
        packed = self._packing.pack(h)
        with seeded(self._module, self._seed, batch, packed.device):
            parts = step_in_parts(self._stepper, batch, self._steps, packed, y)
            deltas, losses = zip(*(self._module.supervise(*part) for part in parts), strict=True)
        self._health.lost(torch.stack(losses).sum(), len(y))
        return self._packing.unpack(torch.cat(deltas))


class LocalUnlock:
    """Unlock `local`: step on the gradient of the head's loss at once; no gradients cross boundaries.

    Args:
        layer: the layer to step.
        head: the head; None: losses of the layer's own units take its place.
    """

    def __init__(self, layer: Layer, head: Head | None) -> None:
        self._layer = layer
        self._head = head
        self._sent: dict[int, Signal] = {}

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:
        """Take h_{k-1}(b), send h_k(b), step, and confirm the batch to the layer below as taken."""
        passed = self._layer.forward(batch, h_below, y)
        self._sent[batch] = map_tensors(Tensor.detach, passed.h)
        yield Up(batch, self._sent[batch])
        if self._head is None:
            self._layer.backward_own(passed)
        else:
            self._layer.backward(passed, self._head.step(batch, self._sent[batch], y))
        yield from self._layer.down(passed)
        self._layer.step(batch, len(y))

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:  # noqa: ARG002 - never called
        """Refuse a gradient: the sender has a different configuration.

        Raises:
            MalformedError: always.
        """
        raise MalformedError(f"a gradient of batch {batch} came, but with unlock local layers send none")

    def lost(self, batch: int) -> Iterator[Message]:
        """Forget a batch taken or lost above, after the layer's step."""
        del self._sent[batch]
        yield from ()

    def sent(self) -> dict[int, Signal]:
        """Return h_k of the batches without an answer, oldest first."""
        return dict(self._sent)

    def waiting(self) -> Collection[int]:
        """Return no batch: the layer steps at once."""
        return ()


def build(parts: Parts) -> LocalUnlock:
    """Build the unlock of a layer below the top, with a head unless the layer's units have losses."""
    if parts.layer.supervised:
        return LocalUnlock(parts.layer, None)
    seed = draw_seed(parts.config, parts.layer.k)
    steps = parts.config.lesson_steps
    head = Head(*parts.make_head(), parts.health, Packing(parts.above), steps, seed)
    return LocalUnlock(parts.layer, head)
