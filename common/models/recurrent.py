"""Recurrent units, and layers that carry their state; T steps, D numbers a step, S numbers of state.

A unit used as any other, `unit(x)`, starts from zeros and forgets its state. `unroll` takes the state and
returns the next, so that a layer, not the boundary between layers, carries the state from window to window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from common.config.models import RecurrentOptions
from common.models.own_losses import has_losses
from common.signals.values import Signal, count, join, map_tensors, offer, plain, split


class Recurrent(Protocol):
    """A unit with a state; a user's module fits by having these two names.

    Attributes:
        state_size: S, the numbers of state of a stream.
    """

    state_size: int

    def unroll(self, x: Any, state: Tensor) -> tuple[Any, Tensor]:
        """Return the output and the next state (B, S), from a signal x (B, T, ...) and a state (B, S)."""


def is_recurrent(unit: object) -> TypeGuard[Recurrent]:
    """Whether a unit has a state; unlike a check of the protocol, torch compiles the question."""
    return hasattr(unit, "state_size") and hasattr(unit, "unroll")


class Lstm(nn.Module):
    """Long short-term memory of one layer (torch's own); the state is h and c side by side, S = 2 D."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.core = nn.LSTM(size, width, batch_first=True)
        self.state_size = 2 * width

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, T, size) to (B, T, D), from zeros."""
        return self.unroll(x, x.new_zeros(len(x), self.state_size))[0]

    def unroll(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (B, T, D) and the next state (B, 2 D)."""
        h, c = (part.contiguous() for part in state.unsqueeze(0).chunk(2, -1))
        output, (h, c) = self.core(x, (h, c))
        return output, torch.cat([h, c], -1).squeeze(0)


class Gru(nn.Module):
    """Gated recurrent unit of one layer (torch's own); the state is h, S = D."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.core = nn.GRU(size, width, batch_first=True)
        self.state_size = width

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, T, size) to (B, T, D), from zeros."""
        return self.unroll(x, x.new_zeros(len(x), self.state_size))[0]

    def unroll(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (B, T, D) and the next state (B, D)."""
        output, state = self.core(x, state.unsqueeze(0))
        return output, state.squeeze(0)


def stack(
    cell: Callable[[int, int], nn.Module], options: RecurrentOptions, vocabulary: int
) -> list[nn.Module]:
    """Build an embedding of tokens, `options.depth` recurrent units and a head of logits.

    Args:
        cell: makes a recurrent unit from the numbers that a step takes and D.
        options: of the network.
        vocabulary: V.
    """
    width, first = options.width, options.embedding or options.width
    units: list[nn.Module] = [nn.Embedding(vocabulary, first)]
    units += [cell(size, width) for size in [first, *[width] * (options.depth - 1)]]
    return [*units, nn.Linear(width, vocabulary)]


def state_size(layer: Iterable[nn.Module]) -> int:
    """Return the numbers of state of a stream, over all recurrent units of a layer; 0: the layer has none."""
    return sum(unit.state_size for unit in layer if is_recurrent(unit))


@dataclass(frozen=True, eq=False)
class States:
    """States of B streams at both ends of a window of T steps that a layer has computed.

    Attributes:
        before: state at the start, (B, S): a leaf of the graph.
        after: state at the end, (B, S), in the graph.
    """

    before: Tensor
    after: Tensor

    def backward(
        self, ends: Sequence[Tensor], deltas: Sequence[Tensor | None], delta_after: Tensor | None
    ) -> Tensor:
        """Back-propagate the window once, and return the gradient in the state at the start, (B, S).

        With M's gradient at the end, the result is M's bootstrapped target at the start: the window's own
        gradient plus M's, carried back through the window.

        Args:
            ends: the window's loss, the sum over the batch, or the layer's outputs.
            deltas: gradient of L in each of `ends`; None: the end is the loss itself.
            delta_after: gradient of all later loss in `after`, (B, S); None: truncated here.
        """
        if delta_after is not None and self.after.requires_grad:
            ends, deltas = [*ends, self.after], [*deltas, delta_after]
        if ends:
            torch.autograd.backward(list(ends), list(deltas))
        return torch.zeros_like(self.before) if self.before.grad is None else self.before.grad

    def jacobian(self) -> Tensor:
        """Return the derivative of `after` in `before`, (B, S, S) with a row a number of `after`.

        The graph is kept for `backward`.
        """
        size = self.after.shape[1]
        if not self.after.requires_grad:
            return self.before.new_zeros(len(self.before), size, size)
        rows = [
            torch.autograd.grad(
                self.after[:, row].sum(), self.before, retain_graph=True, materialize_grads=True
            )[0]
            for row in range(size)
        ]
        return torch.stack(rows, 1)


@dataclass(frozen=True, eq=False)
class Window(States):
    """A window of T steps that a layer of one output has computed.

    Attributes:
        output: of the last unit, (B, T, ...).
    """

    output: Tensor


class Passed(NamedTuple):
    """Passage of a batch, or of a window, through units.

    Attributes:
        h: output of the last unit.
        state: at the end of a window, (B, S); None: recurrent units began at zeros, and forgot their state.
        early: state between the two parts of a window, where there are two.
        losses: own loss of each unit that has one, (B,), where targets were given.
    """

    h: Signal
    state: Tensor | None = None
    early: Tensor | None = None
    losses: tuple[Tensor, ...] = ()


def pass_on(layer: Iterable[nn.Module], x: Signal, state: Tensor | None, y: Tensor | None = None) -> Passed:
    """Pass a batch, or a window of streams, through the units of a layer.

    Args:
        layer: units, of which the recurrent ones own consecutive parts of the state.
        x: input of the first unit, (B, T, ...) of a window.
        state: (B, S) with S of `state_size`, at the start of a window; None: every unit begins anew.
        y: targets of the units' own losses, (B, ...); None: these are not computed.
    """
    states: list[Tensor] = []
    losses: list[Tensor] = []
    start = 0
    for unit in layer:
        if state is not None and is_recurrent(unit):
            stop = start + unit.state_size
            x, after = unit.unroll(offer(x), state[:, start:stop])
            states.append(after)
            start = stop
        else:
            x = unit(offer(x))
        if y is not None and has_losses(unit):
            losses.append(unit.losses(offer(x), y))
    assert state is None or start == state.shape[1]
    return Passed(x, torch.cat(states, 1) if states else state, None, tuple(losses))


def pass_on_in_two(layer: Sequence[nn.Module], early: int, x: Signal, state: Tensor) -> Passed:
    """Pass a window on in two parts.

    Args:
        layer: units that take each step for itself, without a loss of their own.
        early: steps of the first part.
        x: as of `pass_on`, (B, T, ...).
        state: as of `pass_on`, (B, S).
    """
    first, middle, *_ = pass_on(layer, map_tensors(lambda each: each[:, :early], x), state)
    rest, after, *_ = pass_on(layer, map_tensors(lambda each: each[:, early:], x), middle)
    joined = {name: torch.cat([each, split(rest)[name]], 1) for name, each in split(first).items()}
    return Passed(join(joined), after, middle)


def unroll(layer: Iterable[nn.Module], x: Signal, state: Tensor) -> Window:
    """Pass a window through the units of a layer, from a state that is cut off from its past.

    Arguments as of `pass_on`, with a state (B, S); the output is one tensor.
    """
    before = state.detach().requires_grad_()
    passed = pass_on(layer, x, before)
    assert passed.state is not None
    return Window(before, passed.state, plain(passed.h))


class Unrolled:
    """Units that carry their state from window to window of the same streams, from zeros; without a gradient.

    A window may have fewer streams than the one before: its streams are then the first of those.

    Args:
        units: of a layer, or of a network.
    """

    def __init__(self, units: Iterable[nn.Module]) -> None:
        self._units = list(units)
        self._state: Tensor | None = None

    @torch.no_grad()
    def __call__(self, x: Signal) -> Signal:
        """Return the output of the next window, (B, T, ...)."""
        if self._state is None:
            first = next(iter(split(x).values()))
            self._state = torch.zeros(len(first), state_size(self._units), device=first.device)
        output, self._state, *_ = pass_on(self._units, x, self._state[: count(x)])
        return output
