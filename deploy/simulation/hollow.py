"""Slaves that compute nothing: the trainer's protocol and the replica's pushes, on tensors of no size."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from common.config.sections import Config
from common.config.unlocks import UnlockRow
from common.data.batches import Batches
from common.optim.stepper import AccruingStepper, Stepper
from common.shards.flat import Flat
from common.shards.working_copy import WorkingCopy
from common.wire.boundary import Down, Lost, Message, Taken, Up
from common.wire.messages import JoinReply
from slave.training import layers
from slave.training.decoupling import Layer
from slave.training.health import Health
from slave.training.layers import Begin
from slave.training.trained import TrainedLayer, Trainer
from slave.training.unlocks.full import FullUnlock

NOTHING = torch.zeros(0)
_LABELS = torch.zeros(0, dtype=torch.int64)


class HollowBatches(Batches):
    """Batches of no example."""

    def __init__(self) -> None:
        """They are of no data set."""

    def inputs(self, batch: int) -> Tensor:  # noqa: ARG002 - all are the same
        """x_b, (0,)."""
        return NOTHING

    def labels(self, batch: int) -> Tensor:  # noqa: ARG002
        """y_b, (0,)."""
        return _LABELS


class HollowUnlock:
    """What a layer sends, when, and when it steps; nothing of what it computes.

    Args:
        k: the layer.
        top: whether it is the last.
        unlock: row of the unlock.
        steppers: of its shards, the layer's own first.
    """

    def __init__(self, k: int, top: bool, unlock: UnlockRow, steppers: list[Stepper]) -> None:
        self._k, self._top = k, top
        self._late = not top and unlock.waits
        self._sends_down = unlock.sends_down
        # A head steps with its layer, M on the gradient from above.
        self._stepping = steppers if unlock.supervises else steppers[:1]
        self._learning = steppers[1:]
        self._sent: dict[int, Tensor] = {}

    def forward(self, batch: int, h_below: Tensor, y: Tensor) -> Iterator[Message]:  # noqa: ARG002
        """Send h_k(b), unless it is the top; unless it waits for the gradient, step and answer."""
        if not self._top:
            self._sent[batch] = h_below
            yield Up(batch, h_below)
        if not self._late:
            yield from self._stepped(batch)

    def gradient(self, batch: int, delta: Tensor) -> Iterator[Message]:  # noqa: ARG002
        """Have M step, or the layer that has waited for it."""
        del self._sent[batch]
        if self._late:
            yield from self._stepped(batch)
        else:
            for stepper in self._learning:
                stepper.step(batch)

    def lost(self, batch: int) -> Iterator[Message]:
        """There is no gradient from above; nobody below will get one, if there is none yet."""
        del self._sent[batch]
        if self._late and self._k > 1:
            yield Lost(batch)

    def sent(self) -> dict[int, Tensor]:
        """h_k of the batches that are not answered, oldest first."""
        return self._sent

    def waiting(self) -> Collection[int]:
        """Batches that were taken, and that the layer has not stepped on."""
        return self._sent if self._late else ()

    def _stepped(self, batch: int) -> Iterator[Message]:
        for stepper in self._stepping:
            stepper.step(batch)
        if self._k > 1:
            yield Down(batch, NOTHING) if self._sends_down else Taken(batch)


class HollowFull(FullUnlock):
    """The same of `full`: each shard steps when its own would."""

    def __init__(self, k: int, top: bool, steppers: dict[str, Stepper]) -> None:
        self._k, self._top, self._steppers = k, top, steppers

    def step(self, batch: int, x: Tensor, y: Tensor) -> Iterator[Message]:  # noqa: ARG002
        """Send h_k(b) up, and the input and its gradient down."""
        if not self._top:
            yield Up(batch, NOTHING)
        if self._k > 1:
            yield Down(batch, NOTHING, NOTHING)
        self._steppers["weights"].step(batch)

    def learn_gradient(self, batch: int, u: Tensor, y: Tensor, delta: Tensor) -> None:  # noqa: ARG002
        """M steps."""
        self._steppers["gradient"].step(batch)

    def learn_input(self, batch: int, x: Tensor, h: Tensor) -> None:  # noqa: ARG002
        """I steps."""
        self._steppers["input"].step(batch)


def hollow(config: Config, lease: JoinReply, shards: Collection[str], begin: Begin) -> TrainedLayer:
    """Compose a layer that computes nothing; `shards` are those of the layer, the weights' first."""
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
        trainer = layers.free_trainer(config, HollowBatches(), lease, HollowFull(k, top, steppers), ((), ()))
    else:
        unlock = HollowUnlock(k, top, config.decoupling.row, list(steppers.values()))
        trainer = layers.windowed_trainer(config, HollowBatches(), lease, unlock)
    return TrainedLayer(trainer, Layer(k, flats[0], steppers["weights"]), copies, Health())
