"""Profile `synchronous`: every layer, M and I in one process, batch by batch; no cluster, no delay.

The workers are a slave's. A neighbour handles every message before the next batch begins, so L, L_M and
L_I are minimized together; unlock `none` amounts to plain back-propagation.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from common.config.sections import Config
from common.data.datasets import Dataset
from common.data.replicas import may_stop
from common.errors import NotFoundError
from common.lifecycle import cpu_seconds, peak_rss_bytes
from common.models import network
from common.shards import average
from common.shards.pushes import Buffer, Header, Operation
from common.wire.counters import Counters
from common.wire.messages import HeartbeatReply, JoinReply, Seat, StatusReply
from master.curriculum import Grading, announce
from slave.training import layers
from slave.training.worker import Effect, Passed, Scored, Send, Worker


class InStep:
    """Run in step.

    Args:
        config: of the run, resolved.
        dataset: trained on.
        pace: seconds counted for a batch; None: the measured seconds.

    Attributes:
        seconds: time spent in training.
    """

    def __init__(self, config: Config, dataset: Dataset, pace: float | None = None) -> None:
        self._pace = pace
        self.config = config
        self.seconds = 0.0
        self._batches = 0
        blueprint = network.build_initial(config, dataset.inputs, dataset.targets)
        self._grading = Grading(1) if config.curriculum else None
        leases = [JoinReply(layer=k) for k in range(1, config.layers + 1)]
        self._workers = [Worker(layers.build(config, blueprint, dataset, lease, None)) for lease in leases]
        self._flats = [worker.trained.layer.flat for worker in self._workers]
        averaged = self._flats if config.run.averages else []
        self._averages = [flat.parameters.numpy().copy() for flat in averaged]
        self._tell(HeartbeatReply(begin=True))

    def run(self) -> Iterator[int]:
        """Train to the end; yields the number of finished batches after every batch."""
        while not all(worker.trainer.through for worker in self._workers):
            began = time.perf_counter()
            for worker in self._workers:
                if worker.can_advance:
                    self._carry_out(worker.advance())
            self._move_averages()
            self.seconds += time.perf_counter() - began if self._pace is None else self._pace
            if self._batches < self.config.run.batches:
                self._batches += 1
                yield self._batches

    def pull(self, shard: str) -> tuple[Header, Buffer]:
        """Return a view of the present state of a layer's module, or of M, I or M in time.

        Of the average return a copy, in the place of the weights' parameters.

        Raises:
            NotFoundError: the layer has no such module.
        """
        k, _, kind = shard.partition("/")
        averaged = kind == average.AVERAGE and bool(self._averages)
        flat = self._workers[int(k) - 1].trained.flats.get(average.WEIGHTS if averaged else kind)
        if flat is None:
            raise NotFoundError(f"there is no shard {shard}")
        flat.gather()
        header = Header(shard, Operation.VALUE, self._batches, next_batch=self._batches, table=flat.table)
        buffer = flat.buffer.numpy()
        if averaged:
            parameters = self._averages[int(k) - 1].view(np.uint8)
            buffer = np.concatenate((parameters, buffer[parameters.size :]))
        return header, buffer.data

    def status(self) -> StatusReply:
        """Return the run's status, as a master reports a run; without slaves."""
        return StatusReply(
            name=self.config.run.name,
            state="training" if self._batches < self.config.run.batches else "done",
            batches=self._batches,
            of_batches=self.config.run.batches,
            training_seconds=self.seconds,
            counters=Counters(cpu_seconds=cpu_seconds(), peak_rss_bytes=peak_rss_bytes()),
            curriculum=announce(self._grading),
        )

    def seats(self) -> list[Seat]:
        """Return the telemetry of every layer, for metrics.jsonl."""
        return [
            Seat(
                layer=k,
                state="training",
                incarnation=k,
                beat=self._batches,
                telemetry=worker.trained.telemetry(),
            )
            for k, worker in enumerate(self._workers, 1)
        ]

    def _move_averages(self) -> None:
        """Count a further batch in the averages, as a master counts the batches of a push."""
        through, horizon = self._batches, self.config.run.average_horizon
        if self._averages and through < self.config.run.batches:
            part = average.share(through, through + 1, horizon)
            for each, flat in zip(self._averages, self._flats, strict=True):
                average.move(each, flat.parameters.numpy(), part, out=each)

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """Hand messages over, then the answers, until no message is left."""
        waiting = deque(effects)
        while waiting:
            match waiting.popleft():
                case Send(message):
                    waiting.extend(self._workers[message.layer - 1].handle(message))
                case Passed():
                    self._stop_free()
                case Scored():
                    self._grade()

    def _stop_free(self) -> None:
        """Stop all layers of unlock `full` once the slowest has passed the run's batches."""
        passed = [worker.trainer.next_batch for worker in self._workers]
        if may_stop(passed, self.config.run.batches):
            self._tell(HeartbeatReply(stop=True))

    def _grade(self) -> None:
        """Decide on the level of a later block, and tell all layers."""
        scores = self._workers[-1].trained.scores
        if self._grading is not None and scores is not None and self._grading.hear(0, scores.report()):
            self._tell(HeartbeatReply(curriculum=announce(self._grading)))

    def _tell(self, reply: HeartbeatReply) -> None:
        for worker in self._workers:
            self._carry_out(worker.handle(reply))
