"""Layers that count: each step adds its number to the slave's own slot of every shard that learns.

Sums of integers are exact in float32, and a slot has one writer: a lost, repeated or foreign push shows.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from common.config.sections import Config
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.shards.table import Raw, lay_out
from common.shards.working_copy import WorkingCopy
from common.wire.messages import JoinReply
from deploy.simulation.hollow import NO_FORM, HollowBatches, HollowFull, HollowUnlock
from slave.training import layers
from slave.training.health import Health
from slave.training.trained import TrainedLayer, Trainer

# Most incarnations of a run that push.
SLOTS = 256
TABLE = lay_out([("count", "float32", (SLOTS,), "parameter")])


class Counts:
    """State of a shard: a number for each slot (see `common.shards.working_copy.State`)."""

    def __init__(self) -> None:
        self.table = TABLE
        self.buffer = torch.zeros(TABLE.nbytes, dtype=torch.uint8)
        self.numbers = self.buffer.numpy().view(np.float32)

    def gather(self) -> None:
        """Do nothing: the buffer is the state."""

    def load(self, data: Raw) -> None:
        """Overwrite the state."""
        np.copyto(self.buffer.numpy(), np.frombuffer(data, np.uint8))


class CountingStepper:
    """Adds t to a slot at step t; distinct amounts tell which pushes are in a sum."""

    def __init__(self, counts: Counts, slot: int) -> None:
        self.steps = 0
        self._counts, self._slot = counts, slot

    def step(self, batch: int, examples: int = 1) -> None:
        """Step on a batch."""
        self.steps += 1
        self._counts.numbers[self._slot] += self.steps


def shards_of(config: Config, k: int) -> list[str]:
    """Name the shards of layer k, the weights first."""
    row, top = config.decoupling.row, k == config.layers
    learns = not top and (row.synthesizes or row.supervises)
    kinds = ["weights", *["gradient"] * learns, *["input"] * (row.predicts and k > 1)]
    return [f"{k}/{kind}" for kind in kinds]


def build_copies(config: Config, lease: JoinReply, slot: int) -> list[tuple[WorkingCopy, Stepper]]:
    """Build the working copies of a lease, not begun yet."""
    copies = []
    for shard in shards_of(config, lease.layer):
        counts = Counts()
        stepper = cast(Stepper, CountingStepper(counts, slot))
        copies.append(
            (layers.working_copy(config, lease, shard, cast(Flat, counts), stepper), stepper),
        )
    return copies


def build_layer(config: Config, lease: JoinReply, copies: list[tuple[WorkingCopy, Stepper]]) -> TrainedLayer:
    """Compose the layer of a lease around working copies that have begun."""
    k, top = lease.layer, lease.layer == config.layers
    steppers = {copy.name.partition("/")[2]: stepper for copy, stepper in copies}
    trainer: Trainer
    if config.decoupling.slots is None:
        unlock = HollowUnlock(k, top, config.decoupling, steppers, sends_down=k > 1)
        trainer = layers.windowed_trainer(config, HollowBatches(), lease, unlock)
    else:
        full = HollowFull(k, top, steppers, sends_down=k > 1)
        trainer = layers.free_trainer(config, HollowBatches(), lease, full, (NO_FORM, NO_FORM))
    stateless = cast(Any, SimpleNamespace(carried=None))
    return TrainedLayer(trainer, stateless, copies, Health())
