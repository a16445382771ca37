"""Decisions of one slave: events in, effects out. No I/O, no threads, no clock.

Session, simulator, synchronous profile and tests carry the effects out.
Models: `RawNode` and `Ready` of etcd-io/raft, `WorkerState.handle_stimulus` of dask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from common.errors import LayerwiseError, RunFailedError
from common.shards.backup import Backup
from common.shards.pushes import Buffer, Header, PushReply
from common.shards.working_copy import Push
from common.wire.boundary import Message
from common.wire.messages import HeartbeatReply
from common.wire.stages import Promise
from slave.training.pacing import PushPace
from slave.training.trained import TrainedLayer
from slave.training.unit_errors import describe_unit_error


@dataclass(frozen=True, slots=True)
class Fetched:
    """Event: an answer to `Fetch`; without a header the master could not be reached."""

    shard: str
    header: Header | None = None
    buffer: Buffer = b""


Event = Message | PushReply | Fetched | HeartbeatReply


@dataclass(frozen=True, slots=True)
class Send:
    """Effect: send a message to a neighbour, now, before the rest of the event is computed."""

    message: Message


@dataclass(frozen=True, slots=True)
class Fetch:
    """Effect: fetch a version of a shard, or of a fragment of it; answered by `Fetched`."""

    shard: str
    fragment: int = 0
    fragments: int = 0


@dataclass(frozen=True, slots=True)
class Computed:
    """Effect: the trainer's work on the event is over; the rest of the effects exchanges shards."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Effect, once: the layer has passed the last batch, which the master should learn soon."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Effect: layer K is through a block of batches; the level of a later block waits for its score."""


@dataclass(frozen=True, slots=True)
class Done:
    """Effect, once: the layer is through, and the master has every update."""


@dataclass(frozen=True, slots=True)
class Promised:
    """Effect: the layer begins no further batch before the next order, which the master should learn soon."""


# A `Push` is answered by a `PushReply`.
Effect = Send | Push | Fetch | Computed | Passed | Scored | Promised | Done


class Worker:
    """Decisions of one slave about its layer: when to step, push, fetch, rebase and finish.

    An iterator must be exhausted before the next event: effects come while the layer computes. Waiting events
    must be handled before the next `advance`: a gradient goes before a further forward.

    Args:
        trained: the layer and its working copies.
        adapts: whether measurements set the steps between pushes; whoever carries effects out tells `pace`.

    Attributes:
        pace: measures pushes; None where the steps between them are set.
        done: `Done` was given.
        over: the master has ended the run.
        released: the master wants the lease back: other replicas follow.
        promise: answer to the master's last question.
        pulls: versions that the layer went over to.
    """

    def __init__(self, trained: TrainedLayer, *, adapts: bool = False) -> None:
        self.trained = trained
        self.trainer = trained.trainer
        self.done = self.over = self.released = False
        self.promise = Promise()
        self.pulls = 0
        self._copies = {copy.name: (copy, stepper) for copy, stepper in trained.copies}
        adaptive = [copy for copy, _ in trained.copies if not isinstance(copy, Backup)]
        self.pace = PushPace(adaptive) if adapts and adaptive else None
        self._passed = False
        # Whether an event came since the last attempt to finish.
        self._unsettled = True

    @property
    def can_advance(self) -> bool:
        """Whether `advance` has work to do: a step, or the last pushes of a layer that is through."""
        return self.trainer.can_advance or (self.trainer.through and self._unsettled and not self.done)

    @property
    def settled(self) -> bool:
        """Whether no push is unanswered."""
        return all(copy.unanswered is None for copy, _ in self._copies.values())

    def steps(self, shard: str) -> int:
        """Return the number of steps of a shard, which `n_push` counts."""
        return self._copies[shard][1].steps

    def advance(self) -> Iterator[Effect]:
        """Take a step, or finish; if `can_advance`.

        Raises:
            RunFailedError: a unit, or the data, raises an error.
        """
        if self.trainer.can_advance:
            self._unsettled = True
            yield from self._compute(self.trainer.advance())
        else:
            yield from self._finish()

    def handle(self, event: Event) -> Iterator[Effect]:
        """Take an event.

        Raises:
            MalformedError: a message or a version cannot belong to this run.
            RunFailedError: a unit, or the data, raises an error.
        """
        self._unsettled = True
        match event:
            case Message():
                yield from self._compute(self.trainer.receive(event))
            case PushReply():
                yield from self._answer(event)
            case Fetched():
                yield from self._rebase(event)
            case HeartbeatReply():
                yield from self._obey(event)

    def flush(self) -> Iterator[Push]:
        """Push all that the master lacks, of each shard without an unanswered push."""
        next_batch = self.trainer.next_batch
        for copy, stepper in self._copies.values():
            if push := copy.flush(stepper.steps, next_batch):
                yield push

    def _compute(self, messages: Iterator[Message]) -> Iterator[Effect]:
        """Yield the trainer's messages, which compute the layer's units on the way.

        Raises:
            RunFailedError: a unit, or the data, raises an error.
        """
        try:
            for message in messages:
                yield Send(message)
        except LayerwiseError:
            raise
        except (Exception, SystemExit) as error:
            raise RunFailedError(self._describe(error)) from error
        yield Computed()
        yield from self._exchange()

    def _describe(self, error: BaseException) -> str:
        layer = self.trained.layer
        text = describe_unit_error(error, layer.flat.module, layer.first_unit)
        return (
            f"layer {layer.k}, batch {self.trainer.next_batch}: {text}; correct the layer's units, or the "
            "data of this batch"
        )

    def _exchange(self) -> Iterator[Effect]:
        """Push and fetch as far as each is due."""
        if self.done:
            return
        next_batch = self.trainer.next_batch
        for copy, stepper in self._copies.values():
            if push := copy.due(stepper.steps, next_batch):
                yield push
            if copy.fetch_due(stepper.steps):
                yield Fetch(copy.name, *copy.wanted)
        yield from self._pass()
        if self.trained.scores is not None and self.trained.scores.pass_to(next_batch):
            yield Scored()

    def _pass(self) -> Iterator[Effect]:
        if self.trainer.next_batch >= self.trainer.total and not self._passed:
            self._passed = True
            yield Passed()

    def _answer(self, reply: PushReply) -> Iterator[Effect]:
        yield Computed()
        if reply.shard in self._copies:
            self._copies[reply.shard][0].answered(reply)
            yield from self._exchange()

    def _rebase(self, fetched: Fetched) -> Iterator[Effect]:
        """Go over to a fetched version, or ask again in its time."""
        yield Computed()
        copy, _ = self._copies[fetched.shard]
        if fetched.header is None:
            copy.fetch_failed()
        else:
            copy.fetched(fetched.header, fetched.buffer)
            self.pulls += 1
        yield from self._exchange()

    def _obey(self, reply: HeartbeatReply) -> Iterator[Effect]:
        if reply.end:
            self.trainer.end_at(reply.end)
            yield from self._pass()
        elif reply.hold != self.promise.question:
            self.trainer.release()
            self.promise = Promise(reply.hold, self.trainer.hold()) if reply.hold else Promise()
            yield Promised()
        self.released = self.released or reply.rejoin
        if reply.begin:
            self.trainer.begin()
        if reply.stop:
            self.trainer.stop()
        self.trained.learn(reply.curriculum)
        self.over = self.over or reply.over

    def _finish(self) -> Iterator[Effect]:
        """Push the rest; once all pushes are answered, the layer is done."""
        self._unsettled = False
        yield Computed()
        yield from self.flush()
        if self.settled:
            self.done = True
            yield Done()
