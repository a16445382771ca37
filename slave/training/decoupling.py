"""Parts of the unlocks in `slave.training.unlocks`: a layer, and M and I with their steppers.

The loss is the sum over the batch, so each row of a gradient is an example's own. Only a step divides by B.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from common.draws import mix, seeded_torch
from common.errors import MalformedError
from common.models.recurrent import States, pass_on, pass_on_in_two
from common.optim.stepper import UNCHANGED, Adjustment, Stepper
from common.shards.flat import Flat
from common.signals.forms import SignalForm
from common.signals.packing import InputPacking, Packing
from common.signals.values import (
    Signal,
    arrange,
    count,
    floats,
    form_of,
    map_floats,
    map_tensors,
    offer,
    split,
)
from common.synthesizers import GradientSynthesizer
from common.wire.boundary import Down, Message, Taken
from slave.training.carried import Carried
from slave.training.future import Future
from slave.training.health import Health


class Forward(NamedTuple):
    """A forward pass of B examples.

    Attributes:
        batch: b.
        u: input, whose floats are leaves of the graph.
        h: output.
        before: state of a recurrent layer at the window's start, (B, S); None of other layers.
        after: state at the window's end, likewise.
        early: state from which the auxiliary head of M in time predicts; None: `before`.
    """

    batch: int
    u: Signal
    h: Signal
    before: Tensor | None = None
    after: Tensor | None = None
    early: Tensor | None = None


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
        carried: states of the streams that the layer carries from window to window; None: it has no state.
        future: M in time, which ends the windows; None: truncated back-propagation.

    Attributes:
        function: maps h_{k-1} to h_k: the module, or the module compiled. With a state, maps h_{k-1} and the
            state before to h_k and the state after.
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
        carried: Carried | None = None,
        future: Future | None = None,
    ) -> None:
        self.k = k
        self.first_unit = first_unit
        self.flat = flat
        self.carried = carried
        self.future = future
        self.function: Callable[..., Any] = flat.module
        if carried is not None:
            units = list(flat.module.children())
            early = future.early if future else 0
            self.function = partial(pass_on_in_two, units, early) if early else partial(pass_on, units)
        self._stepper = stepper
        self._seed = seed
        self._autocast = autocast
        self._goes_down = goes_down and k > 1

    @property
    def steps(self) -> int:
        """Number of steps that the layer has taken."""
        return self._stepper.steps

    def forward(self, batch: int, h_below: Signal) -> Forward:
        """Pass a batch through the layer; the state of its streams moves on."""
        before = self.carried.take(batch) if self.carried else None
        passed = self._forward(batch, h_below, before)
        if self.carried and passed.after is not None:
            self.carried.put(batch, passed.after)
        return passed

    def forward_again(self, batch: int, h_below: Signal, before: Tensor | None = None) -> Forward:
        """Repeat the forward of a batch: the mask of the first, the present weights; nothing moves.

        Args:
            batch: b.
            h_below: the input of the first forward.
            before: the state at the start of the first forward.
        """
        with self.flat.keep_buffers():
            return self._forward(batch, h_below, before)

    def _forward(self, batch: int, h_below: Signal, before: Tensor | None) -> Forward:
        u = map_tensors(Tensor.detach, h_below)
        if self._goes_down:
            map_floats(Tensor.requires_grad_, u)
        if self.future is not None and before is not None:
            before = before.detach().requires_grad_()
        with seeded_torch(mix(self._seed, self.k, batch), _device_of(u)):
            h, *states = self._compute(offer(u), before)
        early, after = [None] * (2 - len(states)) + states
        return Forward(batch, u, map_tensors(self._part_from_weights, h), before, after, early)

    def _part_from_weights(self, h: Tensor) -> Tensor:
        # A weight passed on, such as an embedding of places for every example, would change with the step
        # before M learns at h.
        shared = h.untyped_storage().data_ptr() == self.flat.buffer.untyped_storage().data_ptr()
        return h.clone() if shared else h

    def _compute(self, u: Signal, before: Tensor | None) -> tuple[Any, ...]:
        """Return h; of a recurrent layer also the early state, if any, and the state after; all float32."""
        if self._autocast is None:
            return self._call(u, before)
        with torch.autocast(_device_of(u).type, self._autocast):
            return tuple(map_floats(Tensor.float, each) for each in self._call(u, before))

    def _call(self, u: Signal, before: Tensor | None) -> tuple[Any, ...]:
        if before is None:
            return (self.function(u),)
        h, *states = self.function(u, before)
        return h, *map(self._part_from_weights, states)

    def backward(self, passed: Forward, delta: Signal) -> None:
        """Back-propagate delta, in the form of h's floats; do nothing in a first layer without parameters."""
        deltas = split(delta)
        learned = {name: each for name, each in split(passed.h).items() if each.requires_grad}
        self._end(passed, list(learned.values()), [deltas[name] for name in learned])

    def backward_loss(self, passed: Forward, loss: Tensor) -> None:
        """Back-propagate the loss of layer K, the sum over the batch."""
        self._end(passed, [loss], [None])

    def _end(self, passed: Forward, ends: Sequence[Tensor], deltas: Sequence[Tensor | None]) -> None:
        """Back-propagate from the output, and from the state at the window's end if there is M in time."""
        if self.future is not None and passed.before is not None and passed.after is not None:
            states = States(passed.before, passed.after)
            early = passed.before if passed.early is None else passed.early
            self.future.backward(passed.batch, states, early, ends, deltas)
        elif ends:
            torch.autograd.backward(ends, deltas)

    def step(self, batch: int, batch_size: int, adjustment: Adjustment = UNCHANGED) -> None:
        """Step on the gradient of the loss's sum, divided by B."""
        self._stepper.step(batch, batch_size, adjustment)

    def down(self, passed: Forward) -> Iterator[Message]:
        """Yield the answer for layer k - 1 after a backward: delta_{k-1}(b), else `Taken`."""
        if self._goes_down:
            yield Down(passed.batch, map_tensors(_gradient_of, floats(passed.u)))
        elif self.k > 1:
            yield Taken(passed.batch)


def _device_of(signal: Signal) -> torch.device:
    return next(iter(split(signal).values())).device


def _gradient_of(tensor: Tensor) -> Tensor:
    # A layer may have no use for a tensor of a dict.
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


class Synthesizing(Protocol):
    """M_k, seen from an unlock."""

    def gradient(self, batch: int, h: Signal, y: Tensor) -> Signal:
        """Delta hat of h_k(b), in the form of h's floats."""

    def learn(self, batch: int, h: Signal, y: Tensor, synthetic: Signal | None, delta: Signal) -> None:
        """Learn from the true gradient at h; `synthetic` is M's earlier prediction at h, None without one."""


class PackedSynthesizer:
    """M_k of a signal: the float tensors are packed into one.

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


class TensorSynthesizer(ABC):
    """M_k of one tensor, in this process or in the master; learns from every `every`-th true gradient."""

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


class Synthesizer(TensorSynthesizer):
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
    """I_k, seen from an unlock."""

    def predict(self, batch: int, x: Signal) -> Signal:
        """Return the predicted h_{k-1} of x_b."""

    def learn(self, batch: int, x: Signal, h: Signal) -> None:
        """Learn from the h_{k-1} that the layer below computed for the batch."""


class TensorPredictor(Protocol):
    """I_k of one tensor, in this process or in the master."""

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
        """Take h_{k-1}(b); yields `Up` below the top, and perhaps the answer for the layer below."""

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:
        """Take delta_k(b) from above."""

    def lost(self, batch: int) -> Iterator[Message]:
        """Give up waiting for delta_k(b), which was lost above or never computed."""

    def sent(self) -> Mapping[int, Signal]:
        """Return h_k of the batches without an answer, oldest first."""

    def waiting(self) -> Collection[int]:
        """Return the batches taken without a step."""


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
