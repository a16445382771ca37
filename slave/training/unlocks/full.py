"""`full`: wait neither for the gradient nor for the input (complete unlock; Jaderberg et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.signals.values import Signal, floats, map_tensors, plain
from common.synthesizers import InputSynthesizer
from common.tasks import Task
from common.wire.boundary import Down, Message, Up
from slave.training.decoupling import Predicting, Synthesizing
from slave.training.fixed import unwanted_gradient
from slave.training.health import Health
from slave.training.layer import Layer
from slave.training.parts import Parts
from slave.training.scores import Scores


class Predictor:
    """I_k in this process, with an optimizer: x (B, ...), h (B, ...)."""

    def __init__(self, module: InputSynthesizer, flat: Flat, stepper: Stepper, health: Health) -> None:
        self.flat = flat
        self._module = module
        self._stepper = stepper
        self._health = health

    def predict(self, batch: int, x: Tensor) -> Tensor:  # noqa: ARG002 - for the master's I
        """Predict h_{k-1} of x_b."""
        return self._module.predict(x)

    def learn(self, batch: int, x: Tensor, h: Tensor) -> None:
        """Step I once on the h_{k-1} that the layer below computed for the batch."""
        loss = self._module.learn(x, h)
        self._stepper.step(batch)
        self._health.learned_input(loss)


class FullUnlock:
    """Unlock `full`: step on the predicted input u = I_k(x_b) and on M_k(h_k, y_b); learn from every message.

    The layer above computes a gradient at a predicted input u, so M learns at u, not at the h_k sent up. No
    batch is kept.

    Args:
        layer: the layer to step.
        health: record of the layer's learning.
        task: of the run.
        synthesizer: M; None for the top layer, which has the gradient of the loss, and for a layer without a
            use for a gradient.
        predictor: I; None for the first layer, whose input is x.
        steps_on: whether the layer steps on the synthetic gradient of a batch.
        top: whether the layer is K.
        scores: of layer K, as of `Top`.
    """

    def __init__(
        self,
        layer: Layer,
        health: Health,
        task: Task,
        synthesizer: Synthesizing | None,
        predictor: Predicting | None,
        steps_on: Callable[[int], bool],
        *,
        top: bool = False,
        scores: Scores | None = None,
    ) -> None:
        self._layer = layer
        self._scores = scores
        self._top = top
        self._health = health
        self._task = task
        self._synthesizer = synthesizer
        self._predictor = predictor
        self._steps_on = steps_on

    def step(self, batch: int, x: Signal, y: Tensor) -> Iterator[Message]:
        """Step on batch b; yield h_k(b) for the layer above, and u with the gradient for the layer below."""
        predicted = x if self._predictor is None else self._predictor.predict(batch, x)
        passed = self._layer.forward(batch, predicted, y)
        if self._top:
            loss = self._task.total(plain(passed.h), y)
            self._layer.backward_loss(passed, loss)
            self._health.lost(loss, len(y))
            if self._scores is not None:
                self._scores.note(batch, plain(passed.h).detach(), y)
        else:
            sent = map_tensors(Tensor.detach, passed.h)
            yield Up(batch, sent)
            if self._synthesizer is not None:
                self._layer.backward(passed, self._synthesizer.gradient(batch, sent, y))
        for answer in self._layer.down(passed):
            yield replace(answer, u=floats(predicted)) if isinstance(answer, Down) else answer
        if self._synthesizer is None or self._steps_on(batch):
            self._layer.step(batch, len(y))
        else:
            self._layer.flat.clear_gradients()

    def learn_gradient(self, batch: int, u: Signal, y: Tensor, delta: Signal) -> None:
        """Train M on the gradient at the input that the layer above had predicted for the batch.

        Raises:
            MalformedError: the layer has no M, so the sender has a different network.
        """
        if self._synthesizer is None:
            raise unwanted_gradient(self._layer.k, batch)
        self._synthesizer.learn(batch, u, y, None, delta)

    def learn_input(self, batch: int, x: Signal, h: Signal) -> None:
        """Train I on the activation that the layer below computed for the batch."""
        assert self._predictor is not None
        self._predictor.learn(batch, x, h)


def build(parts: Parts) -> FullUnlock:
    """Build the unlock of any layer: M but for the top and fixed layers, I but for the first."""
    synthesizer = parts.make_synthesizer() if parts.wants_gradient and not parts.top else None
    predictor = parts.make_predictor() if parts.layer.k > 1 else None
    return FullUnlock(
        parts.layer,
        parts.health,
        parts.task,
        synthesizer,
        predictor,
        parts.steps_on,
        top=parts.top,
        scores=parts.scores,
    )
