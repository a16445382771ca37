"""The synchronous profile: every layer, M and I in this process, batch by batch; no cluster, no delay.

The trainers are those of a slave. What one says is handled by its neighbour before the next batch begins, so
L, L_M and L_I are minimized together; with unlock `none` that is plain back-propagation.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator

from common.config.sections import Config
from common.data.datasets import Dataset
from common.lifecycle import cpu_seconds, peak_rss_bytes
from common.models import network
from common.shards.pushes import Buffer, Header, Operation
from common.wire.boundary import Message
from common.wire.messages import Counters, JoinReply, Seat, StatusReply
from slave.training import layers
from slave.training.free import FreeTrainer


class InStep:
    """One run.

    Args:
        config: of the run, resolved.
        dataset: what is trained on.
        pace: seconds that a batch is said to take; None for those that it does.

    Attributes:
        seconds: spent in training.
    """

    def __init__(self, config: Config, dataset: Dataset, pace: float | None = None) -> None:
        self._pace = pace
        self.config = config
        self.seconds = 0.0
        self._batches = 0
        blueprint = network.build(config, dataset.input_shape, dataset.classes)
        self._seats = [
            layers.seated(config, blueprint, dataset, JoinReply(layer=k), lambda _: None)
            for k in range(1, config.layers + 1)
        ]

    def run(self) -> Iterator[int]:
        """Train to the end; yields the number of batches that are done, after each."""
        while not all(seat.trainer.through for seat in self._seats):
            began = time.perf_counter()
            for seat in self._seats:
                if seat.trainer.can_advance:
                    self._deliver(seat.trainer.advance())
            self._stop_free()
            self.seconds += time.perf_counter() - began if self._pace is None else self._pace
            if self._batches < self.config.run.batches:
                self._batches += 1
                yield self._batches

    def pull(self, shard: str) -> tuple[Header, Buffer]:
        """A layer's weights as they are now: a view."""
        flat = self._seats[int(shard.partition("/")[0]) - 1].flat
        flat.gather()
        header = Header(shard, Operation.VALUE, self._batches, next_batch=self._batches, table=flat.table)
        return header, flat.buffer.numpy().data

    def status(self) -> StatusReply:
        """How the run goes, as a master would say it; there are no slaves."""
        return StatusReply(
            name=self.config.run.name,
            state="training" if self._batches < self.config.run.batches else "done",
            batches=self._batches,
            of_batches=self.config.run.batches,
            training_seconds=self.seconds,
            counters=Counters(cpu_seconds=cpu_seconds(), peak_rss_bytes=peak_rss_bytes()),
        )

    def seats(self) -> list[Seat]:
        """What each layer has to say, for metrics.jsonl."""
        return [
            Seat(layer=k, state="training", incarnation=k, beat=self._batches, telemetry=seat.telemetry())
            for k, seat in enumerate(self._seats, 1)
        ]

    def _stop_free(self) -> None:
        """Layers that wait for nobody stop when they are told to."""
        for seat in self._seats:
            if isinstance(seat.trainer, FreeTrainer) and seat.trainer.next_batch >= self.config.run.batches:
                seat.trainer.stop()

    def _deliver(self, messages: Iterable[Message]) -> None:
        """Hand over what is said, and what is said to that, until there is silence."""
        said = deque(messages)
        while said:
            message = said.popleft()
            said.extend(self._seats[message.layer - 1].trainer.receive(message))
