"""Slaves without computation: the trainer's protocol and the replica's pushes, on tensors of no size."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from common.config.decoupling import DecouplingConfig
from common.config.sections import Config
from common.data.batches import Batches
from common.optim.stepper import AccruingStepper, Stepper
from common.shards.flat import Flat
from common.shards.working_copy import WorkingCopy
from common.signals.forms import SignalForm
from common.signals.values import Signal
from common.wire.boundary import Down, Lost, Message, OutputGradient, Taken, Up
from common.wire.messages import JoinReply
from slave.training import layers
from slave.training.decoupling import Unlock
from slave.training.fixed import Fixed
from slave.training.health import Health
from slave.training.layer import Forward, Layer
from slave.training.layers import Begin
from slave.training.trained import TrainedLayer, Trainer
from slave.training.unlocks.full import FullUnlock

NOTHING = torch.zeros(0)
_LABELS = torch.zeros(0, dtype=torch.int64)
NO_FORM = SignalForm.plain(())


class HollowBatches(Batches):
    """Batches of no example."""

    def __init__(self) -> None:
        """Need no data set."""
        self.size = 0
        self.streams = None

    def inputs(self, batch: int) -> Tensor:  # noqa: ARG002 - no example
        """Return x_b, (0,)."""
        return NOTHING

    def labels(self, batch: int) -> Tensor:  # noqa: ARG002
        """Return y_b, (0,)."""
        return _LABELS


class HollowUnlock:
    """Messages and steps of an unlock, without computation.

    Args:
        k: the layer.
        top: whether the layer is the last.
        decoupling: the unlock, and whether layers step on the gradient of M's loss.
        steppers: by the kind of their shard.
        sends_down: whether the layer below has a use for a gradient.
    """

    def __init__(
        self,
        k: int,
        top: bool,
        decoupling: DecouplingConfig,
        steppers: Mapping[str, Stepper],
        *,
        sends_down: bool,
    ) -> None:
        self._k, self._top = k, top
        unlock = decoupling.row
        # Answers the layer below before the step.
        self._propagates = not top and decoupling.propagates
        self._late = not top and (unlock.waits or self._propagates)
        self._sends_down = unlock.sends_down and sends_down
        # A head and M in time step with the layer, M on the gradient from above.
        at_once = {"weights", "time", "gradient" if unlock.supervises else "weights"}
        self._stepping = [stepper for kind, stepper in steppers.items() if kind in at_once]
        self._learning = [stepper for kind, stepper in steppers.items() if kind not in at_once]
        self._broadcasts = top and decoupling.broadcasts
        self._sent: dict[int, Signal] = {}
        # Batches without a step.
        self._due: set[int] = set()

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:  # noqa: ARG002
        """Send h_k(b) below the top; step and answer, unless the unlock waits for the gradient."""
        if not self._top:
            self._sent[batch] = h_below
            yield Up(batch, h_below)
        if self._late:
            self._due.add(batch)
        if self._broadcasts:
            yield OutputGradient(batch, NOTHING)
        if self._propagates:
            yield from self._down(batch)
        if not self._late:
            self._step(batch)
            yield from self._down(batch)

    def gradient(self, batch: int, delta: Signal) -> Iterator[Message]:
        """Step M, or a layer that waited for the gradient."""
        del self._sent[batch]
        if batch in self._due:
            yield from self.hear(batch, delta)
        for stepper in self._learning:
            stepper.step(batch)

    def hear(self, batch: int, error: Signal) -> Iterator[Message]:  # noqa: ARG002
        """Step a layer that waited."""
        self._due.discard(batch)
        self._step(batch)
        if not self._propagates:
            yield from self._down(batch)

    def lost(self, batch: int) -> Iterator[Message]:
        """Forget a batch; a layer without a step on the batch has no gradient for the layer below."""
        del self._sent[batch]
        if batch in self._due:
            self._due.discard(batch)
            if not self._propagates and self._k > 1:
                yield Lost(batch)

    def sent(self) -> dict[int, Signal]:
        """Return h_k of unanswered batches, oldest first."""
        return self._sent

    def waiting(self) -> Collection[int]:
        """Return the batches taken without a step."""
        return self._due

    def _step(self, batch: int) -> None:
        for stepper in self._stepping:
            stepper.step(batch)

    def _down(self, batch: int) -> Iterator[Message]:
        if self._k > 1:
            yield Down(batch, NOTHING) if self._sends_down else Taken(batch)


class HollowFixed(Fixed):
    """Messages and steps of a layer without a use for a gradient, without computation."""

    def __init__(self, k: int, stepper: Stepper) -> None:
        super().__init__(Layer(k, Flat(nn.Module()), stepper, goes_down=False))

    def forward(self, batch: int, h_below: Signal, y: Tensor) -> Iterator[Message]:  # noqa: ARG002
        """Send h_k(b), and confirm the batch to the layer below."""
        self._sent[batch] = h_below
        yield Up(batch, h_below)
        yield from self._layer.down(Forward(batch, h_below, h_below))


class HollowFull(FullUnlock):
    """Messages and steps of unlock `full`, without computation."""

    def __init__(self, k: int, top: bool, steppers: dict[str, Stepper], *, sends_down: bool) -> None:
        self._k, self._top, self._steppers, self._sends_down = k, top, steppers, sends_down

    def step(self, batch: int, x: Signal, y: Tensor) -> Iterator[Message]:  # noqa: ARG002
        """Send h_k(b) up, and delta_{k-1}(b) with u down."""
        if not self._top:
            yield Up(batch, NOTHING)
        if self._k > 1:
            yield Down(batch, NOTHING, NOTHING) if self._sends_down else Taken(batch)
        for kind in ("weights", "time"):
            if kind in self._steppers:
                self._steppers[kind].step(batch)

    def learn_gradient(self, batch: int, u: Signal, y: Tensor, delta: Signal) -> None:  # noqa: ARG002
        """Step M."""
        self._steppers["gradient"].step(batch)

    def learn_input(self, batch: int, x: Signal, h: Signal) -> None:  # noqa: ARG002
        """Step I."""
        self._steppers["input"].step(batch)


def hollow(
    config: Config, lease: JoinReply, shards: Collection[str], begin: Begin, wants: tuple[bool, bool]
) -> TrainedLayer:
    """Compose a layer without computation.

    Args:
        config: of the run, resolved.
        lease: of the layer.
        shards: names of the layer's shards, the weights' first.
        begin: called for every working copy.
        wants: whether the layer below has a use for a gradient, and whether this layer has.
    """
    k, top = lease.layer, lease.layer == config.layers
    flats = [Flat(nn.Module()) for _ in shards]
    copies: list[tuple[WorkingCopy, Stepper]] = []
    for shard, flat in zip(shards, flats, strict=True):
        accrues = config.downpour.accrues and shard.endswith("/weights")
        stepper = (AccruingStepper if accrues else Stepper)(flat, config.optimizer, config.run.batches)
        copy = layers.working_copy(config, lease, shard, flat, stepper)
        begin(copy)
        copies.append((copy, stepper))
    steppers = {copy.name.partition("/")[2]: stepper for copy, stepper in copies}
    trainer: Trainer
    if config.decoupling.slots is not None:
        trainer = layers.free_trainer(
            config,
            HollowBatches(),
            lease,
            HollowFull(k, top, steppers, sends_down=wants[0]),
            (NO_FORM, NO_FORM),
        )
    else:
        unlock: Unlock
        if top or wants[1]:
            unlock = HollowUnlock(k, top, config.decoupling, steppers, sends_down=wants[0])
        else:
            unlock = HollowFixed(k, steppers["weights"])
        trainer = layers.windowed_trainer(config, HollowBatches(), lease, unlock)
    return TrainedLayer(trainer, Layer(k, flats[0], steppers["weights"]), copies, Health())
