"""What a cluster is measured against, in processes of its own: `python -m benchmarks.rivals WAY [OPTIONS]`.

Plain back-propagation, DistributedDataParallel and the schedules of `torch.distributed.pipelining` over gloo:
on this project's networks from its initial state, batches and evaluator, with torch's own fused optimizer.
Rank 0 says what came of it on standard output, as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from common.config import files
from common.config.optimizer import OptimizerConfig
from common.config.sections import Config
from common.data import datasets
from common.data.batches import Batches
from common.data.datasets import Dataset
from common.lifecycle import end_with_parent, keep_freed_memory
from common.models import network
from deploy.evaluation.evaluator import Evaluator

# Both pipelines and DistributedDataParallel are of two processes.
RANKS = 2
SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


@dataclass(frozen=True)
class Ground:
    """What every way trains, and on what.

    Attributes:
        config: resolved.
        dataset: what x_b and y_b are made of.
        batches: of the run.
        units: of the plain network; they are what is trained.
        shapes: of one example after each unit.
    """

    config: Config
    dataset: Dataset
    batches: Batches
    units: list[nn.Module]
    shapes: list[tuple[int, ...]]

    @staticmethod
    def prepare(settings: list[str]) -> Ground:
        """Load the data and build the network, cut where the costs of back-propagation balance."""
        config = files.load(None, [*settings, "decoupling.unlock=none"])
        dataset = datasets.load(config.data)
        shape, classes = dataset.input_shape, dataset.classes
        blueprint = network.build(config, shape, classes)
        config = network.cut(config, blueprint, shape, classes)
        batches = Batches(dataset, config.run.seed, config.run.batch_size)
        return Ground(config, dataset, batches, blueprint.units, blueprint.shapes)

    def evaluator(self) -> Callable[[dict[str, Tensor], int], float]:
        """Gives the test error in per cent of a plain state after so many batches."""
        fresh = network.build(self.config, self.dataset.input_shape, self.dataset.classes)
        measures = Evaluator(self.config, self.dataset, fresh)
        return lambda state, through: measures.measure_state(state, {}, through).test_error_percent


class Rival(ABC):
    """One process of a way."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._whole = nn.Sequential(*ground.units)

    @abstractmethod
    def step(self, batch: int) -> None:
        """Train on batch b."""

    def state(self) -> dict[str, Tensor]:
        """The plain network's, on rank 0; every rank has to ask."""
        return self._whole.state_dict()


class Plain(Rival):
    """Back-propagation in this process, `compiled` by `torch.compile` or not."""

    def __init__(self, ground: Ground, *, compiled: bool = False) -> None:
        super().__init__(ground)
        self._module: nn.Module = self._whole.train()
        self._optimizer = _optimizer(self._module, ground.config.optimizer)
        if compiled:
            self._module = cast(nn.Module, torch.compile(self._whole))

    def step(self, batch: int) -> None:
        """Train on batch b."""
        self._learn(self._ground.batches.inputs(batch), self._ground.batches.labels(batch))

    def _learn(self, x: Tensor, y: Tensor) -> None:
        cross_entropy(self._module(x), y).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()


class DataParallel(Plain):
    """DistributedDataParallel: rank r has the r-th part of every batch, and BN's statistics of that alone."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        # As fast as it can be had: no copy of the gradients beside its buckets, no buffers sent around.
        self._module = DistributedDataParallel(
            self._whole, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    def step(self, batch: int) -> None:
        """Train on batch b."""
        rank, batches = dist.get_rank(), self._ground.batches
        self._learn(batches.inputs(batch).chunk(RANKS)[rank], batches.labels(batch).chunk(RANKS)[rank])


class Pipeline(Rival):
    """A schedule of `torch.distributed.pipelining`: a stage a rank; BN's statistics are a microbatch's."""

    def __init__(self, ground: Ground, schedule: str, microbatches: int) -> None:
        super().__init__(ground)
        cuts = ground.config.network.cuts or []
        self._first = dist.get_rank() == 0
        start, stop = [(0, cuts[0]), (cuts[0], len(ground.units))][dist.get_rank()]
        self._stages = nn.Sequential(*ground.units[cuts[0] :])
        own = nn.Sequential(*ground.units[start:stop]).train()
        self._optimizer = _optimizer(own, ground.config.optimizer)
        size = ground.config.run.batch_size // microbatches
        shapes = [ground.dataset.input_shape, ground.shapes[cuts[0] - 1], ground.shapes[-1]]
        # Where the schedule has to find the shapes itself, it passes memory as it finds it through BN in
        # training: running statistics of 1e35.
        taken, given = (
            torch.empty(size, *shapes[place], device="meta", requires_grad=place > 0)
            for place in (dist.get_rank(), dist.get_rank() + 1)
        )
        here = torch.device("cpu")
        stage = PipelineStage(own, dist.get_rank(), RANKS, here, input_args=taken, output_args=given)
        self._schedule = SCHEDULES[schedule](stage, microbatches, loss_fn=cross_entropy)

    def step(self, batch: int) -> None:
        """Train on batch b."""
        if self._first:
            self._schedule.step(self._ground.batches.inputs(batch))
        else:
            self._schedule.step(target=self._ground.batches.labels(batch), return_outputs=False)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """The second stage's tensors come into rank 0's own copy of that stage."""
        for tensor in self._stages.state_dict().values():
            if self._first:
                dist.recv(tensor, 1)
            else:
                dist.send(tensor, 0)
        return super().state()


def _optimizer(module: nn.Module, settings: OptimizerConfig) -> torch.optim.Optimizer:
    assert settings.name == "adam"
    return torch.optim.Adam(module.parameters(), lr=settings.learning_rate, fused=True)


def throughput(rival: Rival, ground: Ground, warm: int, began: Path | None) -> dict[str, Any]:
    """Train through all of the run's batches; the clock begins after `warm` of them, and `began` is made."""
    batches = ground.config.run.batches
    for batch in range(warm):
        rival.step(batch)
    _meet()
    if began:
        began.touch()
    since = time.perf_counter()
    for batch in range(warm, batches):
        rival.step(batch)
    _meet()
    seconds = time.perf_counter() - since
    state = rival.state()
    samples = (batches - warm) * ground.config.run.batch_size
    error = ground.evaluator()(state, batches) if _rank() == 0 else 0.0
    return {"samples_per_second": round(samples / seconds, 1), "test_error_percent": error}


def curve(rival: Rival, ground: Ground, every: int, target: float) -> list[tuple[int, float]]:
    """Test error in per cent after every n batches, until it is `target` or the run is over."""
    errors: list[tuple[int, float]] = []
    measured = ground.evaluator() if _rank() == 0 else None
    for batch in range(ground.config.run.batches):
        rival.step(batch)
        if (batch + 1) % every:
            continue
        state = rival.state()
        if measured:
            errors.append((batch + 1, measured(state, batch + 1)))
        if _told(bool(errors) and errors[-1][1] <= target):
            break
    return errors


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _meet() -> None:
    if dist.is_initialized():
        dist.barrier()


def _told(over: bool) -> bool:
    """What rank 0 says, on every rank."""
    if not dist.is_initialized():
        return over
    said = torch.tensor([over])
    dist.broadcast(said, 0)
    return bool(said)


def _made(way: str, ground: Ground, microbatches: int, *, compiled: bool) -> Rival:
    if way == "bp":
        return Plain(ground, compiled=compiled)
    return DataParallel(ground) if way == "ddp" else Pipeline(ground, way, microbatches)


def serve(arguments: list[str]) -> None:
    """Be one process of a way, to the end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__)
    parser.add_argument("way", choices=("bp", "ddp", *SCHEDULES))
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--meet", type=Path, help="a file that both processes make themselves known in")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--microbatches", type=int, default=4, help="of a pipeline")
    parser.add_argument("--compile", action="store_true", help="of bp: by torch.compile")
    parser.add_argument("--warm", type=int, default=0, help="batches before the clock begins")
    parser.add_argument("--began", type=Path, help="a file that is made when the clock begins")
    parser.add_argument("--every", type=int, default=0, help="instead of a rate, a curve: evaluate every n")
    parser.add_argument("--target", type=float, default=0.0, help="test error in %% that ends a curve")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    if chosen.meet:
        where = f"file://{chosen.meet}"
        dist.init_process_group("gloo", init_method=where, rank=chosen.rank, world_size=RANKS)
    ground = Ground.prepare(chosen.settings)
    rival = _made(chosen.way, ground, chosen.microbatches, compiled=chosen.compile)
    found: dict[str, Any]
    if chosen.every:
        found = {"curve": curve(rival, ground, chosen.every, chosen.target)}
    else:
        found = throughput(rival, ground, chosen.warm, chosen.began)
    if chosen.rank == 0:
        print(json.dumps(found), flush=True)
    if chosen.meet:
        dist.barrier()
        # Torch's group, undone with the interpreter's lock held, may wait for a thread of its own that
        # waits for that lock.
        os._exit(0)


if __name__ == "__main__":
    end_with_parent()
    keep_freed_memory()
    with contextlib.suppress(KeyboardInterrupt):
        serve(sys.argv[1:])
