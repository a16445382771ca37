"""Layer k at work: forward, backward and step of its module, f_k.

The loss is the sum over the batch, so each row of a gradient is an example's own. Only a step divides by B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.draws import mix, seeded_torch
from common.models.flow import list_units
from common.models.own_losses import check_losses, has_losses
from common.models.recurrent import Passed, States, pass_on, pass_on_in_two
from common.optim.stepper import UNCHANGED, Adjustment, Stepper
from common.shards.flat import Flat
from common.signals.values import Signal, count, floats, map_floats, map_tensors, offer, split
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
        losses: own loss of each unit that has one, (B,).
    """

    batch: int
    u: Signal
    h: Signal
    before: Tensor | None = None
    after: Tensor | None = None
    early: Tensor | None = None
    losses: tuple[Tensor, ...] = ()


class Layer:
    """Module of layer k with its optimizer; f_k.

    Args:
        k: the layer.
        flat: the module.
        stepper: optimizer of the module.
        autocast: dtype of matrix products in the forward; None: float32. The output is float32 in any case.
        seed: of the run. Random numbers of a forward (dropout's mask) are a function of (seed, k, b) alone.
        goes_down: whether the layer below receives delta_{k-1}.
        teaches_below: whether the layer below has a use for a gradient, whoever computes it; None: as
            `goes_down`.
        first_unit: number of the layer's first unit in the network, from 1.
        carried: states of the streams that the layer carries from window to window; None: it has no state.
        future: M in time, which ends the windows; None: truncated back-propagation.
        health: record of the units' own losses; None: they are not recorded.

    Attributes:
        function: maps h_{k-1} to h_k: the module, or the module compiled. With a state, or a loss of a unit's
            own, `pass_on` of the units: maps h_{k-1}, the state and the targets.
        supervised: numbers of the units with a loss of their own.
    """

    def __init__(
        self,
        k: int,
        flat: Flat,
        stepper: Stepper,
        seed: int = 0,
        *,
        goes_down: bool = True,
        teaches_below: bool | None = None,
        autocast: torch.dtype | None = None,
        first_unit: int = 1,
        carried: Carried | None = None,
        future: Future | None = None,
        health: Health | None = None,
    ) -> None:
        self.k = k
        self.first_unit = first_unit
        self.flat = flat
        self.carried = carried
        self.future = future
        units = list_units(flat.module)
        self.supervised = [number for number, unit in enumerate(units, first_unit) if has_losses(unit)]
        self.function: Callable[..., Any] = flat.module
        if carried is not None or self.supervised:
            early = future.early if future else 0
            self.function = partial(pass_on_in_two, units, early) if early else partial(pass_on, units)
        self._stepper = stepper
        self._seed = seed
        self._autocast = autocast
        self._goes_down = goes_down and k > 1
        self.teaches_below = self._goes_down if teaches_below is None else teaches_below and k > 1
        self._health = health

    @property
    def steps(self) -> int:
        """Number of steps that the layer has taken."""
        return self._stepper.steps

    def forward(self, batch: int, h_below: Signal, y: Tensor | None = None) -> Forward:
        """Pass a batch through the layer; the state of its streams moves on.

        Args:
            batch: b.
            h_below: input, (B, ...).
            y: targets of the units' own losses, (B, ...); None: the batch has no backward.

        Raises:
            ConfigError: a unit's own loss is not one number for each example.
        """
        before = self.carried.take(batch) if self.carried else None
        passed = self._forward(batch, h_below, before, y)
        if self.carried and passed.after is not None:
            self.carried.put(batch, passed.after)
        return passed

    def forward_again(
        self, batch: int, h_below: Signal, before: Tensor | None = None, y: Tensor | None = None
    ) -> Forward:
        """Repeat the forward of a batch: the mask of the first, the present weights; nothing moves.

        Args:
            batch: b.
            h_below: the input of the first forward.
            before: the state at the start of the first forward.
            y: as of `forward`.

        Raises:
            ConfigError: as of `forward`.
        """
        with self.flat.keep_buffers():
            return self._forward(batch, h_below, before, y)

    def _forward(self, batch: int, h_below: Signal, before: Tensor | None, y: Tensor | None) -> Forward:
        u = map_tensors(Tensor.detach, h_below)
        if self._goes_down:
            map_floats(Tensor.requires_grad_, u)
        if self.future is not None and before is not None:
            before = before.detach().requires_grad_()
        with seeded_torch(mix(self._seed, self.k, batch), _device_of(u)):
            h, after, early, losses = self._compute(offer(u), before, y)
        return Forward(batch, u, map_tensors(self._part_from_weights, h), before, after, early, losses)

    def _part_from_weights(self, h: Tensor) -> Tensor:
        # A weight passed on, such as an embedding of places for every example, would change with the step
        # before M learns at h.
        shared = h.untyped_storage().data_ptr() == self.flat.buffer.untyped_storage().data_ptr()
        return h.clone() if shared else h

    def _compute(self, u: Signal, before: Tensor | None, y: Tensor | None) -> Passed:
        """Return the passage through the units; floats are float32."""
        if self._autocast is None:
            return self._call(u, before, y)
        with torch.autocast(_device_of(u).type, self._autocast):
            h, *states, losses = self._call(u, before, y)
            after, early = (None if each is None else each.float() for each in states)
            return Passed(map_floats(Tensor.float, h), after, early, tuple(each.float() for each in losses))

    def _call(self, u: Signal, before: Tensor | None, y: Tensor | None) -> Passed:
        if self.supervised:
            passed: Passed = self.function(u, before, y)
            for number, losses in zip(self.supervised, passed.losses, strict=y is not None):
                check_losses(losses, count(u), f"unit {number}")
        elif before is not None:
            passed = self.function(u, before)
        else:
            return Passed(self.function(u))
        after, early = (None if each is None else self._part_from_weights(each) for each in passed[1:3])
        return Passed(passed.h, after, early, passed.losses)

    def backward(self, passed: Forward, delta: Signal) -> None:
        """Back-propagate delta, in the form of h's floats, and the units' own losses.

        Do nothing in a first layer without parameters.
        """
        deltas = split(delta)
        learned = {name: each for name, each in split(passed.h).items() if each.requires_grad}
        self._end(passed, list(learned.values()), [deltas[name] for name in learned])

    def backward_loss(self, passed: Forward, loss: Tensor) -> None:
        """Back-propagate the loss of layer K, the sum over the batch, and the units' own losses."""
        self._end(passed, [loss], [None])

    def backward_own(self, passed: Forward) -> None:
        """Back-propagate the units' own losses alone."""
        self._end(passed, [], [])

    def _end(self, passed: Forward, ends: Sequence[Tensor], deltas: Sequence[Tensor | None]) -> None:
        """Back-propagate from the output, own losses, and the state at the end if there is M in time."""
        own = [losses.sum() for losses in passed.losses]
        if own and self._health is not None:
            self._health.supervised(own, len(passed.losses[0]))
        learned = [each for each in own if each.requires_grad]
        ends, deltas = [*ends, *learned], [*deltas, *[None] * len(learned)]
        if self.future is not None and passed.before is not None and passed.after is not None:
            states = States(passed.before, passed.after)
            early = passed.before if passed.early is None else passed.early
            self.future.backward(passed.batch, states, early, ends, deltas)
        elif ends:
            torch.autograd.backward(ends, deltas)

    def down_alone(self, passed: Forward, delta: Signal) -> Iterator[Message]:
        """Yield the answer for layer k - 1 from delta, in the form of h's floats, before a backward."""
        deltas, leaves = split(delta), list(split(floats(passed.u)).values())
        learned = {name: each for name, each in split(passed.h).items() if each.requires_grad}
        own = [each for each in (losses.sum() for losses in passed.losses) if each.requires_grad]
        if self._goes_down and (learned or own):
            given = [*(deltas[name] for name in learned), *[None] * len(own)]
            gradients = torch.autograd.grad([*learned.values(), *own], leaves, given, allow_unused=True)
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient
        yield from self.down(passed)

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
