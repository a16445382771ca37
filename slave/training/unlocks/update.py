"""`update`: no wait for the gradient (DNI; Jaderberg et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from torch import Tensor

from common.signals.values import Signal, count, map_tensors
from common.wire.boundary import Message, Up
from slave.training.decoupling import Synthesizing, check_gradient
from slave.training.health import Health
from slave.training.layer import Forward, Layer
from slave.training.parts import Parts
from slave.training.propagating import PropagatingUnlock
from slave.training.unlocks.delayed import Late


@dataclass(frozen=True, eq=False)
class _Pair:
    """Activation and labels for M's lesson, kept until delta_k(b) comes."""

    h: Signal
    y: Tensor


class UpdateUnlock:
    """Unlock `update`: step on M's gradient at once; M learns when the true gradient comes.

    Args:
        layer: the layer to step.
        synthesizer: M.
        health: judge of M's gradients; while they are too poor, the layer waits for true ones.
        steps_on: whether the layer steps on the synthetic gradient of a batch; M learns regardless.
        mix_true: step on a batch only when the next batch arrives, on the true gradient if here by then,
            else on M's.
    """

    def __init__(
        self,
        layer: Layer,
        synthesizer: Synthesizing,
        health: Health,
        steps_on: Callable[[int], bool] = lambda _: True,
        *,
        mix_true: bool = False,
    ) -> None:
        self._layer = layer
        self._synthesizer = synthesizer
        self._health = health
        self._steps_on = steps_on
        self._mix_true = mix_true
        self._late = Late(layer)
        self._pairs: dict[int, _Pair] = {}
        self._synthetic: dict[int, Signal] = {}
        self._pending: Forward | None = None

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:
        """Take h_{k-1}(b), send h_k(b); step on M_k(h_k(b), y), and send the step's delta_{k-1}(b) down."""
        yield from self._step_pending()
        if self._health.fallback:
            h = self._late.forward(batch, h_below, y)
        else:
            self._pending = self._layer.forward(batch, h_below, y)
            h = self._pending.h
        self._pairs[batch] = _Pair(map_tensors(Tensor.detach, h), y)
        yield Up(batch, self._pairs[batch].h)
        if not self._mix_true:
            yield from self._step_pending()

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:
        """Train M on delta_k(b) and the kept h_k(b); step too if the layer has not stepped on the batch.

        Raises:
            MalformedError: delta is not in the form of h's floats.
        """
        pair = self._pairs.pop(batch)
        check_gradient(delta, pair.h)
        if self._pending is not None and self._pending.batch == batch:
            yield from self._back(delta, steps=True)
        elif batch in self._late.waiting():
            yield from self._late.step(batch, pair.h, delta)
        self._synthesizer.learn(batch, pair.h, pair.y, self._synthetic.pop(batch, None), delta)

    def lost(self, batch: int) -> Iterator[Message]:
        """Forget a lost batch, from which M cannot learn."""
        if self._pending is not None and self._pending.batch == batch:
            yield from self._step_pending()
        if batch in self._late.waiting():
            yield from self._late.lose(batch)
        self._synthetic.pop(batch, None)
        del self._pairs[batch]

    def sent(self) -> dict[int, Signal]:
        """Return h_k of the batches without a gradient, oldest first."""
        return {batch: pair.h for batch, pair in self._pairs.items()}

    def waiting(self) -> Collection[int]:
        """Return the batches that the layer has not stepped on, for want of a gradient."""
        pending = set() if self._pending is None else {self._pending.batch}
        return pending | set(self._late.waiting())

    def _step_pending(self) -> Iterator[Message]:
        """Step on M's gradient of the pending batch, whose true gradient has not come in time."""
        if self._pending is not None:
            batch = self._pending.batch
            pair = self._pairs[batch]
            self._synthetic[batch] = self._synthesizer.gradient(batch, pair.h, pair.y)
            yield from self._back(self._synthetic[batch], steps=self._steps_on(batch))

    def _back(self, delta: Signal, *, steps: bool) -> Iterator[Message]:
        passed, self._pending = self._pending, None
        assert passed is not None
        self._layer.backward(passed, delta)
        yield from self._layer.down(passed)
        if steps:
            self._layer.step(passed.batch, count(delta))
        else:
            self._layer.flat.clear_gradients()


def build(parts: Parts) -> UpdateUnlock | PropagatingUnlock:
    """Build the unlock of a layer below the top, with M."""
    decoupling, synthesizer = parts.config.decoupling, parts.make_synthesizer()
    if decoupling.propagates:
        return PropagatingUnlock(parts.layer, synthesizer)
    return UpdateUnlock(parts.layer, synthesizer, parts.health, parts.steps_on, mix_true=decoupling.mix_true)
