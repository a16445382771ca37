"""M in time of a recurrent layer: the gradient of all later loss, at the end of each window. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from common.models.recurrent import States
from common.optim.stepper import Stepper
from common.synthesizers.time.regression import TimeSynthesizer
from slave.training.health import Health


class Future:
    """M in time with its optimizer (DNI in time; Jaderberg et al. 2016).

    M gives the gradient at a window's end, and learns the gradient that the window then has at its start: its
    own, and M's carried back. Both come of one backward pass, so M in time waits for no message.

    Args:
        module: M in time.
        stepper: optimizer of the module.
        health: record of M's learning.
    """

    def __init__(self, module: TimeSynthesizer, stepper: Stepper, health: Health) -> None:
        self._module = module
        self._stepper = stepper
        self._health = health

    def backward(
        self, batch: int, states: States, ends: Sequence[Tensor], deltas: Sequence[Tensor | None]
    ) -> None:
        """Back-propagate window b, which ends in M's gradient; M learns the result at the window's start.

        Args:
            batch: b.
            states: at both ends of the window.
            ends: the layer's outputs, or the loss.
            deltas: gradient of L in each of `ends`; None: the end is the loss itself.
        """
        target = states.backward(ends, deltas, self._module.gradient(states.after))
        synthetic = self._module.gradient(states.before) if self._health.looks("time") else None
        loss = self._module.learn(states.before, target)
        self._stepper.step(batch)
        if synthetic is not None:
            self._health.learned_time(loss, synthetic, target)
