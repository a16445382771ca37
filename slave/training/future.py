"""M in time of a recurrent layer: the gradient of all later loss, at the end of each window. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from common.data.streams import StreamOrder
from common.models.recurrent import States
from common.optim.stepper import Stepper
from common.synthesizers.time.module import TimeModule
from common.synthesizers.time.traces import Traces
from slave.training.health import Health


class Future:
    """M in time with its optimizer (DNI in time; Jaderberg et al. 2016).

    M gives the gradient at a window's end, and learns the gradient that the window then has at its start: its
    own, and M's carried back. Both come of one backward pass, so M in time waits for no message.

    Args:
        module: M in time, and the auxiliary head.
        stepper: optimizer of the module.
        health: record of M's learning.
        early: steps of a window before the state from which the head predicts.
        chains: eligibility traces by which M learns; None: M learns by plain regression.
    """

    def __init__(
        self, module: TimeModule, stepper: Stepper, health: Health, early: int = 0,
        chains: Chains | None = None,
    ) -> None:  # fmt: skip
        self.early = early
        self._module = module
        self._stepper = stepper
        self._health = health
        self._chains = chains

    def backward(
        self,
        batch: int,
        states: States,
        early: Tensor,
        ends: Sequence[Tensor],
        deltas: Sequence[Tensor | None],
    ) -> None:
        """Back-propagate window b, which ends in M's gradient; M learns the result at the window's start.

        Args:
            batch: b.
            states: at both ends of the window.
            early: state from which the head predicts, (B, S).
            ends: the layer's outputs, or the loss.
            deltas: gradient of L in each of `ends`; None: the end is the loss itself.
        """
        synthesizer = self._module.synthesizer
        delta = synthesizer.gradient(states.after)
        auxiliary = self._module.auxiliary(early, delta)
        jacobian = states.jacobian() if self._chains else None
        target = states.backward([*ends, *auxiliary], [*deltas, *[None] * len(auxiliary)], delta)
        self._module.divide(len(target))
        looks = self._health.looks("time")
        synthetic = synthesizer.gradient(states.before) if looks else None
        for head_loss in auxiliary if looks else ():
            self._health.learned_auxiliary(head_loss, len(target))
        if self._chains is None or jacobian is None:
            loss = synthesizer.learn(states.before, target)
        else:
            loss = self._chains.of(batch).learn(states.before, target, jacobian)
        self._stepper.step(batch)
        if synthetic is not None:
            self._health.learned_time(loss, synthetic, target)


class Chains:
    """Eligibility traces of each group of streams, which begin anew where a window follows no other.

    Args:
        module: M in time.
        decay: lambda.
        streams: the run's streams.
    """

    def __init__(self, module: TimeModule, decay: float, streams: StreamOrder) -> None:
        self._synthesizer = module.synthesizer
        self._decay = decay
        self._streams = streams
        self._chains: dict[int, tuple[int, Traces]] = {}

    def of(self, batch: int) -> Traces:
        """Return the traces of the windows before window b."""
        groups = self._streams.groups
        last, traces = self._chains.get(batch % groups, (None, None))
        if traces is None or last != batch - groups or self._streams.begins(batch):
            traces = Traces(self._synthesizer, self._decay)
        self._chains[batch % groups] = (batch, traces)
        return traces
