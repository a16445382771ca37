"""Parts of the unlocks in `slave.training.unlocks`: M and I with their steppers.

The loss is the sum over the batch, so each row of a gradient is an example's own. Only a step divides by B.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from common.errors import MalformedError
from common.optim.lessons import teach
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.signals.forms import SignalForm
from common.signals.packing import InputPacking, Packing
from common.signals.values import Signal, arrange, count, floats, form_of, split
from common.synthesizers import GradientSynthesizer, PropagatingRegression, seeded
from common.wire.boundary import Message
from slave.training.health import Health


class Synthesizing(Protocol):
    """M_k, seen from an unlock: h and delta are signals of B examples, y the targets, (B, ...)."""

    def gradient(self, batch: int, h: Signal, y: Tensor) -> Signal:
        """Delta hat of h_k(b), in the form of h's floats."""

    def learn(self, batch: int, h: Signal, y: Tensor, synthetic: Signal | None, delta: Signal) -> None:
        """Learn from the true gradient at h; `synthetic` is M's earlier prediction at h, None without one."""


class Propagating(Synthesizing, Protocol):
    """M_k whose loss has a gradient in h that the layer takes, too."""

    def propagate(self, h: Signal, y: Tensor, delta: Signal) -> Signal:
        """Delta hat of h plus alpha times the gradient of L_M in h, in the form of h's floats."""


class PackedSynthesizer:
    """M_k of a signal: the float tensors are packed into one, (B, ...).

    Args:
        synthesizer: maps the packed tensor.
        packing: of h_k.
    """

    def __init__(self, synthesizer: TensorSynthesizer, packing: Packing) -> None:
        self._synthesizer = synthesizer
        self._packing = packing

    def gradient(self, batch: int, h: Signal, y: Tensor) -> Signal:
        """Delta hat of h_k(b), in the form of h's floats."""
        return self._packing.unpack(self._synthesizer.gradient(batch, self._packing.pack(h), y))

    def learn(self, batch: int, h: Signal, y: Tensor, synthetic: Signal | None, delta: Signal) -> None:
        """Learn from the true gradient at h."""
        pack = self._packing.pack
        predicted = None if synthetic is None else pack(synthetic)
        self._synthesizer.learn(batch, pack(h), y, predicted, pack(delta))

    def propagate(self, h: Signal, y: Tensor, delta: Signal) -> Signal:
        """Delta hat of h plus alpha times the gradient of L_M in h, in the form of h's floats."""
        assert isinstance(self._synthesizer, Synthesizer)
        module, pack = self._synthesizer.module, self._packing.pack
        assert isinstance(module, PropagatingRegression)
        return self._packing.unpack(module.propagate(pack(h), y, pack(delta)))


class TensorSynthesizer(ABC):
    """M_k of one tensor, in this process or in the master; learns from every `every`-th true gradient.

    Shapes: h and delta (B, ...), alike; y (B, ...); a loss is a scalar.
    """

    def __init__(self, health: Health, every: int = 1) -> None:
        self._health = health
        self._every = every
        self._came = 0

    @abstractmethod
    def gradient(self, batch: int, h: Tensor, y: Tensor) -> Tensor:
        """Delta hat of h_k(b), shaped as h."""

    @abstractmethod
    def teach(self, batch: int, h: Tensor, y: Tensor, delta: Tensor) -> Tensor | float:
        """Have M learn from a batch; return L_M before that, or the last known L_M."""

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


class Synthesizer(TensorSynthesizer):
    """M_k in this process, with its optimizer.

    Args:
        module: M.
        flat: of M's parameters.
        stepper: of M.
        health: record of M's quality.
        every: M learns on every `every`-th true gradient.
        steps: number of M's steps on a batch, each on a part of the examples.
        seed: of the draws of a user's v.
    """

    def __init__(
        self,
        module: GradientSynthesizer,
        flat: Flat,
        stepper: Stepper,
        health: Health,
        every: int = 1,
        steps: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(health, every)
        self._steps = steps
        self._seed = seed
        self.module = module
        self.flat = flat
        self._stepper = stepper

    def gradient(self, batch: int, h: Tensor, y: Tensor) -> Tensor:
        """Delta hat of h_k(b), shaped as h."""
        with seeded(self.module, self._seed, batch, h.device):
            return self.module.gradient(h, y)

    def teach(self, batch: int, h: Tensor, y: Tensor, delta: Tensor) -> Tensor:
        """Step M on the parts of the batch; return the mean L_M of the examples, each before its step."""
        with seeded(self.module, self._seed, batch, h.device):
            return teach(self.module.learn, self._stepper, batch, self._steps, h, y, delta)


class Predicting(Protocol):
    """I_k, seen from an unlock."""

    def predict(self, batch: int, x: Signal) -> Signal:
        """Return the predicted h_{k-1} of x_b."""

    def learn(self, batch: int, x: Signal, h: Signal) -> None:
        """Learn from the h_{k-1} that the layer below computed for the batch."""


class TensorPredictor(Protocol):
    """I_k of one tensor, in this process or in the master: x (B, ...), h (B, ...)."""

    def predict(self, batch: int, x: Tensor) -> Tensor:
        """Return the predicted h_{k-1} of x_b."""

    def learn(self, batch: int, x: Tensor, h: Tensor) -> None:
        """Learn from the h_{k-1} that the layer below computed for the batch."""


class PackedPredictor:
    """I_k of signals: floats are predicted, packed into one tensor; integer tensors are those of x.

    Args:
        predictor: predicts the packed tensor.
        inputs: form of x.
        below: form of h_{k-1}.
    """

    def __init__(self, predictor: TensorPredictor, inputs: SignalForm, below: SignalForm) -> None:
        self._predictor = predictor
        self._taken = InputPacking(inputs)
        self._packing = Packing(below)
        self._below = below

    def predict(self, batch: int, x: Signal) -> Signal:
        """Return the predicted h_{k-1} of x_b."""
        predicted = self._packing.unpack(self._predictor.predict(batch, self._taken.pack(x)))
        integers = {name: split(x)[name] for name, form in self._below.tensors.items() if not form.floating}
        return arrange(split(predicted) | integers, self._below)

    def learn(self, batch: int, x: Signal, h: Signal) -> None:
        """Learn from the h_{k-1} that the layer below computed for the batch."""
        self._predictor.learn(batch, self._taken.pack(x), self._packing.pack(h))


class Unlock(Protocol):
    """Rule of a layer's steps; messages come as soon as the tensors are computed, yet without receivers."""

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:
        """Take h_{k-1}(b), and the targets y, (B, ...); yields `Up` below the top.

        The answer for the layer below may follow at once.
        """

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:
        """Take delta_k(b) from above."""

    def lost(self, batch: int) -> Iterator[Message]:
        """Give up waiting for delta_k(b), which was lost above or never computed."""

    def sent(self) -> Mapping[int, Signal]:
        """Return h_k of the batches without an answer, oldest first."""

    def waiting(self) -> Collection[int]:
        """Return the batches taken without a step."""


@runtime_checkable
class Hearing(Protocol):
    """Unlock of a layer that may learn of dL/dp from layer K itself, before the answer from above."""

    def hear(self, batch: int, error: Signal) -> Iterator[Message]:
        """Take dL/dp of a batch that `waiting` has; the answer from above is still to come."""


def check_gradient(delta: Signal, h: Signal) -> Signal:
    """Return delta after a check of its form.

    Raises:
        MalformedError: not the form of h's floats, and torch might broadcast delta.
    """
    came, due = form_of(delta), form_of(floats(h))
    if came != due or count(delta) != count(h):
        raise MalformedError(
            f"a gradient of {count(delta)} examples {came.describe()} came for an h of {count(h)} "
            f"{due.describe()}"
        )
    return delta
