"""Parts of a layer at work: a trainer, the layer, the working copies of its shards, its health."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from common.data.batches import Batches
from common.optim.stepper import Stepper
from common.shards.flat import Flat
from common.shards.working_copy import WorkingCopy
from common.wire.boundary import Message
from common.wire.curriculum import Curriculum
from common.wire.messages import Telemetry
from slave.training.admission import Admission
from slave.training.health import Health
from slave.training.layer import Layer
from slave.training.scores import Scores


class Trainer(Protocol):
    """Protocol of a layer with the neighbours: messages in, messages out. No sockets, threads or clock.

    Attributes:
        steps: batches that went forward.
        delays: delay of a gradient -> number of gradients with that delay.
        through: no step is left to take.
        total: number of batches, of the run or before other replicas go on.
    """

    steps: int
    delays: Counter[int]
    through: bool
    total: int

    @property
    def in_flight(self) -> int:
        """Number of batches out without their delta."""

    @property
    def next_batch(self) -> int:
        """First batch not seen by the layer's weights."""

    @property
    def lost_batches(self) -> int:
        """Number of batches lost below, or whose gradient was lost above."""

    @property
    def can_advance(self) -> bool:
        """Whether `advance` has work to do."""

    def awaits(self, batch: int) -> bool:
        """Whether the layer computes something on the gradient of a batch, once that comes."""

    def begin(self) -> None:
        """Allow the first step, under an unlock without waiting."""

    def stop(self) -> None:
        """Allow no further step, under an unlock without waiting."""

    def hold(self) -> int:
        """Begin no further batch until `release` or `end_at`; returns the first batch not begun."""

    def release(self) -> None:
        """Go on after `hold`."""

    def end_at(self, batch: int) -> None:
        """End before a batch, from which on other replicas train."""

    def advance(self) -> Iterator[Message]:
        """Go on with the next batch; yields messages as soon as the tensors are computed."""

    def receive(self, message: Message) -> Iterator[Message]:
        """Take a message from a neighbour; yields the answers.

        Raises:
            MalformedError: the sender cannot belong to this run.
        """


@dataclass(frozen=True, eq=False)
class TrainedLayer:
    """One replica of a layer, ready to train.

    Attributes:
        trainer: protocol with the neighbours and, behind it, the unlock.
        layer: the module and its stepper.
        copies: working copy and stepper of each shard; empty where no shard is pushed.
        health: knowledge of the layer's own learning.
        admission: check of messages from neighbours; None for tensors of no size.
        batches: source of x_b and y_b; None for tensors of no size.
        scores: of layer K, where the levels of later batches depend on the loss.
        flats: modules by the kind of their shard: weights, gradient, input, time; M and I only if here.
    """

    trainer: Trainer
    layer: Layer
    copies: list[tuple[WorkingCopy, Stepper]]
    health: Health
    admission: Admission | None = None
    batches: Batches | None = None
    scores: Scores | None = None
    flats: Mapping[str, Flat] = field(default_factory=dict)

    def learn(self, curriculum: Curriculum) -> None:
        """Take the levels that a master has decided: further batches exist.

        Raises:
            MalformedError: the list is that of no run.
        """
        if self.batches is not None:
            self.batches.learn(curriculum)

    def telemetry(self) -> Telemetry:
        """Return the telemetry, but for the machine's part."""
        trainer, health = self.trainer, self.health
        return Telemetry(
            steps=trainer.steps,
            push_steps=self.copies[0][0].n_push if self.copies else 0,
            next_batch=trainer.next_batch,
            lost_batches=trainer.lost_batches,
            lost_states=self.layer.carried.lost if self.layer.carried else 0,
            in_flight=trainer.in_flight,
            delays=dict(trainer.delays),
            loss=health.loss,
            gradient_loss=health.gradient_loss,
            gradient_cosine=health.gradient_cosine,
            gradient_norm_ratio=health.gradient_norm_ratio,
            input_loss=health.input_loss,
            fallback=health.fallback,
            time_loss=health.time_loss,
            time_cosine=health.time_cosine,
            time_norm_ratio=health.time_norm_ratio,
            own_loss=health.own_loss,
            time_aux_loss=health.time_aux_loss,
        )
